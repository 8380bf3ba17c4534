//! ARP over Ethernet for IPv4 (RFC 826, RFC 5227).

use std::net::Ipv4Addr;

use netdext_abi::parse::{ETHERNET_LEN, ETHERTYPE_ARP, ETHERTYPE_IPV4};
use netdext_abi::{Kind, Parsed};

use super::bytes::{get, put, put_u16};
use super::{BROADCAST, Local, MacAddr, Refusal, check_link, is_group, return_to, write_link_header};

const ETHERNET: u16 = 1;
const REQUEST: u16 = 1;
const REPLY: u16 = 2;

// Fields of the message.
const OPERATION: usize = 6;
const SENDER_MAC: usize = 8;
const SENDER_IP: usize = 14;
const TARGET_MAC: usize = 18;
const TARGET_IP: usize = 24;
const MESSAGE_LEN: usize = 28;

/// An ARP request or reply whose sender can be a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// Who sent it; unspecified in a probe (RFC 5227, 2.1.1).
    pub sender: Ipv4Addr,
    /// Its MAC address.
    pub sender_mac: MacAddr,
    /// Whose MAC address is asked for, or who asked.
    pub target: Ipv4Addr,
}

/// Reads an ARP request or reply.
///
/// # Errors
///
/// [`Refusal`] when the frame is not for us or a group, or the sender's addresses cannot be those of
/// another host. Whether the target is ours is not looked at.
///
/// # Panics
///
/// If `parsed` is not what the frame parses to, or is no ARP message.
pub fn read(frame: &[u8], parsed: &Parsed, local: &Local) -> Result<Message, Refusal> {
    assert!(matches!(parsed.kind, Kind::ArpRequest | Kind::ArpReply), "{:?} is no ARP message", parsed.kind);
    check_link(frame, parsed, local)?;
    let message = &frame[parsed.link_header_len.into()..];
    let sender: [u8; 4] = get(message, SENDER_IP);
    let sender_mac: MacAddr = get(message, SENDER_MAC);
    if is_group(sender_mac) || sender_mac == [0; 6] {
        return Err(Refusal::BadArpSender);
    }
    if local.owns4(sender) {
        return Err(Refusal::AddressConflict);
    }
    let is_probe = sender == [0; 4] && parsed.kind == Kind::ArpRequest;
    if !is_probe && !local.is_peer4(sender) {
        return Err(Refusal::BadArpSender);
    }
    Ok(Message { sender: sender.into(), sender_mac, target: get::<4>(message, TARGET_IP).into() })
}

/// Turns an ARP request, read as `request`, into its reply, in place. Returns the length of the reply frame.
///
/// # Errors
///
/// [`Refusal::NotOwned`] when the request asks for none of our addresses; nothing is changed then.
///
/// # Panics
///
/// If `parsed` is not what the frame parses to.
pub fn answer(frame: &mut [u8], parsed: &Parsed, request: &Message, local: &Local) -> Result<usize, Refusal> {
    let target = request.target.octets();
    if !local.owns4(target) {
        return Err(Refusal::NotOwned);
    }
    let start = usize::from(parsed.link_header_len);
    let message = &mut frame[start..];
    put_u16(message, OPERATION, REPLY);
    put(message, SENDER_MAC, local.mac());
    put(message, SENDER_IP, target);
    put(message, TARGET_MAC, request.sender_mac);
    put(message, TARGET_IP, request.sender.octets());
    return_to(frame, request.sender_mac, local);
    Ok(start + MESSAGE_LEN)
}

/// An ARP request to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Our MAC address.
    pub source_mac: MacAddr,
    /// Our address on the target's network.
    pub source: Ipv4Addr,
    /// Whose MAC address is asked for.
    pub target: Ipv4Addr,
    /// Whom to ask: a station that is believed to be the target (RFC 1122, 2.3.2.1), or everybody.
    pub to: Option<MacAddr>,
}

impl Request {
    /// The length of the frame in bytes.
    pub const LEN: usize = ETHERNET_LEN + MESSAGE_LEN;

    /// Writes the frame.
    ///
    /// # Panics
    ///
    /// If `frame` is shorter than [`LEN`](Self::LEN).
    pub fn write(&self, frame: &mut [u8]) {
        write_link_header(frame, self.to.unwrap_or(BROADCAST), self.source_mac, ETHERTYPE_ARP);
        let message = &mut frame[ETHERNET_LEN..];
        put_u16(message, 0, ETHERNET);
        put_u16(message, 2, ETHERTYPE_IPV4);
        put(message, 4, [6, 4]);
        put_u16(message, OPERATION, REQUEST);
        put(message, SENDER_MAC, self.source_mac);
        put(message, SENDER_IP, self.source.octets());
        put(message, TARGET_MAC, [0; 6]);
        put(message, TARGET_IP, self.target.octets());
    }
}
