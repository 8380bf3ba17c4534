//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624).

use netdext_abi::checksum::fold;
pub use netdext_abi::checksum::updated;

/// A one's complement sum of 16-bit words.
///
/// Words are added in the machine's byte order, which gives the same result with its bytes swapped (RFC
/// 1071, 2B), and 32 bits at a time, so that the compiler can use vector instructions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum(u64);

impl Sum {
    /// The empty sum.
    pub const ZERO: Self = Self(0);

    /// Adds `data`, as if a zero byte followed when its length is odd. Only the last piece that is added
    /// may have an odd length.
    #[must_use]
    pub fn data(self, data: &[u8]) -> Self {
        let (words, rest) = data.as_chunks::<4>();
        let mut sum = self.0;
        // Cannot overflow: 2^32 words of 32 bits fit, and no slice here is longer than 64 KiB.
        for &word in words {
            sum += u64::from(u32::from_ne_bytes(word));
        }
        let mut last = [0; 4];
        last[..rest.len()].copy_from_slice(rest);
        Self(sum + u64::from(u32::from_ne_bytes(last)))
    }

    /// Adds one word.
    #[must_use]
    pub fn word(self, word: u16) -> Self {
        Self(self.0 + u64::from(u16::from_ne_bytes(word.to_be_bytes())))
    }

    /// The pseudo-header of an upper-layer message of `len` bytes over IPv6 (RFC 8200, 8.1).
    #[must_use]
    pub fn pseudo_header6(source: [u8; 16], destination: [u8; 16], next_header: u8, len: usize) -> Self {
        // A message within one Ethernet frame is shorter than 64 KiB, so the upper length word is 0.
        Self::ZERO.data(&source).data(&destination).word(len as u16).word(next_header.into())
    }

    /// The checksum: the complement of the sum.
    #[must_use]
    pub fn finish(self) -> u16 {
        !u16::from_be_bytes(fold(self.0).to_ne_bytes())
    }

    /// The sum itself, not yet folded, for a program that goes on adding to it on the same machine.
    #[must_use]
    pub const fn unfolded(self) -> u64 {
        self.0
    }

    /// Whether the data that was added, its own checksum included, is intact.
    #[must_use]
    pub fn is_intact(self) -> bool {
        fold(self.0) == u16::MAX
    }
}

/// The checksum of `data`.
#[must_use]
pub fn checksum(data: &[u8]) -> u16 {
    Sum::ZERO.data(data).finish()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use smoltcp::wire::{IpAddress, IpProtocol, Ipv6Address};

    use super::*;

    #[test]
    fn the_example_of_rfc_1071_sums_to_what_it_says() {
        let data = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(checksum(&data), !0xddf2);
    }

    #[test]
    fn the_example_of_rfc_1624_updates_to_zero_and_not_to_minus_zero() {
        assert_eq!(updated(0xdd2f, 0x5555, 0x3285), 0x0000);
    }

    #[test]
    fn an_odd_last_byte_counts_as_the_upper_half_of_a_word() {
        assert_eq!(checksum(&[0x12]), !0x1200);
        assert_eq!(checksum(&[0x12, 0x34, 0x56]), !(0x1234 + 0x5600));
    }

    #[test]
    fn a_single_flipped_bit_is_noticed() {
        let mut data = [0x45, 0, 0, 0x54, 0x12, 0x34, 0x40, 0, 64, 1, 0, 0, 198, 18, 0, 2, 198, 18, 0, 1];
        let sum = checksum(&data);
        data[10..12].copy_from_slice(&sum.to_be_bytes());
        assert!(Sum::ZERO.data(&data).is_intact());
        for bit in 0..data.len() * 8 {
            data[bit / 8] ^= 1 << (bit % 8);
            assert!(!Sum::ZERO.data(&data).is_intact(), "bit {bit}");
            data[bit / 8] ^= 1 << (bit % 8);
        }
    }

    proptest! {
        #[test]
        fn smoltcp_computes_the_same(data in prop::collection::vec(any::<u8>(), 0..1600)) {
            // smoltcp's function is the sum itself; the field holds its complement.
            prop_assert_eq!(checksum(&data), !smoltcp::wire::checksum::data(&data));
        }

        #[test]
        fn smoltcp_computes_the_same_pseudo_header(
            source: [u8; 16], destination: [u8; 16], data in prop::collection::vec(any::<u8>(), 0..1500)
        ) {
            let theirs = smoltcp::wire::checksum::combine(&[
                smoltcp::wire::checksum::pseudo_header(
                    &IpAddress::Ipv6(Ipv6Address::from(source)),
                    &IpAddress::Ipv6(Ipv6Address::from(destination)),
                    IpProtocol::Icmpv6,
                    data.len() as u32,
                ),
                smoltcp::wire::checksum::data(&data),
            ]);
            let ours = Sum::pseudo_header6(source, destination, 58, data.len()).data(&data).finish();
            prop_assert_eq!(ours, !theirs);
        }

        #[test]
        fn updating_gives_what_computing_anew_gives(
            mut data in prop::collection::vec(any::<u8>(), 4..200), at: prop::sample::Index, new: u16
        ) {
            data[0] |= 1; // Not all zeros, as no header is: only then is there a second zero.
            let at = 2 + 2 * at.index(data.len() / 2 - 1);
            let before = checksum(&data);
            let old = u16::from_be_bytes([data[at], data[at + 1]]);
            data[at..at + 2].copy_from_slice(&new.to_be_bytes());
            prop_assert_eq!(updated(before, old, new), checksum(&data));
        }
    }
}
