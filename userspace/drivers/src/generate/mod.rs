//! The generator: sends frames on a schedule, or as fast as the tx ring takes them, and counts what comes back.
//!
//! One [`factory`] makes the instances of one run, one for each queue; rate and count are divided among
//! them. The departure of a frame is when it is handed to the tx ring; the kernel is called right after. A paced
//! generator records for every frame how much later than planned that was, also for those that had to wait for room
//! in the ring, so that a stall shows in full (no coordinated omission).
//!
//! The same frames come much faster from `netdext_host::xdp::traffic`, which writes them inside an XDP program.

mod config;
mod frame;
#[cfg(feature = "cli")]
mod options;
mod schedule;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use netdext_abi::{Kind, Parsed, parse};
use tokio::sync::Notify;

pub use config::{FCS_LEN, GenerateConfig, GenerateConfigError, MAX_FLOWS, Rate, SHORTEST, SizeMix};
pub use frame::{Endpoints, FrameKind, Template, TemplateError, UnknownFrameKind};
#[cfg(feature = "cli")]
pub use options::{NotARate, Options};

use self::schedule::Schedule;
use netdext::dispatch::{Fired, TimerId, Timestamp};
use netdext::driver::{Cx, DeviceInfo, Driver, DriverError, DriverFactory, DriverStats, PortId};
use netdext::metrics::{Histogram, Metric, Metrics};
use netdext::packet::{Packet, PacketBatch};
use netdext::proto::{Local, arp, ndp};
use netdext::queue::{RejectReason, Rejected};

const NAME: &str = "generate";

/// Frames sent before the other rings get their turn.
const BURST: usize = 64;

/// The pause when the pool has no frame: they come back with completions.
const NO_FRAME_PAUSE: Duration = Duration::from_micros(50);

/// The shortest pacing error that is recorded, in ns.
const SHORTEST_NS: u64 = 1;

/// How many instances have sent all that they were to send.
#[derive(Debug, Default)]
struct Finished {
    instances: AtomicU32,
    all: Notify,
}

/// Makes the instances of one run. They have finished when every one has sent all its frames of
/// [`GenerateConfig::count`]; the replies to the last ones may still be on their way.
///
/// # Errors
///
/// [`GenerateConfigError`] when the configuration cannot work.
pub fn factory(config: GenerateConfig) -> Result<DriverFactory, GenerateConfigError> {
    config.check()?;
    let finished = Arc::new(Finished::default());
    let all = Arc::clone(&finished);
    let build = move |_queue| -> Box<dyn Driver> {
        Box::new(Generate {
            config: config.clone(),
            finished: Arc::clone(&finished),
            local: Local::default(),
            templates: Vec::new(),
            timer: None,
            left: None,
            // What the device says of its queues is known in `init`.
            queue: (0, 1),
            schedule: None,
            sequence: 0,
            turn: 0,
            flow: 0,
            stats: Sent::default(),
            received: Received::default(),
        })
    };
    Ok(DriverFactory::new(NAME, build).finishing(move || {
        let finished = Arc::clone(&all);
        async move { finished.all.notified().await }
    }))
}

/// What was received, by what it is.
#[derive(Debug, Default)]
struct Received {
    replies: u64,
    neighbors_answered: u64,
    other: u64,
    malformed: u64,
    not_sent: u64,
}

/// What was sent.
#[derive(Debug, Default)]
struct Sent {
    /// Frames submitted to the tx ring.
    sent: u64,
    /// Departures that were so late that they were left out.
    skipped: u64,
    /// Times the pool had no frame for one that was due.
    no_frame: u64,
    /// Frames that the tx ring refused although it had room.
    refused: u64,
    /// The first departure.
    first: Option<Timestamp>,
    /// The latest departure.
    last: Option<Timestamp>,
    /// For every frame with a planned departure: actual minus planned, in ns.
    pacing_error_ns: Histogram,
}

impl Sent {
    fn metrics(&self) -> Metrics {
        let sending = self.first.zip(self.last).map_or(Duration::ZERO, |(first, last)| last.since(first));
        let rate = if sending.is_zero() { 0.0 } else { self.sent as f64 / sending.as_secs_f64() };
        Metrics::default()
            .counter("sent", self.sent)
            .counter("skipped", self.skipped)
            .counter("no_frame", self.no_frame)
            .counter("refused", self.refused)
            // The instances send at the same time.
            .with("sending_ns", Metric::Maximum(sending.as_nanos() as i64))
            .gauge("rate_pps", rate as i64)
            .histogram("pacing_error_ns", &self.pacing_error_ns)
    }
}

