//! Echo requests injected by the timer, and their replies.

use std::net::IpAddr;

use fastrand::Rng;
use hdrhistogram::Histogram;

use super::config::{InjectorConfig, SampleConfigError};
use super::outcome::Handled;
use super::pending::{Match, Pending};
use crate::dispatch::Timestamp;
use crate::driver::builtin::neighbors::Neighbors;
use crate::driver::{Cx, InjectorStats};
use crate::packet::{OutOfFrame, Packet, PacketBatch};
use crate::proto::Local;
use crate::proto::echo::EchoReply;
use crate::proto::probe::{EchoRequest, Path, Stamp, is_intact};

/// Round-trip times that the histogram holds without growing, in ns: 1 ns to 1 minute.
const RTT_RANGE_NS: (u64, u64) = (1, 60_000_000_000);
const RTT_DIGITS: u8 = 3;

/// One neighbour that is sent requests.
#[derive(Debug)]
struct Target {
    address: IpAddr,
    path: Path,
    /// The latest request that it has answered.
    answered: Option<u64>,
}

/// The state that all instances of a run share: a reply may arrive on another queue than its request left.
#[derive(Debug)]
pub(super) struct Injector {
    targets: Vec<Target>,
    /// The target whose turn it is.
    turn: usize,
    pending: Pending,
    identifier: u16,
    token: u32,
    payload_len: usize,
    counts: Counts,
    rtt_ns: Histogram<u64>,
}

#[derive(Debug, Default)]
struct Counts {
    not_sent: u64,
    no_target: u64,
    unresolved: u64,
    unanswered_at_disable: u64,
    late: u64,
    duplicates: u64,
    out_of_order: u64,
}

/// Why a request was not sent.
enum Unsent {
    /// The target's MAC address is not known yet.
    Unresolved,
    /// No room to wait for the reply, a frame that is too small, or a full tx ring.
    Rejected,
}

impl Injector {
    /// An injector without targets. Identifier and token come from `rng`.
    pub(super) fn new(config: &InjectorConfig, rng: &mut Rng) -> Result<Self, SampleConfigError> {
        let pending = Pending::new(config.waiting()?, config.reply_timeout);
        let mut rtt_ns = Histogram::new_with_bounds(RTT_RANGE_NS.0, RTT_RANGE_NS.1, RTT_DIGITS)
            .unwrap_or_else(|error| unreachable!("constant bounds: {error}"));
        rtt_ns.auto(true);
        Ok(Self {
            targets: Vec::new(),
            turn: 0,
            pending,
            identifier: rng.u16(..),
            token: rng.u32(..),
            payload_len: config.payload_len,
            counts: Counts::default(),
            rtt_ns,
        })
    }

    /// Adds a target. Returns whether it is on a network of ours.
    pub(super) fn add_target(&mut self, address: IpAddr, local: &Local) -> bool {
        let path = match (local.source_for(address), address) {
            (Some(IpAddr::V4(source)), IpAddr::V4(destination)) => Path::V4 { source, destination },
            (Some(IpAddr::V6(source)), IpAddr::V6(destination)) => Path::V6 { source, destination },
            _ => return false,
        };
        self.targets.push(Target { address, path, answered: None });
        true
    }

    /// The addresses of the targets.
    pub(super) fn targets(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.targets.iter().map(|target| target.address)
    }

    /// One tick of the timer: takes up to `count` packets from the pool, writes an echo request into each,
    /// and submits it. What cannot be submitted goes back to the pool. Every one of the `count` requests is
    /// counted: as sent, or by what was missing.
    pub(super) fn tick(
        &mut self,
        cx: &mut Cx<'_>,
        neighbors: &mut Neighbors,
        packets: &mut PacketBatch,
        count: usize,
    ) {
        self.pending.expire(cx.now);
        if self.targets.is_empty() {
            self.counts.no_target += count as u64;
            return;
        }
        let taken = cx.pool.alloc_into(packets, count);
        self.counts.not_sent += (count - taken) as u64;
        while let Some(packet) = packets.pop() {
            let turn = self.turn;
            self.turn = (turn + 1) % self.targets.len();
            match self.send(cx, neighbors, packet, turn) {
                Ok(()) => {}
                Err(Unsent::Unresolved) => self.counts.unresolved += 1,
                Err(Unsent::Rejected) => self.counts.not_sent += 1,
            }
        }
    }

