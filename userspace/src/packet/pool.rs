//! The packet pool: equal frames in one mapping (the UMEM), and the table of who owns each.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::ptr::NonNull;
use std::rc::Rc;

use netdext_abi::{RX_META_LEN, RxMeta};
use serde::Serialize;

use super::PacketBatch;

/// XDP reserves this much room in front of every received frame (`XDP_PACKET_HEADROOM` of linux/bpf.h).
const XDP_PACKET_HEADROOM: usize = 256;

/// The size of a frame. AF_XDP's aligned mode takes powers of two from 2048 bytes to the page size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameSize {
    /// 2048 bytes: enough for an MTU of 1500 with two VLAN tags.
    TwoK,
    /// 4096 bytes: one page.
    FourK,
}

impl FrameSize {
    /// The size in bytes.
    pub const fn bytes(self) -> usize {
        match self {
            Self::TwoK => 2048,
            Self::FourK => 4096,
        }
    }

    /// The longest Ethernet frame (without FCS) that fits behind the headroom, in bytes.
    pub const fn max_data(self) -> usize {
        self.bytes() - XDP_PACKET_HEADROOM
    }

    /// The smallest size whose [`max_data`](Self::max_data) holds `frame_len` bytes, if there is one.
    pub const fn for_frame_len(frame_len: usize) -> Option<Self> {
        if frame_len <= Self::TwoK.max_data() {
            Some(Self::TwoK)
        } else if frame_len <= Self::FourK.max_data() {
            Some(Self::FourK)
        } else {
            None
        }
    }
}

/// The shape of a pool.
#[derive(Clone, Copy, Debug)]
pub struct PoolConfig {
    /// How many frames.
    pub frames: u32,
    /// The size of each.
    pub frame_size: FrameSize,
}

impl PoolConfig {
    /// The size of the whole mapping in bytes.
    pub fn bytes(&self) -> usize {
        self.frames as usize * self.frame_size.bytes()
    }
}

/// Why a pool cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum PoolConfigError {
    /// A pool needs at least one frame.
    #[error("a packet pool needs at least one frame")]
    NoFrames,
}

/// An address or a length that does not lie within the frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{len} bytes at offset {offset} do not fit a frame of {frame_size} bytes")]
pub struct OutOfFrame {
    /// The offset asked for, in bytes from the start of the frame.
    pub offset: usize,
    /// The length asked for, in bytes.
    pub len: usize,
    /// The size of the frame in bytes.
    pub frame_size: usize,
}

/// Where every frame of a pool is, counted in frames.
///
/// `free` is the length of the free list, the rest is read from the table of owners: a frame that got
/// lost or was freed twice makes the sum differ from `capacity`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Census {
    /// In the pool, ready to be taken.
    pub free: u32,
    /// Held by the driver as a [`Packet`].
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

