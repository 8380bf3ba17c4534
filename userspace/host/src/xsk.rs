//! A port over an AF_XDP socket, by xsk-rs.
//!
//! The only file that names xsk_rs, and besides the pool the only one with unsafe code. Two limits of
//! that crate shape it. Its `FrameDesc` is `Copy`, so it stays in here, and ownership is the pool's table.
//! And it has no setter for an address, so a descriptor can only point where the crate itself put it (the
//! canonical offset of a frame) or where the kernel delivered a frame; the tx queue moves other data there
//! before it submits.

use std::cell::Cell;
use std::ffi::CString;
use std::io;
use std::num::NonZeroU32;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, sockopt};
use xsk_rs::config::{BindFlags, FrameSize as XskFrameSize, Interface, LibxdpFlags, QueueSize};
use xsk_rs::config::{SocketConfig, UmemConfig};
use xsk_rs::umem::frame::FrameDesc;
use xsk_rs::{CompQueue, FillQueue, RxQueue, Socket, TxQueue, Umem};

use crate::kernel::{self, KernelError};
use netdext::packet::{Desc, FrameMemory, FrameSize, PacketPool, PoolConfig, PoolConfigError};
use netdext::port::{CompletionRing, Port, PortHandle, RingSizes, Rings, SocketStatistics, SubmissionRing};
use netdext::queue::RING_BATCH;

/// How long a busy queue is tried again: the kernel releases a closed socket's binding asynchronously.
const BUSY_DEADLINE: Duration = Duration::from_secs(2);

/// Bytes of frames that the socket may have on their way. In copy mode the kernel charges each frame's
/// socket buffer to it, and a full tx ring needs more than the usual default of 208 KiB.
const SEND_BUFFER: usize = 8 << 20;

/// The size of a huge page on x86-64, and of the default one on other machines at the most.
const HUGE_PAGE: usize = 2 << 20;

/// `XDP_MAX_TX_SKB_BUDGET` of linux/if_xdp.h: descriptors that one sendto(2) handles in copy mode.
const XDP_MAX_TX_SKB_BUDGET: libc::c_int = 9;

/// Whether frames are copied between the device and the UMEM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyMode {
    /// Zero-copy where the device has it, else copy.
    Auto,
    /// Always copy: needed when the XDP program is attached in skb mode.
    Copy,
}

/// What to open.
#[derive(Clone, Debug)]
pub struct XskConfig {
    /// Name of the interface.
    pub iface: String,
    /// The hardware queue to bind.
    pub queue: u32,
    /// Slots of the rings.
    pub rings: RingSizes,
    /// Size of the frames.
    pub frame_size: FrameSize,
    /// Whether to copy.
    pub copy: CopyMode,
    /// Open it also on a kernel that can panic as soon as it sends ([`Release::can_panic`](kernel::Release::can_panic)).
    pub risk_kernel_panic: bool,
}

/// What the kernel made of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct XskInfo {
    /// Whether the device reads and writes the UMEM itself (`XDP_OPTIONS_ZEROCOPY`).
    pub zero_copy: bool,
    /// Descriptors that one system call handles in copy mode, where the kernel lets it be set.
    pub tx_budget: Option<u32>,
    /// Whether the frames lie in huge pages: they do where the system has free ones (`vm.nr_hugepages`).
    pub huge_pages: bool,
    /// Times the queue was found busy before it could be bound.
    pub busy_retries: u32,
}

/// Why an AF_XDP socket cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The kernel can panic.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The rings or the frames have an impossible size.
    #[error("cannot open queue {queue} of {iface}: {what} {value} is not possible")]
    BadSize {
        /// The interface.
        iface: String,
        /// The queue.
        queue: u32,
        /// What has the size.
        what: &'static str,
        /// The size.
        value: u32,
    },
    /// Sockets that share memory are made alike.
    #[error(
        "cannot open queue {queue} of {iface} together with {first}: both need the same sizes of rings and frames and the \
         same copy mode"
    )]
    Unlike {
        /// The interface.
        iface: String,
        /// The queue.
        queue: u32,
        /// The first interface.
        first: String,
    },
    /// The memory cannot have another port.
    #[error("cannot open queue {queue} of {iface}")]
    Pool {
        /// The interface.
        iface: String,
        /// The queue.
        queue: u32,
        /// Why not.
        source: PoolConfigError,
    },
    /// The UMEM cannot be mapped or registered.
    #[error("cannot register {bytes} bytes of packet memory for queue {queue} of {iface}{}", umem_hint(.source))]
    Umem {
        /// The interface.
        iface: String,
        /// The queue.
        queue: u32,
        /// The size of the mapping.
        bytes: usize,
        /// What mmap(2) or setsockopt(2) with `XDP_UMEM_REG` returned.
        #[source]
        source: io::Error,
    },
    /// The queue cannot be bound.
    #[error("cannot bind an AF_XDP socket to queue {queue} of {iface}{}", bind_hint(.source))]
    Bind {
        /// The interface.
        iface: String,
        /// The queue.
        queue: u32,
        /// What bind(2) returned.
        #[source]
        source: io::Error,
    },
}

