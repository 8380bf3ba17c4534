//! The sample driver over the simulated wire: the whole worker, no root, from printed seeds.

mod answering;
mod faults;
mod injecting;
mod live;
mod queues;
mod starting;

use std::net::IpAddr;
use std::time::Duration;

use super::{InjectorConfig, SampleConfig};
use crate::requests::InjectorStats;
use netdext::dispatch::{Timestamp, Worker, WorkerReport, WorkerSnapshot};
use netdext::driver::{DeviceInfo, DriverFactory, DriverStats, PortId, PowerState};
use netdext::packet::PacketBatch;
use netdext::port::Port;
use netdext::port::sim::{End, Moved, SimConfig, Wire};
use netdext::proto::MacAddr;
use netdext::proto::testing::{OUR_MAC, OUR4, OUR6, PEER_MAC, PEER4, PEER6, addresses};

const SECOND: Duration = Duration::from_secs(1);
const BATCH: usize = 32;

pub(super) fn device() -> DeviceInfo {
    device_of("sim0", OUR_MAC, addresses())
}

pub(super) fn peer_device() -> DeviceInfo {
    device_of("sim1", PEER_MAC, vec![(PEER4.into(), 24), (PEER6.into(), 64)])
}

fn device_of(name: &str, mac: MacAddr, addresses: Vec<(IpAddr, u8)>) -> DeviceInfo {
    DeviceInfo {
        name: name.into(),
        mac,
        mtu: 1500,
        queue: 0,
        queues: 1,
        addresses,
        peer_addresses: Vec::new(),
    }
}

pub(super) fn answering() -> SampleConfig {
    SampleConfig { injector: None, ..SampleConfig::default() }
}

pub(super) fn injecting(targets: &[IpAddr], change: impl FnOnce(&mut InjectorConfig)) -> SampleConfig {
    let mut injector = InjectorConfig { targets: targets.to_vec(), ..InjectorConfig::default() };
    change(&mut injector);
    SampleConfig { injector: Some(injector), ..SampleConfig::default() }
}

/// A running worker with the first instance of a new factory.
pub(super) fn worker(config: SampleConfig, port: Port, device: DeviceInfo, now: Timestamp) -> Worker {
    let factory = crate::sample::factory(config, 1).expect("a valid configuration");
    running(&factory, port, device, now)
}

pub(super) fn running(factory: &DriverFactory, port: Port, device: DeviceInfo, now: Timestamp) -> Worker {
    let mut worker = Worker::start(factory.build(device.queue), port, device, BATCH, now).expect("started");
    worker.set_power(now, PowerState::On).expect("powered on");
    worker.set_interface_enable(now, PortId::FIRST, true).expect("enabled");
    worker
}

/// What sends and receives at the other end of the wire: the test itself, or another driver.
pub(super) enum Peer {
    /// The test sees every frame that arrives.
    Test(Box<Port>, PacketBatch),
    /// Another driver.
    Driver(Box<Worker>),
}

/// A driver under test, a wire, and its other end.
pub(super) struct Net {
    pub(super) driver: Worker,
    pub(super) peer: Peer,
    pub(super) wire: Wire,
    /// Frames that arrived at the test's end and were not taken yet.
    arrived: Vec<Vec<u8>>,
    /// What the wire moved in all.
    pub(super) moved: Moved,
}

impl Net {
    /// The driver at one end, the test at the other.
    pub(super) fn with_test(config: SampleConfig) -> Self {
        Self::with_test_on(config, &SimConfig::default())
    }

    pub(super) fn with_test_on(config: SampleConfig, sim: &SimConfig) -> Self {
        let (ours, theirs, wire) = Wire::pair(sim, 1).expect("frames");
        let driver = worker(config, ours, device(), wire.now());
        let peer = Peer::Test(Box::new(theirs), PacketBatch::with_capacity(64));
        Self { driver, peer, wire, arrived: Vec::new(), moved: Moved::default() }
    }

    /// The driver at one end, one that answers at the other.
    pub(super) fn with_driver(config: SampleConfig, sim: &SimConfig, seed: u64) -> Self {
        let (ours, theirs, wire) = Wire::pair(sim, seed).expect("frames");
        let driver = worker(config, ours, device(), wire.now());
        let peer = Peer::Driver(Box::new(worker(answering(), theirs, peer_device(), wire.now())));
        Self { driver, peer, wire, arrived: Vec::new(), moved: Moved::default() }
    }

