//! What a driver is: the callbacks, what they may use, and in which order they come.
//!
//! ```text
//!  init -> start -> set_power_state(On) -> set_interface_enable(true)
//!                                            |  rx_packets, tx_packet_available, timer
//!          stop  <- set_power_state(Off) <- set_interface_enable(false)
//! ```
//!
//! The legal order is the table in [`lifecycle`]; the worker keeps to it, so a driver never sees, say, a
//! packet before it was started.

mod factory;
pub mod lifecycle;

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

pub use self::factory::{DriverFactory, Requirements};
use crate::dispatch::{Fired, Served, Timers, Timestamp, Waker};
use crate::metrics::Metrics;
use crate::packet::{PacketBatch, PacketPool};
use crate::proto::Local;
use crate::queue::TxSubmissionQueue;

/// The interface that a driver is started on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// Name of the interface.
    pub name: String,
    /// Its Ethernet address, which is also the driver's.
    pub mac: [u8; 6],
    /// The largest payload of an Ethernet frame, in bytes.
    pub mtu: usize,
    /// The hardware queue that this instance of the driver serves.
    pub queue: u32,
    /// How many queues of the interface are served, by as many instances.
    pub queues: u32,
    /// Addresses that the driver owns, each with the length of its prefix.
    pub addresses: Vec<(IpAddr, u8)>,
    /// Addresses of the other end of a veth pair, likewise; none where there is no such end in this network namespace.
    pub peer_addresses: Vec<(IpAddr, u8)>,
}

/// A power state, as `SetPowerState` has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PowerState {
    /// Working.
    On,
    /// In a safe state: no timers, rings drained.
    Off,
}

/// A driver cannot go on.
#[derive(Debug, thiserror::Error)]
#[error("driver {driver}: {operation} failed: {reason}")]
pub struct DriverError {
    /// Name of the driver.
    pub driver: &'static str,
    /// The callback that failed.
    pub operation: &'static str,
    /// What is wrong, and what to do about it.
    pub reason: String,
}

/// A command is not carried out; the driver goes on as before.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ControlError {
    /// The driver has no command of that name.
    #[error("the driver {driver} has no command {name}: its documentation lists its commands")]
    Unknown {
        /// Name of the driver.
        driver: &'static str,
        /// The name given.
        name: String,
    },
    /// The value is not what the command takes.
    #[error("{name}: {reason}")]
    BadValue {
        /// The command.
        name: String,
        /// What is wrong with it, and what would be right.
        reason: String,
    },
    /// It does not fit the present state, or cannot be done.
    #[error("driver {driver}: {name}: {reason}")]
    Refused {
        /// Name of the driver.
        driver: &'static str,
        /// The command.
        name: String,
        /// Why.
        reason: String,
    },
}

impl ControlError {
    /// Reads the value of a command.
    ///
    /// # Errors
    ///
    /// [`ControlError::BadValue`], with the place in the value.
    pub fn read<T: serde::de::DeserializeOwned>(
        name: &str,
        value: &serde_json::Value,
    ) -> Result<T, ControlError> {
        T::deserialize(value)
            .map_err(|error| ControlError::BadValue { name: name.to_owned(), reason: error.to_string() })
    }

    /// Checks the value of a command that takes none: null, or an object without fields.
    ///
    /// # Errors
    ///
    /// [`ControlError::BadValue`].
    pub fn read_nothing(name: &str, value: &serde_json::Value) -> Result<(), ControlError> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Nothing {}
        Self::read::<Option<Nothing>>(name, value).map(drop)
    }
}

/// Which of its ports a driver is called for, or sends to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortId(u16);

impl PortId {
    /// The first port, and the only one of most drivers.
    pub const FIRST: Self = Self(0);

    /// The port of that place among those of the driver, from 0.
    ///
    /// # Panics
    ///
    /// If `index` does not fit 16 bits.
    pub fn new(index: usize) -> Self {
        Self(u16::try_from(index).expect("a worker has fewer ports than 65,536"))
    }

    /// Its place among the ports of the driver, from 0.
    pub fn index(self) -> usize {
        self.0.into()
    }
}

