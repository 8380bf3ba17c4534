//! Neighbour discovery for IPv6, as far as addresses go (RFC 4861, 4.3, 4.4, 7.1 and 7.2).

use std::net::Ipv6Addr;

use netdext_abi::parse::{ETHERNET_LEN, ETHERTYPE_IPV6};
use netdext_abi::verdict::solicited_node;
use netdext_abi::{Kind, Parsed};

use super::bytes::{get, put, put_u16};
use super::checksum::Sum;
use super::echo::check_icmp6;
use super::{Local, MacAddr, Refusal, check_link, is_group, link_source, return_to, write_link_header};

const ICMP6: u8 = 58;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
const SOURCE_LINK_ADDRESS: u8 = 1;
const TARGET_LINK_ADDRESS: u8 = 2;
/// What every message must arrive with: a router would have lowered it.
const HOP_LIMIT: u8 = 255;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const IPV6_LEN: usize = 40;
/// Type, code, checksum, flags, target.
const MESSAGE_LEN: usize = 24;
const OPTION_LEN: usize = 8;
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;

/// The MAC address of a multicast group (RFC 2464, 7).
fn group_mac(address: [u8; 16]) -> MacAddr {
    [0x33, 0x33, address[12], address[13], address[14], address[15]]
}

/// A solicitation for one of our addresses that must be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Solicitation {
    /// Who asks; unspecified when somebody checks whether an address is free (RFC 4862, 5.4).
    pub source: Ipv6Addr,
    /// Which of our addresses is asked for.
    pub target: Ipv6Addr,
    /// Where the answer goes: the MAC address that the solicitation names, else the one that sent it.
    pub source_mac: MacAddr,
}

/// Reads a neighbour solicitation.
///
/// # Errors
///
/// [`Refusal`] when it is not valid by RFC 4861, 7.1.1, or not for us.
///
/// # Panics
///
/// If `parsed` is not what the frame parses to, or is no neighbour solicitation.
pub fn read_solicitation(frame: &[u8], parsed: &Parsed, local: &Local) -> Result<Solicitation, Refusal> {
    assert_eq!(parsed.kind, Kind::NeighborSolicitation);
    let link_address = check(frame, parsed, local, SOURCE_LINK_ADDRESS)?;
    let (source, destination) = addresses(frame, parsed);
    let target = parsed.target;
    let to_group = destination == solicited_node(target);
    if source == [0; 16] {
        if link_address.is_some() {
            return Err(Refusal::NdpOptions);
        }
        if !to_group {
            return Err(Refusal::NdpDestination);
        }
    } else if local.owns6(source) {
        return Err(Refusal::AddressConflict);
    } else if !local.is_peer6(source) {
        return Err(Refusal::BadSourceAddress);
    }
    if !local.owns6(target) || !(to_group || destination == target) {
        return Err(Refusal::NotOwned);
    }
    Ok(Solicitation {
        source: source.into(),
        target: target.into(),
        source_mac: link_address.unwrap_or_else(|| link_source(frame)),
    })
}

impl Solicitation {
    /// The length of the advertisement's frame, given the length of the solicitation's link header. It can
    /// be longer than the solicitation.
    pub const fn answer_len(link_header_len: usize) -> usize {
        link_header_len + IPV6_LEN + MESSAGE_LEN + OPTION_LEN
    }

    /// Writes the advertisement over the solicitation, behind the same VLAN tags.
    ///
    /// # Panics
    ///
    /// If `frame` is shorter than [`answer_len`](Self::answer_len).
    pub fn answer(&self, frame: &mut [u8], parsed: &Parsed, local: &Local) {
        // RFC 4861, 7.2.4: who has no address yet can only be reached with everybody.
        let (destination, mac, flags) = if self.source.is_unspecified() {
            (ALL_NODES, group_mac(ALL_NODES.octets()), OVERRIDE)
        } else {
            (self.source, self.source_mac, SOLICITED | OVERRIDE)
        };
        return_to(frame, mac, local);
        let message = Message {
            kind: ADVERTISEMENT,
            flags,
            source: self.target,
            destination,
            target: self.target,
            option: (TARGET_LINK_ADDRESS, local.mac()),
        };
        message.write(&mut frame[parsed.link_header_len.into()..]);
    }
}

/// What a neighbour says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Advertisement {
    /// Whose MAC address it is about.
    pub target: Ipv6Addr,
    /// The MAC address; may be left out of the answer to a question that was sent to it.
    pub target_mac: Option<MacAddr>,
    /// Whether it answers a solicitation.
    pub solicited: bool,
    /// Whether it replaces what is known.
    pub overrides: bool,
}

/// Reads a neighbour advertisement.
///
/// # Errors
///
/// [`Refusal`] when it is not valid by RFC 4861, 7.1.2, or not for us.
///
/// # Panics
///
/// If `parsed` is not what the frame parses to, or is no neighbour advertisement.
pub fn read_advertisement(frame: &[u8], parsed: &Parsed, local: &Local) -> Result<Advertisement, Refusal> {
    assert_eq!(parsed.kind, Kind::NeighborAdvertisement);
    let target_mac = check(frame, parsed, local, TARGET_LINK_ADDRESS)?;
    let (source, destination) = addresses(frame, parsed);
    let flags = frame[usize::from(parsed.l4) + 4];
    let (solicited, overrides) = (flags & SOLICITED != 0, flags & OVERRIDE != 0);
    if destination[0] == 0xff {
        if solicited {
            return Err(Refusal::NdpDestination);
        }
    } else if !local.owns6(destination) {
        return Err(Refusal::NotOwned);
    }
    if local.owns6(parsed.target) {
        return Err(Refusal::AddressConflict);
    }
    if !local.is_peer6(source) || !local.is_peer6(parsed.target) {
        return Err(Refusal::BadSourceAddress);
    }
    Ok(Advertisement { target: parsed.target.into(), target_mac, solicited, overrides })
}

