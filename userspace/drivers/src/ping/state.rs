//! What all instances of one run share: the reply may arrive on another queue than its request left.

use std::time::Duration;

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{OwnedPermit, Sender};

use super::config::{KnownMac, PingConfig, PingConfigError};
use super::{PingEvent, PingResults, Reply, ReplyKind};
use crate::neighbors::{NeighborConfig, Neighbors};
use crate::outcome::Handled;
use crate::pending::{Match, Request};
use crate::requests::{Identity, Requests, handled};
use netdext::dispatch::Timestamp;
use netdext::driver::Cx;
use netdext::proto::MacAddr;
use netdext::proto::echo::EchoReply;
use netdext::proto::probe::Path;

/// The requests, their replies, and the way there.
#[derive(Debug)]
pub(super) struct State {
    pub(super) neighbors: Neighbors,
    path: Path,
    pub(super) requests: Requests,
    /// The last MAC address that the next hop had: used until it says another.
    mac: Option<MacAddr>,
    latest_answered: Option<u64>,
    events: Sender<PingEvent>,
    /// The place of the event that ends the run, which must not be lost: the front end waits for it.
    end: Option<OwnedPermit<PingEvent>>,
    /// Replies that were left out because nobody took them in time.
    left_out: u64,
    finished: bool,
}

impl State {
    pub(super) fn new(
        config: &PingConfig,
        identity: Identity,
        events: Sender<PingEvent>,
    ) -> Result<Self, PingConfigError> {
        let waiting = config.waiting()?;
        let path = Path::between(config.source, config.target)
            .unwrap_or_else(|| unreachable!("families were compared"));
        Ok(Self {
            neighbors: Neighbors::new(NeighborConfig { capacity: 1, ..NeighborConfig::default() }),
            path,
            requests: Requests::new(identity, waiting, config.timeout),
            mac: match config.next_hop.mac {
                KnownMac::Fixed(mac) => Some(mac),
                KnownMac::Heard(_) | KnownMac::Unknown => None,
            },
            latest_answered: None,
            end: events.clone().try_reserve_owned().ok(),
            events,
            left_out: 0,
            finished: false,
        })
    }

    /// Where to send to, if that is known. Begins to ask where it is not.
    pub(super) fn resolve(&mut self, config: &PingConfig, now: Timestamp) -> Option<MacAddr> {
        if !matches!(config.next_hop.mac, KnownMac::Fixed(_)) {
            self.mac = self.neighbors.resolve(config.next_hop.address, now).or(self.mac);
        }
        self.mac
    }

    /// Uses what the kernel knew, until the next hop says itself.
    pub(super) fn believe(&mut self, config: &PingConfig, now: Timestamp) {
        if let (KnownMac::Heard(mac), None) = (config.next_hop.mac, self.mac) {
            self.neighbors.learn(config.next_hop.address, mac, now);
        }
    }

    /// The next hop was asked as often as is polite, and never answered.
    pub(super) fn gave_up(&self) -> bool {
        self.mac.is_none() && self.neighbors.failed() > 0
    }

    /// Sends one request, `lateness` after it was planned. What cannot be sent is counted and goes back to the
    /// pool.
    pub(super) fn send(
        &mut self,
        cx: &mut Cx<'_>,
        destination_mac: MacAddr,
        payload_len: usize,
        lateness: Duration,
    ) {
        self.requests.pending.expire(cx.now, |_| ());
        let request = Request::new(0, payload_len as u16, lateness);
        let sent = cx
            .pool
            .alloc()
            .and_then(|packet| self.requests.send(cx, packet, self.path, destination_mac, request));
        match sent {
            Some(()) => self.requests.paced(lateness, 1),
            None => self.requests.not_sent += 1,
        }
    }

    /// An echo reply arrived at `at`. `None` if it answers a request of somebody else.
    pub(super) fn reply(
        &mut self,
        config: &PingConfig,
        reply: &EchoReply<'_>,
        hop_limit: u8,
        at: Timestamp,
    ) -> Option<Handled> {
        let (stamp, found) = self.requests.reply(reply, at, |_| reply.source == config.target)?;
        let mut reordered = false;
        let kind = match found {
            Match::InTime { .. } => {
                reordered = self.latest_answered.is_some_and(|latest| latest > stamp.counter);
                self.latest_answered = self.latest_answered.max(Some(stamp.counter));
                self.requests.out_of_order += u64::from(reordered);
                ReplyKind::InTime
            }
            Match::Late { .. } => ReplyKind::Late,
            Match::Duplicate => ReplyKind::Duplicate,
            Match::TooOld | Match::Mismatch => return Some(handled(found)),
        };
        self.tell(Reply {
            sequence: stamp.counter,
            payload_len: reply.payload.len(),
            hop_limit,
            rtt: at.since(stamp.sent),
            kind,
            reordered,
        });
        Some(handled(found))
    }

    /// Gives up what waited too long, and says so once when nothing is left to be sent or to come.
    pub(super) fn expire(&mut self, config: &PingConfig, now: Timestamp) {
        self.requests.pending.expire(now, |_| ());
        self.tell_if_finished(config);
    }

    /// Says once that nothing is left to be sent or to come.
    pub(super) fn tell_if_finished(&mut self, config: &PingConfig) {
        if !self.finished && self.all_sent(config) && self.requests.pending.in_flight() == 0 {
            self.finished = true;
            self.tell_end(PingEvent::Finished);
        }
    }

    /// The interface is being disabled: nothing can be answered any more.
    pub(super) fn settle(&mut self, now: Timestamp) {
        self.requests.pending.expire(now, |_| ());
        self.requests.pending.settle(|_| ());
    }

    /// Whether every request that was asked for has been sent.
    pub(super) fn all_sent(&self, config: &PingConfig) -> bool {
        config.count.is_some_and(|count| self.requests.pending.total_sent() >= count)
    }

    /// When there is something to expire or to ask.
    pub(super) fn deadline(&self) -> Option<Timestamp> {
        [self.neighbors.next_deadline(), self.requests.pending.last_deadline()].into_iter().flatten().min()
    }

    /// Tells the front end that nothing more comes, once.
    pub(super) fn tell_end(&mut self, event: PingEvent) {
        if let Some(place) = self.end.take() {
            place.send(event);
        }
    }

    /// Tells the front end of a reply; never waits for it.
    fn tell(&mut self, reply: Reply) {
        match self.events.try_send(PingEvent::Reply(reply)) {
            // Nobody listens any more: the run is being stopped.
            Ok(()) | Err(TrySendError::Closed(_)) => {}
            Err(TrySendError::Full(_)) => self.left_out += 1,
        }
    }

    pub(super) fn results(&self) -> PingResults {
        let Requests { pending, not_sent, late, duplicates, out_of_order, rtt_ns, .. } = &self.requests;
        let quantile = |q| Duration::from_nanos(rtt_ns.at(q));
        PingResults {
            sent: pending.total_sent(),
            not_sent: *not_sent,
            received: pending.replies(),
            lost: pending.lost(),
            late: *late,
            duplicates: *duplicates,
            reordered: *out_of_order,
            left_out: self.left_out,
            rtt: (!rtt_ns.is_empty()).then(|| super::RoundTrip {
                min: Duration::from_nanos(rtt_ns.min()),
                p50: quantile(0.5),
                p90: quantile(0.9),
                p99: quantile(0.99),
                p999: quantile(0.999),
                max: Duration::from_nanos(rtt_ns.max()),
            }),
        }
    }
}
