//! Frames with the verdict that each must get; the host's tests and the kernel's go by the same table.
//!
//! Checksums are zero: they don't enter into the verdict.

use netdext_abi::{Counter, verdict::solicited_node};

pub const MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 1];
const PEER_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 2];
const BROADCAST: [u8; 6] = [0xff; 6];
const GROUP: [u8; 6] = [0x33, 0x33, 0xff, 0, 0, 1];
pub const OWNED_V4: [u8; 4] = [198, 18, 0, 1];
const PEER_V4: [u8; 4] = [198, 18, 0, 2];
pub const OWNED_V6: [u8; 16] = [0x20, 0x01, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const PEER_V6: [u8; 16] = [0x20, 0x01, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
const ALL_NODES: [u8; 16] = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

const VLAN: u16 = 0x8100;
const QINQ: u16 = 0x88a8;
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION_OPTIONS: u8 = 60;
const ICMP6: u8 = 58;

/// A frame and the counter it must add to.
pub struct Case {
    pub name: &'static str,
    pub frame: Vec<u8>,
    pub expected: Counter,
}

fn ethernet(to: [u8; 6], tags: &[u16], ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = [to, PEER_MAC].concat();
    for tag in tags {
        frame.extend(tag.to_be_bytes());
        frame.extend(100u16.to_be_bytes());
    }
    frame.extend(ethertype.to_be_bytes());
    frame.extend(payload);
    frame
}

fn arp(operation: u16, target: [u8; 4]) -> Vec<u8> {
    let mut message = vec![0, 1, 8, 0, 6, 4];
    message.extend(operation.to_be_bytes());
    message.extend(PEER_MAC);
    message.extend(PEER_V4);
    message.extend([0; 6]);
    message.extend(target);
    message
}

/// `options` in words; `fragment` is the field of flags and offset.
fn ipv4(to: [u8; 4], protocol: u8, options: u8, fragment: u16, payload: &[u8]) -> Vec<u8> {
    let header_len = 20 + usize::from(options) * 4;
    let mut packet = vec![0x40 | (5 + options), 0];
    packet.extend(((header_len + payload.len()) as u16).to_be_bytes());
    packet.extend([0, 1]);
    packet.extend(fragment.to_be_bytes());
    packet.extend([64, protocol, 0, 0]);
    packet.extend(PEER_V4);
    packet.extend(to);
    packet.resize(header_len, 1);
    packet.extend(payload);
    packet
}

fn ipv6(to: [u8; 16], next: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend((payload.len() as u16).to_be_bytes());
    packet.extend([next, 255]);
    packet.extend(PEER_V6);
    packet.extend(to);
    packet.extend(payload);
    packet
}

/// Extension headers in order, each with its own number, its length beyond eight bytes in units of eight, and the two
/// bytes that follow; then `payload`. Returns the number for the IPv6 header with the bytes.
fn extended(headers: &[(u8, u8, [u8; 2])], last: u8, payload: &[u8]) -> (u8, Vec<u8>) {
    let mut bytes = Vec::new();
    for (at, (_, len, rest)) in headers.iter().enumerate() {
        bytes.push(headers.get(at + 1).map_or(last, |next| next.0));
        bytes.push(*len);
        bytes.extend(rest);
        bytes.extend(vec![0; if headers[at].0 == FRAGMENT { 4 } else { 4 + usize::from(*len) * 8 }]);
    }
    bytes.extend(payload);
    (headers.first().map_or(last, |first| first.0), bytes)
}

fn echo(icmp_type: u8) -> Vec<u8> {
    let mut message = vec![icmp_type, 0, 0, 0, 0x12, 0x34, 0, 1];
    message.extend(*b"payload of an echo");
    message
}

fn neighbor(icmp_type: u8, target: [u8; 16]) -> Vec<u8> {
    let mut message = vec![icmp_type, 0, 0, 0, 0, 0, 0, 0];
    message.extend(target);
    message.extend([1, 1]);
    message.extend(PEER_MAC);
    message
}

fn echo4(to: [u8; 4], options: u8, fragment: u16, icmp_type: u8) -> Vec<u8> {
    ipv4(to, 1, options, fragment, &echo(icmp_type))
}

fn echo6(to: [u8; 16], headers: &[(u8, u8, [u8; 2])], icmp_type: u8) -> Vec<u8> {
    let (next, payload) = extended(headers, ICMP6, &echo(icmp_type));
    ipv6(to, next, &payload)
}

/// Every case, malformed ones included.
pub fn table() -> Vec<Case> {
    let groups: [fn() -> Vec<Case>; 6] =
        [arp_cases, ipv4_cases, ipv6_cases, neighbor_cases, link_cases, malformed_cases];
    groups.iter().flat_map(|cases| cases()).collect()
}

fn case(name: &'static str, frame: Vec<u8>, expected: Counter) -> Case {
    Case { name, frame, expected }
}

fn arp_cases() -> Vec<Case> {
    let to = |mac, operation, target| ethernet(mac, &[], 0x0806, &arp(operation, target));
    let mut other_hardware = arp(1, OWNED_V4);
    other_hardware[1] = 6;
    let mut padded = to(BROADCAST, 1, OWNED_V4);
    padded.resize(60, 0);
    vec![
        case("ARP request by broadcast", to(BROADCAST, 1, OWNED_V4), Counter::DriverArpRequest),
        case("ARP request, padded", padded, Counter::DriverArpRequest),
        case("ARP request by unicast", to(MAC, 1, OWNED_V4), Counter::DriverArpRequest),
        case("ARP request for another", to(BROADCAST, 1, PEER_V4), Counter::KernelNotOwned),
        case("ARP reply", to(MAC, 2, OWNED_V4), Counter::DriverArpReply),
        case("ARP reply to another address", to(MAC, 2, PEER_V4), Counter::KernelNotOwned),
        case("ARP reply to another station", to(PEER_MAC, 2, OWNED_V4), Counter::KernelForeignMac),
        case("RARP", to(MAC, 3, OWNED_V4), Counter::KernelOther),
        case("ARP for other hardware", ethernet(MAC, &[], 0x0806, &other_hardware), Counter::KernelOther),
    ]
}

fn ipv4_cases() -> Vec<Case> {
    let to = |mac, packet: Vec<u8>| ethernet(mac, &[], 0x0800, &packet);
    let request = |address| echo4(address, 0, 0, 8);
    let mut padded = to(MAC, request(OWNED_V4));
    padded.extend([0; 18]);
    vec![
        case("ICMP echo request", to(MAC, request(OWNED_V4)), Counter::DriverEcho4Request),
        case("ICMP echo request, padded", padded, Counter::DriverEcho4Request),
        case("ICMP echo reply", to(MAC, echo4(OWNED_V4, 0, 0, 0)), Counter::DriverEcho4Reply),
        case("IPv4 options", to(MAC, echo4(OWNED_V4, 3, 0, 8)), Counter::DriverEcho4Request),
        case("all the IPv4 options", to(MAC, echo4(OWNED_V4, 10, 0, 8)), Counter::DriverEcho4Request),
        case("don't fragment", to(MAC, echo4(OWNED_V4, 0, 0x4000, 8)), Counter::DriverEcho4Request),
        case("first fragment", to(MAC, echo4(OWNED_V4, 0, 0x2000, 8)), Counter::KernelFragment),
        case("later fragment", to(MAC, echo4(OWNED_V4, 0, 0x2001, 8)), Counter::KernelFragment),
        case("last fragment", to(MAC, echo4(OWNED_V4, 0, 0x0001, 8)), Counter::KernelFragment),
        case("echo to another address", to(MAC, request(PEER_V4)), Counter::KernelNotOwned),
        case("echo to limited broadcast", to(MAC, request([255; 4])), Counter::KernelNotOwned),
        case("echo to multicast", to(MAC, request([224, 0, 0, 1])), Counter::KernelNotOwned),
        case("echo by link broadcast", to(BROADCAST, request(OWNED_V4)), Counter::KernelGroupMac),
        case("echo to another station", to(PEER_MAC, request(OWNED_V4)), Counter::KernelForeignMac),
        case("ICMP unreachable", to(MAC, echo4(OWNED_V4, 0, 0, 3)), Counter::KernelOther),
        case("UDP", to(MAC, ipv4(OWNED_V4, 17, 0, 0, &[0; 8])), Counter::KernelOther),
    ]
}

fn ipv6_cases() -> Vec<Case> {
    let to = |mac, packet: Vec<u8>| ethernet(mac, &[], 0x86dd, &packet);
    let with = |headers: &[(u8, u8, [u8; 2])]| to(MAC, echo6(OWNED_V6, headers, 128));
    let option = (DESTINATION_OPTIONS, 0, [1, 0]);
    vec![
        case("ICMPv6 echo request", with(&[]), Counter::DriverEcho6Request),
        case("ICMPv6 echo reply", to(MAC, echo6(OWNED_V6, &[], 129)), Counter::DriverEcho6Reply),
        case("hop-by-hop", with(&[(HOP_BY_HOP, 0, [1, 0])]), Counter::DriverEcho6Request),
        case("long hop-by-hop", with(&[(HOP_BY_HOP, 5, [1, 0])]), Counter::DriverEcho6Request),
        case("final segment", with(&[(ROUTING, 0, [4, 0])]), Counter::DriverEcho6Request),
        case("segments left", with(&[(ROUTING, 0, [4, 1])]), Counter::KernelOther),
        case("six extension headers", with(&[option; 6]), Counter::DriverEcho6Request),
        case("seven extension headers", with(&[option; 7]), Counter::ExtensionChainTooLong),
        case("atomic fragment", with(&[(FRAGMENT, 0, [0, 0])]), Counter::DriverEcho6Request),
        case(
            "fragment header with a reserved byte",
            with(&[(FRAGMENT, 9, [0, 6])]),
            Counter::DriverEcho6Request,
        ),
        case("first IPv6 fragment", with(&[(FRAGMENT, 0, [0, 1])]), Counter::KernelFragment),
        case("later IPv6 fragment", with(&[option, (FRAGMENT, 0, [0, 8])]), Counter::KernelFragment),
        case(
            "options and fragment",
            with(&[option, (FRAGMENT, 0, [0, 0]), option]),
            Counter::DriverEcho6Request,
        ),
        case(
            "fragment header twice",
            with(&[(FRAGMENT, 0, [0, 0]), (FRAGMENT, 0, [0, 0])]),
            Counter::KernelOther,
        ),
        case("no next header", to(MAC, ipv6(OWNED_V6, 59, &[])), Counter::KernelOther),
        case("TCP over IPv6", to(MAC, ipv6(OWNED_V6, 6, &[0; 20])), Counter::KernelOther),
        case("ICMPv6 to another", to(MAC, echo6(PEER_V6, &[], 128)), Counter::KernelNotOwned),
        case("ICMPv6 echo to all nodes", to(MAC, echo6(ALL_NODES, &[], 128)), Counter::KernelNotOwned),
        case("ICMPv6 echo to a link group", to(GROUP, echo6(OWNED_V6, &[], 128)), Counter::KernelGroupMac),
        case("router solicitation", to(MAC, echo6(OWNED_V6, &[], 133)), Counter::KernelOther),
    ]
}

fn neighbor_cases() -> Vec<Case> {
    let to = |mac, address, icmp_type, target| {
        ethernet(mac, &[], 0x86dd, &ipv6(address, ICMP6, &neighbor(icmp_type, target)))
    };
    let group = solicited_node(OWNED_V6);
    let mut detection = to(GROUP, group, 135, OWNED_V6);
    // Source address: unspecified (RFC 4862, 5.4.2).
    detection[14 + 8..14 + 24].fill(0);
    let (next, fragmented) = extended(&[(FRAGMENT, 0, [0, 0])], ICMP6, &neighbor(135, OWNED_V6));
    let fragmented = ethernet(MAC, &[], 0x86dd, &ipv6(OWNED_V6, next, &fragmented));
    let mut same_group = OWNED_V6;
    same_group[8] = 7;
    vec![
        case("solicitation", to(GROUP, group, 135, OWNED_V6), Counter::DriverNeighborSolicitation),
        case("duplicate address detection", detection, Counter::DriverNeighborSolicitation),
        case("unicast solicitation", to(MAC, OWNED_V6, 135, OWNED_V6), Counter::DriverNeighborSolicitation),
        case(
            "solicitation for another of the group",
            to(GROUP, group, 135, same_group),
            Counter::KernelNotOwned,
        ),
        case("solicitation to all nodes", to(GROUP, ALL_NODES, 135, OWNED_V6), Counter::KernelNotOwned),
        case(
            "solicitation for another",
            to(GROUP, solicited_node(PEER_V6), 135, PEER_V6),
            Counter::KernelNotOwned,
        ),
        case("fragmented solicitation", fragmented, Counter::KernelOther),
        case("advertisement", to(MAC, OWNED_V6, 136, PEER_V6), Counter::DriverNeighborAdvertisement),
        case("advertisement to all nodes", to(GROUP, ALL_NODES, 136, PEER_V6), Counter::KernelGroupMac),
        case("advertisement to another", to(MAC, PEER_V6, 136, OWNED_V6), Counter::KernelNotOwned),
    ]
}

fn link_cases() -> Vec<Case> {
    let request = echo4(OWNED_V4, 0, 0, 8);
    let solicitation = ipv6(OWNED_V6, ICMP6, &neighbor(135, OWNED_V6));
    vec![
        case("VLAN", ethernet(MAC, &[VLAN], 0x0800, &request), Counter::DriverEcho4Request),
        case("QinQ", ethernet(MAC, &[QINQ, VLAN], 0x0800, &request), Counter::DriverEcho4Request),
        case(
            "ARP in a VLAN",
            ethernet(BROADCAST, &[VLAN], 0x0806, &arp(1, OWNED_V4)),
            Counter::DriverArpRequest,
        ),
        case(
            "IPv6 in QinQ",
            ethernet(MAC, &[QINQ, VLAN], 0x86dd, &solicitation),
            Counter::DriverNeighborSolicitation,
        ),
        case("three tags", ethernet(MAC, &[QINQ, VLAN, VLAN], 0x0800, &request), Counter::KernelOther),
        case("LLDP", ethernet(MAC, &[], 0x88cc, &[0; 46]), Counter::KernelOther),
        case("802.3 length", ethernet(MAC, &[], 46, &[0; 46]), Counter::KernelOther),
    ]
}

fn malformed_cases() -> Vec<Case> {
    let v4 = |change: fn(&mut Vec<u8>)| {
        let mut packet = echo4(OWNED_V4, 0, 0, 8);
        change(&mut packet);
        ethernet(MAC, &[], 0x0800, &packet)
    };
    let v6 = |change: fn(&mut Vec<u8>)| {
        let mut packet = echo6(OWNED_V6, &[(DESTINATION_OPTIONS, 0, [1, 0])], 128);
        change(&mut packet);
        ethernet(MAC, &[], 0x86dd, &packet)
    };
    let mut lengths = arp(1, OWNED_V4);
    lengths[4] = 8;
    let short4 = ipv4(OWNED_V4, 1, 0, 0, &[8, 0, 0, 0, 0, 0, 0]);
    let short6 = ipv6(OWNED_V6, ICMP6, &neighbor(135, OWNED_V6)[..23]);
    let tiny6 = ipv6(OWNED_V6, ICMP6, &[128, 0, 0, 0]);
    vec![
        case("tag cut", ethernet(MAC, &[], VLAN, &[0, 1]), Counter::TruncatedVlan),
        case("ARP cut", ethernet(MAC, &[], 0x0806, &arp(1, OWNED_V4)[..27]), Counter::TruncatedArp),
        case("ARP lengths", ethernet(MAC, &[], 0x0806, &lengths), Counter::BadArpLengths),
        case("IPv4 cut", ethernet(MAC, &[], 0x0800, &[0x45; 19]), Counter::TruncatedIpv4),
        case("IPv4 version", v4(|p| p[0] = 0x65), Counter::BadIpv4Version),
        case("IPv4 header length", v4(|p| p[0] = 0x44), Counter::BadIpv4HeaderLength),
        case("IPv4 total length below header", v4(|p| p[3] = 19), Counter::Ipv4LengthTooShort),
        case("IPv4 total length beyond frame", v4(|p| p[2] = 1), Counter::Ipv4LengthBeyondFrame),
        case("ICMP cut", ethernet(MAC, &[], 0x0800, &short4), Counter::TruncatedIcmp4),
        case("IPv6 cut", ethernet(MAC, &[], 0x86dd, &[0x60; 39]), Counter::TruncatedIpv6),
        case("IPv6 version", v6(|p| p[0] = 0x40), Counter::BadIpv6Version),
        case("IPv6 payload length beyond frame", v6(|p| p[4] = 1), Counter::Ipv6LengthBeyondFrame),
        case("extension beyond datagram", v6(|p| p[41] = 4), Counter::TruncatedExtension),
        case("extension header cut", v6(|p| p[5] = 7), Counter::TruncatedExtension),
        case("neighbour solicitation cut", ethernet(MAC, &[], 0x86dd, &short6), Counter::TruncatedIcmp6),
        case("ICMPv6 cut", ethernet(MAC, &[], 0x86dd, &tiny6), Counter::TruncatedIcmp6),
    ]
}