/// A descriptor as it crosses a ring: plain numbers, no ownership. The table of owners carries that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Desc {
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
    fn state(self) -> Owner {
        match self {
            Self::Rx => Owner::RxLent,
            Self::Tx => Owner::TxLent,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    Free,
    User,
    RxLent,
    TxLent,
    Quarantined,
}

/// Memory that can back a pool.
///
/// # Safety
///
/// `base` is valid for reads and writes of `len` bytes, at the same address for as long as the value
/// lives, and nothing but the pool and (for frames lent to it) the kernel accesses those bytes.
pub(crate) unsafe trait FrameMemory {
    fn base(&self) -> NonNull<u8>;
    fn len(&self) -> usize;
}

/// Frames on the heap, for the simulated port and for tests (also under Miri).
struct HeapMemory(NonNull<[u8]>);

impl HeapMemory {
    fn zeroed(len: usize) -> Self {
        let boxed: Box<[u8]> = vec![0; len].into_boxed_slice();
        Self(NonNull::from(Box::leak(boxed)))
    }
}

impl Drop for HeapMemory {
    fn drop(&mut self) {
        // SAFETY: the pointer comes from `Box::leak` in `zeroed`, and only this value holds it.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}

// SAFETY: the allocation lives and stays put until `drop`, and its address is handed to the pool only.
unsafe impl FrameMemory for HeapMemory {
    fn base(&self) -> NonNull<u8> {
        self.0.cast()
    }

    fn len(&self) -> usize {
        self.0.len()
    }
}

/// Equal frames in one mapping, with the table of who owns each of them.
///
/// A handle: cloning it does not copy frames. The mapping is freed when the last handle and the last
/// [`Packet`] are gone. One pool belongs to one worker; it is neither `Send` nor `Sync`, so it needs no
/// atomics and no locks.
#[derive(Clone)]
pub struct PacketPool {
    inner: Rc<PoolInner>,
}

struct PoolInner {
    base: NonNull<u8>,
    frame_size: usize,
    owners: Box<[Cell<Owner>]>,
    // Where the kernel last put the data of each frame: besides the canonical offset, the only one at
    // which xsk-rs can express a descriptor for that frame.
    rx_offsets: Box<[Cell<u16>]>,
    // Holds exactly the frames whose owner is `Free`.
    free: RefCell<Vec<u32>>,
    violations: Cell<u64>,
    // Keeps the mapping alive; dropped last because nothing above frees memory through `base`.
    _memory: Box<dyn FrameMemory>,
}

impl PacketPool {
    /// A pool on the heap, as the simulated port uses it.
    ///
    /// # Errors
    ///
    /// [`PoolConfigError`] when the configuration has no frame.
    pub fn on_heap(config: &PoolConfig) -> Result<Self, PoolConfigError> {
        Self::new(config, Box::new(HeapMemory::zeroed(config.bytes())))
    }

    /// A pool over `memory`, which must hold at least `config.bytes()`.
    pub(crate) fn new(config: &PoolConfig, memory: Box<dyn FrameMemory>) -> Result<Self, PoolConfigError> {
        if config.frames == 0 {
            return Err(PoolConfigError::NoFrames);
        }
        assert!(memory.len() >= config.bytes(), "the caller maps the memory from the same configuration");
        let frames = config.frames as usize;
        Ok(Self {
            inner: Rc::new(PoolInner {
                base: memory.base(),
                frame_size: config.frame_size.bytes(),
                owners: vec![Cell::new(Owner::Free); frames].into_boxed_slice(),
                rx_offsets: vec![Cell::new(XDP_PACKET_HEADROOM as u16); frames].into_boxed_slice(),
                // Reversed so that frames are first handed out in ascending order.
                free: RefCell::new((0..config.frames).rev().collect()),
                violations: Cell::new(0),
                _memory: memory,
            }),
        })
    }

    /// Takes a free frame: empty data at the default offset, all of it writable.
    pub fn alloc(&self) -> Option<Packet> {
        let frame = self.inner.take_free(Owner::User)?;
        Some(Packet {
            pool: Rc::clone(&self.inner),
            frame,
            offset: XDP_PACKET_HEADROOM as u16,
            len: 0,
            link_header_len: 0,
            rx_timestamp_ns: 0,
        })
    }

    /// Takes up to `want` free frames into `batch`, as many as there are and as fit. Returns how many.
    pub fn alloc_into(&self, batch: &mut PacketBatch, want: usize) -> usize {
        let mut taken = 0;
        while taken < want && batch.room() > 0 {
            let Some(packet) = self.alloc() else { break };
            if batch.push(packet).is_err() {
                break;
            }
            taken += 1;
        }
        taken
    }

    /// How many frames are free.
    pub fn available(&self) -> usize {
        self.inner.free.borrow().len()
    }

    /// How many frames the pool has.
    pub fn capacity(&self) -> usize {
        self.inner.owners.len()
    }

    /// The size of a frame in bytes.
    pub fn frame_size(&self) -> usize {
        self.inner.frame_size
    }

    /// The longest data that a packet from [`alloc`](Self::alloc) holds, in bytes.
    pub fn max_data(&self) -> usize {
        self.inner.frame_size - XDP_PACKET_HEADROOM
    }

    /// Counts where every frame is. Takes time proportional to the capacity.
    pub fn census(&self) -> Census {
        let mut census = Census {
            free: self.available() as u32,
            capacity: self.inner.owners.len() as u32,
            ..Census::default()
        };
        for owner in &self.inner.owners {
            match owner.get() {
                Owner::Free => {}
                Owner::User => census.user += 1,
                Owner::RxLent => census.rx_lent += 1,
                Owner::TxLent => census.tx_lent += 1,
                Owner::Quarantined => census.quarantined += 1,
            }
        }
        census
    }

    /// How often a ring returned a frame that had not been lent to it, or outside the pool's memory.
    pub fn violations(&self) -> u64 {
        self.inner.violations.get()
    }

    /// Whether `packet` was taken from this pool.
    pub fn owns(&self, packet: &Packet) -> bool {
        Rc::ptr_eq(&self.inner, &packet.pool)
    }

    /// Lends a free frame to the fill ring without making it a packet first.
    pub(crate) fn lend_free_to_rx(&self) -> Option<Desc> {
        let frame = self.inner.take_free(Owner::RxLent)?;
        Some(Desc { addr: self.inner.addr(frame, XDP_PACKET_HEADROOM), len: 0 })
    }

    /// The kernel returned `desc` over the rx ring: makes it a packet again, if it is what was lent.
    pub(crate) fn take_back_rx(&self, desc: Desc) -> Option<Packet> {
        let (frame, offset) = self.inner.checked(desc, LentTo::Rx)?;
        self.inner.owners[frame as usize].set(Owner::User);
        self.inner.rx_offsets[frame as usize].set(offset as u16);
        Some(Packet {
            pool: Rc::clone(&self.inner),
            frame,
            offset: offset as u16,
            len: desc.len as u16,
            link_header_len: 0,
            rx_timestamp_ns: self.inner.take_rx_timestamp(frame, offset),
        })
    }

    /// The kernel completed `desc` over the completion ring: the frame is free again. Says whether it
    /// had been lent.
    pub(crate) fn take_back_tx(&self, desc: Desc) -> bool {
        match self.inner.checked(desc, LentTo::Tx) {
            Some((frame, _)) => {
                self.inner.release(frame);
                true
            }
            None => false,
        }
    }

    /// The socket is closed, so the kernel holds nothing any more: lent frames are free again.
    pub(crate) fn reclaim_lent(&self) {
        for (frame, owner) in self.inner.owners.iter().enumerate() {
            if matches!(owner.get(), Owner::RxLent | Owner::TxLent) {
                self.inner.release(frame as u32);
            }
        }
    }

    /// Reads the data of a frame that is lent to the tx ring: the kernel's half, for the simulated port.
    pub(crate) fn read_lent_tx(&self, desc: Desc, into: &mut Vec<u8>) -> bool {
        let Some((frame, offset)) = self.inner.locate(desc) else { return false };
        if self.inner.owners[frame as usize].get() != Owner::TxLent {
            return false;
        }
        // SAFETY: `locate` checked that offset + len lies within the frame, and a frame whose owner is
        // `TxLent` has no `Packet`, so nothing else refers to its bytes.
        let data = unsafe {
            std::slice::from_raw_parts(self.inner.frame_ptr(frame).as_ptr().add(offset), desc.len as usize)
        };
        into.clear();
        into.extend_from_slice(data);
        true
    }

    /// Writes `data` into a frame that is lent to the fill ring, with `meta` in front of it: the kernel's
    /// half, for the simulated port. Without `meta` those bytes stay as they are. Returns the descriptor for
    /// the rx ring.
    pub(crate) fn write_lent_rx(&self, addr: u64, data: &[u8], meta: Option<RxMeta>) -> Option<Desc> {
        let desc = Desc { addr, len: u32::try_from(data.len()).ok()? };
        let (frame, offset) = self.inner.locate(desc)?;
        if self.inner.owners[frame as usize].get() != Owner::RxLent || offset < RX_META_LEN {
            return None;
        }
        // SAFETY: `locate` checked that offset + len lies within the frame and offset >= the metadata's
        // size; a frame whose owner is `RxLent` has no `Packet`, so nothing else refers to its bytes.
        let room = unsafe {
            std::slice::from_raw_parts_mut(
                self.inner.frame_ptr(frame).as_ptr().add(offset - RX_META_LEN),
                RX_META_LEN + data.len(),
            )
        };
        if let Some(meta) = meta {
            room[..RX_META_LEN].copy_from_slice(&meta.to_bytes());
        }
        room[RX_META_LEN..].copy_from_slice(data);
        Some(desc)
    }
}

impl fmt::Debug for PacketPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PacketPool")
            .field("frame_size", &self.frame_size())
            .field("census", &self.census())
            .field("violations", &self.violations())
            .finish()
    }
}

impl PoolInner {
    fn frame_ptr(&self, frame: u32) -> NonNull<u8> {
        // SAFETY: every frame number in circulation is below `owners.len()` (`new` and `locate` see to
        // it), and the mapping holds `owners.len() * frame_size` bytes.
        unsafe { self.base.add(frame as usize * self.frame_size) }
    }

    fn addr(&self, frame: u32, offset: usize) -> u64 {
        (frame as usize * self.frame_size + offset) as u64
    }

    fn take_free(&self, owner: Owner) -> Option<u32> {
        let frame = self.free.borrow_mut().pop()?;
        self.owners[frame as usize].set(owner);
        Some(frame)
    }

    fn release(&self, frame: u32) {
        self.owners[frame as usize].set(Owner::Free);
        self.free.borrow_mut().push(frame);
    }

    /// Frame and offset of a descriptor that lies within one frame.
    fn locate(&self, desc: Desc) -> Option<(u32, usize)> {
        let addr = usize::try_from(desc.addr).ok()?;
        let (frame, offset) = (addr / self.frame_size, addr % self.frame_size);
        let within = frame < self.owners.len() && desc.len as usize <= self.frame_size - offset;
        within.then_some((frame as u32, offset))
    }

    /// Frame and offset of a descriptor that a ring returned, if that frame was lent to it.
    fn checked(&self, desc: Desc, from: LentTo) -> Option<(u32, usize)> {
        match self.locate(desc) {
            Some((frame, offset)) if self.owners[frame as usize].get() == from.state() => {
                Some((frame, offset))
            }
            _ => {
                self.violation(desc);
                None
            }
        }
    }

    /// The kernel returned what it should not have: counted, and the frame, where there is one, is never
    /// used again, because the kernel may still write to it.
    #[cold]
    fn violation(&self, desc: Desc) {
        self.violations.set(self.violations.get() + 1);
        let Some(owner) =
            usize::try_from(desc.addr / self.frame_size as u64).ok().and_then(|i| self.owners.get(i))
        else {
            return;
        };
        if owner.get() == Owner::Free {
            let frame = (desc.addr / self.frame_size as u64) as u32;
            self.free.borrow_mut().retain(|&free| free != frame);
        }
        owner.set(Owner::Quarantined);
    }

    /// Reads the timestamp that the XDP program left in front of the data, in ns; 0 if it left none.
    ///
    /// The magic is cleared, so that it cannot be taken for that of the next frame in the same place.
    fn take_rx_timestamp(&self, frame: u32, offset: usize) -> u64 {
        if offset < RX_META_LEN {
            return 0;
        }
        // SAFETY: the bytes lie within the frame (offset >= SIZE), and the caller has just taken the frame
        // back and not yet handed out a `Packet`, so nothing else refers to them.
        let bytes = unsafe {
            &mut *self.frame_ptr(frame).as_ptr().add(offset - RX_META_LEN).cast::<[u8; RX_META_LEN]>()
        };
        match RxMeta::from_bytes(bytes) {
            Some(meta) => {
                bytes.fill(0);
                meta.ktime_ns
            }
            None => 0,
        }
    }
}

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
    rx_timestamp_ns: u64,
}

