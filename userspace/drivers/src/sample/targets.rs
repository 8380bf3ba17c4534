//! Whom the injector sends to, and what each has answered: about 120 bytes a target.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use super::inject::{RttSummary, TargetStats};
use netdext::proto::probe::Path;

/// Targets at the most.
pub(super) const MAX_TARGETS: usize = 65_536;

/// Slots of the table at the most: those of the targets, and those of earlier targets whose requests still wait.
const MAX_SLOTS: usize = 2 * MAX_TARGETS;

/// One neighbour that is sent requests.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target {
    path: Path,
    /// One more than the number of the latest request that it has answered; 0 for none.
    answered: u64,
    /// Requests lost, or not sent for want of its MAC address, since it last answered.
    silent: u32,
    sent: u64,
    replies: u64,
    lost: u64,
    late: u64,
    rtt_min_ns: u64,
    rtt_max_ns: u64,
    rtt_sum_ns: u64,
}

impl Target {
    fn new(path: Path) -> Self {
        Self {
            path,
            answered: 0,
            silent: 0,
            sent: 0,
            replies: 0,
            lost: 0,
            late: 0,
            rtt_min_ns: u64::MAX,
            rtt_max_ns: 0,
            rtt_sum_ns: 0,
        }
    }

    pub(super) fn path(&self) -> Path {
        self.path
    }

    pub(super) fn address(&self) -> IpAddr {
        self.path.destination()
    }

    /// How many requests in a row it has left unanswered.
    pub(super) fn silent(&self) -> u32 {
        self.silent
    }

    pub(super) fn sent(&mut self) {
        self.sent += 1;
    }

    /// Its MAC address is not known, so it was sent nothing.
    pub(super) fn unresolved(&mut self) {
        self.silent = self.silent.saturating_add(1);
    }

    /// A request to it was given up.
    pub(super) fn lost(&mut self) {
        self.lost += 1;
        self.silent = self.silent.saturating_add(1);
    }

    /// A request to it was answered too late.
    pub(super) fn late(&mut self) {
        self.late += 1;
        self.silent = 0;
    }

    /// It answered request `number`. Returns whether replies came in the order of the requests.
    pub(super) fn answered(&mut self, number: u64, rtt: Duration) -> bool {
        let rtt = rtt.as_nanos() as u64;
        self.replies += 1;
        self.silent = 0;
        self.rtt_min_ns = self.rtt_min_ns.min(rtt);
        self.rtt_max_ns = self.rtt_max_ns.max(rtt);
        self.rtt_sum_ns += rtt;
        let in_order = number >= self.answered;
        self.answered = self.answered.max(number + 1);
        in_order
    }

    fn stats(&self) -> TargetStats {
        let rtt_ns = match self.rtt_sum_ns.checked_div(self.replies) {
            Some(mean) => RttSummary { min: self.rtt_min_ns, mean, max: self.rtt_max_ns },
            None => RttSummary::default(),
        };
        TargetStats {
            target: self.address(),
            sent: self.sent,
            replies: self.replies,
            lost: self.lost,
            in_flight: self.sent - self.replies - self.lost,
            late: self.late,
            rtt_ns,
        }
    }
}

/// A slot of a target that is none any more.
#[derive(Clone, Copy, Debug)]
struct Retired {
    slot: u32,
    /// No request with this number or a higher one went to it.
    before: u64,
}

/// The targets, each in a slot that keeps its number for as long as a request to it may wait.
///
/// ```text
///   slots   | a | b | c | d | e |      in turn: a, d, e     retired: b (before 120), c (before 120)
/// ```
#[derive(Debug, Default)]
pub(super) struct Targets {
    slots: Vec<Target>,
    in_turn: Vec<u32>,
    turn: usize,
    retired: VecDeque<Retired>,
    free: Vec<u32>,
}

impl Targets {
    /// Makes these the targets. Those that were targets before keep their counts. `next` is the number of the next
    /// request; all before `settled` wait no more. Returns the number below which requests may have lost their
    /// target, or `None`, with nothing changed, if there are too many earlier targets with requests that wait.
    pub(super) fn replace(&mut self, paths: &[Path], next: u64, settled: u64) -> Option<u64> {
        let reusable = self.retired.iter().take_while(|retired| retired.before <= settled).count();
        let held = self.slots.len() - self.free.len() - reusable;
        if held + paths.len() > MAX_SLOTS {
            return None;
        }
        let mut forgotten = 0;
        for Retired { slot, before } in self.retired.drain(..reusable) {
            self.free.push(slot);
            forgotten = before;
        }
        let mut before: HashMap<Path, u32> =
            self.in_turn.drain(..).map(|slot| (self.slots[slot as usize].path, slot)).collect();
        let mut added = HashMap::with_capacity(paths.len());
        for &path in paths {
            if added.contains_key(&path) {
                continue;
            }
            let slot = before.remove(&path).unwrap_or_else(|| self.insert(path));
            added.insert(path, slot);
            self.in_turn.push(slot);
        }
        self.retired.extend(before.into_values().map(|slot| Retired { slot, before: next }));
        self.turn = 0;
        Some(forgotten)
    }

