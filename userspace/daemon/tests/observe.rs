//! What is measured and counted of a worker over the simulated wire: stage latency, loss accounting.

use std::collections::BTreeSet;
use std::time::Duration;

use netdext::dispatch::{Timestamp, Worker, WorkerSnapshot};
use netdext::driver::{Cx, DeviceInfo, Driver, DriverStats, PortId, PowerState};
use netdext::metrics::{Histogram, Metrics};
use netdext::packet::{Packet, PacketBatch};
use netdext::port::Port;
use netdext::port::sim::{End, Faults, SimConfig, Wire};
use netdext::testing::device;
use netdext_drivers::sample::{self, SampleConfig};
use netdext_host::stats::PortStats;
use netdext_host::xdp::steering::ProgramCounters;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

const US: Duration = Duration::from_micros(1);

/// Sends back what it receives; keeps it until the next batch if told so.
#[derive(Default)]
struct Mirror {
    delays: bool,
    kept: Vec<Packet>,
}

impl Driver for Mirror {
    fn name(&self) -> &'static str {
        "mirror"
    }

    fn rx_packets(&mut self, cx: &mut Cx<'_>, _port: PortId, batch: &mut PacketBatch) {
        for packet in self.kept.drain(..) {
            let _ = cx.tx(PortId::FIRST).submit(packet);
        }
        if self.delays {
            self.kept.extend(std::iter::from_fn(|| batch.pop()));
        } else {
            cx.tx(PortId::FIRST).submit_batch(batch);
        }
    }

    fn stop(&mut self, _cx: &mut Cx<'_>) {
        self.kept.clear();
    }

    fn stats(&self) -> DriverStats {
        DriverStats::default()
    }
}

struct Bench {
    worker: Worker,
    wire: Wire,
    // Its rings must live as long as the wire is used.
    _peer: Port,
}

impl Bench {
    /// A running mirror whose clock is the wire's, ahead of it by what the worker itself takes.
    fn new(delays: bool, config: &SimConfig, takes: Option<Duration>) -> Self {
        let (port, peer, wire) = Wire::pair(config, 1).expect("there are frames");
        let driver = Box::new(Mirror { delays, kept: Vec::new() });
        let mut worker = Worker::start(driver, port, device(0, 1), 64, wire.now()).expect("it starts");
        worker.set_power(wire.now(), PowerState::On).expect("it powers on");
        worker.set_interface_enable(wire.now(), PortId::FIRST, true).expect("it is enabled");
        if let Some(takes) = takes {
            let clock = wire.clock();
            let mut reads = 0_u32;
            let reads = std::cell::RefCell::new(move || {
                reads += 1;
                clock() + takes * reads
            });
            worker.measure_latency(move || (*reads.borrow_mut())());
        }
        Self { worker, wire, _peer: peer }
    }

    fn step(&mut self) {
        self.worker.step(self.wire.now(), 64).expect("the step succeeds");
    }
}

fn collect(snapshot: WorkerSnapshot) -> PortStats {
    PortStats::collect("sim0", "mirror", ProgramCounters::default(), &[snapshot])
}

/// Whether a recorded time is this one, to the two digits that are kept.
fn is_about(recorded: u64, expected: Duration) -> bool {
    let expected = expected.as_nanos() as f64;
    (recorded as f64 - expected).abs() <= expected * 0.01
}

#[test]
fn each_stage_has_the_time_that_passed_in_it() {
    let mut bench = Bench::new(false, &SimConfig::default(), Some(10 * US));
    bench.wire.inject(End::A, &[1; 60]);
    bench.wire.settle();
    bench.wire.advance(200 * US);
    bench.step();
    bench.wire.settle();
    bench.wire.advance(3000 * US);
    bench.step();
    let latency = collect(bench.worker.snapshot()).latency_ns.expect("it is measured");
    // The clock is read when the batch is received, and again when it is published.
    for (name, times, expected) in [
        ("xdp_to_user", latency.xdp_to_user, 210 * US),
        ("user_to_tx", latency.user_to_tx, 10 * US),
        ("tx_to_completion", latency.tx_to_completion, 2980 * US),
    ] {
        assert_eq!(times.count, 1, "{name}");
        for time in [times.min, times.p50, times.p99, times.p999, times.max] {
            assert!(is_about(time, expected), "{name}: {time} ns is not {expected:?}");
        }
    }
}

