//! Timers with absolute deadlines: a late tick does not shift the ones after it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Timestamp;

/// Ticks that a timer may be behind before it skips some of them: enough to catch up after a scheduling
/// delay, too few to flood the link after the process was stopped for an hour.
const MAX_BACKLOG: u64 = 1024;

/// A timer of one worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimerId(usize);

/// One tick of a timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fired {
    /// Which timer.
    pub id: TimerId,
    /// When the tick was due.
    pub scheduled: Timestamp,
}

/// What a timer has done so far, in ticks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimerStats {
    /// Ticks delivered.
    pub fired: u64,
    /// Of those, delivered when the next one was already due.
    pub late: u64,
    /// Not delivered, because the timer was more than 1024 ticks behind.
    pub skipped: u64,
    /// The longest time from due to delivered, in ns.
    pub max_lateness_ns: u64,
}

impl TimerStats {
    /// Adds the counts of another timer.
    pub fn merge(&mut self, other: &Self) {
        let Self { fired, late, skipped, max_lateness_ns } = *other;
        self.fired += fired;
        self.late += late;
        self.skipped += skipped;
        self.max_lateness_ns = self.max_lateness_ns.max(max_lateness_ns);
    }
}

#[derive(Debug)]
struct Timer {
    name: &'static str,
    next: Option<Timestamp>,
    interval: Option<Duration>,
    stats: TimerStats,
}

/// The timers of one worker. A worker has few, so they are kept in a list.
#[derive(Debug, Default)]
pub struct Timers {
    timers: Vec<Timer>,
}

impl Timers {
    /// Makes a timer; it does not run yet.
    pub fn create(&mut self, name: &'static str) -> TimerId {
        self.timers.push(Timer { name, next: None, interval: None, stats: TimerStats::default() });
        TimerId(self.timers.len() - 1)
    }

    /// Lets the timer fire once at `at`.
    pub fn arm_once(&mut self, id: TimerId, at: Timestamp) {
        let timer = &mut self.timers[id.0];
        (timer.next, timer.interval) = (Some(at), None);
    }

    /// Lets the timer fire at `first` and then every `interval` (at least 1 ns), on an absolute schedule.
    pub fn arm_periodic(&mut self, id: TimerId, first: Timestamp, interval: Duration) {
        let timer = &mut self.timers[id.0];
        (timer.next, timer.interval) = (Some(first), Some(interval.max(Duration::from_nanos(1))));
    }

    /// Stops the timer; its counts stay.
    pub fn cancel(&mut self, id: TimerId) {
        self.timers[id.0].next = None;
    }

    /// Whether the timer will fire.
    pub fn is_armed(&self, id: TimerId) -> bool {
        self.timers[id.0].next.is_some()
    }

    /// When the next timer is due.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        self.timers.iter().filter_map(|timer| timer.next).min()
    }

    /// The counts of a timer.
    pub fn stats(&self, id: TimerId) -> TimerStats {
        self.timers[id.0].stats
    }

    /// Name, next deadline and counts of every timer.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, Option<Timestamp>, TimerStats)> + '_ {
        self.timers.iter().map(|timer| (timer.name, timer.next, timer.stats))
    }

    /// Takes the earliest tick that is due at `now`.
    pub fn pop_due(&mut self, now: Timestamp) -> Option<Fired> {
        let (index, scheduled) = self
            .timers
            .iter()
            .enumerate()
            .filter_map(|(index, timer)| Some((index, timer.next?)))
            .filter(|&(_, next)| next <= now)
            .min_by_key(|&(_, next)| next)?;
        let timer = &mut self.timers[index];
        let lateness = now.since(scheduled);
        timer.stats.fired += 1;
        timer.stats.max_lateness_ns = timer.stats.max_lateness_ns.max(lateness.as_nanos() as u64);
        timer.next = timer.interval.map(|interval| {
            timer.stats.late += u64::from(lateness >= interval);
            let behind = (lateness.as_nanos() / interval.as_nanos()) as u64;
            let skipped = behind.saturating_sub(MAX_BACKLOG);
            timer.stats.skipped += skipped;
            let step = interval.as_nanos() as u64;
            Timestamp::from_nanos(scheduled.as_nanos().saturating_add(step.saturating_mul(skipped + 1)))
        });
        Some(Fired { id: TimerId(index), scheduled })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn us(n: u64) -> Timestamp {
        Timestamp::from_nanos(n * 1000)
    }

    fn periodic(first: u64, interval: u64) -> (Timers, TimerId) {
        let mut timers = Timers::default();
        let id = timers.create("test");
        timers.arm_periodic(id, us(first), Duration::from_micros(interval));
        (timers, id)
    }

    #[test]
    fn nothing_fires_before_its_deadline() {
        let (mut timers, id) = periodic(10, 5);
        assert_eq!(timers.next_deadline(), Some(us(10)));
        assert_eq!(timers.pop_due(us(9)), None);
        assert_eq!(timers.pop_due(us(10)), Some(Fired { id, scheduled: us(10) }));
        assert_eq!(timers.pop_due(us(10)), None);
    }

    #[test]
    fn a_late_tick_does_not_shift_the_schedule() {
        let (mut timers, id) = periodic(10, 5);
        timers.pop_due(us(13));
        assert_eq!(timers.next_deadline(), Some(us(15)));
        assert_eq!(timers.stats(id).late, 0);
        assert_eq!(timers.stats(id).max_lateness_ns, 3000);
    }

    #[test]
    fn every_missed_tick_is_delivered_and_counted_as_late() {
        let (mut timers, id) = periodic(10, 5);
        let mut scheduled = Vec::new();
        while let Some(fired) = timers.pop_due(us(30)) {
            scheduled.push(fired.scheduled);
        }
        assert_eq!(scheduled, [us(10), us(15), us(20), us(25), us(30)]);
        let stats = timers.stats(id);
        assert_eq!((stats.fired, stats.late, stats.skipped), (5, 4, 0));
    }

    #[test]
    fn ticks_beyond_the_backlog_are_skipped_and_counted() {
        let (mut timers, id) = periodic(0, 10);
        let mut fired = 0;
        let hour = Timestamp::from_nanos(3600 * 1_000_000_000);
        while timers.pop_due(hour).is_some() {
            fired += 1;
        }
        let stats = timers.stats(id);
        let due = 3600 * 100_000 + 1;
        assert_eq!(stats.fired, fired);
        assert_eq!(stats.fired + stats.skipped, due);
        assert!(fired <= MAX_BACKLOG + 2, "{fired} ticks in one go");
        assert!(timers.next_deadline().unwrap() > hour);
    }

    #[test]
    fn a_one_shot_timer_fires_once() {
        let mut timers = Timers::default();
        let id = timers.create("once");
        timers.arm_once(id, us(3));
        assert!(timers.pop_due(us(100)).is_some());
        assert!(!timers.is_armed(id));
        assert_eq!(timers.pop_due(us(200)), None);
        assert_eq!(timers.stats(id).late, 0);
    }

    #[test]
    fn a_cancelled_timer_does_not_fire() {
        let (mut timers, id) = periodic(10, 5);
        timers.cancel(id);
        assert_eq!(timers.pop_due(us(100)), None);
        assert_eq!(timers.next_deadline(), None);
    }

    #[test]
    fn the_earliest_of_several_timers_fires_first() {
        let (mut timers, first) = periodic(10, 100);
        let second = timers.create("second");
        timers.arm_once(second, us(5));
        assert_eq!(timers.pop_due(us(20)).map(|fired| fired.id), Some(second));
        assert_eq!(timers.pop_due(us(20)).map(|fired| fired.id), Some(first));
    }
}
