//! Which echo requests still wait for their reply.

use std::time::Duration;

use crate::dispatch::Timestamp;

/// Requests that can wait at the same time at the most; a slot takes 16 bytes.
pub(in crate::driver::builtin) const MAX_PENDING: u64 = 1 << 20;

const MIN_SLOTS: u64 = 1024;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// No reply yet, and still in time.
    #[default]
    Waiting,
    /// Answered in time.
    Answered,
    /// Given up.
    Lost,
    /// Given up, and answered after that.
    AnsweredLate,
}

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    sent: Timestamp,
    target: u32,
    state: State,
}

/// What a reply turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::driver::builtin) enum Match {
    /// The first reply, in time.
    InTime {
        /// From sent to received.
        rtt: Duration,
    },
    /// The first reply, after its request was given up.
    Late,
    /// A further reply.
    Duplicate,
    /// The request was sent so long ago that it is no longer known.
    TooOld,
    /// No such request was sent to that target at that time.
    Mismatch,
}

/// Requests by number, in a ring: sending and expiring take constant time, and nothing is allocated.
///
/// ```text
///   next - slots          tail                       next
///   | settled, remembered | waiting and answered ... |
/// ```
/// At any time `sent == replies + lost + in_flight`.
#[derive(Debug)]
pub(in crate::driver::builtin) struct Pending {
    slots: Box<[Slot]>,
    timeout: Duration,
    /// The oldest request that may still be waiting.
    tail: u64,
    /// The number of the next request, and so how many were sent.
    next: u64,
    in_flight: u64,
    replies: u64,
    lost: u64,
    last_sent: Timestamp,
}

impl Pending {
    /// Room for `waiting` requests, which must be no more than [`MAX_PENDING`], each given up after
    /// `timeout`.
    pub(in crate::driver::builtin) fn new(waiting: u64, timeout: Duration) -> Self {
        let slots = waiting.clamp(MIN_SLOTS, MAX_PENDING).next_power_of_two();
        Self {
            slots: vec![Slot::default(); slots as usize].into_boxed_slice(),
            timeout,
            tail: 0,
            next: 0,
            in_flight: 0,
            replies: 0,
            lost: 0,
            last_sent: Timestamp::default(),
        }
    }

    /// The number of the next request, if one more can wait.
    pub(in crate::driver::builtin) fn next(&self) -> Option<u64> {
        (self.next - self.tail < self.slots.len() as u64).then_some(self.next)
    }

    /// The request that [`next`](Self::next) numbered was sent.
    pub(in crate::driver::builtin) fn sent(&mut self, target: u32, at: Timestamp) {
        let next = self.next;
        *self.slot(next) = Slot { sent: at, target, state: State::Waiting };
        self.next += 1;
        self.in_flight += 1;
        self.last_sent = at;
    }

    /// A reply to request `number`, which claims to have been sent at `sent`, arrived at `at` from a source
    /// of which `is_target` says whether it is that target.
    pub(in crate::driver::builtin) fn reply(
        &mut self,
        number: u64,
        sent: Timestamp,
        at: Timestamp,
        is_target: impl FnOnce(u32) -> bool,
    ) -> Match {
        if number >= self.next {
            return Match::Mismatch;
        }
        if self.next - number > self.slots.len() as u64 {
            return Match::TooOld;
        }
        let timeout = self.timeout;
        let slot = self.slot(number);
        if slot.sent != sent || !is_target(slot.target) {
            return Match::Mismatch;
        }
        let rtt = at.since(sent);
        match slot.state {
            State::Waiting if rtt <= timeout => {
                slot.state = State::Answered;
                self.in_flight -= 1;
                self.replies += 1;
                Match::InTime { rtt }
            }
            State::Waiting => {
                slot.state = State::AnsweredLate;
                self.in_flight -= 1;
                self.lost += 1;
                Match::Late
            }
            State::Lost => {
                slot.state = State::AnsweredLate;
                Match::Late
            }
            State::Answered | State::AnsweredLate => Match::Duplicate,
        }
    }

    /// Gives up what was sent more than the timeout before `now`.
    pub(in crate::driver::builtin) fn expire(&mut self, now: Timestamp) {
        let timeout = self.timeout;
        self.advance(|slot| slot.state != State::Waiting || now.since(slot.sent) > timeout);
    }

