//! The kernel's half of the rings of both ports.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::rc::Rc;

use fastrand::Rng;
use netdext_abi::{RX_META_MAGIC, RxMeta};
use rustix::io::Errno;

use super::{End, Faults, Moved, SimConfig};
use crate::dispatch::Timestamp;
use crate::packet::{Desc, Lender};
use crate::port::{CompletionRing, PortHandle, RingSizes, SocketStatistics, SubmissionRing};

/// A frame on the wire.
pub(super) struct Flying {
    pub(super) arrives: Timestamp,
    pub(super) data: Vec<u8>,
}

/// The kernel's half of one port.
pub(super) struct Kernel {
    lender: Lender,
    sizes: RingSizes,
    fill: VecDeque<Desc>,
    rx: VecDeque<Desc>,
    tx: VecDeque<Desc>,
    completion: VecDeque<Desc>,
    // Sent, but the completion ring was full or stalled.
    uncompleted: VecDeque<Desc>,
    // On their way to this end.
    pub(super) arriving: VecDeque<Flying>,
    awake: bool,
    statistics: SocketStatistics,
}

impl Kernel {
    pub(super) fn new(lender: Lender, sizes: RingSizes) -> Self {
        Self {
            lender,
            sizes,
            fill: VecDeque::new(),
            rx: VecDeque::new(),
            tx: VecDeque::new(),
            completion: VecDeque::new(),
            uncompleted: VecDeque::new(),
            arriving: VecDeque::new(),
            awake: false,
            statistics: SocketStatistics::default(),
        }
    }
}

/// Both kernels and the wire between them.
pub(super) struct State {
    pub(super) kernels: [Kernel; 2],
    pub(super) config: SimConfig,
    pub(super) faults: Faults,
    pub(super) rng: Rng,
    pub(super) now: Timestamp,
}

impl State {
    fn chance(&mut self, probability: f64) -> bool {
        probability > 0.0 && self.rng.f64() < probability
    }

    /// An address that some ring might wrongly return: anywhere, also beyond the pool.
    fn bad_address(&mut self, end: End) -> Desc {
        let pool = self.kernels[end as usize].lender.pool();
        let beyond = (pool.capacity() as u64 + 2) * pool.frame_size() as u64;
        Desc { addr: self.rng.u64(0..beyond), len: self.rng.u32(0..4096) }
    }

    pub(super) fn send(&mut self, from: End, frames: usize, moved: &mut Moved) {
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
            if kernel.lender.read_lent_tx(desc, &mut data) {
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

    pub(super) fn complete(&mut self, end: End, moved: &mut Moved) {
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

    pub(super) fn deliver(&mut self, to: End, frames: usize, moved: &mut Moved) {
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
        if data.len() > kernel.lender.pool().max_data() {
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
        let desc = kernel.lender.write_lent_rx(fill.addr, data, meta);
        kernel.statistics.rx_invalid_descs += u64::from(desc.is_none());
        desc
    }
}

#[derive(Clone, Copy)]
pub(super) enum RingKind {
    Fill,
    Rx,
    Tx,
    Completion,
}

pub(super) struct SimRing {
    pub(super) state: Rc<RefCell<State>>,
    pub(super) end: End,
    pub(super) kind: RingKind,
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

pub(super) struct SimHandle {
    pub(super) state: Rc<RefCell<State>>,
    pub(super) end: End,
}

impl PortHandle for SimHandle {
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn statistics(&self) -> Result<SocketStatistics, Errno> {
        Ok(self.state.borrow().kernels[self.end as usize].statistics)
    }
}
