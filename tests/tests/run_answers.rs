//! `netdext run` answers the kernel's own tools at the other end of the wire.

use std::net::Ipv4Addr;
use std::time::Duration;

use netdext_tests::wire::{DRIVER_IFACE, DRIVER_V4, DRIVER_V6, HOST_IFACE, HOST_V4};
use netdext_tests::{EchoRequest, Netdext, PacketSocket, Wire, WireConfig, require, wait_until};
use serde_json::Value;

/// How long an answer may take on a machine with more to do.
const ANSWERED_WITHIN: Duration = Duration::from_secs(2);

/// A netdext that answers and sends nothing of its own accord.
fn answering(wire: &Wire, arguments: &[&str]) -> (Netdext, Value) {
    let mut all = vec!["--no-injector"];
    all.extend(arguments);
    let mut netdext = Netdext::run(&wire.driver, DRIVER_IFACE, &all);
    let (ready, _) = netdext.ready();
    (netdext, ready)
}

fn request(wire: &Wire, from: Ipv4Addr, sequence: u16) -> EchoRequest {
    EchoRequest {
        to_mac: wire.driver_mac(),
        from_mac: wire.host_mac(),
        vlan: None,
        from,
        to: DRIVER_V4.parse().unwrap(),
        identifier: 0x4e44,
        sequence,
        payload_len: 56,
    }
}

#[test]
fn ping_of_every_size_up_to_the_mtu_is_answered_over_ipv4_and_ipv6() {
    require!("ping", "ethtool");
    let wire = Wire::new("sizes of ping");
    let (netdext, ready) = answering(&wire, &[]);
    assert_eq!((&ready["mode"], &ready["enabled"]), (&"native".into(), &true.into()));
    for size in ["0", "1", "56", "1472"] {
        wire.ping_without_loss(5, &["-i", "0.01", "-M", "do", "-s", size, DRIVER_V4]);
    }
    for size in ["0", "1", "56", "1452"] {
        wire.ping_without_loss(5, &["-i", "0.01", "-M", "do", "-s", size, DRIVER_V6]);
    }
    let summary = wire.stop(netdext);
    assert_eq!(summary["counters"]["echo4_answered"], 20);
    assert_eq!(summary["counters"]["echo6_answered"], 20);
}

#[test]
fn arping_gets_the_address_of_the_driver() {
    require!("arping", "ethtool");
    let wire = Wire::new("arping");
    let (netdext, _) = answering(&wire, &[]);
    let output = wire.host.run("arping", &["-c", "3", "-w", "10", "-I", HOST_IFACE, DRIVER_V4]);
    let mac = wire.driver_mac().map(|byte| format!("{byte:02X}")).join(":");
    assert!(output.contains(&mac) && output.contains("Received 3 response"), "{output}");
    let summary = wire.stop(netdext);
    assert_eq!(summary["counters"]["arp_answered"], summary["verdicts"]["driver_arp_request"]);
    assert!(summary["counters"]["arp_answered"].as_u64() >= Some(3), "{summary}");
}

