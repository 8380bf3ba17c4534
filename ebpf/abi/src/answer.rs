//! Requests for owned addresses, answered where they are: ARP, neighbour solicitations, ICMP and ICMPv6 echo.
//!
//! [`reply`] decides, and changes nothing; [`Reply::write`] turns the request into its reply. A request gets exactly the
//! reply that the sample driver would send, or none: what that driver would refuse isn't answered, and neither is what
//! needs more than a few fields written. All of it then goes to the driver, as if nothing had been tried:
//!
//! | Left to the driver | because |
//! |---|---|
//! | IPv4 options, IPv6 extension headers | recording a route or leaving headers out moves what follows |
//! | a solicitation with more than two options, or a longer one | options are walked one by one |
//! | a message of more than 4,607 bytes | its checksum is verified first, in a loop that the verifier must see end |
//! | wrong checksums, sources that are no single other host, ... | the driver refuses them, and counts why |

use crate::{
    checksum::{fold, sum, updated},
    counter::Counter,
    parse::{ETHERNET_LEN, ICMP6, IPV4_LEN, IPV6_LEN, Kind, Parsed},
    plain::HEAD_LEN,
    reader::{Reader, Writer},
    verdict::PortView,
};

const ARP_LEN: usize = 28;
/// Neighbour solicitation or advertisement up to the options.
const NDP_LEN: usize = 24;
const OPTION_LEN: usize = 8;
/// The advertisement that answers: with the one option that names our MAC address.
const ADVERTISEMENT_LEN: usize = IPV6_LEN + NDP_LEN + OPTION_LEN;

/// Time to live or hop limit of an echo reply, as RFC 1700 recommends.
const HOP_LIMIT: u8 = 64;
/// Hop limit of neighbour discovery: a router would have lowered it (RFC 4861, 7.1).
const ON_LINK: u8 = 255;
const ARP_REPLY: [u8; 2] = [0, 2];
/// Type and code.
const ECHO4_REPLY: [u8; 2] = [0, 0];
const ECHO6_REPLY: [u8; 2] = [129, 0];
const ADVERTISEMENT: [u8; 2] = [136, 0];
const SOURCE_LINK_ADDRESS: u8 = 1;
/// Type and length, in eight bytes, of the option.
const TARGET_LINK_ADDRESS: [u8; 2] = [2, 1];
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;
const LOOPBACK: [u8; 16] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const ALL_NODES: [u8; 16] = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const ALL_NODES_MAC: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];

/// What was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Question {
    /// ARP request.
    Arp,
    /// Neighbour solicitation.
    NeighborSolicitation,
    /// ICMP echo request.
    Echo4,
    /// ICMPv6 echo request.
    Echo6,
}

/// A reply that can be written over its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Reply {
    question: Question,
    link_header_len: u16,
    len: u16,
    to: [u8; 6],
    from: [u8; 6],
}

/// The reply to a request that `parsed` describes, whose destination the port owns and is none of its broadcast
/// addresses. `None` when the request must not, or can't, be answered here.
#[inline(always)]
pub fn reply<R: Reader + ?Sized, P: PortView + ?Sized>(
    frame: &R,
    parsed: &Parsed,
    port: &P,
    mac: [u8; 6],
) -> Option<Reply> {
    let requester: [u8; 6] = frame.read(6)?;
    // Nobody can be answered at a group's address.
    if is_group(requester) {
        return None;
    }
    let ip = usize::from(parsed.link_header_len);
    let end = usize::from(parsed.l3_end);
    let (question, to, len) = match parsed.kind {
        Kind::ArpRequest => (Question::Arp, arp_requester(frame, ip, port)?, ip + ARP_LEN),
        Kind::NeighborSolicitation => {
            let to = solicitor(frame, parsed, port, requester)?;
            (Question::NeighborSolicitation, to, ip + ADVERTISEMENT_LEN)
        }
        Kind::Echo4Request => {
            ensure(is_peer4(frame.read(ip + 12)?, port))?;
            ensure(fold(frame.sum::<16>(ip)? + frame.sum::<4>(ip + 16)?) == u16::MAX)?;
            (Question::Echo4, requester, end)
        }
        Kind::Echo6Request => {
            ensure(is_peer6(frame.read(ip + 8)?, port))?;
            (Question::Echo6, requester, end)
        }
        Kind::ArpReply | Kind::NeighborAdvertisement | Kind::Echo4Reply | Kind::Echo6Reply | Kind::Other => {
            return None;
        }
    };
    if !matches!(question, Question::Arp) {
        icmp_is_intact(frame, parsed, matches!(question, Question::Echo4))?;
    }
    Some(Reply { question, link_header_len: parsed.link_header_len, len: len as u16, to, from: mac })
}

