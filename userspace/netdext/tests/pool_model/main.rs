//! The pool and the queues over the simulated wire, against a dull model of where every frame is.
//!
//! The model keeps plain lists: the packets in hand with a copy of their data, the frames submitted for
//! sending in order, the frames lent for receiving in order, and every payload that was sent. After each
//! operation the census must equal what the lists say. The two ports have a pool each, or share one.
//!
//! `NETDEXT_SEED` repeats a run.

mod model;

use std::time::Duration;

use fastrand::Rng;
use model::{Held, Side, Trust, assert_census, frame};
use netdext::packet::{FrameSize, Lent, Packet, PacketBatch, PacketPool, PoolConfig};
use netdext::port::sim::{End, Faults, SimConfig, Wire};
use netdext::port::{ClosingCensus, RingSizes};
use netdext::queue::{RejectReason, Rejected};
use rustix::io::Errno;

/// Worlds per test.
const WORLDS: u64 = if cfg!(miri) { 2 } else { 30 };
/// Operations in each.
const OPERATIONS: usize = if cfg!(miri) { 300 } else { 20_000 };
/// Bytes that the kernel's tx path asks for at least (`ETH_HLEN`).
const MIN_FRAME: usize = 14;
/// Packets that a side holds at the most.
const HELD: usize = 16;

/// What the two ports have for pools.
#[derive(Clone, Copy, PartialEq)]
enum Pools {
    OneEach,
    Shared,
}

struct World {
    sides: [Side; 2],
    pools: Pools,
    wire: Wire,
    rng: Rng,
    trust: Trust,
    faults: Faults,
    serial: u64,
}

impl World {
    fn new(trust: Trust, pools: Pools, seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let rings = RingSizes { rx: 1 << rng.u32(2..6), tx: 1 << rng.u32(2..6) };
        let ports = if pools == Pools::Shared { 2 } else { 1 };
        let config = SimConfig {
            rings,
            // Always more than the fill rings can hoard.
            frames: rng.u32(ports * rings.fill() + 2..ports * rings.frames() + 8),
            frame_size: if rng.bool() { FrameSize::TwoK } else { FrameSize::FourK },
            latency: Duration::from_micros(rng.u64(0..50)),
            need_wakeup: rng.bool(),
            timestamps: rng.bool(),
        };
        let pool = || {
            let config = PoolConfig { frames: config.frames, frame_size: config.frame_size };
            PacketPool::on_heap(&config).expect("there are frames")
        };
        let (first, second) = (pool(), pool());
        let both = if pools == Pools::Shared { [&first, &first] } else { [&first, &second] };
        let (a, b, wire) = Wire::pair_over(both, &config, rng.u64(..)).expect("they have one or two ports");
        let sides = [Side::new(a, rings), Side::new(b, rings)];
        Self { sides, pools, wire, rng, trust, faults: Faults::default(), serial: 0 }
    }

    /// The sides that share the pool of this one.
    fn sharing(&self, end: End) -> &[Side] {
        match self.pools {
            Pools::OneEach => std::slice::from_ref(&self.sides[end as usize]),
            Pools::Shared => &self.sides,
        }
    }

    /// Frames free for this side.
    fn free(&self, end: End) -> usize {
        let taken: usize = self.sharing(end).iter().map(Side::taken).sum();
        self.sides[end as usize].port.pool.capacity() - taken
    }

    fn assert_censuses(&self) {
        for end in [End::A, End::B] {
            assert_census(self.sharing(end), self.trust);
        }
    }

    /// Runs to the end and says how many violations the pools counted.
    fn run(mut self) -> u64 {
        for _ in 0..OPERATIONS {
            self.operate();
            self.assert_censuses();
        }
        self.drain();
        if self.trust == Trust::Exact {
            self.assert_all_arrived(End::A);
            self.assert_all_arrived(End::B);
        }
        let Self { sides: [mut a, mut b], pools, .. } = self;
        (a.held, b.held) = (Vec::new(), Vec::new());
        let of_b = b.port.lent();
        let closed = [a.port.close(), b.port.close()];
        assert!(closed.iter().all(ClosingCensus::is_whole), "{closed:?}");
        let left = if pools == Pools::Shared { of_b } else { Lent::default() };
        for (closed, left) in closed.iter().zip([left, Lent::default()]) {
            assert_eq!((closed.after.rx_lent, closed.after.tx_lent), (left.rx, left.tx), "{closed:?}");
        }
        closed.iter().map(|closed| closed.violations).sum()
    }

