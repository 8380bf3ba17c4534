//! Frames made and read by smoltcp, the independent oracle of the tests.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netdext_abi::{Kind, parse};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, Icmpv4Packet,
    Icmpv4Repr, Icmpv6Packet, Icmpv6Repr, IpProtocol, Ipv4Packet, Ipv4Repr, Ipv6Packet, Ipv6Repr,
    NdiscNeighborFlags, NdiscRepr,
};

use super::{Local, MacAddr, Refusal, arp, echo, ndp};
use crate::dispatch::Timestamp;
use crate::testing::device;
pub use crate::testing::{OUR_MAC, OUR4, OUR6, PEER_MAC, PEER4, PEER6};

pub const NOW: Timestamp = Timestamp::from_nanos(5_000_000_000);

/// The addresses of the port under test, with the lengths of their prefixes.
pub fn addresses() -> Vec<(IpAddr, u8)> {
    device(0, 1).addresses
}

pub fn local() -> Local {
    Local::new(OUR_MAC, &addresses())
}

/// An Ethernet frame from the peer to us.
pub fn ethernet(ethertype: EthernetProtocol, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 14 + payload.len()];
    let mut frame = EthernetFrame::new_unchecked(&mut bytes);
    frame.set_dst_addr(EthernetAddress(OUR_MAC));
    frame.set_src_addr(EthernetAddress(PEER_MAC));
    frame.set_ethertype(ethertype);
    frame.payload_mut().copy_from_slice(payload);
    bytes
}

pub fn ipv4(source: Ipv4Addr, destination: Ipv4Addr, message: &Icmpv4Repr<'_>) -> Vec<u8> {
    let caps = ChecksumCapabilities::default();
    let mut bytes = vec![0; 20 + message.buffer_len()];
    let header = Ipv4Repr {
        src_addr: source,
        dst_addr: destination,
        next_header: IpProtocol::Icmp,
        payload_len: message.buffer_len(),
        hop_limit: 63,
    };
    header.emit(&mut Ipv4Packet::new_unchecked(&mut bytes[..]), &caps);
    message.emit(&mut Icmpv4Packet::new_unchecked(&mut bytes[20..]), &caps);
    ethernet(EthernetProtocol::Ipv4, &bytes)
}

pub fn ipv6(source: Ipv6Addr, destination: Ipv6Addr, hops: u8, message: &Icmpv6Repr<'_>) -> Vec<u8> {
    let caps = ChecksumCapabilities::default();
    let mut bytes = vec![0; 40 + message.buffer_len()];
    let header = Ipv6Repr {
        src_addr: source,
        dst_addr: destination,
        next_header: IpProtocol::Icmpv6,
        payload_len: message.buffer_len(),
        hop_limit: hops,
    };
    header.emit(&mut Ipv6Packet::new_unchecked(&mut bytes[..]));
    message.emit(&source, &destination, &mut Icmpv6Packet::new_unchecked(&mut bytes[40..]), &caps);
    ethernet(EthernetProtocol::Ipv6, &bytes)
}

pub fn echo4_request(ident: u16, seq_no: u16, data: &[u8]) -> Vec<u8> {
    ipv4(PEER4, OUR4, &Icmpv4Repr::EchoRequest { ident, seq_no, data })
}

pub fn echo6_request(ident: u16, seq_no: u16, data: &[u8]) -> Vec<u8> {
    ipv6(PEER6, OUR6, 64, &Icmpv6Repr::EchoRequest { ident, seq_no, data })
}

pub fn arp_message(
    operation: ArpOperation,
    sender: (MacAddr, Ipv4Addr),
    target: (MacAddr, Ipv4Addr),
) -> Vec<u8> {
    let message = ArpRepr::EthernetIpv4 {
        operation,
        source_hardware_addr: EthernetAddress(sender.0),
        source_protocol_addr: sender.1,
        target_hardware_addr: EthernetAddress(target.0),
        target_protocol_addr: target.1,
    };
    let mut bytes = vec![0; message.buffer_len()];
    message.emit(&mut ArpPacket::new_unchecked(&mut bytes));
    ethernet(EthernetProtocol::Arp, &bytes)
}

