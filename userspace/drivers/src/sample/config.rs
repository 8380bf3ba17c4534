use std::net::IpAddr;
use std::time::Duration;

use super::targets::MAX_TARGETS;
use crate::pending::MAX_PENDING;
use netdext::proto::probe::Stamp;

/// The longest payload of an IPv4 datagram with an echo request.
const MAX_PAYLOAD: usize = u16::MAX as usize - 28;

/// What the sample driver does.
#[derive(Clone, Debug)]
pub struct SampleConfig {
    /// Whether ARP, neighbour discovery and echo requests for our addresses are answered.
    pub answer: bool,
    /// The injector of echo requests; `None` for none.
    pub injector: Option<InjectorConfig>,
}

impl Default for SampleConfig {
    fn default() -> Self {
        Self { answer: true, injector: Some(InjectorConfig::default()) }
    }
}

/// What the timer injects. The defaults of the times and the batch are those of the driver that this one is
/// modelled on.
#[derive(Clone, Debug)]
pub struct InjectorConfig {
    /// From enabling the interface to the first tick.
    pub first: Duration,
    /// From tick to tick.
    pub interval: Duration,
    /// Requests a tick, spread over the targets in turn.
    pub batch: usize,
    /// Whom to send requests to, each on a network of ours; one named twice counts once. If empty, the other end of a
    /// veth pair that has an address on such a network; where there is none, the first neighbour on one that speaks to
    /// us becomes the target, and when it leaves 16 requests in a row unanswered, the next other one that does.
    pub targets: Vec<IpAddr>,
    /// Bytes of payload; at least 24.
    pub payload_len: usize,
    /// How long to wait for a reply before a request counts as lost.
    pub reply_timeout: Duration,
}

impl Default for InjectorConfig {
    fn default() -> Self {
        Self {
            first: Duration::from_secs(1),
            interval: Duration::from_secs(5),
            batch: 8,
            targets: Vec::new(),
            payload_len: 56,
            reply_timeout: Duration::from_secs(1),
        }
    }
}

/// A configuration that cannot work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SampleConfigError {
    /// A tick would send nothing.
    #[error("the injector's batch is 0; give 1 or more, or switch the injector off")]
    EmptyBatch,
    /// The timer would never stop firing.
    #[error("the injector's interval is 0; give 10us or more, or switch the injector off")]
    ZeroInterval,
    /// Every request would be lost.
    #[error("the injector's reply timeout is 0; give for example 1s")]
    ZeroTimeout,
    /// The send time and the number of a request have no room.
    #[error("the injector's payload of {0} bytes is too short; it takes {min} or more", min = Stamp::LEN)]
    ShortPayload(usize),
    /// The table of targets is bounded.
    #[error("the injector's {0} targets are too many; it takes {MAX_TARGETS} or fewer")]
    TooManyTargets(usize),
    /// No frame holds it, and the length of a payload is kept in 16 bits.
    #[error("the injector's payload of {0} bytes fits no datagram; {max} is the limit", max = MAX_PAYLOAD)]
    LongPayload(usize),
    /// The table of waiting requests is bounded.
    #[error(
        "{batch} requests every {interval:?}, each waiting up to {reply_timeout:?}, make {waiting} waiting at the \
         same time; {MAX_PENDING} is the limit: raise the interval, or lower the batch or the timeout"
    )]
    TooManyWaiting {
        /// Requests a tick.
        batch: usize,
        /// From tick to tick.
        interval: Duration,
        /// The wait for each reply.
        reply_timeout: Duration,
        /// Requests that would wait at the same time.
        waiting: u64,
    },
}

impl InjectorConfig {
    /// How many requests wait for a reply at the same time, if none is answered.
    ///
    /// # Errors
    ///
    /// [`SampleConfigError`] when the configuration cannot work.
    pub(super) fn waiting(&self) -> Result<u64, SampleConfigError> {
        let Self { first: _, interval, batch, ref targets, payload_len, reply_timeout } = *self;
        if batch == 0 {
            return Err(SampleConfigError::EmptyBatch);
        }
        if interval.is_zero() {
            return Err(SampleConfigError::ZeroInterval);
        }
        if reply_timeout.is_zero() {
            return Err(SampleConfigError::ZeroTimeout);
        }
        if payload_len < Stamp::LEN {
            return Err(SampleConfigError::ShortPayload(payload_len));
        }
        if payload_len > MAX_PAYLOAD {
            return Err(SampleConfigError::LongPayload(payload_len));
        }
        if targets.len() > MAX_TARGETS {
            return Err(SampleConfigError::TooManyTargets(targets.len()));
        }
        // The ticks within one timeout, and the one that comes before the first of them expires.
        let ticks = reply_timeout.as_nanos() / interval.as_nanos() + 2;
        let waiting = u64::try_from(ticks).unwrap_or(u64::MAX).saturating_mul(batch as u64);
        if waiting > MAX_PENDING {
            return Err(SampleConfigError::TooManyWaiting { batch, interval, reply_timeout, waiting });
        }
        Ok(waiting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(change: impl FnOnce(&mut InjectorConfig)) -> Result<u64, SampleConfigError> {
        let mut config = InjectorConfig::default();
        change(&mut config);
        config.waiting()
    }

    #[test]
    fn the_defaults_and_the_shortest_interval_fit() {
        assert_eq!(waiting(|_| {}), Ok(16));
        assert_eq!(waiting(|c| c.interval = Duration::from_micros(10)), Ok(8 * 100_002));
    }

    #[test]
    fn what_cannot_work_is_refused_with_what_to_do() {
        assert_eq!(waiting(|c| c.batch = 0), Err(SampleConfigError::EmptyBatch));
        assert_eq!(waiting(|c| c.interval = Duration::ZERO), Err(SampleConfigError::ZeroInterval));
        assert_eq!(waiting(|c| c.reply_timeout = Duration::ZERO), Err(SampleConfigError::ZeroTimeout));
        assert_eq!(waiting(|c| c.payload_len = 23), Err(SampleConfigError::ShortPayload(23)));
        assert_eq!(waiting(|c| c.payload_len = 65_508), Err(SampleConfigError::LongPayload(65_508)));
        let many = vec![IpAddr::from([198, 18, 0, 2]); MAX_TARGETS + 1];
        assert_eq!(waiting(|c| c.targets = many), Err(SampleConfigError::TooManyTargets(65_537)));
        let error = waiting(|c| (c.interval, c.batch) = (Duration::from_micros(10), 64)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "64 requests every 10µs, each waiting up to 1s, make 6400128 waiting at the same time; 1048576 is the \
             limit: raise the interval, or lower the batch or the timeout"
        );
        assert!(waiting(|c| c.reply_timeout = Duration::MAX).is_err(), "no overflow");
    }
}