    fn operate(&mut self) {
        let end = if self.rng.bool() { End::A } else { End::B };
        match self.rng.u32(0..100) {
            0..15 => self.alloc(end),
            15..25 => self.reshape(end),
            25..37 => self.submit(end, end),
            37..40 => self.submit(end, end.other()),
            40..50 => self.flush(end),
            50..58 => self.refill(end),
            58..61 => self.submit_for_receiving(end, end),
            61..62 => self.submit_for_receiving(end, end.other()),
            62..72 => self.dequeue(end),
            72..80 => self.reap(end),
            80..84 => self.forget(end),
            84..97 => {
                self.wire.advance(Duration::from_micros(self.rng.u64(0..40)));
                self.wire.step(self.rng.usize(1..20));
            }
            _ => self.change_faults(),
        }
    }

    fn alloc(&mut self, end: End) {
        if self.sides[end as usize].held.len() == HELD {
            return;
        }
        let packet = self.sides[end as usize].port.pool.alloc();
        if self.trust != Trust::Nobody {
            assert_eq!(packet.is_some(), self.free(end) > 0);
        }
        let Some(mut packet) = packet else { return };
        if self.trust != Trust::Nobody {
            self.assert_nowhere(&packet);
        }
        packet.set_data_len(self.rng.usize(0..80)).expect("80 bytes fit");
        self.rng.fill(packet.data_mut());
        self.sides[end as usize].hold(packet);
    }

    fn assert_nowhere(&self, packet: &Packet) {
        self.sides.iter().for_each(|side| side.assert_nowhere(packet));
    }

    /// Moves the bounds of a held packet's data; what stays within them must not change.
    fn reshape(&mut self, end: End) {
        let Some(index) = self.pick(end) else { return };
        let rng = &mut self.rng;
        let Held { packet, data } = &mut self.sides[end as usize].held[index];
        let (offset, len, frame_size) = (packet.data_offset(), packet.data_len(), packet.frame_size());
        match rng.u32(0..4) {
            0 => {
                let front: Vec<u8> = (0..rng.usize(0..400)).map(|_| rng.u8(..)).collect();
                let prepended = packet.prepend(front.len()).map(|room| room.copy_from_slice(&front));
                assert_eq!(prepended.is_ok(), front.len() <= offset);
                if prepended.is_ok() {
                    data.splice(..0, front);
                }
            }
            1 => {
                let n = if rng.bool() { len } else { rng.usize(0..100) };
                let advanced = packet.advance(n);
                assert_eq!(advanced.is_ok(), n <= len);
                if advanced.is_ok() {
                    data.drain(..n);
                }
            }
            _ => {
                let start = rng.usize(0..frame_size + 9);
                let want = if rng.bool() { rng.usize(0..frame_size + 9) } else { frame_size.abs_diff(start) };
                let placed = packet.set_data(start, want);
                assert_eq!(placed.is_ok(), start + want <= frame_size);
                if placed.is_err() {
                    return;
                }
                let (from, to) = (start.max(offset), (start + want).min(offset + len));
                if from < to {
                    let now = &packet.data()[from - start..to - start];
                    assert!(now == &data[from - offset..to - offset], "moving the bounds changed bytes");
                }
                *data = packet.data().to_vec();
            }
        }
    }

    /// Sends a packet that `from` holds by the port at `end`.
    fn submit(&mut self, from: End, end: End) {
        let Some(index) = self.pick(from) else { return };
        let Held { mut packet, mut data } = self.sides[from as usize].held.swap_remove(index);
        let foreign = from != end && self.pools == Pools::OneEach;
        let side = &mut self.sides[end as usize];
        let sendable = data.len() >= MIN_FRAME;
        self.serial += 1;
        if sendable {
            data[..8].copy_from_slice(&self.serial.to_be_bytes());
            packet.data_mut()[..8].copy_from_slice(&self.serial.to_be_bytes());
        }
        let (this, room) = (frame(&packet), side.port.tx_submission.room());
        match side.port.tx_submission.submit(packet) {
            Ok(()) => {
                assert!(sendable && room > 0 && !foreign);
                side.tx.push_back(this);
                side.sent.insert(self.serial, (data, 0));
            }
            Err(Rejected { packet, reason }) => {
                match reason {
                    RejectReason::Full => assert_eq!(room, 0),
                    RejectReason::BadLength => assert!(!sendable || data.len() > side.port.pool.max_data()),
                    RejectReason::ForeignPool => assert!(foreign),
                }
                self.sides[from as usize].held.push(Held { packet, data });
            }
        }
    }

