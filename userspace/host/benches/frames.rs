//! What is done to one frame, in the code that the XDP program and the driver share: headers, checksums, the verdict, a
//! reply written over its request, steering rules.
//!
//! `cargo bench --bench frames`. Allocations are counted, and there must be none: below an operation that allocates the
//! table has rows with how often and how much.

use std::hint::black_box;
use std::net::{Ipv4Addr, Ipv6Addr};

use divan::counter::{BytesCount, ItemsCount};
use divan::{AllocProfiler, Bencher};
use netdext::dispatch::Timestamp;
use netdext::proto::checksum::checksum;
use netdext::proto::probe::{EchoRequest, Path, Stamp};
use netdext_abi::checksum::updated;
use netdext_abi::maps::OWNED;
use netdext_abi::rules::{Table, decide};
use netdext_abi::{Config, PortView, Verdict, parse, verdict};
use netdext_host::steer::{Rule, RuleTable};

#[global_allocator]
static ALLOC: AllocProfiler = AllocProfiler::system();

const OUR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const PEER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const OURS: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
const PEER: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 2);
const OURS_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 2, 0, 0, 0, 0, 0, 1);
const PEER_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 2, 0, 0, 0, 0, 0, 2);
/// Bytes of an Ethernet and an IPv6 header.
const ETHERNET: usize = 14;
const IPV6: usize = 40;

const FRAMES: [Frame; 6] =
    [Frame::Arp, Frame::Echo4, Frame::Echo6, Frame::Echo6Extended, Frame::Udp, Frame::Malformed];
const REQUESTS: [Frame; 3] = [Frame::Arp, Frame::Echo4, Frame::Echo6];

#[derive(Clone, Copy, Debug)]
enum Frame {
    Arp,
    Echo4,
    Echo6,
    /// With two extension headers.
    Echo6Extended,
    /// Another protocol: nothing for the driver.
    Udp,
    /// The IPv4 header says that there is more than there is.
    Malformed,
}

impl Frame {
    fn bytes(self) -> Vec<u8> {
        let echo4 = || request(Path::V4 { source: PEER, destination: OURS });
        let echo6 = || request(Path::V6 { source: PEER_V6, destination: OURS_V6 });
        match self {
            Self::Arp => arp(),
            Self::Echo4 => echo4(),
            Self::Echo6 => echo6(),
            Self::Echo6Extended => {
                let mut frame = echo6();
                let at = ETHERNET + IPV6;
                // Hop-by-hop and destination options, each with padding alone; what comes behind is ICMPv6.
                frame.splice(at..at, [60, 0, 1, 4, 0, 0, 0, 0, 58, 0, 1, 4, 0, 0, 0, 0]);
                frame[ETHERNET + 5] += 16;
                frame[ETHERNET + 6] = 0;
                frame
            }
            Self::Udp => {
                let mut frame = echo4();
                frame[ETHERNET + 9] = 17;
                frame
            }
            Self::Malformed => {
                let mut frame = echo4();
                frame[ETHERNET + 2] = 0xff;
                frame
            }
        }
    }
}

fn request(path: Path) -> Vec<u8> {
    let request =
        EchoRequest { source_mac: PEER_MAC, destination_mac: OUR_MAC, path, identifier: 7, payload_len: 56 };
    let mut frame = vec![0; request.frame_len()];
    request.write(&Stamp { token: 1, counter: 2, sent: Timestamp::from_nanos(3) }, &mut frame);
    frame
}

fn arp() -> Vec<u8> {
    let mut frame = [OUR_MAC, PEER_MAC].concat();
    frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(PEER_MAC);
    frame.extend(PEER.octets());
    frame.extend([0; 6]);
    frame.extend(OURS.octets());
    frame.resize(60, 0);
    frame
}

/// The port, with its rules if there are some.
struct Port {
    flags: u16,
    compiled: Table,
    rules: RuleTable,
}

impl Port {
    fn new(flags: u16, rules: &[Rule]) -> Self {
        let mut table = RuleTable::default();
        table.add_all(rules).expect("there is room");
        Self { flags, compiled: table.compiled(), rules: table }
    }
}

