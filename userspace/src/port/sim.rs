//! A wire in memory with a port at each end: no root, no kernel, reproducible from a seed.
//!
//! ```text
//!   Port A                         Wire                          Port B
//!   tx ring  ---> [ faults: drop, duplicate, reorder, delay ] ---> rx ring (into a frame of B's fill ring)
//!   completion <--- when sent (or later: stalled)
//!   rx ring  <--- [                 the same                ] <--- tx ring
//! ```
//! [`Wire::step`] plays the kernel's half of all eight rings: it honours their sizes, the need_wakeup
//! flag and the metadata in front of received frames. Time is simulated: it moves only with
//! [`Wire::advance`].

use std::cell::RefCell;
use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::time::Duration;

use fastrand::Rng;
use netdext_abi::{RX_META_MAGIC, RxMeta};
use rustix::io::Errno;

use super::{CompletionRing, Port, PortHandle, RingSizes, Rings, SocketStatistics, SubmissionRing};
use crate::dispatch::Timestamp;
use crate::packet::{Desc, FrameSize, PacketPool, PoolConfig, PoolConfigError};

/// One end of the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The first port of [`Wire::pair`].
    A,
    /// The second port of [`Wire::pair`].
    B,
}

impl End {
    const BOTH: [Self; 2] = [Self::A, Self::B];

    /// The end that frames from this one arrive at.
    pub const fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }
}

/// The shape of both ports and of the wire between them.
#[derive(Clone, Copy, Debug)]
pub struct SimConfig {
    /// Ring sizes of both ports.
    pub rings: RingSizes,
    /// Frames in each pool.
    pub frames: u32,
    /// Frame size of both pools.
    pub frame_size: FrameSize,
    /// How long a frame is on its way.
    pub latency: Duration,
    /// Whether the kernel sends only after it was woken, as in copy mode.
    pub need_wakeup: bool,
    /// Whether received frames carry a timestamp, as the XDP program writes it.
    pub timestamps: bool,
}

impl Default for SimConfig {
    fn default() -> Self {
        let rings = RingSizes { rx: 64, tx: 64 };
        Self {
            rings,
            frames: rings.frames(),
            frame_size: FrameSize::TwoK,
            latency: Duration::ZERO,
            need_wakeup: true,
            timestamps: true,
        }
    }
}

/// What goes wrong on the wire. Probabilities are per frame, from 0 to 1.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// A frame is lost.
    pub drop: f64,
    /// A frame arrives twice.
    pub duplicate: f64,
    /// A frame overtakes the one before it.
    pub reorder: f64,
    /// A frame takes [`delay`](Self::delay) longer.
    pub delayed: f64,
    /// How much longer.
    pub delay: Duration,
    /// A ring returns, besides what it should, an address that was not lent to it.
    pub bad_address: f64,
    /// Completions are held back as long as this is set.
    pub stall_completions: bool,
    /// Received frames find the rx ring full as long as this is set.
    pub rx_ring_full: bool,
    /// What waking the kernel returns as long as this is set; it does not send then.
    pub wake_error: Option<Errno>,
    /// How many frames one call to wake the kernel sends before it returns EAGAIN, as in copy mode
    /// (`TX_BATCH_SIZE` of net/xdp/xsk.c); `None` leaves the sending to [`Wire::step`].
    pub wake_batch: Option<usize>,
}

/// What a [`Wire::step`] moved, in frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// Taken from tx rings.
    pub sent: usize,
    /// Put into rx rings.
    pub delivered: usize,
    /// Lost: on the wire, for want of a frame in the fill ring or of room in the rx ring.
    pub lost: usize,
    /// Put into completion rings.
    pub completed: usize,
}

impl Moved {
    /// Whether anything moved.
    pub fn any(&self) -> bool {
        *self != Self::default()
    }
}

struct Flying {
    arrives: Timestamp,
    data: Vec<u8>,
}

/// The kernel's half of one port.
struct Kernel {
    pool: PacketPool,
    sizes: RingSizes,
    fill: VecDeque<Desc>,
    rx: VecDeque<Desc>,
    tx: VecDeque<Desc>,
    completion: VecDeque<Desc>,
    // Sent, but the completion ring was full or stalled.
    uncompleted: VecDeque<Desc>,
    // On their way to this end.
    arriving: VecDeque<Flying>,
    awake: bool,
    statistics: SocketStatistics,
}

struct State {
    kernels: [Kernel; 2],
    config: SimConfig,
    faults: Faults,
    rng: Rng,
    now: Timestamp,
}

/// The wire: plays the kernel for both ports. See the [module](self).
pub struct Wire {
    state: Rc<RefCell<State>>,
}