    fn flush(&mut self, end: End) {
        let side = &mut self.sides[end as usize];
        let staged = side.port.tx_submission.staged();
        match side.port.tx_submission.flush() {
            Ok(flushed) => assert_eq!(flushed.published, staged),
            Err(error) => assert!(self.faults.wake_error == Some(Errno::NXIO), "{error}"),
        }
        assert_eq!(side.port.tx_submission.staged(), 0);
    }

    fn refill(&mut self, end: End) {
        let side = &mut self.sides[end as usize];
        let room = side.fill_size - side.port.rx_submission.level() as usize;
        let free = side.port.pool.available();
        let moved = side.port.rx_submission.refill();
        assert_eq!(moved, free.min(room));
        side.rx.extend(std::iter::repeat_n(None, moved));
    }

    /// Gives held packets to the fill ring, as a driver does that allocates ahead. One of another pool stays.
    fn submit_for_receiving(&mut self, from: End, end: End) {
        let held = &mut self.sides[from as usize].held;
        let count = self.rng.usize(0..4).min(held.len());
        let mut batch = PacketBatch::with_capacity(HELD);
        let mut frames = Vec::new();
        for Held { packet, .. } in held.drain(..count) {
            frames.push(Some(frame(&packet)));
            batch.push(packet).expect("no more are held than fit");
        }
        let foreign = from != end && self.pools == Pools::OneEach;
        let side = &mut self.sides[end as usize];
        let room = if foreign { 0 } else { side.fill_size - side.port.rx_submission.level() as usize };
        let moved = side.port.rx_submission.submit(&mut batch);
        if self.trust != Trust::Nobody || foreign {
            assert_eq!(moved, count.min(room));
            assert_eq!(batch.len(), count - moved);
        }
        side.rx.extend(frames.drain(..moved));
        while let Some(packet) = batch.pop() {
            self.sides[from as usize].hold(packet);
        }
    }

    fn dequeue(&mut self, end: End) {
        let side = &mut self.sides[end as usize];
        let mut batch = PacketBatch::with_capacity(HELD - side.held.len());
        let taken = side.port.rx_completion.dequeue(&mut batch);
        assert_eq!(taken, batch.len());
        while let Some(packet) = batch.pop() {
            if self.trust != Trust::Nobody {
                self.assert_arrival(end, &packet);
            }
            self.sides[end as usize].hold(packet);
        }
    }

    fn assert_arrival(&mut self, end: End, packet: &Packet) {
        let side = &mut self.sides[end as usize];
        let lent = side.rx.pop_front().expect("received into a frame that was lent");
        assert!(lent.is_none_or(|lent| lent == frame(packet)), "received into another frame than the next");
        self.assert_nowhere(packet);
        let side = &mut self.sides[end as usize];
        side.received += 1;
        let serial = u64::from_be_bytes(packet.data()[..8].try_into().expect("eight bytes"));
        if self.trust == Trust::Exact {
            assert!(serial > side.arrived, "{serial} after {}", side.arrived);
            side.arrived = serial;
        }
        let sent = &mut self.sides[end.other() as usize].sent;
        let (data, deliveries) = sent.get_mut(&serial).expect("sent by the other end");
        assert!(packet.data() == data, "payload {serial} changed on its way");
        *deliveries += 1;
        let allowed = if self.trust == Trust::Exact { 1 } else { 2 };
        assert!(*deliveries <= allowed, "payload {serial} arrived {deliveries} times");
    }

