//! What a port does with the frames of its pool: lends them to its rings, and takes back what was lent to them.

use std::rc::Rc;

use netdext_abi::RxMeta;
use serde::{Deserialize, Serialize};

use super::layout::XDP_PACKET_HEADROOM;
use super::owner::{Owner, PortNumber};
use super::pool::{PoolInner, PortCounts};
use super::{Desc, LentTo, Packet, PacketPool};

/// Frames of a pool that a port's rings have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lent {
    /// In the fill ring, or received and not yet dequeued.
    pub rx: u32,
    /// In the tx ring, or sent and not yet reaped.
    pub tx: u32,
}

/// A port's hold on its pool. Each queue of the port has one, so a ring never meets the frames of another pool, nor
/// what another port was lent.
#[derive(Clone)]
pub(crate) struct Lender {
    pool: Rc<PoolInner>,
    port: PortNumber,
}

impl Lender {
    pub(super) fn new(pool: Rc<PoolInner>, port: PortNumber) -> Self {
        Self { pool, port }
    }

    /// The pool.
    pub(crate) fn pool(&self) -> PacketPool {
        PacketPool::of(&self.pool)
    }

    /// Whether `packet` was taken from this pool. Only such a one can be lent.
    pub(crate) fn owns(&self, packet: &Packet) -> bool {
        Rc::ptr_eq(&self.pool, packet.pool())
    }

    /// Lends a packet's frame to the fill ring. `None` if the frame has been quarantined while the driver held it.
    pub(crate) fn lend_to_rx(&self, packet: Packet) -> Option<Desc> {
        assert!(self.owns(&packet), "the queue refuses packets of another pool");
        packet.lend(LentTo::Rx(self.port))
    }

    /// Lends a packet's frame to the tx ring. `None` if the frame has been quarantined while the driver held it.
    pub(crate) fn lend_to_tx(&self, packet: Packet) -> Option<Desc> {
        assert!(self.owns(&packet), "the queue refuses packets of another pool");
        packet.lend(LentTo::Tx(self.port))
    }

    /// Lends a free frame to the fill ring without making it a packet first.
    pub(crate) fn lend_free_to_rx(&self) -> Option<Desc> {
        let frame = self.pool.take_free(Owner::lent(LentTo::Rx(self.port)))?;
        Some(Desc { addr: self.pool.addr(frame, XDP_PACKET_HEADROOM), len: 0 })
    }

    /// Begins to load what [`take_back_rx`](Self::take_back_rx) and the driver will read of `desc`.
    pub(crate) fn prefetch_rx(&self, desc: Desc) {
        self.pool.prefetch_rx(desc);
    }

    /// The rx ring returned `desc`: makes it a packet again, if it is what was lent to this port.
    pub(crate) fn take_back_rx(&self, desc: Desc) -> Option<Packet> {
        let (frame, offset) = self.pool.checked(desc, LentTo::Rx(self.port))?;
        let timestamp = self.pool.receive(frame, offset);
        Some(Packet::new(Rc::clone(&self.pool), frame, offset, desc.len as usize, timestamp))
    }

    /// The completion ring returned `desc`: the frame is free again. Says whether it had been lent to this port.
    pub(crate) fn take_back_tx(&self, desc: Desc) -> bool {
        let lent = self.pool.checked(desc, LentTo::Tx(self.port));
        if let Some((frame, _)) = lent {
            self.pool.release(frame);
        }
        lent.is_some()
    }

    /// The port is closed: what was lent to it counts as free, and is never handed out again.
    pub(crate) fn retire_lent(&self) {
        self.pool.retire_lent(self.port);
    }

    /// What the rings of this port have. Takes time proportional to the capacity of the pool.
    pub(crate) fn lent(&self) -> Lent {
        self.pool.lent(self.port)
    }

    /// What went wrong at this port.
    pub(crate) fn counts(&self) -> PortCounts {
        self.pool.counts(self.port)
    }

    /// Reads the data of a frame that is lent to this port's tx ring: the kernel's half, for the simulated port.
    pub(crate) fn read_lent_tx(&self, desc: Desc, into: &mut Vec<u8>) -> bool {
        self.pool.read_lent_tx(self.port, desc, into)
    }

    /// Writes a received frame into one that is lent to this port's fill ring: the kernel's half, for the simulated
    /// port. Returns the descriptor for the rx ring.
    pub(crate) fn write_lent_rx(&self, addr: u64, data: &[u8], meta: Option<RxMeta>) -> Option<Desc> {
        self.pool.write_lent_rx(self.port, addr, data, meta)
    }
}
