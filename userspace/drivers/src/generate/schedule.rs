//! When each frame is due: an absolute schedule, so that a late frame does not shift the ones after it.

use std::time::Duration;

use netdext::dispatch::Timestamp;

/// How far behind the schedule may be and still be caught up with. What is further behind is skipped: a generator
/// that was stopped for a minute must not flood the link afterwards.
pub const MAX_BEHIND: Duration = Duration::from_millis(100);

/// The departures of one queue.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    start: Timestamp,
    /// From one departure to the next, in ns; a fraction, so that no rate drifts.
    interval_ns: f64,
    next: u64,
}

impl Schedule {
    /// Departures at `start` and then `rate` times a second.
    pub fn new(start: Timestamp, rate: f64) -> Self {
        Self { start, interval_ns: 1e9 / rate, next: 0 }
    }

    /// When the next departure is due.
    pub fn next_due(&self) -> Timestamp {
        self.due(self.next)
    }

    /// Takes the next departure, if it is due at `now`.
    pub fn pop_due(&mut self, now: Timestamp) -> Option<Timestamp> {
        let due = self.next_due();
        (due <= now).then(|| {
            self.next += 1;
            due
        })
    }

    /// Skips what is more than [`MAX_BEHIND`] in the past, and says how many departures that were.
    pub fn skip_missed(&mut self, now: Timestamp) -> u64 {
        let behind = now.since(self.next_due());
        let Some(missed) = behind.checked_sub(MAX_BEHIND) else { return 0 };
        let skipped = (missed.as_nanos() as f64 / self.interval_ns) as u64;
        self.next += skipped;
        skipped
    }

    fn due(&self, index: u64) -> Timestamp {
        self.start + Duration::from_nanos((index as f64 * self.interval_ns) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp::from_nanos(1_000_000_000);

    fn at(ns: u64) -> Timestamp {
        START + Duration::from_nanos(ns)
    }

    #[test]
    fn departures_are_due_at_equal_distances_and_not_before() {
        let mut schedule = Schedule::new(START, 1000.0);
        assert_eq!(schedule.pop_due(START), Some(START));
        assert_eq!(schedule.pop_due(at(999_999)), None);
        assert_eq!(schedule.pop_due(at(1_000_000)), Some(at(1_000_000)));
        assert_eq!(schedule.next_due(), at(2_000_000));
    }

    #[test]
    fn a_rate_that_does_not_divide_a_second_does_not_drift() {
        let mut schedule = Schedule::new(START, 3.0);
        for _ in 0..3 * 3600 {
            schedule.next += 1;
        }
        assert_eq!(schedule.next_due(), at(3600 * 1_000_000_000));
    }

    #[test]
    fn lateness_up_to_the_limit_is_caught_up_with() {
        let mut schedule = Schedule::new(START, 1000.0);
        let now = at(100_000_000);
        assert_eq!(schedule.skip_missed(now), 0);
        let mut due = Vec::new();
        while let Some(departure) = schedule.pop_due(now) {
            due.push(departure);
        }
        assert_eq!((due.len(), due[0], due[100]), (101, START, now));
    }

    #[test]
    fn what_is_further_behind_is_skipped_and_counted() {
        let mut schedule = Schedule::new(START, 1000.0);
        let now = at(60 * 1_000_000_000);
        assert_eq!(schedule.skip_missed(now), 59_900);
        assert_eq!(schedule.next_due(), at(59_900_000_000));
        assert_eq!(schedule.skip_missed(now), 0, "only once");
    }
}
