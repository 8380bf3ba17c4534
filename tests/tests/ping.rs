//! `netdext ping` against the kernel's stack: near, behind a gateway, silent, and without taking the host's own.

use std::process::Command;
use std::time::Duration;

use netdext_tests::echo::set_checksum;
use netdext_tests::process::binary;
use netdext_tests::wire::{DRIVER_IFACE, HOST_IFACE, HOST_V4, HOST_V6};
use netdext_tests::{
    Finished, Namespace, Netdext, PacketSocket, Wire, WireConfig, patiently, require, wait_until,
};
use serde_json::Value;

fn start(wire: &Wire, arguments: &[&str]) -> Netdext {
    let mut command = Command::new(binary());
    command.args(["ping", "--json", "--netns", wire.driver.name(), "--iface", DRIVER_IFACE]).args(arguments);
    Netdext::start(&mut command)
}

fn ping(wire: &Wire, arguments: &[&str]) -> Finished {
    start(wire, arguments).wait()
}

fn replies(finished: &Finished) -> Vec<Value> {
    let lines = finished.stdout.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter(|line| line["event"] == "reply").collect()
}

/// Asserts that `count` requests were all answered, in order, and nothing is left behind.
#[track_caller]
fn expect_all(wire: &Wire, finished: &Finished, count: u64) -> Value {
    let summary = finished.expect_summary().clone();
    for (name, expected) in [("sent", count), ("received", count), ("lost", 0), ("duplicates", 0)] {
        assert_eq!(summary[name], expected, "{name} in {summary}");
    }
    let rtt = &summary["rtt_ns"];
    let values = ["min", "p50", "p90", "p99", "p999", "max"].map(|name| rtt[name].as_u64().unwrap());
    assert!(values[0] > 0 && values.is_sorted() && values[5] < 1_000_000_000, "{summary}");
    wire.assert_no_xdp();
    summary
}

#[test]
fn every_request_is_answered_over_ipv4_and_ipv6_at_every_size() {
    require!("ethtool");
    let wire = Wire::new("ping near");
    for (target, sizes) in [(HOST_V4, ["24", "56", "1472"]), (HOST_V6, ["24", "56", "1452"])] {
        for size in sizes {
            let finished = ping(&wire, &[target, "-c", "20", "-i", "1ms", "--size", size]);
            expect_all(&wire, &finished, 20);
            let replies = replies(&finished);
            let numbers: Vec<_> = replies.iter().map(|reply| reply["sequence"].as_u64().unwrap()).collect();
            assert_eq!(numbers, (0..20).collect::<Vec<_>>());
            assert!(
                replies
                    .iter()
                    .all(|r| r["payload_bytes"] == size.parse::<u64>().unwrap() && r["hop_limit"] == 64)
            );
        }
    }
}

#[test]
fn replies_on_several_queues_and_at_a_high_rate_are_all_matched() {
    require!("ethtool");
    let wire = Wire::with("ping, several queues", WireConfig { queues: 4, ..WireConfig::default() });
    let finished = ping(&wire, &[HOST_V4, "-q", "-c", "5000", "-i", "100us"]);
    expect_all(&wire, &finished, 5000);
    assert!(replies(&finished).is_empty(), "-q prints the summary only");
}

#[test]
fn a_target_behind_a_gateway_answers_by_the_kernels_route() {
    require!("ethtool");
    let wire = Wire::new("ping over a gateway");
    // The kernel's route is found over an address of its own, which the probe leaves alone.
    wire.driver.ip(&["address", "add", "198.18.0.5/24", "dev", DRIVER_IFACE]);
    wire.driver.ip(&["route", "add", "203.0.113.0/24", "via", HOST_V4, "dev", DRIVER_IFACE]);
    wire.host.ip(&["address", "add", "203.0.113.9/32", "dev", HOST_IFACE]);
    let arguments = ["203.0.113.9", "-c", "5", "-i", "1ms", "--addr", "198.18.0.77/24"];
    expect_all(&wire, &ping(&wire, &arguments), 5);
    // The same with the gateway named.
    wire.driver.ip(&["route", "del", "203.0.113.0/24"]);
    expect_all(&wire, &ping(&wire, &[&arguments[..], &["--gateway", HOST_V4]].concat()), 5);
}

