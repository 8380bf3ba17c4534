use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netdext_abi::parse;
use proptest::prelude::*;
use smoltcp::wire::{Icmpv4Repr, Icmpv6Repr, Ipv4Packet};

use super::hex;
use crate::dispatch::Timestamp;
use crate::proto::probe::{EchoRequest, Path, Stamp, is_intact};
use crate::proto::testing::{
    Message, OUR_MAC, OUR4, OUR6, PEER_MAC, PEER4, PEER6, Seen, echo4_request, echo6_request, ipv4, ipv6,
    local, respond, see, tagged,
};
use crate::proto::{Refusal, checksum, echo};

fn refused(frame: &[u8]) -> Option<Refusal> {
    respond(frame, &local()).expect("a request").err()
}

/// The frame with another IPv4 source, all checksums right.
fn with_source4(source: &str) -> Vec<u8> {
    let message = Icmpv4Repr::EchoRequest { ident: 1, seq_no: 2, data: b"x" };
    ipv4(source.parse().unwrap(), OUR4, &message)
}

/// The request with IPv4 options, header checksum right.
fn with_options(options: &[u8]) -> Vec<u8> {
    assert!(options.len().is_multiple_of(4));
    let mut frame = echo4_request(7, 8, b"data");
    frame[14] = 0x45 + (options.len() / 4) as u8;
    let total = (frame.len() - 14 + options.len()) as u16;
    frame[16..18].copy_from_slice(&total.to_be_bytes());
    frame.splice(34..34, options.iter().copied());
    Ipv4Packet::new_unchecked(&mut frame[14..]).fill_checksum();
    frame
}

/// The request with an extension header of kind `kind`, which must be 8 bytes long.
fn with_extension(kind: u8, extension: [u8; 8]) -> Vec<u8> {
    let mut frame = echo6_request(7, 8, b"data");
    let payload = u16::from_be_bytes([frame[18], frame[19]]) + 8;
    frame[18..20].copy_from_slice(&payload.to_be_bytes());
    frame[20] = kind;
    frame.splice(54..54, extension);
    frame
}

#[test]
fn an_ipv4_request_becomes_this_reply_byte_by_byte() {
    // 63 hops left, identification 0x1234, don't fragment, payload "netdext".
    let request = hex("020000000001 020000000002 0800 45000023123440003f019d7ec6120002c6120001 \
                       08007cc6beef0007 6e657464657874");
    let reply = hex("020000000002 020000000001 0800 450000231234400040019c7ec6120001c6120002 \
                     000084c6beef0007 6e657464657874");
    assert_eq!(respond(&request, &local()), Some(Ok(reply)));
}

#[test]
fn an_ipv6_request_becomes_this_reply_byte_by_byte() {
    let addresses = ["20010002000000000000000000000001", "20010002000000000000000000000002"];
    let request = hex(&format!(
        "020000000001 020000000002 86dd 60000000000f3a40 {} {} 8000c473beef0007 6e657464657874",
        addresses[1], addresses[0]
    ));
    let reply = hex(&format!(
        "020000000002 020000000001 86dd 60000000000f3a40 {} {} 8100c373beef0007 6e657464657874",
        addresses[0], addresses[1]
    ));
    assert_eq!(respond(&request, &local()), Some(Ok(reply)));
}

