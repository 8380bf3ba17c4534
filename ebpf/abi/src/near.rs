//! A table in front of the hash map of IPv4 addresses, because looking two addresses up there is a tenth of what an
//! answer costs.
//!
//! Each address has one slot, and a slot tells either all there is to know of the addresses that share it, or to ask the
//! hash map. With up to some hundred addresses nearly no slot is shared.

/// Slots; a power of two.
pub const NEAR_SLOTS: u32 = 1 << SLOT_BITS;

const SLOT_BITS: u32 = 10;
/// Knuth's multiplicative hash: 2^32 divided by the golden ratio.
const GOLDEN: u32 = 0x9e37_79b1;
/// Several addresses have been here: the hash map knows.
const SHARED: u32 = 1 << 31;

/// The slot of an address.
#[inline(always)]
#[must_use]
pub const fn near_slot(address: [u8; 4]) -> u32 {
    u32::from_ne_bytes(address).wrapping_mul(GOLDEN) >> (u32::BITS - SLOT_BITS)
}

/// What a slot holds: eight aligned bytes, written at once. The lower half is the address, the upper half its uses.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Near(u64);

impl Near {
    /// No address with a use has this slot.
    pub const NOBODY: Self = Self(0);
    /// More than one may have.
    pub const MANY: Self = Self((SHARED as u64) << 32);

    /// The only one, with its uses as in [`OWNED_V4`](crate::maps::OWNED_V4).
    #[must_use]
    pub const fn one(address: [u8; 4], uses: u32) -> Self {
        Self(u32::from_ne_bytes(address) as u64 | (uses as u64) << 32)
    }

    /// The uses of an address that has this slot; `None` when the hash map has to be asked.
    #[inline(always)]
    #[must_use]
    pub const fn uses(self, address: [u8; 4]) -> Option<u32> {
        let uses = (self.0 >> 32) as u32;
        if uses & SHARED != 0 {
            return None;
        }
        Some(if self.0 as u32 == u32::from_ne_bytes(address) { uses } else { 0 })
    }

    /// The bytes of the map's value.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 8] {
        self.0.to_ne_bytes()
    }
}
