//! `netdext run` from start to end, also where the end is none of its own choice.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use netdext_tests::echo::set_checksum;
use netdext_tests::process::binary;
use netdext_tests::wire::{DRIVER_IFACE, DRIVER_V4, DRIVER_V6, HOST_IFACE, HOST_V4};
use netdext_tests::{
    EchoRequest, Namespace, Netdext, PacketSocket, Wire, patience, patiently, require, wait_until,
};
use rustix::process::Signal;
use serde_json::Value;

/// How long what must happen soon may take on a machine with more to do.
const SOON: Duration = Duration::from_secs(5);

fn answering(wire: &Wire) -> Netdext {
    let mut netdext = Netdext::run(&wire.driver, DRIVER_IFACE, &["--no-injector"]);
    netdext.ready();
    netdext
}

#[test]
fn start_and_stop_fifty_times_on_the_same_interface() {
    require!("ping", "ethtool");
    let wire = Wire::new("start and stop");
    for _ in 0..50 {
        let netdext = answering(&wire);
        wire.ping_without_loss(1, &[DRIVER_V4]);
        assert_eq!(wire.stop(netdext)["counters"]["echo4_answered"], 1);
    }
}

#[test]
fn sigint_sigterm_and_sighup_stop_within_a_second() {
    require!("ping", "ethtool");
    let wire = Wire::new("signals");
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let netdext = answering(&wire);
        wire.ping_without_loss(3, &["-i", "0.01", DRIVER_V4]);
        netdext.signal(signal);
        let finished = netdext.wait();
        assert!(finished.status.success(), "{signal:?}: {finished:#?}");
        assert!(finished.took < patiently(Duration::from_secs(1)), "{signal:?}: {:?}", finished.took);
        finished.expect_whole();
        wire.assert_no_xdp();
    }
}

#[test]
fn under_nohup_the_end_of_the_terminal_stops_nothing() {
    require!("nohup", "ethtool");
    let wire = Wire::new("nohup");
    let mut command = wire.driver.command("nohup");
    command.arg(binary()).args(["run", "--json", "--iface", DRIVER_IFACE, "--no-injector"]);
    let mut netdext = Netdext::start(&mut command);
    netdext.ready();
    netdext.signal(Signal::HUP);
    wire.ping_without_loss(3, &["-i", "0.1", DRIVER_V4]);
    wire.stop(netdext);
}

#[test]
fn a_signal_that_comes_while_a_namespace_is_made_leaves_none() {
    require!();
    let runtime = tempfile::tempdir().unwrap();
    let commands: [&[&str]; 3] = [&["run", "--lab", "--iface", "veth0"], &["daemon"], &["lab", "up"]];
    for (words, signal) in commands.iter().flat_map(|words| [(words, Signal::INT), (words, Signal::HUP)]) {
        let namespace = Namespace::unmade();
        let file = Path::new("/run/netns").join(namespace.name());
        let mut command = Command::new(binary());
        command.args(*words).args(["--netns", namespace.name()]);
        command.env("NETDEXT_RUNTIME_DIR", runtime.path()).env("NETDEXT_STATE_DIR", runtime.path());
        let netdext = Netdext::start(&mut command);
        // Without a pause: it is there for a few milliseconds until netdext looks for signals the next time.
        let until = Instant::now() + patiently(SOON);
        while !file.exists() {
            assert!(Instant::now() < until, "{words:?}: no namespace: {}", netdext.stderr());
        }
        netdext.signal(signal);
        let finished = netdext.wait();
        assert!(finished.status.code().is_some_and(|status| status < 2), "{words:?}: {finished:#?}");
        assert!(!namespace.exists(), "{words:?}, {signal:?}: the namespace stays");
    }
}

#[test]
fn an_interface_set_down_and_up_again_answers_again() {
    require!("ping", "ethtool");
    let wire = Wire::new("down and up");
    let netdext = answering(&wire);
    wire.ping_without_loss(2, &["-i", "0.01", DRIVER_V4]);
    for _ in 0..3 {
        wire.driver.ip(&["link", "set", "dev", DRIVER_IFACE, "down"]);
        assert_eq!(wire.ping(&["-c", "1", "-W", "0.2", DRIVER_V4]).status.code(), Some(1), "it is down");
        wire.driver.ip(&["link", "set", "dev", DRIVER_IFACE, "up"]);
        wait_until("ping works again", SOON, || {
            wire.ping(&["-c", "1", "-W", "0.5", DRIVER_V4]).status.success().then_some(())
        });
        wire.ping_without_loss(5, &["-i", "0.01", DRIVER_V6]);
    }
    let summary = wire.stop(netdext);
    assert_eq!(summary["counters"]["echo6_answered"], 15);
}

