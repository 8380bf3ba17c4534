//! A bench for the tests of drivers: a driver on a simulated wire, with the test at the other end.
//!
//! It needs no root and no network, and time moves only when the test says so.
//!
//! ```
//! use netdext::driver::{Cx, Driver, DriverStats, PortId};
//! use netdext::packet::PacketBatch;
//! use netdext::testing::{Bench, OUR_MAC, PEER_MAC, frame};
//!
//! #[derive(Default)]
//! struct Repeat(u64);
//!
//! impl Driver for Repeat {
//!     fn name(&self) -> &'static str {
//!         "repeat"
//!     }
//!
//!     fn rx_packets(&mut self, cx: &mut Cx<'_>, port: PortId, batch: &mut PacketBatch) {
//!         while let Some(packet) = batch.pop() {
//!             self.0 += 1;
//!             cx.tx(port).submit(packet).expect("there is room");
//!         }
//!     }
//!
//!     fn stats(&self) -> DriverStats {
//!         DriverStats { counters: vec![("repeated", self.0)], ..DriverStats::default() }
//!     }
//! }
//!
//! let mut bench = Bench::new(Box::new(Repeat::default()));
//! let sent = frame(OUR_MAC, PEER_MAC, 60);
//! assert_eq!(bench.exchange(&sent), [sent]);
//! assert_eq!(bench.finish().snapshot.driver.counters, [("repeated", 1)]);
//! ```

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use rustix::io::Errno;
use serde_json::Value;

use crate::dispatch::{ControlFailure, PortReport, Timestamp, Worker};
use crate::driver::{ControlError, DeviceInfo, Driver, DriverStats, PortId, PowerState};
use crate::packet::PacketBatch;
use crate::port::Port;
use crate::port::sim::{End, Faults, SimConfig, Wire};
use crate::proto::MacAddr;

/// The Ethernet address of the driver's interface.
pub const OUR_MAC: MacAddr = [2, 0, 0, 0, 0, 1];
/// That of the other end, where the test is.
pub const PEER_MAC: MacAddr = [2, 0, 0, 0, 0, 2];
/// The IPv4 address of the driver.
pub const OUR4: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
/// That of the other end.
pub const PEER4: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 2);
/// The IPv6 address of the driver.
pub const OUR6: Ipv6Addr = Ipv6Addr::new(0x2001, 2, 0, 0, 0, 0, 0, 1);
/// That of the other end.
pub const PEER6: Ipv6Addr = Ipv6Addr::new(0x2001, 2, 0, 0, 0, 0, 0, 2);

/// The interface of the bench, `sim0`, as the driver that serves this one of so many queues sees it.
pub fn device(queue: u32, queues: u32) -> DeviceInfo {
    DeviceInfo {
        name: "sim0".into(),
        mac: OUR_MAC,
        mtu: 1500,
        queue,
        queues,
        addresses: vec![(OUR4.into(), 24), (OUR6.into(), 64)],
        peer_addresses: Vec::new(),
    }
}

/// A frame of `len` bytes with an EtherType for experiments (IEEE 802, 9.2.4) and a payload that tells its bytes apart.
///
/// # Panics
///
/// If `len` is less than the 14 of an Ethernet header.
pub fn frame(destination: MacAddr, source: MacAddr, len: usize) -> Vec<u8> {
    let mut frame: Vec<u8> = (0..len).map(|place| place as u8).collect();
    frame[..6].copy_from_slice(&destination);
    frame[6..12].copy_from_slice(&source);
    frame[12..14].copy_from_slice(&[0x88, 0xb5]);
    frame
}

/// A driver under test, a wire, and what has come out of its other end.
pub struct Bench {
    /// What runs the driver.
    pub worker: Worker,
    /// The frames that the driver has sent and nobody has looked at yet.
    pub arrived: Vec<Vec<u8>>,
    wire: Wire,
    peer: Port,
    faults: Faults,
}

