//! `netdext run --answer`: the XDP program answers the kernel's own tools, and leaves the pair as it was.

use std::time::Duration;

use netdext_host::link::Device;
use netdext_host::xdp::peer_napi::PeerNapi;
use netdext_tests::wire::{DRIVER_IFACE, DRIVER_V4, DRIVER_V6, HOST_IFACE, HOST_V4};
use netdext_tests::{EchoRequest, Namespace, Netdext, PacketSocket, Wire, require, wait_until};
use serde_json::Value;

const ANSWERED_WITHIN: Duration = Duration::from_secs(2);

/// Whether the host's end has an XDP program, and so a NAPI that is woken.
fn has_program(namespace: &Namespace) -> bool {
    namespace.run("ip", &["link", "show", "dev", HOST_IFACE]).contains("prog/xdp")
}

/// A netdext whose XDP program answers, and that sends nothing of its own accord.
fn answering(namespace: &Namespace, arguments: &[&str]) -> Netdext {
    let mut all = vec!["--no-injector", "--answer"];
    all.extend(arguments);
    let mut netdext = Netdext::run(namespace, DRIVER_IFACE, &all);
    netdext.ready();
    netdext
}

/// A wire whose other end, in its own namespace, is ready for answers as long as the second value lives.
fn ready_wire(purpose: &str) -> (Wire, PeerNapi) {
    let wire = Wire::new(purpose);
    let napi = wire.ready_for_answers();
    (wire, napi)
}

fn verdict(summary: &Value, name: &str) -> u64 {
    summary["verdicts"][name].as_u64().unwrap_or_else(|| panic!("no verdict {name}: {summary}"))
}

#[test]
fn ping_of_every_size_is_answered_by_the_xdp_program_over_ipv4_and_ipv6() {
    require!("ping");
    let (wire, _napi) = ready_wire("sizes of ping, in XDP");
    let netdext = answering(&wire.driver, &[]);
    for size in ["0", "1", "56", "1472"] {
        wire.ping_without_loss(5, &["-i", "0.01", "-M", "do", "-s", size, DRIVER_V4]);
    }
    for size in ["0", "1", "56", "1452"] {
        wire.ping_without_loss(5, &["-i", "0.01", "-M", "do", "-s", size, DRIVER_V6]);
    }
    wire.ping_without_loss(20_000, &["-f", DRIVER_V4]);
    let summary = wire.stop(netdext);
    assert_eq!((verdict(&summary, "answered_echo4"), verdict(&summary, "answered_echo6")), (20_020, 20));
    assert!(verdict(&summary, "answered_arp") > 0 && verdict(&summary, "answered_neighbor_solicitation") > 0);
    assert_eq!(summary["counters"]["echo4_answered"], 0, "the driver has answered nothing");
}

#[test]
fn what_the_program_cannot_answer_is_answered_by_the_driver() {
    require!("ping");
    let (wire, _napi) = ready_wire("record route");
    let netdext = answering(&wire.driver, &[]);
    wire.ping_without_loss(3, &["-i", "0.01", "-R", DRIVER_V4]);
    let summary = wire.stop(netdext);
    assert_eq!(summary["counters"]["echo4_answered"], 3);
    assert_eq!(verdict(&summary, "answered_echo4"), 0);
}

