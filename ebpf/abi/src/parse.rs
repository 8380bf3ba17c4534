//! Frame headers, as far as steering and the built-in drivers need them.
//!
//! ```text
//!  0            link_header_len        l4                    l3_end        end of the frame
//!  | Ethernet | VLAN tags (0..2) | IP header, options | ICMP ... | padding |
//! ```
//! Lengths come from the sender, so every one is checked against the frame before it is used. Checksums, hop limits
//! and options aren't judged here: a driver does that on what it is given.

use crate::reader::Reader;

/// Ethernet header without tags.
pub const ETHERNET_LEN: usize = 14;
/// One 802.1Q or 802.1ad tag.
pub const VLAN_TAG_LEN: usize = 4;
/// VLAN tags that are followed: one, or two with QinQ. A third leaves the frame [`Kind::Other`].
pub const MAX_VLAN_TAGS: u8 = 2;
/// IPv6 extension headers that are followed; RFC 8200 section 4.1 names six worth of recommended order.
pub const MAX_EXTENSIONS: usize = 6;
/// IPv4 (RFC 894).
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// ARP (RFC 826).
pub const ETHERTYPE_ARP: u16 = 0x0806;
/// Customer VLAN tag (802.1Q).
pub const ETHERTYPE_VLAN: u16 = 0x8100;
/// IPv6 (RFC 2464).
pub const ETHERTYPE_IPV6: u16 = 0x86dd;
/// Service VLAN tag (802.1ad, QinQ).
pub const ETHERTYPE_QINQ: u16 = 0x88a8;

/// The number in a tag's control information (802.1Q); the rest is priority.
const VLAN_NUMBER: u16 = 0x0fff;
const ARP_LEN: usize = 28;
const ARP_ETHERNET: u16 = 1;
const ARP_REQUEST: u16 = 1;
const ARP_REPLY: u16 = 2;
pub(crate) const IPV4_LEN: usize = 20;
/// More-fragments flag and fragment offset (RFC 791).
pub(crate) const IPV4_FRAGMENT: u16 = 0x3fff;
pub(crate) const IPV6_LEN: usize = 40;
/// Fragment offset and more-fragments flag (RFC 8200, 4.5).
const IPV6_FRAGMENT: u16 = 0xfff9;
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION_OPTIONS: u8 = 60;
/// One bit for each number of an extension header: one comparison instead of four keeps the paths through the loop,
/// which the verifier follows one by one, few.
const EXTENSIONS: u64 = (1 << HOP_BY_HOP) | (1 << ROUTING) | (1 << FRAGMENT) | (1 << DESTINATION_OPTIONS);
pub(crate) const ICMP4: u8 = 1;
pub(crate) const ICMP6: u8 = 58;
const TCP: u8 = 6;
const UDP: u8 = 17;
/// Source and destination port, at the beginning of both TCP and UDP headers.
const PORTS_LEN: usize = 4;
pub(crate) const ECHO_LEN: usize = 8;
/// Neighbour solicitation and advertisement up to the options (RFC 4861, 4.3 and 4.4).
pub(crate) const NDP_LEN: usize = 24;
pub(crate) const ECHO4_REPLY: u8 = 0;
pub(crate) const ECHO4_REQUEST: u8 = 8;
pub(crate) const ECHO6_REQUEST: u8 = 128;
pub(crate) const ECHO6_REPLY: u8 = 129;
pub(crate) const NEIGHBOR_SOLICITATION: u8 = 135;
pub(crate) const NEIGHBOR_ADVERTISEMENT: u8 = 136;

/// What a frame is, as far as a driver cares.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// ARP request, Ethernet and IPv4.
    ArpRequest,
    /// ARP reply, Ethernet and IPv4.
    ArpReply,
    /// ICMPv6 neighbour solicitation.
    NeighborSolicitation,
    /// ICMPv6 neighbour advertisement.
    NeighborAdvertisement,
    /// ICMP echo request.
    Echo4Request,
    /// ICMP echo reply.
    Echo4Reply,
    /// ICMPv6 echo request.
    Echo6Request,
    /// ICMPv6 echo reply.
    Echo6Reply,
    /// Anything else that is well-formed as far as it was read, and every fragment.
    Other,
}

