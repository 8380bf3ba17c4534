//! What crosses a ring, and who owns the frame it names.

/// A descriptor as it crosses a ring: plain numbers, no ownership. The table of owners carries that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Desc {
    /// Bytes from the start of the UMEM.
    pub addr: u64,
    /// Bytes of data at `addr`.
    pub len: u32,
}

/// The ring that a frame was lent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LentTo {
    /// The fill ring; comes back over the rx ring.
    Rx,
    /// The tx ring; comes back over the completion ring.
    Tx,
}

impl LentTo {
    pub(super) fn state(self) -> Owner {
        match self {
            Self::Rx => Owner::RxLent,
            Self::Tx => Owner::TxLent,
        }
    }
}

/// Who a frame belongs to; see [`Census`](super::Census) for what each means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    Free,
    User,
    RxLent,
    TxLent,
    Quarantined,
}
