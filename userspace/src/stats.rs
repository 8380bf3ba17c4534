//! What a running driver has counted, summed over its queues, in the shape of the JSON output.
//!
//! The schema is documented in docs/json.md; names and units do not change within a schema version.

use std::collections::BTreeMap;

use rustix::io::Errno;
use serde::Serialize;

use crate::dispatch::{TimerStats, WorkerSnapshot};
use crate::driver::lifecycle::State;
use crate::driver::{DriverStats, GeneratorStats, InjectorStats};
use crate::link::steering::ProgramCounters;
use crate::packet::Census;
use crate::port::SocketStatistics;

/// Version of the JSON schema; it changes when a name or a unit does.
pub const SCHEMA_VERSION: u32 = 1;

/// The counts of a driver on one interface.
#[derive(Clone, Debug, Serialize)]
pub struct PortStats {
    /// [`SCHEMA_VERSION`].
    pub schema: u32,
    /// The interface.
    pub iface: String,
    /// The driver's name.
    pub driver: &'static str,
    /// Where it is in its life; of several queues, the first that differs from running.
    pub state: State,
    /// One entry per queue.
    pub queues: Vec<QueueStats>,
    /// Counters of the XDP program by name, since it was loaded.
    pub verdicts: ProgramCounters,
    /// What the driver did with the frames it received, by name.
    pub counters: BTreeMap<&'static str, u64>,
    /// What else the driver counted, by name: not frames received.
    pub events: BTreeMap<&'static str, u64>,
    /// Frames lost or refused, by cause.
    pub drops: BTreeMap<&'static str, u64>,
    /// Whether every frame that was meant for the driver is accounted for.
    pub accounting: Accounting,
    /// Where the frames of all pools are.
    pub census: Census,
    /// Descriptors that the kernel returned wrongly.
    pub violations: u64,
    /// The echo request injector; absent if the driver has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub injector: Option<InjectorReport>,
    /// The generator; absent if the driver is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generator: Option<GeneratorReport>,
    /// The timers by name, summed over the queues.
    pub timers: BTreeMap<&'static str, TimerStats>,
}

/// The counts of one queue.
#[derive(Clone, Debug, Serialize)]
pub struct QueueStats {
    /// The hardware queue.
    pub id: u32,
    /// Frames received over the rx ring.
    pub rx_packets: u64,
    /// Frames submitted to the tx ring.
    pub tx_packets: u64,
    /// Bytes received, Ethernet headers included.
    pub rx_bytes: u64,
    /// Bytes submitted, Ethernet headers included.
    pub tx_bytes: u64,
    /// Frames in the fill ring.
    pub fill_level: u32,
    /// Times the fill ring was found below a quarter.
    pub fill_low_water: u64,
    /// Frames submitted and not yet completed.
    pub tx_in_flight: u64,
    /// System calls to wake the kernel for the tx ring.
    pub tx_wakeups: u64,
    /// What those returned, by the name of the errno.
    pub tx_errors: BTreeMap<String, u64>,
    /// Packets whose data had to be moved before it could be sent.
    pub tx_realigned: u64,
    /// Times the kernel was woken because completions failed to appear.
    pub tx_stuck: u64,
    /// What the kernel counted on the socket.
    pub socket: SocketStatistics,
}

/// Frames for the driver: offered = delivered + lost + residue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Accounting {
    /// Frames that the XDP program redirected to a socket.
    pub offered: u64,
    /// Frames that came out of the rx rings.
    pub delivered: u64,
    /// Frames that the kernel counted as lost on the sockets.
    pub lost: u64,
    /// What remains unexplained: 0 once the driver has stopped. While it runs, frames in the rx rings.
    pub residue: i64,
}

/// The injector in the JSON output.
#[derive(Clone, Debug, Serialize)]
pub struct InjectorReport {
    /// Requests submitted to the tx ring.
    pub sent: u64,
    /// Requests that could not be submitted.
    pub not_sent: u64,
    /// Requests answered in time.
    pub replies: u64,
    /// Requests not answered in time.
    pub lost: u64,
    /// Requests still waiting.
    pub in_flight: u64,
    /// Replies after the time limit.
    pub late: u64,
    /// Further replies to the same request.
    pub duplicates: u64,
    /// Replies after the reply to a later request.
    pub out_of_order: u64,
    /// sent - replies - lost - in_flight: always 0.
    pub residue: i64,
    /// Round-trip times.
    pub rtt_ns: Percentiles,
}

/// The generator in the JSON output.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct GeneratorReport {
    /// Frames submitted to the tx ring.
    pub sent: u64,
    /// Departures that were so late that they were left out.
    pub skipped: u64,
    /// Times the pool had no frame for one that was due.
    pub no_frame: u64,
    /// Frames that the tx ring refused although it had room.
    pub refused: u64,
    /// From the first departure to the last.
    pub sending_ns: u64,
    /// Actual minus planned departure; nothing is planned with `--rate max`.
    pub pacing_error_ns: Percentiles,
}

