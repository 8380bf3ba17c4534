//! Steering rules from a file: thousands at once, at the start and while the driver runs, and what a mistake in it says.

use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use netdext_tests::process::binary;
use netdext_tests::wire::{DRIVER_IFACE, HOST_IFACE};
use netdext_tests::{Netdext, PacketSocket, Wire, require, wait_until};
use serde_json::Value;

/// Rules of the first file that are about one address each.
const SINGLE: usize = 3_000;
const ACTIONS: [&str; 3] = ["drop", "driver", "kernel"];

fn netdext(directory: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.env("NETDEXT_RUNTIME_DIR", directory.join("run"));
    command.args(arguments);
    command
}

fn output(directory: &Path, arguments: &[&str]) -> Output {
    netdext(directory, arguments).output().expect("netdext can be started")
}

/// Writes a file of rules, and returns it as an argument.
fn file(directory: &Path, name: &str, text: &str) -> String {
    let path = directory.join(name);
    std::fs::write(&path, text).expect("the directory can be written");
    format!("@{}", path.display())
}

/// The one line on stderr of a command that fails with status 1.
#[track_caller]
fn refusal(directory: &Path, arguments: &[&str]) -> String {
    let output = output(directory, arguments);
    let stderr = String::from_utf8(output.stderr).expect("text");
    assert_eq!((output.status.code(), stderr.lines().count()), (Some(1), 1), "{arguments:?}: {stderr}");
    stderr
}

/// Text and hits of each rule.
#[track_caller]
fn rules(directory: &Path) -> Vec<(String, u64)> {
    let output = output(directory, &["steer", "list", "--json"]);
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).expect("text");
    let parse = |line: &str| {
        let rule: Value = serde_json::from_str(line).expect("a JSON object a line");
        (rule["rule"].as_str().expect("a text").to_owned(), rule["hits"].as_u64().expect("a count"))
    };
    text.lines().map(parse).collect()
}

fn hit(directory: &Path) -> Vec<(String, u64)> {
    rules(directory).into_iter().filter(|(_, hits)| *hits > 0).collect()
}

/// The address that a rule of the first file is about.
fn address(number: usize) -> [u8; 4] {
    [10, 0, (number / 256) as u8, (number % 256) as u8]
}

fn single(number: usize) -> String {
    let [a, b, c, d] = address(number);
    format!("{}:dst={a}.{b}.{c}.{d}", ACTIONS[number % ACTIONS.len()])
}