#[test]
fn an_interface_that_is_down_is_served_once_it_is_up() {
    require!("ping", "ethtool");
    let wire = Wire::new("down at the start");
    wire.driver.ip(&["link", "set", "dev", DRIVER_IFACE, "down"]);
    let mut netdext = Netdext::run(&wire.driver, DRIVER_IFACE, &["--no-injector"]);
    assert_eq!(netdext.ready().0["enabled"], false);
    wire.driver.ip(&["link", "set", "dev", DRIVER_IFACE, "up"]);
    wait_until("ping works", SOON, || {
        wire.ping(&["-c", "1", "-W", "0.5", DRIVER_V4]).status.success().then_some(())
    });
    wire.stop(netdext);
}

/// Deletes an interface while frames run in both directions; netdext must end by itself and say why.
fn delete_under_load(purpose: &str, delete: impl FnOnce(&Wire)) {
    let wire = Wire::new(purpose);
    let (interval, flood_for) = (format!("{}ms", patience()), (10 * patience()).to_string());
    let load = ["--first", "10ms", "--interval", &interval, "--batch", "8", "--target", HOST_V4];
    let mut netdext = Netdext::run(&wire.driver, DRIVER_IFACE, &load);
    netdext.ready();
    let flood = Netdext::start(wire.host.command("ping").args(["-q", "-f", "-w", &flood_for, DRIVER_V4]));
    // Both ends ask, and are answered.
    wait_until("there is load", SOON, || {
        let kinds = ["InEchos", "InEchoReps"];
        kinds.iter().all(|kind| wire.host.icmp_count(kind) > 200).then_some(())
    });
    delete(&wire);
    let finished = netdext.wait();
    drop(flood);
    let line = finished.expect_failure(1);
    assert!(line.contains(DRIVER_IFACE) && line.contains("is gone"), "{line}");
    assert!(finished.took < patiently(SOON), "{:?}", finished.took);
    assert!(finished.expect_whole()["counters"]["echo4_answered"].as_u64() > Some(0));
    assert!(wire.driver.link(DRIVER_IFACE).is_none());
}

#[test]
fn an_interface_deleted_under_load_ends_the_run_with_a_clear_line() {
    require!("ping", "ethtool");
    delete_under_load("deleted under load", |wire| {
        wire.driver.ip(&["link", "delete", "dev", DRIVER_IFACE]);
    });
}

#[test]
fn a_peer_deleted_under_load_ends_the_run_with_a_clear_line() {
    require!("ping", "ethtool");
    delete_under_load("peer deleted under load", |wire| {
        wire.host.ip(&["link", "delete", "dev", HOST_IFACE]);
    });
}

#[test]
fn after_sigkill_no_xdp_program_stays_and_the_next_start_works() {
    require!("ping", "ethtool");
    let wire = Wire::new("SIGKILL");
    for _ in 0..3 {
        let netdext = answering(&wire);
        assert_eq!(wire.driver.xdp_programs(DRIVER_IFACE).len(), 1);
        netdext.signal(Signal::KILL);
        assert_eq!(netdext.wait().status.code(), None);
        wait_until("the XDP program is gone", SOON, || {
            wire.driver.xdp_programs(DRIVER_IFACE).is_empty().then_some(())
        });
    }
    let netdext = answering(&wire);
    wire.ping_without_loss(3, &["-i", "0.01", DRIVER_V4]);
    wire.stop(netdext);
}

/// Numbers that look random and are the same for the same seed (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }
}

