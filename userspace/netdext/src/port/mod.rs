//! A port: one queue of one interface, with its pool and its four queues.
//!
//! Two kinds exist. An AF_XDP socket, in the crate netdext-host; and [`sim`], which keeps both ends of a wire in
//! memory, needs no root and runs from a seed. Everything above sees only [`Port`]. A kind of port implements the
//! traits [`SubmissionRing`], [`CompletionRing`] and [`PortHandle`].

pub mod sim;

use std::os::fd::BorrowedFd;

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::packet::{Census, Desc, Lender, Lent, PacketPool, PoolConfigError};
use crate::queue::{RxCompletionQueue, RxSubmissionQueue, TxCompletionQueue, TxSubmissionQueue};

/// The producing side of a ring: frames go to the kernel. One virtual call per batch, not per packet.
pub trait SubmissionRing {
    /// Slots in all.
    fn size(&self) -> u32;
    /// Slots that are free now.
    fn room(&mut self) -> u32;
    /// Publishes `descs`, all of them. The caller has asked for [`room`](Self::room).
    fn produce(&mut self, descs: &[Desc]);
    /// Whether the kernel asks to be woken for what the ring holds.
    fn needs_wakeup(&self) -> bool;
    /// Wakes the kernel.
    fn wake(&mut self) -> Result<(), Errno>;
}

/// The consuming side of a ring: frames come back from the kernel.
pub trait CompletionRing {
    /// Takes up to `out.len()` descriptors and says how many.
    fn consume(&mut self, out: &mut [Desc]) -> usize;
}

/// What the port can say about itself besides its queues.
pub trait PortHandle {
    /// The descriptor to sleep on until frames arrive, where there is one.
    fn fd(&self) -> Option<BorrowedFd<'_>>;
    /// What the kernel counted.
    fn statistics(&self) -> Result<SocketStatistics, Errno>;
}

/// Losses that the kernel counts per socket (`struct xdp_statistics` of linux/if_xdp.h), in frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketStatistics {
    /// Dropped for another reason than the ones below, such as a frame longer than a chunk.
    pub rx_dropped: u64,
    /// Dropped because of an invalid descriptor in the fill ring.
    pub rx_invalid_descs: u64,
    /// Not sent because of an invalid descriptor in the tx ring.
    pub tx_invalid_descs: u64,
    /// Dropped because the rx ring was full.
    pub rx_ring_full: u64,
    /// Times the kernel found the fill ring empty.
    pub rx_fill_ring_empty_descs: u64,
    /// Times the kernel found the tx ring empty.
    pub tx_ring_empty_descs: u64,
}

impl SocketStatistics {
    /// Adds another socket's counts.
    pub fn merge(&mut self, other: &Self) {
        let Self {
            rx_dropped,
            rx_invalid_descs,
            tx_invalid_descs,
            rx_ring_full,
            rx_fill_ring_empty_descs,
            tx_ring_empty_descs,
        } = *other;
        self.rx_dropped += rx_dropped;
        self.rx_invalid_descs += rx_invalid_descs;
        self.tx_invalid_descs += tx_invalid_descs;
        self.rx_ring_full += rx_ring_full;
        self.rx_fill_ring_empty_descs += rx_fill_ring_empty_descs;
        self.tx_ring_empty_descs += tx_ring_empty_descs;
    }

    /// Frames that were meant for the socket and did not reach it.
    pub fn rx_lost(&self) -> u64 {
        self.rx_dropped + self.rx_invalid_descs + self.rx_ring_full
    }
}

/// How many slots the rings of a port have, and how its pool follows from that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingSizes {
    /// Slots of the rx ring; a power of two.
    pub rx: u32,
    /// Slots of the tx ring and the completion ring; a power of two.
    pub tx: u32,
}

impl RingSizes {
    /// Slots of the fill ring: twice the rx ring, so that the kernel still finds frames while a full rx
    /// ring waits for the driver.
    pub fn fill(&self) -> u32 {
        self.rx.saturating_mul(2)
    }

    /// Frames that let the fill ring, the rx ring and the tx ring be full at the same time; `u32::MAX` where that is too
    /// many to count.
    pub fn frames(&self) -> u32 {
        self.fill().saturating_add(self.rx).saturating_add(self.tx)
    }
}

impl Default for RingSizes {
    fn default() -> Self {
        Self { rx: 2048, tx: 2048 }
    }
}