pub fn arp_request(sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let mut frame = arp_message(ArpOperation::Request, (PEER_MAC, sender), ([0; 6], target));
    frame[..6].fill(0xff);
    frame
}

pub fn solicitation(
    source: Ipv6Addr,
    destination: Ipv6Addr,
    target: Ipv6Addr,
    link_address: Option<MacAddr>,
) -> Vec<u8> {
    let message = NdiscRepr::NeighborSolicit {
        target_addr: target,
        lladdr: link_address.map(|mac| EthernetAddress(mac).into()),
    };
    ipv6(source, destination, 255, &Icmpv6Repr::Ndisc(message))
}

pub fn advertisement(
    destination: Ipv6Addr,
    target: Ipv6Addr,
    flags: NdiscNeighborFlags,
    link_address: Option<MacAddr>,
) -> Vec<u8> {
    let message = NdiscRepr::NeighborAdvert {
        flags,
        target_addr: target,
        lladdr: link_address.map(|mac| EthernetAddress(mac).into()),
    };
    ipv6(PEER6, destination, 255, &Icmpv6Repr::Ndisc(message))
}

/// The frame with VLAN tags, the outer one first; an outer one of two is 802.1ad.
pub fn tagged(frame: &[u8], vlans: &[u16]) -> Vec<u8> {
    let mut bytes = frame[..12].to_vec();
    for (place, vlan) in vlans.iter().enumerate() {
        let ethertype: u16 = if place + 1 < vlans.len() { 0x88a8 } else { 0x8100 };
        bytes.extend(ethertype.to_be_bytes());
        bytes.extend(vlan.to_be_bytes());
    }
    bytes.extend(&frame[12..]);
    bytes
}

/// Does what a driver does with a request. `None` if it is none.
pub fn respond(frame: &[u8], local: &Local) -> Option<Result<Vec<u8>, Refusal>> {
    let parsed = parse(frame).ok()?;
    let mut bytes = frame.to_vec();
    let len = match parsed.kind {
        Kind::Echo4Request | Kind::Echo6Request => echo::answer(&mut bytes, &parsed, local, NOW),
        Kind::ArpRequest => arp::read(&bytes, &parsed, local)
            .and_then(|request| arp::answer(&mut bytes, &parsed, &request, local)),
        Kind::NeighborSolicitation => ndp::read_solicitation(&bytes, &parsed, local).map(|solicitation| {
            let len = ndp::Solicitation::answer_len(parsed.link_header_len.into());
            bytes.resize(len, 0xa5);
            solicitation.answer(&mut bytes, &parsed, local);
            len
        }),
        _ => return None,
    };
    Some(len.map(|len| {
        bytes.truncate(len);
        bytes
    }))
}

/// What smoltcp reads in a frame that it finds correct, checksums included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub destination_mac: MacAddr,
    pub source_mac: MacAddr,
    /// The bytes of the VLAN tags.
    pub tags: Vec<u8>,
    pub message: Message,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    Arp(ArpRepr),
    Echo {
        source: IpAddr,
        destination: IpAddr,
        hops: u8,
        reply: bool,
        ident: u16,
        seq_no: u16,
        data: Vec<u8>,
    },
    Solicit {
        source: Ipv6Addr,
        destination: Ipv6Addr,
        target: Ipv6Addr,
        mac: Option<MacAddr>,
    },
    Advert {
        source: Ipv6Addr,
        destination: Ipv6Addr,
        flags: u8,
        target: Ipv6Addr,
        mac: Option<MacAddr>,
    },
}

/// Reads a frame of ours.
pub fn see(frame: &[u8]) -> Result<Seen, String> {
    let mut tags = Vec::new();
    let mut rest = frame.get(12..).ok_or("no Ethernet header")?;
    while let [0x81, 0, ..] | [0x88, 0xa8, ..] = rest {
        let (tag, behind) = rest.split_at_checked(4).ok_or("no room for a VLAN tag")?;
        tags.extend(tag);
        rest = behind;
    }
    let untagged = [&frame[..12], rest].concat();
    let frame = EthernetFrame::new_checked(&untagged[..]).map_err(|e| e.to_string())?;
    Ok(Seen {
        destination_mac: frame.dst_addr().0,
        source_mac: frame.src_addr().0,
        tags,
        message: match frame.ethertype() {
            EthernetProtocol::Arp => see_arp(frame.payload())?,
            EthernetProtocol::Ipv4 => see4(frame.payload())?,
            EthernetProtocol::Ipv6 => see6(frame.payload())?,
            other => return Err(format!("EtherType {other}")),
        },
    })
}

