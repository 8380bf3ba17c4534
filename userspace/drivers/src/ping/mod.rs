//! A probe: echo requests to one target, near or behind a gateway, and what came back of them.
//!
//! ```text
//!  Ping::new -> (ping, events)                worker                       front end
//!                                             resolve the next hop
//!                                             request, every interval
//!                                             reply  --- PingEvent ------> a line each
//!                                             all sent and settled ------> PingEvent::Finished
//!  ping.results() <- after the end
//! ```
//! The probe is a station of its own on the link: it owns an address that the kernel must not have, answers ARP,
//! neighbour discovery and echo requests for it, and so takes nothing from the host.
//!
//! A request carries the time when it was written; the reply's time is that at which the XDP program saw it. So a
//! round trip has no waiting in a ring or for a thread in it on the way back.

mod config;
mod receive;
mod state;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fastrand::Rng;
use netdext_abi::parse;
use tokio::sync::mpsc;

pub use self::config::{KnownMac, NextHop, PingConfig, PingConfigError};
use self::receive::Probe;
use self::state::State;
use crate::neighbors::send_solicit;
use crate::requests::{Identity, InjectorStats, check_payload};
use crate::station::Responder;
use netdext::dispatch::{Fired, TimerId};
use netdext::driver::{
    Cx, DeviceInfo, Driver, DriverError, DriverFactory, DriverStats, PortId, Requirements, RxTimestamps,
};
use netdext::packet::PacketBatch;
use netdext::proto::Local;

const NAME: &str = "ping";

/// Replies that may wait to be told to the front end; what does not fit is counted and left out.
const EVENTS: usize = 16_384;

/// How often to look whether the next hop has answered, before the first request.
const RESOLVE_PAUSE: Duration = Duration::from_millis(1);

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PingEvent {
    /// A reply to a request of ours.
    Reply(Reply),
    /// The next hop does not say its MAC address, and nothing was sent.
    NextHopSilent,
    /// Every request was sent, and was answered or given up.
    Finished,
}

/// One reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The number of the request, from 0.
    pub sequence: u64,
    /// Bytes of ICMP payload.
    pub payload_len: usize,
    /// Time to live or hop limit of the reply.
    pub hop_limit: u8,
    /// From the writing of the request to the XDP program's sight of the reply.
    pub rtt: Duration,
    /// Whether it is the one waited for.
    pub kind: ReplyKind,
    /// It came after the reply to a later request.
    pub reordered: bool,
}

/// What a reply is to its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyKind {
    /// The first, in time.
    InTime,
    /// The first, after the timeout.
    Late,
    /// A further one.
    Duplicate,
}

/// The counts of a run. `sent == received + lost` once it has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PingResults {
    /// Requests submitted to the tx ring.
    pub sent: u64,
    /// Requests that were due and could not be submitted.
    pub not_sent: u64,
    /// Requests answered in time.
    pub received: u64,
    /// Requests not answered in time.
    pub lost: u64,
    /// Replies after the time limit.
    pub late: u64,
    /// Further replies to the same request.
    pub duplicates: u64,
    /// Of `received`, those that came after the reply to a later request.
    pub reordered: u64,
    /// Replies that the front end was too slow to be told of.
    pub left_out: u64,
    /// Round-trip times of `received`; `None` if there was none.
    pub rtt: Option<RoundTrip>,
}

/// The distribution of the round-trip times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoundTrip {
    /// The shortest.
    pub min: Duration,
    /// The median.
    pub p50: Duration,
    /// 90 of 100 are not above.
    pub p90: Duration,
    /// 99 of 100 are not above.
    pub p99: Duration,
    /// 999 of 1000 are not above.
    pub p999: Duration,
    /// The longest.
    pub max: Duration,
}

