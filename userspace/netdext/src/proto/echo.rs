//! ICMP echo (RFC 792; RFC 1122, 3.2.2.6) and ICMPv6 echo (RFC 4443, 4.1 and 4.2).

use std::net::IpAddr;

use netdext_abi::{Kind, Parsed};

use super::bytes::{get, get_u16, put, put_u16};
use super::checksum::{Sum, updated};
use super::{HOP_LIMIT, Local, Refusal, check_link_unicast, ipv4_options, link_source, return_to};
use crate::dispatch::Timestamp;

const ICMP6: u8 = 58;
const IPV4_LEN: usize = 20;
const IPV6_LEN: usize = 40;
const ECHO_LEN: usize = 8;

/// Type and code, as one word.
const REPLY4: u16 = 0;
const REPLY6: u16 = 129 << 8;

/// Turns an ICMP or ICMPv6 echo request into its reply, in place. Returns the length of the reply frame,
/// which is never longer than the request: Ethernet padding is not sent back.
///
/// Identifier, sequence number and payload stay as they are, and so do type of service and VLAN tags; the
/// time to live is fresh. A recorded route and timestamps are continued; IPv6 extension headers are left
/// out (RFC 8200, 8.4). `now` is for the timestamps.
///
/// # Errors
///
/// [`Refusal`] when the request must not be answered; the frame may have been changed then.
///
/// # Panics
///
/// If `parsed` is not what the frame parses to.
pub fn answer(frame: &mut [u8], parsed: &Parsed, local: &Local, now: Timestamp) -> Result<usize, Refusal> {
    match parsed.kind {
        Kind::Echo4Request => answer4(frame, parsed, local, now),
        Kind::Echo6Request => answer6(frame, parsed, local),
        kind => panic!("{kind:?} is no echo request"),
    }
}

fn answer4(frame: &mut [u8], parsed: &Parsed, local: &Local, now: Timestamp) -> Result<usize, Refusal> {
    check4(frame, parsed, local)?;
    let (ip, icmp) = (usize::from(parsed.link_header_len), usize::from(parsed.l4));
    let (source, own): ([u8; 4], [u8; 4]) = (get(frame, ip + 12), get(frame, ip + 16));

    // Swapping the addresses does not change the sum.
    put(frame, ip + 12, own);
    put(frame, ip + 16, source);
    let header = &mut frame[ip..icmp];
    let lifetime = get_u16(header, 8);
    header[8] = HOP_LIMIT;
    if header.len() > IPV4_LEN {
        ipv4_options::record(&mut header[IPV4_LEN..], own, now)?;
        put_u16(header, 10, 0);
        let sum = Sum::ZERO.data(header).finish();
        put_u16(header, 10, sum);
    } else {
        let sum = updated(get_u16(header, 10), lifetime, get_u16(header, 8));
        put_u16(header, 10, sum);
    }

    turn(frame, icmp, REPLY4);
    let requester = link_source(frame);
    return_to(frame, requester, local);
    Ok(parsed.l3_end.into())
}

fn answer6(frame: &mut [u8], parsed: &Parsed, local: &Local) -> Result<usize, Refusal> {
    check6(frame, parsed, local)?;
    let (ip, end) = (usize::from(parsed.link_header_len), usize::from(parsed.l3_end));
    let (source, own): ([u8; 16], [u8; 16]) = (get(frame, ip + 8), get(frame, ip + 24));
    let len = end - usize::from(parsed.l4);

    // The pseudo-header's sum stays: same addresses, same length of the message.
    turn(frame, parsed.l4.into(), REPLY6);
    let icmp = ip + IPV6_LEN;
    if usize::from(parsed.l4) != icmp {
        frame.copy_within(usize::from(parsed.l4)..end, icmp);
    }
    put_u16(frame, ip + 4, len as u16);
    frame[ip + 6] = ICMP6;
    frame[ip + 7] = HOP_LIMIT;
    put(frame, ip + 8, own);
    put(frame, ip + 24, source);
    let requester = link_source(frame);
    return_to(frame, requester, local);
    Ok(icmp + len)
}

/// Writes type and code, and brings the checksum up to date.
fn turn(frame: &mut [u8], icmp: usize, type_and_code: u16) {
    let sum = updated(get_u16(frame, icmp + 2), get_u16(frame, icmp), type_and_code);
    put_u16(frame, icmp, type_and_code);
    put_u16(frame, icmp + 2, sum);
}