impl PortView for Port {
    fn config(&self) -> Config {
        Config { mac: OUR_MAC, flags: self.flags }.with_table(u8::from(!self.rules.is_empty()))
    }

    fn v4(&self, address: [u8; 4]) -> u32 {
        if address == OURS.octets() { OWNED } else { 0 }
    }

    fn owns_v6(&self, address: [u8; 16]) -> bool {
        address == OURS_V6.octets()
    }

    type Tries = RuleTable;

    fn rules(&self, table: u8) -> Option<(&Table, &RuleTable)> {
        (table != 0).then_some((&self.compiled, &self.rules))
    }

    fn hit(&self, _: u32) {}
}

fn main() {
    divan::main();
}

#[divan::bench(args = FRAMES)]
fn headers(bencher: Bencher<'_, '_>, frame: Frame) {
    let frame = frame.bytes();
    bencher.counter(ItemsCount::new(1_usize)).bench_local(|| parse(black_box(&frame[..])));
}

#[divan::bench(args = [64, 1500])]
fn checksum_whole(bencher: Bencher<'_, '_>, len: usize) {
    let data: Vec<u8> = (0..len).map(|place| place as u8).collect();
    bencher.counter(BytesCount::new(len)).bench_local(|| checksum(black_box(&data)));
}

#[divan::bench]
fn checksum_updated(bencher: Bencher<'_, '_>) {
    bencher
        .counter(ItemsCount::new(1_usize))
        .bench_local(|| updated(black_box(0x1234), black_box(0x0800), black_box(0)));
}

#[divan::bench(args = FRAMES)]
fn verdict_without_rules(bencher: Bencher<'_, '_>, frame: Frame) {
    let (frame, port) = (frame.bytes(), Port::new(0, &[]));
    bencher.counter(ItemsCount::new(1_usize)).bench_local(|| verdict(black_box(&frame[..]), &port));
}

/// Judged and answered in place. Before each the headers are put back, which is part of what is measured.
#[divan::bench(args = REQUESTS)]
fn answer(bencher: Bencher<'_, '_>, request: Frame) {
    let (original, port) = (request.bytes(), Port::new(Config::ANSWER, &[]));
    let mut frame = original.clone();
    bencher.counter(ItemsCount::new(1_usize)).bench_local(|| {
        frame.copy_from_slice(&original);
        let Verdict::Answer(reply) = verdict(black_box(&frame[..]), &port).action else {
            panic!("{request:?} is not answered");
        };
        reply.write(black_box(&mut frame[..]))
    });
}

/// An echo request among rules by one prefix, of which none is about it but the last.
#[divan::bench(args = [1, 1_000, 1_000_000])]
fn rule_among_prefixes(bencher: Bencher<'_, '_>, rules: u32) {
    let text = |number: u32| format!("drop:dst={}", Ipv4Addr::from_bits(0x0a00_0000 + number));
    let others = (1..rules).map(text);
    let rules = others.chain([format!("driver:dst={OURS}")]).map(|text| text.parse().expect("a rule"));
    found(bencher, &rules.collect::<Vec<_>>());
}

/// The same among rules that are tried one after the other.
#[divan::bench(args = [1, 16, 128])]
fn rule_in_table(bencher: Bencher<'_, '_>, rules: u32) {
    let others = (1..rules).map(|port| format!("drop:proto=udp,dport={port}"));
    let rules = others.chain(["driver:proto=icmp".to_owned()]).map(|text| text.parse().expect("a rule"));
    found(bencher, &rules.collect::<Vec<_>>());
}

fn found(bencher: Bencher<'_, '_>, rules: &[Rule]) {
    let (frame, port) = (Frame::Echo4.bytes(), Port::new(0, rules));
    assert!(decide(&frame[..], &port.compiled, &port.rules).any.is_some(), "a rule is found");
    bencher
        .counter(ItemsCount::new(1_usize))
        .bench_local(|| decide(black_box(&frame[..]), &port.compiled, &port.rules));
}
