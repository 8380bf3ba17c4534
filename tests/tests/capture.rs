//! `netdext run --capture`, read back by tshark.

use std::path::Path;
use std::process::Command;

use netdext_tests::wire::{DRIVER_IFACE, DRIVER_V4, DRIVER_V6, HOST_V4};
use netdext_tests::{Netdext, Wire, require};

/// Runs netdext with a capture while `traffic` goes on, and returns its summary and what it said of the capture.
fn capture(
    wire: &Wire,
    file: &Path,
    arguments: &[&str],
    traffic: impl FnOnce(),
) -> (serde_json::Value, serde_json::Value) {
    let mut all = vec!["--no-injector", "--capture", file.to_str().expect("UTF-8")];
    all.extend(arguments);
    let mut netdext = Netdext::run(&wire.driver, DRIVER_IFACE, &all);
    netdext.ready();
    traffic();
    let finished = netdext.stop();
    wire.assert_no_xdp();
    let said = finished.stdout.iter().filter_map(|line| serde_json::from_str(line).ok());
    let said = said.into_iter().find(|line: &serde_json::Value| line["event"] == "capture");
    (finished.expect_whole().clone(), said.expect("it says what was captured"))
}

/// What tshark makes of a file: a line a frame that the display filter takes, with these fields.
fn tshark(file: &Path, filter: &str, fields: &[&str]) -> Vec<String> {
    let mut command = Command::new("tshark");
    command.arg("-r").arg(file).args(["-n", "-Y", filter, "-T", "fields", "-E", "separator=|"]);
    for field in fields {
        command.args(["-e", field]);
    }
    let output = command.output().expect("tshark can be started");
    // It only warns of the user that it runs as.
    let complaints: Vec<_> = String::from_utf8_lossy(&output.stderr)
        .lines()
        .filter(|line| !line.contains("Running as user \"root\""))
        .map(str::to_owned)
        .collect();
    assert!(output.status.success() && complaints.is_empty(), "{complaints:?}");
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}

#[test]
fn tshark_reads_both_directions_without_a_complaint() {
    require!("ping", "ethtool", "tshark");
    let wire = Wire::new("capture");
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("x.pcapng");
    let (summary, said) = capture(&wire, &file, &[], || {
        wire.ping_without_loss(20, &["-i", "0.01", DRIVER_V4]);
        wire.ping_without_loss(20, &["-i", "0.01", "-s", "1400", DRIVER_V6]);
    });
    let received = summary["queues"][0]["rx_packets"].as_u64().unwrap();
    let sent = summary["queues"][0]["tx_packets"].as_u64().unwrap();
    assert_eq!(
        (&said["written"], &said["dropped"], &said["ended"]),
        (&(received + sent).into(), &0.into(), &true.into())
    );

    let malformed = "_ws.malformed or _ws.expert.severity >= error or icmp.checksum.status == 0";
    assert_eq!(tshark(&file, malformed, &["frame.number"]), [""; 0]);
    let inbound = "frame.packet_flags_direction == 1 and frame.verdict.ebpf_xdp == 4";
    assert_eq!(tshark(&file, inbound, &["frame.number"]).len() as u64, received);
    let outbound = "frame.packet_flags_direction == 2 and not frame.verdict.ebpf_xdp";
    assert_eq!(tshark(&file, outbound, &["frame.number"]).len() as u64, sent);
    let whole =
        "frame.interface_name == \"veth0\" and frame.interface_queue == 0 and frame.cap_len == frame.len";
    assert_eq!(tshark(&file, whole, &["frame.number"]).len() as u64, received + sent);

    // Each reply comes after its request, to the ns.
    for protocol in ["icmp", "icmpv6"] {
        let requests = format!("{protocol}.type == {}", if protocol == "icmp" { 8 } else { 128 });
        let replies = format!("{protocol}.type == {}", if protocol == "icmp" { 0 } else { 129 });
        let [requests, replies] = [requests, replies].map(|filter| {
            tshark(&file, &format!("{filter} and frame.time_delta >= 0"), &["frame.time_epoch"])
        });
        assert_eq!((requests.len(), replies.len()), (20, 20), "{protocol}");
        for (request, reply) in requests.iter().zip(&replies) {
            assert_eq!(request.split_once('.').unwrap().1.len(), 9, "nanoseconds: {request}");
            assert!(request < reply, "{request} {reply}");
        }
    }
}

