//! Echo requests injected by the timer, and their replies.

use std::net::IpAddr;
use std::time::Duration;

use super::config::InjectorConfig;
use super::inject::TargetStats;
use super::targets::Targets;
use crate::neighbors::Neighbors;
use crate::outcome::Handled;
use crate::pending::{Match, Request};
use crate::requests::{Identity, InjectorStats, Requests, handled};
use netdext::dispatch::Timestamp;
use netdext::driver::Cx;
use netdext::packet::{Packet, PacketBatch};
use netdext::proto::Local;
use netdext::proto::echo::EchoReply;
use netdext::proto::probe::Path;

/// Requests in a row that a target that was learnt may leave unanswered before another one takes its place: two
/// batches of the default size, so ten seconds.
pub(super) const SILENT_FOR: u32 = 16;

/// The state that all instances of a run share: a reply may arrive on another queue than its request left.
#[derive(Debug)]
pub(super) struct Injector {
    targets: Targets,
    /// Whether the target is to be whoever is heard.
    learns: bool,
    requests: Requests,
    payload_len: u16,
    counts: Counts,
}

#[derive(Debug, Default)]
struct Counts {
    no_target: u64,
    unresolved: u64,
    unanswered_at_disable: u64,
    targets_replaced: u64,
}

/// Why a request was not sent.
enum Unsent {
    /// The target's MAC address is not known yet.
    Unresolved,
    /// No room to wait for the reply, a frame that is too small, or a full tx ring.
    Rejected,
}

/// Too many earlier targets still have requests that wait.
#[derive(Debug)]
pub(super) struct TooManyWaiting;

impl Injector {
    /// An injector that still looks for a target.
    pub(super) fn new(identity: Identity, config: &InjectorConfig, waiting: u64) -> Self {
        Self {
            targets: Targets::default(),
            learns: true,
            requests: Requests::new(identity, waiting, config.reply_timeout),
            payload_len: config.payload_len as u16,
            counts: Counts::default(),
        }
    }

    /// Sends so many bytes from now on, with room for `waiting` requests at the same time.
    pub(super) fn set_shape(&mut self, payload_len: usize, waiting: u64) {
        self.payload_len = payload_len as u16;
        self.requests.pending.grow(waiting);
    }

    /// Makes these the targets; none means to learn one.
    pub(super) fn set_targets(&mut self, paths: &[Path], now: Timestamp) -> Result<(), TooManyWaiting> {
        self.expire(now);
        let (next, settled) = (self.requests.pending.number(), self.requests.pending.settled());
        let forgotten = self.targets.replace(paths, next, settled).ok_or(TooManyWaiting)?;
        self.requests.pending.forget_below(forgotten);
        self.learns = paths.is_empty();
        Ok(())
    }

    /// Whether the next neighbour that is heard becomes the target: there is none yet, or the one that was
    /// learnt has fallen silent.
    pub(super) fn looks_for_target(&self) -> bool {
        self.learns && self.targets.iter().all(|target| target.silent() >= SILENT_FOR)
    }

    /// A neighbour was heard: makes it the target, if one is looked for and it is on a network of ours. Returns
    /// whether it is the target now and was not before.
    pub(super) fn heard(&mut self, address: IpAddr, local: &Local, now: Timestamp) -> bool {
        let is_target_already = self.targets.iter().any(|target| target.address() == address);
        if !self.looks_for_target() || is_target_already {
            return false;
        }
        let Some(path) = path_to(address, local) else { return false };
        let replaces = !self.targets.is_empty();
        if self.set_targets(&[path], now).is_err() {
            return false;
        }
        self.learns = true;
        self.counts.targets_replaced += u64::from(replaces);
        true
    }

    /// The addresses of the targets.
    pub(super) fn targets(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.targets.iter().map(|target| target.address())
    }