    /// Lets everything happen that can happen now.
    pub(super) fn settle(&mut self) {
        // As often as it takes a full ring to go back and forth, many times over.
        for _ in 0..1000 {
            let now = self.wire.now();
            let mut busy = self.driver.step(now, 64).expect("no queue fails").any();
            match &mut self.peer {
                Peer::Driver(worker) => busy |= worker.step(now, 64).expect("no queue fails").any(),
                Peer::Test(port, batch) => {
                    port.rx_submission.refill();
                    port.rx_completion.dequeue(batch);
                    while let Some(packet) = batch.pop() {
                        self.arrived.push(packet.data().to_vec());
                        busy = true;
                    }
                }
            }
            let moved = self.wire.step(64);
            self.moved.sent += moved.sent;
            self.moved.delivered += moved.delivered;
            self.moved.lost += moved.lost;
            if !busy && !moved.any() {
                return;
            }
        }
        panic!("the network does not come to rest");
    }

    /// Lets time pass in steps, and everything happen that then can.
    pub(super) fn run(&mut self, time: Duration, step: Duration) {
        self.settle();
        for _ in 0..time.as_nanos() / step.as_nanos() {
            self.wire.advance(step);
            self.settle();
        }
    }

    /// Sends a frame to the driver, and takes what it sends back.
    pub(super) fn exchange(&mut self, frame: &[u8]) -> Vec<Vec<u8>> {
        self.settle();
        self.arrived.clear();
        self.wire.inject(End::A, frame);
        self.settle();
        self.take_arrived()
    }

    /// What the driver sent since this was last asked.
    pub(super) fn take_arrived(&mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.arrived)
    }

    pub(super) fn stats(&mut self) -> DriverStats {
        self.driver.snapshot().driver
    }

    pub(super) fn injector(&mut self) -> InjectorStats {
        InjectorStats::of(&self.stats()).expect("an injector")
    }

    /// Ends everything, and checks that no frame is missing and everything was counted once.
    pub(super) fn finish(mut self) -> Ended {
        let now = self.wire.now();
        self.driver.set_interface_enable(now, PortId::FIRST, false).expect("disabled");
        let ours = self.driver.finish(now, None);
        check_report(&ours);
        let theirs = match self.peer {
            Peer::Driver(worker) => {
                let report = worker.finish(now, None);
                check_report(&report);
                Some(report.into_first().snapshot)
            }
            Peer::Test(port, batch) => {
                drop(batch);
                assert!(port.close().is_whole());
                None
            }
        };
        Ended { ours: ours.into_first().snapshot, theirs }
    }
}

/// What is left of a network.
pub(super) struct Ended {
    pub(super) ours: WorkerSnapshot,
    /// The other driver's, if there was one.
    pub(super) theirs: Option<WorkerSnapshot>,
}

/// No frame is missing, every received frame was counted once, and so was every request.
pub(super) fn check_report(report: &WorkerReport) {
    assert!(report.error.is_none(), "{:?}", report.error);
    assert!(report.ports[0].census.is_whole(), "{:?}", report.ports[0].census);
    let WorkerSnapshot { rx_packets, rx_disabled, driver, .. } = &report.ports[0].snapshot;
    let counted: u64 = driver.counters.iter().chain(&driver.drops).map(|(_, count)| count).sum();
    assert_eq!(counted + rx_disabled, *rx_packets, "{driver:?}");
    if let Some(injector) = InjectorStats::of(driver) {
        assert_eq!(injector.in_flight, 0);
        assert_eq!(injector.sent, injector.replies + injector.lost);
        assert_eq!(injector.rtt_ns.len(), injector.replies);
    }
}

/// A count by its name.
pub(super) fn count(stats: &DriverStats, name: &str) -> u64 {
    let DriverStats { counters, drops, events, .. } = stats;
    let found = counters.iter().chain(drops).chain(events).find(|(known, _)| *known == name);
    found.unwrap_or_else(|| panic!("no count is named {name}")).1
}

pub(super) fn targets4() -> [IpAddr; 1] {
    [PEER4.into()]
}

pub(super) fn both_targets() -> [IpAddr; 2] {
    [PEER4.into(), PEER6.into()]
}

pub(super) fn our_addresses() -> [IpAddr; 2] {
    [OUR4.into(), OUR6.into()]
}