fn umem_hint(source: &io::Error) -> &'static str {
    match source.raw_os_error() {
        Some(libc::ENOBUFS | libc::ENOMEM) => {
            " (raise the limit of locked memory, ulimit -l, or grant CAP_IPC_LOCK)"
        }
        Some(libc::EPERM) => " (it needs CAP_NET_RAW: run as root)",
        _ => "",
    }
}

fn bind_hint(source: &io::Error) -> &'static str {
    match source.raw_os_error() {
        Some(libc::EBUSY) => " (another AF_XDP socket has it: stop that program)",
        Some(libc::EINVAL) => " (is the queue active? `ethtool -l` shows how many there are)",
        Some(libc::EPERM) => " (it needs CAP_NET_RAW: run as root)",
        Some(libc::EOPNOTSUPP) => " (the device cannot do that: try --mode skb)",
        _ => "",
    }
}

/// The error in an xsk-rs error, which hides it as its source.
fn source_of(error: &(dyn std::error::Error + 'static)) -> io::Error {
    let errno = error
        .source()
        .and_then(|source| source.downcast_ref::<io::Error>())
        .and_then(io::Error::raw_os_error);
    errno.map_or_else(|| io::Error::other(error.to_string()), io::Error::from_raw_os_error)
}

/// Opens an AF_XDP socket with a pool of its own and binds it to one queue of an interface; see [`open_all`].
///
/// # Errors
///
/// [`OpenError`] says which step failed and what to do.
pub fn open(config: &XskConfig) -> Result<(Port, XskInfo), OpenError> {
    Ok(open_all(std::slice::from_ref(config))?.remove(0))
}

/// Opens an AF_XDP socket for each of the interfaces, which share one pool (`XDP_SHARED_UMEM`), and binds each to its
/// queue. All ask for the same rings, frames and copying. All copy, or none does: where a later one can't do without, they
/// are opened again for copying.
///
/// A busy queue is tried again for two seconds. The sockets receive nothing before they are put into
/// the XDP programs' XSKMAPs.
///
/// # Errors
///
/// [`OpenError`] says which step failed and what to do.
///
/// # Panics
///
/// Without an interface.
pub fn open_all(configs: &[XskConfig]) -> Result<Vec<(Port, XskInfo)>, OpenError> {
    for config in configs {
        kernel::refuse_panic(config.risk_kernel_panic)?;
        if alike(config) != alike(&configs[0]) {
            let first = configs[0].iface.clone();
            return Err(OpenError::Unlike { iface: config.iface.clone(), queue: config.queue, first });
        }
    }
    match open_shared(configs) {
        // The kernel has the sockets that share memory do what the first one does (xp_assign_dev_shared).
        Err((place, OpenError::Bind { source, .. }))
            if place > 0 && configs[0].copy == CopyMode::Auto && is_about_copying(&source) =>
        {
            let copying = |config: &XskConfig| XskConfig { copy: CopyMode::Copy, ..config.clone() };
            let configs: Vec<_> = configs.iter().map(copying).collect();
            open_shared(&configs).map_err(|(_, error)| error)
        }
        opened => opened.map_err(|(_, error)| error),
    }
}

/// What sockets that share memory have in common.
fn alike(config: &XskConfig) -> (RingSizes, FrameSize, CopyMode) {
    (config.rings, config.frame_size, config.copy)
}

fn is_about_copying(source: &io::Error) -> bool {
    matches!(source.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EINVAL))
}