impl Kind {
    #[inline(always)]
    const fn of_number(number: u8) -> Self {
        match number {
            0 => Self::ArpRequest,
            1 => Self::ArpReply,
            2 => Self::NeighborSolicitation,
            3 => Self::NeighborAdvertisement,
            4 => Self::Echo4Request,
            5 => Self::Echo4Reply,
            6 => Self::Echo6Request,
            7 => Self::Echo6Reply,
            _ => Self::Other,
        }
    }
}

/// Why a frame can't be parsed; each has its [`Counter`](crate::Counter) of the same name, where it is explained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "said once, at the counter of the same name")]
pub enum Malformed {
    TruncatedEthernet,
    TruncatedVlan,
    TruncatedArp,
    BadArpLengths,
    TruncatedIpv4,
    BadIpv4Version,
    BadIpv4HeaderLength,
    Ipv4LengthTooShort,
    Ipv4LengthBeyondFrame,
    TruncatedIpv6,
    BadIpv6Version,
    Ipv6LengthBeyondFrame,
    TruncatedExtension,
    ExtensionChainTooLong,
    TruncatedIcmp4,
    TruncatedIcmp6,
    DatagramTooLong,
}

/// A network-layer address, in network order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// The frame has none that is understood.
    None,
    /// IPv4.
    V4([u8; 4]),
    /// IPv6.
    V6([u8; 16]),
}

/// The headers of a well-formed frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parsed {
    /// What the frame is.
    pub kind: Kind,
    /// The inner EtherType, after the VLAN tags.
    pub ethertype: u16,
    /// VLAN tags before it: 0, 1 or 2.
    pub vlan_tags: u8,
    /// IPv4 time to live or IPv6 hop limit; 0 for other EtherTypes.
    pub hop_limit: u8,
    /// Whether this is a piece of a datagram. An IPv6 fragment header with neither offset nor more-fragments
    /// (RFC 6946, "atomic") carries a whole one and doesn't count.
    pub fragment: bool,
    /// Bytes of Ethernet header and VLAN tags: 14, 18 or 22. The network header begins here.
    pub link_header_len: u16,
    /// Offset of the ICMP or ICMPv6 header in the frame; 0 unless the kind is an echo or neighbour discovery.
    pub l4: u16,
    /// Offset of the end of the datagram, by its own length field; Ethernet padding comes after. 0 when the EtherType
    /// isn't ARP, IPv4 or IPv6.
    pub l3_end: u16,
    /// The destination MAC address.
    pub link_destination: [u8; 6],
    /// The IP source; [`Address::None`] for ARP.
    pub source: Address,
    /// The IP destination; for ARP the target protocol address.
    pub destination: Address,
    /// IP protocol: what comes behind the IPv6 extension headers that were followed, or the one that wasn't. 0 without IP.
    pub protocol: u8,
    /// Offset of the four bytes of TCP or UDP ports; 0 in other protocols, in fragments, and where the datagram ends
    /// before them.
    pub ports: u16,
    /// The target of a neighbour solicitation or advertisement, else zeros.
    pub target: [u8; 16],
}

impl Parsed {
    /// The same, of a frame that is no [`Kind::Other`] and no fragment, and the verifier knows nothing of how it was found:
    /// the numbers are blurred, and the addresses read once more. What steering has no use for is left out: protocol and
    /// ports, and IP sources.
    #[inline(always)]
    pub(crate) fn anew<R: Reader + ?Sized>(&self, frame: &R) -> Option<Self> {
        let numbers = u64::from(self.l3_end)
            | u64::from(self.l4) << 16
            | u64::from(self.link_header_len) << 32
            | u64::from(self.hop_limit) << 48
            | (self.kind as u64) << 56;
        let numbers = frame.blurred(numbers, u64::from_ne_bytes(frame.read(0)?));
        let kind = Kind::of_number((numbers >> 56) as u8);
        let ip = frame.bounded((numbers >> 32) as usize & 0xffff);
        let l4 = frame.bounded((numbers >> 16) as usize & 0xffff);
        let v4 = |offset| frame.read(ip + offset).map(Address::V4);
        let mut target = [0; 16];
        let destination = match kind {
            Kind::ArpRequest | Kind::ArpReply => v4(24)?,
            Kind::Echo4Request | Kind::Echo4Reply => v4(16)?,
            Kind::Echo6Request | Kind::Echo6Reply => Address::V6(frame.read(ip + 24)?),
            Kind::NeighborSolicitation | Kind::NeighborAdvertisement => {
                target = frame.read(l4 + 8)?;
                Address::V6(frame.read(ip + 24)?)
            }
            Kind::Other => return None,
        };
        Some(Self {
            kind,
            ethertype: self.ethertype,
            vlan_tags: self.vlan_tags,
            hop_limit: (numbers >> 48) as u8,
            fragment: false,
            link_header_len: ip as u16,
            l4: l4 as u16,
            l3_end: numbers as u16,
            link_destination: self.link_destination,
            source: Address::None,
            destination,
            protocol: 0,
            ports: 0,
            target,
        })
    }
}

