//! ICMP echo requests as bytes (RFC 792), written here so that netdext's own code isn't its own judge.

use std::net::Ipv4Addr;

/// An ICMP echo request over IPv4 in an Ethernet frame, perhaps with a VLAN tag.
#[derive(Clone, Copy, Debug)]
pub struct EchoRequest {
    /// Ethernet destination.
    pub to_mac: [u8; 6],
    /// Ethernet source.
    pub from_mac: [u8; 6],
    /// VLAN identifier of an 802.1Q tag.
    pub vlan: Option<u16>,
    /// IPv4 source.
    pub from: Ipv4Addr,
    /// IPv4 destination.
    pub to: Ipv4Addr,
    /// Identifier.
    pub identifier: u16,
    /// Sequence number.
    pub sequence: u16,
    /// Bytes of payload.
    pub payload_len: usize,
}

impl EchoRequest {
    /// Where the IPv4 header begins.
    pub fn ip_offset(&self) -> usize {
        if self.vlan.is_some() { 18 } else { 14 }
    }

    /// The frame, with checksums that are right.
    pub fn frame(&self) -> Vec<u8> {
        let mut frame = Vec::with_capacity(self.ip_offset() + 28 + self.payload_len);
        frame.extend(self.to_mac);
        frame.extend(self.from_mac);
        if let Some(id) = self.vlan {
            frame.extend([0x81, 0x00]);
            frame.extend(id.to_be_bytes());
        }
        frame.extend([0x08, 0x00]);
        let total_len = u16::try_from(28 + self.payload_len).expect("an IPv4 datagram is below 64 KiB");
        frame.extend([0x45, 0]);
        frame.extend(total_len.to_be_bytes());
        frame.extend([0, 0, 0x40, 0, 64, 1, 0, 0]);
        frame.extend(self.from.octets());
        frame.extend(self.to.octets());
        frame.extend([8, 0, 0, 0]);
        frame.extend(self.identifier.to_be_bytes());
        frame.extend(self.sequence.to_be_bytes());
        frame.extend((0..self.payload_len).map(|index| index as u8));
        let ip = self.ip_offset();
        set_checksum(&mut frame[ip..ip + 20], 10);
        set_checksum(&mut frame[ip + 20..], 2);
        frame
    }

    /// Whether a frame, without a VLAN tag, is the answer to this request: addresses swapped, type 0, checksums
    /// right, payload intact.
    pub fn is_answered_by(&self, frame: &[u8]) -> bool {
        let mut expected = Self {
            to_mac: self.from_mac,
            from_mac: self.to_mac,
            from: self.to,
            to: self.from,
            vlan: None,
            ..*self
        }
        .frame();
        expected[34] = 0;
        expected[36..38].fill(0);
        set_checksum(&mut expected[34..], 2);
        // Identification, flags, TTL and so the header checksum are the answering station's choice.
        let ip = |frame: &[u8]| frame.get(14..34).is_some_and(|header| sum(header) == 0xffff);
        frame.len() == expected.len()
            && ip(frame)
            && frame[..18] == expected[..18]
            && frame[23] == 1
            && frame[26..] == expected[26..]
    }
}

/// Writes the Internet checksum (RFC 1071) of `data` at `offset`.
///
/// # Panics
/// `data` ends before.
pub fn set_checksum(data: &mut [u8], offset: usize) {
    data[offset..offset + 2].fill(0);
    let checksum = !sum(data);
    data[offset..offset + 2].copy_from_slice(&checksum.to_be_bytes());
}

/// The sum in one's complement; 0xffff over data with a right checksum.
fn sum(data: &[u8]) -> u16 {
    let word = |pair: &[u8]| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
    let mut sum: u32 = data.chunks(2).map(word).sum();
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUEST: EchoRequest = EchoRequest {
        to_mac: [2, 0, 0, 0, 0, 1],
        from_mac: [2, 0, 0, 0, 0, 2],
        vlan: None,
        from: Ipv4Addr::new(198, 18, 0, 2),
        to: Ipv4Addr::new(198, 18, 0, 1),
        identifier: 7,
        sequence: 9,
        payload_len: 33,
    };

    #[test]
    fn a_request_has_right_checksums_and_the_tag_in_its_place() {
        for vlan in [None, Some(7)] {
            let request = EchoRequest { vlan, ..REQUEST };
            let (frame, ip) = (request.frame(), request.ip_offset());
            assert_eq!((sum(&frame[ip..ip + 20]), sum(&frame[ip + 20..])), (0xffff, 0xffff));
            assert_eq!((frame[ip], frame.len()), (0x45, ip + 28 + 33));
        }
    }

    #[test]
    fn only_the_answer_is_an_answer() {
        let swapped = EchoRequest {
            to_mac: REQUEST.from_mac,
            from_mac: REQUEST.to_mac,
            from: REQUEST.to,
            to: REQUEST.from,
            ..REQUEST
        };
        let mut reply = swapped.frame();
        assert!(!REQUEST.is_answered_by(&reply), "a request is none");
        reply[34] = 0;
        assert!(!REQUEST.is_answered_by(&reply), "its checksum is not that of a reply");
        set_checksum(&mut reply[34..], 2);
        assert!(REQUEST.is_answered_by(&reply));
        assert!(!REQUEST.is_answered_by(&reply[..20]));
        *reply.last_mut().unwrap() ^= 1;
        assert!(!REQUEST.is_answered_by(&reply), "the payload is not intact");
    }
}
