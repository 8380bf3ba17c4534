//! The echo requests that a driver sends of its own accord, and what came back of them.

use std::time::Duration;

use fastrand::Rng;

use crate::outcome::Handled;
use crate::pending::{Match, Pending, Request};
use netdext::dispatch::Timestamp;
use netdext::driver::{Cx, PortId};
use netdext::metrics::{Histogram, Metrics};
use netdext::packet::Packet;
use netdext::proto::MacAddr;
use netdext::proto::echo::EchoReply;
use netdext::proto::probe::{EchoRequest, Path, Stamp, is_intact};

/// The shortest time that is recorded, in ns.
const SHORTEST_NS: u64 = 1;
const RTT_DIGITS: u8 = 3;
/// One less, because errors span more decades, and a copy is made for every look at the counts.
const PACING_DIGITS: u8 = 2;

/// What an injector of echo requests counted. `sent == replies + lost + in_flight` at any time.
#[derive(Clone, Debug)]
pub(crate) struct InjectorStats {
    /// Requests submitted to the tx ring.
    pub(crate) sent: u64,
    /// Requests that were due and could not be submitted, for want of a frame or of room; what was taken from
    /// the pool went back to it.
    pub(crate) not_sent: u64,
    /// Requests answered in time, each counted once.
    pub(crate) replies: u64,
    /// Requests not answered within the time limit.
    pub(crate) lost: u64,
    /// Requests still waiting for an answer.
    pub(crate) in_flight: u64,
    /// Replies that came after their request was counted as lost.
    pub(crate) late: u64,
    /// Further replies to a request that was already answered.
    pub(crate) duplicates: u64,
    /// Of `replies`, those that came after the reply to a later request to the same target.
    pub(crate) out_of_order: u64,
    /// Round-trip times in ns, from when each request was sent.
    pub(crate) rtt_ns: Histogram,
    /// The same from when each request was planned to be sent, so that a sender held up does not hide how long
    /// an answer would have taken (coordinated omission).
    pub(crate) rtt_from_schedule_ns: Histogram,
    /// How much later than planned each request was sent, in ns; 1 stands for 0.
    pub(crate) pacing_error_ns: Histogram,
}

impl InjectorStats {
    /// The name of the group that they are.
    pub(crate) const GROUP: &'static str = "injector";

    /// The same as metrics. The residue, which is always 0, is there for whoever sums up.
    pub(crate) fn metrics(&self) -> Metrics {
        let residue = self.sent as i64 - (self.replies + self.lost + self.in_flight) as i64;
        Metrics::default()
            .counter("sent", self.sent)
            .counter("replies", self.replies)
            .counter("lost", self.lost)
            .gauge("in_flight", self.in_flight as i64)
            .gauge("residue", residue)
            .counter("not_sent", self.not_sent)
            .counter("late", self.late)
            .counter("duplicates", self.duplicates)
            .counter("out_of_order", self.out_of_order)
            .histogram("rtt_ns", &self.rtt_ns)
            .histogram("rtt_from_schedule_ns", &self.rtt_from_schedule_ns)
            .histogram("pacing_error_ns", &self.pacing_error_ns)
    }

    /// What the metrics of a driver say of its injector, if it has one.
    #[cfg(test)]
    pub(crate) fn of(stats: &netdext::driver::DriverStats) -> Option<Self> {
        use netdext::metrics::Metric;
        let metrics = stats.group(Self::GROUP)?;
        let number = |name: &str| match metrics.get(name) {
            Some(Metric::Counter(count)) => *count,
            Some(Metric::Gauge(value)) => *value as u64,
            other => panic!("{name}: {other:?}"),
        };
        let times = |name: &str| match metrics.get(name) {
            Some(Metric::Histogram(times)) => times.clone(),
            other => panic!("{name}: {other:?}"),
        };
        assert_eq!(number("residue"), 0);
        Some(Self {
            sent: number("sent"),
            not_sent: number("not_sent"),
            replies: number("replies"),
            lost: number("lost"),
            in_flight: number("in_flight"),
            late: number("late"),
            duplicates: number("duplicates"),
            out_of_order: number("out_of_order"),
            rtt_ns: times("rtt_ns"),
            rtt_from_schedule_ns: times("rtt_from_schedule_ns"),
            pacing_error_ns: times("pacing_error_ns"),
        })
    }
}

/// By what the requests of a run are told from those of others.
#[derive(Clone, Copy, Debug)]
pub(super) struct Identity {
    identifier: u16,
    token: u32,
}

impl Identity {
    pub(super) fn new(rng: &mut Rng) -> Self {
        Self { identifier: rng.u16(..), token: rng.u32(..) }
    }
}

/// The requests of a run with their counts.
#[derive(Debug)]
pub(super) struct Requests {
    pub(super) pending: Pending,
    identity: Identity,
    /// Requests that were due and could not be submitted.
    pub(super) not_sent: u64,
    /// Replies after the time limit.
    pub(super) late: u64,
    /// Further replies to the same request.
    pub(super) duplicates: u64,
    /// Replies after the reply to a later request; who knows the targets counts them.
    pub(super) out_of_order: u64,
    pub(super) rtt_ns: Histogram,
    rtt_from_schedule_ns: Histogram,
    pacing_error_ns: Histogram,
}