impl Wire {
    /// Two ports and the wire between them. The same seed gives the same faults.
    ///
    /// # Errors
    ///
    /// [`PoolConfigError`] when the configuration has no frames.
    pub fn pair(config: &SimConfig, seed: u64) -> Result<(Port, Port, Self), PoolConfigError> {
        let kernel = || -> Result<Kernel, PoolConfigError> {
            let pool = PoolConfig { frames: config.frames, frame_size: config.frame_size };
            Ok(Kernel {
                pool: PacketPool::on_heap(&pool)?,
                sizes: config.rings,
                fill: VecDeque::new(),
                rx: VecDeque::new(),
                tx: VecDeque::new(),
                completion: VecDeque::new(),
                uncompleted: VecDeque::new(),
                arriving: VecDeque::new(),
                awake: false,
                statistics: SocketStatistics::default(),
            })
        };
        let state = Rc::new(RefCell::new(State {
            kernels: [kernel()?, kernel()?],
            config: *config,
            faults: Faults::default(),
            rng: Rng::with_seed(seed),
            now: Timestamp::from_nanos(1_000_000_000),
        }));
        let port = |end: End| {
            let ring = |kind| Box::new(SimRing { state: Rc::clone(&state), end, kind });
            let rings = Rings {
                fill: ring(RingKind::Fill),
                rx: ring(RingKind::Rx),
                tx: ring(RingKind::Tx),
                completion: ring(RingKind::Completion),
            };
            let pool = state.borrow().kernels[end as usize].pool.clone();
            Port::new(pool, rings, config.rings, Box::new(SimHandle { state: Rc::clone(&state), end }))
        };
        Ok((port(End::A), port(End::B), Self { state: Rc::clone(&state) }))
    }

    /// The simulated time.
    pub fn now(&self) -> Timestamp {
        self.state.borrow().now
    }

    /// Lets time pass. Nothing moves before the next [`step`](Self::step).
    pub fn advance(&mut self, by: Duration) {
        let mut state = self.state.borrow_mut();
        state.now = state.now + by;
    }

    /// Changes what goes wrong from now on.
    pub fn set_faults(&mut self, faults: Faults) {
        self.state.borrow_mut().faults = faults;
    }

    /// Whether received frames carry a timestamp from now on.
    pub fn set_timestamps(&mut self, timestamps: bool) {
        self.state.borrow_mut().config.timestamps = timestamps;
    }

    /// Puts a frame on the wire towards `to`, as if the other end had sent it.
    pub fn inject(&mut self, to: End, data: &[u8]) {
        let mut state = self.state.borrow_mut();
        let arrives = state.now + state.config.latency;
        state.kernels[to as usize].arriving.push_back(Flying { arrives, data: data.to_vec() });
    }

    /// Moves up to `frames` frames in each direction: tx ring to wire, wire to rx ring, and completions.
    pub fn step(&mut self, frames: usize) -> Moved {
        let mut state = self.state.borrow_mut();
        let mut moved = Moved::default();
        for end in End::BOTH {
            state.send(end, frames, &mut moved);
            state.complete(end, &mut moved);
        }
        for end in End::BOTH {
            state.deliver(end, frames, &mut moved);
        }
        moved
    }

    /// Steps until nothing moves any more at the present time.
    pub fn settle(&mut self) -> Moved {
        let mut total = Moved::default();
        loop {
            let moved = self.step(usize::MAX);
            if !moved.any() {
                return total;
            }
            total.sent += moved.sent;
            total.delivered += moved.delivered;
            total.lost += moved.lost;
            total.completed += moved.completed;
        }
    }

    /// Frames on their way to `end`.
    pub fn in_flight_to(&self, end: End) -> usize {
        self.state.borrow().kernels[end as usize].arriving.len()
    }
}

impl State {
    fn chance(&mut self, probability: f64) -> bool {
        probability > 0.0 && self.rng.f64() < probability
    }

    /// An address that some ring might wrongly return: anywhere, also beyond the pool.
    fn bad_address(&mut self, end: End) -> Desc {
        let pool = &self.kernels[end as usize].pool;
        let beyond = (pool.capacity() as u64 + 2) * pool.frame_size() as u64;
        Desc { addr: self.rng.u64(0..beyond), len: self.rng.u32(0..4096) }
    }

    fn send(&mut self, from: End, frames: usize, moved: &mut Moved) {
        if self.config.need_wakeup && !self.kernels[from as usize].awake {
            return;
        }
        for _ in 0..frames {
            let kernel = &mut self.kernels[from as usize];
            let Some(desc) = kernel.tx.pop_front() else {
                kernel.awake = false;
                break;
            };
            let mut data = Vec::new();
            if kernel.pool.read_lent_tx(desc, &mut data) {
                self.launch(from.other(), data, moved);
            } else {
                kernel.statistics.tx_invalid_descs += 1;
            }
            self.kernels[from as usize].uncompleted.push_back(desc);
            moved.sent += 1;
        }
    }

    /// Puts a frame on the wire towards `to`, with the faults of the wire.
    fn launch(&mut self, to: End, data: Vec<u8>, moved: &mut Moved) {
        let faults = self.faults;
        if self.chance(faults.drop) {
            moved.lost += 1;
            return;
        }
        let mut arrives = self.now + self.config.latency;
        if self.chance(faults.delayed) {
            arrives = arrives + faults.delay;
        }
        let (duplicate, overtakes) = (self.chance(faults.duplicate), self.chance(faults.reorder));
        let arriving = &mut self.kernels[to as usize].arriving;
        if duplicate {
            arriving.push_back(Flying { arrives, data: data.clone() });
        }
        let place = arriving.len() - usize::from(overtakes && !arriving.is_empty());
        arriving.insert(place, Flying { arrives, data });
    }

