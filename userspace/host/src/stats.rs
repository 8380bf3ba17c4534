//! What a running driver has counted, summed over its queues, in the shape of the JSON output.
//!
//! The schema is documented in docs/json.md; names and units do not change within a schema version.

mod metrics;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::link::PairCounters;
use crate::xdp::steering::ProgramCounters;
use netdext::dispatch::{LatencyHistograms, TimerStats, WorkerSnapshot};
use netdext::driver::DriverStats;
use netdext::driver::lifecycle::State;
use netdext::metrics::Percentiles;
use netdext::packet::Census;
use netdext::port::SocketStatistics;

pub use self::metrics::{MetricReport, MetricsReport};

/// Version of the JSON schema; it changes when a name or a unit does.
pub const SCHEMA_VERSION: u32 = 1;

/// A name in the JSON output: a constant where it is counted, owned text where it was read from JSON.
pub type Name = Cow<'static, str>;

/// The counts of a driver on one interface.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PortStats {
    /// [`SCHEMA_VERSION`].
    pub schema: u32,
    /// The interface.
    pub iface: String,
    /// The driver's name.
    pub driver: Name,
    /// Where it is in its life; of several queues, the first that differs from running.
    pub state: State,
    /// Since the driver was started, in ns; absent in the summary of a run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uptime_ns: Option<u64>,
    /// One entry per queue.
    pub queues: Vec<QueueStats>,
    /// Counters of the XDP program by name, since it was loaded.
    pub verdicts: ProgramCounters,
    /// What the driver did with the frames it received, by name.
    pub counters: BTreeMap<Name, u64>,
    /// What else the driver counted, by name: not frames received.
    pub events: BTreeMap<Name, u64>,
    /// Frames lost or refused, by cause.
    pub drops: BTreeMap<Name, u64>,
    /// Frames lost outside the driver, by cause; those of received frames add up to
    /// [`Accounting::lost`], those of sent ones to [`TxAccounting::lost`].
    pub losses: BTreeMap<Name, u64>,
    /// What the kernel counted of the link since the driver was started; absent once the link is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<PairCounters>,
    /// Whether every frame that was meant for the driver is accounted for.
    pub accounting: Accounting,
    /// Whether every frame that the driver sent is accounted for.
    pub tx_accounting: TxAccounting,
    /// Where the frames of all pools are.
    pub census: Census,
    /// Descriptors that the kernel returned wrongly.
    pub violations: u64,
    /// What else the driver measures, by name; absent if it measures nothing.
    #[serde(default, skip_serializing_if = "MetricsReport::is_empty")]
    pub metrics: MetricsReport,
    /// The counts of a driver's further interfaces; absent if it has one. What the driver counts itself is with its first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub other_ports: Vec<PortStats>,
    /// Metrics of the driver that belong together, each under the name of the whole.
    #[serde(flatten, deserialize_with = "metrics::read_groups")]
    pub groups: BTreeMap<Name, MetricsReport>,
    /// The timers by name, summed over the queues.
    pub timers: BTreeMap<Name, TimerStats>,
    /// How long frames take from stage to stage; absent if that is not measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_ns: Option<LatencyReport>,
}

/// The counts of one queue.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
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

/// Where frames went: seen = offered + answered + dropped + kernel, offered = delivered + lost + residue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accounting {
    /// Frames that the XDP program has judged.
    pub seen: u64,
    /// Of those, frames that it answered.
    pub answered: u64,
    /// Of those, frames that it dropped: by a steering rule, or because their source had its share of answers.
    pub dropped: u64,
    /// Of those, frames left to the kernel.
    pub kernel: u64,
    /// Frames that the XDP program redirected to a socket.
    pub offered: u64,
    /// Frames that came out of the rx rings.
    pub delivered: u64,
    /// Frames that were lost in between, each with its cause in [`PortStats::losses`].
    pub lost: u64,
    /// What remains unexplained: 0 once the driver has stopped. While it runs, frames in the rx rings.
    pub residue: i64,
}