impl Packet {
    /// The data: an Ethernet frame without FCS, from its destination address on.
    pub fn data(&self) -> &[u8] {
        // SAFETY: offset + len lies within the frame (checked where they are set), and this packet is the
        // only owner of the frame, so nothing writes to it while `self` is borrowed.
        unsafe { std::slice::from_raw_parts(self.data_ptr(), self.len.into()) }
    }

    /// The data, writable.
    pub fn data_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `data`; `self` is borrowed mutably, so no other reference to the bytes exists.
        unsafe { std::slice::from_raw_parts_mut(self.data_ptr(), self.len.into()) }
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
        self.pool.frame_size
    }

    /// Places the data. The bytes there are whatever the frame holds.
    ///
    /// # Errors
    ///
    /// [`OutOfFrame`] when it would not lie within the frame; nothing is changed then.
    pub fn set_data(&mut self, offset: usize, len: usize) -> Result<(), OutOfFrame> {
        let frame_size = self.pool.frame_size;
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
            frame_size: self.pool.frame_size,
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
            len.checked_sub(n).ok_or(OutOfFrame { offset, len: n, frame_size: self.pool.frame_size })?;
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
            return Err(OutOfFrame { offset: self.data_offset(), len: n, frame_size: self.pool.frame_size });
        }
        self.link_header_len = n as u16;
        Ok(())
    }

    /// The data behind the link header.
    pub fn payload(&self) -> &[u8] {
        &self.data()[self.link_header_len.into()..]
    }

    /// When the XDP program saw the frame: ns of CLOCK_MONOTONIC (`bpf_ktime_get_ns`), where the device
    /// let it say so.
    pub fn rx_timestamp_ns(&self) -> Option<u64> {
        (self.rx_timestamp_ns != 0).then_some(self.rx_timestamp_ns)
    }

    /// Moves the data to an offset that a tx descriptor can express: the canonical one, or where the
    /// kernel put this frame's data. Says whether it had to be moved, or `None` if it is too long.
    pub(crate) fn align_for_tx(&mut self) -> Option<bool> {
        let offset = self.data_offset();
        if offset == XDP_PACKET_HEADROOM || self.offset == self.pool.rx_offsets[self.frame as usize].get() {
            return Some(false);
        }
        let len = self.data_len();
        if len > self.pool.frame_size - XDP_PACKET_HEADROOM {
            return None;
        }
        // SAFETY: both ranges lie within the frame, which this packet owns exclusively; `copy` allows
        // them to overlap.
        unsafe {
            let frame = self.pool.frame_ptr(self.frame).as_ptr();
            std::ptr::copy(frame.add(offset), frame.add(XDP_PACKET_HEADROOM), len);
        }
        self.offset = XDP_PACKET_HEADROOM as u16;
        Some(true)
    }

    /// Lends the frame to a ring: from now on it belongs to the kernel, until it comes back over the
    /// completion side. `None` if the frame has been quarantined while the driver held it.
    pub(crate) fn lend(self, to: LentTo) -> Option<Desc> {
        let owner = &self.pool.owners[self.frame as usize];
        if owner.get() != Owner::User {
            return None;
        }
        owner.set(to.state());
        // `drop` releases only what the user owns, so it leaves the frame to the kernel.
        Some(match to {
            // The kernel chooses where it puts the data. An empty packet may start at the end of its frame,
            // which as an address would be the next one.
            LentTo::Rx => Desc { addr: self.pool.addr(self.frame, XDP_PACKET_HEADROOM), len: 0 },
            LentTo::Tx => Desc { addr: self.pool.addr(self.frame, self.offset.into()), len: self.len.into() },
        })
    }

    fn data_ptr(&self) -> *mut u8 {
        // SAFETY: offset <= frame_size (checked in `set_data` and `locate`), within the mapping.
        unsafe { self.pool.frame_ptr(self.frame).as_ptr().add(self.offset.into()) }
    }
}

impl Drop for Packet {
    fn drop(&mut self) {
        if self.pool.owners[self.frame as usize].get() == Owner::User {
            self.pool.release(self.frame);
        }
    }
}

impl fmt::Debug for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pool: _, frame, offset, len, link_header_len, rx_timestamp_ns } = self;
        f.debug_struct("Packet")
            .field("frame", frame)
            .field("offset", offset)
            .field("len", len)
            .field("link_header_len", link_header_len)
            .field("rx_timestamp_ns", rx_timestamp_ns)
            .finish()
    }
}
