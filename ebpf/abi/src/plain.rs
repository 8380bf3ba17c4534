//! The frames that there are most of, judged sooner.
//!
//! A plain frame is Ethernet without VLAN tags, then IPv4 without options or IPv6 without extension headers, as far as its
//! lengths are in order. [`plain`] says of it what [`Undecided::judge`](crate::verdict::Undecided::judge) would, by a few
//! loads from fixed offsets, and leaves every other frame, ARP and neighbour discovery among them, to that.
//!
//! ```text
//!  0          6        12     14                      34 (IPv4)      54 (IPv6)
//!  | to        | from   | type | IP header             | ICMP          | ICMPv6
//! ```

use crate::{
    answer::echo4_reply,
    counter::Counter,
    maps::{Config, OWNED},
    parse::{
        ECHO_LEN, ECHO4_REPLY, ECHO4_REQUEST, ECHO6_REPLY, ECHO6_REQUEST, ETHERNET_LEN, ICMP4, ICMP6,
        IPV4_FRAGMENT, IPV4_LEN, IPV6_LEN, NDP_LEN, NEIGHBOR_ADVERTISEMENT, NEIGHBOR_SOLICITATION, code,
        is_extension, ports,
    },
    reader::Reader,
    rules::{KEY_WORDS, Key, VLAN_NONE},
    verdict::{Decision, PortView, Verdict, v4_use},
};

/// Bytes that every plain frame has: Ethernet, IPv4, type, code and checksum of ICMP. Shorter ones aren't judged here; no
/// Ethernet device sends them.
pub(crate) const HEAD_LEN: usize = ETHERNET_LEN + IPV4_LEN + 4;
/// Version 4, and a header of five words.
const IPV4_NO_OPTIONS: u8 = 0x45;
const ETHERTYPE_IPV4: [u8; 2] = crate::parse::ETHERTYPE_IPV4.to_be_bytes();
const ETHERTYPE_IPV6: [u8; 2] = crate::parse::ETHERTYPE_IPV6.to_be_bytes();
/// Where the ICMP message begins.
const ICMP4_AT: usize = ETHERNET_LEN + IPV4_LEN;
const ICMP6_AT: usize = ETHERNET_LEN + IPV6_LEN;

/// The verdict on a plain frame where there is no rule to ask; `None` for a frame that isn't plain.
#[inline(always)]
pub fn plain<R: Reader + ?Sized, P: PortView + ?Sized>(
    frame: &R,
    port: &P,
    config: &Config,
) -> Option<Decision> {
    let head: [u8; HEAD_LEN] = frame.read(0)?;
    let [a, b, c, d, e, f, ..] = head;
    let ours = [a, b, c, d, e, f] == config.mac;
    if !ours && a & 1 == 0 {
        return kernel(Counter::KernelForeignMac);
    }
    match [head[12], head[13]] {
        ETHERTYPE_IPV4 => v4(frame, port, config, &head, ours),
        ETHERTYPE_IPV6 => v6(frame, port, config, &head, ours),
        _ => None,
    }
}

#[inline(always)]
const fn kernel(reason: Counter) -> Option<Decision> {
    Some(Decision { action: Verdict::Kernel, reason })
}

#[inline(always)]
const fn driver(reason: Counter) -> Option<Decision> {
    Some(Decision { action: Verdict::Driver, reason })
}

/// The end of a datagram of `len` bytes at `start`, if the frame has all of it.
#[inline(always)]
fn end_of<R: Reader + ?Sized>(frame: &R, start: usize, len: usize) -> Option<usize> {
    let end = start + len;
    (frame.contains(end) && end <= usize::from(u16::MAX)).then_some(end)
}

/// The total length and the end of a plain IPv4 datagram.
#[inline(always)]
fn v4_datagram<R: Reader + ?Sized>(frame: &R, head: &[u8; HEAD_LEN]) -> Option<(usize, usize)> {
    if head[14] != IPV4_NO_OPTIONS {
        return None;
    }
    let len = frame.number([head[16], head[17]]);
    let end = end_of(frame, ETHERNET_LEN, len)?;
    (len >= IPV4_LEN).then_some((len, end))
}

/// The payload length and the end of an IPv6 datagram, which is plain if no extension header comes next.
#[inline(always)]
fn v6_datagram<R: Reader + ?Sized>(frame: &R, head: &[u8; HEAD_LEN]) -> Option<(usize, usize)> {
    if head[14] >> 4 != 6 {
        return None;
    }
    let len = frame.number([head[18], head[19]]);
    Some((len, end_of(frame, ICMP6_AT, len)?))
}

