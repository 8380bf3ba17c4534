//! A driver of another crate is as much at home as those that come with netdext: `userspace/examples/udp-echo`.

use std::net::UdpSocket;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use netdext_tests::process::{binary, example};
use netdext_tests::terminal::Terminal;
use netdext_tests::wire::{DRIVER_IFACE, DRIVER_V4, DRIVER_V6};
use netdext_tests::{Namespace, Netdext, Site, Wire, WireConfig, patiently, require};
use serde_json::{Value, json};

const METRICS: &str = "127.0.0.1:9469";
const DATA: &[u8] = b"to and fro";
/// Lengths of a datagram with those data in its frame, over IPv4 and over IPv6.
const LEN_V4: u64 = 14 + 20 + 8 + DATA.len() as u64;
const LEN_V6: u64 = 14 + 40 + 8 + DATA.len() as u64;

/// A command of the example's netdext with a runtime directory of its own.
fn command(directory: &Path, words: &str) -> Command {
    let mut command = Command::new(example());
    command.args(words.split_whitespace()).env("NETDEXT_RUNTIME_DIR", directory);
    command
}

fn run(wire: &Wire, directory: &Path, words: &str) -> Netdext {
    let place = format!("run --json --netns {} --iface {DRIVER_IFACE}", wire.driver.name());
    Netdext::start(&mut command(directory, &format!("{place} --driver udp-echo {words}")))
}

fn done(directory: &Path, words: &str) -> String {
    let finished = Netdext::start(&mut command(directory, words)).wait();
    assert!(finished.status.success(), "{words}: {finished:#?}");
    finished.stdout.join("\n")
}

/// What comes back of a datagram to that address.
fn exchange(namespace: &Namespace, address: &str, port: u16) -> Option<Vec<u8>> {
    namespace.enter(|| {
        let any = if address.contains(':') { "::" } else { "0.0.0.0" };
        let socket = UdpSocket::bind((any, 0)).expect("a socket");
        socket.set_read_timeout(Some(patiently(Duration::from_secs(1)))).expect("a socket has timeouts");
        socket.connect((address, port)).expect("a route");
        socket.send(DATA).expect("it is sent");
        let mut answer = [0; 64];
        socket.recv(&mut answer).ok().map(|len| answer[..len].to_vec())
    })
}

#[test]
fn it_echoes_and_what_it_measures_is_shown_everywhere() {
    require!("ethtool", "setsid");
    let directory = tempfile::tempdir().unwrap();
    let wire = Wire::new("example");
    let _napi = wire.ready_for_answers();
    let mut netdext =
        run(&wire, directory.path(), &format!("--port 9 --answer --no-latency --metrics {METRICS}"));
    assert_eq!(netdext.ready().0["driver"], "udp-echo");
    for address in [DRIVER_V4, DRIVER_V6] {
        assert_eq!(exchange(&wire.host, address, 9).as_deref(), Some(DATA), "{address}");
    }

    let stats: Value = serde_json::from_str(&done(directory.path(), "stats --json")).unwrap();
    assert_eq!(stats["counters"], json!({ "echoed": 2, "ignored": 0 }));
    let sizes = &stats["metrics"]["sizes_bytes"];
    assert_eq!((&sizes["count"], &sizes["min"], &sizes["max"]), (&json!(2), &json!(LEN_V4), &json!(LEN_V6)));
    let text = done(directory.path(), "stats");
    let line = text.lines().find(|line| line.trim_start().starts_with("sizes ")).expect(&text);
    let words: Vec<_> = line.split_whitespace().collect();
    assert_eq!(words[..4], ["sizes", "2", &LEN_V4.to_string(), "B"], "{text}");
    let (_, metrics) = wire.driver.http(METRICS, "/metrics");
    let sizes = "netdext_udp_echo_sizes_bytes{iface=\"veth0\",driver=\"udp-echo\",quantile=\"1\"}";
    let line = metrics.lines().find(|line| line.starts_with(sizes)).expect(&metrics);
    assert_eq!(line.rsplit(' ').next().and_then(|value| value.parse().ok()), Some(LEN_V6 as f64), "{line}");
    let mut top = Terminal::start(&command(directory.path(), "top --interval 100ms"), 100, 30);
    top.wait_for("the histogram", |text| {
        text.contains("udp-echo on veth0") && text.lines().any(|line| line.trim_start().starts_with("sizes "))
    });
    top.send("q");
    assert!(top.wait().success());

    assert_eq!(done(directory.path(), "tell veth0 reset"), "2");
    let stats: Value = serde_json::from_str(&done(directory.path(), "stats --json")).unwrap();
    assert_eq!(stats["metrics"]["sizes_bytes"]["count"], 0);
    let refused = Netdext::start(&mut command(directory.path(), "tell veth0 set 1")).wait();
    assert_eq!(
        refused.expect_failure(1),
        "netdext: the driver udp-echo has no command set: its documentation lists its commands"
    );
    wire.stop(netdext);
}