#[test]
fn a_request_behind_a_vlan_tag_is_answered_by_the_program_behind_the_same_tag() {
    require!("tcpdump");
    let (wire, _napi) = ready_wire("VLAN, in XDP");
    let netdext = answering(&wire.driver, &[]);
    let host = PacketSocket::open(&wire.host, HOST_IFACE);
    // The kernel hands the tag over beside the frame; tcpdump puts it back in.
    let mut tcpdump = wire.host.command("tcpdump");
    tcpdump.args(["--immediate-mode", "-l", "-e", "-n", "-Q", "in", "-c", "1", "-i", HOST_IFACE]);
    let tcpdump = Netdext::start(&mut tcpdump);
    wait_until("tcpdump listens", ANSWERED_WITHIN, || {
        tcpdump.stderr().contains("listening on").then_some(())
    });
    let request = EchoRequest {
        to_mac: wire.driver_mac(),
        from_mac: wire.host_mac(),
        vlan: Some(7),
        from: HOST_V4.parse().unwrap(),
        to: DRIVER_V4.parse().unwrap(),
        identifier: 0x4e44,
        sequence: 1,
        payload_len: 56,
    };
    host.send(&request.frame());
    let seen = tcpdump.wait().stdout;
    assert!(seen.iter().any(|line| line.contains("vlan 7,") && line.contains("ICMP echo reply")), "{seen:?}");
    assert_eq!(verdict(&wire.stop(netdext), "answered_echo4"), 1);
}

#[test]
fn a_source_over_its_limit_is_not_answered_and_counted() {
    require!("ping");
    let (wire, _napi) = ready_wire("limit");
    let netdext = answering(&wire.driver, &["--answer-limit", "1/s"]);
    let neighbor = wire.driver_mac().map(|byte| format!("{byte:02x}")).join(":");
    wire.host.ip(&["neighbour", "replace", DRIVER_V4, "lladdr", &neighbor, "dev", HOST_IFACE]);
    let output = wire.ping(&["-c", "20", "-i", "0.002", "-W", "0.1", DRIVER_V4]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("20 packets transmitted, 1 received"), "{text}");
    let summary = wire.stop(netdext);
    assert_eq!((verdict(&summary, "answered_echo4"), verdict(&summary, "answer_rate_limited")), (1, 19));
    assert_eq!(summary["counters"]["echo4_answered"], 0, "the driver must not make up for it");
}

/// A pair with both ends in one namespace, as `netdext lab` makes it.
fn pair_in_one_namespace(purpose: &str) -> Namespace {
    let namespace = Namespace::new(purpose);
    let pair = ["type", "veth", "peer", "name", HOST_IFACE];
    namespace.ip(&[&["link", "add", "name", DRIVER_IFACE][..], &pair].concat());
    namespace.ip(&["address", "add", &format!("{HOST_V4}/24"), "dev", HOST_IFACE]);
    for iface in [DRIVER_IFACE, HOST_IFACE] {
        namespace.ip(&["link", "set", "dev", iface, "up"]);
    }
    namespace
}

#[test]
fn the_other_end_in_the_same_namespace_is_made_ready_and_put_back() {
    require!("ping");
    let namespace = pair_in_one_namespace("the peer is made ready");
    assert!(!has_program(&namespace));
    let netdext = answering(&namespace, &[]);
    assert!(has_program(&namespace), "the peer would not poll");
    namespace.run("ping", &["-q", "-c", "5", "-i", "0.01", DRIVER_V4]);
    let finished = netdext.stop();
    assert!(finished.status.success(), "{finished:#?}");
    assert_eq!(verdict(finished.expect_whole(), "answered_echo4"), 5);
    assert!(!has_program(&namespace), "a program was left on the peer");
}

#[test]
fn a_program_that_was_there_before_stays() {
    require!("ip");
    let namespace = pair_in_one_namespace("a program on the peer");
    let before = namespace.block_on(async || {
        let device = Device::query(HOST_IFACE).await.expect("the host's end");
        PeerNapi::attach(&device.name, device.index).expect("a program on the host's end")
    });
    let finished = answering(&namespace, &[]).stop();
    assert!(finished.status.success(), "{finished:#?}");
    assert!(has_program(&namespace), "the program of somebody else was taken off");
    drop(before);
}

#[test]
fn a_peer_in_another_namespace_is_left_alone_with_a_warning() {
    require!("ip");
    let wire = Wire::new("a far peer");
    let finished = answering(&wire.driver, &[]).stop();
    assert!(finished.status.success(), "{finished:#?}");
    assert!(finished.stderr.contains("another network namespace"), "{}", finished.stderr);
    assert!(!has_program(&wire.host));
}