    /// Gives up everything. Returns how many requests were waiting.
    pub(in crate::driver::builtin) fn settle(&mut self) -> u64 {
        let waiting = self.in_flight;
        self.advance(|_| true);
        waiting
    }

    /// Moves the tail over the requests that are done with.
    fn advance(&mut self, done: impl Fn(&Slot) -> bool) {
        while self.tail < self.next {
            let tail = self.tail;
            let slot = self.slot(tail);
            if !done(slot) {
                break;
            }
            if slot.state == State::Waiting {
                slot.state = State::Lost;
                self.in_flight -= 1;
                self.lost += 1;
            }
            self.tail += 1;
        }
    }

    fn slot(&mut self, number: u64) -> &mut Slot {
        let index = number & (self.slots.len() as u64 - 1);
        &mut self.slots[index as usize]
    }

    /// When the last of the waiting requests is given up, if any waits.
    pub(in crate::driver::builtin) fn last_deadline(&self) -> Option<Timestamp> {
        // One more than the timeout: a reply exactly at its end is in time.
        (self.in_flight > 0).then(|| self.last_sent + self.timeout + Duration::from_nanos(1))
    }

    /// Requests sent so far.
    pub(in crate::driver::builtin) fn total_sent(&self) -> u64 {
        self.next
    }

    /// Requests answered in time.
    pub(in crate::driver::builtin) fn replies(&self) -> u64 {
        self.replies
    }

    /// Requests given up.
    pub(in crate::driver::builtin) fn lost(&self) -> u64 {
        self.lost
    }

