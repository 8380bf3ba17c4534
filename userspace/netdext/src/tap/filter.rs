//! Which frames to capture: terms joined by `and`.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use netdext_abi::Reader;
use netdext_abi::parse::{
    ETHERNET_LEN, ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, MAX_EXTENSIONS, VLAN_TAG_LEN, link_header,
};

use super::Direction;

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP6: u8 = 58;
/// IPv6 extension headers that have a length of their own: hop-by-hop, routing, destination options.
const EXTENSIONS: [u8; 3] = [0, 43, 60];
const IPV6_FRAGMENT: u8 = 44;

/// Which frames to capture; without a term all of them.
///
/// | Term | Takes |
/// |---|---|
/// | `in`, `out` | what netdext receives, or sends |
/// | `queue N` | frames of that queue |
/// | `proto NAME` | `arp`, `ip`, `ip6`, `icmp`, `icmp6`, `tcp`, `udp`, or an IP protocol number |
/// | `host ADDR` | from or to that address, or, as `host ADDR/LEN`, that network; of ARP the addresses asked about |
/// | `port N` | TCP and UDP from or to that port |
///
/// Terms are joined by `and`, and all have to hold: `in and proto udp and port 53`. VLAN tags are looked
/// behind, up to two.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    text: String,
    terms: Vec<Term>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Term {
    Direction(Direction),
    Queue(u32),
    EtherType(u16),
    Protocol(u8),
    Host(IpAddr, u8),
    Port(u16),
}

/// A text is not a filter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{term:?} is no term of a capture filter; for example: in and proto icmp and host 198.18.0.2")]
pub struct BadFilter {
    /// The part that was not understood.
    pub term: String,
}

impl Filter {
    /// Whether it takes this frame.
    pub fn takes(&self, direction: Direction, queue: u32, frame: &[u8]) -> bool {
        if self.terms.is_empty() {
            return true;
        }
        let headers = Headers::of(frame);
        self.terms.iter().all(|term| match *term {
            Term::Direction(wanted) => direction == wanted,
            Term::Queue(wanted) => queue == wanted,
            Term::EtherType(wanted) => headers.ethertype == wanted,
            Term::Protocol(wanted) => headers.protocol == Some(wanted),
            Term::Host(network, len) => {
                headers.addresses.iter().flatten().any(|address| is_in(*address, network, len))
            }
            Term::Port(wanted) => headers.ports.is_some_and(|ports| ports.contains(&wanted)),
        })
    }
}

impl FromStr for Filter {
    type Err = BadFilter;

