//! The protocols that drivers speak: ARP, neighbour discovery, ICMP echo and UDP, over IPv4 and IPv6.
//!
//! Everything here works on the bytes of one frame that [`parse()`] has found well-formed, and on
//! [`Local`], the addresses of the port. Nothing allocates. Replies are written over the request, behind the
//! same VLAN tags.
//!
//! * [`checksum`]: the Internet checksum.
//! * [`echo`]: echo requests answered, echo replies read.
//! * [`arp`], [`ndp`]: requests answered, replies read, requests made.
//! * [`probe`]: echo requests made, and the stamp that recognises their replies.
//! * [`udp`]: datagrams sent back.

pub mod arp;
mod bytes;
pub mod checksum;
pub mod echo;
mod ipv4_options;
mod local;
pub mod ndp;
pub mod probe;
mod refusal;
pub mod udp;

#[cfg(any(test, feature = "testing-frames"))]
#[doc(hidden)]
pub mod testing;
#[cfg(test)]
mod tests;

pub use local::{Local, broadcast};
pub use netdext_abi::{Address, Kind, Malformed, Parsed, parse};
pub use refusal::Refusal;

use std::fmt;

/// An Ethernet address.
pub type MacAddr = [u8; 6];

/// Writes a MAC address the usual way: `02:00:00:00:00:01`.
#[derive(Clone, Copy, Debug)]
pub struct DisplayMac(pub MacAddr);

impl fmt::Display for DisplayMac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// All stations.
pub const BROADCAST: MacAddr = [0xff; 6];

/// Time to live or hop limit of what we send ourselves, as RFC 1700 recommends.
const HOP_LIMIT: u8 = 64;

/// Where the two addresses begin in an Ethernet header.
const LINK_DESTINATION: usize = 0;
const LINK_SOURCE: usize = 6;

/// Whether a MAC address is a group's (IEEE 802, 8.2.2); broadcast is one.
pub const fn is_group(mac: MacAddr) -> bool {
    mac[0] & 1 != 0
}

/// The destination MAC address of a frame.
///
/// # Panics
///
/// If the frame is shorter than that.
pub fn link_destination(frame: &[u8]) -> MacAddr {
    bytes::get(frame, LINK_DESTINATION)
}

/// The source MAC address of a frame.
///
/// # Panics
///
/// If the frame is shorter than that.
pub fn link_source(frame: &[u8]) -> MacAddr {
    bytes::get(frame, LINK_SOURCE)
}

/// Turns the frame round: to `destination`, from us. VLAN tags stay.
fn return_to(frame: &mut [u8], destination: MacAddr, local: &Local) {
    bytes::put(frame, LINK_DESTINATION, destination);
    bytes::put(frame, LINK_SOURCE, local.mac());
}

/// An Ethernet header without tags at the front of `frame`.
fn write_link_header(frame: &mut [u8], destination: MacAddr, source: MacAddr, ethertype: u16) {
    bytes::put(frame, LINK_DESTINATION, destination);
    bytes::put(frame, LINK_SOURCE, source);
    bytes::put_u16(frame, 12, ethertype);
}

/// Checks that the frame was sent to us alone, by a single station.
fn check_link_unicast(frame: &[u8], parsed: &Parsed, local: &Local) -> Result<(), Refusal> {
    if is_group(parsed.link_destination) {
        return Err(Refusal::GroupMac);
    }
    check_link(frame, parsed, local)
}

/// Checks that the frame was sent to us or to a group, by a single station.
fn check_link(frame: &[u8], parsed: &Parsed, local: &Local) -> Result<(), Refusal> {
    if !is_group(parsed.link_destination) && parsed.link_destination != local.mac() {
        return Err(Refusal::ForeignMac);
    }
    if is_group(link_source(frame)) {
        return Err(Refusal::BadSourceMac);
    }
    Ok(())
}
