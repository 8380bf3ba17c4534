//! What makes the instances of a driver, and what they need of the ports that they are given.

use std::fmt;
use std::future::Future;
use std::ops::RangeInclusive;
use std::pin::Pin;
use std::sync::Arc;

use super::{Driver, RxTimestamps};

type Build = dyn Fn(u32) -> Box<dyn Driver> + Send + Sync;
type Finished = dyn Fn() -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync;

/// Makes the instances of a driver for one run: one for each queue, each on the thread that it will run on. A clone
/// makes instances of the same run.
///
/// ```
/// # use netdext::driver::{Driver, DriverFactory, Requirements};
/// fn factory(build: impl Fn() -> Box<dyn Driver> + Send + Sync + 'static) -> DriverFactory {
///     DriverFactory::new("udp-echo", move |_queue| build())
///         .requiring(Requirements::default().steering(["driver:proto=udp,dport=7"]))
/// }
/// ```
#[derive(Clone)]
pub struct DriverFactory {
    name: &'static str,
    requirements: Requirements,
    build: Arc<Build>,
    finished: Option<Arc<Finished>>,
}

impl DriverFactory {
    /// Makes drivers of this name by `build`, which is called with the number of the queue. They need nothing special.
    pub fn new(name: &'static str, build: impl Fn(u32) -> Box<dyn Driver> + Send + Sync + 'static) -> Self {
        Self { name, requirements: Requirements::default(), build: Arc::new(build), finished: None }
    }

    /// The same for drivers that need this.
    #[must_use]
    pub fn requiring(self, requirements: Requirements) -> Self {
        Self { requirements, ..self }
    }

    /// The same for drivers that have done all that they were to do when the future is ready: `netdext run` ends then.
    /// Each call makes a future of its own.
    #[must_use]
    pub fn finishing<F>(self, finished: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self { finished: Some(Arc::new(move || Box::pin(finished()))), ..self }
    }

    /// The name that `--driver` takes.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// What the drivers need.
    pub fn requirements(&self) -> &Requirements {
        &self.requirements
    }

    /// The instance for one queue.
    pub fn build(&self, queue: u32) -> Box<dyn Driver> {
        (self.build)(queue)
    }

    /// Waits until the drivers have done all that they were to do; for ever, where they go on for ever.
    pub async fn finished(&self) {
        match &self.finished {
            Some(finished) => finished().await,
            None => std::future::pending().await,
        }
    }
}

impl fmt::Debug for DriverFactory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, requirements, build: _, finished: _ } = self;
        f.debug_struct("DriverFactory")
            .field("name", name)
            .field("requirements", requirements)
            .finish_non_exhaustive()
    }
}

/// What a driver needs. It is checked before anything is attached; what can't be had is an error that says so.
///
/// ```
/// use netdext::driver::Requirements;
///
/// let tunnel = Requirements::default().max_queues(1).headroom(50);
/// assert_eq!((tunnel.max_queues, tunnel.headroom), (Some(1), 50));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Requirements {
    /// How many ports: 1 to 1.
    pub ports: RangeInclusive<usize>,
    /// How many queues of each at the most; any number.
    pub max_queues: Option<u32>,
    /// Bytes in front of the data of a packet, which [`Packet::prepend`](crate::packet::Packet::prepend) can take: 0.
    pub headroom: usize,
    /// Bytes that a frame of the pool has at least, with its headroom: 0, which leaves it to the MTU.
    pub frame_size: usize,
    /// Steering rules in the words of `--steer`: none. Those without a priority are tried after all of the user's.
    pub steering: Vec<String>,
    /// Whether addresses mean something to it: true. Otherwise it has none but those that the user gives.
    pub addresses: bool,
    /// Which received packets have to have a timestamp
    /// ([`Packet::rx_timestamp_ns`](crate::packet::Packet::rx_timestamp_ns)): [`RxTimestamps::Some`].
    pub rx_timestamps: RxTimestamps,
}

impl Default for Requirements {
    fn default() -> Self {
        Self {
            ports: 1..=1,
            max_queues: None,
            headroom: 0,
            frame_size: 0,
            steering: Vec::new(),
            addresses: true,
            rx_timestamps: RxTimestamps::Some,
        }
    }
}

impl Requirements {
    /// With so many [`ports`](Self::ports).
    #[must_use]
    pub fn ports(self, ports: RangeInclusive<usize>) -> Self {
        Self { ports, ..self }
    }

    /// With so many queues at the most: [`max_queues`](Self::max_queues).
    #[must_use]
    pub fn max_queues(self, queues: u32) -> Self {
        Self { max_queues: Some(queues), ..self }
    }

    /// With so many bytes of [`headroom`](Self::headroom).
    #[must_use]
    pub fn headroom(self, bytes: usize) -> Self {
        Self { headroom: bytes, ..self }
    }

    /// With frames of so many bytes at least: [`frame_size`](Self::frame_size).
    #[must_use]
    pub fn frame_size(self, bytes: usize) -> Self {
        Self { frame_size: bytes, ..self }
    }

    /// With these [`steering`](Self::steering) rules.
    #[must_use]
    pub fn steering<R: Into<String>>(self, rules: impl IntoIterator<Item = R>) -> Self {
        Self { steering: rules.into_iter().map(Into::into).collect(), ..self }
    }

    /// With addresses, or without: [`addresses`](Self::addresses).
    #[must_use]
    pub fn addresses(self, addresses: bool) -> Self {
        Self { addresses, ..self }
    }

    /// With these timestamps: [`rx_timestamps`](Self::rx_timestamps).
    #[must_use]
    pub fn rx_timestamps(self, rx_timestamps: RxTimestamps) -> Self {
        Self { rx_timestamps, ..self }
    }
}
