//! The injector of a running driver is changed from within the process: ten thousand targets, each with its counts.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use netdext_drivers::sample::{self, InjectSettings, InjectorConfig, SampleConfig, TargetStats};
use netdext_host::stats::MetricsReport;
use netdext_host::supervisor::{RunConfig, RunReport, Supervisor};
use netdext_host::xdp::program::XdpMode;
use netdext_tests::wire::{DRIVER_IFACE, HOST_IFACE, HOST_V4};
use netdext_tests::{Wire, require};
use serde_json::{Value, json};

/// IPv4 targets: 198.19.0.1 and on.
const MANY: u32 = 10_000;
/// IPv6 targets: 2001:2::1:1 and on.
const MANY_V6: u16 = 500;

fn targets_v4(first: u32, count: u32) -> Vec<IpAddr> {
    let base = u32::from(Ipv4Addr::new(198, 19, 0, 0));
    (first..first + count).map(|number| Ipv4Addr::from(base + number).into()).collect()
}

fn targets_v6() -> Vec<IpAddr> {
    (1..=MANY_V6).map(|number| Ipv6Addr::new(0x2001, 2, 0, 0, 0, 0, 1, number).into()).collect()
}

/// The host's end has every address of 198.19.0.0/16, and every target over IPv6.
fn wire(purpose: &str) -> Wire {
    let wire = Wire::new(purpose);
    wire.host.ip(&["address", "add", "198.18.0.3/15", "dev", HOST_IFACE]);
    wire.host.ip(&["route", "add", "local", "198.19.0.0/16", "dev", "lo"]);
    // The kernel limits the ICMP messages that it sends; echo replies over IPv6 too, unless they are left out.
    wire.host.run("sysctl", &["-qw", "net.ipv6.icmp.ratelimit=0"]);
    wire
}

fn config(targets: Vec<IpAddr>, interval: Duration, batch: usize) -> RunConfig {
    let first = Duration::from_millis(300);
    let injector = InjectorConfig { first, interval, batch, targets, ..InjectorConfig::default() };
    let config = SampleConfig { injector: Some(injector), ..SampleConfig::default() };
    RunConfig {
        addresses: vec![
            (Ipv4Addr::new(198, 18, 0, 1).into(), 15),
            (Ipv6Addr::new(0x2001, 2, 0, 0, 0, 0, 0, 1).into(), 64),
        ],
        mode: XdpMode::Native,
        ..RunConfig::new(DRIVER_IFACE, sample::factory(config, 1).expect("a valid configuration"))
    }
}

/// Runs a driver, lets `work` have it, and returns what is left with the counts of the targets at the end.
fn with_driver(
    wire: &Wire,
    config: RunConfig,
    work: impl AsyncFnOnce(&mut Supervisor) + Send,
) -> (RunReport, Vec<TargetStats>) {
    wire.driver.block_on(async move || {
        let mut supervisor = Supervisor::start(&config).await.expect("the driver starts");
        work(&mut supervisor).await;
        supervisor.control("inject_stop", Value::Null).await.expect("it stops");
        // Longer than a request waits.
        tokio::time::sleep(Duration::from_millis(1200)).await;
        let targets = targets_of(&supervisor).await;
        (supervisor.stop().await, targets)
    })
}

async fn targets_of(supervisor: &Supervisor) -> Vec<TargetStats> {
    let targets = supervisor.control("inject_targets", Value::Null).await.expect("they are counted");
    serde_json::from_value(targets).expect("the counts of targets")
}

fn count(injector: &MetricsReport, name: &str) -> u64 {
    injector.number(name).and_then(|count| u64::try_from(count).ok()).unwrap_or_else(|| panic!("{name}"))
}

/// No frame is missing, each request has one fate, and the targets' counts are those of the whole.
fn check(report: &RunReport, targets: &[TargetStats]) -> MetricsReport {
    assert!(report.is_whole() && report.errors.is_empty(), "{report:?}");
    let injector = report.stats.groups["injector"].clone();
    for none in ["residue", "in_flight", "duplicates"] {
        assert_eq!(injector.number(none), Some(0), "{none} in {injector:?}");
    }
    let recorded = |name| injector.histogram(name).expect("a distribution").count;
    assert_eq!(recorded("pacing_error_ns"), count(&injector, "sent"));
    assert_eq!(recorded("rtt_from_schedule_ns"), count(&injector, "replies"));
    for target in targets {
        assert_eq!(target.sent, target.replies + target.lost, "{target:?}");
        let rtt = target.rtt_ns;
        assert!(target.replies == 0 || (1000..1_000_000_000).contains(&rtt.min), "{target:?}");
        assert!(rtt.min <= rtt.mean && rtt.mean <= rtt.max, "{target:?}");
    }
    injector
}