/// The same as [`reply`] for the one request that there are most of, at a third of the cost: ICMP echo without VLAN tags
/// and IPv4 options, to an address and the MAC address of the port, in a frame that begins with `head` and whose datagram
/// ends at `end`.
#[inline(always)]
pub(crate) fn echo4_reply<R: Reader + ?Sized, P: PortView + ?Sized>(
    frame: &R,
    port: &P,
    head: &[u8; HEAD_LEN],
    end: usize,
) -> Option<Reply> {
    let [a, b, c, d, e, f, g, h, i, j, k, l, ..] = *head;
    let (own, requester) = ([a, b, c, d, e, f], [g, h, i, j, k, l]);
    ensure(!is_group(requester) && is_peer4([head[26], head[27], head[28], head[29]], port))?;
    // The code.
    ensure(head[ETHERNET_LEN + IPV4_LEN + 1] == 0)?;
    let header = frame.sum::<16>(ETHERNET_LEN)? + frame.sum::<4>(ETHERNET_LEN + 16)?;
    ensure(fold(header) == u16::MAX)?;
    ensure(fold(sum(frame, ETHERNET_LEN + IPV4_LEN, end)?) == u16::MAX)?;
    let link_header_len = ETHERNET_LEN as u16;
    Some(Reply { question: Question::Echo4, link_header_len, len: end as u16, to: requester, from: own })
}

/// Whether an ICMP or ICMPv6 message comes right behind an IP header without options, has code 0 and the right checksum.
#[inline(always)]
fn icmp_is_intact<R: Reader + ?Sized>(frame: &R, parsed: &Parsed, is_v4: bool) -> Option<()> {
    let (ip, end) = (usize::from(parsed.link_header_len), usize::from(parsed.l3_end));
    let icmp = ip + if is_v4 { IPV4_LEN } else { IPV6_LEN };
    ensure(usize::from(parsed.l4) == icmp)?;
    let [code] = frame.read(icmp + 1)?;
    ensure(code == 0)?;
    let pseudo_header = if is_v4 {
        0
    } else {
        // RFC 8200, 8.1: addresses, length of the message, its protocol.
        let addresses = frame.sum::<16>(ip + 8)? + frame.sum::<16>(ip + 24)?;
        let len = end.checked_sub(icmp)? as u16;
        addresses + u64::from(len.to_be()) + u64::from(u16::from(ICMP6).to_be())
    };
    ensure(fold(pseudo_header + sum(frame, icmp, end)?) == u16::MAX)
}

#[inline(always)]
const fn is_group(mac: [u8; 6]) -> bool {
    mac[0] & 1 != 0
}

/// `Some` if the condition holds.
#[inline(always)]
fn ensure(condition: bool) -> Option<()> {
    condition.then_some(())
}

/// Whether an IPv4 address can be that of a single other host (RFC 1122, 3.2.1.3).
#[inline(always)]
fn is_peer4<P: PortView + ?Sized>(address: [u8; 4], port: &P) -> bool {
    !matches!(address[0], 0 | 127 | 224..) && port.v4(address) == 0
}

