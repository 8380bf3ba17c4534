//! The packet pool: equal frames in one mapping (the UMEM), and the table of who owns each.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::ptr::NonNull;
use std::rc::Rc;

use netdext_abi::{RX_META_LEN, RxMeta};

use super::layout::XDP_PACKET_HEADROOM;
use super::owner::{Owner, PortNumber};
use super::{Census, Desc, Lender, Lent, LentTo, Packet, PacketBatch, PoolConfig, PoolConfigError};

/// Memory that can back a pool.
///
/// # Safety
///
/// `base` is valid for reads and writes of `len` bytes, at the same address for as long as the value
/// lives, and nothing but the pool and (for frames lent to it) the kernel accesses those bytes.
#[expect(clippy::len_without_is_empty, reason = "a pool of no frames is refused")]
pub unsafe trait FrameMemory {
    /// The first byte.
    fn base(&self) -> NonNull<u8>;
    /// How many bytes there are.
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
/// [`Packet`] are gone. One pool belongs to one worker, whose ports can share it; it is neither `Send` nor `Sync`,
/// so it needs no atomics and no locks.
#[derive(Clone)]
pub struct PacketPool {
    inner: Rc<PoolInner>,
}

/// What the handles and the packets of a pool share.
pub(super) struct PoolInner {
    base: NonNull<u8>,
    frame_size: usize,
    // log2 of it: a frame's number is found for every descriptor, and a division takes long.
    frame_shift: u32,
    owners: Box<[Cell<Owner>]>,
    // Where the kernel last put the data of each frame: besides the canonical offset, the only one at
    // which xsk-rs can express a descriptor for that frame.
    rx_offsets: Box<[Cell<u16>]>,
    // Holds exactly the frames whose owner is `FREE`.
    free: RefCell<Vec<u32>>,
    // By the number of the port.
    ports: RefCell<Vec<PortCounts>>,
    // Keeps the mapping alive; dropped last because nothing above frees memory through `base`.
    _memory: Box<dyn FrameMemory>,
}

/// What went wrong at a port.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PortCounts {
    /// Descriptors that its rings returned wrongly.
    pub violations: u64,
    /// Frames that were quarantined while its tx ring had them: they are submitted and never complete.
    pub tx_quarantined: u64,
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

    /// A pool of the frames in `memory`.
    ///
    /// # Errors
    ///
    /// [`PoolConfigError`]: the configuration has no frame, or more than the memory holds.
    pub fn new(config: &PoolConfig, memory: Box<dyn FrameMemory>) -> Result<Self, PoolConfigError> {
        if config.frames == 0 {
            return Err(PoolConfigError::NoFrames);
        }
        if memory.len() < config.bytes() {
            return Err(PoolConfigError::TooLittleMemory { needed: config.bytes(), there: memory.len() });
        }
        let frames = config.frames as usize;
        Ok(Self {
            inner: Rc::new(PoolInner {
                base: memory.base(),
                frame_size: config.frame_size.bytes(),
                frame_shift: config.frame_size.bytes().trailing_zeros(),
                owners: vec![Cell::new(Owner::FREE); frames].into_boxed_slice(),
                rx_offsets: vec![Cell::new(XDP_PACKET_HEADROOM as u16); frames].into_boxed_slice(),
                // Reversed so that frames are first handed out in ascending order.
                free: RefCell::new((0..config.frames).rev().collect()),
                ports: RefCell::default(),
                _memory: memory,
            }),
        })
    }

