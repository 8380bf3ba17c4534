//! UDP datagrams (RFC 768): their ports, and one sent back.

use netdext_abi::{Address, Parsed};

use super::bytes::{get, get_u16, put_u16};
use super::checksum::updated;
use super::{HOP_LIMIT, Local, Refusal, check_link_unicast, link_source, return_to};

const UDP: u8 = 17;

/// The ports of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// Where it comes from.
    pub source: u16,
    /// Where it goes to.
    pub destination: u16,
}

/// The ports of a datagram; `None` if the frame has none, or a piece of one.
///
/// # Panics
///
/// If `parsed` is not what the frame parses to.
pub fn ports(frame: &[u8], parsed: &Parsed) -> Option<Ports> {
    let at = usize::from(parsed.ports);
    (parsed.protocol == UDP && at > 0)
        .then(|| Ports { source: get_u16(frame, at), destination: get_u16(frame, at + 2) })
}

/// Sends a datagram to us back: MAC addresses, IP addresses and ports change places, in place. The data may be changed
/// too as long as the UDP checksum is brought up to date for that; changing places does not change it. The time to live
/// is fresh, VLAN tags stay.
///
/// # Errors
///
/// [`Refusal`]: the datagram is not to us alone or not from a single other host, or it is a piece of one. The frame is as
/// it was.
///
/// # Panics
///
/// If `parsed` is not what the frame parses to, or the frame has no UDP.
pub fn turn_round(frame: &mut [u8], parsed: &Parsed, local: &Local) -> Result<(), Refusal> {
    assert_eq!(parsed.protocol, UDP, "the frame has no UDP");
    if parsed.ports == 0 {
        return Err(Refusal::Fragment);
    }
    check_link_unicast(frame, parsed, local)?;
    let ip = usize::from(parsed.link_header_len);
    match parsed.destination {
        Address::V4(to) => {
            check_ip(local.is_group4(to), local.owns4(to), local.is_peer4(get(frame, ip + 12)))?;
            let lifetime = get_u16(frame, ip + 8);
            frame[ip + 8] = HOP_LIMIT;
            let sum = updated(get_u16(frame, ip + 10), lifetime, get_u16(frame, ip + 8));
            put_u16(frame, ip + 10, sum);
            swap(frame, ip + 12, 4);
        }
        Address::V6(to) => {
            check_ip(to[0] == 0xff, local.owns6(to), local.is_peer6(get(frame, ip + 8)))?;
            frame[ip + 7] = HOP_LIMIT;
            swap(frame, ip + 8, 16);
        }
        Address::None => return Err(Refusal::NotOwned),
    }
    swap(frame, parsed.ports.into(), 2);
    let sender = link_source(frame);
    return_to(frame, sender, local);
    Ok(())
}

fn check_ip(is_group: bool, is_ours: bool, is_from_peer: bool) -> Result<(), Refusal> {
    match (is_group, is_ours, is_from_peer) {
        (true, _, _) => Err(Refusal::GroupAddress),
        (_, false, _) => Err(Refusal::NotOwned),
        (_, _, false) => Err(Refusal::BadSourceAddress),
        _ => Ok(()),
    }
}

