//! The generated frames: a template a size, and what differs from frame to frame.
//!
//! ```text
//!  | Ethernet | IPv4 or IPv6 | UDP, or ICMP echo request | "nxgn" | sequence number, 8 bytes | 12, 13, 14 ... |
//!                              ^ flow: UDP source port, or ICMP identifier
//! ```

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use netdext_abi::generate::{FLOW_BASE, STAMP_LEN, STAMP_MAGIC, TEMPLATE_LEN, Template as KernelTemplate};
use netdext_abi::parse::{ETHERNET_LEN, ETHERTYPE_IPV4, ETHERTYPE_IPV6};

use super::config::FCS_LEN;
use netdext::proto::MacAddr;
use netdext::proto::checksum::{Sum, checksum};

/// The discard service (RFC 863): where nobody answers.
const DISCARD_PORT: u16 = 9;
const HOP_LIMIT: u8 = 64;
const UDP: u8 = 17;
const ICMP4: u8 = 1;
const ICMP6: u8 = 58;
const ECHO4_REQUEST: u8 = 8;
const ECHO6_REQUEST: u8 = 128;
const IPV4_LEN: usize = 20;
const IPV6_LEN: usize = 40;
/// Of UDP and of an echo request alike.
const L4_LEN: usize = 8;
const DONT_FRAGMENT: u16 = 0x4000;

/// What the generator's frames are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FrameKind {
    /// UDP datagrams to port 9, discard.
    #[default]
    Udp,
    /// ICMP or ICMPv6 echo requests.
    Echo,
}

impl FrameKind {
    /// The name as the command line has it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Echo => "echo",
        }
    }
}

impl fmt::Display for FrameKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A word that names no kind of frame.
#[derive(Debug, thiserror::Error)]
#[error("'{0}' is no kind of frame: udp or echo")]
pub struct UnknownFrameKind(String);

impl FromStr for FrameKind {
    type Err = UnknownFrameKind;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        [Self::Udp, Self::Echo]
            .into_iter()
            .find(|kind| kind.name() == word)
            .ok_or_else(|| UnknownFrameKind(word.to_owned()))
    }
}

/// From where to where the frames go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoints {
    /// The sender's MAC address.
    pub source_mac: MacAddr,
    /// The receiver's.
    pub destination_mac: MacAddr,
    /// The sender's IP address.
    pub source: IpAddr,
    /// The receiver's; of the same family.
    pub target: IpAddr,
}

/// Why there is no such frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TemplateError {
    /// No room for the headers and the stamp.
    #[error(
        "a frame of {size} bytes has no room for the headers and a sequence number: give {least} or more"
    )]
    TooShort {
        /// What was asked for, FCS included.
        size: usize,
        /// The least, FCS included.
        least: usize,
    },
    /// The addresses are of two families.
    #[error("from {from} to {to}: both addresses have to be IPv4 or both IPv6")]
    Families {
        /// The source.
        from: IpAddr,
        /// The target.
        to: IpAddr,
    },
}

/// A frame with flow and sequence number left out: everything that is the same in all frames of a size.
#[derive(Clone, Debug)]
pub struct Template {
    bytes: Vec<u8>,
    kind: FrameKind,
    /// Where the UDP header or the ICMP message begins.
    l4: usize,
    /// Over what the checksum covers, with flow, sequence number and checksum itself zero.
    sum: Sum,
}

impl Template {
    /// The template for frames of `size` bytes, FCS included.
    ///
    /// # Errors
    ///
    /// [`TemplateError`].
    pub fn new(kind: FrameKind, ends: &Endpoints, size: usize) -> Result<Self, TemplateError> {
        let ip_len = match (ends.source, ends.target) {
            (IpAddr::V4(_), IpAddr::V4(_)) => IPV4_LEN,
            (IpAddr::V6(_), IpAddr::V6(_)) => IPV6_LEN,
            (from, to) => return Err(TemplateError::Families { from, to }),
        };
        let l4 = ETHERNET_LEN + ip_len;
        let least = l4 + L4_LEN + STAMP_LEN + FCS_LEN;
        if size < least {
            return Err(TemplateError::TooShort { size, least });
        }
        let mut bytes = vec![0; size - FCS_LEN];
        let l4_len = bytes.len() - l4;
        write_ip(&mut bytes, kind, ends, l4_len);
        write_l4(&mut bytes[l4..], kind, ends.source.is_ipv6());
        let message = &bytes[l4..];
        let sum = match (kind, ends.source, ends.target) {
            // ICMP over IPv4 has no pseudo-header.
            (FrameKind::Echo, IpAddr::V4(_), _) => Sum::ZERO,
            (_, IpAddr::V4(source), IpAddr::V4(target)) => {
                Sum::ZERO.data(&source.octets()).data(&target.octets()).word(UDP.into()).word(l4_len as u16)
            }
            (_, IpAddr::V6(source), IpAddr::V6(target)) => {
                let next = if kind == FrameKind::Udp { UDP } else { ICMP6 };
                Sum::pseudo_header6(source.octets(), target.octets(), next, l4_len)
            }
            (_, from, to) => return Err(TemplateError::Families { from, to }),
        }
        .data(message);
        Ok(Self { bytes, kind, l4, sum })
    }

