//! What crosses a ring, and who owns the frame it names.

/// A descriptor as it crosses a ring: plain numbers, no ownership. The table of owners carries that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Desc {
    /// Bytes from the start of the UMEM.
    pub addr: u64,
    /// Bytes of data at `addr`.
    pub len: u32,
}

/// A port, by the number that its pool gave it. No number is given twice, so what a ring of a closed port still
/// returns is not taken for what was lent to a later one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PortNumber(u8);

impl PortNumber {
    /// How many ports a pool can have: so many that an [`Owner`] is one byte.
    pub(super) const COUNT: usize = (u8::MAX - Owner::FIRST_LENT + 1) as usize / 2;

    /// The port made after `earlier` others, if there is a number for it.
    pub(super) fn after(earlier: usize) -> Option<Self> {
        (earlier < Self::COUNT).then_some(Self(earlier as u8))
    }

    pub(super) fn index(self) -> usize {
        self.0.into()
    }
}

/// The ring that a frame was lent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LentTo {
    /// The fill ring of a port; comes back over its rx ring.
    Rx(PortNumber),
    /// The tx ring of a port; comes back over its completion ring.
    Tx(PortNumber),
}

/// Who a frame belongs to; see [`Census`](super::Census) for what each means. One byte, because the table of them is
/// read and written for every frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Owner(u8);

impl Owner {
    pub(super) const FREE: Self = Self(0);
    pub(super) const USER: Self = Self(1);
    pub(super) const QUARANTINED: Self = Self(2);
    /// Was lent to a port when that was closed.
    pub(super) const RETIRED: Self = Self(3);
    // From here on two for each port: its fill ring, its tx ring.
    const FIRST_LENT: u8 = 4;

    pub(super) const fn lent(to: LentTo) -> Self {
        match to {
            LentTo::Rx(PortNumber(port)) => Self(Self::FIRST_LENT + 2 * port),
            LentTo::Tx(PortNumber(port)) => Self(Self::FIRST_LENT + 2 * port + 1),
        }
    }

    /// The ring that has the frame, if one has.
    pub(super) const fn lent_to(self) -> Option<LentTo> {
        let Some(place) = self.0.checked_sub(Self::FIRST_LENT) else { return None };
        let port = PortNumber(place / 2);
        Some(if place % 2 == 0 { LentTo::Rx(port) } else { LentTo::Tx(port) })
    }
}
