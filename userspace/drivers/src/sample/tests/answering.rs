use std::io::Write;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};

use rustix::io::Errno;
use smoltcp::wire::{ArpOperation, ArpRepr, EthernetProtocol, Icmpv4Repr};
use tracing::subscriber::with_default;

use super::{Net, answering, count, our_addresses};
use crate::sample::SampleConfig;
use netdext::driver::PortId;
use netdext::port::sim::{End, Faults};
use netdext::proto::testing::{
    Message, OUR_MAC, OUR4, OUR6, PEER_MAC, PEER4, PEER6, arp_message, arp_request, echo4_request,
    echo6_request, ethernet, ipv4, see, solicitation, tagged,
};

#[test]
fn a_ping_of_every_size_up_to_the_mtu_is_answered_over_both_protocols() {
    let mut net = Net::with_test(answering());
    let payload: Vec<u8> = (0..1472_u32).map(|n| (n * 7) as u8).collect();
    for len in (0..=1452).step_by(4).chain([1, 3, 1451, 1472]) {
        for (request, ours) in [echo4_request, echo6_request].into_iter().zip(our_addresses()) {
            if ours.is_ipv6() && len > 1452 {
                continue;
            }
            let replies = net.exchange(&request(0xbeef, len as u16, &payload[..len]));
            assert_eq!(replies.len(), 1, "{len} bytes");
            let Message::Echo { source, reply: true, ident, seq_no, data, .. } =
                see(&replies[0]).unwrap().message
            else {
                panic!("no echo reply")
            };
            assert_eq!((source, ident, seq_no), (ours, 0xbeef, len as u16));
            assert_eq!(data, payload[..len]);
        }
    }
    let stats = net.finish().ours.driver;
    assert_eq!((count(&stats, "echo4_answered"), count(&stats, "echo6_answered")), (368, 367));
}

#[test]
fn arp_and_neighbour_discovery_are_answered() {
    let mut net = Net::with_test(answering());
    let replies = net.exchange(&arp_request(PEER4, OUR4));
    assert!(matches!(
        see(&replies[0]).unwrap().message,
        Message::Arp(ArpRepr::EthernetIpv4 { operation: ArpOperation::Reply, .. })
    ));
    let group = "ff02::1:ff00:1".parse().unwrap();
    let replies = net.exchange(&solicitation(PEER6, group, OUR6, None));
    let Message::Advert { target, mac, .. } = see(&replies[0]).unwrap().message else { panic!() };
    assert_eq!((target, mac), (OUR6, Some(OUR_MAC)));
    let stats = net.finish().ours.driver;
    assert_eq!((count(&stats, "arp_answered"), count(&stats, "ndp_answered")), (1, 1));
}

#[test]
fn tagged_requests_are_answered_behind_the_same_tags() {
    let mut net = Net::with_test(answering());
    for vlans in [&[5][..], &[100, 7]] {
        for request in [echo4_request(1, 2, b"x"), arp_request(PEER4, OUR4)] {
            let request = tagged(&request, vlans);
            let replies = net.exchange(&request);
            assert_eq!(see(&replies[0]).unwrap().tags, request[12..12 + 4 * vlans.len()]);
        }
    }
    net.finish();
}

#[test]
fn frames_of_every_other_kind_are_recycled_or_refused_and_counted_by_cause() {
    let mut net = Net::with_test(answering());
    let mut corrupt = echo4_request(1, 2, b"x");
    *corrupt.last_mut().unwrap() ^= 1;
    let mut fragment = echo4_request(1, 2, b"x");
    fragment[20] = 0x20;
    let group = Icmpv4Repr::EchoRequest { ident: 1, seq_no: 1, data: b"x" };
    let reply = Icmpv4Repr::EchoReply { ident: 1, seq_no: 1, data: b"x" };
    for (frame, name) in [
        (corrupt, "bad_icmp4_checksum"),
        (fragment, "fragment"),
        (ipv4(PEER4, Ipv4Addr::BROADCAST, &group), "group_address"),
        (ipv4(PEER4, Ipv4Addr::new(198, 18, 0, 77), &group), "not_owned"),
        (ipv4(OUR4, OUR4, &group), "bad_source_address"),
        (ipv4(PEER4, OUR4, &reply), "recycled_echo_reply"),
        (arp_request(OUR4, OUR4), "address_conflict"),
        (arp_message(ArpOperation::Reply, (PEER_MAC, PEER4), (OUR_MAC, OUR4)), "recycled_neighbor"),
        (ethernet(EthernetProtocol::Unknown(0x88b5), &[0; 46]), "recycled_other"),
        (ethernet(EthernetProtocol::Ipv4, &[0x45; 10]), "malformed_truncated_ipv4"),
    ] {
        let before = count(&net.stats(), name);
        assert_eq!(net.exchange(&frame), Vec::<Vec<u8>>::new(), "{name}");
        assert_eq!(count(&net.stats(), name), before + 1, "{name}");
    }
    net.finish();
}