/// A frame that no station may answer, made from a good request.
fn malformed(good: &EchoRequest, random: &mut Random) -> Vec<u8> {
    let mut frame = good.frame();
    match random.below(8) {
        // The shortest that a packet socket sends is an Ethernet header.
        0 => frame.truncate(14 + random.below(frame.len() - 14)),
        1 => frame[36] ^= 1 << random.below(8),
        2 => frame[24] ^= 1 << random.below(8),
        3 => frame[42 + random.below(good.payload_len)] ^= 0x10,
        4 => {
            // Header length below five words.
            frame[14] = 0x40 | random.below(5) as u8;
            set_checksum(&mut frame[14..34], 10);
        }
        5 => {
            // A total length beyond the frame, or below the header's.
            let length = if random.below(2) == 0 { 1000 + random.below(60_000) } else { random.below(20) };
            frame[16..18].copy_from_slice(&(length as u16).to_be_bytes());
            set_checksum(&mut frame[14..34], 10);
        }
        6 => {
            // An echo request to everybody (RFC 1122, 3.2.2.6).
            frame[..6].fill(0xff);
            frame[30..34].fill(0xff);
            set_checksum(&mut frame[14..34], 10);
        }
        _ => {
            // Only the Ethernet header is left in order.
            let ethertypes = [[0x08, 0x00], [0x08, 0x06], [0x86, 0xdd], [0x81, 0x00]];
            frame[12..14].copy_from_slice(&ethertypes[random.below(4)]);
            frame[14..].fill_with(|| random.next() as u8);
        }
    }
    frame
}

/// The sum of the program's counters that each frame meets exactly one of.
fn judged(summary: &Value) -> u64 {
    let besides = ["driver_no_socket", "driver_no_timestamp"];
    let verdicts = summary["verdicts"].as_object().unwrap().iter();
    verdicts.filter(|(name, _)| !besides.contains(&name.as_str())).map(|(_, n)| n.as_u64().unwrap()).sum()
}

fn sum(counts: &Value) -> u64 {
    counts.as_object().unwrap().values().map(|count| count.as_u64().unwrap()).sum()
}

#[test]
fn ten_thousand_malformed_frames_are_counted_and_none_is_answered() {
    require!("ping", "sysctl", "ethtool");
    const BURSTS: u16 = 100;
    const BURST: u16 = 100;
    const PINGS: u32 = 5;
    let seed = 0x6e65_7464_6578;
    println!("seed {seed:#x}");
    let mut random = Random(seed);
    let wire = Wire::new("malformed frames");
    // Nobody says a word of his own accord, so that every frame is known.
    for namespace in [&wire.driver, &wire.host] {
        namespace.run("sysctl", &["-qw", "net.ipv6.conf.all.disable_ipv6=1"]);
    }
    let mac = wire.driver_mac().map(|byte| format!("{byte:02x}")).join(":");
    wire.host.ip(&["neigh", "replace", DRIVER_V4, "lladdr", &mac, "nud", "permanent", "dev", HOST_IFACE]);
    let netdext = answering(&wire);
    let mut host = PacketSocket::open(&wire.host, HOST_IFACE);
    let good = EchoRequest {
        to_mac: wire.driver_mac(),
        from_mac: wire.host_mac(),
        vlan: None,
        from: HOST_V4.parse().unwrap(),
        to: DRIVER_V4.parse().unwrap(),
        identifier: 1,
        sequence: 0,
        payload_len: 56,
    };
    for sequence in 0..BURSTS {
        for _ in 0..BURST {
            host.send(&malformed(&good, &mut random));
        }
        // Frames stay in order: once this one is answered, all before it have been judged.
        let good = EchoRequest { sequence, ..good };
        host.send(&good.frame());
        let reply = host.receive(SOON).unwrap_or_else(|| panic!("no answer after burst {sequence}"));
        assert!(good.is_answered_by(&reply), "a malformed frame was answered: {reply:02x?}");
    }
    wire.ping_without_loss(PINGS, &["-i", "0.01", DRIVER_V4]);
    let summary = wire.stop(netdext);
    let (malformed, answered) = (u64::from(BURSTS) * u64::from(BURST), u64::from(BURSTS) + u64::from(PINGS));
    assert_eq!(judged(&summary), malformed + answered, "{summary}");
    assert_eq!(summary["counters"]["echo4_answered"], answered);
    assert_eq!(summary["queues"][0]["tx_packets"], answered, "{summary}");
    // What came through to the driver is answered or dropped for a reason that is counted.
    assert_eq!(summary["accounting"]["lost"], 0);
    let delivered = summary["accounting"]["delivered"].as_u64().unwrap();
    assert_eq!(sum(&summary["counters"]) + sum(&summary["drops"]), delivered, "{summary}");
    assert!(summary["drops"]["bad_icmp4_checksum"].as_u64() > Some(1000), "{summary}");
    assert!(summary["drops"]["bad_ipv4_checksum"].as_u64() > Some(500), "{summary}");
    assert!(summary["verdicts"]["kernel_group_mac"].as_u64() > Some(500), "{summary}");
}