/// An intact echo reply to one of our addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EchoReply<'a> {
    /// Who answered.
    pub source: IpAddr,
    /// The identifier of the request.
    pub identifier: u16,
    /// The sequence number of the request.
    pub sequence: u16,
    /// The payload of the request.
    pub payload: &'a [u8],
}

/// Reads an ICMP or ICMPv6 echo reply.
///
/// # Errors
///
/// [`Refusal`] when it is not intact, not for us, or not from a single other host.
///
/// # Panics
///
/// If `parsed` is not what the frame parses to.
pub fn read_reply<'a>(frame: &'a [u8], parsed: &Parsed, local: &Local) -> Result<EchoReply<'a>, Refusal> {
    let ip = usize::from(parsed.link_header_len);
    let source = match parsed.kind {
        Kind::Echo4Reply => {
            check4(frame, parsed, local)?;
            IpAddr::from(get::<4>(frame, ip + 12))
        }
        Kind::Echo6Reply => {
            check6(frame, parsed, local)?;
            IpAddr::from(get::<16>(frame, ip + 8))
        }
        kind => panic!("{kind:?} is no echo reply"),
    };
    let icmp = usize::from(parsed.l4);
    Ok(EchoReply {
        source,
        identifier: get_u16(frame, icmp + 4),
        sequence: get_u16(frame, icmp + 6),
        payload: &frame[icmp + ECHO_LEN..parsed.l3_end.into()],
    })
}

/// The source of an echo request or reply, as it claims.
///
/// # Panics
///
/// If `parsed` is not what the frame parses to, or is no echo.
pub fn source(frame: &[u8], parsed: &Parsed) -> IpAddr {
    let ip = usize::from(parsed.link_header_len);
    match parsed.kind {
        Kind::Echo4Request | Kind::Echo4Reply => IpAddr::from(get::<4>(frame, ip + 12)),
        Kind::Echo6Request | Kind::Echo6Reply => IpAddr::from(get::<16>(frame, ip + 8)),
        kind => panic!("{kind:?} is no echo"),
    }
}

fn check4(frame: &[u8], parsed: &Parsed, local: &Local) -> Result<(), Refusal> {
    let (ip, icmp, end) = (parsed.link_header_len.into(), parsed.l4.into(), parsed.l3_end.into());
    let destination = get(frame, ip + 16);
    if local.is_group4(destination) {
        return Err(Refusal::GroupAddress);
    }
    check_link_unicast(frame, parsed, local)?;
    if !local.owns4(destination) {
        return Err(Refusal::NotOwned);
    }
    if !Sum::ZERO.data(&frame[ip..icmp]).is_intact() {
        return Err(Refusal::BadIpv4Checksum);
    }
    if !local.is_peer4(get(frame, ip + 12)) {
        return Err(Refusal::BadSourceAddress);
    }
    if !Sum::ZERO.data(&frame[icmp..end]).is_intact() {
        return Err(Refusal::BadIcmp4Checksum);
    }
    if frame[icmp + 1] != 0 {
        return Err(Refusal::BadIcmpCode);
    }
    Ok(())
}

fn check6(frame: &[u8], parsed: &Parsed, local: &Local) -> Result<(), Refusal> {
    let ip = usize::from(parsed.link_header_len);
    let destination: [u8; 16] = get(frame, ip + 24);
    if destination[0] == 0xff {
        return Err(Refusal::GroupAddress);
    }
    check_link_unicast(frame, parsed, local)?;
    if !local.owns6(destination) {
        return Err(Refusal::NotOwned);
    }
    if !local.is_peer6(get(frame, ip + 8)) {
        return Err(Refusal::BadSourceAddress);
    }
    check_icmp6(frame, parsed)
}

/// Checks checksum and code of an ICMPv6 message.
pub(super) fn check_icmp6(frame: &[u8], parsed: &Parsed) -> Result<(), Refusal> {
    let ip = usize::from(parsed.link_header_len);
    let message = &frame[parsed.l4.into()..parsed.l3_end.into()];
    let pseudo = Sum::pseudo_header6(get(frame, ip + 8), get(frame, ip + 24), ICMP6, message.len());
    if !pseudo.data(message).is_intact() {
        return Err(Refusal::BadIcmp6Checksum);
    }
    if message[1] != 0 {
        return Err(Refusal::BadIcmpCode);
    }
    Ok(())
}