#[test]
fn a_packet_that_the_driver_keeps_is_timed_until_it_is_sent() {
    let mut bench = Bench::new(true, &SimConfig::default(), Some(Duration::ZERO));
    for _ in 0..2 {
        bench.wire.inject(End::A, &[1; 60]);
        bench.wire.settle();
        bench.step();
        bench.wire.advance(500 * US);
    }
    let times = collect(bench.worker.snapshot()).latency_ns.expect("it is measured").user_to_tx;
    assert!(times.count == 1 && is_about(times.max, 500 * US), "{times:?}");
}

#[test]
fn large_batches_count_every_frame_though_a_few_are_measured() {
    let mut bench = Bench::new(false, &SimConfig::default(), Some(US));
    for _ in 0..160 {
        for _ in 0..60 {
            bench.wire.inject(End::A, &[1; 60]);
        }
        bench.wire.settle();
        bench.step();
        bench.wire.settle();
    }
    bench.step();
    let snapshot = bench.worker.snapshot();
    assert_eq!((snapshot.rx_packets, snapshot.tx_completed), (9600, 9600));
    let latency = collect(snapshot).latency_ns.expect("it is measured");
    for times in [latency.xdp_to_user, latency.user_to_tx, latency.tx_to_completion] {
        assert!((9500..=9700).contains(&times.count), "{times:?}");
    }
}

#[test]
fn frames_without_a_timestamp_have_no_first_stage_and_all_others() {
    let config = SimConfig { timestamps: false, ..SimConfig::default() };
    let mut bench = Bench::new(false, &config, Some(US));
    bench.wire.inject(End::A, &[1; 60]);
    bench.wire.settle();
    bench.step();
    let latency = collect(bench.worker.snapshot()).latency_ns.expect("it is measured");
    assert_eq!((latency.xdp_to_user.count, latency.user_to_tx.count), (0, 1));
}

#[test]
fn what_is_not_measured_is_absent() {
    let mut bench = Bench::new(false, &SimConfig::default(), None);
    bench.wire.inject(End::A, &[1; 60]);
    bench.wire.settle();
    bench.step();
    let stats = serde_json::to_value(collect(bench.worker.snapshot())).expect("JSON");
    assert_eq!(stats.get("latency_ns"), None);
}

#[test]
fn sent_frames_are_accounted_for_while_they_are_in_flight_and_after() {
    let mut bench = Bench::new(false, &SimConfig::default(), None);
    bench.wire.set_faults(Faults { stall_completions: true, ..Faults::default() });
    for _ in 0..5 {
        bench.wire.inject(End::A, &[1; 60]);
    }
    bench.wire.settle();
    bench.step();
    let sent = collect(bench.worker.snapshot()).tx_accounting;
    assert_eq!((sent.submitted, sent.completed, sent.in_flight, sent.residue), (5, 0, 5, 0));
    let Bench { worker, wire, .. } = bench;
    let stats = collect(worker.finish(wire.now(), None).into_first().snapshot);
    let sent = stats.tx_accounting;
    assert_eq!((sent.submitted, sent.in_flight, sent.lost, sent.residue), (5, 0, 5, 0));
    assert_eq!(stats.losses["tx_unconfirmed"], 5);
}

#[test]
fn wrong_descriptors_leave_no_residue_of_sent_frames_and_are_named() {
    let mut bench = Bench::new(false, &SimConfig::default(), None);
    bench.wire.set_faults(Faults { bad_address: 0.2, ..Faults::default() });
    for _ in 0..300 {
        bench.wire.inject(End::A, &[1; 60]);
        bench.wire.settle();
        bench.step();
        let sent = collect(bench.worker.snapshot()).tx_accounting;
        assert_eq!(sent.residue, 0, "{sent:?}");
    }
    let snapshot = bench.worker.snapshot();
    let (violations, refused, quarantined) =
        (snapshot.violations, snapshot.rx_refused, snapshot.tx_quarantined);
    assert!(violations > 20 && refused > 0 && refused < violations, "{violations} {refused}");
    let losses = collect(snapshot).losses;
    assert_eq!((losses["rx_quarantined"], losses["tx_quarantined"]), (refused, quarantined));
}

/// What the sample driver counts, with its injector.
fn sample() -> DriverStats {
    let mut driver = sample::factory(SampleConfig::default(), 1).expect("the defaults work").build(0);
    let device = DeviceInfo { addresses: Vec::new(), ..device(0, 1) };
    driver.init(&[device]).expect("it needs nothing");
    driver.stats()
}

