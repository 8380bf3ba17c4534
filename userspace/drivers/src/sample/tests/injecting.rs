use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use proptest::prelude::*;
use rustix::io::Errno;
use smoltcp::wire::{ArpOperation, ArpRepr, NdiscNeighborFlags};

use super::{Net, SECOND, both_targets, count, injecting, targets4};
use crate::requests::InjectorStats;
use netdext::driver::PortId;
use netdext::port::RingSizes;
use netdext::port::sim::{End, Faults, SimConfig};
use netdext::proto::testing::{
    Message, OUR_MAC, OUR4, OUR6, PEER_MAC, PEER4, PEER6, advertisement, arp_message, arp_request,
    echo4_request, respond, see, solicitation, tagged,
};
use netdext::proto::{BROADCAST, Local};

const STEP: Duration = Duration::from_millis(100);

fn peer() -> Local {
    Local::new(PEER_MAC, &[(PEER4.into(), 24), (PEER6.into(), 64)])
}

fn arp_reply() -> Vec<u8> {
    arp_message(ArpOperation::Reply, (PEER_MAC, PEER4), (OUR_MAC, OUR4))
}

/// The echo requests among the frames, by destination.
fn requests(frames: &[Vec<u8>]) -> Vec<IpAddr> {
    let destination = |frame: &Vec<u8>| match see(frame).expect("a valid frame").message {
        Message::Echo { reply: false, destination, .. } => Some(destination),
        _ => None,
    };
    frames.iter().filter_map(destination).collect()
}

/// How many of the frames ask for the peer's MAC address, and the station that each asks.
fn arp_requests(frames: &[Vec<u8>]) -> Vec<[u8; 6]> {
    let asked = |frame: &Vec<u8>| {
        let seen = see(frame).expect("a valid frame");
        let Message::Arp(ArpRepr::EthernetIpv4 {
            operation: ArpOperation::Request,
            target_protocol_addr,
            ..
        }) = seen.message
        else {
            return None;
        };
        (target_protocol_addr == PEER4).then_some(seen.destination_mac)
    };
    frames.iter().filter_map(asked).collect()
}

/// Answers every request among the frames as the peer would; later ones first if `reverse`.
fn answer(net: &mut Net, frames: &[Vec<u8>], reverse: bool) {
    let mut replies: Vec<_> = frames.iter().filter_map(|frame| respond(frame, &peer())?.ok()).collect();
    if reverse {
        replies.reverse();
    }
    for reply in replies {
        net.exchange(&reply);
    }
}

#[test]
fn the_timer_fires_after_a_second_and_then_every_five_with_eight_requests_each() {
    let mut net = Net::with_test(injecting(&targets4(), |_| {}));
    net.settle();
    assert_eq!(arp_requests(&net.take_arrived()), [BROADCAST], "asked for at once, before the first tick");
    net.exchange(&arp_reply());
    let mut ticks = Vec::new();
    for tenth in 1..=120 {
        net.run(STEP, STEP);
        let frames = net.take_arrived();
        match requests(&frames).len() {
            0 => {}
            8 => ticks.push(tenth),
            other => panic!("{other} requests after {tenth} tenths of a second"),
        }
        answer(&mut net, &frames, false);
    }
    assert_eq!(ticks, [10, 60, 110]);
    let ended = net.finish().ours;
    let injector = InjectorStats::of(&ended.driver).unwrap();
    assert_eq!((injector.sent, injector.replies, injector.not_sent), (24, 24, 0));
    assert_eq!(count(&ended.driver, "echo_replies_matched"), 24);
    assert_eq!(count(&ended.driver, "neighbor_updated"), 1);
}

