use std::net::{Ipv4Addr, Ipv6Addr};

use netdext_abi::parse;
use proptest::prelude::*;
use smoltcp::wire::{
    ArpOperation, ArpRepr, EthernetAddress, Icmpv6Packet, Icmpv6Repr, NdiscNeighborFlags, NdiscRepr,
};

use super::hex;
use crate::proto::testing::{
    Message, OUR_MAC, OUR4, OUR6, PEER_MAC, PEER4, PEER6, Seen, advertisement, arp_message, arp_request,
    ipv6, local, respond, see, solicitation, tagged,
};
use crate::proto::{BROADCAST, Refusal, arp, ndp};

const OUR_GROUP: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 1);
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

fn refused(frame: &[u8]) -> Option<Refusal> {
    respond(frame, &local()).expect("a request").err()
}

fn answered(frame: &[u8]) -> Seen {
    let reply = respond(frame, &local()).expect("a request").expect("answered");
    see(&reply).expect("valid")
}

/// Writes the checksum of an untagged ICMPv6 frame anew.
fn fill_checksum6(frame: &mut [u8]) {
    let address = |at: usize| Ipv6Addr::from(<[u8; 16]>::try_from(&frame[at..at + 16]).unwrap());
    let (source, destination) = (address(22), address(38));
    Icmpv6Packet::new_unchecked(&mut frame[54..]).fill_checksum(&source, &destination);
}

#[test]
fn an_arp_request_becomes_this_reply_byte_by_byte() {
    let request =
        hex("ffffffffffff 020000000002 0806 0001080006040001 020000000002 c6120002 000000000000 c6120001");
    let reply =
        hex("020000000002 020000000001 0806 0001080006040002 020000000001 c6120001 020000000002 c6120002");
    assert_eq!(respond(&request, &local()), Some(Ok(reply)));
}

#[test]
fn a_solicitation_becomes_this_advertisement_byte_by_byte() {
    let (ours, theirs) = ("20010002000000000000000000000001", "20010002000000000000000000000002");
    let request = hex(&format!(
        "3333ff000001 020000000002 86dd 6000000000203aff {theirs} ff0200000000000000000001ff000001 \
         8700379300000000 {ours} 0101020000000002"
    ));
    let reply = hex(&format!(
        "020000000002 020000000001 86dd 6000000000203aff {ours} {theirs} 8800b39560000000 {ours} 0201020000000001"
    ));
    assert_eq!(respond(&request, &local()), Some(Ok(reply)));
}

#[test]
fn a_check_for_duplicates_is_answered_to_everybody_byte_by_byte() {
    let ours = "20010002000000000000000000000001";
    let request = hex(&format!(
        "3333ff000001 020000000002 86dd 6000000000183aff 00000000000000000000000000000000 \
         ff0200000000000000000001ff000001 87005aa300000000 {ours}"
    ));
    let reply = hex(&format!(
        "333300000001 020000000001 86dd 6000000000203aff {ours} ff020000000000000000000000000001 \
         8800149720000000 {ours} 0201020000000001"
    ));
    assert_eq!(respond(&request, &local()), Some(Ok(reply)));
}

#[test]
fn an_arp_reply_goes_to_the_sender_behind_the_same_tags() {
    let seen = answered(&tagged(&arp_request(PEER4, OUR4), &[0x0abc, 0x2064]));
    assert_eq!(seen.tags, [0x88, 0xa8, 0x0a, 0xbc, 0x81, 0, 0x20, 0x64]);
    assert_eq!((seen.destination_mac, seen.source_mac), (PEER_MAC, OUR_MAC));
    let expected = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Reply,
        source_hardware_addr: EthernetAddress(OUR_MAC),
        source_protocol_addr: OUR4,
        target_hardware_addr: EthernetAddress(PEER_MAC),
        target_protocol_addr: PEER4,
    };
    assert_eq!(seen.message, Message::Arp(expected));
}

#[test]
fn padding_of_an_arp_request_is_not_sent_back() {
    let mut request = arp_request(PEER4, OUR4);
    request.resize(60, 0x77);
    assert_eq!(respond(&request, &local()).unwrap().unwrap().len(), 42);
}

#[test]
fn an_arp_probe_is_answered() {
    let seen = answered(&arp_request(Ipv4Addr::UNSPECIFIED, OUR4));
    assert_eq!(seen.destination_mac, PEER_MAC);
    let Message::Arp(ArpRepr::EthernetIpv4 { target_protocol_addr, .. }) = seen.message else { panic!() };
    assert_eq!(target_protocol_addr, Ipv4Addr::UNSPECIFIED);
}

