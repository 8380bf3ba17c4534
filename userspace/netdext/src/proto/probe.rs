//! Echo requests of our own, and the stamp in them that recognises their replies.
//!
//! ```text
//!  | Ethernet | IPv4 or IPv6 | type, code, checksum, identifier, sequence | stamp (24 bytes) | 24, 25, 26 ... |
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netdext_abi::parse::{ETHERNET_LEN, ETHERTYPE_IPV4, ETHERTYPE_IPV6};

use super::bytes::{get, put, put_u16};
use super::checksum::{Sum, checksum};
use super::ndp::write_ipv6_header;
use super::{HOP_LIMIT, MacAddr, write_link_header};
use crate::dispatch::Timestamp;

const ICMP4: u8 = 1;
const ICMP6: u8 = 58;
const REQUEST4: u8 = 8;
const REQUEST6: u8 = 128;
const IPV4_LEN: usize = 20;
const IPV6_LEN: usize = 40;
const ECHO_LEN: usize = 8;
const DONT_FRAGMENT: u16 = 0x4000;

const MAGIC: [u8; 4] = *b"nxec";

/// The front of the payload of our echo requests. Numbers are big-endian, like all of the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Tells one run from another.
    pub token: u32,
    /// Counts the requests of the run; its low 16 bits are the sequence number.
    pub counter: u64,
    /// When the request was written.
    pub sent: Timestamp,
}

impl Stamp {
    /// Its length in bytes: the shortest payload.
    pub const LEN: usize = 24;

    /// The stamp at the front of `payload`, if there is one.
    pub fn read(payload: &[u8]) -> Option<Self> {
        let stamp = payload.first_chunk::<{ Self::LEN }>()?;
        (get(stamp, 0) == MAGIC).then(|| Self {
            token: u32::from_be_bytes(get(stamp, 4)),
            counter: u64::from_be_bytes(get(stamp, 8)),
            sent: Timestamp::from_nanos(u64::from_be_bytes(get(stamp, 16))),
        })
    }

    /// The sequence number of the request.
    pub const fn sequence(&self) -> u16 {
        self.counter as u16
    }

    fn write(&self, payload: &mut [u8]) {
        put(payload, 0, MAGIC);
        put(payload, 4, self.token.to_be_bytes());
        put(payload, 8, self.counter.to_be_bytes());
        put(payload, 16, self.sent.as_nanos().to_be_bytes());
    }
}

/// What our payloads hold behind the stamp: each byte its own place, the low 8 bits of it.
const FILLER: [u8; 256] = {
    let mut filler = [0; 256];
    let mut place = 0;
    while place < filler.len() {
        filler[place] = place as u8;
        place += 1;
    }
    filler
};

fn fill(payload: &mut [u8]) {
    for piece in payload.chunks_mut(FILLER.len()) {
        piece.copy_from_slice(&FILLER[..piece.len()]);
    }
}

/// Whether all that follows the stamp in `payload` is as it was sent.
pub fn is_intact(payload: &[u8]) -> bool {
    payload.chunks(FILLER.len()).enumerate().all(|(number, piece)| {
        let from = if number == 0 { Stamp::LEN.min(piece.len()) } else { 0 };
        piece[from..] == FILLER[from..piece.len()]
    })
}

/// From which of our addresses to which of a neighbour's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Path {
    /// Over IPv4.
    V4 {
        /// Our address.
        source: Ipv4Addr,
        /// The neighbour's.
        destination: Ipv4Addr,
    },
    /// Over IPv6.
    V6 {
        /// Our address.
        source: Ipv6Addr,
        /// The neighbour's.
        destination: Ipv6Addr,
    },
}

impl Path {
    /// Between these; `None` if they are not of one family.
    pub const fn between(source: IpAddr, destination: IpAddr) -> Option<Self> {
        match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => Some(Self::V4 { source, destination }),
            (IpAddr::V6(source), IpAddr::V6(destination)) => Some(Self::V6 { source, destination }),
            _ => None,
        }
    }

    /// Bytes of IP and ICMP header before the payload.
    pub const fn overhead(&self) -> usize {
        match self {
            Self::V4 { .. } => IPV4_LEN + ECHO_LEN,
            Self::V6 { .. } => IPV6_LEN + ECHO_LEN,
        }
    }

    /// The neighbour's address.
    pub const fn destination(&self) -> IpAddr {
        match *self {
            Self::V4 { destination, .. } => IpAddr::V4(destination),
            Self::V6 { destination, .. } => IpAddr::V6(destination),
        }
    }
}

/// An echo request to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EchoRequest {
    /// Our MAC address.
    pub source_mac: MacAddr,
    /// The neighbour's.
    pub destination_mac: MacAddr,
    /// Between which addresses.
    pub path: Path,
    /// Distinguishes our requests from those of other programs on the same addresses.
    pub identifier: u16,
    /// Bytes of payload, at least [`Stamp::LEN`].
    pub payload_len: usize,
}

impl EchoRequest {
    /// Bytes of link header.
    pub const LINK_HEADER_LEN: usize = ETHERNET_LEN;

    /// The length of the frame in bytes.
    pub const fn frame_len(&self) -> usize {
        ETHERNET_LEN + self.path.overhead() + self.payload_len
    }

    /// Writes the frame.
    ///
    /// # Panics
    ///
    /// If `frame` is not [`frame_len`](Self::frame_len) bytes long, or the payload is shorter than a stamp.
    pub fn write(&self, stamp: &Stamp, frame: &mut [u8]) {
        assert_eq!(frame.len(), self.frame_len());
        let (ethertype, kind) = match self.path {
            Path::V4 { .. } => (ETHERTYPE_IPV4, REQUEST4),
            Path::V6 { .. } => (ETHERTYPE_IPV6, REQUEST6),
        };
        write_link_header(frame, self.destination_mac, self.source_mac, ethertype);
        let (header, message) = frame[ETHERNET_LEN..].split_at_mut(self.path.overhead() - ECHO_LEN);
        put(message, 0, [kind, 0, 0, 0]);
        put_u16(message, 4, self.identifier);
        put_u16(message, 6, stamp.sequence());
        fill(&mut message[ECHO_LEN..]);
        stamp.write(&mut message[ECHO_LEN..]);
        let pseudo = match self.path {
            Path::V4 { source, destination } => {
                write_ipv4_header(header, message.len(), source, destination);
                Sum::ZERO
            }
            Path::V6 { source, destination } => {
                write_ipv6_header(header, message.len(), HOP_LIMIT, source, destination);
                Sum::pseudo_header6(source.octets(), destination.octets(), ICMP6, message.len())
            }
        };
        let sum = pseudo.data(message).finish();
        put_u16(message, 2, sum);
    }
}

fn write_ipv4_header(header: &mut [u8], payload_len: usize, source: Ipv4Addr, destination: Ipv4Addr) {
    put(header, 0, [0x45, 0]);
    put_u16(header, 2, (IPV4_LEN + payload_len) as u16);
    // A datagram that must not be fragmented needs no identification (RFC 6864, 4.1).
    put_u16(header, 4, 0);
    put_u16(header, 6, DONT_FRAGMENT);
    put(header, 8, [HOP_LIMIT, ICMP4, 0, 0]);
    put(header, 12, source.octets());
    put(header, 16, destination.octets());
    let sum = checksum(header);
    put_u16(header, 10, sum);
}