#[test]
fn a_request_lies_in_its_packet_as_it_should() {
    let mut net = Net::with_test(injecting(&targets4(), |c| c.payload_len = 1472));
    net.exchange(&arp_reply());
    net.run(SECOND, STEP);
    let frames = net.take_arrived();
    assert_eq!(frames.len(), 8);
    for (place, frame) in frames.iter().enumerate() {
        let seen = see(frame).unwrap();
        assert_eq!((seen.destination_mac, seen.source_mac), (PEER_MAC, OUR_MAC));
        let Message::Echo { source, destination, reply: false, seq_no, data, hops: 64, .. } = seen.message
        else {
            panic!()
        };
        assert_eq!((source, destination), (OUR4.into(), PEER4.into()));
        assert_eq!((usize::from(seq_no), data.len()), (place, 1472));
    }
    net.finish();
}

#[test]
fn the_batch_is_spread_over_the_targets_in_turn() {
    let mut net = Net::with_test(injecting(&both_targets(), |c| c.batch = 5));
    net.settle();
    net.exchange(&arp_reply());
    let flags = NdiscNeighborFlags::SOLICITED | NdiscNeighborFlags::OVERRIDE;
    net.exchange(&advertisement(OUR6, PEER6, flags, Some(PEER_MAC)));
    net.run(SECOND, STEP);
    let [four, six] = both_targets();
    assert_eq!(requests(&net.take_arrived()), [four, six, four, six, four]);
    net.run(5 * SECOND, STEP);
    assert_eq!(requests(&net.take_arrived()), [six, four, six, four, six]);
    net.finish();
}

#[test]
fn the_first_neighbour_that_speaks_to_us_becomes_the_target() {
    let group = "ff02::1:ff00:1".parse().unwrap();
    for (hello, target) in [
        (arp_request(PEER4, OUR4), IpAddr::from(PEER4)),
        (echo4_request(1, 2, b"x"), PEER4.into()),
        (solicitation(PEER6, group, OUR6, Some(PEER_MAC)), PEER6.into()),
    ] {
        let mut net = Net::with_test(injecting(&[], |_| {}));
        net.exchange(&hello);
        net.run(SECOND, STEP);
        let frames = net.take_arrived();
        assert_eq!(requests(&frames), [target; 8]);
        // Also what it asks to confirm the MAC address that it learnt.
        answer(&mut net, &frames, false);
        net.exchange(&arp_request(Ipv4Addr::new(198, 18, 0, 9), OUR4));
        net.run(5 * SECOND, STEP);
        assert_eq!(requests(&net.take_arrived()), [target; 8], "a second neighbour changes nothing");
        net.finish();
    }
}

#[test]
fn nobody_off_our_networks_or_behind_a_tag_becomes_the_target() {
    let mut net = Net::with_test(injecting(&[], |_| {}));
    net.exchange(&arp_request(Ipv4Addr::new(203, 0, 113, 1), OUR4));
    net.exchange(&arp_request(Ipv4Addr::UNSPECIFIED, OUR4));
    net.exchange(&tagged(&arp_request(PEER4, OUR4), &[7]));
    net.exchange(&arp_request(PEER4, Ipv4Addr::new(198, 18, 0, 77)));
    net.run(6 * SECOND, STEP);
    assert_eq!(requests(&net.take_arrived()).len(), 0);
    let stats = net.finish().ours.driver;
    assert_eq!(count(&stats, "injector_no_target"), 16, "two ticks of eight");
    assert_eq!(InjectorStats::of(&stats).unwrap().sent, 0);
}

#[test]
fn a_silent_target_is_asked_for_again_and_its_requests_are_counted_as_unresolved() {
    let mut net = Net::with_test(injecting(&targets4(), |c| c.interval = SECOND));
    let mut asked = Vec::new();
    net.settle();
    for tenth in 0..=45 {
        if !arp_requests(&net.take_arrived()).is_empty() {
            asked.push(tenth);
        }
        net.run(STEP, STEP);
    }
    // Three times, then given up; asked for anew by the first tick after that.
    assert_eq!(asked, [0, 10, 20, 40], "tenths of a second");
    assert_eq!(count(&net.stats(), "injector_unresolved"), 4 * 8);
    assert_eq!(count(&net.stats(), "neighbors_unreachable"), 1);
    net.exchange(&arp_reply());
    net.run(SECOND, STEP);
    assert_eq!(requests(&net.take_arrived()).len(), 8, "it goes on when the target answers");
    net.finish();
}