    fn reap(&mut self, end: End) {
        let max = self.rng.usize(0..40);
        let side = &mut self.sides[end as usize];
        let reaped = side.port.tx_completion.reap(max);
        assert!(reaped <= max);
        if self.trust != Trust::Nobody {
            assert!(reaped <= side.tx.len(), "more completed than were submitted");
            side.tx.drain(..reaped);
        }
    }

    /// Drops a held packet, which returns its frame.
    fn forget(&mut self, end: End) {
        if let Some(index) = self.pick(end) {
            self.sides[end as usize].held.swap_remove(index);
        }
    }

    fn pick(&mut self, end: End) -> Option<usize> {
        let held = self.sides[end as usize].held.len();
        (held > 0).then(|| self.rng.usize(..held))
    }

    fn change_faults(&mut self) {
        let rng = &mut self.rng;
        let mut faults = Faults::default();
        if rng.bool() {
            faults.stall_completions = rng.bool();
            faults.rx_ring_full = rng.u32(0..4) == 0;
            faults.wake_batch = rng.bool().then(|| rng.usize(1..5));
            faults.wake_error = (rng.u32(0..4) == 0).then_some(Errno::AGAIN);
            if self.trust != Trust::Exact {
                (faults.drop, faults.duplicate) = (rng.f64() / 2.0, rng.f64() / 2.0);
                (faults.reorder, faults.delayed) = (rng.f64() / 2.0, rng.f64() / 2.0);
                faults.delay = Duration::from_micros(rng.u64(0..200));
            }
            if self.trust == Trust::Nobody {
                faults.bad_address = rng.f64() / 10.0;
                faults.wake_error = faults.wake_error.map(|_| Errno::NXIO);
            }
        }
        self.faults = faults;
        self.wire.set_faults(faults);
    }

    /// Lets everything that is under way arrive, without faults.
    fn drain(&mut self) {
        self.faults = Faults::default();
        self.wire.set_faults(self.faults);
        for _ in 0..200 {
            for end in [End::A, End::B] {
                self.sides[end as usize].held.clear();
                self.flush(end);
                self.dequeue(end);
                self.reap(end);
                self.refill(end);
            }
            self.wire.advance(Duration::from_millis(1));
            self.wire.step(16);
            self.assert_censuses();
        }
        if self.trust != Trust::Nobody {
            assert!(self.sides.iter().all(|side| side.tx.is_empty()), "some sent frames never came back");
        }
    }

    /// What was sent to `end` was received, or is counted as lost there.
    fn assert_all_arrived(&self, end: End) {
        let statistics = self.sides[end as usize].port.statistics().expect("the simulated port has them");
        let sent = self.sides[end.other() as usize].sent.len() as u64;
        assert_eq!(sent, self.sides[end as usize].received + statistics.rx_lost(), "{statistics:?}");
    }
}

/// Runs a number of worlds, and says how many violations their pools counted.
fn run_worlds(trust: Trust, pools: Pools) -> u64 {
    let seed = std::env::var("NETDEXT_SEED")
        .map_or_else(|_| fastrand::u64(..), |seed| seed.parse().expect("NETDEXT_SEED is a number"));
    println!("NETDEXT_SEED={seed}");
    (0..WORLDS).map(|n| World::new(trust, pools, seed.wrapping_add(n)).run()).sum()
}

#[test]
fn every_payload_arrives_once_and_in_order_or_is_counted_as_lost() {
    run_worlds(Trust::Exact, Pools::OneEach);
}

#[test]
fn a_bad_wire_loses_no_frame_of_either_pool() {
    run_worlds(Trust::Kernel, Pools::OneEach);
}

#[test]
fn a_kernel_that_returns_wrong_addresses_is_noticed_and_breaks_nothing() {
    assert!(run_worlds(Trust::Nobody, Pools::OneEach) > 0, "bad addresses must have been counted");
}

#[test]
fn two_ports_that_share_a_pool_keep_apart_what_each_was_lent() {
    run_worlds(Trust::Exact, Pools::Shared);
}

#[test]
fn a_bad_wire_loses_no_frame_of_a_shared_pool() {
    run_worlds(Trust::Kernel, Pools::Shared);
}

#[test]
fn a_kernel_that_returns_the_frames_of_another_port_is_noticed_and_breaks_nothing() {
    assert!(run_worlds(Trust::Nobody, Pools::Shared) > 0, "bad addresses must have been counted");
}
