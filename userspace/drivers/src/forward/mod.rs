//! The forwarder: a learning bridge over two or more ports.
//!
//! A frame to a station that is known leaves by that station's port, in the memory that it was received in. All others are
//! flooded: they leave by every other port, in copies but for the last.
//!
//! There is no spanning tree. What keeps a frame from going round a loop for ever is that a station is held on the port
//! that it was last heard on: what comes in by another one within a second has come round, and is dropped. See docs/forward.md for what that means to a network.
//!
//! One [`factory`] makes the instances of one run, one for each queue. They share the table of stations, locked once for
//! each batch, because a reply may arrive on another queue. The first that is initialised leads: it forgets what is old,
//! answers commands and reports how many stations there are.

#[cfg(feature = "cli")]
mod options;
mod outcome;
mod table;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use netdext::dispatch::{Fired, TimerId};
use netdext::driver::{
    ControlError, Cx, DeviceInfo, Driver, DriverError, DriverFactory, DriverStats, PortId, Requirements,
};
use netdext::metrics::Metrics;
use netdext::packet::{Packet, PacketBatch};
use netdext::proto::{DisplayMac, MacAddr, is_group, link_destination, link_source};
use netdext_abi::parse::{ETHERNET_LEN, Link, VLAN_TAG_LEN, link_header};
use serde_json::{Value, json};

#[cfg(feature = "cli")]
pub use self::options::Options;
use self::outcome::{Counts, Event, Outcome};
use self::table::{Address, Heard, Table};

const NAME: &str = "forward";

/// The most ports that frames are forwarded between.
pub const MAX_PORTS: usize = 16;

/// The shortest [`ForwardConfig::ageing`]: a station is held on its port for as long.
const MIN_AGEING: Duration = table::HOLD;
/// The longest.
const MAX_AGEING: Duration = Duration::from_secs(24 * 3600);

/// How often in the ageing time the table is looked through.
const LOOKS: u32 = 8;

/// No station's.
const NO_ADDRESS: MacAddr = [0; 6];

/// How to forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ForwardConfig {
    /// A station that was not heard for this long is forgotten, an eighth later at the latest: 1 s to 24 h.
    pub ageing: Duration,
    /// How many stations are known at the most. Frames to others are flooded.
    pub stations: usize,
}

impl Default for ForwardConfig {
    /// 300 s, as IEEE 802.1D recommends, and 4096 stations.
    fn default() -> Self {
        Self { ageing: Duration::from_secs(300), stations: 4096 }
    }
}

/// A configuration that cannot work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ForwardConfigError {
    /// Stations would be forgotten too soon, or never.
    #[error("--ageing {given:?} is not from 1s to 24h; for example --ageing 300s")]
    Ageing {
        /// The time given.
        given: Duration,
    },
}

/// Makes the instances of one run.
///
/// # Errors
///
/// [`ForwardConfigError`].
pub fn factory(config: ForwardConfig) -> Result<DriverFactory, ForwardConfigError> {
    let ForwardConfig { ageing, stations } = config;
    if !(MIN_AGEING..=MAX_AGEING).contains(&ageing) {
        return Err(ForwardConfigError::Ageing { given: ageing });
    }
    let shared = Arc::new(Shared { led: AtomicBool::new(false), table: Mutex::new(Table::new(stations)) });
    let build = move |_queue| -> Box<dyn Driver> {
        Box::new(Forward {
            ageing,
            shared: Arc::clone(&shared),
            leads: false,
            timer: None,
            enabled: 0,
            counts: Counts::default(),
        })
    };
    let needs = Requirements::default().ports(2..=MAX_PORTS).addresses(false).steering(["all"]);
    Ok(DriverFactory::new(NAME, build).requiring(needs))
}