/// Frames from the driver: submitted = completed + in_flight + lost + residue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TxAccounting {
    /// Frames handed to the tx rings.
    pub submitted: u64,
    /// Frames that the completion rings returned.
    pub completed: u64,
    /// Frames that the pools' tables have as lent for sending.
    pub in_flight: u64,
    /// Frames that will never complete, each with its cause in [`PortStats::losses`].
    pub lost: u64,
    /// What remains unexplained: 0 at any time.
    pub residue: i64,
}

/// Times from stage to stage in the JSON output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LatencyReport {
    /// From the XDP program to the worker having read the rx ring.
    pub xdp_to_user: Percentiles,
    /// From there to the publication of the same packet on the tx ring.
    pub user_to_tx: Percentiles,
    /// From the publication on the tx ring to the worker having read the completion.
    pub tx_to_completion: Percentiles,
}

impl From<&LatencyHistograms> for LatencyReport {
    fn from(histograms: &LatencyHistograms) -> Self {
        let LatencyHistograms { xdp_to_user, user_to_tx, tx_to_completion } = histograms;
        Self {
            xdp_to_user: xdp_to_user.into(),
            user_to_tx: user_to_tx.into(),
            tx_to_completion: tx_to_completion.into(),
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

/// What is summed over the queues.
#[derive(Default)]
struct Sums {
    driver: DriverStats,
    census: Census,
    socket: SocketStatistics,
    timers: BTreeMap<Name, TimerStats>,
    latency: Option<LatencyHistograms>,
    violations: u64,
    disabled: u64,
    delivered: u64,
    rx_refused: u64,
    submitted: u64,
    completed: u64,
    tx_quarantined: u64,
    tx_unconfirmed: u64,
    tx_lent: u64,
}

impl Sums {
    fn add(&mut self, snapshot: &WorkerSnapshot) {
        self.driver.merge(&snapshot.driver);
        self.census.merge(&snapshot.census);
        self.socket.merge(&snapshot.socket);
        for (name, stats) in &snapshot.timers {
            self.timers.entry(Name::Borrowed(name)).or_default().merge(stats);
        }
        if let Some(latency) = &snapshot.latency {
            self.latency.get_or_insert_default().merge(latency);
        }
        self.violations += snapshot.violations;
        self.disabled += snapshot.rx_disabled;
        self.delivered += snapshot.rx_packets;
        self.rx_refused += snapshot.rx_refused;
        self.submitted += snapshot.tx_packets;
        self.completed += snapshot.tx_completed;
        self.tx_quarantined += snapshot.tx_quarantined;
        self.tx_unconfirmed += snapshot.tx_unconfirmed;
        self.tx_lent += u64::from(snapshot.tx_lent);
    }

    fn drops(&self) -> BTreeMap<Name, u64> {
        let mut drops = by_name(&self.driver.drops);
        drops.extend(by_name(&[
            ("interface_disabled", self.disabled),
            ("socket_rx_dropped", self.socket.rx_dropped),
            ("socket_rx_ring_full", self.socket.rx_ring_full),
            ("socket_rx_invalid_descs", self.socket.rx_invalid_descs),
            ("socket_tx_invalid_descs", self.socket.tx_invalid_descs),
        ]));
        drops
    }

    fn losses(&self) -> BTreeMap<Name, u64> {
        by_name(&[
            ("rx_socket_dropped", self.socket.rx_dropped),
            ("rx_socket_ring_full", self.socket.rx_ring_full),
            ("rx_socket_invalid_descs", self.socket.rx_invalid_descs),
            ("rx_quarantined", self.rx_refused),
            ("tx_quarantined", self.tx_quarantined),
            ("tx_unconfirmed", self.tx_unconfirmed),
        ])
    }

    fn accounting(&self, verdicts: &ProgramCounters) -> Accounting {
        let (seen, offered) = (verdicts.frames(), verdicts.redirected());
        let (answered, dropped) = (verdicts.answered(), verdicts.dropped());
        let lost = self.socket.rx_lost() + self.rx_refused;
        Accounting {
            seen,
            answered,
            dropped,
            kernel: seen.saturating_sub(offered + answered + dropped),
            offered,
            delivered: self.delivered,
            lost,
            residue: offered as i64 - (self.delivered + lost) as i64,
        }
    }

    fn tx_accounting(&self) -> TxAccounting {
        let in_flight = self.tx_lent;
        let lost = self.tx_quarantined + self.tx_unconfirmed;
        TxAccounting {
            submitted: self.submitted,
            completed: self.completed,
            in_flight,
            lost,
            residue: self.submitted as i64 - (self.completed + in_flight + lost) as i64,
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
        let mut sums = Sums::default();
        for snapshot in snapshots {
            sums.add(snapshot);
        }
        let state = snapshots.iter().map(|s| s.state).find(|s| !s.is_running()).unwrap_or(State::Running);
        Self {
            schema: SCHEMA_VERSION,
            iface: iface.to_owned(),
            driver: driver.into(),
            state,
            uptime_ns: None,
            queues: snapshots.iter().map(QueueStats::from).collect(),
            drops: sums.drops(),
            losses: sums.losses(),
            link: None,
            accounting: sums.accounting(&verdicts),
            tx_accounting: sums.tx_accounting(),
            verdicts,
            counters: by_name(&sums.driver.counters),
            events: by_name(&sums.driver.events),
            census: sums.census,
            violations: sums.violations,
            metrics: (&sums.driver.metrics).into(),
            groups: metrics::groups(&sums.driver.groups),
            timers: sums.timers,
            other_ports: Vec::new(),
            latency_ns: sums.latency.as_ref().map(LatencyReport::from),
        }
    }

    /// The counts of a driver's ports as one: those of the first, which has the others. `uptime` is how long the driver has
    /// been running.
    ///
    /// # Panics
    ///
    /// Without a port.
    pub fn with_others(mut ports: Vec<Self>, uptime: Option<Duration>) -> Self {
        for port in &mut ports {
            port.uptime_ns = uptime.map(|uptime| uptime.as_nanos() as u64);
        }
        let mut first = ports.remove(0);
        first.other_ports = ports;
        first
    }

    /// The counts of every port, the first one first.
    pub fn into_ports(mut self) -> Vec<Self> {
        let others = std::mem::take(&mut self.other_ports);
        std::iter::once(self).chain(others).collect()
    }

    /// Adds what the kernel counted of the link.
    #[must_use]
    pub fn with_link(mut self, link: Option<PairCounters>) -> Self {
        self.link = link;
        self
    }
}

fn by_name(counts: &[(&'static str, u64)]) -> BTreeMap<Name, u64> {
    counts.iter().map(|&(name, count)| (name.into(), count)).collect()
}

#[cfg(test)]
mod tests {
    use netdext::metrics::{Histogram, Metrics};

    use super::*;

    #[test]
    fn what_a_client_reads_is_what_was_written() {
        let mut written = PortStats::collect("veth0", "sample", ProgramCounters::default(), &[]);
        let tx_errors = [("NOBUFS".to_owned(), 2)].into();
        written.queues.push(QueueStats { rx_packets: 7, tx_errors, ..QueueStats::default() });
        written.counters.insert("echo4_answered".into(), 7);
        written.timers.insert("receive".into(), TimerStats { fired: 3, ..TimerStats::default() });
        let mut rtt = Histogram::new();
        rtt.record(70);
        let injector = Metrics::default().counter("sent", 9).gauge("residue", -1).histogram("rtt_ns", &rtt);
        written.groups.insert("injector".into(), (&injector).into());
        written.metrics = (&Metrics::default().gauge("peers", 2)).into();
        let json = serde_json::to_value(&written).unwrap();
        let read: PortStats = serde_json::from_value(json.clone()).unwrap();
        assert_eq!(serde_json::to_value(&read).unwrap(), json);
        assert_eq!((read.driver.as_ref(), read.queues[0].rx_packets), ("sample", 7));
        assert_eq!(read.groups["injector"].number("residue"), Some(-1));
        assert_eq!(read.metrics.number("peers"), Some(2));
        assert_eq!(json["injector"]["rtt_ns"]["count"], 1, "{json}");
    }
}