/// Whether an IPv6 address can be that of a single other host (RFC 4291, 2.5 and 2.7).
#[inline(always)]
fn is_peer6<P: PortView + ?Sized>(address: [u8; 16], port: &P) -> bool {
    address[0] != 0xff && address != [0; 16] && address != LOOPBACK && !port.owns_v6(address)
}

/// Whom an ARP request is answered to.
#[inline(always)]
fn arp_requester<R: Reader + ?Sized, P: PortView + ?Sized>(
    frame: &R,
    start: usize,
    port: &P,
) -> Option<[u8; 6]> {
    let mac: [u8; 6] = frame.read(start + 8)?;
    let sender: [u8; 4] = frame.read(start + 14)?;
    // Without a sender it is a probe (RFC 5227, 2.1.1).
    let answered = !is_group(mac) && mac != [0; 6] && (sender == [0; 4] || is_peer4(sender, port));
    answered.then_some(mac)
}

/// Whom a neighbour solicitation is answered to.
#[inline(always)]
fn solicitor<R: Reader + ?Sized, P: PortView + ?Sized>(
    frame: &R,
    parsed: &Parsed,
    port: &P,
    requester: [u8; 6],
) -> Option<[u8; 6]> {
    ensure(parsed.hop_limit == ON_LINK)?;
    let ip = usize::from(parsed.link_header_len);
    let options = ip + IPV6_LEN + NDP_LEN;
    let mut named = None;
    match usize::from(parsed.l3_end).checked_sub(options)? {
        0 => {}
        OPTION_LEN => link_address(frame, options, &mut named)?,
        // Systems that check for loops of their own solicitations add a nonce (RFC 7527).
        len if len == 2 * OPTION_LEN => {
            link_address(frame, options, &mut named)?;
            link_address(frame, options + OPTION_LEN, &mut named)?;
        }
        _ => return None,
    }
    let source: [u8; 16] = frame.read(ip + 8)?;
    let to = if source == [0; 16] {
        // Somebody checks whether the address is free (RFC 4862, 5.4): told to everybody.
        // It was sent to the target or to its group.
        let [destination] = frame.read(ip + 24)?;
        ensure(named.is_none() && destination == 0xff)?;
        ALL_NODES_MAC
    } else {
        ensure(is_peer6(source, port))?;
        named.unwrap_or(requester)
    };
    Some(to)
}

/// Looks at one option of eight bytes; `None` when it has another length, or an address of no single station.
#[inline(always)]
fn link_address<R: Reader + ?Sized>(frame: &R, at: usize, named: &mut Option<[u8; 6]>) -> Option<()> {
    let [kind, len, mac @ ..]: [u8; OPTION_LEN] = frame.read(at)?;
    ensure(len == 1)?;
    if kind == SOURCE_LINK_ADDRESS {
        ensure(!is_group(mac) && mac != [0; 6])?;
        *named = Some(mac);
    }
    Some(())
}

impl Reply {
    /// What was asked.
    #[inline(always)]
    #[must_use]
    pub const fn question(&self) -> Question {
        self.question
    }