    fn send(
        &mut self,
        cx: &mut Cx<'_>,
        neighbors: &mut Neighbors,
        mut packet: Packet,
        turn: usize,
    ) -> Result<(), Unsent> {
        let target = &self.targets[turn];
        let destination_mac = neighbors.resolve(target.address, cx.now).ok_or(Unsent::Unresolved)?;
        let counter = self.pending.next().ok_or(Unsent::Rejected)?;
        let request = EchoRequest {
            source_mac: cx.device.mac,
            destination_mac,
            path: target.path,
            identifier: self.identifier,
            payload_len: self.payload_len,
        };
        let stamp = Stamp { token: self.token, counter, sent: cx.now };
        write(&mut packet, &request, &stamp).map_err(|_| Unsent::Rejected)?;
        cx.tx.submit(packet).map_err(|_| Unsent::Rejected)?;
        self.pending.sent(turn as u32, cx.now);
        Ok(())
    }

    /// An echo reply arrived at `at`. `None` if it answers a request of somebody else.
    pub(super) fn reply(&mut self, reply: &EchoReply<'_>, at: Timestamp) -> Option<Handled> {
        let stamp = Stamp::read(reply.payload)?;
        if stamp.token != self.token || reply.identifier != self.identifier {
            return None;
        }
        let is_intact = reply.sequence == stamp.sequence()
            && reply.payload.len() == self.payload_len
            && is_intact(reply.payload);
        if !is_intact {
            return Some(Handled::EchoReplyMismatched);
        }
        let targets = &mut self.targets;
        let mut answering = None;
        let found = self.pending.reply(stamp.counter, stamp.sent, at, |target| {
            answering = targets.get_mut(target as usize).filter(|target| target.address == reply.source);
            answering.is_some()
        });
        Some(match found {
            Match::InTime { rtt } => {
                if let Some(target) = answering {
                    if target.answered.is_some_and(|latest| latest > stamp.counter) {
                        self.counts.out_of_order += 1;
                    } else {
                        target.answered = Some(stamp.counter);
                    }
                }
                self.rtt_ns.saturating_record((rtt.as_nanos() as u64).max(RTT_RANGE_NS.0));
                Handled::EchoReplyMatched
            }
            Match::Late => {
                self.counts.late += 1;
                Handled::EchoReplyLate
            }
            Match::Duplicate => {
                self.counts.duplicates += 1;
                Handled::EchoReplyDuplicate
            }
            Match::TooOld => Handled::EchoReplyTooOld,
            Match::Mismatch => Handled::EchoReplyMismatched,
        })
    }

    /// Gives up the requests whose time is over.
    pub(super) fn expire(&mut self, now: Timestamp) {
        self.pending.expire(now);
    }

    /// The interface is being disabled: nothing can be answered any more, so what waits is lost.
    pub(super) fn settle(&mut self, now: Timestamp) {
        self.pending.expire(now);
        self.counts.unanswered_at_disable += self.pending.settle();
    }

    /// When [`expire`](Self::expire) would next leave nothing waiting.
    pub(super) fn deadline(&self) -> Option<Timestamp> {
        self.pending.last_deadline()
    }

    pub(super) fn stats(&self) -> InjectorStats {
        InjectorStats {
            sent: self.pending.total_sent(),
            not_sent: self.counts.not_sent,
            replies: self.pending.replies(),
            lost: self.pending.lost(),
            in_flight: self.pending.in_flight(),
            late: self.counts.late,
            duplicates: self.counts.duplicates,
            out_of_order: self.counts.out_of_order,
            rtt_ns: self.rtt_ns.clone(),
        }
    }

    /// Requests that were due and did not come to be submitted, and those cut off by disabling.
    pub(super) fn events(&self) -> [(&'static str, u64); 3] {
        [
            ("injector_no_target", self.counts.no_target),
            ("injector_unresolved", self.counts.unresolved),
            ("injector_unanswered_at_disable", self.counts.unanswered_at_disable),
        ]
    }
}

/// Writes a request into a packet that was just taken from the pool, leaving the data where it begins.
fn write(packet: &mut Packet, request: &EchoRequest, stamp: &Stamp) -> Result<(), OutOfFrame> {
    packet.set_data(packet.data_offset(), request.frame_len())?;
    packet.set_link_header_len(EchoRequest::LINK_HEADER_LEN)?;
    request.write(stamp, packet.data_mut());
    Ok(())
}
