//! What all instances of one run share: the reply may arrive on another queue than its request left.

use std::net::IpAddr;
use std::time::Duration;

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{OwnedPermit, Sender};

use super::config::{KnownMac, PingConfig, PingConfigError};
use super::{PingEvent, PingResults, Reply, ReplyKind};
use crate::neighbors::{NeighborConfig, Neighbors};
use crate::sample::injector::InjectorStats;
use crate::sample::outcome::Handled;
use crate::sample::pending::{Match, Pending, Request};
use netdext::dispatch::Timestamp;
use netdext::driver::{Cx, PortId};
use netdext::metrics::Histogram;
use netdext::packet::OutOfFrame;
use netdext::proto::MacAddr;
use netdext::proto::echo::EchoReply;
use netdext::proto::probe::{EchoRequest, Path, Stamp, is_intact};

/// The shortest round-trip time that is recorded, in ns.
const SHORTEST_NS: u64 = 1;

/// The requests, their replies, and the way there.
#[derive(Debug)]
pub(super) struct State {
    pub(super) neighbors: Neighbors,
    path: Path,
    identifier: u16,
    token: u32,
    pending: Pending,
    /// The last MAC address that the next hop had: used until it says another.
    mac: Option<MacAddr>,
    latest_answered: Option<u64>,
    not_sent: u64,
    late: u64,
    duplicates: u64,
    reordered: u64,
    rtt_ns: Histogram,
    rtt_from_schedule_ns: Histogram,
    pacing_error_ns: Histogram,
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
        identifier: u16,
        token: u32,
        events: Sender<PingEvent>,
    ) -> Result<Self, PingConfigError> {
        let waiting = config.waiting()?;
        let path = match (config.source, config.target) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => Path::V4 { source, destination },
            (IpAddr::V6(source), IpAddr::V6(destination)) => Path::V6 { source, destination },
            _ => unreachable!("families were compared"),
        };
        Ok(Self {
            neighbors: Neighbors::new(NeighborConfig { capacity: 1, ..NeighborConfig::default() }),
            path,
            identifier,
            token,
            pending: Pending::new(waiting, config.timeout),
            mac: match config.next_hop.mac {
                KnownMac::Fixed(mac) => Some(mac),
                KnownMac::Heard(_) | KnownMac::Unknown => None,
            },
            latest_answered: None,
            not_sent: 0,
            late: 0,
            duplicates: 0,
            reordered: 0,
            rtt_ns: Histogram::new(),
            rtt_from_schedule_ns: Histogram::new(),
            pacing_error_ns: Histogram::new(),
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
        self.pending.expire(cx.now, |_| ());
        match self.try_send(cx, destination_mac, payload_len, lateness) {
            Some(()) => self.pacing_error_ns.record(lateness.as_nanos() as u64),
            None => self.not_sent += 1,
        }
    }

    fn try_send(
        &mut self,
        cx: &mut Cx<'_>,
        destination_mac: MacAddr,
        payload_len: usize,
        lateness: Duration,
    ) -> Option<()> {
        let counter = self.pending.next()?;
        let mut packet = cx.pool.alloc()?;
        let request = EchoRequest {
            source_mac: cx.device(PortId::FIRST).mac,
            destination_mac,
            path: self.path,
            identifier: self.identifier,
            payload_len,
        };
        let stamp = Stamp { token: self.token, counter, sent: cx.now };
        let mut write = || -> Result<(), OutOfFrame> {
            packet.set_data(packet.data_offset(), request.frame_len())?;
            packet.set_link_header_len(EchoRequest::LINK_HEADER_LEN)?;
            request.write(&stamp, packet.data_mut());
            Ok(())
        };
        write().ok()?;
        cx.tx(PortId::FIRST).submit(packet).ok()?;
        let lateness_ns = u32::try_from(lateness.as_nanos()).unwrap_or(u32::MAX);
        self.pending.sent(Request { lateness_ns, ..Request::default() }, cx.now);
        Some(())
    }

    /// An echo reply arrived at `at`. `None` if it answers a request of somebody else.
    pub(super) fn reply(
        &mut self,
        config: &PingConfig,
        reply: &EchoReply<'_>,
        hop_limit: u8,
        at: Timestamp,
    ) -> Option<Handled> {
        let stamp = Stamp::read(reply.payload)?;
        if stamp.token != self.token || reply.identifier != self.identifier {
            return None;
        }
        let is_intact = reply.sequence == stamp.sequence()
            && reply.payload.len() == config.payload_len
            && is_intact(reply.payload);
        if !is_intact {
            return Some(Handled::EchoReplyMismatched);
        }
        let from_target = reply.source == config.target;
        let found = self.pending.reply(stamp.counter, stamp.sent, at, |_| from_target);
        let mut reordered = false;
        let (kind, handled) = match found {
            Match::InTime { rtt, lateness } => {
                reordered = self.latest_answered.is_some_and(|latest| latest > stamp.counter);
                if reordered {
                    self.reordered += 1;
                } else {
                    self.latest_answered = Some(stamp.counter);
                }
                self.rtt_ns.record((rtt.as_nanos() as u64).max(SHORTEST_NS));
                let from_schedule = (rtt + lateness).as_nanos() as u64;
                self.rtt_from_schedule_ns.record(from_schedule.max(SHORTEST_NS));
                (ReplyKind::InTime, Handled::EchoReplyMatched)
            }
            Match::Late { .. } => {
                self.late += 1;
                (ReplyKind::Late, Handled::EchoReplyLate)
            }
            Match::Duplicate => {
                self.duplicates += 1;
                (ReplyKind::Duplicate, Handled::EchoReplyDuplicate)
            }
            Match::TooOld => return Some(Handled::EchoReplyTooOld),
            Match::Mismatch => return Some(Handled::EchoReplyMismatched),
        };
        self.tell(Reply {
            sequence: stamp.counter,
            payload_len: reply.payload.len(),
            hop_limit,
            rtt: at.since(stamp.sent),
            kind,
            reordered,
        });
        Some(handled)
    }

    /// Gives up what waited too long, and says so once when nothing is left to be sent or to come.
    pub(super) fn expire(&mut self, config: &PingConfig, now: Timestamp) {
        self.pending.expire(now, |_| ());
        self.tell_if_finished(config);
    }

    /// Says once that nothing is left to be sent or to come.
    pub(super) fn tell_if_finished(&mut self, config: &PingConfig) {
        if !self.finished && self.all_sent(config) && self.pending.in_flight() == 0 {
            self.finished = true;
            self.tell_end(PingEvent::Finished);
        }
    }

    /// The interface is being disabled: nothing can be answered any more.
    pub(super) fn settle(&mut self, now: Timestamp) {
        self.pending.expire(now, |_| ());
        self.pending.settle(|_| ());
    }

    /// Whether every request that was asked for has been sent.
    pub(super) fn all_sent(&self, config: &PingConfig) -> bool {
        config.count.is_some_and(|count| self.pending.total_sent() >= count)
    }

    /// When there is something to expire or to ask.
    pub(super) fn deadline(&self) -> Option<Timestamp> {
        [self.neighbors.next_deadline(), self.pending.last_deadline()].into_iter().flatten().min()
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

    pub(super) fn in_flight(&self) -> u64 {
        self.pending.in_flight()
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
            out_of_order: self.reordered,
            rtt_ns: self.rtt_ns.clone(),
            rtt_from_schedule_ns: self.rtt_from_schedule_ns.clone(),
            pacing_error_ns: self.pacing_error_ns.clone(),
        }
    }

    pub(super) fn results(&self) -> PingResults {
        let quantile = |q| Duration::from_nanos(self.rtt_ns.at(q));
        PingResults {
            sent: self.pending.total_sent(),
            not_sent: self.not_sent,
            received: self.pending.replies(),
            lost: self.pending.lost(),
            late: self.late,
            duplicates: self.duplicates,
            reordered: self.reordered,
            left_out: self.left_out,
            rtt: (!self.rtt_ns.is_empty()).then(|| super::RoundTrip {
                min: Duration::from_nanos(self.rtt_ns.min()),
                p50: quantile(0.5),
                p90: quantile(0.9),
                p99: quantile(0.99),
                p999: quantile(0.999),
                max: Duration::from_nanos(self.rtt_ns.max()),
            }),
        }
    }
}