/// A code or flags of 16 bits, to be compared. What becomes a length or an offset comes by [`Reader::number`].
#[inline(always)]
#[expect(clippy::disallowed_methods, reason = "the one place for codes")]
pub(crate) const fn code(bytes: [u8; 2]) -> u16 {
    u16::from_be_bytes(bytes)
}

/// An Ethernet header with its VLAN tags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// The inner EtherType, after the VLAN tags.
    pub ethertype: u16,
    /// VLAN tags before it: 0, 1 or 2.
    pub vlan_tags: u8,
    /// VLAN number of the outer tag; 0 without one.
    pub vlan: u16,
    destination: [u8; 6],
    len: usize,
}

impl Link {
    #[inline(always)]
    const fn parsed(&self) -> Parsed {
        Parsed {
            kind: Kind::Other,
            ethertype: self.ethertype,
            vlan_tags: self.vlan_tags,
            hop_limit: 0,
            fragment: false,
            link_header_len: self.len as u16,
            l4: 0,
            l3_end: 0,
            link_destination: self.destination,
            source: Address::None,
            destination: Address::None,
            protocol: 0,
            ports: 0,
            target: [0; 16],
        }
    }
}

/// Reads the headers of an Ethernet frame (without its frame check sequence).
///
/// # Errors
///
/// [`Malformed`] when a header is cut short or contradicts itself. Frames of kinds that aren't understood are no error.
#[inline(always)]
pub fn parse<R: Reader + ?Sized>(frame: &R) -> Result<Parsed, Malformed> {
    parse_behind(frame, &link_header(frame)?)
}

/// Reads the headers behind the link header.
///
/// # Errors
///
/// As [`parse`].
#[inline(always)]
pub fn parse_behind<R: Reader + ?Sized>(frame: &R, link: &Link) -> Result<Parsed, Malformed> {
    match link.ethertype {
        ETHERTYPE_IPV4 => ipv4(frame, link),
        ETHERTYPE_IPV6 => ipv6(frame, link),
        ETHERTYPE_ARP => arp(frame, link),
        _ => Ok(link.parsed()),
    }
}

/// Reads the Ethernet header and the VLAN tags.
///
/// # Errors
///
/// [`Malformed`] when the frame ends inside them.
#[inline(always)]
pub fn link_header<R: Reader + ?Sized>(frame: &R) -> Result<Link, Malformed> {
    let header: [u8; ETHERNET_LEN] = frame.read(0).ok_or(Malformed::TruncatedEthernet)?;
    let mut link = Link {
        destination: [header[0], header[1], header[2], header[3], header[4], header[5]],
        ethertype: code([header[12], header[13]]),
        vlan_tags: 0,
        vlan: 0,
        len: ETHERNET_LEN,
    };
    while link.vlan_tags < MAX_VLAN_TAGS && matches!(link.ethertype, ETHERTYPE_VLAN | ETHERTYPE_QINQ) {
        // The tag's own EtherType is behind us: control information, then the next EtherType.
        let tag: [u8; VLAN_TAG_LEN] = frame.read(link.len).ok_or(Malformed::TruncatedVlan)?;
        if link.vlan_tags == 0 {
            link.vlan = code([tag[0], tag[1]]) & VLAN_NUMBER;
        }
        link.ethertype = code([tag[2], tag[3]]);
        link.vlan_tags += 1;
        link.len += VLAN_TAG_LEN;
    }
    Ok(link)
}