proptest! {
    #[test]
    fn every_request_gets_the_reply_that_smoltcp_expects(
        ident: u16, seq_no: u16, over_ipv6: bool,
        data in prop::collection::vec(any::<u8>(), 0..1473),
        vlans in prop::collection::vec(any::<u16>(), 0..3),
        padding in prop::collection::vec(any::<u8>(), 0..20),
    ) {
        let (request, source, destination): (_, IpAddr, IpAddr) = if over_ipv6 {
            (echo6_request(ident, seq_no, &data), OUR6.into(), PEER6.into())
        } else {
            (echo4_request(ident, seq_no, &data), OUR4.into(), PEER4.into())
        };
        let mut request = tagged(&request, &vlans);
        let tags = request[12..12 + 4 * vlans.len()].to_vec();
        request.extend(&padding);
        let reply = respond(&request, &local()).expect("a request").expect("answered");
        prop_assert_eq!(see(&reply), Ok(Seen {
            destination_mac: PEER_MAC,
            source_mac: OUR_MAC,
            tags,
            message: Message::Echo { source, destination, hops: 64, reply: true, ident, seq_no, data },
        }));
    }

    #[test]
    fn a_probe_of_ours_is_a_request_to_smoltcp_and_its_reply_is_recognised(
        counter: u64, token: u32, sent: u64, identifier: u16, payload_len in 24..1453_usize, over_ipv6: bool,
    ) {
        let path = if over_ipv6 {
            Path::V6 { source: PEER6, destination: OUR6 }
        } else {
            Path::V4 { source: PEER4, destination: OUR4 }
        };
        let request =
            EchoRequest { source_mac: PEER_MAC, destination_mac: OUR_MAC, path, identifier, payload_len };
        let stamp = Stamp { token, counter, sent: Timestamp::from_nanos(sent) };
        let mut frame = vec![0xa5; request.frame_len()];
        request.write(&stamp, &mut frame);

        let seen = see(&frame).expect("valid");
        let Message::Echo { reply: false, ident, seq_no, data, hops: 64, .. } = &seen.message else {
            panic!("{seen:?}")
        };
        prop_assert_eq!((*ident, *seq_no), (identifier, counter as u16));
        prop_assert_eq!(data.len(), payload_len);

        // Our own answer to it, read from the other side.
        let reply = respond(&frame, &local()).expect("a request").expect("answered");
        let theirs = crate::proto::Local::new(PEER_MAC, &[(PEER4.into(), 24), (PEER6.into(), 64)]);
        let read = echo::read_reply(&reply, &parse(&reply[..]).unwrap(), &theirs).expect("valid");
        prop_assert_eq!((read.identifier, read.sequence), (identifier, counter as u16));
        prop_assert_eq!(Stamp::read(read.payload), Some(stamp));
        prop_assert!(is_intact(read.payload));
        let source: IpAddr = if over_ipv6 { OUR6.into() } else { OUR4.into() };
        prop_assert_eq!(read.source, source);
    }
}

#[test]
fn a_payload_without_the_magic_or_cut_short_has_no_stamp() {
    let request = EchoRequest {
        source_mac: OUR_MAC,
        destination_mac: PEER_MAC,
        path: Path::V4 { source: OUR4, destination: PEER4 },
        identifier: 1,
        payload_len: 40,
    };
    let mut frame = vec![0; request.frame_len()];
    request.write(&Stamp { token: 1, counter: 2, sent: Timestamp::from_nanos(3) }, &mut frame);
    let payload = &mut frame[42..];
    assert!(Stamp::read(payload).is_some());
    assert_eq!(Stamp::read(&payload[..23]), None);
    payload[39] ^= 1;
    assert!(!is_intact(payload), "the last byte counts");
    payload[0] ^= 1;
    assert_eq!(Stamp::read(payload), None);
}

#[test]
fn only_a_single_other_host_is_answered() {
    for bad in
        ["0.0.0.0", "127.0.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255", "198.18.0.255", "198.18.0.1"]
    {
        assert_eq!(refused(&with_source4(bad)), Some(Refusal::BadSourceAddress), "{bad}");
    }
    assert_eq!(refused(&with_source4("192.0.2.1")), None);
    for bad in ["::", "::1", "ff02::1", "2001:2::1"] {
        let message = Icmpv6Repr::EchoRequest { ident: 1, seq_no: 2, data: b"x" };
        let frame = ipv6(bad.parse().unwrap(), OUR6, 64, &message);
        assert_eq!(refused(&frame), Some(Refusal::BadSourceAddress), "{bad}");
    }
}

#[test]
fn requests_to_a_group_or_to_somebody_else_are_not_answered() {
    let message = Icmpv4Repr::EchoRequest { ident: 1, seq_no: 2, data: b"x" };
    for (destination, expected) in [
        ("224.0.0.1", Refusal::GroupAddress),
        ("255.255.255.255", Refusal::GroupAddress),
        ("198.18.0.255", Refusal::GroupAddress),
        ("198.18.0.3", Refusal::NotOwned),
    ] {
        let frame = ipv4(PEER4, destination.parse::<Ipv4Addr>().unwrap(), &message);
        assert_eq!(refused(&frame), Some(expected), "{destination}");
    }
    let message = Icmpv6Repr::EchoRequest { ident: 1, seq_no: 2, data: b"x" };
    for (destination, expected) in [
        ("ff02::1", Refusal::GroupAddress),
        ("ff02::1:ff00:1", Refusal::GroupAddress),
        ("2001:2::3", Refusal::NotOwned),
    ] {
        let frame = ipv6(PEER6, destination.parse::<Ipv6Addr>().unwrap(), 64, &message);
        assert_eq!(refused(&frame), Some(expected), "{destination}");
    }
}