/// One queue of one interface: the pool and the four queues that move its frames.
///
/// Each queue knows its pool and its port by itself, so one that is exchanged with another port's still moves only
/// what was lent to the port that it was made for.
pub struct Port {
    /// Frames to the kernel, to be received into (the fill ring).
    pub rx_submission: RxSubmissionQueue,
    /// Received frames (the rx ring).
    pub rx_completion: RxCompletionQueue,
    /// Frames to be sent (the tx ring).
    pub tx_submission: TxSubmissionQueue,
    /// Sent frames (the completion ring).
    pub tx_completion: TxCompletionQueue,
    handle: Box<dyn PortHandle>,
    lender: Lender,
    /// The frames of all four, and of the ports that share them.
    pub pool: PacketPool,
}

impl Port {
    /// A port over `pool`, whose memory is the UMEM of the socket that `rings` and `handle` belong to.
    ///
    /// # Errors
    ///
    /// [`PoolConfigError`]: the pool has as many ports as it can.
    pub fn new(
        pool: &PacketPool,
        rings: Rings,
        sizes: RingSizes,
        handle: Box<dyn PortHandle>,
    ) -> Result<Self, PoolConfigError> {
        Ok(Self::of(pool.lender()?, rings, sizes, handle))
    }

    pub(crate) fn of(lender: Lender, rings: Rings, sizes: RingSizes, handle: Box<dyn PortHandle>) -> Self {
        Self {
            rx_submission: RxSubmissionQueue::new(rings.fill, lender.clone(), sizes),
            rx_completion: RxCompletionQueue::new(rings.rx, lender.clone()),
            tx_submission: TxSubmissionQueue::new(rings.tx, lender.clone()),
            tx_completion: TxCompletionQueue::new(rings.completion, lender.clone()),
            handle,
            pool: lender.pool(),
            lender,
        }
    }

    /// The descriptor to poll for received frames (`POLLIN`) and for room to send (`POLLOUT`); `None` on
    /// the simulated port.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.handle.fd()
    }

    /// Losses that the kernel counted on this port's socket.
    ///
    /// # Errors
    ///
    /// The error of getsockopt(2) with `XDP_STATISTICS`.
    pub fn statistics(&self) -> Result<SocketStatistics, Errno> {
        self.handle.statistics()
    }

    /// Frames handed to the tx ring that can still come back over the completion ring.
    pub fn tx_in_flight(&self) -> u64 {
        let gone = self.tx_completion.completed() + self.tx_quarantined();
        self.tx_submission.submitted().saturating_sub(gone)
    }

    /// Frames of the pool that this port's rings have. Takes time proportional to the capacity of the pool.
    pub fn lent(&self) -> Lent {
        self.lender.lent()
    }

    /// How often a ring of this port returned a frame that had not been lent to it, or outside the pool's memory.
    pub fn violations(&self) -> u64 {
        self.lender.counts().violations
    }

    /// Frames that were quarantined while this port's tx ring had them: submitted, and never completed.
    pub fn tx_quarantined(&self) -> u64 {
        self.lender.counts().tx_quarantined
    }

    /// Closes the port, and counts the frames before and after. What was lent to it counts as free then, but the
    /// pool never hands it out again, because other descriptors may keep the socket open. Packets that a driver
    /// still holds stay counted as `user`, and what is lent to other ports of the pool stays lent.
    pub fn close(self) -> ClosingCensus {
        let Self { rx_submission, rx_completion, tx_submission, tx_completion, handle, lender, pool: _ } =
            self;
        let (pool, lent) = (lender.pool(), lender.lent());
        let before = pool.census();
        drop((rx_submission, rx_completion, tx_submission, tx_completion, handle));
        lender.retire_lent();
        ClosingCensus { before, lent, after: pool.census(), violations: lender.counts().violations }
    }
}

/// Where the frames of a port were when it closed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClosingCensus {
    /// With the rings still there.
    pub before: Census,
    /// Of those, what was lent to this port.
    pub lent: Lent,
    /// After they were given up: nothing is lent to this port any more.
    pub after: Census,
    /// Descriptors that this port's rings returned wrongly.
    pub violations: u64,
}

impl ClosingCensus {
    /// Whether no frame is missing: all are accounted for, and none is still with the driver.
    pub fn is_whole(&self) -> bool {
        self.before.is_whole() && self.after.is_whole() && self.after.user == 0
    }
}

/// The four rings of a port, as its kind made them.
pub struct Rings {
    /// The fill ring.
    pub fill: Box<dyn SubmissionRing>,
    /// The rx ring.
    pub rx: Box<dyn CompletionRing>,
    /// The tx ring.
    pub tx: Box<dyn SubmissionRing>,
    /// The completion ring.
    pub completion: Box<dyn CompletionRing>,
}