/// The same without a second try. An error comes with the place of the socket that it is about.
fn open_shared(configs: &[XskConfig]) -> Result<Vec<(Port, XskInfo)>, (usize, OpenError)> {
    let first = |error| (0, error);
    let frames = configs.iter().fold(0_u32, |sum, config| sum.saturating_add(config.rings.frames()));
    if frames == u32::MAX {
        return Err(first(bad_size(&configs[0], "number of frames", frames)));
    }
    let pool_config = PoolConfig { frames, frame_size: configs[0].frame_size };
    let (umem, descs, huge_pages) = create_umem(&configs[0], &pool_config).map_err(first)?;
    let memory = UmemMemory { base: umem_base(&umem, &descs), len: pool_config.bytes(), _umem: umem.clone() };
    let pool = PacketPool::new(&pool_config, Box::new(memory))
        .map_err(|source| first(pool_refused(&configs[0], source)))?;
    let table = Rc::new(DescTable {
        umem,
        frame_shift: pool_config.frame_size.bytes().trailing_zeros(),
        received: descs.iter().copied().map(Cell::new).collect(),
        canonical: descs.into_boxed_slice(),
    });
    let mut ports = Vec::new();
    for (place, config) in configs.iter().enumerate() {
        let (port, info) = open_port(config, &pool, &table).map_err(|error| (place, error))?;
        ports.push((port, XskInfo { huge_pages, ..info }));
    }
    Ok(ports)
}

/// A socket over the memory of a pool, as a port.
fn open_port(
    config: &XskConfig,
    pool: &PacketPool,
    table: &Rc<DescTable>,
) -> Result<(Port, XskInfo), OpenError> {
    let failed = |source| OpenError::Bind { iface: config.iface.clone(), queue: config.queue, source };
    let (socket, busy_retries) = bind(config, &table.umem)?;
    let (tx, rx, Some((fill, completion))) = socket else {
        return Err(failed(io::Error::other("a socket of this memory is bound to it already")));
    };
    let fd = SocketFd::of(&tx).map_err(failed)?;
    let info = XskInfo { busy_retries, ..configure(&fd, config) };
    let scratch = || Box::new([FrameDesc::default(); RING_BATCH]);
    let rings = Rings {
        fill: Box::new(FillRing {
            ring: fill,
            table: Rc::clone(table),
            scratch: scratch(),
            size: config.rings.fill(),
            fd: fd.clone(),
        }),
        rx: Box::new(RxRing { ring: rx, table: Rc::clone(table), scratch: scratch() }),
        tx: Box::new(TxRing {
            ring: tx,
            table: Rc::clone(table),
            scratch: scratch(),
            size: config.rings.tx,
            fd: fd.clone(),
        }),
        completion: Box::new(CompletionRingXsk { ring: completion, scratch: scratch() }),
    };
    let port = Port::new(pool, rings, config.rings, Box::new(XskHandle(fd)))
        .map_err(|source| pool_refused(config, source))?;
    Ok((port, info))
}

fn pool_refused(config: &XskConfig, source: PoolConfigError) -> OpenError {
    OpenError::Pool { iface: config.iface.clone(), queue: config.queue, source }
}

fn bad_size(config: &XskConfig, what: &'static str, value: u32) -> OpenError {
    OpenError::BadSize { iface: config.iface.clone(), queue: config.queue, what, value }
}

/// Makes the UMEM, in huge pages where there are free ones: one entry of the TLB then covers a thousand frames
/// instead of two. Says whether it did.
fn create_umem(config: &XskConfig, pool: &PoolConfig) -> Result<(Umem, Vec<FrameDesc>, bool), OpenError> {
    let bad = |what, value| bad_size(config, what, value);
    let size = |what, value| QueueSize::new(value).map_err(|_| bad(what, value));
    let frame_size = config.frame_size.bytes() as u32;
    let umem_config = UmemConfig::builder()
        .frame_size(XskFrameSize::new(frame_size).map_err(|_| bad("frame size", frame_size))?)
        .fill_queue_size(size("fill ring size", config.rings.fill())?)
        .comp_queue_size(size("completion ring size", config.rings.tx)?)
        .build()
        .map_err(|_| bad("frame size", frame_size))?;
    let frames = NonZeroU32::new(pool.frames).ok_or_else(|| bad("number of frames", 0))?;
    // Only whole huge pages: munmap(2) takes nothing else.
    if pool.bytes().is_multiple_of(HUGE_PAGE)
        && let Ok((umem, descs)) = Umem::new(umem_config, frames, true)
    {
        return Ok((umem, descs, true));
    }
    let (umem, descs) = Umem::new(umem_config, frames, false).map_err(|error| OpenError::Umem {
        iface: config.iface.clone(),
        queue: config.queue,
        bytes: pool.bytes(),
        source: source_of(&error),
    })?;
    Ok((umem, descs, false))
}

