//! What observing costs a worker: a step that receives a batch, sends it back and reaps the one before, over
//! the simulated wire, with and without stage latency.
//!
//! `cargo bench --bench observe`; the time is that of one step, so of as many frames as the batch has.

use std::cell::RefCell;
use std::rc::Rc;

use divan::counter::ItemsCount;
use divan::{AllocProfiler, Bencher};
use netdext::dispatch::{Timestamp, Worker};
use netdext::driver::{Cx, Driver, DriverStats, PortId, PowerState};
use netdext::packet::PacketBatch;
use netdext::port::sim::{End, SimConfig, Wire};
use netdext::port::{Port, RingSizes};
use netdext::testing;

/// Allocations are counted too: there must be none in a step.
#[global_allocator]
static ALLOCATIONS: AllocProfiler = AllocProfiler::system();

const BATCHES: [usize; 3] = [1, 8, 64];

fn main() {
    divan::main();
}

struct Mirror;

impl Driver for Mirror {
    fn name(&self) -> &'static str {
        "mirror"
    }

    fn rx_packets(&mut self, cx: &mut Cx<'_>, _port: PortId, batch: &mut PacketBatch) {
        cx.tx(PortId::FIRST).submit_batch(batch);
    }

    fn stats(&self) -> DriverStats {
        DriverStats::default()
    }
}

/// A running worker, its wire, and the port at the other end.
fn worker() -> (Worker, Wire, Port) {
    let rings = RingSizes { rx: 256, tx: 256 };
    let config = SimConfig { rings, frames: rings.frames(), ..SimConfig::default() };
    let (port, peer, wire) = Wire::pair(&config, 1).expect("there are frames");
    let device = testing::device(0, 1);
    let mut worker = Worker::start(Box::new(Mirror), port, device, 64, wire.now()).expect("it starts");
    worker.set_power(wire.now(), PowerState::On).expect("it powers on");
    worker.set_interface_enable(wire.now(), PortId::FIRST, true).expect("it is enabled");
    (worker, wire, peer)
}

fn steps(bencher: Bencher<'_, '_>, batch: usize, latency: bool) {
    let (mut worker, wire, _peer) = worker();
    if latency {
        worker.measure_latency(Timestamp::now);
    }
    let (worker, wire) = (Rc::new(RefCell::new(worker)), RefCell::new(wire));
    bencher
        .counter(ItemsCount::new(batch))
        .with_inputs(|| {
            let mut wire = wire.borrow_mut();
            for _ in 0..batch {
                wire.inject(End::A, &[1; 60]);
            }
            wire.settle();
        })
        .bench_local_values(|()| worker.borrow_mut().step(Timestamp::now(), 256).expect("the step succeeds"));
}

#[divan::bench(args = BATCHES, sample_size = 1, sample_count = 20_000)]
fn plain(bencher: Bencher<'_, '_>, batch: usize) {
    steps(bencher, batch, false);
}

#[divan::bench(args = BATCHES, sample_size = 1, sample_count = 20_000)]
fn stage_latency(bencher: Bencher<'_, '_>, batch: usize) {
    steps(bencher, batch, true);
}