#[test]
fn thousands_of_rules_of_a_file_decide_each_about_its_own_frames() {
    require!("ethtool");
    let directory = tempfile::tempdir().expect("a directory");
    let directory = directory.path();
    let wire = Wire::new("rules of a file");
    // The wider rule last: those before it get it as what is around them.
    let mut text = "# one address each\n\n".to_owned();
    (0..SINGLE).for_each(|number| text.push_str(&format!("{} # {number}\n", single(number))));
    text.push_str("drop:dst=10.0.0.0/16\nanswer:proto=icmp\n");
    let first = file(directory, "first", &text);
    let namespace = wire.driver.name();
    let run = ["run", "--json", "--no-injector", "--netns", namespace, "--iface", DRIVER_IFACE];
    let mut process = Netdext::start(netdext(directory, &run).args(["--steer", &first]));
    process.ready();
    assert_eq!(rules(directory).len(), SINGLE + 2);

    let socket = PacketSocket::open(&wire.host, HOST_IFACE);
    let sampled: Vec<usize> = (0..SINGLE).step_by(37).collect();
    sampled.iter().for_each(|number| socket.send(&wire.udp_frame(address(*number))));
    // Of nobody but the wider rule.
    socket.send(&wire.udp_frame([10, 0, 200, 1]));
    let mut expected: Vec<_> = sampled.iter().map(|number| (single(*number), 1)).collect();
    expected.push(("drop:dst=10.0.0.0/16".to_owned(), 1));
    wait_until("every rule has its frame", Duration::from_secs(5), || {
        let hits: u64 = hit(directory).iter().map(|(_, hits)| hits).sum();
        (hits >= expected.len() as u64).then_some(())
    });
    assert_eq!(hit(directory), expected);

    // Sources, which are looked up after destinations, and take all frames over.
    let source = |at: u32| format!("drop:src=198.{}.0.0/15,priority={}\n", at * 2 % 256, at / 128 + 1);
    let bulk: String = (0..2_000).map(source).collect();
    let bulk = file(directory, "bulk", &bulk);
    let added = output(directory, &["steer", "add", "--json", &bulk]);
    assert!(added.status.success(), "{added:?}");
    let added: Value = serde_json::from_slice(&added.stdout).expect("one JSON object");
    assert_eq!((&added["added"], &added["first_id"]), (&2_000.into(), &(SINGLE + 3).into()));
    sampled.iter().for_each(|number| socket.send(&wire.udp_frame(address(*number))));
    wait_until("one rule takes them all", Duration::from_secs(5), || {
        let hits = hit(directory);
        let taken = hits.iter().find(|(rule, _)| rule.starts_with("drop:src=198.18.0.0/15"))?;
        (taken.1 == sampled.len() as u64).then_some(())
    });

    let summary = wire.stop(process);
    let verdict = |name: &str| summary["verdicts"][name].as_u64().expect("a count");
    let of = |action: usize| sampled.iter().filter(|number| *number % ACTIONS.len() == action).count() as u64;
    assert_eq!(verdict("rule_drop"), of(0) + 1 + sampled.len() as u64);
    assert_eq!((verdict("rule_driver"), verdict("rule_kernel")), (of(1), of(2)));
}

#[test]
fn a_file_with_a_mistake_adds_no_rule_and_its_line_is_named() {
    require!("ethtool");
    let directory = tempfile::tempdir().expect("a directory");
    let directory = directory.path();
    let wire = Wire::new("a wrong file of rules");
    let wrong = file(directory, "wrong", "drop:dst=10.0.0.1\n\ndrop:dst=10.0.0.1/8\n");
    let twice = file(directory, "twice", "drop:dst=10.0.0.1\n# the same\ndrop dst=10.0.0.1/32\n");
    let named = format!("netdext: {} line 3: ", &wrong[1..]);
    let namespace = wire.driver.name();
    let run = ["run", "--json", "--no-injector", "--netns", namespace, "--iface", DRIVER_IFACE];
    for start in [&run[..], &["install", "--yes", "--iface", DRIVER_IFACE]] {
        let line = refusal(directory, &[start, &["--steer", &wrong]].concat());
        assert!(line.starts_with(&named), "{line}");
    }
    wire.assert_no_xdp();
    let missing = refusal(directory, &[&run[..], &["--steer", "@/nonexistent/rules"]].concat());
    assert!(missing.contains("/nonexistent/rules: "), "{missing}");

    let mut process = Netdext::start(netdext(directory, &run).args(["--steer", "drop:dst=10.0.0.3"]));
    process.ready();
    let line = refusal(directory, &["steer", "add", &wrong]);
    assert!(line.starts_with(&named), "{line}");
    let line = refusal(directory, &["steer", "add", &twice]);
    assert!(line.contains("line 3: ") && line.contains("in line 1 already"), "{line}");
    // What the driver refuses is refused whole.
    let there = file(directory, "there", "drop:dst=10.0.0.1\n\ndrop:dst=10.0.0.2\ndrop:dst=10.0.0.3\n");
    let line = refusal(directory, &["steer", "add", &there]);
    assert!(line.contains("lines 1 to 4, after 0 of 3 rules were added: "), "{line}");
    assert!(line.contains("`drop:dst=10.0.0.3` is there already, as number 1"), "{line}");
    assert_eq!(rules(directory), [("drop:dst=10.0.0.3".to_owned(), 0)]);
    wire.stop(process);
}