type BoundSocket = (TxQueue, RxQueue, Option<(FillQueue, CompQueue)>);

fn bind(config: &XskConfig, umem: &Umem) -> Result<(BoundSocket, u32), OpenError> {
    let bad = |what, value| bad_size(config, what, value);
    let failed = |source| OpenError::Bind { iface: config.iface.clone(), queue: config.queue, source };
    let size = |what, value| QueueSize::new(value).map_err(|_| bad(what, value));
    let mut flags = BindFlags::XDP_USE_NEED_WAKEUP;
    if config.copy == CopyMode::Copy {
        flags |= BindFlags::XDP_COPY;
    }
    let socket_config = SocketConfig::builder()
        .rx_queue_size(size("rx ring size", config.rings.rx)?)
        .tx_queue_size(size("tx ring size", config.rings.tx)?)
        .bind_flags(flags)
        // aya loads the program and fills the XSKMAP.
        .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
        .build();
    let name = CString::new(config.iface.as_str()).map_err(|error| failed(io::Error::other(error)))?;
    let interface = Interface::new(name);

    let deadline = Instant::now() + BUSY_DEADLINE;
    let mut pause = Duration::from_millis(1);
    let mut retries = 0;
    loop {
        // SAFETY: `socket_config` has the library load no program of its own (INHIBIT_PROG_LOAD), which is what the
        // contract asks for where the UMEM is shared; so the double free that it warns of cannot happen.
        match unsafe { Socket::new(socket_config, umem, &interface, config.queue) } {
            Ok(socket) => return Ok((socket, retries)),
            Err(error) => {
                let source = source_of(&error);
                if source.raw_os_error() != Some(libc::EBUSY) || Instant::now() + pause > deadline {
                    return Err(failed(source));
                }
            }
        }
        retries += 1;
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

/// Sets what makes copy mode faster, where the kernel has it, and asks what mode the socket is in.
fn configure(fd: &SocketFd, config: &XskConfig) -> XskInfo {
    let borrowed = fd.borrow();
    // Beyond net.core.wmem_max with CAP_NET_ADMIN; less is slower, not wrong.
    if sockopt::set_socket_send_buffer_size_force(borrowed, SEND_BUFFER).is_err() {
        let _ = sockopt::set_socket_send_buffer_size(borrowed, SEND_BUFFER);
    }
    let budget = config.rings.tx;
    let raised = set_tx_budget(borrowed, budget).is_ok();
    let zero_copy = sockopt::xdp_options(borrowed)
        .is_ok_and(|options| options.contains(rustix::net::xdp::XdpOptionsFlags::XDP_OPTIONS_ZEROCOPY));
    XskInfo { zero_copy, tx_budget: raised.then_some(budget), huge_pages: false, busy_retries: 0 }
}

/// How many descriptors one sendto(2) handles in copy mode from now on.
pub(crate) fn set_tx_budget(socket: BorrowedFd<'_>, budget: u32) -> Result<(), Errno> {
    // SAFETY: the option takes a u32, whose address and size are passed; the descriptor is open.
    let rc = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_XDP,
            XDP_MAX_TX_SKB_BUDGET,
            (&raw const budget).cast(),
            size_of::<u32>() as libc::socklen_t,
        )
    };
    if rc == 0 {
        return Ok(());
    }
    Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::INVAL))
}

/// Where the UMEM is mapped.
fn umem_base(umem: &Umem, descs: &[FrameDesc]) -> NonNull<u8> {
    let mut first = descs[0];
    let offset = first.addr();
    // SAFETY: `first` is a descriptor of this UMEM, and nothing else refers to its frame yet.
    let data = unsafe { umem.data_mut(&mut first) }.contents_mut().as_mut_ptr();
    // The mapping comes from mmap(2) and its address was given to the kernel, so its provenance is
    // exposed; the slice's own covers one frame only.
    let base = std::ptr::with_exposed_provenance_mut::<u8>(data.expose_provenance() - offset);
    NonNull::new(base).expect("mmap(2) returned it, and that is never null")
}

/// The mapping of a UMEM, as the memory of a pool.
struct UmemMemory {
    base: NonNull<u8>,
    len: usize,
    _umem: Umem,
}

// SAFETY: xsk-rs maps `len` bytes readable and writable and keeps them mapped as long as a `Umem` handle
// lives, which this value holds. In this process only the pool uses them; the kernel uses what is lent.
unsafe impl FrameMemory for UmemMemory {
    fn base(&self) -> NonNull<u8> {
        self.base
    }