fn sum(targets: &[TargetStats], of: impl Fn(&TargetStats) -> u64) -> u64 {
    targets.iter().map(of).sum()
}

#[test]
fn ten_thousand_targets_are_resolved_asked_in_turn_and_counted_each() {
    require!("sysctl", "ethtool");
    let wire = wire("injector, ten thousand targets");
    let addresses: String =
        targets_v6().iter().map(|ip| format!("address add {ip}/128 dev {HOST_IFACE} nodad\n")).collect();
    let file = tempfile::NamedTempFile::new().expect("a file in the temporary directory");
    std::fs::write(&file, addresses).expect("it can be written");
    wire.host.ip(&["-batch", file.path().to_str().expect("a plain path")]);

    let all = [targets_v4(1, MANY), targets_v6()].concat();
    let config = config(all.clone(), Duration::from_millis(1), 20);
    let (report, targets) = with_driver(&wire, config, async |supervisor| {
        // Twice round takes a second; a busy machine may take longer.
        for _ in 0..100 {
            tokio::time::sleep(Duration::from_millis(200)).await;
            if targets_of(supervisor).await.iter().all(|target| target.replies >= 2) {
                return;
            }
        }
    });
    let injector = check(&report, &targets);
    assert_eq!(targets.iter().map(|target| target.target).collect::<Vec<_>>(), all);
    assert_eq!(sum(&targets, |target| target.sent), count(&injector, "sent"));
    assert_eq!(sum(&targets, |target| target.replies), count(&injector, "replies"));
    let silent: Vec<_> = targets.iter().filter(|target| target.replies < 2).collect();
    assert!(silent.is_empty(), "{} of them, first {:?}; {injector:?}", silent.len(), silent.first());
    assert!(count(&injector, "lost") * 100 < count(&injector, "sent"), "{injector:?}");
    // One question for each, and few again for those whose answer was lost.
    let asked = report.stats.events["neighbor_requests_sent"];
    assert!((10_500..25_000).contains(&asked), "{asked}");
}

#[test]
fn everything_can_be_changed_while_requests_are_on_their_way_and_none_is_miscounted() {
    require!("sysctl", "ethtool");
    let wire = wire("injector, changed live");
    let config = config(vec![HOST_V4.parse().unwrap()], Duration::from_millis(1), 8);
    let (report, targets) = with_driver(&wire, config, async |supervisor| {
        tokio::time::sleep(Duration::from_millis(600)).await;
        for round in 0..60_u32 {
            let settings = match round % 4 {
                0 => {
                    let targets = targets_v4(1 + round, 1 + round * 20);
                    InjectSettings { targets: Some(targets), ..InjectSettings::default() }
                }
                1 => InjectSettings {
                    payload_bytes: Some(24 + round as usize * 20),
                    ..InjectSettings::default()
                },
                2 => InjectSettings {
                    interval_ns: Some(500_000 + u64::from(round) * 50_000),
                    ..InjectSettings::default()
                },
                _ => InjectSettings { batch: Some(1 + round as usize % 16), ..InjectSettings::default() },
            };
            supervisor.control("inject_set", json!(settings)).await.expect("a change that works");
            if round % 7 == 0 {
                supervisor.control("inject_stop", Value::Null).await.expect("it stops");
                supervisor.control("inject_start", Value::Null).await.expect("it starts");
            }
            let refused = InjectSettings { batch: Some(0), ..InjectSettings::default() };
            let error = supervisor.control("inject_set", json!(refused)).await.expect_err("an empty batch");
            assert!(error.to_string().contains("batch is 0"), "{error}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let injector = check(&report, &targets);
    assert!(
        count(&injector, "sent") > 1000 && count(&injector, "replies") * 100 > count(&injector, "sent") * 95,
        "{injector:?}"
    );
    assert_eq!(report.stats.counters["echo_replies_mismatched"], 0);
    assert_eq!(targets.len(), 1 + 56 * 20, "those of the last change");
}
