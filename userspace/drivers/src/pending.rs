//! Which echo requests still wait for their reply.

use std::time::Duration;

use netdext::dispatch::Timestamp;

/// Requests that can wait at the same time at the most; a slot takes 24 bytes.
pub(crate) const MAX_PENDING: u64 = 1 << 20;

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

/// What is remembered of a request besides its number and when it was sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Request {
    /// The slot of its target.
    pub(crate) target: u32,
    /// Bytes of payload.
    pub(crate) payload_len: u16,
    /// How much later than planned it was sent, in ns; more than 4.2 s count as that.
    pub(crate) lateness_ns: u32,
}

impl Request {
    /// A request sent `lateness` after it was planned.
    pub(crate) fn new(target: u32, payload_len: u16, lateness: Duration) -> Self {
        let lateness_ns = u32::try_from(lateness.as_nanos()).unwrap_or(u32::MAX);
        Self { target, payload_len, lateness_ns }
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    sent: Timestamp,
    request: Request,
    state: State,
}

/// What a reply turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Match {
    /// The first reply, in time.
    InTime {
        /// From sent to received.
        rtt: Duration,
        /// How much later than planned the request was sent.
        lateness: Duration,
    },
    /// The first reply, after its time was over.
    Late {
        /// Whether the request counts as lost only from now on: it had not been given up before.
        newly_lost: bool,
    },
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
pub(crate) struct Pending {
    slots: Box<[Slot]>,
    timeout: Duration,
    /// Requests below this number are known no more.
    known_from: u64,
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
    pub(crate) fn new(waiting: u64, timeout: Duration) -> Self {
        Self {
            slots: vec![Slot::default(); Self::slots_for(waiting)].into_boxed_slice(),
            timeout,
            known_from: 0,
            tail: 0,
            next: 0,
            in_flight: 0,
            replies: 0,
            lost: 0,
            last_sent: Timestamp::default(),
        }
    }

    /// Makes room for `waiting` requests, which must be no more than [`MAX_PENDING`]; what is known stays known.
    pub(crate) fn grow(&mut self, waiting: u64) {
        let wanted = Self::slots_for(waiting);
        if wanted <= self.slots.len() {
            return;
        }
        let mut slots = vec![Slot::default(); wanted].into_boxed_slice();
        self.known_from = self.oldest_known();
        for number in self.known_from..self.next {
            slots[number as usize & (wanted - 1)] = *self.slot(number);
        }
        self.slots = slots;
    }

    fn slots_for(waiting: u64) -> usize {
        waiting.clamp(MIN_SLOTS, MAX_PENDING).next_power_of_two() as usize
    }

    fn oldest_known(&self) -> u64 {
        self.known_from.max(self.next.saturating_sub(self.slots.len() as u64))
    }

    /// Forgets requests below `number` that wait no more: replies to them are too old from now on.
    pub(crate) fn forget_below(&mut self, number: u64) {
        self.known_from = self.known_from.max(number.min(self.tail));
    }

    /// Every request below this number waits no more.
    pub(crate) fn settled(&self) -> u64 {
        self.tail
    }

    /// The number of the next request, however many wait.
    pub(crate) fn number(&self) -> u64 {
        self.next
    }

    /// The number of the next request, if one more can wait.
    pub(crate) fn next(&self) -> Option<u64> {
        (self.next - self.tail < self.slots.len() as u64).then_some(self.next)
    }

    /// The request that [`next`](Self::next) numbered was sent.
    pub(crate) fn sent(&mut self, request: Request, at: Timestamp) {
        let next = self.next;
        *self.slot(next) = Slot { sent: at, request, state: State::Waiting };
        self.next += 1;
        self.in_flight += 1;
        self.last_sent = at;
    }

