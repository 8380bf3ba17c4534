use std::net::IpAddr;
use std::time::Duration;

use crate::pending::MAX_PENDING;
use netdext::proto::MacAddr;
use netdext::proto::probe::Stamp;

/// Where a packet for the target goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextHop {
    /// The target itself, or the gateway to it.
    pub address: IpAddr,
    /// What is known of its MAC address.
    pub mac: KnownMac,
}

/// What is known of a MAC address before anybody was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KnownMac {
    /// Nothing: it is asked for by ARP or neighbour discovery.
    Unknown,
    /// Believed and used at once, and confirmed by asking.
    Heard(MacAddr),
    /// Set by hand: used, never asked for.
    Fixed(MacAddr),
}

/// Whom to send echo requests to, and how.
#[derive(Clone, Debug)]
pub struct PingConfig {
    /// Who is to answer.
    pub target: IpAddr,
    /// Our address: one that the driver owns.
    pub source: IpAddr,
    /// The way there.
    pub next_hop: NextHop,
    /// How many requests to send; `None` goes on for ever.
    pub count: Option<u64>,
    /// From request to request.
    pub interval: Duration,
    /// How long to wait for a reply.
    pub timeout: Duration,
    /// Bytes of ICMP payload, at least 24.
    pub payload_len: usize,
}

/// A configuration that cannot work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PingConfigError {
    /// No request would leave.
    #[error("a count of 0 sends nothing; give 1 or more")]
    ZeroCount,
    /// The timer would never stop firing.
    #[error("the interval is 0; give 10us or more")]
    ZeroInterval,
    /// Every request would be lost.
    #[error("the timeout is 0; give for example 1s")]
    ZeroTimeout,
    /// The send time and the number of a request have no room.
    #[error("a payload of {0} bytes is too short for number and time; it takes {min} or more", min = Stamp::LEN)]
    ShortPayload(usize),
    /// Target, source and gateway must be of one family.
    #[error("{target} cannot be reached from {source_ip} by way of {next_hop}: IPv4 and IPv6 do not mix")]
    MixedFamilies {
        /// The target.
        target: IpAddr,
        /// The address of ours.
        source_ip: IpAddr,
        /// The first station on the way.
        next_hop: IpAddr,
    },
    /// The table of waiting requests is bounded.
    #[error(
        "a request every {interval:?}, each waiting up to {timeout:?}, makes {waiting} waiting at the same time; \
         {MAX_PENDING} is the limit: raise the interval or lower the timeout"
    )]
    TooManyWaiting {
        /// From request to request.
        interval: Duration,
        /// The wait for each reply.
        timeout: Duration,
        /// Requests that would wait at the same time.
        waiting: u64,
    },
}

impl PingConfig {
    /// How many requests wait for a reply at the same time, if none is answered.
    pub(super) fn waiting(&self) -> Result<u64, PingConfigError> {
        let Self { target, source, next_hop, count, interval, timeout, payload_len } = *self;
        if count == Some(0) {
            return Err(PingConfigError::ZeroCount);
        }
        if interval.is_zero() {
            return Err(PingConfigError::ZeroInterval);
        }
        if timeout.is_zero() {
            return Err(PingConfigError::ZeroTimeout);
        }
        if payload_len < Stamp::LEN {
            return Err(PingConfigError::ShortPayload(payload_len));
        }
        let family = target.is_ipv4();
        if source.is_ipv4() != family || next_hop.address.is_ipv4() != family {
            let next_hop = next_hop.address;
            return Err(PingConfigError::MixedFamilies { target, source_ip: source, next_hop });
        }
        // The ticks within one timeout, and the one that comes before the first of them expires.
        let ticks = timeout.as_nanos() / interval.as_nanos() + 2;
        let waiting = u64::try_from(ticks).unwrap_or(u64::MAX).min(count.unwrap_or(u64::MAX));
        if waiting > MAX_PENDING {
            return Err(PingConfigError::TooManyWaiting { interval, timeout, waiting });
        }
        Ok(waiting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(change: impl FnOnce(&mut PingConfig)) -> Result<u64, PingConfigError> {
        let target = "198.18.0.2".parse().unwrap();
        let mut config = PingConfig {
            target,
            source: "198.18.0.1".parse().unwrap(),
            next_hop: NextHop { address: target, mac: KnownMac::Unknown },
            count: None,
            interval: Duration::from_millis(1),
            timeout: Duration::from_secs(1),
            payload_len: 56,
        };
        change(&mut config);
        config.waiting()
    }

    #[test]
    fn as_many_wait_as_are_sent_within_a_timeout() {
        assert_eq!(waiting(|_| {}), Ok(1002));
        assert_eq!(waiting(|c| c.count = Some(5)), Ok(5));
        assert_eq!(waiting(|c| c.interval = Duration::from_micros(10)), Ok(100_002));
    }

    #[test]
    fn what_cannot_work_is_refused_with_what_to_do() {
        assert_eq!(waiting(|c| c.count = Some(0)), Err(PingConfigError::ZeroCount));
        assert_eq!(waiting(|c| c.interval = Duration::ZERO), Err(PingConfigError::ZeroInterval));
        assert_eq!(waiting(|c| c.timeout = Duration::ZERO), Err(PingConfigError::ZeroTimeout));
        assert_eq!(waiting(|c| c.payload_len = 23), Err(PingConfigError::ShortPayload(23)));
        let mixed = waiting(|c| c.source = "2001:2::1".parse().unwrap()).unwrap_err().to_string();
        assert!(mixed.contains("from 2001:2::1 by way of 198.18.0.2"), "{mixed}");
        let many = waiting(|c| c.timeout = Duration::from_secs(3600)).unwrap_err().to_string();
        assert!(many.contains("raise the interval or lower the timeout"), "{many}");
    }
}
