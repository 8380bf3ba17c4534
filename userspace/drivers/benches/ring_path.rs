//! What the ring path costs in user space: pool, queues over the simulated port, answering, and a whole step of a worker
//! that answers echo requests. Allocations are counted, and there must be none per frame but those of
//! the simulated kernel: one for each frame on the wire.
//!
//! `cargo bench --bench ring_path`. The simulated kernel's own work is measured apart (`simulated_kernel_alone`), so
//! that it can be subtracted.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};

use divan::counter::ItemsCount;
use divan::{AllocProfiler, Bencher};
use netdext::dispatch::{Timestamp, Worker};
use netdext::driver::{DeviceInfo, PortId, PowerState};
use netdext::packet::{FrameSize, PacketBatch, PacketPool, PoolConfig};
use netdext::port::sim::{End, SimConfig, Wire};
use netdext::port::{Port, RingSizes};
use netdext::proto::Local;
use netdext::proto::echo;
use netdext::proto::probe::{EchoRequest, Path, Stamp};
use netdext::testing;
use netdext_abi::parse;
use netdext_drivers::sample::{self, SampleConfig};

#[global_allocator]
static ALLOC: AllocProfiler = AllocProfiler::system();

const BATCH: usize = 64;
const OUR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const PEER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const OURS: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
const PEER: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 2);

fn main() {
    divan::main();
}

/// An echo request from the peer to the driver.
fn request(payload_len: usize) -> Vec<u8> {
    let request = EchoRequest {
        source_mac: PEER_MAC,
        destination_mac: OUR_MAC,
        path: Path::V4 { source: PEER, destination: OURS },
        identifier: 7,
        payload_len,
    };
    let mut frame = vec![0; request.frame_len()];
    request.write(&Stamp { token: 1, counter: 2, sent: Timestamp::from_nanos(3) }, &mut frame);
    frame
}

fn addresses() -> Vec<(IpAddr, u8)> {
    vec![(OURS.into(), 24)]
}

fn wire() -> (Port, Port, Wire) {
    let rings = RingSizes { rx: 256, tx: 256 };
    let config = SimConfig { rings, frames: rings.frames(), ..SimConfig::default() };
    Wire::pair(&config, 1).expect("there are frames")
}

#[divan::bench]
fn pool_take_and_return(bencher: Bencher<'_, '_>) {
    let config = PoolConfig { frames: 8192, frame_size: FrameSize::TwoK };
    let pool = PacketPool::on_heap(&config).expect("there are frames");
    let mut batch = PacketBatch::with_capacity(BATCH);
    bencher.counter(ItemsCount::new(BATCH)).bench_local(|| {
        pool.alloc_into(&mut batch, BATCH);
        batch.clear();
    });
}

#[divan::bench]
fn queues_send_and_reap(bencher: Bencher<'_, '_>) {
    let (mut port, _peer, mut wire) = wire();
    let mut batch = PacketBatch::with_capacity(BATCH);
    bencher.counter(ItemsCount::new(BATCH)).bench_local(|| {
        port.pool.alloc_into(&mut batch, BATCH);
        while let Some(mut packet) = batch.pop() {
            packet.set_data_len(64).expect("it fits");
            port.tx_submission.submit(packet).expect("the ring has room");
        }
        port.tx_submission.flush().expect("the simulated kernel takes it");
        wire.settle();
        port.tx_completion.reap(BATCH)
    });
}

#[divan::bench]
fn simulated_kernel_alone(bencher: Bencher<'_, '_>) {
    let (mut port, mut peer, mut wire) = wire();
    let frame = request(56);
    let mut batch = PacketBatch::with_capacity(BATCH);
    port.rx_submission.refill();
    peer.rx_submission.refill();
    bencher.counter(ItemsCount::new(BATCH)).bench_local(|| {
        for _ in 0..BATCH {
            wire.inject(End::A, &frame);
        }
        wire.settle();
        port.rx_completion.dequeue(&mut batch);
        batch.clear();
        port.rx_submission.refill()
    });
}

#[divan::bench]
fn worker_step_answering_echo(bencher: Bencher<'_, '_>) {
    let (port, mut peer, mut wire) = wire();
    let device = DeviceInfo { addresses: addresses(), ..testing::device(0, 1) };
    let config = SampleConfig { injector: None, ..SampleConfig::default() };
    let factory = sample::factory(config, 1).expect("a valid configuration");
    let now = wire.now();
    let mut worker = Worker::start(factory.build(0), port, device, BATCH, now).expect("it starts");
    worker.set_power(now, PowerState::On).expect("it powers on");
    worker.set_interface_enable(now, PortId::FIRST, true).expect("it is enabled");
    peer.rx_submission.refill();
    let frame = request(56);
    let mut arrived = PacketBatch::with_capacity(BATCH);
    bencher.counter(ItemsCount::new(BATCH)).bench_local(|| {
        for _ in 0..BATCH {
            wire.inject(End::A, &frame);
        }
        wire.settle();
        let progress = worker.step(now, BATCH).expect("no queue fails");
        assert_eq!(progress.received, BATCH);
        wire.settle();
        peer.rx_completion.dequeue(&mut arrived);
        arrived.clear();
        peer.rx_submission.refill()
    });
}

/// Checked and answered in place; what was answered is answered again as a request, by putting type, checksum and
/// addresses back.
#[divan::bench(args = [56, 1472])]
fn echo_answer(bencher: Bencher<'_, '_>, payload_len: usize) {
    let local = Local::new(OUR_MAC, &addresses());
    let original = request(payload_len);
    let parsed = parse(&original[..]).expect("a valid frame");
    let mut frame = original.clone();
    bencher.counter(ItemsCount::new(1_usize)).bench_local(|| {
        frame[..42].copy_from_slice(&original[..42]);
        echo::answer(black_box(&mut frame), &parsed, &local, Timestamp::from_nanos(1)).expect("it is for us")
    });
}

/// Written anew with a fresh stamp, as the injector does for every request.
#[divan::bench(args = [56, 1472])]
fn echo_request_written(bencher: Bencher<'_, '_>, payload_len: usize) {
    let request = EchoRequest {
        source_mac: OUR_MAC,
        destination_mac: PEER_MAC,
        path: Path::V4 { source: OURS, destination: PEER },
        identifier: 7,
        payload_len,
    };
    let mut frame = vec![0; request.frame_len()];
    let mut counter = 0;
    bencher.counter(ItemsCount::new(1_usize)).bench_local(|| {
        counter += 1;
        let stamp = Stamp { token: 1, counter, sent: Timestamp::from_nanos(counter) };
        request.write(&stamp, black_box(&mut frame));
    });
}
