//! `netdext run --metrics`, scraped and read by Prometheus' own Python parser.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use netdext_abi::maps::SAMPLED;
use netdext_tests::wire::{DRIVER_IFACE, DRIVER_V4};
use netdext_tests::{Netdext, Wire, require};
use serde_json::Value;

const ADDRESS: &str = "127.0.0.1:9469";

/// Reads OpenMetrics text from standard input and writes a list of [name, labels, value].
const PARSER: &str = "
import json, sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families as families
print(json.dumps([[s.name, s.labels, s.value] for f in families(sys.stdin.read()) for s in f.samples]))
";

/// A Python that has the parser: the distribution's own, else the one on PATH.
fn python() -> Command {
    let has_parser = |program: &&str| {
        let mut import = Command::new(program);
        import.args(["-c", "import prometheus_client.openmetrics.parser"]).stderr(Stdio::null());
        import.status().is_ok_and(|status| status.success())
    };
    let found = ["/usr/bin/python3", "python3"].into_iter().find(has_parser);
    Command::new(found.expect("prometheus_client for Python: `cargo xtask setup --tests` installs it"))
}

/// The samples of a text: name, labels, value.
fn parse(text: &str) -> Vec<(String, Value, f64)> {
    let mut python = python();
    python.args(["-c", PARSER]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut python = python.spawn().expect("python3 can be started");
    let mut input = python.stdin.take().expect("stdin is piped");
    input.write_all(text.as_bytes()).expect("python3 reads");
    drop(input);
    let output = python.wait_with_output().expect("python3 can be waited for");
    assert!(output.status.success(), "{}\n{text}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("the parser's list")
}

/// The one value of this name with these labels among its own.
fn value(samples: &[(String, Value, f64)], name: &str, labels: &[(&str, &str)]) -> f64 {
    let found: Vec<_> = samples
        .iter()
        .filter(|(known, had, _)| known == name && labels.iter().all(|(label, value)| had[label] == *value))
        .collect();
    let [(_, _, value)] = found[..] else { panic!("{name} {labels:?}: {found:?}") };
    *value
}

#[test]
fn prometheus_reads_the_counts_that_the_summary_ends_with() {
    require!("ping", "ethtool", "python3");
    let wire = Wire::new("metrics");
    let mut netdext = Netdext::run(&wire.driver, DRIVER_IFACE, &["--no-injector", "--metrics", ADDRESS]);
    netdext.ready();
    let (head, body) = wire.driver.http(ADDRESS, "/metrics");
    assert!(head.starts_with("HTTP/1.1 200 OK") && head.contains("application/openmetrics-text"), "{head}");
    let of_driver = [("iface", "veth0"), ("driver", "sample")];
    assert_eq!(value(&parse(&body), "netdext_running", &of_driver), 1.0);

    wire.ping_without_loss(50, &["-i", "0.002", DRIVER_V4]);
    let samples = parse(&wire.driver.http(ADDRESS, "/metrics").1);
    let (refused, _) = wire.driver.http(ADDRESS, "/");
    assert!(refused.starts_with("HTTP/1.1 404"), "{refused}");
    let summary = wire.stop(netdext);

    let answered = [of_driver[0], of_driver[1], ("action", "echo4_answered")];
    assert_eq!(value(&samples, "netdext_handled_total", &answered), 50.0);
    let received = summary["queues"][0]["rx_packets"].as_f64().unwrap();
    assert_eq!(value(&samples, "netdext_rx_packets_total", &[of_driver[0], ("queue", "0")]), received);
    assert_eq!(value(&samples, "netdext_verdicts_total", &[("verdict", "driver_echo4_request")]), 50.0);
    for direction in ["rx", "tx"] {
        assert_eq!(value(&samples, "netdext_residue", &[("direction", direction)]), 0.0);
    }
    // One in 16 has a timestamp of the XDP program, the first on each CPU among them.
    for (stage, least) in
        [("xdp_to_user", 50_u64.div_ceil(SAMPLED)), ("user_to_tx", 50), ("tx_to_completion", 50)]
    {
        let at = |quantile| {
            value(&samples, "netdext_latency_seconds", &[("stage", stage), ("quantile", quantile)])
        };
        // From a tenth of a microsecond to a second: what a frame can take through a kernel and a worker.
        assert!(
            (1e-7..1.0).contains(&at("0.5")) && at("0.5") <= at("0.99") && at("0.99") <= at("1"),
            "{stage}"
        );
        assert!(value(&samples, "netdext_latency_frames_total", &[("stage", stage)]) >= least as f64);
        assert!(summary["latency_ns"][stage]["count"].as_u64() >= Some(least), "{summary}");
    }
}

#[test]
fn every_metric_of_the_dashboard_is_there() {
    require!("ethtool", "python3");
    let wire = Wire::new("metrics, dashboard");
    let arguments = ["--metrics", ADDRESS, "--first", "10ms", "--interval", "1ms", "--target", "198.18.0.2"];
    let mut netdext = Netdext::run(&wire.driver, DRIVER_IFACE, &arguments);
    netdext.ready();
    std::thread::sleep(Duration::from_millis(300));
    let samples = parse(&wire.driver.http(ADDRESS, "/metrics").1);
    wire.stop(netdext);
    let dashboard: Value =
        serde_json::from_str(include_str!("../../docs/grafana/netdext.json")).expect("JSON");
    let mut expressions = Vec::new();
    for panel in dashboard["panels"].as_array().expect("panels") {
        for target in panel["targets"].as_array().into_iter().flatten() {
            expressions.push(target["expr"].as_str().expect("an expression").to_owned());
        }
    }
    assert!(expressions.len() >= 10, "{expressions:?}");
    for expression in expressions {
        let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let names: Vec<_> = words.filter(|word| word.starts_with("netdext_")).collect();
        assert!(!names.is_empty(), "{expression}");
        for name in names {
            // Errors of system calls have a value only once there was one.
            let known =
                samples.iter().any(|(known, _, _)| known == name) || name == "netdext_tx_errors_total";
            assert!(known, "{name} in {expression}");
        }
    }
}

#[test]
fn an_address_that_cannot_be_had_is_said_in_one_line() {
    require!("ethtool");
    let wire = Wire::new("metrics, no address");
    let finished = Netdext::run(&wire.driver, DRIVER_IFACE, &["--metrics", "198.51.100.1:9469"]).wait();
    let line = finished.expect_failure(1);
    assert!(line.contains("198.51.100.1:9469") && line.contains("choose another address"), "{line}");
    wire.assert_no_xdp();
}