    fn insert(&mut self, path: Path) -> u32 {
        let target = Target::new(path);
        match self.free.pop() {
            Some(slot) => {
                self.slots[slot as usize] = target;
                slot
            }
            None => {
                self.slots.push(target);
                self.slots.len() as u32 - 1
            }
        }
    }

    /// The slot of the target whose turn it is.
    pub(super) fn next_in_turn(&mut self) -> Option<u32> {
        let slot = *self.in_turn.get(self.turn)?;
        self.turn += 1;
        if self.turn == self.in_turn.len() {
            self.turn = 0;
        }
        Some(slot)
    }

    /// The target, or earlier target, in a slot.
    pub(super) fn slot(&mut self, slot: u32) -> &mut Target {
        &mut self.slots[slot as usize]
    }

    pub(super) fn is_empty(&self) -> bool {
        self.in_turn.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Target> + '_ {
        self.in_turn.iter().map(|&slot| &self.slots[slot as usize])
    }

    pub(super) fn stats(&self) -> Vec<TargetStats> {
        self.iter().map(Target::stats).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn path(host: u32) -> Path {
        Path::V4 { source: Ipv4Addr::new(198, 18, 0, 1), destination: Ipv4Addr::from(0xc613_0000 + host) }
    }

    fn turns(targets: &mut Targets, count: usize) -> Vec<IpAddr> {
        let next = |targets: &mut Targets| targets.next_in_turn().map(|slot| targets.slot(slot).address());
        (0..count).filter_map(|_| next(targets)).collect()
    }

    #[test]
    fn targets_take_turns_and_one_named_twice_has_one_turn() {
        let mut targets = Targets::default();
        assert_eq!(targets.next_in_turn(), None);
        targets.replace(&[path(1), path(2), path(1)], 0, 0).unwrap();
        let [one, two] = [path(1), path(2)].map(|path| path.destination());
        assert_eq!(turns(&mut targets, 5), [one, two, one, two, one]);
    }

    #[test]
    fn who_stays_a_target_keeps_its_counts_and_its_slot() {
        let mut targets = Targets::default();
        targets.replace(&[path(1), path(2)], 0, 0).unwrap();
        let slot = targets.next_in_turn().unwrap();
        targets.slot(slot).sent();
        targets.slot(slot).answered(0, Duration::from_nanos(700));
        targets.replace(&[path(3), path(1)], 1, 1).unwrap();
        let stats = targets.stats();
        assert_eq!((stats[0].target, stats[0].sent), (path(3).destination(), 0));
        assert_eq!((stats[1].target, stats[1].sent, stats[1].replies), (path(1).destination(), 1, 1));
        assert_eq!(targets.slot(slot).address(), path(1).destination());
    }

    #[test]
    fn a_slot_is_used_again_only_when_no_request_to_it_waits() {
        let mut targets = Targets::default();
        targets.replace(&[path(1)], 0, 0).unwrap();
        let first = targets.next_in_turn().unwrap();
        assert_eq!(targets.replace(&[path(2)], 10, 4), Some(0));
        assert_eq!(targets.replace(&[path(3)], 20, 9), Some(0), "request 9 may wait for the first");
        assert_eq!(targets.slot(first).address(), path(1).destination());
        assert_eq!(targets.replace(&[path(4)], 30, 10), Some(10));
        assert_eq!(targets.slot(first).address(), path(4).destination());
        assert_eq!(targets.slots.len(), 3);
    }

    #[test]
    fn replacing_for_ever_takes_no_more_room_and_too_much_at_once_changes_nothing() {
        let all: Vec<_> = (0..2 * MAX_TARGETS as u32 + 1).map(path).collect();
        let mut targets = Targets::default();
        for round in 0..20_u64 {
            let half = round as usize % 2 * MAX_TARGETS;
            targets.replace(&all[half..half + MAX_TARGETS], 10 * (round + 1), 10 * round).unwrap();
        }
        assert_eq!(targets.slots.len(), MAX_SLOTS);
        let before = targets.stats();
        assert_eq!(targets.replace(&all[MAX_SLOTS..], 210, 0), None);
        assert_eq!(targets.stats(), before);
    }

    #[test]
    fn round_trip_times_are_summed_up_and_order_is_noticed() {
        let mut target = Target::new(path(1));
        assert_eq!(target.stats().rtt_ns, RttSummary::default());
        for (number, ns, in_order) in [(0, 10, true), (2, 40, true), (1, 25, false), (3, 20, true)] {
            target.sent();
            assert_eq!(target.answered(number, Duration::from_nanos(ns)), in_order, "{number}");
        }
        assert_eq!(target.stats().rtt_ns, RttSummary { min: 10, mean: 23, max: 40 });
    }
}