#[test]
fn arp_requests_that_concern_others_or_cannot_be_are_refused() {
    assert_eq!(refused(&arp_request(PEER4, Ipv4Addr::new(198, 18, 0, 9))), Some(Refusal::NotOwned));
    assert_eq!(refused(&arp_request(PEER4, PEER4)), Some(Refusal::NotOwned), "gratuitous, of the peer");
    assert_eq!(refused(&arp_request(OUR4, OUR4)), Some(Refusal::AddressConflict), "gratuitous, of ours");
    for sender in ["255.255.255.255", "224.0.0.1", "127.0.0.1", "198.18.0.255"] {
        assert_eq!(
            refused(&arp_request(sender.parse().unwrap(), OUR4)),
            Some(Refusal::BadArpSender),
            "{sender}"
        );
    }
    for mac in [[0; 6], [0xff; 6], [1, 0, 0x5e, 0, 0, 1]] {
        let frame = arp_message(ArpOperation::Request, (mac, PEER4), ([0; 6], OUR4));
        assert_eq!(refused(&frame), Some(Refusal::BadArpSender), "{mac:?}");
    }
    let mut foreign = arp_request(PEER4, OUR4);
    foreign[..6].copy_from_slice(&[2, 0, 0, 0, 0, 9]);
    assert_eq!(refused(&foreign), Some(Refusal::ForeignMac));
}

#[test]
fn an_arp_reply_tells_who_has_the_address() {
    let frame = arp_message(ArpOperation::Reply, (PEER_MAC, PEER4), (OUR_MAC, OUR4));
    let parsed = parse(&frame[..]).unwrap();
    let reply = arp::read(&frame, &parsed, &local()).unwrap();
    assert_eq!(reply, arp::Message { sender: PEER4, sender_mac: PEER_MAC, target: OUR4 });
    let unspecified = arp_message(ArpOperation::Reply, (PEER_MAC, Ipv4Addr::UNSPECIFIED), (OUR_MAC, OUR4));
    assert_eq!(arp::read(&unspecified, &parsed_arp(&unspecified), &local()), Err(Refusal::BadArpSender));
}

fn parsed_arp(frame: &[u8]) -> netdext_abi::Parsed {
    parse(frame).unwrap()
}

#[test]
fn our_arp_request_is_what_smoltcp_expects() {
    for (to, destination_mac) in [(None, BROADCAST), (Some(PEER_MAC), PEER_MAC)] {
        let mut frame = vec![0xa5; arp::Request::LEN];
        arp::Request { source_mac: OUR_MAC, source: OUR4, target: PEER4, to }.write(&mut frame);
        let seen = see(&frame).unwrap();
        assert_eq!((seen.destination_mac, seen.source_mac), (destination_mac, OUR_MAC));
        let expected = ArpRepr::EthernetIpv4 {
            operation: ArpOperation::Request,
            source_hardware_addr: EthernetAddress(OUR_MAC),
            source_protocol_addr: OUR4,
            target_hardware_addr: EthernetAddress([0; 6]),
            target_protocol_addr: PEER4,
        };
        assert_eq!(seen.message, Message::Arp(expected));
    }
}

proptest! {
    #[test]
    fn every_valid_solicitation_gets_the_advertisement_that_smoltcp_expects(
        to_group: bool, duplicate_check: bool, named_mac in prop::option::of(Just([2, 9, 9, 9, 9, 9])),
        vlans in prop::collection::vec(any::<u16>(), 0..3),
    ) {
        let request = if duplicate_check {
            solicitation(Ipv6Addr::UNSPECIFIED, OUR_GROUP, OUR6, None)
        } else {
            solicitation(PEER6, if to_group { OUR_GROUP } else { OUR6 }, OUR6, named_mac)
        };
        let seen = answered(&tagged(&request, &vlans));
        prop_assert_eq!(seen.tags.len(), vlans.len() * 4);
        let (destination, mac, flags) = if duplicate_check {
            (ALL_NODES, [0x33, 0x33, 0, 0, 0, 1], NdiscNeighborFlags::OVERRIDE)
        } else {
            let flags = NdiscNeighborFlags::OVERRIDE | NdiscNeighborFlags::SOLICITED;
            (PEER6, named_mac.unwrap_or(PEER_MAC), flags)
        };
        prop_assert_eq!((seen.destination_mac, seen.source_mac), (mac, OUR_MAC));
        prop_assert_eq!(seen.message, Message::Advert {
            source: OUR6, destination, flags: flags.bits(), target: OUR6, mac: Some(OUR_MAC),
        });
    }
}

