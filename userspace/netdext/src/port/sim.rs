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

mod kernel;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use fastrand::Rng;
use rustix::io::Errno;

use self::kernel::{Flying, Kernel, RingKind, SimHandle, SimRing, State};
use super::{Port, RingSizes, Rings};
use crate::dispatch::Timestamp;
use crate::packet::{FrameSize, Lender, PacketPool, PoolConfig, PoolConfigError};

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

/// The wire: plays the kernel for both ports. See the [module](self).
pub struct Wire {
    state: Rc<RefCell<State>>,
}

impl Wire {
    /// Two ports, each with a pool of its own, and the wire between them. The same seed gives the same faults.
    ///
    /// # Errors
    ///
    /// [`PoolConfigError`] when the configuration has no frames.
    pub fn pair(config: &SimConfig, seed: u64) -> Result<(Port, Port, Self), PoolConfigError> {
        let frames = PoolConfig { frames: config.frames, frame_size: config.frame_size };
        let pools = [PacketPool::on_heap(&frames)?, PacketPool::on_heap(&frames)?];
        Self::pair_over(pools.each_ref(), config, seed)
    }

    /// Two ports over these pools, the first for the first port, and the wire between them. Any of the pools may
    /// have other ports, and both may be the same. The numbers and sizes of frames are the pools'.
    ///
    /// # Errors
    ///
    /// [`PoolConfigError::TooManyPorts`].
    pub fn pair_over(
        pools: [&PacketPool; 2],
        config: &SimConfig,
        seed: u64,
    ) -> Result<(Port, Port, Self), PoolConfigError> {
        let [a, b] = pools;
        let lenders = [a.lender()?, b.lender()?];
        let state = Rc::new(RefCell::new(State {
            kernels: lenders.clone().map(|lender| Kernel::new(lender, config.rings)),
            config: *config,
            faults: Faults::default(),
            rng: Rng::with_seed(seed),
            now: Timestamp::from_nanos(1_000_000_000),
        }));
        let port = |end: End, lender: Lender| {
            let ring = |kind| Box::new(SimRing { state: Rc::clone(&state), end, kind });
            let rings = Rings {
                fill: ring(RingKind::Fill),
                rx: ring(RingKind::Rx),
                tx: ring(RingKind::Tx),
                completion: ring(RingKind::Completion),
            };
            Port::of(lender, rings, config.rings, Box::new(SimHandle { state: Rc::clone(&state), end }))
        };
        let [a, b] = lenders;
        Ok((port(End::A, a), port(End::B, b), Self { state: Rc::clone(&state) }))
    }

    /// The simulated time.
    pub fn now(&self) -> Timestamp {
        self.state.borrow().now
    }

    /// A clock that shows the simulated time, for what reads the time by itself.
    pub fn clock(&self) -> impl Fn() -> Timestamp + 'static {
        let state = Rc::clone(&self.state);
        move || state.borrow().now
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
