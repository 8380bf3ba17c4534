//! What the XDP program answers, decided and written by `netdext_abi::answer`, against what the driver answers.

use netdext_abi::maps::{BROADCAST, OWNED};
use netdext_abi::plain::plain_key;
use netdext_abi::rules::{Key, Side, Table, Tries, Winners};
use netdext_abi::verdict::{First, by_rules};
use netdext_abi::{Config, Counter, Kind, Parsed, PortView, Question, Verdict, parse, verdict};
use proptest::prelude::*;

use super::mutation::{frames, mutate, mutations, repair};
use crate::proto::Local;
use crate::proto::testing::{
    OUR_MAC, OUR4, OUR6, PEER4, PEER6, arp_request, echo4_request, echo6_request, local, respond,
    solicitation,
};

/// The port of the driver, as the maps of the program describe it.
struct Port(Local);

/// There are no rules here, so none that name addresses.
enum NoTries {}

impl Tries for NoTries {
    fn longest_v4(&self, _: Side, _: [u8; 4]) -> Option<&Winners> {
        match *self {}
    }

    fn longest_v6(&self, _: Side, _: [u8; 16]) -> Option<&Winners> {
        match *self {}
    }
}

impl PortView for Port {
    fn config(&self) -> Config {
        Config { mac: self.0.mac(), flags: Config::ANSWER }
    }

    fn v4(&self, address: [u8; 4]) -> u32 {
        let owned = if self.0.owns4(address) { OWNED } else { 0 };
        // Multicast is excluded on both sides before anything is looked up.
        let broadcast = if address[0] < 224 && self.0.is_group4(address) { BROADCAST } else { 0 };
        owned | broadcast
    }

    fn owns_v6(&self, address: [u8; 16]) -> bool {
        self.0.owns6(address)
    }

    type Tries = NoTries;

    fn rules(&self, _: u8) -> Option<(&Table, &NoTries)> {
        None
    }

    fn hit(&self, _: u32) {}
}

/// Does what the program does with a frame. `None` when it leaves it to the driver or the kernel.
fn answered_in_place(frame: &[u8]) -> Option<(Vec<u8>, Counter)> {
    let decision = verdict(frame, &Port(local()));
    let Verdict::Answer(reply) = decision.action else { return None };
    let mut bytes = frame.to_vec();
    bytes.resize(reply.len(), 0x5a);
    reply.write(&mut bytes[..]).expect("the frame has the length of the reply");
    Some((bytes, decision.reason))
}

/// Whether the request has something that the program leaves to the driver.
fn is_left_to_driver(parsed: &Parsed) -> bool {
    let header = parsed.l4.saturating_sub(parsed.link_header_len);
    match parsed.kind {
        Kind::Echo4Request => header != 20,
        Kind::Echo6Request => header != 40,
        Kind::NeighborSolicitation => header != 40 || parsed.l3_end - parsed.l4 > 24 + 16,
        _ => false,
    }
}

/// The quick way and the usual one say the same of a plain frame, and every echo request over IPv4 that is answered in place
/// is one.
fn compare_ways(frame: &[u8]) -> Result<(), TestCaseError> {
    let port = Port(local());
    let First::Undecided(undecided) = by_rules(frame, &port) else { panic!("there are no rules") };
    let usual = undecided.judge(frame, &port);
    let quick = undecided.plain(frame, &port);
    if let Some(quick) = quick {
        prop_assert_eq!(quick, usual, "{:02x?}", frame);
    }
    if let Some(key) = plain_key(frame) {
        prop_assert_eq!(key, Key::whole(frame), "{:02x?}", frame);
    }
    let untagged = frame.get(12..14) == Some(&[8, 0]);
    if let Verdict::Answer(reply) = usual.action {
        prop_assert_eq!(quick.is_some(), reply.question() == Question::Echo4 && untagged, "{:02x?}", frame);
    }
    Ok(())
}