fn see_arp(payload: &[u8]) -> Result<Message, String> {
    let packet = ArpPacket::new_checked(payload).map_err(|e| e.to_string())?;
    Ok(Message::Arp(ArpRepr::parse(&packet).map_err(|e| e.to_string())?))
}

fn see4(payload: &[u8]) -> Result<Message, String> {
    let caps = ChecksumCapabilities::default();
    let packet = Ipv4Packet::new_checked(payload).map_err(|e| format!("IPv4: {e}"))?;
    if usize::from(packet.total_len()) != payload.len() {
        return Err("bytes behind the datagram".into());
    }
    let header = Ipv4Repr::parse(&packet, &caps).map_err(|e| format!("IPv4: {e}"))?;
    let icmp = Icmpv4Packet::new_checked(packet.payload()).map_err(|e| format!("ICMP: {e}"))?;
    let (reply, ident, seq_no, data) =
        match Icmpv4Repr::parse(&icmp, &caps).map_err(|e| format!("ICMP: {e}"))? {
            Icmpv4Repr::EchoRequest { ident, seq_no, data } => (false, ident, seq_no, data),
            Icmpv4Repr::EchoReply { ident, seq_no, data } => (true, ident, seq_no, data),
            other => return Err(format!("{other:?}")),
        };
    let (source, destination) = (header.src_addr.into(), header.dst_addr.into());
    Ok(Message::Echo {
        source,
        destination,
        hops: header.hop_limit,
        reply,
        ident,
        seq_no,
        data: data.to_vec(),
    })
}

fn see6(payload: &[u8]) -> Result<Message, String> {
    let packet = Ipv6Packet::new_checked(payload).map_err(|e| format!("IPv6: {e}"))?;
    if packet.total_len() != payload.len() {
        return Err("bytes behind the datagram".into());
    }
    let header = Ipv6Repr::parse(&packet).map_err(|e| format!("IPv6: {e}"))?;
    if header.next_header != IpProtocol::Icmpv6 {
        return Err(format!("next header {}", header.next_header));
    }
    let (source, destination) = (header.src_addr, header.dst_addr);
    let icmp = Icmpv6Packet::new_checked(packet.payload()).map_err(|e| format!("ICMPv6: {e}"))?;
    let caps = ChecksumCapabilities::default();
    let repr = Icmpv6Repr::parse(&source, &destination, &icmp, &caps).map_err(|e| format!("ICMPv6: {e}"))?;
    let echo = |reply, ident, seq_no, data: &[u8]| Message::Echo {
        source: source.into(),
        destination: destination.into(),
        hops: header.hop_limit,
        reply,
        ident,
        seq_no,
        data: data.to_vec(),
    };
    let mac = |address: Option<smoltcp::wire::RawHardwareAddress>| {
        address.map(|address| MacAddr::try_from(address.as_bytes()).expect("six bytes"))
    };
    Ok(match repr {
        Icmpv6Repr::EchoRequest { ident, seq_no, data } => echo(false, ident, seq_no, data),
        Icmpv6Repr::EchoReply { ident, seq_no, data } => echo(true, ident, seq_no, data),
        Icmpv6Repr::Ndisc(_) if header.hop_limit != 255 => return Err("hop limit".into()),
        Icmpv6Repr::Ndisc(NdiscRepr::NeighborSolicit { target_addr: target, lladdr }) => {
            Message::Solicit { source, destination, target, mac: mac(lladdr) }
        }
        Icmpv6Repr::Ndisc(NdiscRepr::NeighborAdvert { flags, target_addr: target, lladdr }) => {
            Message::Advert { source, destination, flags: flags.bits(), target, mac: mac(lladdr) }
        }
        other => return Err(format!("{other:?}")),
    })
}