#[test]
fn the_mac_address_is_confirmed_by_unicast_and_a_new_one_is_used() {
    let mut net = Net::with_test(injecting(&targets4(), |c| c.interval = SECOND));
    net.exchange(&arp_reply());
    net.take_arrived();
    net.run(29 * SECOND, STEP);
    assert_eq!(arp_requests(&net.take_arrived()), Vec::<[u8; 6]>::new());
    net.run(SECOND, STEP);
    assert_eq!(arp_requests(&net.take_arrived()), [PEER_MAC]);
    let moved = [2, 0, 0, 0, 0, 0x77];
    net.exchange(&arp_message(ArpOperation::Reply, (moved, PEER4), (OUR_MAC, OUR4)));
    net.run(SECOND, STEP);
    let frames = net.take_arrived();
    assert!(requests(&frames).len() == 8 && frames.iter().all(|frame| frame[..6] == moved));
    net.finish();
}

#[test]
fn a_target_that_asks_us_from_another_mac_address_is_reached_there_at_once() {
    let group = "ff02::1:ff00:1".parse().unwrap();
    let moved = [2, 0, 0, 0, 0, 0x77];
    let mut net = Net::with_test(injecting(&both_targets(), |_| {}));
    net.exchange(&arp_reply());
    let flags = NdiscNeighborFlags::SOLICITED | NdiscNeighborFlags::OVERRIDE;
    net.exchange(&advertisement(OUR6, PEER6, flags, Some(PEER_MAC)));
    // Also when it asks for somebody else: RFC 826 merges first.
    net.exchange(&arp_message(ArpOperation::Request, (moved, PEER4), ([0; 6], Ipv4Addr::new(198, 18, 0, 9))));
    net.exchange(&solicitation(PEER6, group, OUR6, Some(moved)));
    net.run(SECOND, STEP);
    let frames = net.take_arrived();
    assert_eq!(requests(&frames).len(), 8);
    assert!(frames.iter().all(|frame| frame[..6] == moved));
    net.finish();
}

#[test]
fn what_is_said_behind_a_tag_is_about_another_network() {
    let mut net = Net::with_test(injecting(&targets4(), |c| c.interval = SECOND));
    net.exchange(&tagged(&arp_reply(), &[7]));
    net.exchange(&tagged(&arp_request(PEER4, OUR4), &[7]));
    net.run(SECOND, STEP);
    assert_eq!(requests(&net.take_arrived()).len(), 0);
    assert_eq!(count(&net.stats(), "recycled_neighbor"), 1);
    net.exchange(&arp_request(PEER4, OUR4));
    net.run(SECOND, STEP);
    assert_eq!(requests(&net.take_arrived()).len(), 8);
    net.finish();
}

#[test]
fn many_targets_are_asked_for_at_a_pace_that_the_tx_ring_takes() {
    let targets: Vec<IpAddr> = (10..250_u8).map(|host| IpAddr::from([198, 18, 0, host])).collect();
    let mut net = Net::with_test(injecting(&targets, |_| {}));
    net.run(Duration::from_millis(10), Duration::from_millis(1));
    let stats = net.finish().ours.driver;
    assert_eq!(count(&stats, "neighbor_requests_sent"), 240);
    assert_eq!(count(&stats, "neighbor_requests_not_sent"), 0);
}

#[test]
fn what_finds_the_tx_ring_full_is_counted_and_the_timer_stays_armed() {
    let mut net = Net::with_test(injecting(&targets4(), |c| c.batch = 50));
    net.exchange(&arp_reply());
    net.wire.set_faults(Faults { wake_error: Some(Errno::BUSY), ..Faults::default() });
    net.run(6 * SECOND, STEP);
    let injector = net.injector();
    assert_eq!((injector.sent, injector.not_sent), (64, 36));
    net.wire.set_faults(Faults::default());
    net.run(5 * SECOND, STEP);
    assert_eq!(net.injector().sent, 64 + 50);
    net.finish();
}