#[test]
fn the_filter_and_the_snaplen_are_kept_to() {
    require!("ping", "ethtool", "tshark");
    let wire = Wire::new("capture, filter");
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("x.pcapng");
    let filter = format!("in and proto icmp and host {HOST_V4}");
    let arguments = ["--filter", filter.as_str(), "--snaplen", "42"];
    let (_, said) = capture(&wire, &file, &arguments, || {
        wire.ping_without_loss(7, &["-i", "0.01", DRIVER_V4]);
        wire.ping_without_loss(7, &["-i", "0.01", DRIVER_V6]);
    });
    assert_eq!((&said["accepted"], &said["written"]), (&7.into(), &7.into()), "{said}");
    assert!(said["seen"].as_u64() >= Some(28), "{said}");
    assert_eq!(
        tshark(&file, "icmp.type == 8 and frame.cap_len == 42 and frame.len == 98", &["frame.number"]).len(),
        7
    );
    assert_eq!(tshark(&file, "frame", &["frame.number"]).len(), 7);
}

#[test]
fn a_disk_that_is_full_stops_neither_the_driver_nor_its_end() {
    require!("ping", "ethtool", "tshark", "mount");
    let wire = Wire::new("capture, full disk");
    let directory = tempfile::tempdir().unwrap();
    let disk = SmallDisk::mount(directory.path());
    let file = disk.0.join("x.pcapng");
    let (summary, said) = capture(&wire, &file, &[], || {
        wire.ping_without_loss(2000, &["-f", "-s", "1400", DRIVER_V4]);
    });
    assert_eq!(summary["counters"]["echo4_answered"], 2000);
    let [accepted, written, dropped] =
        ["accepted", "written", "dropped"].map(|name| said[name].as_u64().unwrap());
    assert!(written > 100 && dropped > 1000 && accepted == written + dropped, "{said}");
    assert_eq!(tshark(&file, "frame", &["frame.number"]).len() as u64, written, "no half frame");
    let counts = dropped_by_statistics(&std::fs::read(&file).unwrap());
    assert_eq!(counts, [dropped], "the file itself says what is missing in it");
}

/// `isb_ifdrop` of every interface statistics block, the file read block by block as the format has it.
fn dropped_by_statistics(file: &[u8]) -> Vec<u64> {
    let word = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().unwrap());
    let (mut at, mut found) = (0, Vec::new());
    while at < file.len() {
        let (kind, len) = (word(at), word(at + 4) as usize);
        assert_eq!(word(at + len - 4) as usize, len, "the length stands at both ends");
        let mut option = at + 20;
        while kind == 5 && option < at + len - 4 {
            let (code, size) = (word(option) & 0xffff, (word(option) >> 16) as usize);
            if code == 5 {
                found.push(u64::from(word(option + 4)) | u64::from(word(option + 8)) << 32);
            }
            option += 4 + size.next_multiple_of(4);
        }
        at += len;
    }
    found
}

/// A disk of 1 MiB; goes with its guard.
struct SmallDisk<'a>(&'a Path);

impl<'a> SmallDisk<'a> {
    fn mount(at: &'a Path) -> Self {
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "none"]).arg(at).status();
        assert!(mounted.expect("mount can be started").success());
        Self(at)
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0).status();
    }
}

#[test]
fn a_file_that_cannot_be_made_is_said_before_anything_is_touched() {
    require!("ethtool");
    let wire = Wire::new("capture, no file");
    let arguments = ["--capture", "/nonexistent/x.pcapng"];
    let finished = Netdext::run(&wire.driver, DRIVER_IFACE, &arguments).wait();
    let line = finished.expect_failure(1);
    assert!(line.contains("/nonexistent/x.pcapng") && line.contains("No such file"), "{line}");
    wire.assert_no_xdp();
}