#[inline(always)]
fn arp<R: Reader + ?Sized>(frame: &R, link: &Link) -> Result<Parsed, Malformed> {
    let message: [u8; ARP_LEN] = frame.read(link.len).ok_or(Malformed::TruncatedArp)?;
    let mut parsed = link.parsed();
    parsed.l3_end = (link.len + ARP_LEN) as u16;
    let hardware = code([message[0], message[1]]);
    let protocol = code([message[2], message[3]]);
    if hardware != ARP_ETHERNET || protocol != ETHERTYPE_IPV4 {
        return Ok(parsed);
    }
    if message[4] != 6 || message[5] != 4 {
        return Err(Malformed::BadArpLengths);
    }
    parsed.kind = match code([message[6], message[7]]) {
        ARP_REQUEST => Kind::ArpRequest,
        ARP_REPLY => Kind::ArpReply,
        _ => Kind::Other,
    };
    parsed.destination = Address::V4([message[24], message[25], message[26], message[27]]);
    Ok(parsed)
}

/// The end of a datagram that begins at `start`, after checking that the frame reaches that far.
#[inline(always)]
fn datagram_end<R: Reader + ?Sized>(
    frame: &R,
    start: usize,
    len: usize,
    beyond: Malformed,
) -> Result<usize, Malformed> {
    let end = start + len;
    if !frame.contains(end) {
        return Err(beyond);
    }
    if end > usize::from(u16::MAX) {
        return Err(Malformed::DatagramTooLong);
    }
    Ok(end)
}

#[inline(always)]
fn ipv4<R: Reader + ?Sized>(frame: &R, link: &Link) -> Result<Parsed, Malformed> {
    let header: [u8; IPV4_LEN] = frame.read(link.len).ok_or(Malformed::TruncatedIpv4)?;
    if header[0] >> 4 != 4 {
        return Err(Malformed::BadIpv4Version);
    }
    let header_len = usize::from(header[0] & 0x0f) * 4;
    if header_len < IPV4_LEN {
        return Err(Malformed::BadIpv4HeaderLength);
    }
    let total_len = frame.number([header[2], header[3]]);
    if total_len < header_len {
        return Err(Malformed::Ipv4LengthTooShort);
    }
    let end = datagram_end(frame, link.len, total_len, Malformed::Ipv4LengthBeyondFrame)?;

    let mut parsed = link.parsed();
    parsed.l3_end = end as u16;
    parsed.hop_limit = header[8];
    parsed.fragment = code([header[6], header[7]]) & IPV4_FRAGMENT != 0;
    parsed.source = Address::V4([header[12], header[13], header[14], header[15]]);
    parsed.destination = Address::V4([header[16], header[17], header[18], header[19]]);
    parsed.protocol = header[9];
    if parsed.fragment {
        return Ok(parsed);
    }
    let l4 = link.len + header_len;
    if parsed.protocol != ICMP4 {
        parsed.ports = ports(parsed.protocol, l4, end);
        return Ok(parsed);
    }
    if l4 + ECHO_LEN > end {
        return Err(Malformed::TruncatedIcmp4);
    }
    let [icmp_type] = frame.read(l4).ok_or(Malformed::TruncatedIcmp4)?;
    parsed.kind = match icmp_type {
        ECHO4_REQUEST => Kind::Echo4Request,
        ECHO4_REPLY => Kind::Echo4Reply,
        _ => return Ok(parsed),
    };
    parsed.l4 = l4 as u16;
    Ok(parsed)
}

#[inline(always)]
fn ipv6<R: Reader + ?Sized>(frame: &R, link: &Link) -> Result<Parsed, Malformed> {
    let header: [u8; IPV6_LEN] = frame.read(link.len).ok_or(Malformed::TruncatedIpv6)?;
    if header[0] >> 4 != 6 {
        return Err(Malformed::BadIpv6Version);
    }
    let payload = link.len + IPV6_LEN;
    let payload_len = frame.number([header[4], header[5]]);
    let end = datagram_end(frame, payload, payload_len, Malformed::Ipv6LengthBeyondFrame)?;

    let mut parsed = link.parsed();
    parsed.l3_end = end as u16;
    parsed.hop_limit = header[7];
    let (mut source, mut destination) = ([0; 16], [0; 16]);
    source.copy_from_slice(&header[8..24]);
    parsed.source = Address::V6(source);
    destination.copy_from_slice(&header[24..40]);
    parsed.destination = Address::V6(destination);

    let chain = extensions(frame, header[6], payload, end)?;
    parsed.fragment = chain.fragment;
    parsed.protocol = chain.last;
    if chain.icmp {
        icmp6(frame, &mut parsed, &chain, end)?;
    } else if !chain.fragment {
        parsed.ports = ports(chain.last, chain.offset, end);
    }
    Ok(parsed)
}