#[inline(always)]
fn v4<R: Reader + ?Sized, P: PortView + ?Sized>(
    frame: &R,
    port: &P,
    config: &Config,
    head: &[u8; HEAD_LEN],
    ours: bool,
) -> Option<Decision> {
    let (len, end) = v4_datagram(frame, head)?;
    if code([head[20], head[21]]) & IPV4_FRAGMENT != 0 {
        return kernel(Counter::KernelFragment);
    }
    if head[23] != ICMP4 {
        return kernel(Counter::KernelOther);
    }
    if len < IPV4_LEN + ECHO_LEN {
        return None;
    }
    let reason = match head[ICMP4_AT] {
        ECHO4_REQUEST => Counter::DriverEcho4Request,
        ECHO4_REPLY => Counter::DriverEcho4Reply,
        _ => return kernel(Counter::KernelOther),
    };
    if !ours {
        return kernel(Counter::KernelGroupMac);
    }
    let uses = v4_use([head[30], head[31], head[32], head[33]], port);
    if uses & OWNED == 0 {
        return kernel(Counter::KernelNotOwned);
    }
    // An address that is also a broadcast address is answered for by the driver, which tells the two apart.
    if config.answers()
        && matches!(reason, Counter::DriverEcho4Request)
        && uses == OWNED
        && let Some(reply) = echo4_reply(frame, port, head, end)
    {
        return Some(Decision { action: Verdict::Answer(reply), reason: reply.answered() });
    }
    driver(reason)
}

#[inline(always)]
fn v6<R: Reader + ?Sized, P: PortView + ?Sized>(
    frame: &R,
    port: &P,
    config: &Config,
    head: &[u8; HEAD_LEN],
    ours: bool,
) -> Option<Decision> {
    let (len, _) = v6_datagram(frame, head)?;
    let next = head[20];
    if next != ICMP6 {
        return if is_extension(next) { None } else { kernel(Counter::KernelOther) };
    }
    if len < ECHO_LEN {
        return None;
    }
    let [kind] = frame.read(ICMP6_AT)?;
    let reason = match kind {
        ECHO6_REQUEST => Counter::DriverEcho6Request,
        ECHO6_REPLY => Counter::DriverEcho6Reply,
        NEIGHBOR_SOLICITATION | NEIGHBOR_ADVERTISEMENT => return None,
        _ => return kernel(Counter::KernelOther),
    };
    if !ours {
        return kernel(Counter::KernelGroupMac);
    }
    // To be answered, or not: that takes the whole of it.
    if config.answers() && matches!(reason, Counter::DriverEcho6Request) {
        return None;
    }
    let destination: [u8; 16] = frame.read(ETHERNET_LEN + 24)?;
    if destination[0] == 0xff || !port.owns_v6(destination) {
        return kernel(Counter::KernelNotOwned);
    }
    driver(reason)
}

/// What rules look at in a plain frame: the same as [`Key::whole`], sooner. `None` for a frame that isn't plain.
#[inline(always)]
pub fn plain_key<R: Reader + ?Sized>(frame: &R) -> Option<Key> {
    let head: [u8; HEAD_LEN] = frame.read(0)?;
    match [head[12], head[13]] {
        ETHERTYPE_IPV4 => v4_key(frame, &head),
        ETHERTYPE_IPV6 => v6_key(frame, &head),
        _ => None,
    }
}

#[inline(always)]
fn v4_key<R: Reader + ?Sized>(frame: &R, head: &[u8; HEAD_LEN]) -> Option<Key> {
    let (len, end) = v4_datagram(frame, head)?;
    let protocol = head[23];
    let fragment = code([head[20], head[21]]) & IPV4_FRAGMENT != 0;
    if !fragment && protocol == ICMP4 && len < IPV4_LEN + ECHO_LEN {
        return None;
    }
    let source = u64::from_ne_bytes([head[26], head[27], head[28], head[29], 0, 0, 0, 0]);
    let destination = u64::from_ne_bytes([head[30], head[31], head[32], head[33], 0, 0, 0, 0]);
    let at = if fragment { 0 } else { ports(protocol, ICMP4_AT, end) };
    let ports = if at == 0 { None } else { Some([head[34], head[35], head[36], head[37]]) };
    Some(key(crate::parse::ETHERTYPE_IPV4, Key::V4, protocol, [destination, 0, source, 0], ports))
}

#[inline(always)]
fn v6_key<R: Reader + ?Sized>(frame: &R, head: &[u8; HEAD_LEN]) -> Option<Key> {
    let (len, end) = v6_datagram(frame, head)?;
    let next = head[20];
    // A shorter message of ICMPv6 may be a malformed one.
    if is_extension(next) || next == ICMP6 && len < NDP_LEN {
        return None;
    }
    let word = |offset| frame.read(offset).map(u64::from_ne_bytes);
    let source = [word(ETHERNET_LEN + 8)?, word(ETHERNET_LEN + 16)?];
    let destination = [word(ETHERNET_LEN + 24)?, word(ETHERNET_LEN + 32)?];
    let ports = if ports(next, ICMP6_AT, end) == 0 { None } else { Some(frame.read(ICMP6_AT)?) };
    let words = [destination[0], destination[1], source[0], source[1]];
    Some(key(crate::parse::ETHERTYPE_IPV6, Key::V6, next, words, ports))
}

#[inline(always)]
fn key(ethertype: u16, family: u16, protocol: u8, addresses: [u64; 4], ports: Option<[u8; 4]>) -> Key {
    let [a, b, c, d] = ports.unwrap_or_default();
    let marks = if ports.is_some() { family | Key::PORTS } else { family };
    let protocol = Key::HAS_PROTOCOL | u16::from(protocol);
    let [e, f, g, h] = addresses;
    let words: [u64; KEY_WORDS] = [Key::first_word(ethertype, VLAN_NONE, protocol, marks), e, f, g, h];
    Key { words, source_port: code([a, b]), destination_port: code([c, d]) }
}