/// One instance of the generator.
#[derive(Debug)]
pub struct Generate {
    config: GenerateConfig,
    finished: Arc<Finished>,
    local: Local,
    /// One for each of the sizes.
    templates: Vec<Template>,
    timer: Option<TimerId>,
    /// Frames still to be sent; `None` without an end.
    left: Option<u64>,
    /// This instance's queue, and how many there are.
    queue: (u32, u32),
    schedule: Option<Schedule>,
    sequence: u64,
    turn: usize,
    flow: u32,
    stats: Sent,
    received: Received,
}

/// Why a burst ended.
enum Pause {
    /// The next departure is not due yet, or others have to get their turn.
    Until(Timestamp),
    /// The ring is full: `tx_packet_available` goes on.
    RingFull,
    /// All is sent.
    Done,
}

fn init_error(reason: String) -> DriverError {
    DriverError { driver: NAME, operation: "init", reason }
}

/// The address to send from: on the target's network if there is one, else any of its family.
fn source_for(local: &Local, device: &DeviceInfo, target: IpAddr) -> Result<IpAddr, DriverError> {
    let any = || device.addresses.iter().map(|(ip, _)| *ip).find(|ip| ip.is_ipv4() == target.is_ipv4());
    local.source_for(target).or_else(any).ok_or_else(|| {
        let family = if target.is_ipv4() { "IPv4" } else { "IPv6" };
        init_error(format!(
            "{} has no {family} address to send to {target} from: add one with --addr",
            device.name
        ))
    })
}

impl Generate {
    fn make_templates(&self, device: &DeviceInfo) -> Result<Vec<Template>, DriverError> {
        let ends = Endpoints {
            source_mac: device.mac,
            destination_mac: self.config.destination_mac,
            source: source_for(&self.local, device, self.config.target)?,
            target: self.config.target,
        };
        let longest = device.mtu + netdext_abi::parse::ETHERNET_LEN + FCS_LEN;
        let template = |&size: &usize| {
            if size > longest {
                let (name, mtu) = (&device.name, device.mtu);
                return Err(init_error(format!(
                    "frames of {size} bytes do not fit the MTU of {name}, {mtu}: {longest} is the longest"
                )));
            }
            Template::new(self.config.frames, &ends, size).map_err(|error| init_error(error.to_string()))
        };
        self.config.sizes.sizes().iter().map(template).collect()
    }

    /// Sends what is due, at most a burst of it, and arms the timer for what follows.
    fn advance(&mut self, cx: &mut Cx<'_>) {
        let Some(timer) = self.timer else { return };
        match self.burst(cx) {
            Pause::Until(due) => cx.timers.arm_once(timer, due),
            Pause::RingFull => cx.timers.cancel(timer),
            Pause::Done => {
                cx.timers.cancel(timer);
                self.left = None;
                self.schedule = None;
                self.timer = None;
                if self.finished.instances.fetch_add(1, Ordering::Relaxed) + 1 == self.queue.1 {
                    self.finished.all.notify_one();
                }
            }
        }
    }

    fn burst(&mut self, cx: &mut Cx<'_>) -> Pause {
        if let Some(schedule) = &mut self.schedule {
            self.stats.skipped += schedule.skip_missed(cx.now);
        }
        for _ in 0..BURST {
            if self.left == Some(0) {
                return Pause::Done;
            }
            if let Some(due) = self.schedule.map(|schedule| schedule.next_due())
                && due > cx.now
            {
                return Pause::Until(due);
            }
            let Some(packet) = cx.pool.alloc() else {
                self.stats.no_frame += 1;
                return Pause::Until(cx.now + NO_FRAME_PAUSE);
            };
            if self.send(cx, packet).is_none() {
                return Pause::RingFull;
            }
        }
        // In the next step, not in this one, so that the rings come first.
        Pause::Until(cx.now + Duration::from_nanos(1))
    }

    /// Writes the next frame and submits it. `None` when the ring has no room: then it stays the next one.
    fn send(&mut self, cx: &mut Cx<'_>, mut packet: Packet) -> Option<()> {
        let round = self.config.sizes.round();
        let template = &self.templates[usize::from(round[self.turn])];
        let written = packet.set_data_len(template.len()).map(|()| {
            template.write(packet.data_mut(), self.flow as u16, self.sequence);
        });
        match written.map(|()| cx.tx(PortId::FIRST).submit(packet)) {
            Ok(Ok(())) => self.stats.sent += 1,
            Ok(Err(Rejected { reason: RejectReason::Full, .. })) => return None,
            // Never, as frames of the device's MTU fit the pool's; if so, it must not be tried for ever.
            Ok(Err(_)) | Err(_) => self.stats.refused += 1,
        }
        self.turn = (self.turn + 1) % round.len();
        self.flow = (self.flow + 1) % self.config.flows;
        self.sequence += 1;
        if let Some(left) = &mut self.left {
            *left -= 1;
        }
        self.stats.first.get_or_insert(cx.now);
        self.stats.last = Some(cx.now);
        if let Some(due) = self.schedule.as_mut().and_then(|schedule| schedule.pop_due(cx.now)) {
            let error = cx.now.since(due).as_nanos() as u64;
            self.stats.pacing_error_ns.record(error.max(SHORTEST_NS));
        }
        Some(())
    }