#[test]
fn the_hosts_own_ping_goes_on_beside_the_probe() {
    require!("ethtool", "ping");
    let wire = Wire::new("ping beside the kernel");
    wire.driver.ip(&["address", "add", "198.18.0.5/24", "dev", DRIVER_IFACE]);
    let probe = start(&wire, &[HOST_V4, "-i", "1ms", "--addr", "198.18.0.77/24"]);
    wait_until("the probe has a reply", Duration::from_secs(10), || {
        (!wire.driver.xdp_programs(DRIVER_IFACE).is_empty()).then_some(())
    });
    // The kernel asks for the MAC address anew, and gets the answers to its own requests.
    wire.driver.ip(&["neigh", "flush", "dev", DRIVER_IFACE]);
    wire.driver.run("ping", &["-c", "20", "-i", "0.01", "-W", "1", HOST_V4]);
    wire.ping_without_loss(20, &["-i", "0.01", "198.18.0.5"]);
    // The probe's address answers, too, as any station's does.
    wire.ping_without_loss(5, &["-i", "0.01", "198.18.0.77"]);
    let finished = probe.stop();
    let summary = finished.expect_summary();
    assert!(summary["received"].as_u64() > Some(0), "{summary}");
    assert_eq!(summary["lost"], 0, "{summary}");
}

#[test]
fn an_address_of_the_kernel_is_refused_and_a_free_one_asked_for() {
    require!("ethtool");
    let wire = Wire::new("ping from the kernel's address");
    wire.driver.ip(&["address", "add", "198.18.0.5/24", "dev", DRIVER_IFACE]);
    let shared = ping(&wire, &[HOST_V4, "-c", "1", "--addr", "198.18.0.5/24"]);
    assert!(shared.expect_failure(1).contains("is the kernel's own address on veth0"), "{shared:#?}");
    let none = ping(&wire, &[HOST_V4, "-c", "1"]);
    let line = none.expect_failure(1);
    assert!(line.contains("--addr ADDR/LEN") && line.contains("198.18.0.5/24"), "{line}");
    wire.assert_no_xdp();
}

#[test]
fn without_a_reply_the_exit_status_is_1_and_the_summary_is_there() {
    require!("ethtool");
    let wire = Wire::new("ping into the void");
    let silent = ping(&wire, &["198.18.0.9", "-c", "2", "-i", "1ms"]);
    let line = silent.expect_failure(1);
    assert!(line.contains("198.18.0.9 does not answer ARP on veth0"), "{line}");
    assert_eq!(silent.summary.as_ref().unwrap()["sent"], 0);
    // A station that is there by hand only: requests go out, and nothing comes back.
    let mac = "02:00:00:00:00:99";
    wire.driver.ip(&["neigh", "add", "198.18.0.9", "lladdr", mac, "dev", DRIVER_IFACE, "nud", "permanent"]);
    let lost = ping(&wire, &["198.18.0.9", "-c", "3", "-i", "1ms", "-W", "50ms"]);
    let line = lost.expect_failure(1);
    assert!(line.contains("no reply from 198.18.0.9 through veth0 to 3 requests"), "{line}");
    let summary = lost.summary.as_ref().unwrap();
    assert_eq!((&summary["sent"], &summary["lost"]), (&3.into(), &3.into()));
    assert_eq!(summary["rtt_ns"], Value::Null);
    wire.assert_no_xdp();
}

