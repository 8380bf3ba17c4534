//! Rates from two looks at the counts.

use std::time::Duration;

use netdext_abi::Counter;

use netdext_host::stats::{Name, PortStats, QueueStats};

/// What happened in a second, between two looks at one driver's counts.
///
/// A counter that went down was begun anew in between, as a restarted driver's are: what it shows now is taken
/// as counted since then.
#[derive(Clone, Debug, PartialEq)]
pub struct Rates {
    /// Each queue, in the order of the later look.
    pub queues: Vec<QueueRates>,
    /// The sum of the queues.
    pub total: QueueRates,
    /// Frames per second by verdict of the XDP program, without those that are 0.
    pub verdicts: Vec<(&'static str, f64)>,
    /// Frames lost or refused per second by cause, without those that are 0.
    pub drops: Vec<(Name, f64)>,
}

/// The rates of one queue.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct QueueRates {
    /// Frames received per second.
    pub rx_pps: f64,
    /// Bits received per second, Ethernet headers included.
    pub rx_bps: f64,
    /// Frames submitted per second.
    pub tx_pps: f64,
    /// Bits submitted per second, Ethernet headers included.
    pub tx_bps: f64,
}

impl Rates {
    /// From `before` to `after`, which was taken `elapsed` later; `None` if no time went by.
    pub fn between(before: &PortStats, after: &PortStats, elapsed: Duration) -> Option<Self> {
        if elapsed.is_zero() {
            return None;
        }
        let per_second = |count: u64| count as f64 / elapsed.as_secs_f64();
        let queues: Vec<_> = after
            .queues
            .iter()
            .map(|queue| {
                let fresh = QueueStats::default();
                let earlier = before.queues.iter().find(|earlier| earlier.id == queue.id).unwrap_or(&fresh);
                QueueRates {
                    rx_pps: per_second(counted(earlier.rx_packets, queue.rx_packets)),
                    rx_bps: 8.0 * per_second(counted(earlier.rx_bytes, queue.rx_bytes)),
                    tx_pps: per_second(counted(earlier.tx_packets, queue.tx_packets)),
                    tx_bps: 8.0 * per_second(counted(earlier.tx_bytes, queue.tx_bytes)),
                }
            })
            .collect();
        let verdicts = Counter::ALL.into_iter().map(|counter| {
            (counter.name(), counted(before.verdicts.get(counter), after.verdicts.get(counter)))
        });
        let drops = after.drops.iter().map(|(name, count)| {
            (name.clone(), counted(before.drops.get(name).copied().unwrap_or(0), *count))
        });
        Some(Self {
            total: queues.iter().fold(QueueRates::default(), QueueRates::plus),
            queues,
            verdicts: not_zero(verdicts).map(|(name, count)| (name, per_second(count))).collect(),
            drops: not_zero(drops).map(|(name, count)| (name, per_second(count))).collect(),
        })
    }
}

impl QueueRates {
    fn plus(self, other: &Self) -> Self {
        Self {
            rx_pps: self.rx_pps + other.rx_pps,
            rx_bps: self.rx_bps + other.rx_bps,
            tx_pps: self.tx_pps + other.tx_pps,
            tx_bps: self.tx_bps + other.tx_bps,
        }
    }
}

fn counted(before: u64, after: u64) -> u64 {
    after.checked_sub(before).unwrap_or(after)
}

/// The counts that are not 0.
pub(super) fn not_zero<T>(counts: impl Iterator<Item = (T, u64)>) -> impl Iterator<Item = (T, u64)> {
    counts.filter(|(_, count)| *count > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::testing::{stats, with_verdict};

    #[test]
    fn rates_are_differences_over_the_time_between() {
        let mut before = stats();
        before.queues[0] =
            QueueStats { rx_packets: 100, rx_bytes: 6400, tx_packets: 50, ..before.queues[0].clone() };
        let mut after = before.clone();
        after.queues[0].rx_packets += 500;
        after.queues[0].rx_bytes += 500 * 64;
        after.queues[1].tx_packets += 10;
        after.queues[1].tx_bytes += 10 * 1000;
        *after.drops.get_mut("pool_empty").unwrap() += 4;
        let after = with_verdict(&after, Counter::DriverEcho4Request, 1000);
        let rates = Rates::between(&before, &after, Duration::from_secs(2)).unwrap();
        assert_eq!(rates.queues[0], QueueRates { rx_pps: 250.0, rx_bps: 128_000.0, ..QueueRates::default() });
        assert_eq!(rates.total.tx_pps, 5.0);
        assert_eq!(rates.total.tx_bps, 40_000.0);
        assert_eq!(rates.total.rx_pps, 250.0);
        assert_eq!(rates.drops, [("pool_empty".into(), 2.0)]);
        assert_eq!(rates.verdicts, [("driver_echo4_request", f64::from(1000 - 26) / 2.0)]);
    }

    #[test]
    fn without_time_there_is_no_rate() {
        assert_eq!(Rates::between(&stats(), &stats(), Duration::ZERO), None);
    }

    #[test]
    fn a_driver_that_began_anew_has_no_negative_rates() {
        let mut before = stats();
        before.queues[0].rx_packets = 1_000_000;
        let mut after = stats();
        after.queues[0].rx_packets = 30;
        let rates = Rates::between(&before, &after, Duration::from_secs(1)).unwrap();
        assert_eq!(rates.queues[0].rx_pps, 30.0);
    }

    #[test]
    fn a_queue_that_was_not_there_before_counts_from_zero() {
        let mut before = stats();
        before.queues.pop();
        let mut after = stats();
        after.queues[1].rx_packets = 12;
        let rates = Rates::between(&before, &after, Duration::from_secs(1)).unwrap();
        assert_eq!(rates.queues[1].rx_pps, 12.0);
    }
}