    /// Answers a request for our MAC address, so that who answers us can find us; counts everything else.
    fn receive(&mut self, cx: &mut Cx<'_>, mut packet: Packet) {
        let Ok(parsed) = parse(packet.data()) else {
            self.received.malformed += 1;
            return;
        };
        let answered = match parsed.kind {
            Kind::Echo4Reply | Kind::Echo6Reply => {
                self.received.replies += 1;
                return;
            }
            Kind::ArpRequest => self.answer_arp(&mut packet, &parsed),
            Kind::NeighborSolicitation => self.answer_solicitation(&mut packet, &parsed),
            _ => None,
        };
        match answered.map(|()| cx.tx(PortId::FIRST).submit(packet)) {
            None => self.received.other += 1,
            Some(Ok(())) => self.received.neighbors_answered += 1,
            Some(Err(_rejected)) => self.received.not_sent += 1,
        }
    }

    fn answer_arp(&self, packet: &mut Packet, parsed: &Parsed) -> Option<()> {
        let request = arp::read(packet.data(), parsed, &self.local).ok()?;
        let len = arp::answer(packet.data_mut(), parsed, &request, &self.local).ok()?;
        packet.set_data_len(len).ok()
    }

    fn answer_solicitation(&self, packet: &mut Packet, parsed: &Parsed) -> Option<()> {
        let solicitation = ndp::read_solicitation(packet.data(), parsed, &self.local).ok()?;
        packet.set_data_len(ndp::Solicitation::answer_len(parsed.link_header_len.into())).ok()?;
        solicitation.answer(packet.data_mut(), parsed, &self.local);
        Some(())
    }
}

impl Driver for Generate {
    fn name(&self) -> &'static str {
        NAME
    }

    fn init(&mut self, devices: &[DeviceInfo]) -> Result<(), DriverError> {
        let device = &devices[0];
        self.local = Local::new(device.mac, &device.addresses);
        self.templates = self.make_templates(device)?;
        self.queue = (device.queue, device.queues.max(1));
        let (queue, queues) = (u64::from(self.queue.0), u64::from(self.queue.1));
        // The first queues take what does not divide evenly.
        self.left = self.config.count.map(|count| count / queues + u64::from(queue < count % queues));
        // Neighbouring queues begin with different flows.
        self.flow = (u64::from(self.config.flows) * queue / queues) as u32;
        Ok(())
    }

    fn start(&mut self, cx: &mut Cx<'_>) -> Result<(), DriverError> {
        self.timer = Some(cx.timers.create("departures"));
        Ok(())
    }

    fn set_interface_enable(
        &mut self,
        cx: &mut Cx<'_>,
        _port: PortId,
        enable: bool,
    ) -> Result<(), DriverError> {
        let Some(timer) = self.timer else { return Ok(()) };
        if !enable {
            cx.timers.cancel(timer);
            return Ok(());
        }
        if let Rate::PerSecond(rate) = self.config.rate {
            let (queue, queues) = (f64::from(self.queue.0), f64::from(self.queue.1));
            // The queues take turns.
            let shift = Duration::from_nanos((1e9 / rate * queue) as u64);
            self.schedule = Some(Schedule::new(cx.now + shift, rate / queues));
        }
        cx.timers.arm_once(timer, cx.now);
        Ok(())
    }

    fn rx_packets(&mut self, cx: &mut Cx<'_>, _port: PortId, batch: &mut PacketBatch) {
        while let Some(packet) = batch.pop() {
            self.receive(cx, packet);
        }
    }

    fn tx_packet_available(&mut self, cx: &mut Cx<'_>, _port: PortId) {
        self.advance(cx);
    }

    fn timer(&mut self, cx: &mut Cx<'_>, _fired: Fired) {
        self.advance(cx);
    }

    fn stats(&self) -> DriverStats {
        let Received { replies, neighbors_answered, other, malformed, not_sent } = self.received;
        DriverStats {
            counters: vec![
                ("echo_replies", replies),
                ("neighbors_answered", neighbors_answered),
                ("other", other),
            ],
            drops: vec![("malformed", malformed), ("neighbor_answer_not_sent", not_sent)],
            groups: vec![("generator", self.stats.metrics())],
            ..DriverStats::default()
        }
    }
}