    fn len(&self) -> usize {
        self.len
    }
}

/// The descriptors of every frame that xsk-rs can express.
struct DescTable {
    umem: Umem,
    frame_shift: u32,
    canonical: Box<[FrameDesc]>,
    // As the kernel last delivered each frame at another offset than the canonical one, which it does in zero-copy
    // mode only: in copy mode this is never touched, and takes no room in the cache.
    received: Box<[Cell<FrameDesc>]>,
}

impl DescTable {
    fn canonical(&self, addr: u64) -> FrameDesc {
        self.canonical[addr as usize >> self.frame_shift]
    }

    /// The descriptor for data that starts at `desc.addr`, with its length set.
    fn for_tx(&self, desc: Desc) -> FrameDesc {
        let frame = desc.addr as usize >> self.frame_shift;
        let mut found = self.canonical[frame];
        if found.addr() as u64 != desc.addr {
            found = self.received[frame].get();
        }
        // The tx queue aligns data to one of the two before it lends the frame.
        debug_assert_eq!(found.addr() as u64, desc.addr);
        // SAFETY: `found` is a descriptor of this UMEM; its frame is lent to the tx ring but not yet
        // published, so neither a packet nor the kernel refers to its bytes. Only the length is set.
        unsafe { self.umem.data_mut(&mut found) }.cursor().set_pos(desc.len as usize);
        found
    }

    /// Remembers where the kernel put the data of a frame, if that is not where the canonical descriptor has it.
    fn record(&self, desc: &FrameDesc) {
        let offset = |addr: usize| addr & ((1 << self.frame_shift) - 1);
        if offset(desc.addr()) == offset(self.canonical[0].addr()) {
            return;
        }
        // Out of range if the kernel returned nonsense; the pool counts that when it takes the frame.
        if let Some(slot) = self.received.get(desc.addr() >> self.frame_shift) {
            slot.set(*desc);
        }
    }
}

/// A descriptor of the socket besides that of xsk-rs, so that who has it need not rely on a queue to keep it open.
#[derive(Clone)]
struct SocketFd(Rc<OwnedFd>);

impl SocketFd {
    fn of(tx: &TxQueue) -> io::Result<Self> {
        // SAFETY: `tx` keeps the descriptor open, and the borrow ends before it.
        let socket = unsafe { BorrowedFd::borrow_raw(tx.fd().as_raw_fd()) };
        Ok(Self(Rc::new(socket.try_clone_to_owned()?)))
    }