    /// Takes a free frame: empty data at the default offset, all of it writable.
    pub fn alloc(&self) -> Option<Packet> {
        let frame = self.inner.take_free(Owner::USER)?;
        Some(Packet::new(Rc::clone(&self.inner), frame, XDP_PACKET_HEADROOM, 0, 0))
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

    /// How many frames can be taken.
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
                Owner::FREE => {}
                Owner::USER => census.user += 1,
                Owner::QUARANTINED => census.quarantined += 1,
                Owner::RETIRED => census.free += 1,
                lent => match lent.lent_to() {
                    Some(LentTo::Rx(_)) => census.rx_lent += 1,
                    Some(LentTo::Tx(_)) => census.tx_lent += 1,
                    None => {}
                },
            }
        }
        census
    }

    /// How often a ring returned a frame that had not been lent to it, or outside the pool's memory.
    pub fn violations(&self) -> u64 {
        self.inner.ports.borrow().iter().map(|port| port.violations).sum()
    }

    /// Whether `packet` was taken from this pool.
    pub fn owns(&self, packet: &Packet) -> bool {
        Rc::ptr_eq(&self.inner, packet.pool())
    }

    /// Whether both are handles to one pool.
    pub fn is_same(&self, other: &Self) -> bool {
        Rc::ptr_eq(&self.inner, &other.inner)
    }

    /// What another port needs to use the frames of this pool.
    ///
    /// # Errors
    ///
    /// [`PoolConfigError::TooManyPorts`].
    pub(crate) fn lender(&self) -> Result<Lender, PoolConfigError> {
        let mut ports = self.inner.ports.borrow_mut();
        let port = PortNumber::after(ports.len()).ok_or(PoolConfigError::TooManyPorts)?;
        ports.push(PortCounts::default());
        Ok(Lender::new(Rc::clone(&self.inner), port))
    }

    /// The handle to what a port or a packet shares with the pool.
    pub(super) fn of(inner: &Rc<PoolInner>) -> Self {
        Self { inner: Rc::clone(inner) }
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
    /// All bytes of a packet's frame.
    pub(super) fn frame_of(packet: &Packet) -> &[u8] {
        let pool = packet.pool();
        // SAFETY: the frame lies within the mapping, which the packet keeps alive. A frame has one packet at
        // the most (`alloc` and `take_back_rx` make it the user's first), so nothing writes to its bytes while
        // that packet is borrowed.
        unsafe { std::slice::from_raw_parts(pool.frame_ptr(packet.frame()).as_ptr(), pool.frame_size) }
    }

    /// All bytes of a packet's frame, writable.
    pub(super) fn frame_of_mut(packet: &mut Packet) -> &mut [u8] {
        let pool = packet.pool();
        // SAFETY: as in `frame_of`; the packet is borrowed mutably, so no other reference to the bytes exists.
        unsafe { std::slice::from_raw_parts_mut(pool.frame_ptr(packet.frame()).as_ptr(), pool.frame_size) }
    }

    pub(super) fn frame_size(&self) -> usize {
        self.frame_size
    }

    /// Where the kernel last put the data of a frame.
    pub(super) fn rx_offset(&self, frame: u32) -> u16 {
        self.rx_offsets[frame as usize].get()
    }

    /// Makes a frame of the user's the kernel's. False if it is not the user's any more.
    pub(super) fn lend(&self, frame: u32, to: LentTo) -> bool {
        let owner = &self.owners[frame as usize];
        let is_users = owner.get() == Owner::USER;
        if is_users {
            owner.set(Owner::lent(to));
        }
        is_users
    }

    /// Makes a frame that the rx ring returned the user's again. The caller has [`checked`](Self::checked) it.
    /// Returns the timestamp in front of the data, in ns, 0 if there is none.
    pub(super) fn receive(&self, frame: u32, offset: usize) -> u64 {
        self.owners[frame as usize].set(Owner::USER);
        self.rx_offsets[frame as usize].set(offset as u16);
        self.take_rx_timestamp(frame, offset)
    }

    /// Frames that each ring of a port has.
    pub(super) fn lent(&self, port: PortNumber) -> Lent {
        let count = |to| self.owners.iter().filter(|owner| owner.get() == Owner::lent(to)).count() as u32;
        Lent { rx: count(LentTo::Rx(port)), tx: count(LentTo::Tx(port)) }
    }

    /// This port is closed: what was lent to it counts as free from now on, and is never handed out again.
    ///
    /// Closing its rings does not end its socket, which the kernel may go on writing for: a duplicate of the descriptor
    /// keeps it open, and so does the UMEM, whose own descriptor is that of its first socket.
    pub(super) fn retire_lent(&self, port: PortNumber) {
        for owner in &self.owners {
            if matches!(owner.get().lent_to(), Some(LentTo::Rx(of) | LentTo::Tx(of)) if of == port) {
                owner.set(Owner::RETIRED);
            }
        }
    }

    /// What went wrong at a port.
    pub(super) fn counts(&self, port: PortNumber) -> PortCounts {
        self.ports.borrow()[port.index()]
    }

    /// Frees a frame if it is still the user's: its packet is gone.
    pub(super) fn give_back(&self, frame: u32) {
        if self.owners[frame as usize].get() == Owner::USER {
            self.release(frame);
        }
    }

    /// Reads the data of a frame that is lent to a port's tx ring: the kernel's half, for the simulated port.
    pub(super) fn read_lent_tx(&self, port: PortNumber, desc: Desc, into: &mut Vec<u8>) -> bool {
        let Some((frame, offset)) = self.locate(desc) else { return false };
        if self.owners[frame as usize].get() != Owner::lent(LentTo::Tx(port)) {
            return false;
        }
        // SAFETY: `locate` checked that offset + len lies within the frame, and a frame that is lent to a tx
        // ring has no `Packet`, so nothing else refers to its bytes.
        let data = unsafe {
            std::slice::from_raw_parts(self.frame_ptr(frame).as_ptr().add(offset), desc.len as usize)
        };
        into.clear();
        into.extend_from_slice(data);
        true
    }

    /// Writes `data` into a frame that is lent to a port's fill ring, with `meta` in front of it: the kernel's
    /// half, for the simulated port. Without `meta` those bytes stay as they are. Returns the descriptor for
    /// the rx ring.
    pub(super) fn write_lent_rx(
        &self,
        port: PortNumber,
        addr: u64,
        data: &[u8],
        meta: Option<RxMeta>,
    ) -> Option<Desc> {
        let desc = Desc { addr, len: u32::try_from(data.len()).ok()? };
        let (frame, offset) = self.locate(desc)?;
        if self.owners[frame as usize].get() != Owner::lent(LentTo::Rx(port)) || offset < RX_META_LEN {
            return None;
        }
        // SAFETY: `locate` checked that offset + len lies within the frame and offset >= the metadata's
        // size; a frame that is lent to a fill ring has no `Packet`, so nothing else refers to its bytes.
        let room = unsafe {
            std::slice::from_raw_parts_mut(
                self.frame_ptr(frame).as_ptr().add(offset - RX_META_LEN),
                RX_META_LEN + data.len(),
            )
        };
        if let Some(meta) = meta {
            room[..RX_META_LEN].copy_from_slice(&meta.to_bytes());
        }
        room[RX_META_LEN..].copy_from_slice(data);
        Some(desc)
    }

    fn frame_ptr(&self, frame: u32) -> NonNull<u8> {
        // SAFETY: every frame number in circulation is below `owners.len()` (`new` and `locate` see to
        // it), and the mapping holds `owners.len() * frame_size` bytes.
        unsafe { self.base.add((frame as usize) << self.frame_shift) }
    }

    /// Begins to load what [`receive`](Self::receive) and the driver will read of `desc`: the timestamp in front of
    /// the data and the headers. The kernel wrote both, often on another CPU.
    pub(super) fn prefetch_rx(&self, desc: Desc) {
        if let Some((frame, offset)) = self.locate(desc) {
            self.prefetch(frame, offset.saturating_sub(RX_META_LEN));
            self.prefetch(frame, offset);
        }
    }

    /// Begins to load a cache line of a frame.
    fn prefetch(&self, frame: u32, offset: usize) {
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        // SAFETY: every x86-64 has the instruction, which reads nothing that the program could see and faults at no
        // address.
        unsafe {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            _mm_prefetch::<_MM_HINT_T0>(self.frame_ptr(frame).as_ptr().wrapping_add(offset).cast());
        }
        #[cfg(not(all(target_arch = "x86_64", not(miri))))]
        let _ = (frame, offset);
    }

    pub(super) fn addr(&self, frame: u32, offset: usize) -> u64 {
        (((frame as usize) << self.frame_shift) + offset) as u64
    }

    pub(super) fn take_free(&self, owner: Owner) -> Option<u32> {
        let frame = self.free.borrow_mut().pop()?;
        self.owners[frame as usize].set(owner);
        Some(frame)
    }

    pub(super) fn release(&self, frame: u32) {
        self.owners[frame as usize].set(Owner::FREE);
        self.free.borrow_mut().push(frame);
    }

    /// Frame and offset of a descriptor that lies within one frame.
    fn locate(&self, desc: Desc) -> Option<(u32, usize)> {
        let addr = usize::try_from(desc.addr).ok()?;
        let (frame, offset) = (addr >> self.frame_shift, addr & (self.frame_size - 1));
        let within = frame < self.owners.len() && desc.len as usize <= self.frame_size - offset;
        within.then_some((frame as u32, offset))
    }

    /// Frame and offset of a descriptor that a ring returned, if that frame was lent to it.
    pub(super) fn checked(&self, desc: Desc, from: LentTo) -> Option<(u32, usize)> {
        match self.locate(desc) {
            Some((frame, offset)) if self.owners[frame as usize].get() == Owner::lent(from) => {
                Some((frame, offset))
            }
            _ => {
                self.violation(desc, from);
                None
            }
        }
    }

    /// A ring returned what it should not have: counted, and the frame, where there is one, is never used again,
    /// because the kernel may still write to it.
    #[cold]
    fn violation(&self, desc: Desc, from: LentTo) {
        let (LentTo::Rx(port) | LentTo::Tx(port)) = from;
        let mut ports = self.ports.borrow_mut();
        ports[port.index()].violations += 1;
        let Some(owner) =
            usize::try_from(desc.addr >> self.frame_shift).ok().and_then(|i| self.owners.get(i))
        else {
            return;
        };
        if owner.get() == Owner::FREE {
            let frame = (desc.addr >> self.frame_shift) as u32;
            self.free.borrow_mut().retain(|&free| free != frame);
        }
        // Of the port that had it, which need not be the one that returned it.
        if let Some(LentTo::Tx(port)) = owner.get().lent_to() {
            ports[port.index()].tx_quarantined += 1;
        }
        owner.set(Owner::QUARANTINED);
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