    /// The length of the frames in bytes, without FCS.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether there is no frame: never.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// What is the same in all frames; flow, sequence number and checksum are zero.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What the traffic programs have to know to write the same frames, spread over so many flows.
    pub fn for_kernel(&self, flows: u32) -> KernelTemplate {
        let mut bytes = [0; TEMPLATE_LEN];
        let known = self.len().min(TEMPLATE_LEN);
        bytes[..known].copy_from_slice(&self.bytes[..known]);
        let ipv6 = if self.l4 == ETHERNET_LEN + IPV6_LEN { KernelTemplate::IPV6 } else { 0 };
        let udp = if self.kind == FrameKind::Udp { KernelTemplate::UDP } else { 0 };
        KernelTemplate { bytes, sum: self.sum.unfolded(), flows, flags: ipv6 | udp }
    }

    /// Writes the frame of this flow with this sequence number. Flows count from 0.
    ///
    /// # Panics
    ///
    /// If `frame` is not [`len`](Self::len) bytes long.
    pub fn write(&self, frame: &mut [u8], flow: u16, sequence: u64) {
        frame.copy_from_slice(&self.bytes);
        let message = &mut frame[self.l4..];
        let flow = (FLOW_BASE + flow).to_be_bytes();
        let stamp = sequence.to_be_bytes();
        message[L4_LEN + STAMP_MAGIC.len()..L4_LEN + STAMP_LEN].copy_from_slice(&stamp);
        let sum = self.sum.data(&flow).data(&stamp);
        match self.kind {
            FrameKind::Udp => {
                message[..2].copy_from_slice(&flow);
                // A sum of zero is sent as its other form: zero means that there is none (RFC 768).
                let sum = match sum.finish() {
                    0 => u16::MAX,
                    sum => sum,
                };
                message[6..8].copy_from_slice(&sum.to_be_bytes());
            }
            FrameKind::Echo => {
                let number = (sequence as u16).to_be_bytes();
                message[4..6].copy_from_slice(&flow);
                message[6..8].copy_from_slice(&number);
                let sum = sum.data(&number).finish();
                message[2..4].copy_from_slice(&sum.to_be_bytes());
            }
        }
    }
}

/// Ethernet and IP headers.
fn write_ip(frame: &mut [u8], kind: FrameKind, ends: &Endpoints, l4_len: usize) {
    frame[..6].copy_from_slice(&ends.destination_mac);
    frame[6..12].copy_from_slice(&ends.source_mac);
    let (link, header) = frame.split_at_mut(ETHERNET_LEN);
    match (ends.source, ends.target) {
        (IpAddr::V4(source), IpAddr::V4(target)) => {
            link[12..14].copy_from_slice(&ETHERTYPE_IPV4.to_be_bytes());
            header[0] = 0x45;
            header[2..4].copy_from_slice(&(20 + l4_len as u16).to_be_bytes());
            header[6..8].copy_from_slice(&DONT_FRAGMENT.to_be_bytes());
            header[8] = HOP_LIMIT;
            header[9] = if kind == FrameKind::Udp { UDP } else { ICMP4 };
            header[12..16].copy_from_slice(&source.octets());
            header[16..20].copy_from_slice(&target.octets());
            let sum = checksum(&header[..20]);
            header[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        (IpAddr::V6(source), IpAddr::V6(target)) => {
            link[12..14].copy_from_slice(&ETHERTYPE_IPV6.to_be_bytes());
            header[0] = 0x60;
            header[4..6].copy_from_slice(&(l4_len as u16).to_be_bytes());
            header[6] = if kind == FrameKind::Udp { UDP } else { ICMP6 };
            header[7] = HOP_LIMIT;
            header[8..24].copy_from_slice(&source.octets());
            header[24..40].copy_from_slice(&target.octets());
        }
        _ => unreachable!("the families were compared"),
    }
}

/// UDP header or echo request, and the payload.
fn write_l4(message: &mut [u8], kind: FrameKind, is_ipv6: bool) {
    match kind {
        FrameKind::Udp => {
            message[2..4].copy_from_slice(&DISCARD_PORT.to_be_bytes());
            let len = message.len() as u16;
            message[4..6].copy_from_slice(&len.to_be_bytes());
        }
        FrameKind::Echo => message[0] = if is_ipv6 { ECHO6_REQUEST } else { ECHO4_REQUEST },
    }
    let payload = &mut message[L4_LEN..];
    payload[..STAMP_MAGIC.len()].copy_from_slice(&STAMP_MAGIC);
    for (place, byte) in payload.iter_mut().enumerate().skip(STAMP_LEN) {
        *byte = place as u8;
    }
}
