//! `netdext doctor` on real interfaces: what it finds, what it mends, and that it puts it back.

use std::process::Command;
use std::time::Duration;

use netdext_host::link::Device;
use netdext_host::link::offload::finish_frames;
use netdext_host::link::tuning::Change;
use netdext_host::xdp::program::{ProgramConfig, SteeringProgram, XdpMode};
use netdext_tests::process::binary;
use netdext_tests::{Finished, Namespace, Netdext, patiently, require};
use rustix::process::Signal;
use serde_json::Value;

const FIXED_WITHIN: Duration = Duration::from_secs(20);

/// A pair in one namespace, as the kernel makes it, up.
fn pair(purpose: &str) -> Namespace {
    let namespace = Namespace::new(purpose);
    namespace.ip(&["link", "add", "veth0", "type", "veth", "peer", "name", "veth1"]);
    namespace.ip(&["link", "set", "veth0", "up"]);
    namespace.ip(&["link", "set", "veth1", "up"]);
    namespace
}

/// The same with frames complete: no finding worse than a note.
fn sound_pair(purpose: &str) -> Namespace {
    let namespace = pair(purpose);
    namespace.block_on(async || finish_frames("veth1").await.unwrap());
    namespace
}

fn start(namespace: &Namespace, arguments: &[&str]) -> Netdext {
    let mut command = Command::new(binary());
    command.args(["doctor", "--json", "--netns", namespace.name(), "--iface", "veth0"]).args(arguments);
    Netdext::start(&mut command)
}

fn doctor(namespace: &Namespace, arguments: &[&str]) -> Finished {
    start(namespace, arguments).wait()
}

fn lines(finished: &Finished, event: &str) -> Vec<Value> {
    let lines = finished.stdout.iter().map(|line| serde_json::from_str::<Value>(line).expect("JSON lines"));
    lines.filter(|line| line["event"] == event).collect()
}

#[track_caller]
fn finding(finished: &Finished, check: &str) -> Value {
    let findings = lines(finished, "finding");
    let found = findings.into_iter().find(|finding| finding["check"] == check);
    found.unwrap_or_else(|| panic!("no {check}: {finished:#?}"))
}

fn features(namespace: &Namespace) -> String {
    namespace.run("ethtool", &["-k", "veth1"])
}

#[test]
fn a_pair_as_the_kernel_makes_it_has_warnings_whose_commands_work() {
    require!("ethtool");
    let namespace = pair("doctor, findings");
    let before = features(&namespace);
    let finished = doctor(&namespace, &[]);
    let line = finished.expect_failure(1);
    assert!(line.contains("on veth0 need to be mended") && line.contains("--fix"), "{line}");
    assert_eq!(features(&namespace), before, "nothing is changed");
    assert_eq!(finding(&finished, "program")["severity"], "ok", "{finished:#?}");
    assert_eq!(finding(&finished, "xdp_mode")["finding"], "native mode, copying");
    assert_eq!(finding(&finished, "link")["severity"], "ok");
    let summary = finished.summary.as_ref().unwrap();
    assert_eq!((&summary["warnings"], &summary["problems"]), (&3.into(), &0.into()), "{finished:#?}");
    // The commands that it shows are commands, and mend what they are for.
    for check in ["peer_checksum", "peer_segmentation", "peer_vlan", "peer_napi"] {
        let command = finding(&finished, check)["fix"].as_str().unwrap().to_owned();
        assert!(finding(&finished, check)["fixable"] == true);
        namespace.run("sh", &["-c", &command]);
    }
    let finished = doctor(&namespace, &[]);
    assert!(finished.status.success(), "{finished:#?}");
    for check in ["peer_checksum", "peer_segmentation", "peer_vlan", "peer_napi"] {
        assert_eq!(finding(&finished, check)["severity"], "ok");
    }
}

#[test]
fn fixes_are_made_and_taken_back_on_each_way_to_end() {
    require!("ethtool");
    let namespace = pair("doctor, fixes");
    let timeout = |value: Option<&str>| {
        let write = value.map(|value| format!("echo {value} > /sys/class/net/veth0/gro_flush_timeout;"));
        let script = format!("{}cat /sys/class/net/veth0/gro_flush_timeout", write.unwrap_or_default());
        namespace.run("sh", &["-c", &script]).trim().to_owned()
    };
    assert_eq!(timeout(Some("50000")), "50000");
    let before = features(&namespace);
    for signal in [Signal::INT, Signal::TERM] {
        let mut fixing = start(&namespace, &["--fix"]);
        // The peer's NAPI is the last that is mended.
        let deadline = std::time::Instant::now() + patiently(FIXED_WITHIN);
        fixing.event("fixed", FIXED_WITHIN);
        while !features(&namespace).contains("generic-receive-offload: on") {
            assert!(std::time::Instant::now() < deadline, "{}", features(&namespace));
        }
        let during = features(&namespace);
        for off in ["tx-checksum-ip-generic: off", "tx-tcp-segmentation: off", "tx-vlan-offload: off"] {
            assert!(during.contains(off), "{off}: {during}");
        }
        assert_eq!(timeout(None), "0");
        fixing.signal(signal);
        let finished = fixing.wait();
        assert!(finished.status.success(), "{finished:#?}");
        let checks = |event| -> Vec<String> {
            lines(&finished, event).iter().map(|line| line["check"].as_str().unwrap().to_owned()).collect()
        };
        let (fixed, mut restored) = (checks("fixed"), checks("restored"));
        restored.reverse();
        assert_eq!(fixed, restored, "taken back in reverse order");
        assert_eq!(features(&namespace), before);
        assert_eq!(timeout(None), "50000");
    }
    let finished = doctor(&namespace, &["--fix", "--duration", "50ms"]);
    assert!(finished.status.success() && !lines(&finished, "restored").is_empty(), "{finished:#?}");
    assert_eq!(features(&namespace), before);
}