    /// One tick of the timer, due at `scheduled`: takes up to `count` packets from the pool, writes an echo request
    /// into each, and submits it. What cannot be submitted goes back to the pool. Every one of the `count` requests
    /// is counted: as sent, or by what was missing.
    pub(super) fn tick(
        &mut self,
        cx: &mut Cx<'_>,
        neighbors: &mut Neighbors,
        packets: &mut PacketBatch,
        count: usize,
        scheduled: Timestamp,
    ) {
        self.expire(cx.now);
        if self.targets.is_empty() {
            self.counts.no_target += count as u64;
            return;
        }
        let lateness = cx.now.since(scheduled);
        let taken = cx.pool.alloc_into(packets, count);
        self.requests.not_sent += (count - taken) as u64;
        let mut sent = 0;
        while let Some(packet) = packets.pop() {
            match self.send(cx, neighbors, packet, lateness) {
                Ok(()) => sent += 1,
                Err(Unsent::Unresolved) => self.counts.unresolved += 1,
                Err(Unsent::Rejected) => self.requests.not_sent += 1,
            }
        }
        self.requests.paced(lateness, sent);
    }

    fn send(
        &mut self,
        cx: &mut Cx<'_>,
        neighbors: &mut Neighbors,
        packet: Packet,
        lateness: Duration,
    ) -> Result<(), Unsent> {
        let slot = self.targets.next_in_turn().ok_or(Unsent::Rejected)?;
        let target = self.targets.slot(slot);
        let Some(destination_mac) = neighbors.resolve(target.address(), cx.now) else {
            target.unresolved();
            return Err(Unsent::Unresolved);
        };
        let request = Request::new(slot, self.payload_len, lateness);
        let sent = self.requests.send(cx, packet, target.path(), destination_mac, request);
        sent.ok_or(Unsent::Rejected)?;
        target.sent();
        Ok(())
    }

    /// An echo reply arrived at `at`. `None` if it answers a request of somebody else.
    pub(super) fn reply(&mut self, reply: &EchoReply<'_>, at: Timestamp) -> Option<Handled> {
        let targets = &mut self.targets;
        let mut answering = None;
        let (stamp, found) = self.requests.reply(reply, at, |request| {
            let target = targets.slot(request.target);
            let fits = target.address() == reply.source;
            answering = fits.then_some(target);
            fits
        })?;
        match (found, answering) {
            (Match::InTime { rtt, .. }, Some(target)) => {
                let in_order = target.answered(stamp.counter, rtt);
                self.requests.out_of_order += u64::from(!in_order);
            }
            (Match::Late { newly_lost }, Some(target)) => {
                if newly_lost {
                    target.lost();
                }
                target.late();
            }
            _ => {}
        }
        Some(handled(found))
    }

    /// Gives up the requests whose time is over.
    pub(super) fn expire(&mut self, now: Timestamp) {
        let targets = &mut self.targets;
        self.requests.pending.expire(now, |slot| targets.slot(slot).lost());
    }

    /// The interface is being disabled: nothing can be answered any more, so what waits is lost.
    pub(super) fn settle(&mut self, now: Timestamp) {
        self.expire(now);
        let targets = &mut self.targets;
        self.counts.unanswered_at_disable += self.requests.pending.settle(|slot| targets.slot(slot).lost());
    }

    /// When [`expire`](Self::expire) would next leave nothing waiting.
    pub(super) fn deadline(&self) -> Option<Timestamp> {
        self.requests.pending.last_deadline()
    }

    pub(super) fn stats(&self) -> InjectorStats {
        self.requests.stats()
    }

    /// Requests that wait for a reply.
    pub(super) fn in_flight(&self) -> u64 {
        self.requests.pending.in_flight()
    }

    pub(super) fn target_stats(&self) -> Vec<TargetStats> {
        self.targets.stats()
    }

    /// Requests that were due and did not come to be submitted, those cut off by disabling, and how often a
    /// target that was learnt gave way to another one.
    pub(super) fn events(&self) -> [(&'static str, u64); 4] {
        [
            ("injector_no_target", self.counts.no_target),
            ("injector_unresolved", self.counts.unresolved),
            ("injector_unanswered_at_disable", self.counts.unanswered_at_disable),
            ("injector_targets_replaced", self.counts.targets_replaced),
        ]
    }
}

/// Between which addresses requests to `address` go; `None` if it is on no network of ours.
pub(super) fn path_to(address: IpAddr, local: &Local) -> Option<Path> {
    Path::between(local.source_for(address)?, address)
}
