//! A driver on a simulated wire, with the test at the other end.

use std::time::Duration;

use rustix::io::Errno;

use netdext::dispatch::{PortReport, Timestamp, Worker};
use netdext::driver::{DeviceInfo, Driver, PortId, PowerState};
use netdext::packet::PacketBatch;
use netdext::port::Port;
use netdext::port::sim::{End, Faults, SimConfig, Wire};
use netdext::proto::MacAddr;
use netdext::proto::testing::addresses;
pub(super) use netdext::proto::testing::{OUR_MAC, OUR4, PEER_MAC, PEER4, PEER6};

/// A driver under test, a wire, and what has come out of its other end.
pub(super) struct Bench {
    pub(super) worker: Worker,
    wire: Wire,
    peer: Box<Port>,
    pub(super) arrived: Vec<Vec<u8>>,
    faults: Faults,
}

pub(super) fn device(queue: u32, queues: u32) -> DeviceInfo {
    DeviceInfo {
        name: "sim0".into(),
        mac: OUR_MAC,
        mtu: 1500,
        queue,
        queues,
        addresses: addresses(),
        peer_addresses: Vec::new(),
    }
}

impl Bench {
    /// The driver enabled, on the only queue.
    pub(super) fn new(driver: Box<dyn Driver>) -> Self {
        Self::on(driver, device(0, 1))
    }

    pub(super) fn on(driver: Box<dyn Driver>, device: DeviceInfo) -> Self {
        let (port, peer, wire) = Wire::pair(&SimConfig::default(), 1).expect("frames");
        let now = wire.now();
        let mut worker = Worker::start(driver, port, device, 32, now).expect("started");
        worker.set_power(now, PowerState::On).expect("powered on");
        worker.set_interface_enable(now, PortId::FIRST, true).expect("enabled");
        Self { worker, wire, peer: Box::new(peer), arrived: Vec::new(), faults: Faults::default() }
    }

    pub(super) fn now(&self) -> Timestamp {
        self.wire.now()
    }

    /// Lets the kernel send nothing from now on, so that the tx ring fills.
    pub(super) fn stall(&mut self) {
        self.faults.wake_error = Some(Errno::AGAIN);
        self.wire.set_faults(self.faults);
    }

    /// Ends the stall.
    pub(super) fn release(&mut self) {
        self.faults.wake_error = None;
        self.wire.set_faults(self.faults);
    }

    /// Puts a frame on the wire to the driver.
    pub(super) fn offer(&mut self, frame: &[u8]) {
        self.wire.inject(End::A, frame);
    }

    /// One step of everything.
    pub(super) fn turn(&mut self) {
        let mut batch = PacketBatch::with_capacity(64);
        self.peer.rx_submission.refill();
        self.wire.settle();
        self.worker.step(self.wire.now(), 64).expect("no queue fails");
        self.wire.settle();
        self.peer.rx_completion.dequeue(&mut batch);
        while let Some(packet) = batch.pop() {
            self.arrived.push(packet.data().to_vec());
        }
    }

    /// Lets time pass in steps, with a turn after each.
    pub(super) fn run(&mut self, time: Duration, step: Duration) {
        for _ in 0..time.as_nanos() / step.as_nanos() {
            self.wire.advance(step);
            self.turn();
        }
    }

    /// Lets time pass at once, with one turn at its end.
    pub(super) fn jump(&mut self, time: Duration) {
        self.wire.advance(time);
        self.turn();
    }

    /// Sends a frame to the driver and takes what it sends back.
    pub(super) fn exchange(&mut self, frame: &[u8]) -> Vec<Vec<u8>> {
        self.arrived.clear();
        self.offer(frame);
        self.turn();
        self.turn();
        std::mem::take(&mut self.arrived)
    }

    /// Stops the driver, and asserts that no frame is missing and each received one was counted once.
    pub(super) fn finish(mut self) -> PortReport {
        let now = self.wire.now();
        self.worker.set_interface_enable(now, PortId::FIRST, false).expect("disabled");
        let report = self.worker.finish(now, None).into_first();
        assert!(report.census.is_whole(), "{:?}", report.census);
        let driver = &report.snapshot.driver;
        let counted: u64 = driver.counters.iter().chain(&driver.drops).map(|(_, count)| count).sum();
        assert_eq!(counted, report.snapshot.rx_packets, "{driver:?}");
        report
    }
}

/// A frame of `len` bytes with a payload that tells its bytes apart.
pub(super) fn frame(destination: MacAddr, source: MacAddr, len: usize) -> Vec<u8> {
    let mut frame: Vec<u8> = (0..len).map(|place| place as u8).collect();
    frame[..6].copy_from_slice(&destination);
    frame[6..12].copy_from_slice(&source);
    frame[12..14].copy_from_slice(&[0x88, 0xb5]);
    frame
}
