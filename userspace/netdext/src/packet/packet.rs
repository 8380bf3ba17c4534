//! One frame in the driver's hands.

use std::fmt;
use std::ops::Range;
use std::rc::Rc;

use super::layout::XDP_PACKET_HEADROOM;
use super::pool::PoolInner;
use super::{Desc, LentTo, OutOfFrame};
use crate::dispatch::Timestamp;

/// One frame, owned: data somewhere within it, and what is known about it.
///
/// Dropping a packet returns its frame to the pool.
///
/// Submitting it moves it, so it can be neither touched nor submitted again:
///
/// ```compile_fail,E0382
/// # use netdext::{packet::Packet, queue::TxSubmissionQueue};
/// fn twice(tx: &mut TxSubmissionQueue, packet: Packet) {
///     let _ = tx.submit(packet);
///     let _ = tx.submit(packet); // use of moved value
/// }
/// ```
///
/// ```compile_fail,E0382
/// # use netdext::{packet::Packet, queue::TxSubmissionQueue};
/// fn after(tx: &mut TxSubmissionQueue, mut packet: Packet) {
///     let _ = tx.submit(packet);
///     packet.data_mut()[0] = 0; // the kernel may be reading it
/// }
/// ```
///
/// It cannot be cloned, and it cannot leave the thread of its worker:
///
/// ```compile_fail,E0599
/// # use netdext::packet::Packet;
/// fn two(packet: Packet) -> (Packet, Packet) {
///     (packet.clone(), packet)
/// }
/// ```
///
/// ```compile_fail,E0277
/// # use netdext::packet::Packet;
/// fn elsewhere(packet: Packet) {
///     std::thread::spawn(move || drop(packet));
/// }
/// ```
#[must_use = "dropping a packet returns its frame to the pool"]
pub struct Packet {
    pool: Rc<PoolInner>,
    frame: u32,
    offset: u16,
    len: u16,
    link_header_len: u16,
    // Of a frame that is measured: when its batch was received, and for how many frames it counts.
    counts_for: u16,
    received: Timestamp,
    rx_timestamp_ns: u64,
}

/// When a measured packet was received, and for how many frames it counts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReceiveMark {
    pub received: Timestamp,
    pub counts_for: u16,
}

impl Packet {
    /// The frame `frame` of `pool`, which the caller has just made the user's; its data lies within it.
    pub(super) fn new(
        pool: Rc<PoolInner>,
        frame: u32,
        offset: usize,
        len: usize,
        rx_timestamp_ns: u64,
    ) -> Self {
        let (offset, len) = (offset as u16, len as u16);
        Self {
            pool,
            frame,
            offset,
            len,
            link_header_len: 0,
            counts_for: 0,
            received: Timestamp::default(),
            rx_timestamp_ns,
        }
    }

    /// The data: an Ethernet frame without FCS, from its destination address on.
    pub fn data(&self) -> &[u8] {
        &PoolInner::frame_of(self)[self.range()]
    }

    /// The data, writable.
    pub fn data_mut(&mut self) -> &mut [u8] {
        let range = self.range();
        &mut PoolInner::frame_of_mut(self)[range]
    }

    /// Bytes from the start of the frame to the data.
    pub fn data_offset(&self) -> usize {
        self.offset.into()
    }

    /// Bytes of data.
    pub fn data_len(&self) -> usize {
        self.len.into()
    }

    /// The size of the frame in bytes.
    pub fn frame_size(&self) -> usize {
        self.pool.frame_size()
    }

    /// Places the data. The bytes there are whatever the frame holds.
    ///
    /// # Errors
    ///
    /// [`OutOfFrame`] when it would not lie within the frame; nothing is changed then.
    pub fn set_data(&mut self, offset: usize, len: usize) -> Result<(), OutOfFrame> {
        let frame_size = self.pool.frame_size();
        if offset > frame_size || len > frame_size - offset {
            return Err(OutOfFrame { offset, len, frame_size });
        }
        (self.offset, self.len) = (offset as u16, len as u16);
        self.link_header_len = self.link_header_len.min(self.len);
        Ok(())
    }

    /// Sets the length of the data, keeping where it starts.
    ///
    /// # Errors
    ///
    /// [`OutOfFrame`] when it would reach beyond the frame.
    pub fn set_data_len(&mut self, len: usize) -> Result<(), OutOfFrame> {
        self.set_data(self.data_offset(), len)
    }

    /// Extends the data by `n` bytes to the front, and returns those bytes.
    ///
    /// # Errors
    ///
    /// [`OutOfFrame`] when there is not so much headroom.
    pub fn prepend(&mut self, n: usize) -> Result<&mut [u8], OutOfFrame> {
        let (offset, len) = (self.data_offset(), self.data_len());
        let start = offset.checked_sub(n).ok_or(OutOfFrame {
            offset,
            len: len.saturating_add(n),
            frame_size: self.pool.frame_size(),
        })?;
        self.set_data(start, len + n)?;
        Ok(&mut self.data_mut()[..n])
    }