/// Has the two fields of `len` bytes at `at` change places.
fn swap(frame: &mut [u8], at: usize, len: usize) {
    let (one, other) = frame[at..at + 2 * len].split_at_mut(len);
    one.swap_with_slice(other);
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use netdext_abi::parse;
    use smoltcp::phy::ChecksumCapabilities;
    use smoltcp::wire::{
        EthernetProtocol, IpAddress, IpProtocol, Ipv4Packet, Ipv4Repr, Ipv6Packet, Ipv6Repr, UdpPacket,
        UdpRepr,
    };

    use super::*;
    use crate::proto::MacAddr;
    use crate::proto::testing::{
        OUR_MAC, OUR4, OUR6, PEER_MAC, PEER4, PEER6, echo4_request, ethernet, local, tagged,
    };

    fn datagram(source: IpAddr, destination: IpAddr, ports: [u16; 2]) -> Vec<u8> {
        let caps = ChecksumCapabilities::default();
        let data = b"to and fro";
        let udp = UdpRepr { src_port: ports[0], dst_port: ports[1] };
        let len = 8 + data.len();
        let head = if source.is_ipv4() { 20 } else { 40 };
        let mut bytes = vec![0; head + len];
        let (from, to) = (IpAddress::from(source), IpAddress::from(destination));
        udp.emit(
            &mut UdpPacket::new_unchecked(&mut bytes[head..]),
            &from,
            &to,
            data.len(),
            |payload| payload.copy_from_slice(data),
            &caps,
        );
        match (source, destination) {
            (IpAddr::V4(src_addr), IpAddr::V4(dst_addr)) => {
                let next_header = IpProtocol::Udp;
                let header = Ipv4Repr { src_addr, dst_addr, next_header, payload_len: len, hop_limit: 3 };
                header.emit(&mut Ipv4Packet::new_unchecked(&mut bytes[..]), &caps);
                ethernet(EthernetProtocol::Ipv4, &bytes)
            }
            (IpAddr::V6(src_addr), IpAddr::V6(dst_addr)) => {
                let next_header = IpProtocol::Udp;
                let header = Ipv6Repr { src_addr, dst_addr, next_header, payload_len: len, hop_limit: 3 };
                header.emit(&mut Ipv6Packet::new_unchecked(&mut bytes[..]));
                ethernet(EthernetProtocol::Ipv6, &bytes)
            }
            _ => unreachable!("both are of one kind"),
        }
    }

    fn refused(frame: &[u8]) -> Refusal {
        let mut bytes = frame.to_vec();
        let refusal = turn_round(&mut bytes, &parse(frame).unwrap(), &local()).unwrap_err();
        assert_eq!(bytes, frame, "it is as it was");
        refusal
    }

    fn with_macs(mut frame: Vec<u8>, destination: MacAddr, source: MacAddr) -> Vec<u8> {
        frame[..6].copy_from_slice(&destination);
        frame[6..12].copy_from_slice(&source);
        frame
    }

    #[test]
    fn a_datagram_sent_back_is_what_smoltcp_would_have_sent() {
        for (ours, peers) in [(OUR4.into(), PEER4.into()), (IpAddr::from(OUR6), IpAddr::from(PEER6))] {
            let mut expected = with_macs(datagram(ours, peers, [7, 4711]), PEER_MAC, OUR_MAC);
            let (ttl, sum) = if ours.is_ipv4() { (22, Some(24)) } else { (21, None) };
            expected[ttl] = HOP_LIMIT;
            if let Some(at) = sum {
                put_u16(&mut expected, at, 0);
                let sum = crate::proto::checksum::checksum(&expected[14..34]);
                put_u16(&mut expected, at, sum);
            }
            for vlans in [&[][..], &[5], &[5, 6]] {
                let mut frame = tagged(&datagram(peers, ours, [4711, 7]), vlans);
                let parsed = parse(&frame[..]).unwrap();
                assert_eq!(ports(&frame, &parsed), Some(Ports { source: 4711, destination: 7 }));
                turn_round(&mut frame, &parsed, &local()).unwrap();
                assert_eq!(frame, tagged(&expected, vlans));
            }
        }
    }

    #[test]
    fn what_is_not_to_us_alone_or_from_nobody_in_particular_is_refused_and_unchanged() {
        let v4 = |source: &str, to: &str| datagram(source.parse().unwrap(), to.parse().unwrap(), [1, 7]);
        assert_eq!(refused(&v4("198.18.0.2", "224.0.0.1")), Refusal::GroupAddress);
        assert_eq!(refused(&v4("198.18.0.2", "198.18.0.255")), Refusal::GroupAddress);
        assert_eq!(refused(&v4("198.18.0.2", "198.18.0.3")), Refusal::NotOwned);
        assert_eq!(refused(&v4("255.255.255.255", "198.18.0.1")), Refusal::BadSourceAddress);
        assert_eq!(refused(&v4("2001:2::2", "ff02::1")), Refusal::GroupAddress);
        assert_eq!(refused(&v4("2001:2::2", "2001:2::3")), Refusal::NotOwned);
        assert_eq!(refused(&v4("::", "2001:2::1")), Refusal::BadSourceAddress);
        let good = v4("198.18.0.2", "198.18.0.1");
        assert_eq!(refused(&with_macs(good.clone(), [0xff; 6], PEER_MAC)), Refusal::GroupMac);
        assert_eq!(refused(&with_macs(good.clone(), PEER_MAC, PEER_MAC)), Refusal::ForeignMac);
        assert_eq!(refused(&with_macs(good.clone(), OUR_MAC, [0xff; 6])), Refusal::BadSourceMac);
        let mut piece = good;
        piece[20] = 0x20;
        assert_eq!(ports(&piece, &parse(&piece[..]).unwrap()), None);
        assert_eq!(refused(&piece), Refusal::Fragment);
    }

    #[test]
    fn an_echo_has_no_ports() {
        let frame = echo4_request(1, 1, b"");
        assert_eq!(ports(&frame, &parse(&frame[..]).unwrap()), None);
    }
}