/// Compares both; returns whether the program answered.
fn compare(frame: &[u8]) -> Result<bool, TestCaseError> {
    compare_ways(frame)?;
    // What the program gives to the kernel never gets to the driver.
    let meant = verdict(frame, &Port(local())).action != Verdict::Kernel;
    let driver = respond(frame, &local()).and_then(Result::ok).filter(|_| meant);
    match answered_in_place(frame) {
        Some((reply, _)) => {
            prop_assert_eq!(Some(reply), driver);
            Ok(true)
        }
        None => {
            if driver.is_some() {
                let parsed = parse(frame).expect("answered");
                let options = usize::from(parsed.l4) + 24..usize::from(parsed.l3_end);
                // The second of two options may be a longer one, or the first.
                let long_option = parsed.kind == Kind::NeighborSolicitation
                    && frame[options].chunks(8).any(|option| option.get(1) != Some(&1));
                prop_assert!(is_left_to_driver(&parsed) || long_option, "could be answered: {:02x?}", frame);
            }
            Ok(false)
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8192))]

    #[test]
    fn a_mutated_frame_is_answered_in_place_as_by_the_driver(
        mut frame in frames(), mutations in mutations(), right: bool
    ) {
        mutate(&mut frame, &mutations);
        if right {
            repair(&mut frame);
        }
        compare(&frame)?;
    }

    #[test]
    fn random_bytes_are_answered_in_place_as_by_the_driver(
        mut frame in prop::collection::vec(any::<u8>(), 0..200), ethertype in 0..3_usize
    ) {
        // Otherwise hardly one is ever parsed.
        if frame.len() >= 14 {
            frame[..6].copy_from_slice(&OUR_MAC);
            frame[12..14].copy_from_slice(&[[8, 6], [8, 0], [0x86, 0xdd]][ethertype]);
        }
        compare(&frame)?;
    }

    #[test]
    fn every_request_is_answered_in_place_whatever_its_length(
        over_ipv6: bool, data in prop::collection::vec(any::<u8>(), 0..1473), padding in 0..20_usize
    ) {
        let mut frame = if over_ipv6 { echo6_request(1, 2, &data) } else { echo4_request(1, 2, &data) };
        frame.resize(frame.len() + padding, 0);
        prop_assert!(compare(&frame)?, "not answered");
    }

    #[test]
    fn a_wrong_byte_anywhere_in_a_message_of_any_length_is_not_answered(
        over_ipv6: bool, data in prop::collection::vec(any::<u8>(), 0..1473), at: prop::sample::Index, bit in 0..8_u8
    ) {
        let mut frame = if over_ipv6 { echo6_request(1, 2, &data) } else { echo4_request(1, 2, &data) };
        let l4 = usize::from(parse(&frame[..]).unwrap().l4);
        let at = l4 + at.index(frame.len() - l4);
        frame[at] ^= 1 << bit;
        prop_assert!(!compare(&frame)?, "answered");
    }
}

#[test]
fn each_kind_of_request_is_answered_in_place_and_counted() {
    let group = "ff02::1:ff00:1".parse().unwrap();
    let mut with_nonce = solicitation(PEER6, group, OUR6, None);
    with_nonce.extend([14, 1, 1, 2, 3, 4, 5, 6]);
    with_nonce[19] += 8;
    repair(&mut with_nonce);
    for (frame, counter) in [
        (arp_request(PEER4, OUR4), Counter::AnsweredArp),
        (arp_request("0.0.0.0".parse().unwrap(), OUR4), Counter::AnsweredArp),
        (solicitation(PEER6, group, OUR6, Some([2, 0, 0, 0, 0, 9])), Counter::AnsweredNeighborSolicitation),
        (solicitation(PEER6, OUR6, OUR6, None), Counter::AnsweredNeighborSolicitation),
        (solicitation("::".parse().unwrap(), group, OUR6, None), Counter::AnsweredNeighborSolicitation),
        (with_nonce, Counter::AnsweredNeighborSolicitation),
        (echo4_request(1, 2, b"x"), Counter::AnsweredEcho4),
        (echo6_request(1, 2, b"x"), Counter::AnsweredEcho6),
    ] {
        assert!(compare(&frame).unwrap(), "not answered: {frame:02x?}");
        assert_eq!(answered_in_place(&frame).unwrap().1, counter);
    }
}

#[test]
fn the_longest_message_that_is_answered_in_place_has_4607_bytes() {
    for (payload, expected) in [(4599, true), (4600, false), (9000, false)] {
        for frame in [echo4_request(1, 2, &vec![7; payload]), echo6_request(1, 2, &vec![7; payload])] {
            assert_eq!(answered_in_place(&frame).is_some(), expected, "{payload} bytes");
            assert!(matches!(respond(&frame, &local()), Some(Ok(_))));
        }
    }
}

#[test]
fn an_address_that_is_also_a_broadcast_address_is_left_to_the_driver() {
    let mut request = echo4_request(1, 2, b"x");
    request[33] = 3;
    repair(&mut request);
    let verdict_with = |addresses: &[(&str, u8)]| {
        let addresses: Vec<_> = addresses.iter().map(|(ip, len)| (ip.parse().unwrap(), *len)).collect();
        verdict(&request[..], &Port(Local::new(OUR_MAC, &addresses)))
    };
    let owned = verdict_with(&[("198.18.0.3", 32)]);
    assert_eq!(owned.reason, Counter::AnsweredEcho4);
    let broadcast = verdict_with(&[("198.18.0.0", 30)]);
    assert_eq!((broadcast.action, broadcast.reason), (Verdict::Kernel, Counter::KernelNotOwned));
    let both = verdict_with(&[("198.18.0.3", 32), ("198.18.0.0", 30)]);
    assert_eq!((both.action, both.reason), (Verdict::Driver, Counter::DriverEcho4Request));
}