#[test]
fn sigint_ends_an_endless_ping_with_its_summary_and_status_0() {
    require!("ethtool");
    let wire = Wire::new("ping until SIGINT");
    let mut endless = start(&wire, &[HOST_V4, "-i", "2ms"]);
    endless.event("reply", Duration::from_secs(10));
    let finished = endless.stop();
    let received = finished.expect_summary()["received"].as_u64().unwrap();
    assert_eq!(received, replies(&finished).len() as u64, "{finished:#?}");
    assert!(finished.took < patiently(Duration::from_secs(2)), "{:?}", finished.took);
    wire.assert_no_xdp();
}

/// The reply to an echo request over IPv4, from a station that is only a packet socket.
fn reply_to(request: &[u8]) -> Vec<u8> {
    let mut reply = request.to_vec();
    reply[..6].copy_from_slice(&request[6..12]);
    reply[6..12].copy_from_slice(&request[..6]);
    reply[26..30].copy_from_slice(&request[30..34]);
    reply[30..34].copy_from_slice(&request[26..30]);
    reply[34] = 0;
    set_checksum(&mut reply[34..], 2);
    reply
}

#[test]
fn lost_late_doubled_and_reordered_replies_are_told_apart() {
    require!("ethtool");
    let wire = Wire::new("ping of a bad station");
    let mac = wire.host_mac().map(|byte| format!("{byte:02x}")).join(":");
    wire.driver.ip(&["neigh", "add", "198.18.0.9", "lladdr", &mac, "dev", DRIVER_IFACE, "nud", "permanent"]);
    let mut station = PacketSocket::open(&wire.host, HOST_IFACE);
    let probe = start(&wire, &["198.18.0.9", "-c", "8", "-i", "200ms", "-W", "700ms"]);
    let mut held = Vec::new();
    for sequence in 0..8_u8 {
        let is_request = |frame: &[u8]| frame.len() == 98 && frame[23] == 1 && frame[34] == 8;
        let request = station.receive_matching(Duration::from_secs(10), is_request).expect("a request");
        assert_eq!(request[40..42], [0, sequence]);
        let reply = reply_to(&request);
        match sequence {
            0 => (0..2).for_each(|_| station.send(&reply)),
            // Held back beyond the next request, beyond the timeout, for ever.
            1 | 3 | 4 => held.push(reply),
            2 => [&reply, &held[0]].into_iter().for_each(|reply| station.send(reply)),
            7 => [&held[1], &reply].into_iter().for_each(|reply| station.send(reply)),
            _ => station.send(&reply),
        }
    }
    let finished = probe.wait();
    let summary = finished.expect_summary();
    for (name, count) in
        [("sent", 8), ("received", 6), ("lost", 2), ("late", 1), ("duplicates", 1), ("reordered", 1)]
    {
        assert_eq!(summary[name], count, "{name} in {summary}");
    }
    let with = |remark: &str| -> Vec<u64> {
        let replies = replies(&finished);
        let told = replies.iter().filter(|reply| reply[remark] == true);
        told.map(|reply| reply["sequence"].as_u64().unwrap()).collect()
    };
    assert_eq!((with("late"), with("duplicate"), with("reordered")), (vec![3], vec![0], vec![1]));
    wire.assert_no_xdp();
}

#[test]
fn a_lab_is_made_and_goes_with_the_ping() {
    require!("ethtool");
    let namespace = Namespace::new("ping in a lab");
    let mut command = Command::new(binary());
    command.args(["ping", "--netns", namespace.name(), "--iface", "veth0", "--lab", HOST_V4]);
    command.args(["-c", "3", "-i", "1ms"]);
    let finished = Netdext::start(&mut command).wait();
    assert!(finished.status.success(), "{finished:#?}");
    let text = finished.stdout.join("\n");
    assert!(text.contains("PING 198.18.0.2 from 198.18.0.1 through veth0, native mode"), "{text}");
    assert!(text.contains("64 bytes from 198.18.0.2: seq=2 ttl=64 time="), "{text}");
    assert!(text.contains("sent 3, received 3, lost 0 (0.0 %)") && text.contains("RTT min "), "{text}");
    assert!(namespace.link("veth0").is_none(), "the pair is removed");
}