impl From<&GeneratorStats> for GeneratorReport {
    fn from(stats: &GeneratorStats) -> Self {
        let GeneratorStats { sent, skipped, no_frame, refused, first, last, pacing_error_ns } = stats;
        let sending = first.zip(*last).map_or(std::time::Duration::ZERO, |(first, last)| last.since(first));
        Self {
            sent: *sent,
            skipped: *skipped,
            no_frame: *no_frame,
            refused: *refused,
            sending_ns: sending.as_nanos() as u64,
            pacing_error_ns: Percentiles::of(pacing_error_ns),
        }
    }
}

/// Percentiles of a duration in ns; all 0 if nothing was recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Percentiles {
    /// How many values were recorded.
    pub count: u64,
    /// The smallest.
    pub min: u64,
    /// The median.
    pub p50: u64,
    /// 99 of 100 are not above.
    pub p99: u64,
    /// 999 of 1000 are not above.
    pub p999: u64,
    /// The largest.
    pub max: u64,
}

impl Percentiles {
    /// Of a histogram.
    pub fn of(histogram: &hdrhistogram::Histogram<u64>) -> Self {
        if histogram.is_empty() {
            return Self::default();
        }
        Self {
            count: histogram.len(),
            min: histogram.min(),
            p50: histogram.value_at_quantile(0.5),
            p99: histogram.value_at_quantile(0.99),
            p999: histogram.value_at_quantile(0.999),
            max: histogram.max(),
        }
    }
}

impl From<&InjectorStats> for InjectorReport {
    fn from(stats: &InjectorStats) -> Self {
        let InjectorStats {
            sent,
            not_sent,
            replies,
            lost,
            in_flight,
            late,
            duplicates,
            out_of_order,
            rtt_ns,
        } = stats;
        Self {
            sent: *sent,
            not_sent: *not_sent,
            replies: *replies,
            lost: *lost,
            in_flight: *in_flight,
            late: *late,
            duplicates: *duplicates,
            out_of_order: *out_of_order,
            residue: *sent as i64 - (*replies + *lost + *in_flight) as i64,
            rtt_ns: Percentiles::of(rtt_ns),
        }
    }
}

impl From<&WorkerSnapshot> for QueueStats {
    fn from(snapshot: &WorkerSnapshot) -> Self {
        let name = |errno| format!("{:?}", Errno::from_raw_os_error(errno));
        Self {
            id: snapshot.queue,
            rx_packets: snapshot.rx_packets,
            tx_packets: snapshot.tx_packets,
            rx_bytes: snapshot.rx_bytes,
            tx_bytes: snapshot.tx_bytes,
            fill_level: snapshot.fill_level,
            fill_low_water: snapshot.fill_low_water,
            tx_in_flight: snapshot.tx_in_flight,
            tx_wakeups: snapshot.tx_wakeups,
            tx_errors: snapshot.tx_errnos.iter().map(|(errno, count)| (name(errno), count)).collect(),
            tx_realigned: snapshot.tx_realigned,
            tx_stuck: snapshot.tx_stuck,
            socket: snapshot.socket,
        }
    }
}

impl PortStats {
    /// Sums the counts of all queues and of the XDP program.
    pub fn collect(
        iface: &str,
        driver: &'static str,
        verdicts: ProgramCounters,
        snapshots: &[WorkerSnapshot],
    ) -> Self {
        let mut merged = DriverStats::default();
        let mut census = Census::default();
        let mut socket = SocketStatistics::default();
        let mut timers: BTreeMap<&'static str, TimerStats> = BTreeMap::new();
        let (mut violations, mut disabled, mut delivered) = (0, 0, 0);
        for snapshot in snapshots {
            merged.merge(&snapshot.driver);
            census.merge(&snapshot.census);
            socket.merge(&snapshot.socket);
            violations += snapshot.violations;
            disabled += snapshot.rx_disabled;
            delivered += snapshot.rx_packets;
            for (name, stats) in &snapshot.timers {
                timers.entry(name).or_default().merge(stats);
            }
        }
        let mut drops: BTreeMap<_, _> = merged.drops.iter().copied().collect();
        drops.insert("interface_disabled", disabled);
        drops.insert("socket_rx_dropped", socket.rx_dropped);
        drops.insert("socket_rx_ring_full", socket.rx_ring_full);
        drops.insert("socket_rx_invalid_descs", socket.rx_invalid_descs);
        drops.insert("socket_tx_invalid_descs", socket.tx_invalid_descs);
        let offered = verdicts.redirected();
        let lost = socket.rx_lost();
        let state = snapshots.iter().map(|s| s.state).find(|s| !s.is_running()).unwrap_or(State::Running);
        Self {
            schema: SCHEMA_VERSION,
            iface: iface.to_owned(),
            driver,
            state,
            queues: snapshots.iter().map(QueueStats::from).collect(),
            verdicts,
            counters: merged.counters.iter().copied().collect(),
            events: merged.events.iter().copied().collect(),
            drops,
            accounting: Accounting {
                offered,
                delivered,
                lost,
                residue: offered as i64 - (delivered + lost) as i64,
            },
            census,
            violations,
            injector: merged.injector.as_ref().map(InjectorReport::from),
            generator: merged.generator.as_ref().map(GeneratorReport::from),
            timers,
        }
    }
}