#[test]
fn what_finds_the_pool_empty_is_counted() {
    let rings = RingSizes { rx: 64, tx: 64 };
    let sim = SimConfig { rings, frames: rings.fill() + 3, ..SimConfig::default() };
    let mut net = Net::with_test_on(injecting(&targets4(), |_| {}), &sim);
    net.exchange(&arp_reply());
    net.run(SECOND, STEP);
    let injector = net.injector();
    assert_eq!((injector.sent, injector.not_sent), (3, 5));
    net.finish();
}

#[test]
fn disabling_settles_what_waits_and_enabling_begins_anew() {
    let mut net = Net::with_test(injecting(&targets4(), |_| {}));
    net.exchange(&arp_reply());
    net.run(SECOND, STEP);
    let unanswered = net.take_arrived();
    assert_eq!(net.injector().in_flight, 8);
    let now = net.wire.now();
    net.driver.set_interface_enable(now, PortId::FIRST, false).unwrap();
    let injector = net.injector();
    assert_eq!((injector.sent, injector.lost, injector.in_flight), (8, 8, 0));
    assert_eq!(count(&net.stats(), "injector_unanswered_at_disable"), 8);
    net.run(20 * SECOND, SECOND);
    assert_eq!(net.take_arrived(), Vec::<Vec<u8>>::new(), "no timer runs while disabled");

    net.driver.set_interface_enable(net.wire.now(), PortId::FIRST, true).unwrap();
    net.run(SECOND - STEP, STEP);
    assert_eq!(requests(&net.take_arrived()).len(), 0, "the first tick is a second after enabling");
    net.run(STEP, STEP);
    let frames = net.take_arrived();
    assert_eq!(requests(&frames).len(), 8);
    answer(&mut net, &frames, false);
    answer(&mut net, &unanswered, false);
    let injector = net.injector();
    assert_eq!((injector.replies, injector.late, injector.lost), (8, 8, 8));
    net.finish();
}

#[test]
fn lost_requests_are_noticed_without_waiting_for_the_next_tick() {
    let mut net = Net::with_test(injecting(&targets4(), |_| {}));
    net.exchange(&arp_reply());
    net.run(2 * SECOND, STEP);
    assert_eq!(net.injector().in_flight, 8, "a reply could still be in time");
    net.run(STEP, STEP);
    assert_eq!((net.injector().in_flight, net.injector().lost), (0, 8));
    net.finish();
}

#[test]
fn duplicates_late_and_reordered_replies_are_counted_exactly() {
    let mut net = Net::with_test(injecting(&targets4(), |_| {}));
    net.exchange(&arp_reply());
    net.run(SECOND, STEP);
    let first = net.take_arrived();
    answer(&mut net, &first, true);
    let injector = net.injector();
    assert_eq!((injector.replies, injector.out_of_order, injector.duplicates), (8, 7, 0), "backwards");
    answer(&mut net, &first[..3], false);
    assert_eq!(net.injector().duplicates, 3);
    net.run(5 * SECOND, STEP);
    let second = net.take_arrived();
    net.run(SECOND + STEP, STEP);
    answer(&mut net, &second[..5], false);
    let stats = net.finish().ours.driver;
    let injector = InjectorStats::of(&stats).unwrap();
    assert_eq!((injector.replies, injector.lost, injector.late, injector.duplicates), (8, 8, 5, 3));
    assert_eq!(count(&stats, "echo_replies_late"), 5);
    assert_eq!(count(&stats, "echo_replies_duplicate"), 3);
}