/// What another driver of netdext counts.
fn counted_by(name: &str, options: &serde_json::Value) -> DriverStats {
    let factory = netdext_drivers::builtin().factory(name, options).expect("the options work");
    let mut driver = factory.build(0);
    driver.init(&[device(0, 1)]).expect("it has what it needs");
    driver.stats()
}

/// A file of the repository's documentation.
fn document(name: &str) -> String {
    let path = format!("{}/../../docs/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The names of metrics in a text.
fn metric_names(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("netdext_") && !word.ends_with("_NAME")).collect()
}

#[test]
fn the_dashboard_and_the_documentation_name_the_metrics_that_there_are() {
    let mut bench = Bench::new(false, &SimConfig::default(), Some(US));
    let mut snapshot = bench.worker.snapshot();
    snapshot.driver.groups = sample().groups;
    let generate =
        ("generate", serde_json::json!({ "target": "198.18.0.2", "dst_mac": "02:00:00:00:00:02" }));
    let others = [generate, ("forward", serde_json::json!({}))].map(|(name, options)| {
        let snapshot = WorkerSnapshot { driver: counted_by(name, &options), ..bench.worker.snapshot() };
        PortStats::collect("sim1", name, ProgramCounters::default(), &[snapshot])
    });
    let drivers = std::iter::once(collect(snapshot)).chain(others).collect();
    let text = netdext_daemon::metrics::exposition(drivers);
    let families = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let there: BTreeSet<String> = families
        .map(|(name, kind)| match kind {
            "counter" => format!("{name}_total"),
            "info" => format!("{name}_info"),
            _ => name.to_owned(),
        })
        .collect();
    let there: BTreeSet<&str> = there.iter().map(String::as_str).collect();
    let text = document("observing.md");
    let documented = metric_names(&text);
    assert_eq!(documented, there, "docs/observing.md");
    let text = document("grafana/netdext.json");
    let dashboard = metric_names(&text);
    assert!(dashboard.len() > 20 && dashboard.is_subset(&there), "{dashboard:?} {there:?}");
}

#[test]
fn what_a_driver_measures_itself_is_in_the_metrics_under_its_name_and_unit() {
    let mut bench = Bench::new(false, &SimConfig::default(), Some(US));
    let mut sizes = Histogram::new();
    sizes.record_n(60, 3);
    let mut one = collect(bench.worker.snapshot());
    one.metrics = (&Metrics::default()
        .counter("peers_seen", 4)
        .gauge("idle_ns", 1_500_000_000)
        .histogram("sizes_bytes", &sizes))
        .into();
    // The same name for something else, and that of a count that every driver has.
    let mut other = collect(bench.worker.snapshot());
    other.iface = "other".to_owned();
    other.metrics = (&Metrics::default().gauge("peers_seen", -1)).into();
    other.groups = [("rx".into(), (&Metrics::default().counter("packets", 424_242)).into())].into();
    let text = netdext_daemon::metrics::exposition(vec![one, other]);
    for line in [
        "netdext_mirror_peers_seen_total{iface=\"sim0\",driver=\"mirror\"} 4",
        "netdext_mirror_idle_seconds{iface=\"sim0\",driver=\"mirror\"} 1.5",
        "netdext_mirror_sizes_bytes{iface=\"sim0\",driver=\"mirror\",quantile=\"0.5\"} 60.0",
        "netdext_mirror_sizes_recorded_total{iface=\"sim0\",driver=\"mirror\"} 3",
    ] {
        assert!(text.lines().any(|known| known == line), "{line}\n{text}");
    }
    assert!(!text.contains("424242") && !text.contains("peers_seen{iface=\"other\""), "{text}");
    assert_eq!(text.matches("# TYPE netdext_rx_packets ").count(), 1, "{text}");
}

#[test]
fn a_counter_of_nanoseconds_is_in_seconds_as_its_name_says() {
    let mut bench = Bench::new(false, &SimConfig::default(), Some(US));
    let mut one = collect(bench.worker.snapshot());
    one.metrics = (&Metrics::default().counter("busy_ns", 2_500_000_000).gauge("busy_bytes", 7)).into();
    let text = netdext_daemon::metrics::exposition(vec![one]);
    for line in [
        "netdext_mirror_busy_seconds_total{iface=\"sim0\",driver=\"mirror\"} 2.5",
        "netdext_mirror_busy_bytes{iface=\"sim0\",driver=\"mirror\"} 7.0",
    ] {
        assert!(text.lines().any(|known| known == line), "{line}\n{text}");
    }
}

/// The names of the samples that a family can have.
fn names_of(family: &str, kind: &str) -> Vec<String> {
    let ends: &[&str] = match kind {
        "counter" => &["", "_total", "_created"],
        "info" => &["", "_info"],
        _ => &[""],
    };
    ends.iter().map(|end| format!("{family}{end}")).collect()
}

/// Whatever an author names a metric after, and what collides with it.
fn author_metrics() -> impl Strategy<Value = (&'static str, Metrics)> {
    let wholes = select(vec!["mirror", "rx", "a-b", "a_b", "latency", "link", "build", "", "two\nlines"]);
    let names = select(vec![
        "wait",
        "wait_ns",
        "wait_bytes",
        "wait_seconds",
        "wait_total",
        "wait_recorded",
        "wait_recorded_total",
        "wait-ns",
        "wait.ns",
        "packets",
        "packets_total",
        "frames",
        "dropped",
        "info",
        "seconds",
        "_ns",
        "",
    ]);
    let metrics = vec((names, 0..3_u8), 0..6).prop_map(|metrics| {
        metrics.into_iter().fold(Metrics::default(), |metrics, (name, kind)| match kind {
            0 => metrics.counter(name, 1),
            1 => metrics.gauge(name, 1),
            _ => {
                let mut values = Histogram::new();
                values.record(1);
                metrics.histogram(name, &values)
            }
        })
    });
    (wholes, metrics)
}

proptest! {
    #[test]
    fn no_name_and_no_label_set_occurs_twice_whatever_the_names(
        drivers in vec((select(vec!["sim0", "sim1"]), author_metrics(), vec(author_metrics(), 0..4)), 1..4),
    ) {
        let drivers = drivers.into_iter().map(|(iface, (driver, metrics), groups)| {
            let mut stats = PortStats::collect(iface, driver, ProgramCounters::default(), &[]);
            stats.metrics = (&metrics).into();
            stats.groups = groups.iter().map(|(whole, metrics)| ((*whole).into(), metrics.into())).collect();
            stats
        });
        let text = netdext_daemon::metrics::exposition(drivers.collect());
        let (mut names, mut samples, mut family) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
        for line in text.lines() {
            if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
                family = names_of(name, kind);
                for name in &family {
                    prop_assert!(names.insert(name.clone()), "{} twice\n{}", name, text);
                }
            } else if !line.starts_with('#') {
                let (sample, _) = line.rsplit_once(' ').expect("a value");
                let (name, _) = sample.split_once('{').expect("labels");
                prop_assert!(family.iter().any(|known| known == name), "{}\n{}", line, text);
                prop_assert!(samples.insert(sample.to_owned()), "{} twice\n{}", sample, text);
            } else {
                let kind = ["# HELP netdext_", "# UNIT netdext_", "# EOF"];
                prop_assert!(kind.iter().any(|start| line.starts_with(start)), "{}\n{}", line, text);
            }
        }
    }
}