impl Bench {
    /// The driver enabled, on the only queue of [`device`].
    ///
    /// # Panics
    ///
    /// If the driver fails.
    pub fn new(driver: Box<dyn Driver>) -> Self {
        Self::on(driver, device(0, 1))
    }

    /// The same on another interface.
    ///
    /// # Panics
    ///
    /// If the driver fails.
    pub fn on(driver: Box<dyn Driver>, device: DeviceInfo) -> Self {
        let (port, peer, wire) = Wire::pair(&SimConfig::default(), 1).expect("there are frames");
        let now = wire.now();
        let mut worker = Worker::start(driver, port, device, 32, now).expect("the driver starts");
        worker.set_power(now, PowerState::On).expect("the driver is powered on");
        worker.set_interface_enable(now, PortId::FIRST, true).expect("the driver is enabled");
        Self { worker, arrived: Vec::new(), wire, peer, faults: Faults::default() }
    }

    /// The simulated time.
    pub fn now(&self) -> Timestamp {
        self.wire.now()
    }

    /// Puts a frame on the wire to the driver.
    pub fn offer(&mut self, frame: &[u8]) {
        self.wire.inject(End::A, frame);
    }

    /// One step of everything; the time stays.
    ///
    /// # Panics
    ///
    /// If the worker fails.
    pub fn turn(&mut self) {
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
    ///
    /// # Panics
    ///
    /// If `step` is 0, or the worker fails.
    pub fn run(&mut self, time: Duration, step: Duration) {
        for _ in 0..time.as_nanos() / step.as_nanos() {
            self.jump(step);
        }
    }

    /// Lets time pass at once, with one turn at its end.
    ///
    /// # Panics
    ///
    /// If the worker fails.
    pub fn jump(&mut self, time: Duration) {
        self.wire.advance(time);
        self.turn();
    }

    /// Sends a frame to the driver and takes what it sends within two turns. What arrived before is forgotten.
    ///
    /// # Panics
    ///
    /// If the worker fails.
    pub fn exchange(&mut self, frame: &[u8]) -> Vec<Vec<u8>> {
        self.arrived.clear();
        self.offer(frame);
        self.turn();
        self.turn();
        std::mem::take(&mut self.arrived)
    }

    /// Gives the driver a command, as `netdext tell` does.
    ///
    /// # Errors
    ///
    /// What the driver says.
    ///
    /// # Panics
    ///
    /// If a queue fails.
    pub fn control(&mut self, name: &str, value: &Value) -> Result<Option<Value>, ControlError> {
        self.worker.control(self.wire.now(), name, value).map_err(|failure| match failure {
            ControlFailure::Refused(error) => error,
            ControlFailure::Queue(error) => panic!("no queue fails: {error}"),
        })
    }

    /// What the driver has counted.
    pub fn stats(&mut self) -> DriverStats {
        self.worker.snapshot().driver
    }

    /// Lets the kernel send nothing from now on, so that the tx ring fills.
    pub fn stall(&mut self) {
        self.faults.wake_error = Some(Errno::AGAIN);
        self.wire.set_faults(self.faults);
    }

    /// Ends the stall.
    pub fn release(&mut self) {
        self.faults.wake_error = None;
        self.wire.set_faults(self.faults);
    }

    /// Disables and stops the driver, and returns what is left of it.
    ///
    /// # Panics
    ///
    /// If a frame of the pool is missing, or the driver did not count each frame once that it was given.
    pub fn finish(mut self) -> PortReport {
        let now = self.wire.now();
        self.worker.set_interface_enable(now, PortId::FIRST, false).expect("the driver is disabled");
        let report = self.worker.finish(now, None).into_first();
        assert!(report.census.is_whole(), "a frame is missing: {:?}", report.census);
        let driver = &report.snapshot.driver;
        let counted: u64 = driver.counters.iter().chain(&driver.drops).map(|(_, count)| count).sum();
        // What had arrived when the driver was disabled was never given to it.
        let given = report.snapshot.rx_packets - report.snapshot.rx_disabled;
        assert_eq!(counted, given, "each frame that the driver was given counts once: {driver:?}");
        report
    }
}