#[test]
fn ten_thousand_malformed_frames_are_counted_and_cost_no_frame() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut net = Net::with_test(answering());
    let valid = [echo4_request(1, 2, b"payload"), echo6_request(1, 2, b"payload"), arp_request(PEER4, OUR4)];
    let mut answered = 0;
    for _ in 0..10_000 {
        // Cut short, or with bytes replaced: what is answered nevertheless must be right.
        let mut frame = valid[rng.usize(..valid.len())].clone();
        if rng.bool() {
            frame.truncate(rng.usize(..frame.len()));
        } else {
            for _ in 0..rng.usize(1..8) {
                let at = rng.usize(..frame.len());
                frame[at] = rng.u8(..);
            }
        }
        for reply in net.exchange(&frame) {
            assert!(see(&reply).is_ok(), "{frame:02x?} answered by {reply:02x?}");
            answered += 1;
        }
    }
    let ended = net.finish().ours;
    assert_eq!(ended.rx_packets, 10_000);
    assert_eq!(ended.tx_packets, answered);
    let malformed: u64 =
        ended.driver.drops.iter().filter(|(name, _)| name.starts_with("malformed_")).map(|(_, n)| n).sum();
    assert!(malformed > 4000, "{malformed} of about 5000 cut short");
}

#[test]
fn an_answer_that_finds_the_tx_ring_full_is_counted_and_its_frame_freed() {
    let mut net = Net::with_test(answering());
    net.settle();
    net.wire.set_faults(Faults { wake_error: Some(Errno::BUSY), ..Faults::default() });
    for sequence in 0..100 {
        net.exchange(&echo4_request(1, sequence, b"x"));
    }
    let stats = net.stats();
    assert_eq!((count(&stats, "echo4_answered"), count(&stats, "tx_full")), (64, 36));
    net.wire.set_faults(Faults::default());
    net.exchange(&[0; 60]);
    assert_eq!(net.exchange(&echo4_request(1, 100, b"x")).len(), 1, "it goes on when there is room");
    net.finish();
}

#[test]
fn a_driver_told_not_to_answer_recycles_requests() {
    let mut net = Net::with_test(SampleConfig { answer: false, injector: None });
    let group = "ff02::1:ff00:1".parse().unwrap();
    for request in [
        echo4_request(1, 2, b"x"),
        echo6_request(1, 2, b"x"),
        arp_request(PEER4, OUR4),
        solicitation(PEER6, group, OUR6, None),
    ] {
        assert_eq!(net.exchange(&request), Vec::<Vec<u8>>::new());
    }
    assert_eq!(count(&net.finish().ours.driver, "recycled_request"), 4);
}

#[test]
fn frames_that_arrive_before_the_driver_is_enabled_are_answered_then() {
    let mut net = Net::with_test(answering());
    net.settle();
    net.driver.set_interface_enable(net.wire.now(), PortId::FIRST, false).unwrap();
    assert_eq!(net.exchange(&echo4_request(1, 2, b"x")), Vec::<Vec<u8>>::new());
    net.driver.set_interface_enable(net.wire.now(), PortId::FIRST, true).unwrap();
    net.settle();
    assert_eq!(net.take_arrived().len(), 1);
    assert_eq!(net.finish().ours.rx_disabled, 0);
}

/// A writer that keeps what the log writes.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<u8>>>);

impl Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn the_log_says_where_packets_lie_ten_times_a_second_and_how_many_it_left_out() {
    let kept = Kept::default();
    let writer = kept.clone();
    // With a single subscriber, tracing asks only the thread that reaches a callsite first whether it is of
    // interest, and that may be another test's. With two it asks both.
    let _second = tracing::Dispatch::new(
        tracing_subscriber::fmt().with_max_level(tracing::Level::DEBUG).with_writer(std::io::sink).finish(),
    );
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::DEBUG)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    with_default(subscriber, || {
        let mut net = Net::with_test(answering());
        for sequence in 0..50 {
            net.settle();
            net.wire.inject(End::A, &tagged(&echo4_request(1, sequence, b"x"), &[5]));
        }
        net.settle();
        net.finish();
    });
    let log = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
    let lines: Vec<_> = log.lines().filter(|line| line.contains("packet from the stack")).collect();
    assert_eq!(lines.len(), 10, "{log}");
    for part in ["address=0x", "data_offset=256", "data_len=47", "link_header_len=18"] {
        assert!(lines[0].contains(part), "no {part} in {}", lines[0]);
    }
    assert!(log.contains("packets not logged left_out=40"), "{log}");
}
