//! The driver on a simulated wire; frames are made by etherparse.

use etherparse::PacketBuilder;
use netdext::driver::ControlError;
use netdext::metrics::{Metric, Percentiles};
use netdext::registry::Registry;
use netdext::testing::{Bench, OUR_MAC, OUR4, OUR6, PEER_MAC, PEER4, PEER6, frame};
use serde_json::{Value, json};
use udp_echo::UdpEcho;

const PORT: u16 = 9;
const THEIRS: u16 = 4711;

fn bench() -> Bench {
    let registry = Registry::new().with::<UdpEcho>();
    Bench::new(registry.factory("udp-echo", &json!({ "port": PORT })).unwrap().build(0))
}

/// A datagram in a frame with the hop limit that netdext sends, so that it can be compared with what comes back.
fn datagram(macs: [[u8; 6]; 2], is_ipv6: bool, to_us: bool, ports: [u16; 2]) -> Vec<u8> {
    let (from4, to4) = if to_us { (PEER4, OUR4) } else { (OUR4, PEER4) };
    let (from6, to6) = if to_us { (PEER6, OUR6) } else { (OUR6, PEER6) };
    let link = PacketBuilder::ethernet2(macs[0], macs[1]);
    let ip = match is_ipv6 {
        false => link.ipv4(from4.octets(), to4.octets(), 64),
        true => link.ipv6(from6.octets(), to6.octets(), 64),
    };
    let mut frame = Vec::new();
    ip.udp(ports[0], ports[1]).write(&mut frame, b"to and fro").unwrap();
    frame
}

fn request(is_ipv6: bool) -> Vec<u8> {
    datagram([PEER_MAC, OUR_MAC], is_ipv6, true, [THEIRS, PORT])
}

fn sizes(bench: &mut Bench) -> Percentiles {
    let stats = bench.stats();
    let Some(Metric::Histogram(sizes)) = stats.metrics.get("sizes_bytes") else { panic!("{stats:?}") };
    sizes.into()
}

#[test]
fn a_datagram_comes_back_as_the_driver_itself_would_have_sent_it() {
    let mut bench = bench();
    for is_ipv6 in [false, true] {
        let answer = datagram([OUR_MAC, PEER_MAC], is_ipv6, false, [PORT, THEIRS]);
        assert_eq!(bench.exchange(&request(is_ipv6)), [answer]);
    }
    assert_eq!(bench.finish().snapshot.driver.counters, [("echoed", 2), ("ignored", 0)]);
}

#[test]
fn all_else_is_ignored() {
    let mut bench = bench();
    let to_another_port = datagram([PEER_MAC, OUR_MAC], false, true, [THEIRS, PORT + 1]);
    let from_an_echo = datagram([PEER_MAC, OUR_MAC], false, true, [PORT, PORT]);
    let to_another = datagram([PEER_MAC, OUR_MAC], false, false, [THEIRS, PORT]);
    let no_datagram = frame(OUR_MAC, PEER_MAC, 60);
    for ignored in [to_another_port, from_an_echo, to_another, no_datagram] {
        assert!(bench.exchange(&ignored).is_empty(), "{ignored:x?}");
    }
    assert_eq!(bench.finish().snapshot.driver.counters, [("echoed", 0), ("ignored", 4)]);
}

#[test]
fn the_histogram_has_the_sizes_of_what_came_until_it_is_reset() {
    let mut bench = bench();
    bench.exchange(&request(false));
    bench.exchange(&request(true));
    let Percentiles { count, min, max, .. } = sizes(&mut bench);
    assert_eq!((count, min, max), (2, 14 + 20 + 8 + 10, 14 + 40 + 8 + 10));
    assert_eq!(bench.control("reset", &Value::Null), Ok(Some(json!(2))));
    assert_eq!(sizes(&mut bench).count, 0);
    let unknown = ControlError::Unknown { driver: "udp-echo", name: "set".to_owned() };
    assert_eq!(bench.control("set", &Value::Null), Err(unknown));
    bench.finish();
}

#[test]
fn what_finds_the_tx_ring_full_is_counted_and_no_frame_is_lost() {
    let mut bench = bench();
    bench.stall();
    for _ in 0..500 {
        bench.offer(&request(false));
        bench.turn();
    }
    let stats = bench.finish().snapshot.driver;
    assert!(stats.drops[0].1 > 0, "{stats:?}");
}

#[test]
fn it_asks_for_its_port_alone() {
    let registry = Registry::new().with::<UdpEcho>();
    let factory = registry.factory("udp-echo", &json!({ "port": PORT })).unwrap();
    assert_eq!(factory.requirements().steering, ["driver:proto=udp,dport=9"]);
}