#[test]
fn mac_addresses_are_checked() {
    for request in [echo4_request(1, 2, b"x"), echo6_request(1, 2, b"x")] {
        let with = |at: usize, mac: [u8; 6]| {
            let mut frame = request.clone();
            frame[at..at + 6].copy_from_slice(&mac);
            refused(&frame)
        };
        assert_eq!(with(0, [0xff; 6]), Some(Refusal::GroupMac));
        assert_eq!(with(0, [1, 0, 0x5e, 0, 0, 1]), Some(Refusal::GroupMac));
        assert_eq!(with(0, [2, 0, 0, 0, 0, 7]), Some(Refusal::ForeignMac));
        assert_eq!(with(6, [0xff; 6]), Some(Refusal::BadSourceMac));
    }
}

#[test]
fn no_single_flipped_bit_of_what_a_checksum_covers_is_answered() {
    for (request, first) in
        [(echo4_request(0xbeef, 1, b"payload"), 14), (echo6_request(0xbeef, 1, b"payload"), 22)]
    {
        for bit in first * 8..request.len() * 8 {
            let mut frame = request.clone();
            frame[bit / 8] ^= 1 << (bit % 8);
            let answer = respond(&frame, &local());
            assert!(!matches!(answer, Some(Ok(_))), "bit {bit} of {} bytes", frame.len());
        }
    }
}

#[test]
fn each_wrong_checksum_has_its_own_cause() {
    let mut frame = echo4_request(1, 2, b"x");
    frame[24] ^= 1;
    assert_eq!(refused(&frame), Some(Refusal::BadIpv4Checksum));
    let mut frame = echo4_request(1, 2, b"x");
    *frame.last_mut().unwrap() ^= 1;
    assert_eq!(refused(&frame), Some(Refusal::BadIcmp4Checksum));
    let mut frame = echo6_request(1, 2, b"x");
    *frame.last_mut().unwrap() ^= 1;
    assert_eq!(refused(&frame), Some(Refusal::BadIcmp6Checksum));
}

#[test]
fn a_request_with_another_code_is_not_answered() {
    let mut frame = echo4_request(1, 2, b"x");
    frame[35] = 3;
    let sum = u16::from_be_bytes([frame[36], frame[37]]);
    frame[36..38].copy_from_slice(&checksum::updated(sum, 0x0800, 0x0803).to_be_bytes());
    assert_eq!(refused(&frame), Some(Refusal::BadIcmpCode));
}

#[test]
fn type_of_service_and_identification_come_back() {
    let mut request = echo4_request(1, 2, b"x");
    request[15] = 0xb8;
    request[18..20].copy_from_slice(&[0xab, 0xcd]);
    Ipv4Packet::new_unchecked(&mut request[14..]).fill_checksum();
    let reply = respond(&request, &local()).unwrap().unwrap();
    assert!(see(&reply).is_ok());
    assert_eq!((reply[15], &reply[18..20]), (0xb8, &[0xab, 0xcd][..]));
}

#[test]
fn a_recorded_route_is_continued_in_the_reply() {
    let reply = respond(&with_options(&[7, 11, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0]), &local()).unwrap().unwrap();
    assert!(see(&reply).is_ok(), "{:?}", see(&reply));
    assert_eq!(reply[34..46], [7, 11, 8, 198, 18, 0, 1, 0, 0, 0, 0, 0]);
}

#[test]
fn source_routes_and_broken_options_are_refused() {
    assert_eq!(refused(&with_options(&[131, 7, 4, 1, 2, 3, 4, 0])), Some(Refusal::Ipv4SourceRoute));
    assert_eq!(refused(&with_options(&[7, 0, 4, 0])), Some(Refusal::BadIpv4Options));
}

#[test]
fn the_reply_to_a_request_with_extension_headers_has_none() {
    // Destination options with padding, and a routing header that has nothing left to route.
    for (kind, extension) in [(60, [58, 0, 1, 4, 0, 0, 0, 0]), (43, [58, 0, 0, 0, 0, 0, 0, 0])] {
        let reply = respond(&with_extension(kind, extension), &local()).unwrap().unwrap();
        assert_eq!(
            reply,
            respond(&echo6_request(7, 8, b"data"), &local()).unwrap().unwrap(),
            "header {kind}"
        );
    }
}