    /// The length of the reply's frame in bytes. The frame has to be brought to this length before
    /// [`write`](Self::write): Ethernet padding isn't sent back, and an advertisement can be longer than what it answers.
    #[inline(always)]
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len as usize
    }

    /// Never: a reply has at least an Ethernet header.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The counter of requests answered.
    #[inline(always)]
    #[must_use]
    pub const fn answered(&self) -> Counter {
        match self.question {
            Question::Arp => Counter::AnsweredArp,
            Question::NeighborSolicitation => Counter::AnsweredNeighborSolicitation,
            Question::Echo4 => Counter::AnsweredEcho4,
            Question::Echo6 => Counter::AnsweredEcho6,
        }
    }

    /// The counter of the same request when it goes to the driver after all.
    #[inline(always)]
    #[must_use]
    pub const fn left_to_driver(&self) -> Counter {
        match self.question {
            Question::Arp => Counter::DriverArpRequest,
            Question::NeighborSolicitation => Counter::DriverNeighborSolicitation,
            Question::Echo4 => Counter::DriverEcho4Request,
            Question::Echo6 => Counter::DriverEcho6Request,
        }
    }

    /// Who asks, for a limit of answers per source: two words as they lie in memory, which are the IPv6 address, or the
    /// IPv4 address mapped into one (RFC 4291, 2.5.5.2). A station that has no address yet is told by its MAC address, in
    /// the last six bytes.
    ///
    /// `None` when `frame` isn't the request.
    #[inline(always)]
    pub fn source<R: Reader + ?Sized>(&self, frame: &R) -> Option<[u64; 2]> {
        let start = usize::from(self.link_header_len);
        let source = match self.question {
            Question::Arp => mapped(frame, start + 14)?,
            Question::Echo4 => mapped(frame, start + 12)?,
            Question::NeighborSolicitation | Question::Echo6 => {
                [word(frame, start + 8)?, word(frame, start + 16)?]
            }
        };
        if source != [0; 2] && source != MAPPED_NONE {
            return Some(source);
        }
        let [a, b, c, d, e, f] = frame.read(6)?;
        Some([0, u64::from_ne_bytes([0, 0, a, b, c, d, e, f])])
    }

    /// Writes the reply over the request. `None` when the frame is shorter than [`len`](Self::len), which leaves it as it
    /// is.
    #[inline(always)]
    pub fn write<W: Writer + ?Sized>(&self, frame: &mut W) -> Option<()> {
        ensure(frame.contains(self.len()))?;
        let start = usize::from(self.link_header_len);
        match self.question {
            Question::Arp => self.write_arp(frame, start)?,
            Question::NeighborSolicitation => self.write_advertisement(frame, start)?,
            Question::Echo4 => write_echo4(frame, start)?,
            Question::Echo6 => write_echo6(frame, start)?,
        }
        frame.write(0, self.to)?;
        frame.write(6, self.from)
    }

    #[inline(always)]
    fn write_arp<W: Writer + ?Sized>(&self, frame: &mut W, start: usize) -> Option<()> {
        let sender: [u8; 4] = frame.read(start + 14)?;
        let target: [u8; 4] = frame.read(start + 24)?;
        frame.write(start + 6, ARP_REPLY)?;
        frame.write(start + 8, self.from)?;
        frame.write(start + 14, target)?;
        frame.write(start + 18, self.to)?;
        frame.write(start + 24, sender)
    }

    #[inline(always)]
    fn write_advertisement<W: Writer + ?Sized>(&self, frame: &mut W, start: usize) -> Option<()> {
        let icmp = start + IPV6_LEN;
        let asker: [u8; 16] = frame.read(start + 8)?;
        let target: [u8; 16] = frame.read(icmp + 8)?;
        let (destination, flags) =
            if asker == [0; 16] { (ALL_NODES, OVERRIDE) } else { (asker, SOLICITED | OVERRIDE) };
        let len = (NDP_LEN + OPTION_LEN) as u8;
        frame.write(start, [0x60, 0, 0, 0, 0, len, ICMP6, ON_LINK])?;
        frame.write(start + 8, target)?;
        frame.write(start + 24, destination)?;
        frame.write(icmp, ADVERTISEMENT)?;
        frame.write(icmp + 2, [0; 2])?;
        frame.write(icmp + 4, [flags, 0, 0, 0])?;
        frame.write(icmp + NDP_LEN, TARGET_LINK_ADDRESS)?;
        frame.write(icmp + NDP_LEN + 2, self.from)?;
        // All of it is a multiple of four bytes, the pseudo-header's addresses in front included.
        let message = frame.sum::<16>(icmp)? + frame.sum::<16>(icmp + 16)?;
        let addresses = frame.sum::<16>(start + 8)? + frame.sum::<16>(start + 24)?;
        let rest = u64::from(u16::from(len).to_be()) + u64::from(u16::from(ICMP6).to_be());
        frame.write(icmp + 2, (!fold(message + addresses + rest)).to_ne_bytes())
    }
}