/// A neighbour solicitation to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Our MAC address.
    pub source_mac: MacAddr,
    /// Our address on the target's network.
    pub source: Ipv6Addr,
    /// Whose MAC address is asked for.
    pub target: Ipv6Addr,
    /// Whom to ask: a station that is believed to be the target, or its solicited-node group.
    pub to: Option<MacAddr>,
}

impl Request {
    /// The length of the frame in bytes.
    pub const LEN: usize = ETHERNET_LEN + IPV6_LEN + MESSAGE_LEN + OPTION_LEN;

    /// Writes the frame.
    ///
    /// # Panics
    ///
    /// If `frame` is shorter than [`LEN`](Self::LEN).
    pub fn write(&self, frame: &mut [u8]) {
        let group = solicited_node(self.target.octets());
        let (destination, mac) = match self.to {
            Some(mac) => (self.target, mac),
            None => (group.into(), group_mac(group)),
        };
        write_link_header(frame, mac, self.source_mac, ETHERTYPE_IPV6);
        let message = Message {
            kind: SOLICITATION,
            flags: 0,
            source: self.source,
            destination,
            target: self.target,
            option: (SOURCE_LINK_ADDRESS, self.source_mac),
        };
        message.write(&mut frame[ETHERNET_LEN..]);
    }
}

/// A solicitation or an advertisement with one link-layer address option.
struct Message {
    kind: u8,
    flags: u8,
    source: Ipv6Addr,
    destination: Ipv6Addr,
    target: Ipv6Addr,
    option: (u8, MacAddr),
}

impl Message {
    /// Writes the IPv6 header and all that follows it.
    fn write(&self, packet: &mut [u8]) {
        let Self { kind, flags, source, destination, target, option: (option, mac) } = *self;
        let (header, message) = packet.split_at_mut(IPV6_LEN);
        let message = &mut message[..MESSAGE_LEN + OPTION_LEN];
        write_ipv6_header(header, message.len(), HOP_LIMIT, source, destination);
        put(message, 0, [kind, 0, 0, 0, flags, 0, 0, 0]);
        put(message, 8, target.octets());
        put(message, MESSAGE_LEN, [option, 1]);
        put(message, MESSAGE_LEN + 2, mac);
        let sum = Sum::pseudo_header6(source.octets(), destination.octets(), ICMP6, message.len());
        let sum = sum.data(message).finish();
        put_u16(message, 2, sum);
    }
}

/// The header of an ICMPv6 packet: no traffic class, no flow label.
pub(super) fn write_ipv6_header(
    header: &mut [u8],
    payload_len: usize,
    hop_limit: u8,
    source: Ipv6Addr,
    destination: Ipv6Addr,
) {
    put(header, 0, [0x60, 0, 0, 0]);
    put_u16(header, 4, payload_len as u16);
    put(header, 6, [ICMP6, hop_limit]);
    put(header, 8, source.octets());
    put(header, 24, destination.octets());
}

/// IPv6 source and destination.
fn addresses(frame: &[u8], parsed: &Parsed) -> ([u8; 16], [u8; 16]) {
    let ip = usize::from(parsed.link_header_len);
    (get(frame, ip + 8), get(frame, ip + 24))
}

/// What solicitations and advertisements have in common. Returns the link-layer address option `wanted`.
fn check(frame: &[u8], parsed: &Parsed, local: &Local, wanted: u8) -> Result<Option<MacAddr>, Refusal> {
    check_link(frame, parsed, local)?;
    if parsed.hop_limit != HOP_LIMIT {
        return Err(Refusal::NdpHopLimit);
    }
    check_icmp6(frame, parsed)?;
    if parsed.target[0] == 0xff {
        return Err(Refusal::NdpTarget);
    }
    link_address(&frame[usize::from(parsed.l4) + MESSAGE_LEN..parsed.l3_end.into()], wanted)
}

/// Looks for a link-layer address among the options, and checks the lengths of all of them.
fn link_address(mut options: &[u8], wanted: u8) -> Result<Option<MacAddr>, Refusal> {
    let mut found = None;
    while !options.is_empty() {
        // Lengths count eight bytes; an option of length 0 would never end (RFC 4861, 4.6).
        let len = options.get(1).copied().map_or(0, usize::from) * OPTION_LEN;
        if len == 0 || len > options.len() {
            return Err(Refusal::NdpOptions);
        }
        if options[0] == wanted && len == OPTION_LEN {
            let mac = get(options, 2);
            if is_group(mac) || mac == [0; 6] {
                return Err(Refusal::NdpOptions);
            }
            found = Some(mac);
        }
        options = &options[len..];
    }
    Ok(found)
}