#[test]
fn an_address_that_is_not_the_drivers_is_not_answered() {
    require!("ping", "ethtool");
    let wire = Wire::new("no address of ours");
    let (netdext, _) = answering(&wire, &[]);
    let output = wire.ping(&["-c", "1", "-W", "0.2", "198.18.0.77"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let summary = wire.stop(netdext);
    assert_eq!(summary["counters"]["arp_answered"], 0);
}

fn flood(purpose: &str, address: &str, arguments: &[&str], mode: &str) {
    const COUNT: u32 = 20_000;
    let wire = Wire::new(purpose);
    let (netdext, ready) = answering(&wire, arguments);
    assert_eq!(ready["mode"], mode);
    wire.ping_without_loss(COUNT, &["-f", address]);
    let summary = wire.stop(netdext);
    let counters = &summary["counters"];
    let answered =
        counters["echo4_answered"].as_u64().unwrap() + counters["echo6_answered"].as_u64().unwrap();
    assert_eq!(answered, u64::from(COUNT));
    assert_eq!(summary["accounting"]["lost"], 0);
}

#[test]
fn a_flood_is_answered_without_a_loss_in_native_mode() {
    require!("ping", "ethtool");
    flood("flood, native", DRIVER_V4, &["--mode", "native"], "native");
}

#[test]
fn a_flood_is_answered_without_a_loss_in_skb_mode() {
    require!("ping", "ethtool");
    flood("flood, skb", DRIVER_V4, &["--mode", "skb"], "skb");
}

#[test]
fn a_flood_over_ipv6_is_answered_without_a_loss() {
    require!("ping", "ethtool");
    flood("flood, IPv6", DRIVER_V6, &[], "native");
}

#[test]
fn each_way_of_waiting_answers() {
    require!("ping", "ethtool");
    let wire = Wire::new("ways of waiting");
    for wait in ["spin", "adaptive", "poll"] {
        let (netdext, _) = answering(&wire, &["--wait", wait]);
        // Fast enough that the worker is met awake, slow enough that it is met asleep.
        wire.ping_without_loss(500, &["-f", DRIVER_V4]);
        wire.ping_without_loss(10, &["-i", "0.02", DRIVER_V6]);
        let summary = wire.stop(netdext);
        assert_eq!(summary["counters"]["echo4_answered"], 500, "--wait {wait}");
        assert_eq!(summary["counters"]["echo6_answered"], 10, "--wait {wait}");
    }
}

#[test]
fn a_request_behind_a_vlan_tag_is_answered_behind_the_same_tag() {
    require!("tcpdump", "ethtool");
    let wire = Wire::new("VLAN");
    let (netdext, _) = answering(&wire, &[]);
    let host = PacketSocket::open(&wire.host, HOST_IFACE);
    // The kernel hands the tag over beside the frame; tcpdump puts it back in.
    let mut tcpdump = wire.host.command("tcpdump");
    tcpdump.args(["--immediate-mode", "-l", "-e", "-n", "-Q", "in", "-c", "2", "-i", HOST_IFACE]);
    let tcpdump = Netdext::start(&mut tcpdump);
    wait_until("tcpdump listens", ANSWERED_WITHIN, || {
        tcpdump.stderr().contains("listening on").then_some(())
    });
    let request = request(&wire, HOST_V4.parse().unwrap(), 1);
    host.send(&EchoRequest { vlan: Some(7), ..request }.frame());
    host.send(&EchoRequest { vlan: Some(4094), sequence: 2, ..request }.frame());
    let seen = tcpdump.wait().stdout;
    assert_eq!(seen.len(), 2, "{seen:?}");
    for (line, tag, sequence) in [(&seen[0], "vlan 7,", 1), (&seen[1], "vlan 4094,", 2)] {
        let reply = format!("ICMP echo reply, id {}, seq {sequence}, length 64", request.identifier);
        assert!(line.contains(tag) && line.contains(&reply), "{line}");
    }
    assert_eq!(wire.stop(netdext)["counters"]["echo4_answered"], 2);
}

#[test]
fn every_queue_has_a_socket_and_answers() {
    require!("ethtool");
    const REQUESTS: u16 = 64;
    let wire = Wire::with("several queues", WireConfig { queues: 4, ..WireConfig::default() });
    let (netdext, ready) = answering(&wire, &["--queues", "all"]);
    assert_eq!(ready["queues"], serde_json::json!([0, 1, 2, 3]));
    let mut host = PacketSocket::open(&wire.host, HOST_IFACE);
    let template = request(&wire, HOST_V4.parse().unwrap(), 0);
    for sequence in 0..REQUESTS {
        // The queue is chosen by a hash over the addresses.
        let from = Ipv4Addr::new(198, 18, 0, 100 + sequence as u8);
        let request = EchoRequest { from, sequence, ..template };
        host.send(&request.frame());
        let reply = host.receive_matching(ANSWERED_WITHIN, |frame| request.is_answered_by(frame));
        assert!(reply.is_some(), "request {sequence} has no answer");
    }
    let summary = wire.stop(netdext);
    assert_eq!(summary["verdicts"]["driver_no_socket"], 0);
    assert_eq!(summary["counters"]["echo4_answered"], REQUESTS);
    let queues = summary["queues"].as_array().unwrap();
    let busy = queues.iter().filter(|queue| queue["rx_packets"].as_u64() > Some(0)).count();
    assert!(queues.len() == 4 && busy > 1, "{busy} of {} queues were used", queues.len());
}