/// One run: makes its instances, and has its counts.
#[derive(Clone, Debug)]
pub struct Ping {
    config: Arc<PingConfig>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// Whether one of the instances already leads: it has the timers and reports the shared counts.
    led: AtomicBool,
    state: Mutex<State>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Counts stay usable when another instance panicked while it held the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ping {
    /// Checks the configuration. Identifier and token of the requests come from `seed`. The receiver is told what
    /// happens; it may be slow, which costs it replies but not the end, or dropped.
    ///
    /// # Errors
    ///
    /// [`PingConfigError`].
    pub fn new(config: PingConfig, seed: u64) -> Result<(Self, mpsc::Receiver<PingEvent>), PingConfigError> {
        let mut rng = Rng::with_seed(seed);
        let (sender, events) = mpsc::channel(EVENTS + 1);
        let state = State::new(&config, Identity::new(&mut rng), sender)?;
        let shared = Shared { led: AtomicBool::new(false), state: Mutex::new(state) };
        Ok((Self { config: Arc::new(config), shared: Arc::new(shared) }, events))
    }

    /// The counts now.
    pub fn results(&self) -> PingResults {
        self.shared.lock().results()
    }

    /// Makes the instances, one for each queue.
    pub fn factory(&self) -> DriverFactory {
        let Self { config, shared } = self.clone();
        let build = move |_queue| -> Box<dyn Driver> {
            Box::new(PingDriver {
                config: Arc::clone(&config),
                shared: Arc::clone(&shared),
                responder: Responder::new(true),
                leads: false,
                timers: None,
            })
        };
        // The time of a reply is that of the XDP program.
        DriverFactory::new(NAME, build)
            .requiring(Requirements::default().rx_timestamps(RxTimestamps::EchoReplies))
    }
}

/// One instance of the probe.
#[derive(Debug)]
struct PingDriver {
    config: Arc<PingConfig>,
    shared: Arc<Shared>,
    responder: Responder,
    leads: bool,
    timers: Option<Timers>,
}

#[derive(Clone, Copy, Debug)]
struct Timers {
    /// Sends requests, once the next hop is known.
    probe: TimerId,
    /// Asks for the next hop again, and gives up requests that nobody answers.
    housekeeping: TimerId,
}

impl PingDriver {
    /// Sends what is due, or waits on for the next hop.
    fn probe(&self, cx: &mut Cx<'_>, state: &mut State, fired: Fired, begun: bool) {
        let timer = fired.id;
        if let Some(mac) = state.resolve(&self.config, cx.now) {
            // The first request goes when the next hop is known: there was no plan for it.
            let lateness = if begun { cx.now.since(fired.scheduled) } else { Duration::ZERO };
            state.send(cx, mac, self.config.payload_len, lateness);
            if state.all_sent(&self.config) {
                cx.timers.cancel(timer);
            } else if !begun {
                cx.timers.arm_periodic(timer, cx.now + self.config.interval, self.config.interval);
            }
        } else if state.gave_up() {
            state.tell_end(PingEvent::NextHopSilent);
            cx.timers.cancel(timer);
        } else {
            cx.timers.arm_once(timer, cx.now + RESOLVE_PAUSE);
        }
    }

    fn keep_house(&self, cx: &mut Cx<'_>, state: &mut State, timer: TimerId) {
        state.expire(&self.config, cx.now);
        while let Some(solicit) = state.neighbors.pop_due(cx.now) {
            // An unsent request is repeated like an unanswered one.
            let _ = send_solicit(cx, self.config.source, solicit);
        }
        match state.deadline() {
            Some(deadline) => cx.timers.arm_once(timer, deadline.max(cx.now + RESOLVE_PAUSE)),
            None => cx.timers.cancel(timer),
        }
    }
}

impl Driver for PingDriver {
    fn name(&self) -> &'static str {
        NAME
    }

    fn init(&mut self, devices: &[DeviceInfo]) -> Result<(), DriverError> {
        let device = &devices[0];
        self.responder.local = Local::new(device.mac, &device.addresses);
        self.leads = !self.shared.led.swap(true, Ordering::Relaxed);
        check_payload(self.config.payload_len, device.mtu, self.config.target.is_ipv6())
            .map_err(|reason| DriverError { driver: NAME, operation: "init", reason })
    }

    fn start(&mut self, cx: &mut Cx<'_>) -> Result<(), DriverError> {
        if self.leads {
            self.timers = Some(Timers {
                probe: cx.timers.create("probe"),
                housekeeping: cx.timers.create("housekeeping"),
            });
        }
        Ok(())
    }

    fn set_interface_enable(
        &mut self,
        cx: &mut Cx<'_>,
        _port: PortId,
        enable: bool,
    ) -> Result<(), DriverError> {
        let Some(timers) = self.timers else { return Ok(()) };
        let state = &mut *self.shared.lock();
        if enable {
            state.believe(&self.config, cx.now);
            // Asked for now, so that the first request need not wait.
            state.resolve(&self.config, cx.now);
            self.keep_house(cx, state, timers.housekeeping);
            if !state.all_sent(&self.config) {
                cx.timers.arm_once(timers.probe, cx.now);
            }
        } else {
            cx.timers.cancel(timers.probe);
            cx.timers.cancel(timers.housekeeping);
            state.settle(cx.now);
        }
        Ok(())
    }

    fn rx_packets(&mut self, cx: &mut Cx<'_>, _port: PortId, batch: &mut PacketBatch) {
        let state = &mut *self.shared.lock();
        while let Some(packet) = batch.pop() {
            let parsed = parse(packet.data());
            self.responder.complete(cx, packet, &parsed, &mut Probe { config: &self.config, state });
        }
    }

    fn timer(&mut self, cx: &mut Cx<'_>, fired: Fired) {
        let Some(timers) = self.timers else { return };
        let state = &mut *self.shared.lock();
        if fired.id == timers.probe {
            // A timer that fires once is not armed any more: that is how the wait for the next hop ends.
            let begun = cx.timers.is_armed(timers.probe);
            self.probe(cx, state, fired, begun);
        }
        self.keep_house(cx, state, timers.housekeeping);
    }

    fn stop(&mut self, cx: &mut Cx<'_>) {
        if self.leads {
            self.shared.lock().settle(cx.now);
        }
    }

    fn pending(&self) -> u64 {
        if self.leads { self.shared.lock().requests.pending.in_flight() } else { 0 }
    }

    fn stats(&self) -> DriverStats {
        let mut stats = DriverStats {
            counters: self.responder.outcomes.counters(),
            drops: self.responder.outcomes.drops(),
            ..DriverStats::default()
        };
        if self.leads {
            let state = self.shared.lock();
            stats.events = vec![("neighbors_unreachable", state.neighbors.failed())];
            stats.groups.push((InjectorStats::GROUP, state.requests.stats().metrics()));
        }
        stats
    }
}