    /// Requests that wait.
    pub(in crate::driver::builtin) fn in_flight(&self) -> u64 {
        self.in_flight
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TIMEOUT: Duration = Duration::from_millis(1);

    fn us(n: u64) -> Timestamp {
        Timestamp::from_nanos(n * 1000)
    }

    fn send(pending: &mut Pending, at: Timestamp) -> u64 {
        let number = pending.next().expect("room");
        pending.sent(7, at);
        number
    }

    fn reply(pending: &mut Pending, number: u64, sent: u64, at: u64) -> Match {
        pending.reply(number, us(sent), us(at), |target| target == 7)
    }

    #[test]
    fn the_first_reply_in_time_matches_and_the_second_is_a_duplicate() {
        let mut pending = Pending::new(0, TIMEOUT);
        let number = send(&mut pending, us(10));
        assert_eq!(reply(&mut pending, number, 10, 30), Match::InTime { rtt: Duration::from_micros(20) });
        assert_eq!(reply(&mut pending, number, 10, 31), Match::Duplicate);
        assert_eq!((pending.replies(), pending.lost(), pending.in_flight()), (1, 0, 0));
    }

    #[test]
    fn a_reply_after_the_timeout_is_late_whether_or_not_its_loss_was_noticed_before() {
        let mut pending = Pending::new(0, TIMEOUT);
        let noticed = send(&mut pending, us(0));
        pending.expire(us(1001));
        let unnoticed = send(&mut pending, us(1001));
        assert_eq!(reply(&mut pending, noticed, 0, 1002), Match::Late);
        assert_eq!(reply(&mut pending, noticed, 0, 1003), Match::Duplicate);
        assert_eq!(reply(&mut pending, unnoticed, 1001, 2002), Match::Late);
        assert_eq!((pending.total_sent(), pending.lost(), pending.in_flight()), (2, 2, 0));
    }

    #[test]
    fn a_reply_exactly_at_the_timeout_is_in_time() {
        let mut pending = Pending::new(0, TIMEOUT);
        let number = send(&mut pending, us(0));
        pending.expire(us(1000));
        assert_eq!(pending.lost(), 0);
        assert!(matches!(reply(&mut pending, number, 0, 1000), Match::InTime { .. }));
    }

    #[test]
    fn what_was_never_sent_does_not_match() {
        let mut pending = Pending::new(0, TIMEOUT);
        assert_eq!(reply(&mut pending, 0, 0, 1), Match::Mismatch, "nothing sent");
        let number = send(&mut pending, us(10));
        assert_eq!(reply(&mut pending, number, 11, 20), Match::Mismatch, "another send time");
        assert_eq!(reply(&mut pending, u64::MAX, 10, 20), Match::Mismatch, "another number");
        let other = pending.reply(number, us(10), us(20), |target| target == 8);
        assert_eq!(other, Match::Mismatch, "another target");
        assert_eq!(pending.in_flight(), 1, "none of them used up the request");
    }

    #[test]
    fn a_full_ring_takes_no_more_until_the_oldest_request_is_settled() {
        let mut pending = Pending::new(0, TIMEOUT);
        for _ in 0..MIN_SLOTS {
            send(&mut pending, us(0));
        }
        assert_eq!(pending.next(), None);
        assert!(matches!(reply(&mut pending, 0, 0, 1), Match::InTime { .. }));
        pending.expire(us(1));
        assert_eq!(pending.next(), Some(MIN_SLOTS));
    }

    #[test]
    fn replies_older_than_the_ring_are_told_apart_from_wrong_ones() {
        let mut pending = Pending::new(0, TIMEOUT);
        for number in 0..=MIN_SLOTS {
            pending.expire(us(number * 2000));
            send(&mut pending, us(number * 2000));
        }
        assert_eq!(reply(&mut pending, 0, 0, 1), Match::TooOld);
        assert_eq!(reply(&mut pending, 1, 2000, 9_000_000), Match::Late);
    }

    #[test]
    fn settling_leaves_nothing_in_flight() {
        let mut pending = Pending::new(0, TIMEOUT);
        for _ in 0..5 {
            send(&mut pending, us(0));
        }
        reply(&mut pending, 2, 0, 1);
        assert_eq!(pending.settle(), 4);
        assert_eq!((pending.replies(), pending.lost(), pending.in_flight()), (1, 4, 0));
        assert_eq!(pending.last_deadline(), None);
    }

    #[test]
    fn more_than_a_cycle_of_sequence_numbers_can_wait() {
        let mut pending = Pending::new(200_000, TIMEOUT);
        let numbers: Vec<u64> = (0..200_000).map(|_| send(&mut pending, us(0))).collect();
        for number in numbers {
            assert!(matches!(reply(&mut pending, number, 0, 1), Match::InTime { .. }), "{number}");
        }
    }

    proptest! {
        #[test]
        fn sent_is_always_replies_and_lost_and_in_flight(
            steps in prop::collection::vec((0..4_u8, 0..3000_u64, 0..400_u64), 1..2000)
        ) {
            let mut pending = Pending::new(0, TIMEOUT);
            let mut sent_at = Vec::new();
            // The dull oracle: the fate of every request, by number.
            let (mut answered, mut late, mut duplicates) = (0_u64, 0_u64, 0_u64);
            let mut seen = std::collections::HashSet::new();
            let mut now = 0;
            for (operation, back, pause) in steps {
                now += pause;
                match operation {
                    0 | 1 if pending.next().is_some() => {
                        send(&mut pending, us(now));
                        sent_at.push(now);
                    }
                    2 if !sent_at.is_empty() => {
                        let number = sent_at.len() - 1 - (back as usize % sent_at.len().min(1000));
                        let first = seen.insert(number);
                        let expected = match first {
                            false => { duplicates += 1; "duplicate" }
                            true if now - sent_at[number] <= 1000 => { answered += 1; "in time" }
                            true => { late += 1; "late" }
                        };
                        let got = match reply(&mut pending, number as u64, sent_at[number], now) {
                            Match::InTime { .. } => "in time",
                            Match::Late => "late",
                            Match::Duplicate => "duplicate",
                            Match::TooOld | Match::Mismatch => "unknown",
                        };
                        prop_assert_eq!(got, expected);
                    }
                    _ => pending.expire(us(now)),
                }
                prop_assert_eq!(
                    pending.total_sent(), pending.replies() + pending.lost() + pending.in_flight()
                );
                prop_assert_eq!(pending.replies(), answered);
            }
            pending.settle();
            prop_assert_eq!(pending.total_sent(), sent_at.len() as u64);
            prop_assert_eq!(pending.lost(), sent_at.len() as u64 - answered);
            prop_assert!(late + duplicates + answered >= seen.len() as u64);
        }
    }
}