    /// A reply to request `number`, which claims to have been sent at `sent`, arrived at `at`; `fits` says whether
    /// it comes from that request's target and has its length.
    pub(crate) fn reply(
        &mut self,
        number: u64,
        sent: Timestamp,
        at: Timestamp,
        fits: impl FnOnce(&Request) -> bool,
    ) -> Match {
        if number >= self.next {
            return Match::Mismatch;
        }
        if number < self.oldest_known() {
            return Match::TooOld;
        }
        let timeout = self.timeout;
        let slot = self.slot(number);
        if slot.sent != sent || !fits(&slot.request) {
            return Match::Mismatch;
        }
        let rtt = at.since(sent);
        match slot.state {
            State::Waiting if rtt <= timeout => {
                slot.state = State::Answered;
                let lateness = Duration::from_nanos(slot.request.lateness_ns.into());
                self.in_flight -= 1;
                self.replies += 1;
                Match::InTime { rtt, lateness }
            }
            State::Waiting => {
                slot.state = State::AnsweredLate;
                self.in_flight -= 1;
                self.lost += 1;
                Match::Late { newly_lost: true }
            }
            State::Lost => {
                slot.state = State::AnsweredLate;
                Match::Late { newly_lost: false }
            }
            State::Answered | State::AnsweredLate => Match::Duplicate,
        }
    }

    /// Gives up what was sent more than the timeout before `now`, and says of each to which target it went.
    pub(crate) fn expire(&mut self, now: Timestamp, lost: impl FnMut(u32)) {
        let timeout = self.timeout;
        self.advance(|slot| slot.state != State::Waiting || now.since(slot.sent) > timeout, lost);
    }

    /// Gives up everything, and says of each request to which target it went. Returns how many were waiting.
    pub(crate) fn settle(&mut self, lost: impl FnMut(u32)) -> u64 {
        let waiting = self.in_flight;
        self.advance(|_| true, lost);
        waiting
    }

