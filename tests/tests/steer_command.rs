//! `netdext steer` and `netdext reload`, on the real binary: what a rule does to ping, at once and after a restart.

use std::path::Path;
use std::process::{Command, Output};

use netdext_host::link::Device;
use netdext_host::xdp::peer_napi::PeerNapi;
use netdext_tests::process::binary;
use netdext_tests::wire::{DRIVER_IFACE, DRIVER_V4, HOST_IFACE};
use netdext_tests::{Netdext, Wire, require};
use serde_json::Value;

/// netdext with its sockets and its state in a directory of the test's own.
fn netdext(directory: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.env("NETDEXT_RUNTIME_DIR", directory.join("run"));
    command.env("NETDEXT_STATE_DIR", directory.join("state"));
    command.args(arguments);
    command
}

fn output(directory: &Path, arguments: &[&str]) -> Output {
    netdext(directory, arguments).output().expect("netdext can be started")
}

/// The lines of a command that succeeds.
#[track_caller]
fn lines(directory: &Path, arguments: &[&str]) -> Vec<String> {
    let output = output(directory, arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}

/// The line on stderr of a command that fails with this status.
#[track_caller]
fn refusal(directory: &Path, status: i32, arguments: &[&str]) -> String {
    let output = output(directory, arguments);
    assert_eq!(output.status.code(), Some(status), "{arguments:?}: {output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Id, text and hits of each rule.
#[track_caller]
fn rules(directory: &Path) -> Vec<(u64, String, u64)> {
    let parse = |line: &String| {
        let rule: Value = serde_json::from_str(line).expect("a JSON object a line");
        let text = rule["rule"].as_str().expect("a text").to_owned();
        (rule["id"].as_u64().expect("a number"), text, rule["hits"].as_u64().expect("a count"))
    };
    lines(directory, &["steer", "list", "--json", "--iface", DRIVER_IFACE]).iter().map(parse).collect()
}

fn is_answered(wire: &Wire) -> bool {
    wire.ping(&["-q", "-c", "2", "-i", "0.05", "-W", "0.3", DRIVER_V4]).status.success()
}

#[test]
fn a_rule_counts_from_the_next_frame_on_and_no_longer_once_it_is_deleted() {
    require!("ping", "ethtool");
    let directory = tempfile::tempdir().expect("a directory");
    let directory = directory.path();
    let wire = Wire::new("steer");
    let namespace = wire.driver.name();
    let run = ["run", "--json", "--no-injector", "--netns", namespace, "--iface", DRIVER_IFACE];
    let mut process = Netdext::start(netdext(directory, &run).args(["--steer", "kernel:proto=tcp"]));
    process.ready();
    assert!(is_answered(&wire));

    let added = lines(directory, &["steer", "add", "drop", "proto=icmp", "--iface", DRIVER_IFACE]);
    assert_eq!(added, ["added: 2 drop:proto=icmp"]);
    assert!(!is_answered(&wire), "the rule drops echo requests");
    let dropped = (2, "drop:proto=icmp".to_owned(), 2);
    assert_eq!(rules(directory), [(1, "kernel:proto=tcp".to_owned(), 0), dropped]);

    assert_eq!(lines(directory, &["reload", "--iface", DRIVER_IFACE]).len(), 1);
    assert!(!is_answered(&wire), "a fresh program goes by the same rules");
    assert_eq!(rules(directory)[1].2, 4, "and goes on counting");

    assert_eq!(
        lines(directory, &["steer", "del", "2", "1"]),
        ["deleted: 2 drop:proto=icmp", "deleted: 1 kernel:proto=tcp"]
    );
    assert!(is_answered(&wire));
    assert_eq!(rules(directory), []);
    let summary = wire.stop(process);
    assert_eq!(summary["verdicts"]["rule_drop"], 4);
}

#[test]
fn an_answer_rule_is_carried_out_by_the_xdp_program_while_the_driver_is_enabled() {
    require!("ping", "ethtool");
    let directory = tempfile::tempdir().expect("a directory");
    let directory = directory.path();
    let wire = Wire::new("answer rule");
    // Frames that an XDP program sends are heard only where there is one too.
    let _napi = wire.host.block_on(async || {
        let device = Device::query(HOST_IFACE).await.expect("the host's end");
        PeerNapi::attach(&device.name, device.index).expect("a program on the host's end")
    });
    let namespace = wire.driver.name();
    let run = ["run", "--json", "--no-injector", "--netns", namespace, "--iface", DRIVER_IFACE];
    let mut process = Netdext::start(&mut netdext(directory, &run));
    process.ready();
    lines(directory, &["steer", "add", "answer:proto=icmp"]);
    assert!(is_answered(&wire));
    lines(directory, &["disable"]);
    assert!(!is_answered(&wire), "the kernel has no such address");
    lines(directory, &["enable"]);
    assert!(is_answered(&wire));
    let summary = wire.stop(process);
    assert_eq!(summary["verdicts"]["answered_echo4"], 4);
    assert_eq!(summary["counters"]["echo4_answered"], 0);
}

#[test]
fn what_is_no_rule_and_what_is_not_there_is_refused_with_one_line() {
    require!("ethtool");
    let directory = tempfile::tempdir().expect("a directory");
    let directory = directory.path();
    let wire = Wire::new("steer refuses");
    let none = refusal(directory, 1, &["steer", "list"]);
    assert_eq!(none.lines().count(), 1, "{none}");
    let namespace = wire.driver.name();
    wire.driver.ip(&["route", "add", "default", "dev", DRIVER_IFACE]);
    let run = ["run", "--json", "--no-injector", "--netns", namespace, "--iface", DRIVER_IFACE];
    let mut process = Netdext::start(&mut netdext(directory, &run));
    process.ready();
    let cut_off = refusal(directory, 1, &["steer", "add", "drop", "proto=tcp"]);
    assert!(cut_off.contains("default route") && cut_off.contains("--yes"), "{cut_off}");
    assert_eq!(
        lines(directory, &["steer", "add", "--yes", "drop", "proto=tcp"]),
        ["added: 1 drop:proto=tcp"]
    );
    let twice = refusal(directory, 1, &["steer", "add", "--yes", "drop:proto=tcp"]);
    assert!(twice.contains("there already, as number 1"), "{twice}");
    let gone = refusal(directory, 1, &["steer", "del", "7"]);
    assert!(gone.contains("no steering rule 7"), "{gone}");
    let wrong = refusal(directory, 2, &["steer", "add", "drop", "dport=53"]);
    assert!(wrong.contains("proto="), "{wrong}");
    wire.stop(process);
}

#[test]
fn the_daemon_keeps_rules_across_its_lives() {
    require!("ping", "ethtool");
    let directory = tempfile::tempdir().expect("a directory");
    let directory = directory.path();
    let wire = Wire::new("rules kept");
    let daemon = || {
        let process = Netdext::start(&mut netdext(directory, &["daemon", "--netns", wire.driver.name()]));
        netdext_tests::wait_until("the daemon answers", std::time::Duration::from_secs(10), || {
            let list = output(directory, &["list", "--json"]);
            let text = String::from_utf8_lossy(&list.stdout).into_owned();
            (list.status.success() && directory.join("run/control.sock").exists()).then_some(text)
        });
        process
    };
    let first = daemon();
    let install = ["install", "--yes", "--no-injector", "--iface", DRIVER_IFACE, "--steer", "all"];
    lines(directory, &install);
    lines(directory, &["steer", "add", "kernel", "proto=17"]);
    lines(directory, &["steer", "add", "drop", "proto=icmp"]);
    lines(directory, &["steer", "del", "1", "2"]);
    assert!(!is_answered(&wire));
    let finished = first.stop();
    assert!(finished.status.success(), "{finished:#?}");
    assert!(wire.driver.xdp_programs(DRIVER_IFACE).is_empty());

    let second = daemon();
    netdext_tests::wait_until("the driver runs", std::time::Duration::from_secs(10), || {
        (wire.driver.xdp_programs(DRIVER_IFACE).len() == 1
            && output(directory, &["steer", "list"]).status.success())
        .then_some(())
    });
    let kept: Vec<_> = rules(directory).into_iter().map(|(id, text, _)| (id, text)).collect();
    assert_eq!(kept, [(1, "drop:proto=icmp".to_owned())]);
    assert!(!is_answered(&wire));
    lines(directory, &["steer", "del", "1"]);
    assert!(is_answered(&wire));
    lines(directory, &["uninstall"]);
    assert!(second.stop().status.success());
    wire.assert_no_xdp();
}