#[test]
fn each_of_its_queues_answers() {
    require!("ethtool");
    let directory = tempfile::tempdir().unwrap();
    let wire = Wire::with("example, two queues", WireConfig { queues: 2, ..WireConfig::default() });
    let _napi = wire.ready_for_answers();
    let mut netdext = run(&wire, directory.path(), "--port 9 --answer");
    netdext.ready();
    // Each socket has another port, and so each flow one of the queues.
    for _ in 0..20 {
        assert_eq!(exchange(&wire.host, DRIVER_V4, 9).as_deref(), Some(DATA));
    }
    let counts: Vec<u64> = serde_json::from_str(&done(directory.path(), "tell veth0 reset")).unwrap();
    assert_eq!((counts.len(), counts.iter().sum()), (2, 20), "each instance answers for itself");
    assert_eq!(wire.stop(netdext)["counters"]["echoed"], 20);
}

#[test]
fn an_option_that_is_no_port_is_refused_before_anything_is_attached() {
    require!("ethtool");
    let directory = tempfile::tempdir().unwrap();
    let wire = Wire::new("example, bad option");
    let finished = run(&wire, directory.path(), "--port 0").wait();
    assert_eq!(finished.status.code(), Some(2), "{finished:#?}");
    assert!(finished.stderr.contains("0 is not in 1..=65535"), "{finished:#?}");
    wire.assert_no_xdp();
}

#[test]
fn it_is_installed_and_a_netdext_that_does_not_know_it_says_so_and_runs_the_others() {
    require!();
    let site = Site::with_program("example, daemon", example());
    let daemon = site.daemon();
    site.ok("install --yes --lab --iface veth0 --answer --driver udp-echo --port 9");
    assert_eq!(exchange(&site.namespace, DRIVER_V4, 9).as_deref(), Some(DATA));
    site.ok("install --yes --lab --iface veth8 --addr 198.18.8.1/24 --no-injector");
    assert!(daemon.stop().status.success());

    let state: Value = serde_json::from_slice(&std::fs::read(site.state_file()).unwrap()).unwrap();
    assert_eq!(state["drivers"][0]["spec"]["options"], json!({ "port": 9 }));
    // The rules that the driver wants are not the user's.
    assert_eq!(state["drivers"][0]["rules"], json!([]));

    let mut daemon = Netdext::start(&mut site.command("daemon"));
    daemon.line("ready: daemon, 2 of 2 ", Duration::from_secs(20));
    assert_eq!(exchange(&site.namespace, DRIVER_V4, 9).as_deref(), Some(DATA));
    assert!(daemon.stop().status.success());

    let mut daemon = Netdext::start(&mut site.command_of(&binary(), "daemon"));
    daemon.line("ready: daemon, 1 of 2 ", Duration::from_secs(20));
    let list = site.list();
    let error = list[0]["last_error"].as_str().expect("an error");
    assert!(error.starts_with("there is no driver udp-echo; there are: sample, "), "{error}");
    assert_eq!(list[1]["state"], "activated enabled");
}