    /// Removes `n` bytes from the front of the data.
    ///
    /// # Errors
    ///
    /// [`OutOfFrame`] when there are fewer.
    pub fn advance(&mut self, n: usize) -> Result<(), OutOfFrame> {
        let (offset, len) = (self.data_offset(), self.data_len());
        let rest =
            len.checked_sub(n).ok_or(OutOfFrame { offset, len: n, frame_size: self.pool.frame_size() })?;
        self.set_data(offset + n, rest)
    }

    /// Bytes of link header at the front of the data; 0 until somebody has set it.
    pub fn link_header_len(&self) -> usize {
        self.link_header_len.into()
    }

    /// Says how many bytes of the data are link header.
    ///
    /// # Errors
    ///
    /// [`OutOfFrame`] when that is more than the data.
    pub fn set_link_header_len(&mut self, n: usize) -> Result<(), OutOfFrame> {
        if n > self.data_len() {
            return Err(OutOfFrame {
                offset: self.data_offset(),
                len: n,
                frame_size: self.pool.frame_size(),
            });
        }
        self.link_header_len = n as u16;
        Ok(())
    }

    /// The data behind the link header.
    pub fn payload(&self) -> &[u8] {
        &self.data()[self.link_header_len.into()..]
    }

    /// When the XDP program saw the frame: ns of CLOCK_MONOTONIC (`bpf_ktime_get_ns`), where it was asked to take the time
    /// ([`RxTimestamps`](crate::driver::RxTimestamps)) and the device
    /// let it say so.
    pub fn rx_timestamp_ns(&self) -> Option<u64> {
        (self.rx_timestamp_ns != 0).then_some(self.rx_timestamp_ns)
    }

    /// Chooses this packet to be measured, and says when it was received and for how many it counts.
    pub(crate) fn mark_received(&mut self, at: Timestamp, counts_for: u16) {
        (self.received, self.counts_for) = (at, counts_for);
    }

    /// The mark, if this packet was chosen to be measured.
    pub(crate) fn receive_mark(&self) -> Option<ReceiveMark> {
        (self.counts_for > 0).then_some(ReceiveMark { received: self.received, counts_for: self.counts_for })
    }

    /// Moves the data to an offset that a tx descriptor can express: the canonical one, or where the
    /// kernel put this frame's data. Says whether it had to be moved, or `None` if it is too long.
    pub(crate) fn align_for_tx(&mut self) -> Option<bool> {
        let offset = self.data_offset();
        if offset == XDP_PACKET_HEADROOM || self.offset == self.pool.rx_offset(self.frame) {
            return Some(false);
        }
        let len = self.data_len();
        if len > self.pool.frame_size() - XDP_PACKET_HEADROOM {
            return None;
        }
        let range = self.range();
        PoolInner::frame_of_mut(self).copy_within(range, XDP_PACKET_HEADROOM);
        self.offset = XDP_PACKET_HEADROOM as u16;
        Some(true)
    }

    /// Lends the frame to a ring: from now on it belongs to the kernel, until it comes back over the
    /// completion side. `None` if the frame has been quarantined while the driver held it.
    pub(super) fn lend(self, to: LentTo) -> Option<Desc> {
        if !self.pool.lend(self.frame, to) {
            return None;
        }
        // `drop` releases only what the user owns, so it leaves the frame to the kernel.
        Some(match to {
            // The kernel chooses where it puts the data. An empty packet may start at the end of its frame,
            // which as an address would be the next one.
            LentTo::Rx(_) => Desc { addr: self.pool.addr(self.frame, XDP_PACKET_HEADROOM), len: 0 },
            LentTo::Tx(_) => {
                Desc { addr: self.pool.addr(self.frame, self.offset.into()), len: self.len.into() }
            }
        })
    }

    /// Where the data lies within the frame.
    fn range(&self) -> Range<usize> {
        self.data_offset()..self.data_offset() + self.data_len()
    }

    pub(super) fn pool(&self) -> &Rc<PoolInner> {
        &self.pool
    }

    pub(super) fn frame(&self) -> u32 {
        self.frame
    }
}

impl Drop for Packet {
    fn drop(&mut self) {
        self.pool.give_back(self.frame);
    }
}

impl fmt::Debug for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            pool: _,
            frame,
            offset,
            len,
            link_header_len,
            counts_for: _,
            received: _,
            rx_timestamp_ns,
        } = self;
        f.debug_struct("Packet")
            .field("frame", frame)
            .field("offset", offset)
            .field("len", len)
            .field("link_header_len", link_header_len)
            .field("rx_timestamp_ns", rx_timestamp_ns)
            .finish()
    }
}