/// [`Parsed::ports`] of a datagram that isn't a fragment.
#[inline(always)]
pub(crate) const fn ports(protocol: u8, l4: usize, end: usize) -> u16 {
    if (protocol == TCP || protocol == UDP) && l4 + PORTS_LEN <= end { l4 as u16 } else { 0 }
}

/// Whether a number is that of an extension header that is followed.
#[inline(always)]
pub(crate) const fn is_extension(next: u8) -> bool {
    next <= DESTINATION_OPTIONS && (EXTENSIONS >> next) & 1 != 0
}

/// Where the extension headers lead.
struct Chain {
    /// Offset of what comes after them.
    offset: usize,
    /// The number of that, or of the extension header that can't be followed.
    last: u8,
    /// Whether that is an ICMPv6 header meant for this hop.
    icmp: bool,
    /// A piece of a datagram.
    fragment: bool,
    /// A fragment header was there, atomic or not.
    fragment_header: bool,
}

#[inline(always)]
fn extensions<R: Reader + ?Sized>(
    frame: &R,
    first: u8,
    start: usize,
    end: usize,
) -> Result<Chain, Malformed> {
    let mut next = first;
    let mut chain =
        Chain { offset: start, last: first, icmp: false, fragment: false, fragment_header: false };
    for _ in 0..=MAX_EXTENSIONS {
        if !is_extension(next) {
            chain.icmp = next == ICMP6;
            return Ok(chain);
        }
        // Every one of them begins with the next header's number and is at least eight bytes long.
        if chain.offset + 8 > end {
            return Err(Malformed::TruncatedExtension);
        }
        let head: [u8; 4] = frame.read(chain.offset).ok_or(Malformed::TruncatedExtension)?;
        let mut len = 8 + usize::from(head[1]) * 8;
        if next == FRAGMENT {
            if chain.fragment_header {
                // A whole datagram in fragment headers twice: nobody sends it (RFC 8200, 4.1), the kernel may have it.
                return Ok(chain);
            }
            len = 8;
            chain.fragment_header = true;
            if code([head[2], head[3]]) & IPV6_FRAGMENT != 0 {
                chain.fragment = true;
                // Every piece names what the whole begins with.
                chain.last = head[0];
                return Ok(chain);
            }
        }
        if next == ROUTING && head[3] != 0 {
            // Segments left: the destination address isn't the final one.
            return Ok(chain);
        }
        chain.offset += len;
        if chain.offset > end {
            return Err(Malformed::TruncatedExtension);
        }
        next = head[0];
        chain.last = next;
    }
    Err(Malformed::ExtensionChainTooLong)
}

#[inline(always)]
fn icmp6<R: Reader + ?Sized>(
    frame: &R,
    parsed: &mut Parsed,
    chain: &Chain,
    end: usize,
) -> Result<(), Malformed> {
    let l4 = chain.offset;
    if l4 + ECHO_LEN > end {
        return Err(Malformed::TruncatedIcmp6);
    }
    let [icmp_type] = frame.read(l4).ok_or(Malformed::TruncatedIcmp6)?;
    let kind = match icmp_type {
        ECHO6_REQUEST => Kind::Echo6Request,
        ECHO6_REPLY => Kind::Echo6Reply,
        NEIGHBOR_SOLICITATION => Kind::NeighborSolicitation,
        NEIGHBOR_ADVERTISEMENT => Kind::NeighborAdvertisement,
        _ => return Ok(()),
    };
    if matches!(kind, Kind::NeighborSolicitation | Kind::NeighborAdvertisement) {
        if chain.fragment_header {
            // RFC 6980: neighbour discovery with a fragment header must be ignored.
            return Ok(());
        }
        if l4 + NDP_LEN > end {
            return Err(Malformed::TruncatedIcmp6);
        }
        parsed.target = frame.read(l4 + 8).ok_or(Malformed::TruncatedIcmp6)?;
    }
    parsed.kind = kind;
    parsed.l4 = l4 as u16;
    Ok(())
}