    fn from_str(text: &str) -> Result<Self, BadFilter> {
        let words: Vec<&str> = text.split_whitespace().collect();
        if words.is_empty() {
            return Ok(Self::default());
        }
        let terms = words.split(|word| *word == "and").map(term).collect::<Result<_, _>>()?;
        Ok(Self { text: words.join(" "), terms })
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn term(words: &[&str]) -> Result<Term, BadFilter> {
    let parsed = match words {
        ["in"] => Some(Term::Direction(Direction::In)),
        ["out"] => Some(Term::Direction(Direction::Out)),
        ["queue", number] => number.parse().ok().map(Term::Queue),
        ["proto", name] => protocol(name),
        ["host", address] => host(address),
        ["port", number] => number.parse().ok().map(Term::Port),
        _ => None,
    };
    parsed.ok_or_else(|| BadFilter { term: words.join(" ") })
}

fn protocol(name: &str) -> Option<Term> {
    Some(match name {
        "arp" => Term::EtherType(ETHERTYPE_ARP),
        "ip" => Term::EtherType(ETHERTYPE_IPV4),
        "ip6" => Term::EtherType(ETHERTYPE_IPV6),
        "icmp" => Term::Protocol(ICMP),
        "icmp6" => Term::Protocol(ICMP6),
        "tcp" => Term::Protocol(TCP),
        "udp" => Term::Protocol(UDP),
        number => Term::Protocol(number.parse().ok()?),
    })
}

fn host(text: &str) -> Option<Term> {
    let (address, len) = match text.split_once('/') {
        Some((address, len)) => (address.parse().ok()?, Some(len.parse().ok()?)),
        None => (text.parse().ok()?, None),
    };
    let most = if matches!(address, IpAddr::V4(_)) { 32 } else { 128 };
    let len = len.unwrap_or(most);
    (len <= most).then_some(Term::Host(address, len))
}

fn is_in(address: IpAddr, network: IpAddr, len: u8) -> bool {
    let differing = match (address, network) {
        (IpAddr::V4(a), IpAddr::V4(b)) => u128::from(a.to_bits() ^ b.to_bits()) << 96,
        (IpAddr::V6(a), IpAddr::V6(b)) => a.to_bits() ^ b.to_bits(),
        _ => return false,
    };
    differing.leading_zeros() >= len.into()
}

/// What the terms look at. What a frame is too short for is left out.
///
/// Behind the link header this is not [`netdext_abi::parse()`]: a capture is also where one looks for malformed frames, which
/// that refuses, and for the ports of a first fragment, which it leaves out.
#[derive(Debug, Default, PartialEq, Eq)]
struct Headers {
    ethertype: u16,
    protocol: Option<u8>,
    addresses: [Option<IpAddr>; 2],
    ports: Option<[u16; 2]>,
}

impl Headers {
    fn of(frame: &[u8]) -> Self {
        let mut headers = Self::default();
        let Ok(link) = link_header(frame) else { return headers };
        headers.ethertype = link.ethertype;
        let packet = &frame[ETHERNET_LEN + VLAN_TAG_LEN * usize::from(link.vlan_tags)..];
        match link.ethertype {
            ETHERTYPE_ARP => headers.addresses = [ipv4(packet, 14), ipv4(packet, 24)],
            ETHERTYPE_IPV4 => headers.read_ipv4(packet),
            ETHERTYPE_IPV6 => headers.read_ipv6(packet),
            _ => {}
        }
        headers
    }

    fn read_ipv4(&mut self, packet: &[u8]) {
        self.protocol = packet.get(9).copied();
        self.addresses = [ipv4(packet, 12), ipv4(packet, 16)];
        // Only the first fragment has ports.
        if be16(packet, 6).is_some_and(|fragment| fragment & 0x1fff == 0) {
            self.read_ports(packet, usize::from(packet[0] & 0x0f) * 4);
        }
    }

    fn read_ipv6(&mut self, packet: &[u8]) {
        self.addresses = [ipv6(packet, 8), ipv6(packet, 24)];
        let Some(mut next) = packet.get(6).copied() else { return };
        let mut at = 40;
        for _ in 0..MAX_EXTENSIONS {
            let len = match next {
                IPV6_FRAGMENT if be16(packet, at + 2).is_some_and(|offset| offset & 0xfff8 == 0) => 8,
                // Not the first fragment: the header that follows is not there.
                IPV6_FRAGMENT => {
                    self.protocol = packet.get(at).copied();
                    return;
                }
                _ if EXTENSIONS.contains(&next) => {
                    let Some(len) = packet.get(at + 1) else { return };
                    (usize::from(*len) + 1) * 8
                }
                _ => break,
            };
            let Some(following) = packet.get(at).copied() else { return };
            (next, at) = (following, at + len);
        }
        self.protocol = Some(next);
        self.read_ports(packet, at);
    }

    fn read_ports(&mut self, packet: &[u8], at: usize) {
        if matches!(self.protocol, Some(TCP | UDP)) {
            self.ports = be16(packet, at).zip(be16(packet, at + 2)).map(|(from, to)| [from, to]);
        }
    }
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.read(at).map(u16::from_be_bytes)
}

fn ipv4(bytes: &[u8], at: usize) -> Option<IpAddr> {
    bytes.read::<4>(at).map(IpAddr::from)
}

fn ipv6(bytes: &[u8], at: usize) -> Option<IpAddr> {
    bytes.read::<16>(at).map(IpAddr::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(ethertype: u16, tags: usize, packet: &[u8]) -> Vec<u8> {
        let mut frame = vec![2; 12];
        for _ in 0..tags {
            frame.extend([0x81, 0x00, 0, 7]);
        }
        frame.extend(ethertype.to_be_bytes());
        frame.extend(packet);
        frame
    }

    /// IPv4 from 198.18.0.2 to 198.18.0.1 with `options` words of options and a payload of two ports.
    fn v4(protocol: u8, options: usize, fragment: u16) -> Vec<u8> {
        let mut packet = vec![0x45 + options as u8, 0, 0, 24, 0, 0, 0, 0, 64, protocol, 0, 0];
        packet[6..8].copy_from_slice(&fragment.to_be_bytes());
        packet.extend([198, 18, 0, 2, 198, 18, 0, 1]);
        packet.extend(vec![1; options * 4]);
        packet.extend([0x30, 0x39, 0, 53, 0, 0, 0, 0]);
        packet
    }

    /// IPv6 from 2001:2::2 to 2001:2::1 with these headers, each with what follows it, in front of two ports.
    fn v6(first: u8, headers: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x60, 0, 0, 0, 0, 8, first, 64];
        for last in [2, 1] {
            let mut address = [0; 16];
            (address[0], address[1], address[3], address[15]) = (0x20, 1, 2, last);
            packet.extend(address);
        }
        packet.extend(headers);
        packet.extend([0x30, 0x39, 0, 53, 0, 0, 0, 0]);
        packet
    }

    fn takes(filter: &str, frame: &[u8]) -> bool {
        filter.parse::<Filter>().expect("a filter").takes(Direction::In, 3, frame)
    }

    #[test]
    fn direction_and_queue_come_from_the_tap() {
        let frame = frame(0x1234, 0, &[]);
        for (filter, expected) in [
            ("", true),
            ("in", true),
            ("out", false),
            ("queue 3", true),
            ("queue 2", false),
            ("in and queue 3", true),
            ("in and queue 2", false),
        ] {
            assert_eq!(takes(filter, &frame), expected, "{filter}");
        }
    }

    #[test]
    fn protocols_addresses_and_ports_are_found_behind_tags_options_and_extensions() {
        let fragment_header = [17, 0, 0, 1, 0, 0, 0, 0];
        let dns = "proto udp and port 53";
        for found in [
            frame(ETHERTYPE_IPV4, 0, &v4(17, 0, 0)),
            frame(ETHERTYPE_IPV4, 2, &v4(17, 5, 0)),
            frame(ETHERTYPE_IPV4, 1, &v4(17, 0, 0x2000)),
            frame(ETHERTYPE_IPV6, 0, &v6(17, &[])),
            frame(ETHERTYPE_IPV6, 1, &v6(0, &[60, 0, 0, 0, 0, 0, 0, 0, 17, 0, 0, 0, 0, 0, 0, 0])),
            frame(ETHERTYPE_IPV6, 0, &v6(44, &fragment_header)),
        ] {
            assert!(takes(dns, &found), "{found:x?}");
            assert!(takes("port 12345", &found), "{found:x?}");
            assert!(!takes("port 54", &found) && !takes("proto tcp", &found), "{found:x?}");
        }
        let later = frame(ETHERTYPE_IPV4, 0, &v4(17, 0, 1));
        assert!(takes("proto udp", &later) && !takes("port 53", &later), "a later fragment has no ports");
        let later = frame(ETHERTYPE_IPV6, 0, &v6(44, &[17, 0, 0, 9, 0, 0, 0, 0]));
        assert!(takes("proto 17", &later) && !takes("port 53", &later));
        let icmp = frame(ETHERTYPE_IPV4, 0, &v4(1, 0, 0));
        assert!(takes("proto icmp", &icmp) && !takes("port 53", &icmp), "ICMP has no ports");
    }

    #[test]
    fn hosts_and_networks_match_at_either_end() {
        let v4 = frame(ETHERTYPE_IPV4, 0, &v4(1, 0, 0));
        for (filter, expected) in [
            ("host 198.18.0.1", true),
            ("host 198.18.0.2", true),
            ("host 198.18.0.3", false),
            ("host 198.18.0.0/24", true),
            ("host 198.18.1.0/24", false),
            ("host 0.0.0.0/0", true),
            ("host 2001:2::1", false),
            ("proto ip and host 198.18.0.2 and in", true),
        ] {
            assert_eq!(takes(filter, &v4), expected, "{filter}");
        }
        let v6 = frame(ETHERTYPE_IPV6, 0, &v6(58, &[]));
        assert!(takes("host 2001:2::1 and proto icmp6", &v6) && takes("host 2001:2::/64", &v6));
        assert!(!takes("host 2001:3::/64", &v6) && !takes("host 198.18.0.1", &v6));
        let mut arp = vec![0, 1, 8, 0, 6, 4, 0, 1];
        arp.extend([2, 2, 2, 2, 2, 2, 198, 18, 0, 2, 0, 0, 0, 0, 0, 0, 198, 18, 0, 1]);
        let arp = frame(ETHERTYPE_ARP, 0, &arp);
        assert!(takes("proto arp and host 198.18.0.1", &arp) && takes("host 198.18.0.2", &arp));
        assert!(!takes("host 198.18.0.3", &arp) && !takes("proto ip", &arp));
    }

    #[test]
    fn every_prefix_of_a_frame_is_read_without_a_panic() {
        let whole = [
            frame(ETHERTYPE_IPV4, 2, &v4(6, 10, 0)),
            frame(ETHERTYPE_IPV6, 1, &v6(0, &[60, 0, 0, 0, 0, 0, 0, 0, 17, 0, 0, 0, 0, 0, 0, 0])),
            frame(ETHERTYPE_ARP, 0, &[0; 28]),
        ];
        for frame in &whole {
            for len in 0..frame.len() {
                let _ = Headers::of(&frame[..len]);
            }
            assert_ne!(Headers::of(frame), Headers::default());
        }
    }

    #[test]
    fn what_is_no_filter_is_refused_with_the_term() {
        for (text, term) in [
            ("nonsense", "nonsense"),
            ("in and", ""),
            ("and in", ""),
            ("in out", "in out"),
            ("queue", "queue"),
            ("in and queue x", "queue x"),
            ("port 65536", "port 65536"),
            ("host 198.18.0.1/33", "host 198.18.0.1/33"),
            ("host example", "host example"),
            ("proto 256", "proto 256"),
        ] {
            let error = text.parse::<Filter>().expect_err(text);
            assert_eq!(error.term, term, "{text}");
            assert!(error.to_string().contains("for example"), "{error}");
        }
        assert_eq!(" in   and port 53 ".parse::<Filter>().unwrap().to_string(), "in and port 53");
    }
}