    fn complete(&mut self, end: End, moved: &mut Moved) {
        if self.faults.stall_completions {
            return;
        }
        while !self.kernels[end as usize].uncompleted.is_empty() {
            let bad = self.chance(self.faults.bad_address).then(|| self.bad_address(end));
            let kernel = &mut self.kernels[end as usize];
            if kernel.completion.len() >= kernel.sizes.tx as usize {
                break;
            }
            kernel.completion.extend(kernel.uncompleted.pop_front());
            kernel.completion.extend(bad);
            moved.completed += 1;
        }
    }

    fn deliver(&mut self, to: End, frames: usize, moved: &mut Moved) {
        for _ in 0..frames {
            let now = self.now;
            let arriving = &mut self.kernels[to as usize].arriving;
            let Some(due) = arriving.iter().position(|flying| flying.arrives <= now) else { break };
            let Some(Flying { data, .. }) = arriving.remove(due) else { break };
            let bad = self.chance(self.faults.bad_address).then(|| self.bad_address(to));
            match self.receive(to, &data) {
                Some(desc) => {
                    let rx = &mut self.kernels[to as usize].rx;
                    rx.push_back(desc);
                    rx.extend(bad);
                    moved.delivered += 1;
                }
                None => moved.lost += 1,
            }
        }
    }

    /// Writes a frame into the next one of the fill ring, as the kernel's copy mode does.
    fn receive(&mut self, to: End, data: &[u8]) -> Option<Desc> {
        let ring_full = self.faults.rx_ring_full;
        let meta = RxMeta { magic: RX_META_MAGIC, reserved: 0, ktime_ns: self.now.as_nanos() };
        let meta = self.config.timestamps.then_some(meta);
        let kernel = &mut self.kernels[to as usize];
        if data.len() > kernel.pool.max_data() {
            kernel.statistics.rx_dropped += 1;
            return None;
        }
        if ring_full || kernel.rx.len() >= kernel.sizes.rx as usize {
            kernel.statistics.rx_ring_full += 1;
            return None;
        }
        let Some(fill) = kernel.fill.pop_front() else {
            kernel.statistics.rx_fill_ring_empty_descs += 1;
            kernel.statistics.rx_dropped += 1;
            return None;
        };
        let desc = kernel.pool.write_lent_rx(fill.addr, data, meta);
        kernel.statistics.rx_invalid_descs += u64::from(desc.is_none());
        desc
    }
}

#[derive(Clone, Copy)]
enum RingKind {
    Fill,
    Rx,
    Tx,
    Completion,
}

struct SimRing {
    state: Rc<RefCell<State>>,
    end: End,
    kind: RingKind,
}

impl SimRing {
    fn with<T>(&self, f: impl FnOnce(&mut VecDeque<Desc>, u32) -> T) -> T {
        let mut state = self.state.borrow_mut();
        let kernel = &mut state.kernels[self.end as usize];
        match self.kind {
            RingKind::Fill => f(&mut kernel.fill, kernel.sizes.fill()),
            RingKind::Rx => f(&mut kernel.rx, kernel.sizes.rx),
            RingKind::Tx => f(&mut kernel.tx, kernel.sizes.tx),
            RingKind::Completion => f(&mut kernel.completion, kernel.sizes.tx),
        }
    }
}

impl SubmissionRing for SimRing {
    fn size(&self) -> u32 {
        self.with(|_, size| size)
    }

    fn room(&mut self) -> u32 {
        self.with(|ring, size| size - ring.len() as u32)
    }

    fn produce(&mut self, descs: &[Desc]) {
        self.with(|ring, _| ring.extend(descs));
    }

    fn needs_wakeup(&self) -> bool {
        matches!(self.kind, RingKind::Tx) && self.state.borrow().config.need_wakeup
    }

    fn wake(&mut self) -> Result<(), Errno> {
        let mut state = self.state.borrow_mut();
        if let Some(errno) = state.faults.wake_error {
            return Err(errno);
        }
        state.kernels[self.end as usize].awake = true;
        let Some(batch) = state.faults.wake_batch else { return Ok(()) };
        state.send(self.end, batch, &mut Moved::default());
        let kernel = &mut state.kernels[self.end as usize];
        kernel.awake = false;
        if kernel.tx.is_empty() { Ok(()) } else { Err(Errno::AGAIN) }
    }
}

impl CompletionRing for SimRing {
    fn consume(&mut self, out: &mut [Desc]) -> usize {
        self.with(|ring, _| {
            let count = out.len().min(ring.len());
            for (slot, desc) in out.iter_mut().zip(ring.drain(..count)) {
                *slot = desc;
            }
            count
        })
    }
}

struct SimHandle {
    state: Rc<RefCell<State>>,
    end: End,
}

impl PortHandle for SimHandle {
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn statistics(&self) -> Result<SocketStatistics, Errno> {
        Ok(self.state.borrow().kernels[self.end as usize].statistics)
    }
}