/// What the instances of one run share.
#[derive(Debug)]
struct Shared {
    /// Whether one of the instances already leads.
    led: AtomicBool,
    table: Mutex<Table>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Table> {
        // Whatever it holds, a wrong port is corrected by the next frame.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One instance of the forwarder.
#[derive(Debug)]
pub struct Forward {
    ageing: Duration,
    shared: Arc<Shared>,
    leads: bool,
    timer: Option<TimerId>,
    /// How many ports are.
    enabled: usize,
    counts: Counts,
}

/// Whether frames to this group are for the next bridge only: spanning tree, pause, link aggregation and the like.
fn is_reserved(destination: MacAddr) -> bool {
    matches!(destination, [0x01, 0x80, 0xc2, 0x00, 0x00, last] if last < 0x10)
}

/// Whether a port takes such a frame: its MTU is about what is behind the Ethernet header and the VLAN tags.
fn fits(cx: &Cx<'_>, out: PortId, packet: &Packet, link: &Link) -> bool {
    let header = ETHERNET_LEN + usize::from(link.vlan_tags) * VLAN_TAG_LEN;
    packet.data_len() <= cx.device(out).mtu + header
}

impl Forward {
    /// Sends a frame on its way.
    fn forward(&mut self, cx: &mut Cx<'_>, table: &mut Table, port: PortId, packet: Packet) -> Outcome {
        let Ok(link) = link_header(packet.data()) else { return Outcome::Malformed };
        let (destination, source) = (link_destination(packet.data()), link_source(packet.data()));
        if is_group(source) || source == NO_ADDRESS {
            return Outcome::BadSource;
        }
        if is_reserved(destination) {
            return Outcome::Reserved;
        }
        let source = Address::new(link.vlan, source);
        match table.hear(source, port, cx.now) {
            Heard::Known => {}
            Heard::Learned => self.counts.happened(Event::Learned, 1),
            Heard::Moved => self.counts.happened(Event::Moved, 1),
            Heard::NoRoom => self.counts.happened(Event::NoRoom, 1),
            Heard::Elsewhere => return Outcome::Loop,
        }
        // No group is in the table, because none is a source.
        match table.find(Address::new(link.vlan, destination)) {
            Some(out) if out == port => Outcome::SamePort,
            Some(out) if cx.is_enabled(out) => {
                if !fits(cx, out, &packet, &link) {
                    return Outcome::TooLong;
                }
                cx.tx(out).submit(packet).map_or(Outcome::TxFull, |()| Outcome::Forwarded)
            }
            _ if table.may_flood(source, cx.now) => self.flood(cx, port, packet, &link),
            _ => Outcome::Storm,
        }
    }

    /// Sends a frame to every other port.
    fn flood(&mut self, cx: &mut Cx<'_>, port: PortId, packet: Packet, link: &Link) -> Outcome {
        let mut last = None;
        let mut missed = 0;
        let mut why_not = Outcome::NoOtherPort;
        for out in cx.ports() {
            if out == port || !cx.is_enabled(out) {
                continue;
            }
            if !fits(cx, out, &packet, link) {
                (missed, why_not) = (missed + 1, Outcome::TooLong);
            } else if cx.tx(out).room() == 0 {
                (missed, why_not) = (missed + 1, Outcome::TxFull);
            } else if let Some(earlier) = last.replace(out) {
                let sent = send_copy(cx, earlier, &packet).is_some();
                self.counts.happened(Event::Copies, usize::from(sent));
                missed += usize::from(!sent);
            }
        }
        let Some(last) = last else { return why_not };
        self.counts.happened(Event::CopiesNotSent, missed);
        cx.tx(last).submit(packet).map_or(Outcome::TxFull, |()| Outcome::Flooded)
    }

    /// The stations as the command `stations` shows them.
    fn stations(cx: &Cx<'_>, table: &Table) -> Value {
        let station = |&(port, address, heard): &(PortId, Address, _)| {
            json!({
                "mac": DisplayMac(address.mac()).to_string(),
                "vlan": Some(address.vlan()).filter(|&vlan| vlan != 0),
                "port": cx.device(port).name,
                "age_ns": cx.now.since(heard).as_nanos() as u64,
            })
        };
        table.list().iter().map(station).collect()
    }
}

/// Sends a copy of a frame to a port that has room; `None` if there is no memory for it.
fn send_copy(cx: &mut Cx<'_>, out: PortId, packet: &Packet) -> Option<()> {
    let mut copy = cx.pool.alloc()?;
    copy.set_data_len(packet.data_len()).ok()?;
    copy.data_mut().copy_from_slice(packet.data());
    cx.tx(out).submit(copy).ok()
}

impl Driver for Forward {
    fn name(&self) -> &'static str {
        NAME
    }

    fn init(&mut self, _devices: &[DeviceInfo]) -> Result<(), DriverError> {
        self.leads = !self.shared.led.swap(true, Ordering::Relaxed);
        Ok(())
    }

    fn start(&mut self, cx: &mut Cx<'_>) -> Result<(), DriverError> {
        self.timer = self.leads.then(|| cx.timers.create("ageing"));
        Ok(())
    }

    fn set_interface_enable(
        &mut self,
        cx: &mut Cx<'_>,
        port: PortId,
        enable: bool,
    ) -> Result<(), DriverError> {
        if enable {
            self.enabled += 1;
        } else {
            self.enabled -= 1;
            self.shared.lock().forget_port(port);
        }
        match self.timer {
            Some(timer) if self.enabled == 0 => cx.timers.cancel(timer),
            Some(timer) if !cx.timers.is_armed(timer) => {
                let period = self.ageing / LOOKS;
                cx.timers.arm_periodic(timer, cx.now + period, period);
            }
            _ => {}
        }
        Ok(())
    }

    fn rx_packets(&mut self, cx: &mut Cx<'_>, port: PortId, batch: &mut PacketBatch) {
        let shared = Arc::clone(&self.shared);
        let mut table = shared.lock();
        while let Some(packet) = batch.pop() {
            let outcome = self.forward(cx, &mut table, port, packet);
            self.counts.count(outcome);
        }
    }

    fn timer(&mut self, cx: &mut Cx<'_>, _fired: Fired) {
        let aged = self.shared.lock().age(cx.now, self.ageing);
        self.counts.happened(Event::Aged, aged);
    }

    fn control(&mut self, cx: &mut Cx<'_>, name: &str, value: &Value) -> Result<Option<Value>, ControlError> {
        let command = match name {
            "stations" => |cx: &Cx<'_>, table: &mut Table| Self::stations(cx, table),
            "flush" => |_: &Cx<'_>, table: &mut Table| json!({ "forgotten": table.clear() }),
            _ => return Err(ControlError::Unknown { driver: NAME, name: name.to_owned() }),
        };
        ControlError::read_nothing(name, value)?;
        Ok(self.leads.then(|| command(cx, &mut self.shared.lock())))
    }

    fn stats(&self) -> DriverStats {
        let mut stats = DriverStats {
            counters: self.counts.counters(),
            drops: self.counts.drops(),
            events: self.counts.events(),
            ..DriverStats::default()
        };
        if self.leads {
            stats.metrics = Metrics::default().gauge("stations", self.shared.lock().len() as i64);
        }
        stats
    }
}