fn record(histogram: &mut Histogram, time: Duration, count: u64) {
    histogram.record_n((time.as_nanos() as u64).max(SHORTEST_NS), count);
}

impl Requests {
    /// Room for `waiting` requests that each wait for `timeout`.
    pub(super) fn new(identity: Identity, waiting: u64, timeout: Duration) -> Self {
        Self {
            pending: Pending::new(waiting, timeout),
            identity,
            not_sent: 0,
            late: 0,
            duplicates: 0,
            out_of_order: 0,
            rtt_ns: Histogram::with_digits(RTT_DIGITS),
            rtt_from_schedule_ns: Histogram::with_digits(RTT_DIGITS),
            pacing_error_ns: Histogram::with_digits(PACING_DIGITS),
        }
    }

    /// Writes a request into a packet that was just taken from the pool, leaving the data where it begins, and
    /// submits it. `None` without room to wait for the reply, in a frame that is too small, or with a full tx ring:
    /// then the packet is back in the pool, and nothing is counted.
    pub(super) fn send(
        &mut self,
        cx: &mut Cx<'_>,
        mut packet: Packet,
        path: Path,
        destination_mac: MacAddr,
        request: Request,
    ) -> Option<()> {
        let counter = self.pending.next()?;
        let Identity { identifier, token } = self.identity;
        let payload_len = request.payload_len.into();
        let echo = EchoRequest {
            source_mac: cx.device(PortId::FIRST).mac,
            destination_mac,
            path,
            identifier,
            payload_len,
        };
        packet.set_data(packet.data_offset(), echo.frame_len()).ok()?;
        packet.set_link_header_len(EchoRequest::LINK_HEADER_LEN).ok()?;
        echo.write(&Stamp { token, counter, sent: cx.now }, packet.data_mut());
        cx.tx(PortId::FIRST).submit(packet).ok()?;
        self.pending.sent(request, cx.now);
        Some(())
    }

    /// So many requests were sent so much later than planned.
    pub(super) fn paced(&mut self, lateness: Duration, sent: u64) {
        record(&mut self.pacing_error_ns, lateness, sent);
    }

    /// An echo reply arrived at `at`; `fits` says whether it comes from the target of the request that it names.
    /// Returns that request's stamp and what the reply is to it, or `None` if it answers a request of somebody else.
    pub(super) fn reply(
        &mut self,
        reply: &EchoReply<'_>,
        at: Timestamp,
        fits: impl FnOnce(&Request) -> bool,
    ) -> Option<(Stamp, Match)> {
        let stamp = Stamp::read(reply.payload)?;
        if stamp.token != self.identity.token || reply.identifier != self.identity.identifier {
            return None;
        }
        if reply.sequence != stamp.sequence() || !is_intact(reply.payload) {
            return Some((stamp, Match::Mismatch));
        }
        let found = self.pending.reply(stamp.counter, stamp.sent, at, |request| {
            usize::from(request.payload_len) == reply.payload.len() && fits(request)
        });
        match found {
            Match::InTime { rtt, lateness } => {
                record(&mut self.rtt_ns, rtt, 1);
                record(&mut self.rtt_from_schedule_ns, rtt + lateness, 1);
            }
            Match::Late { .. } => self.late += 1,
            Match::Duplicate => self.duplicates += 1,
            Match::TooOld | Match::Mismatch => {}
        }
        Some((stamp, found))
    }

    pub(super) fn stats(&self) -> InjectorStats {
        InjectorStats {
            sent: self.pending.total_sent(),
            not_sent: self.not_sent,
            replies: self.pending.replies(),
            lost: self.pending.lost(),
            in_flight: self.pending.in_flight(),
            late: self.late,
            duplicates: self.duplicates,
            out_of_order: self.out_of_order,
            rtt_ns: self.rtt_ns.clone(),
            rtt_from_schedule_ns: self.rtt_from_schedule_ns.clone(),
            pacing_error_ns: self.pacing_error_ns.clone(),
        }
    }
}

/// What a reply counts as.
pub(super) fn handled(found: Match) -> Handled {
    match found {
        Match::InTime { .. } => Handled::EchoReplyMatched,
        Match::Late { .. } => Handled::EchoReplyLate,
        Match::Duplicate => Handled::EchoReplyDuplicate,
        Match::TooOld => Handled::EchoReplyTooOld,
        Match::Mismatch => Handled::EchoReplyMismatched,
    }
}

/// Refuses a payload that does not fit the MTU. The error says what is the limit.
pub(super) fn check_payload(payload: usize, mtu: usize, over_ipv6: bool) -> Result<(), String> {
    let longest = mtu.saturating_sub(if over_ipv6 { 48 } else { 28 });
    if payload > longest {
        return Err(format!(
            "a payload of {payload} bytes does not fit the MTU of {mtu}: {longest} is the limit"
        ));
    }
    Ok(())
}
