use proptest::prelude::*;
use proptest::sample::Index;
use smoltcp::wire::{ArpOperation, ArpRepr, NdiscNeighborFlags};
use std::net::{IpAddr, Ipv6Addr};

use netdext_abi::{Kind, parse};

use crate::proto::testing::{
    Message, OUR_MAC, OUR4, OUR6, PEER_MAC, PEER4, PEER6, advertisement, arp_message, arp_request,
    echo4_request, echo6_request, local, respond, see, solicitation, tagged,
};
use crate::proto::{arp, checksum, echo, ndp};

#[derive(Clone, Debug)]
pub(super) enum Mutation {
    Set(Index, u8),
    Flip(Index, u8),
    Truncate(Index),
    Extend(Vec<u8>),
    Insert(Index, Vec<u8>),
}

pub(super) fn mutations() -> impl Strategy<Value = Vec<Mutation>> {
    let one = prop_oneof![
        (any::<Index>(), any::<u8>()).prop_map(|(at, value)| Mutation::Set(at, value)),
        (any::<Index>(), 0..8_u8).prop_map(|(at, bit)| Mutation::Flip(at, bit)),
        any::<Index>().prop_map(Mutation::Truncate),
        prop::collection::vec(any::<u8>(), 1..40).prop_map(Mutation::Extend),
        (any::<Index>(), prop::collection::vec(any::<u8>(), 1..12))
            .prop_map(|(at, bytes)| Mutation::Insert(at, bytes)),
    ];
    prop::collection::vec(one, 0..6)
}

pub(super) fn mutate(frame: &mut Vec<u8>, mutations: &[Mutation]) {
    for mutation in mutations {
        if frame.is_empty() {
            return;
        }
        match mutation {
            Mutation::Set(at, value) => *at.get_mut(frame) = *value,
            Mutation::Flip(at, bit) => *at.get_mut(frame) ^= 1 << bit,
            Mutation::Truncate(at) => frame.truncate(at.index(frame.len())),
            Mutation::Extend(bytes) => frame.extend(bytes),
            Mutation::Insert(at, bytes) => {
                let at = at.index(frame.len());
                frame.splice(at..at, bytes.iter().copied());
            }
        }
    }
}

pub(super) fn frames() -> impl Strategy<Value = Vec<u8>> {
    let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 1);
    let flags = NdiscNeighborFlags::SOLICITED;
    let bases = vec![
        echo4_request(1, 2, b"an echo request"),
        echo6_request(1, 2, b"an echo request"),
        arp_request(PEER4, OUR4),
        arp_message(ArpOperation::Reply, (PEER_MAC, PEER4), (OUR_MAC, OUR4)),
        solicitation(PEER6, group, OUR6, Some(PEER_MAC)),
        solicitation(Ipv6Addr::UNSPECIFIED, group, OUR6, None),
        advertisement(OUR6, PEER6, flags, Some(PEER_MAC)),
    ];
    (prop::sample::select(bases), prop::collection::vec(any::<u16>(), 0..4))
        .prop_map(|(frame, vlans)| tagged(&frame, &vlans))
}

/// Makes the checksums right again, so that mutations get past them.
pub(super) fn repair(frame: &mut [u8]) {
    let Ok(parsed) = parse(&*frame) else { return };
    let (ip, l4, end) =
        (usize::from(parsed.link_header_len), usize::from(parsed.l4), usize::from(parsed.l3_end));
    if l4 == 0 {
        return;
    }
    frame[l4 + 2..l4 + 4].fill(0);
    let sum = match parsed.ethertype {
        0x0800 => {
            frame[ip + 10..ip + 12].fill(0);
            let sum = checksum::checksum(&frame[ip..l4]);
            frame[ip + 10..ip + 12].copy_from_slice(&sum.to_be_bytes());
            checksum::checksum(&frame[l4..end])
        }
        _ => {
            let address = |at: usize| <[u8; 16]>::try_from(&frame[at..at + 16]).unwrap();
            checksum::Sum::pseudo_header6(address(ip + 8), address(ip + 24), 58, end - l4)
                .data(&frame[l4..end])
                .finish()
        }
    };
    frame[l4 + 2..l4 + 4].copy_from_slice(&sum.to_be_bytes());
}

/// Reads the frame in every way there is, and checks the reply if there is one.
fn check(frame: &[u8]) -> Result<(), TestCaseError> {
    let local = local();
    if let Ok(parsed) = parse(frame) {
        match parsed.kind {
            Kind::Echo4Reply | Kind::Echo6Reply => drop(echo::read_reply(frame, &parsed, &local)),
            Kind::ArpReply => drop(arp::read(frame, &parsed, &local)),
            Kind::NeighborAdvertisement => drop(ndp::read_advertisement(frame, &parsed, &local)),
            _ => {}
        }
    }
    let Some(Ok(reply)) = respond(frame, &local) else { return Ok(()) };
    let seen = see(&reply).map_err(|error| TestCaseError::fail(format!("{error}: {reply:02x?}")))?;
    prop_assert_eq!(seen.source_mac, OUR_MAC);
    let tags = seen.tags.len();
    prop_assert_eq!(&seen.tags[..], &frame[12..12 + tags], "tags are kept");
    match seen.message {
        Message::Arp(ArpRepr::EthernetIpv4 { operation, source_protocol_addr, .. }) => {
            prop_assert_eq!((operation, source_protocol_addr), (ArpOperation::Reply, OUR4));
        }
        Message::Echo { source, reply, .. } => {
            prop_assert!(reply && [IpAddr::from(OUR4), IpAddr::from(OUR6)].contains(&source));
        }
        Message::Advert { source, target, mac, .. } => {
            prop_assert_eq!((source, target, mac), (OUR6, OUR6, Some(OUR_MAC)));
        }
        other => prop_assert!(false, "{other:?} is no reply"),
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn a_mutated_frame_gets_a_valid_reply_or_none(mut frame in frames(), mutations in mutations()) {
        mutate(&mut frame, &mutations);
        check(&frame)?;
    }

    #[test]
    fn a_mutated_frame_with_right_checksums_gets_a_valid_reply_or_none(
        mut frame in frames(), mutations in mutations()
    ) {
        mutate(&mut frame, &mutations);
        repair(&mut frame);
        check(&frame)?;
    }

    #[test]
    fn random_bytes_get_a_valid_reply_or_none(frame in prop::collection::vec(any::<u8>(), 0..200)) {
        check(&frame)?;
    }
}

#[test]
fn a_frame_cut_short_anywhere_is_not_answered() {
    let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 1);
    for frame in [
        echo4_request(1, 2, b"an echo request"),
        echo6_request(1, 2, b"an echo request"),
        arp_request(PEER4, OUR4),
        solicitation(PEER6, group, OUR6, Some(PEER_MAC)),
    ] {
        for len in 0..frame.len() {
            assert_eq!(respond(&frame[..len], &local()), None, "{len} of {} bytes", frame.len());
        }
        assert!(matches!(respond(&frame, &local()), Some(Ok(_))));
    }
}