#[test]
fn replies_to_other_pingers_and_forged_ones_match_nothing() {
    let mut net = Net::with_test(injecting(&targets4(), |_| {}));
    net.exchange(&arp_reply());
    net.run(SECOND, STEP);
    let request = net.take_arrived().remove(0);
    let valid = respond(&request, &peer()).unwrap().unwrap();
    // Offsets in the reply: source 26, ICMP checksum 36, identifier 38, sequence 40, payload 42.
    for (at, name) in [
        (39, "recycled_echo_reply"),
        (41, "echo_replies_mismatched"),
        (42, "recycled_echo_reply"),
        (46, "recycled_echo_reply"),
        (57, "echo_replies_mismatched"),
        (65, "echo_replies_mismatched"),
        (97, "echo_replies_mismatched"),
    ] {
        let mut forged = valid.clone();
        forged[at] ^= 0x40;
        smoltcp::wire::Icmpv4Packet::new_unchecked(&mut forged[34..]).fill_checksum();
        let before = count(&net.stats(), name);
        net.exchange(&forged);
        assert_eq!(count(&net.stats(), name), before + 1, "byte {at}");
    }
    let mut elsewhere = valid.clone();
    elsewhere[29] = 99;
    smoltcp::wire::Ipv4Packet::new_unchecked(&mut elsewhere[14..]).fill_checksum();
    let before = count(&net.stats(), "echo_replies_mismatched");
    net.exchange(&elsewhere);
    assert_eq!(count(&net.stats(), "echo_replies_mismatched"), before + 1, "from another address");
    assert_eq!(net.injector().replies, 0);
    net.exchange(&valid);
    assert_eq!(net.injector().replies, 1, "none of them used up the request");
    net.finish();
}

#[test]
fn the_round_trip_time_is_that_of_the_wire() {
    for timestamps in [true, false] {
        let sim = SimConfig { latency: Duration::from_micros(50), timestamps, ..SimConfig::default() };
        let mut net = Net::with_driver(injecting(&targets4(), |_| {}), &sim, 1);
        net.run(Duration::from_millis(1010), Duration::from_micros(50));
        let injector = net.injector();
        assert_eq!(injector.replies, 8);
        for quantile in [0.0, 0.5, 1.0] {
            let rtt = injector.rtt_ns.at(quantile);
            // Three digits of the histogram.
            assert!((99_900..=100_100).contains(&rtt), "{rtt} ns at {quantile}, timestamps {timestamps}");
        }
        net.finish();
    }
}

#[test]
fn the_round_trip_time_leaves_out_how_long_the_reply_waited_for_the_driver() {
    for (timestamps, expected) in [(true, 1_000_000), (false, 3_000_000)] {
        let sim = SimConfig { timestamps, ..SimConfig::default() };
        let mut net = Net::with_test_on(injecting(&targets4(), |c| c.batch = 1), &sim);
        net.exchange(&arp_reply());
        net.run(SECOND, STEP);
        let reply = respond(&net.take_arrived()[0], &peer()).unwrap().unwrap();
        net.wire.advance(Duration::from_millis(1));
        net.wire.inject(End::A, &reply);
        net.wire.settle();
        net.wire.advance(Duration::from_millis(2));
        net.settle();
        let rtt = net.injector().rtt_ns.max();
        assert!(rtt.abs_diff(expected) < expected / 1000, "{rtt} ns, timestamps {timestamps}");
        net.finish();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_request_that_was_due_is_accounted_for(
        batch in 1..90_usize, interval_ms in 1..700_u64, resolved: bool, stuck: bool, seconds in 1..5_u64,
    ) {
        let config = injecting(&targets4(), |c| {
            (c.batch, c.interval) = (batch, Duration::from_millis(interval_ms));
        });
        let mut net = Net::with_test(config);
        if resolved {
            net.exchange(&arp_reply());
        }
        let wake_error = stuck.then_some(Errno::BUSY);
        net.wire.set_faults(Faults { wake_error, ..Faults::default() });
        net.run(Duration::from_secs(seconds), STEP);
        let timers = net.driver.snapshot().timers;
        let ticks = timers.iter().find(|(name, _)| *name == "inject").unwrap().1.fired;
        let stats = net.finish().ours.driver;
        let injector = InjectorStats::of(&stats).unwrap();
        let accounted = injector.sent + injector.not_sent + count(&stats, "injector_unresolved");
        prop_assert_eq!(accounted, ticks * batch as u64);
        prop_assert!(resolved || injector.sent == 0);
    }
}
