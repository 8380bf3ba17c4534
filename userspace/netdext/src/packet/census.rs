use std::fmt;

use serde::{Deserialize, Serialize};

/// Where every frame of a pool is, counted in frames.
///
/// Frames that can be taken are counted in the free list, the rest in the table of owners: a frame that got
/// lost or was freed twice makes the sum differ from `capacity`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Census {
    /// In the pool: ready to be taken, or lent to a port when that was closed, which no one gets again.
    pub free: u32,
    /// Held by the driver as a [`Packet`](super::Packet).
    pub user: u32,
    /// Lent to the kernel through the fill ring, or received and not yet dequeued.
    pub rx_lent: u32,
    /// Lent to the kernel through the tx ring and not yet completed.
    pub tx_lent: u32,
    /// Taken out of use because the kernel returned them wrongly.
    pub quarantined: u32,
    /// All frames of the pool.
    pub capacity: u32,
}

impl Census {
    /// Whether every frame is accounted for exactly once.
    pub fn is_whole(&self) -> bool {
        let Self { free, user, rx_lent, tx_lent, quarantined, capacity } = *self;
        [free, user, rx_lent, tx_lent, quarantined].iter().map(|&n| u64::from(n)).sum::<u64>()
            == u64::from(capacity)
    }

    /// Adds another pool's census, for the totals of a port with several queues.
    pub fn merge(&mut self, other: &Census) {
        let Census { free, user, rx_lent, tx_lent, quarantined, capacity } = *other;
        self.free += free;
        self.user += user;
        self.rx_lent += rx_lent;
        self.tx_lent += tx_lent;
        self.quarantined += quarantined;
        self.capacity += capacity;
    }
}

impl fmt::Display for Census {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { free, user, rx_lent, tx_lent, quarantined, capacity } = self;
        write!(
            f,
            "free {free} + user {user} + rx lent {rx_lent} + tx lent {tx_lent} + quarantined {quarantined} \
             of {capacity}"
        )
    }
}
