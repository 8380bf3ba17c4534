//! The systemd unit in contrib: systemd understands it, and what it leaves netdext is enough.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use netdext_tests::process::binary;
use netdext_tests::wire::{DRIVER_IFACE, DRIVER_V4};
use netdext_tests::{Finished, Netdext, Wire, require};

/// Exposure that `systemd-analyze security` may give the unit, in tenths; 10.0 is a service without any limit.
const MOST_EXPOSURE: &str = "35";

fn unit() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../contrib/systemd/netdext.service");
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Runs systemd-analyze on the unit, with the netdext under test in the place of the installed one.
fn analyze(arguments: &[&str]) -> std::process::Output {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("netdext.service");
    let text = unit().replace("/usr/local/bin/netdext", binary().to_str().unwrap());
    std::fs::write(&path, text).unwrap();
    Command::new("systemd-analyze")
        .args(arguments)
        .arg(&path)
        .output()
        .expect("systemd-analyze can be started")
}

#[test]
fn systemd_understands_every_line_of_the_unit() {
    require!("systemd-analyze");
    let output = analyze(&["verify", "--man=no"]);
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}

#[test]
fn the_unit_is_rated_as_well_confined() {
    require!("systemd-analyze");
    let threshold = format!("--threshold={MOST_EXPOSURE}");
    let output = analyze(&["security", "--offline=yes", "--no-pager", &threshold]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

/// `net_admin` and so on: as setpriv(1) names the capabilities of the unit.
fn capabilities() -> Vec<String> {
    let unit = unit();
    let line =
        unit.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet=")).expect("a bounding set");
    line.split_whitespace()
        .map(|name| name.strip_prefix("CAP_").expect("a capability").to_lowercase())
        .collect()
}

/// `netdext run` with only these capabilities.
fn start_with(wire: &Wire, capabilities: &[&String], arguments: &[&str]) -> Netdext {
    let set: String = capabilities.iter().map(|name| format!(",+{name}")).collect();
    let mut command = wire.driver.command("setpriv");
    command.args(["--no-new-privs", &format!("--inh-caps=-all{set}"), &format!("--bounding-set=-all{set}")]);
    command.arg(binary()).args(["run", "--json", "--no-injector", "--iface", DRIVER_IFACE]).args(arguments);
    Netdext::start(&mut command)
}

#[test]
fn the_capabilities_of_the_unit_are_enough_to_answer_a_ping() {
    require!("setpriv", "ping", "ethtool");
    let wire = Wire::new("capabilities of the unit");
    let capabilities = capabilities();
    let mut netdext = start_with(&wire, &capabilities.iter().collect::<Vec<_>>(), &[]);
    netdext.ready();
    wire.ping_without_loss(3, &["-i", "0.01", DRIVER_V4]);
    wire.stop(netdext);
}

#[test]
fn each_capability_of_the_unit_is_needed() {
    require!("setpriv", "ethtool");
    let wire = Wire::new("each capability");
    let capabilities = capabilities();
    // Packet memory needs this one only beyond RLIMIT_MEMLOCK, which may be anything here.
    for without in capabilities.iter().filter(|name| *name != "ipc_lock") {
        let others: Vec<_> = capabilities.iter().filter(|name| *name != without).collect();
        let finished: Finished = start_with(&wire, &others, &["--duration", "100ms"]).wait();
        let line = finished.expect_failure(77);
        assert!(line.to_lowercase().contains(&format!("cap_{without}")), "{line}");
    }
    // That what failed was the capability, and nothing else:
    let all: Vec<_> = capabilities.iter().collect();
    let finished =
        start_with(&wire, &all, &["--duration", &format!("{:?}", Duration::from_millis(100))]).wait();
    finished.expect_whole();
}