    fn borrow(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

struct FillRing {
    ring: FillQueue,
    table: Rc<DescTable>,
    scratch: Box<[FrameDesc; RING_BATCH]>,
    size: u32,
    fd: SocketFd,
}

impl SubmissionRing for FillRing {
    fn size(&self) -> u32 {
        self.size
    }

    fn room(&mut self) -> u32 {
        self.ring.nb_free_exact()
    }

    fn produce(&mut self, descs: &[Desc]) {
        for batch in descs.chunks(RING_BATCH) {
            for (slot, desc) in self.scratch.iter_mut().zip(batch) {
                *slot = self.table.canonical(desc.addr);
            }
            // SAFETY: the frames are of this socket's UMEM and were lent to this ring by the pool, so
            // nothing else refers to them until the rx ring returns them.
            let produced = unsafe { self.ring.produce(&self.scratch[..batch.len()]) };
            debug_assert_eq!(produced, batch.len(), "the queue asked for room first");
        }
    }

    fn needs_wakeup(&self) -> bool {
        self.ring.needs_wakeup()
    }

    fn wake(&mut self) -> Result<(), Errno> {
        match rustix::net::recv(self.fd.borrow(), &mut [0_u8; 0][..], RecvFlags::DONTWAIT) {
            Ok(_) | Err(Errno::AGAIN) => Ok(()),
            Err(errno) => Err(errno),
        }
    }
}

struct TxRing {
    ring: TxQueue,
    table: Rc<DescTable>,
    scratch: Box<[FrameDesc; RING_BATCH]>,
    size: u32,
    fd: SocketFd,
}

impl SubmissionRing for TxRing {
    fn size(&self) -> u32 {
        self.size
    }

    fn room(&mut self) -> u32 {
        self.ring.nb_free_exact()
    }

    fn produce(&mut self, descs: &[Desc]) {
        for batch in descs.chunks(RING_BATCH) {
            for (slot, &desc) in self.scratch.iter_mut().zip(batch) {
                *slot = self.table.for_tx(desc);
            }
            // SAFETY: the frames are of this socket's UMEM and were lent to this ring by the pool, so
            // nothing else refers to them until the completion ring returns them.
            let produced = unsafe { self.ring.produce(&self.scratch[..batch.len()]) };
            debug_assert_eq!(produced, batch.len(), "the queue asked for room first");
        }
    }

    fn needs_wakeup(&self) -> bool {
        self.ring.needs_wakeup()
    }

    fn wake(&mut self) -> Result<(), Errno> {
        // Not xsk-rs' wakeup, which swallows the errors that are to be counted.
        rustix::net::send(self.fd.borrow(), &[], SendFlags::DONTWAIT).map(drop)
    }
}

struct RxRing {
    ring: RxQueue,
    table: Rc<DescTable>,
    scratch: Box<[FrameDesc; RING_BATCH]>,
}

impl CompletionRing for RxRing {
    fn consume(&mut self, out: &mut [Desc]) -> usize {
        let want = out.len().min(RING_BATCH);
        // SAFETY: the ring belongs to the UMEM whose frames these are.
        let got = unsafe { self.ring.consume(&mut self.scratch[..want]) };
        for (slot, desc) in out.iter_mut().zip(&self.scratch[..got]) {
            self.table.record(desc);
            *slot = Desc { addr: desc.addr() as u64, len: desc.lengths().data() as u32 };
        }
        got
    }
}

struct CompletionRingXsk {
    ring: CompQueue,
    scratch: Box<[FrameDesc; RING_BATCH]>,
}

impl CompletionRing for CompletionRingXsk {
    fn consume(&mut self, out: &mut [Desc]) -> usize {
        let want = out.len().min(RING_BATCH);
        // SAFETY: the ring belongs to the UMEM whose frames these are.
        let got = unsafe { self.ring.consume(&mut self.scratch[..want]) };
        for (slot, desc) in out.iter_mut().zip(&self.scratch[..got]) {
            *slot = Desc { addr: desc.addr() as u64, len: 0 };
        }
        got
    }
}

struct XskHandle(SocketFd);

impl PortHandle for XskHandle {
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.0.borrow())
    }

    fn statistics(&self) -> Result<SocketStatistics, Errno> {
        let counts = sockopt::xdp_statistics(self.0.borrow())?;
        Ok(SocketStatistics {
            rx_dropped: counts.rx_dropped,
            rx_invalid_descs: counts.rx_invalid_descs,
            tx_invalid_descs: counts.tx_invalid_descs,
            rx_ring_full: counts.rx_ring_full.unwrap_or(0),
            rx_fill_ring_empty_descs: counts.rx_fill_ring_empty_descs.unwrap_or(0),
            tx_ring_empty_descs: counts.tx_ring_empty_descs.unwrap_or(0),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(iface: &str) -> XskConfig {
        XskConfig {
            iface: iface.to_owned(),
            queue: 3,
            rings: RingSizes::default(),
            frame_size: FrameSize::TwoK,
            copy: CopyMode::Auto,
            risk_kernel_panic: true,
        }
    }

    fn refusal(configs: &[XskConfig]) -> String {
        open_all(configs).err().expect("it is refused").to_string()
    }

    #[test]
    fn sockets_that_share_memory_but_are_not_alike_are_refused_before_anything_is_opened() {
        let rings = RingSizes { rx: 64, tx: 64 };
        for other in [
            XskConfig { rings, ..config("b") },
            XskConfig { frame_size: FrameSize::FourK, ..config("b") },
            XskConfig { copy: CopyMode::Copy, ..config("b") },
        ] {
            let refusal = refusal(&[config("a"), other]);
            assert!(refusal.starts_with("cannot open queue 3 of b together with a: "), "{refusal}");
        }
    }

    #[test]
    fn more_frames_than_can_be_counted_are_refused_and_not_counted_wrong() {
        let rings = |rx, tx| RingSizes { rx, tx };
        for (rings, ports) in [(rings(1 << 31, 64), 1), (rings(1 << 30, 1 << 30), 2), (rings(64, 1 << 31), 2)]
        {
            let configs = vec![XskConfig { rings, ..config("a") }; ports];
            let refusal = refusal(&configs);
            assert!(refusal.contains("number of frames 4294967295 is not possible"), "{refusal}");
        }
    }
}