/// What a driver may use during a callback.
pub struct Cx<'a> {
    /// The frames, which all ports share.
    pub pool: &'a PacketPool,
    /// The timers of this worker.
    pub timers: &'a mut Timers,
    /// The time at the start of this step of the worker.
    pub now: Timestamp,
    ports: &'a mut [Served],
    waker: &'a Waker,
}

impl<'a> Cx<'a> {
    pub(crate) fn new(
        pool: &'a PacketPool,
        ports: &'a mut [Served],
        timers: &'a mut Timers,
        waker: &'a Waker,
        now: Timestamp,
    ) -> Self {
        Self { pool, timers, now, ports, waker }
    }

    /// Frames that leave by this port: staged here, published after the callback.
    ///
    /// # Panics
    ///
    /// If the driver has no such port.
    pub fn tx(&mut self, port: PortId) -> &mut TxSubmissionQueue {
        self.ports[port.index()].tx()
    }

    /// The interface of this port.
    ///
    /// # Panics
    ///
    /// If the driver has no such port.
    pub fn device(&self, port: PortId) -> &DeviceInfo {
        &self.ports[port.index()].device
    }

    /// The addresses of this port, as the functions of [`proto`](crate::proto) take them.
    ///
    /// # Panics
    ///
    /// If the driver has no such port.
    pub fn local(&self, port: PortId) -> &Local {
        &self.ports[port.index()].local
    }

    /// Every port of the driver.
    pub fn ports(&self) -> impl Iterator<Item = PortId> + use<> {
        (0..self.ports.len()).map(PortId::new)
    }

    /// Whether the driver was told that the interface of this port is enabled, and has returned from that: during
    /// [`set_interface_enable`](Driver::set_interface_enable) it is what was before.
    ///
    /// # Panics
    ///
    /// If the driver has no such port.
    pub fn is_enabled(&self, port: PortId) -> bool {
        self.ports[port.index()].told
    }

    /// What wakes this worker from another thread.
    pub fn waker(&self) -> Waker {
        self.waker.clone()
    }
}

/// A network driver. Every callback of one instance runs on one thread, one at a time.
///
/// Seen from a driver that stands in for an adapter: [`rx_packets`](Self::rx_packets) brings what the
/// system's stack sends, and what it submits to [`Cx::tx`] arrives in the stack. A driver of several ports, such as a bridge, is called for each.
pub trait Driver {
    /// The name that `--driver` takes.
    fn name(&self) -> &'static str;

    /// Allocates what the instance needs. Called once, before everything else; there are no queues yet, and
    /// no I/O may happen. The argument has the interfaces of its ports in their order; there is at least one.
    ///
    /// # Errors
    ///
    /// The driver is not started, and no other callback follows.
    fn init(&mut self, _devices: &[DeviceInfo]) -> Result<(), DriverError> {
        Ok(())
    }

    /// The queues exist, and none is running: creates timers, resets the device. Called once, after
    /// `init`. On return no timer may be armed.
    ///
    /// # Errors
    ///
    /// The driver is not started; `stop` follows.
    fn start(&mut self, _cx: &mut Cx<'_>) -> Result<(), DriverError> {
        Ok(())
    }

    /// The power state changes: called with `On` after `start`, and then whenever it changes. The interface
    /// is disabled when this is called.
    ///
    /// # Errors
    ///
    /// The driver fails; `stop` follows.
    fn set_power_state(&mut self, _cx: &mut Cx<'_>, _state: PowerState) -> Result<(), DriverError> {
        Ok(())
    }

    /// The interface of a port is enabled or disabled. Timers start and stop here. After `false` for the last port that
    /// was enabled returns no timer may be armed, and no packet may be kept that is to be sent later.
    ///
    /// # Errors
    ///
    /// The driver fails; `stop` follows.
    fn set_interface_enable(
        &mut self,
        _cx: &mut Cx<'_>,
        _port: PortId,
        _enable: bool,
    ) -> Result<(), DriverError> {
        Ok(())
    }