    /// Moves the tail over the requests that are done with.
    fn advance(&mut self, done: impl Fn(&Slot) -> bool, mut lost: impl FnMut(u32)) {
        while self.tail < self.next {
            let tail = self.tail;
            let slot = self.slot(tail);
            if !done(slot) {
                break;
            }
            if slot.state == State::Waiting {
                slot.state = State::Lost;
                lost(slot.request.target);
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
    pub(crate) fn last_deadline(&self) -> Option<Timestamp> {
        // One more than the timeout: a reply exactly at its end is in time.
        (self.in_flight > 0).then(|| self.last_sent + self.timeout + Duration::from_nanos(1))
    }

    /// Requests sent so far.
    pub(crate) fn total_sent(&self) -> u64 {
        self.next
    }

    /// Requests answered in time.
    pub(crate) fn replies(&self) -> u64 {
        self.replies
    }

    /// Requests given up.
    pub(crate) fn lost(&self) -> u64 {
        self.lost
    }

    /// Requests that wait.
    pub(crate) fn in_flight(&self) -> u64 {
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
        pending.sent(Request { target: 7, payload_len: 56, lateness_ns: 3 }, at);
        number
    }

    fn reply(pending: &mut Pending, number: u64, sent: u64, at: u64) -> Match {
        pending.reply(number, us(sent), us(at), |request| request.target == 7)
    }

    #[test]
    fn the_first_reply_in_time_matches_and_the_second_is_a_duplicate() {
        let mut pending = Pending::new(0, TIMEOUT);
        let number = send(&mut pending, us(10));
        assert_eq!(
            reply(&mut pending, number, 10, 30),
            Match::InTime { rtt: Duration::from_micros(20), lateness: Duration::from_nanos(3) }
        );
        assert_eq!(reply(&mut pending, number, 10, 31), Match::Duplicate);
        assert_eq!((pending.replies(), pending.lost(), pending.in_flight()), (1, 0, 0));
    }

    #[test]
    fn a_reply_after_the_timeout_is_late_whether_or_not_its_loss_was_noticed_before() {
        let mut pending = Pending::new(0, TIMEOUT);
        let noticed = send(&mut pending, us(0));
        pending.expire(us(1001), |_| {});
        let unnoticed = send(&mut pending, us(1001));
        assert_eq!(reply(&mut pending, noticed, 0, 1002), Match::Late { newly_lost: false });
        assert_eq!(reply(&mut pending, noticed, 0, 1003), Match::Duplicate);
        assert_eq!(reply(&mut pending, unnoticed, 1001, 2002), Match::Late { newly_lost: true });
        assert_eq!((pending.total_sent(), pending.lost(), pending.in_flight()), (2, 2, 0));
    }

    #[test]
    fn a_reply_exactly_at_the_timeout_is_in_time() {
        let mut pending = Pending::new(0, TIMEOUT);
        let number = send(&mut pending, us(0));
        pending.expire(us(1000), |_| {});
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
        let other = pending.reply(number, us(10), us(20), |request| request.target == 8);
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
        pending.expire(us(1), |_| {});
        assert_eq!(pending.next(), Some(MIN_SLOTS));
    }

    #[test]
    fn replies_older_than_the_ring_are_told_apart_from_wrong_ones() {
        let mut pending = Pending::new(0, TIMEOUT);
        for number in 0..=MIN_SLOTS {
            pending.expire(us(number * 2000), |_| {});
            send(&mut pending, us(number * 2000));
        }
        assert_eq!(reply(&mut pending, 0, 0, 1), Match::TooOld);
        assert_eq!(reply(&mut pending, 1, 2000, 9_000_000), Match::Late { newly_lost: false });
    }

    #[test]
    fn settling_leaves_nothing_in_flight() {
        let mut pending = Pending::new(0, TIMEOUT);
        for _ in 0..5 {
            send(&mut pending, us(0));
        }
        reply(&mut pending, 2, 0, 1);
        let mut lost = Vec::new();
        assert_eq!(pending.settle(|target| lost.push(target)), 4);
        assert_eq!(lost, [7; 4]);
        assert_eq!((pending.replies(), pending.lost(), pending.in_flight()), (1, 4, 0));
        assert_eq!(pending.last_deadline(), None);
    }

    #[test]
    fn what_waits_and_what_is_remembered_survives_growing() {
        let mut pending = Pending::new(0, TIMEOUT);
        // More than a cycle of the ring, so that numbers and places differ.
        for number in 0..MIN_SLOTS + 300 {
            pending.expire(us(number * 10), |_| {});
            send(&mut pending, us(number * 10));
        }
        let (next, in_flight) = (pending.number(), pending.in_flight());
        pending.grow(5 * MIN_SLOTS);
        assert_eq!((pending.number(), pending.in_flight()), (next, in_flight));
        assert_eq!(reply(&mut pending, 299, 2990, 13_000), Match::TooOld, "overwritten before");
        assert_eq!(reply(&mut pending, 300, 3000, 13_000), Match::Late { newly_lost: false });
        assert!(matches!(reply(&mut pending, next - 1, (next - 1) * 10, 13_300), Match::InTime { .. }));
        for _ in 0..4 * MIN_SLOTS {
            send(&mut pending, us(13_300));
        }
        assert_eq!(pending.total_sent(), pending.replies() + pending.lost() + pending.in_flight());
    }

    #[test]
    fn only_what_waits_no_more_can_be_forgotten() {
        let mut pending = Pending::new(0, TIMEOUT);
        send(&mut pending, us(0));
        send(&mut pending, us(500));
        pending.expire(us(1100), |_| {});
        pending.forget_below(2);
        assert_eq!(reply(&mut pending, 0, 0, 1200), Match::TooOld);
        assert!(matches!(reply(&mut pending, 1, 500, 1200), Match::InTime { .. }));
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
                            Match::Late { .. } => "late",
                            Match::Duplicate => "duplicate",
                            Match::TooOld | Match::Mismatch => "unknown",
                        };
                        prop_assert_eq!(got, expected);
                    }
                    _ => pending.expire(us(now), |_| {}),
                }
                prop_assert_eq!(
                    pending.total_sent(), pending.replies() + pending.lost() + pending.in_flight()
                );
                prop_assert_eq!(pending.replies(), answered);
            }
            pending.settle(|_| {});
            prop_assert_eq!(pending.total_sent(), sent_at.len() as u64);
            prop_assert_eq!(pending.lost(), sent_at.len() as u64 - answered);
            prop_assert!(late + duplicates + answered >= seen.len() as u64);
        }
    }
}