#[test]
fn metrics_have_the_counts_of_each_driver_with_its_labels() {
    let mut bench = Bench::new(false, &SimConfig::default(), Some(US));
    bench.wire.inject(End::A, &[1; 60]);
    bench.wire.settle();
    bench.step();
    let mut other = collect(bench.worker.snapshot());
    other.iface = "od\"d".to_owned();
    let text = netdext_daemon::metrics::exposition(vec![collect(bench.worker.snapshot()), other]);
    for line in [
        "netdext_rx_packets_total{iface=\"sim0\",driver=\"mirror\",queue=\"0\"} 1",
        "netdext_rx_bytes_total{iface=\"sim0\",driver=\"mirror\",queue=\"0\"} 60",
        "netdext_rx_packets_total{iface=\"od\\\"d\",driver=\"mirror\",queue=\"0\"} 1",
        "netdext_running{iface=\"sim0\",driver=\"mirror\"} 1",
        "netdext_residue{iface=\"sim0\",driver=\"mirror\",direction=\"tx\"} 0",
        "netdext_pool_frames{iface=\"sim0\",driver=\"mirror\",owner=\"tx_lent\"} 1",
        "netdext_latency_frames_total{iface=\"sim0\",driver=\"mirror\",stage=\"user_to_tx\"} 1",
    ] {
        assert!(text.lines().any(|known| known == line), "{line}\n{text}");
    }
}

#[test]
fn the_clock_of_the_wire_is_its_time() {
    let (_a, _b, mut wire) = Wire::pair(&SimConfig::default(), 1).expect("there are frames");
    let clock = wire.clock();
    wire.advance(7 * US);
    assert_eq!(clock(), wire.now());
    assert!(clock() > Timestamp::default());
}