    /// Packets that a port received, in the order of arrival. Only called while its interface is enabled. What is
    /// left in `batch` on return is dropped, that is, given back to the pool.
    fn rx_packets(&mut self, cx: &mut Cx<'_>, port: PortId, batch: &mut PacketBatch);

    /// The tx ring of a port has room again after it was full. Only called while its interface is enabled.
    fn tx_packet_available(&mut self, _cx: &mut Cx<'_>, _port: PortId) {}

    /// A timer fired. Only called while an interface is enabled; once per tick, also for ticks that are
    /// late.
    fn timer(&mut self, _cx: &mut Cx<'_>, _fired: Fired) {}

    /// Somebody [woke](Waker::wake) the worker. Only called while an interface is enabled: a wake before that is kept.
    fn woken(&mut self, _cx: &mut Cx<'_>) {}

    /// A command from outside, such as `netdext tell DRIVER NAME VALUE`: applied between batches. Called between `start`
    /// and `stop`, also while the interface is disabled. Every instance of the driver is told; the answer is what those
    /// return that have one. A value that is not of use is refused, and nothing is changed then.
    ///
    /// # Errors
    ///
    /// [`ControlError`]; the driver goes on.
    fn control(
        &mut self,
        _cx: &mut Cx<'_>,
        name: &str,
        _value: &serde_json::Value,
    ) -> Result<Option<serde_json::Value>, ControlError> {
        Err(ControlError::Unknown { driver: self.name(), name: name.to_owned() })
    }

    /// What still waits for an answer from outside. While it is not 0, switching off waits a moment, with the timers
    /// stopped. May be called at any time after `init`.
    fn pending(&self) -> u64 {
        0
    }

    /// The end: every packet the driver keeps must be dropped before this returns. Called once, after
    /// `start` was called, also when that failed. No callback follows.
    fn stop(&mut self, _cx: &mut Cx<'_>) {}

    /// Counts for `netdext stats` and the summary. May be called at any time after `init`.
    fn stats(&self) -> DriverStats;
}

/// Which received packets have a timestamp of the XDP program. Reading the clock is the larger part of what the program
/// costs a frame, so it is read only where somebody measures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum RxTimestamps {
    /// Those that the latency of the stages is measured by: one in 16 for each reason to redirect a frame.
    #[default]
    Some,
    /// All echo replies as well, and, because they can be some, all packets that a steering rule brings.
    EchoReplies,
    /// Every one.
    All,
}

/// What a driver counted.
///
/// Each frame that [`Driver::rx_packets`] was given counts in exactly one of `counters` and `drops`.
#[derive(Clone, Debug, Default)]
pub struct DriverStats {
    /// Received frames by what was done with them, named; the names are those of the JSON output.
    pub counters: Vec<(&'static str, u64)>,
    /// Received frames that were refused, or whose answer could not be sent, by cause, named likewise.
    pub drops: Vec<(&'static str, u64)>,
    /// What happened besides received frames, named likewise.
    pub events: Vec<(&'static str, u64)>,
    /// What else it measures.
    pub metrics: Metrics,
    /// Further metrics that belong together, under the name of the whole: they are an object of that name in the JSON
    /// output.
    pub groups: Vec<(&'static str, Metrics)>,
}

impl DriverStats {
    /// The group of that name.
    pub fn group(&self, name: &str) -> Option<&Metrics> {
        self.groups.iter().find(|(known, _)| *known == name).map(|(_, metrics)| metrics)
    }

    /// Adds the counts of another instance of the same driver.
    pub fn merge(&mut self, other: &Self) {
        merge_named(&mut self.counters, &other.counters);
        merge_named(&mut self.drops, &other.drops);
        merge_named(&mut self.events, &other.events);
        self.metrics.merge(&other.metrics);
        for (name, metrics) in &other.groups {
            match self.groups.iter_mut().find(|(known, _)| known == name) {
                Some((_, mine)) => mine.merge(metrics),
                None => self.groups.push((name, metrics.clone())),
            }
        }
    }
}

/// Adds named counts to named counts.
fn merge_named(into: &mut Vec<(&'static str, u64)>, from: &[(&'static str, u64)]) {
    for &(name, count) in from {
        match into.iter_mut().find(|(known, _)| *known == name) {
            Some((_, sum)) => *sum += count,
            None => into.push((name, count)),
        }
    }
}
