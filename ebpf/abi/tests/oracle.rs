//! Frames written by an independent implementation (smoltcp) are understood, and read alike.

use netdext_abi::{Address, Kind, Malformed, Parsed, parse};
use proptest::prelude::*;
use smoltcp::{
    phy::ChecksumCapabilities,
    wire::{
        ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr,
        Icmpv4Packet, Icmpv4Repr, Icmpv6Packet, Icmpv6Repr, IpProtocol, Ipv4Packet, Ipv4Repr, Ipv6Packet,
        Ipv6Repr, NdiscNeighborFlags, NdiscRepr,
    },
};

const FROM: EthernetAddress = EthernetAddress([2, 0, 0, 0, 0, 2]);
const TO: EthernetAddress = EthernetAddress([2, 0, 0, 0, 0, 1]);

fn framed(ethertype: EthernetProtocol, len: usize, emit: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut bytes = vec![0; 14 + len];
    let mut frame = EthernetFrame::new_unchecked(&mut bytes);
    EthernetRepr { src_addr: FROM, dst_addr: TO, ethertype }.emit(&mut frame);
    emit(frame.payload_mut());
    bytes
}

fn understood(frame: &[u8], kind: Kind, destination: Address) -> Parsed {
    let parsed = parse(frame).expect("a frame of smoltcp is well-formed");
    assert_eq!((parsed.kind, parsed.destination), (kind, destination));
    assert_eq!((usize::from(parsed.l3_end), parsed.link_header_len), (frame.len(), 14));
    assert_eq!(parsed.link_destination, TO.0);
    parsed
}

fn echo4(to: [u8; 4], hop_limit: u8, data: &[u8], reply: bool) -> Vec<u8> {
    let icmp = if reply {
        Icmpv4Repr::EchoReply { ident: 1, seq_no: 2, data }
    } else {
        Icmpv4Repr::EchoRequest { ident: 1, seq_no: 2, data }
    };
    let ip = Ipv4Repr {
        src_addr: [198, 18, 0, 2].into(),
        dst_addr: to.into(),
        next_header: IpProtocol::Icmp,
        payload_len: icmp.buffer_len(),
        hop_limit,
    };
    let sums = ChecksumCapabilities::default();
    framed(EthernetProtocol::Ipv4, ip.buffer_len() + icmp.buffer_len(), |bytes| {
        let mut packet = Ipv4Packet::new_unchecked(bytes);
        ip.emit(&mut packet, &sums);
        icmp.emit(&mut Icmpv4Packet::new_unchecked(packet.payload_mut()), &sums);
    })
}

fn icmp6(to: [u8; 16], hop_limit: u8, icmp: &Icmpv6Repr<'_>) -> Vec<u8> {
    let ip = Ipv6Repr {
        src_addr: [0x20, 1, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2].into(),
        dst_addr: to.into(),
        next_header: IpProtocol::Icmpv6,
        payload_len: icmp.buffer_len(),
        hop_limit,
    };
    framed(EthernetProtocol::Ipv6, ip.buffer_len() + icmp.buffer_len(), |bytes| {
        let mut packet = Ipv6Packet::new_unchecked(bytes);
        ip.emit(&mut packet);
        let mut message = Icmpv6Packet::new_unchecked(packet.payload_mut());
        icmp.emit(&ip.src_addr, &ip.dst_addr, &mut message, &ChecksumCapabilities::default());
    })
}

proptest! {
    #[test]
    fn arp_is_read_alike(target in any::<[u8; 4]>(), reply in any::<bool>()) {
        let (operation, kind) =
            if reply { (ArpOperation::Reply, Kind::ArpReply) } else { (ArpOperation::Request, Kind::ArpRequest) };
        let arp = ArpRepr::EthernetIpv4 {
            operation,
            source_hardware_addr: FROM,
            source_protocol_addr: [198, 18, 0, 2].into(),
            target_hardware_addr: TO,
            target_protocol_addr: target.into(),
        };
        let frame = framed(EthernetProtocol::Arp, arp.buffer_len(), |bytes| {
            arp.emit(&mut ArpPacket::new_unchecked(bytes));
        });
        understood(&frame, kind, Address::V4(target));
    }

    #[test]
    fn icmp_echo_is_read_alike(
        to in any::<[u8; 4]>(),
        hop_limit in any::<u8>(),
        data in proptest::collection::vec(any::<u8>(), 0..1400),
        reply in any::<bool>(),
    ) {
        let kind = if reply { Kind::Echo4Reply } else { Kind::Echo4Request };
        let frame = echo4(to, hop_limit, &data, reply);
        let parsed = understood(&frame, kind, Address::V4(to));
        prop_assert_eq!((parsed.l4, parsed.hop_limit), (34, hop_limit));
    }

    #[test]
    fn icmpv6_echo_is_read_alike(
        to in any::<[u8; 16]>(),
        hop_limit in any::<u8>(),
        data in proptest::collection::vec(any::<u8>(), 0..1400),
        reply in any::<bool>(),
    ) {
        let (ident, seq_no, data) = (1, 2, &*data);
        let (icmp, kind) = if reply {
            (Icmpv6Repr::EchoReply { ident, seq_no, data }, Kind::Echo6Reply)
        } else {
            (Icmpv6Repr::EchoRequest { ident, seq_no, data }, Kind::Echo6Request)
        };
        let parsed = understood(&icmp6(to, hop_limit, &icmp), kind, Address::V6(to));
        prop_assert_eq!((parsed.l4, parsed.hop_limit), (54, hop_limit));
    }

    #[test]
    fn neighbour_discovery_is_read_alike(to in any::<[u8; 16]>(), target in any::<[u8; 16]>(), asks in any::<bool>()) {
        let (ndisc, kind) = if asks {
            let solicit = NdiscRepr::NeighborSolicit { target_addr: target.into(), lladdr: Some(FROM.into()) };
            (solicit, Kind::NeighborSolicitation)
        } else {
            let flags = NdiscNeighborFlags::SOLICITED;
            let advert =
                NdiscRepr::NeighborAdvert { flags, target_addr: target.into(), lladdr: Some(FROM.into()) };
            (advert, Kind::NeighborAdvertisement)
        };
        let parsed = understood(&icmp6(to, 255, &Icmpv6Repr::Ndisc(ndisc)), kind, Address::V6(to));
        prop_assert_eq!(parsed.target, target);
    }

    #[test]
    fn ipv4_headers_are_accepted_as_smoltcp_accepts_them(
        header in proptest::collection::vec(any::<u8>(), 0..64),
        length in 0u8..80,
    ) {
        let mut packet = header;
        // Plausible often enough: version, protocol, length.
        for (at, byte) in [(2, 0), (3, length), (9, 17)] {
            if let Some(place) = packet.get_mut(at) {
                *place = byte;
            }
        }
        if let Some(first) = packet.first_mut() {
            *first = 0x40 | (*first & 0x0f);
        }
        let frame = framed(EthernetProtocol::Ipv4, packet.len(), |bytes| bytes.copy_from_slice(&packet));
        let theirs = Ipv4Packet::new_checked(&*packet).is_ok();
        match parse(&*frame) {
            // smoltcp doesn't mind a header shorter than five words.
            Err(Malformed::BadIpv4HeaderLength) => {}
            ours => prop_assert_eq!(ours.is_ok(), theirs),
        }
    }
}