#[test]
fn what_cannot_be_fixed_is_left_and_the_status_says_so() {
    require!("ethtool");
    let namespace = sound_pair("doctor, not to be fixed");
    namespace.ip(&["link", "set", "veth1", "down"]);
    let finished = doctor(&namespace, &["--fix", "--duration", "50ms"]);
    let line = finished.expect_failure(1);
    assert!(line.contains("1 of the findings"), "{line}");
    let link = finding(&finished, "link");
    assert_eq!((&link["severity"], &link["fix"]), (&"warning".into(), &"ip link set veth1 up".into()));
    assert_eq!(link["fixable"], false);
}

#[test]
fn a_change_is_taken_back_when_its_guard_is_dropped_and_needs_nothing_when_the_interface_is_gone() {
    require!("ethtool");
    let namespace = pair("doctor, guards");
    let before = features(&namespace);
    let change = || Change::Features {
        iface: "veth1".to_owned(),
        features: vec!["tx-checksum-ip-generic".to_owned(), "tx-tcp-segmentation".to_owned()],
        on: false,
    };
    namespace.enter(|| {
        let tuned = change().apply().unwrap();
        assert!(features(&namespace).contains("tx-tcp-segmentation: off"), "{}", features(&namespace));
        drop(tuned);
        assert_eq!(features(&namespace), before);
        let tuned = change().apply().unwrap();
        namespace.ip(&["link", "del", "veth0"]);
        assert_eq!(tuned.restore().unwrap(), None);
        assert!(change().apply().is_err());
    });
}

#[test]
fn an_attached_program_is_named() {
    require!("ethtool");
    let namespace = sound_pair("doctor, programs");
    let program = namespace.block_on(async || {
        let device = Device::query("veth0").await.unwrap();
        let config = ProgramConfig { queues: 1, ..ProgramConfig::default() };
        let mut program = SteeringProgram::load(&config).unwrap();
        program.attach(&device.name, device.index, XdpMode::Native, false).unwrap();
        program
    });
    let finished = doctor(&namespace, &[]);
    let found = finding(&finished, "xdp_program");
    assert_eq!(found["severity"], "note", "{found}");
    assert!(found["finding"].as_str().unwrap().contains("a netdext is running here"), "{found}");
    drop(program);
    assert_eq!(finding(&doctor(&namespace, &[]), "xdp_program")["severity"], "ok");
}

#[test]
fn queues_that_lack_a_partner_and_a_missing_interface_are_told() {
    require!("ethtool");
    let namespace = Namespace::new("doctor, queues");
    let shape = ["numtxqueues", "4", "numrxqueues", "4"];
    let add =
        [&["link", "add", "veth0"], &shape[..], &["type", "veth", "peer", "name", "veth1"], &shape].concat();
    namespace.ip(&add);
    namespace.run("ethtool", &["-L", "veth0", "rx", "1", "tx", "4"]);
    namespace.run("ethtool", &["-L", "veth1", "rx", "4", "tx", "4"]);
    let found = finding(&doctor(&namespace, &[]), "xdp_mode");
    assert_eq!((&found["severity"], &found["fix"]), (&"warning".into(), &"ethtool -L veth0 rx 4".into()));
    namespace.ip(&["link", "del", "veth0"]);
    let finished = doctor(&namespace, &[]);
    assert!(finished.expect_failure(1).contains("no interface veth0 here"), "{finished:#?}");
}

#[test]
fn without_privileges_it_looks_all_the_same_and_refuses_to_fix() {
    require!("ethtool", "setpriv");
    let namespace = sound_pair("doctor, unprivileged");
    let unprivileged = |arguments: &[&str]| {
        let mut command = namespace.command("setpriv");
        command.args(["--bounding-set=-all", "--inh-caps=-all"]).arg(binary());
        Netdext::start(command.args(["doctor", "--json", "--iface", "veth0"]).args(arguments)).wait()
    };
    let finished = unprivileged(&[]);
    finished.expect_failure(1);
    let missing = finding(&finished, "capabilities");
    assert_eq!(missing["severity"], "problem");
    assert!(missing["finding"].as_str().unwrap().contains("CAP_NET_ADMIN"), "{missing}");
    assert_eq!(finding(&finished, "program")["severity"], "note");
    let refused = unprivileged(&["--fix"]);
    assert!(refused.expect_failure(77).contains("CAP_NET_ADMIN is missing"), "{refused:#?}");
}