#[inline(always)]
fn word<R: Reader + ?Sized>(frame: &R, at: usize) -> Option<u64> {
    frame.read(at).map(u64::from_ne_bytes)
}

/// The IPv4 address at `at` as an IPv6 address.
#[inline(always)]
fn mapped<R: Reader + ?Sized>(frame: &R, at: usize) -> Option<[u64; 2]> {
    let [a, b, c, d] = frame.read(at)?;
    Some([0, u64::from_ne_bytes([0, 0, 0xff, 0xff, a, b, c, d])])
}

/// The unspecified IPv4 address, mapped.
const MAPPED_NONE: [u64; 2] = [0, u64::from_ne_bytes([0, 0, 0xff, 0xff, 0, 0, 0, 0])];

#[inline(always)]
fn write_echo4<W: Writer + ?Sized>(frame: &mut W, ip: usize) -> Option<()> {
    // Swapping the addresses doesn't change the sum.
    let source: [u8; 4] = frame.read(ip + 12)?;
    let own: [u8; 4] = frame.read(ip + 16)?;
    frame.write(ip + 12, own)?;
    frame.write(ip + 16, source)?;
    let [lifetime, protocol, high, low] = frame.read(ip + 8)?;
    // In the machine's order: the sum comes out in the order that the words came in (RFC 1071, 2).
    let old = u16::from_ne_bytes([lifetime, protocol]);
    let new = u16::from_ne_bytes([HOP_LIMIT, protocol]);
    let [high, low] = updated(u16::from_ne_bytes([high, low]), old, new).to_ne_bytes();
    frame.write(ip + 8, [HOP_LIMIT, protocol, high, low])?;
    turn(frame, ip + IPV4_LEN, ECHO4_REPLY)
}

#[inline(always)]
fn write_echo6<W: Writer + ?Sized>(frame: &mut W, ip: usize) -> Option<()> {
    let source: [u8; 16] = frame.read(ip + 8)?;
    let own: [u8; 16] = frame.read(ip + 24)?;
    frame.write(ip + 7, [HOP_LIMIT])?;
    frame.write(ip + 8, own)?;
    frame.write(ip + 24, source)?;
    turn(frame, ip + IPV6_LEN, ECHO6_REPLY)
}

/// Writes type and code, and brings the checksum up to date.
#[inline(always)]
fn turn<W: Writer + ?Sized>(frame: &mut W, icmp: usize, [kind, code]: [u8; 2]) -> Option<()> {
    let [old_kind, old_code, high, low] = frame.read(icmp)?;
    let old = u16::from_ne_bytes([old_kind, old_code]);
    let new = u16::from_ne_bytes([kind, code]);
    let [high, low] = updated(u16::from_ne_bytes([high, low]), old, new).to_ne_bytes();
    frame.write(icmp, [kind, code, high, low])
}

/// How far a source may run ahead of its limit: as many answers as the limit allows in a second, at once.
const BURST_NS: u64 = 1_000_000_000;

/// Limits a source to one answer each `interval` ns in the long run, and a second's worth of them at once.
///
/// `due` is the source's state: when, by the same clock as `now`, its answers so far will have been worked off. Returns
/// the new one, or `None` when the source is over its limit and the state stays. It is a token bucket in one word (the
/// generic cell rate algorithm), so that it can be stored at once.
#[inline(always)]
#[must_use]
pub const fn admit(due: u64, now: u64, interval: u64) -> Option<u64> {
    let due = if due > now { due } else { now };
    if due - now + interval > BURST_NS { None } else { Some(due + interval) }
}