#[test]
fn solicitations_that_rfc_4861_calls_invalid_are_refused() {
    let valid = solicitation(PEER6, OUR_GROUP, OUR6, Some(PEER_MAC));
    assert_eq!(refused(&valid), None);

    let mut forwarded = valid.clone();
    forwarded[21] = 254;
    assert_eq!(refused(&forwarded), Some(Refusal::NdpHopLimit));
    let mut corrupt = valid.clone();
    corrupt[85] ^= 1;
    assert_eq!(refused(&corrupt), Some(Refusal::BadIcmp6Checksum));
    let mut code = valid.clone();
    code[55] = 1;
    fill_checksum6(&mut code);
    assert_eq!(refused(&code), Some(Refusal::BadIcmpCode));
    for len in [0, 2, 255] {
        let mut option = valid.clone();
        option[79] = len;
        fill_checksum6(&mut option);
        assert_eq!(refused(&option), Some(Refusal::NdpOptions), "an option of length {len}");
    }
    assert_eq!(refused(&solicitation(PEER6, OUR_GROUP, OUR_GROUP, None)), Some(Refusal::NdpTarget));
    let unspecified = Ipv6Addr::UNSPECIFIED;
    assert_eq!(refused(&solicitation(unspecified, OUR6, OUR6, None)), Some(Refusal::NdpDestination));
    let named = solicitation(unspecified, OUR_GROUP, OUR6, Some(PEER_MAC));
    assert_eq!(refused(&named), Some(Refusal::NdpOptions));
    let group = solicitation(PEER6, OUR_GROUP, OUR6, Some([0x33, 0x33, 0, 0, 0, 1]));
    assert_eq!(refused(&group), Some(Refusal::NdpOptions), "the answer would go to a group");
}

#[test]
fn solicitations_for_others_or_from_us_are_refused() {
    let other = Ipv6Addr::new(0x2001, 2, 0, 0, 0, 0, 1, 1);
    assert_eq!(refused(&solicitation(PEER6, OUR_GROUP, other, None)), Some(Refusal::NotOwned), "same group");
    assert_eq!(refused(&solicitation(PEER6, ALL_NODES, OUR6, None)), Some(Refusal::NotOwned));
    assert_eq!(refused(&solicitation(OUR6, OUR_GROUP, OUR6, None)), Some(Refusal::AddressConflict));
    let multicast: Ipv6Addr = "ff02::5".parse().unwrap();
    assert_eq!(refused(&solicitation(multicast, OUR_GROUP, OUR6, None)), Some(Refusal::BadSourceAddress));
}

fn read_advertisement(frame: &[u8]) -> Result<ndp::Advertisement, Refusal> {
    ndp::read_advertisement(frame, &parse(frame).unwrap(), &local())
}

#[test]
fn an_advertisement_is_read_with_its_flags() {
    for (flags, solicited, overrides) in [
        (NdiscNeighborFlags::SOLICITED | NdiscNeighborFlags::OVERRIDE, true, true),
        (NdiscNeighborFlags::SOLICITED, true, false),
        (NdiscNeighborFlags::OVERRIDE | NdiscNeighborFlags::ROUTER, false, true),
    ] {
        for target_mac in [Some(PEER_MAC), None] {
            let said = read_advertisement(&advertisement(OUR6, PEER6, flags, target_mac));
            assert_eq!(said, Ok(ndp::Advertisement { target: PEER6, target_mac, solicited, overrides }));
        }
    }
}

#[test]
fn advertisements_that_rfc_4861_calls_invalid_are_refused() {
    let solicited = NdiscNeighborFlags::SOLICITED;
    let to_all = advertisement(ALL_NODES, PEER6, solicited, Some(PEER_MAC));
    assert_eq!(read_advertisement(&to_all), Err(Refusal::NdpDestination));
    assert!(read_advertisement(&advertisement(ALL_NODES, PEER6, NdiscNeighborFlags::empty(), None)).is_ok());
    let multicast = advertisement(OUR6, ALL_NODES, solicited, None);
    assert_eq!(read_advertisement(&multicast), Err(Refusal::NdpTarget));
    let conflict = advertisement(OUR6, OUR6, solicited, Some(PEER_MAC));
    assert_eq!(read_advertisement(&conflict), Err(Refusal::AddressConflict));
    let other = advertisement(PEER6, PEER6, solicited, None);
    assert_eq!(read_advertisement(&other), Err(Refusal::NotOwned));
    let message = NdiscRepr::NeighborAdvert { flags: solicited, target_addr: PEER6, lladdr: None };
    let forwarded = ipv6(PEER6, OUR6, 64, &Icmpv6Repr::Ndisc(message));
    assert_eq!(read_advertisement(&forwarded), Err(Refusal::NdpHopLimit));
}

#[test]
fn our_solicitation_is_what_smoltcp_expects() {
    let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 2);
    for (to, mac, destination) in
        [(None, [0x33, 0x33, 0xff, 0, 0, 2], group), (Some(PEER_MAC), PEER_MAC, PEER6)]
    {
        let mut frame = vec![0xa5; ndp::Request::LEN];
        ndp::Request { source_mac: OUR_MAC, source: OUR6, target: PEER6, to }.write(&mut frame);
        let seen = see(&frame).unwrap();
        assert_eq!((seen.destination_mac, seen.source_mac), (mac, OUR_MAC));
        let expected = Message::Solicit { source: OUR6, destination, target: PEER6, mac: Some(OUR_MAC) };
        assert_eq!(seen.message, expected);
    }
}
