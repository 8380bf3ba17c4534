//! Networks on simulated wires: forwarders, hosts, and wires between any two of them.

use std::time::Duration;

use netdext::dispatch::{Timestamp, Worker, WorkerReport};
use netdext::driver::{DeviceInfo, Driver, DriverStats, PortId, PowerState};
use netdext::packet::{Census, FrameSize, PacketBatch, PacketPool, PoolConfig};
use netdext::port::sim::{End, Faults, SimConfig, Wire};
use netdext::port::{Port, RingSizes};
use serde_json::Value;

/// Few, so that rings fill soon.
pub(super) const RINGS: RingSizes = RingSizes { rx: 16, tx: 16 };

/// Frames handed to a driver at once.
const BATCH: usize = 8;

/// What a wire ends at, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Node {
    /// A forwarder, whose ports have the order of their wires and share a pool.
    Bridge(usize),
    /// A host, which is the test itself. It has one wire.
    Host,
}

/// The port of a host.
struct Host {
    port: Box<Port>,
    arrived: Vec<Vec<u8>>,
}

pub(super) struct Net {
    pub(super) bridges: Vec<Worker>,
    wires: Vec<Wire>,
    hosts: Vec<Host>,
    /// The wire of each host, and the end of it that is not the host's.
    homes: Vec<(usize, End)>,
}

/// The interfaces of bridge 0 are `sim0`, `sim1` and so on.
pub(super) fn device(port: usize, mtu: usize) -> DeviceInfo {
    DeviceInfo {
        name: format!("sim{port}"),
        mac: [2, 0, 0, 0, 0xff, port as u8],
        mtu,
        queue: 0,
        queues: 1,
        addresses: Vec::new(),
        peer_addresses: Vec::new(),
    }
}

impl Net {
    /// All of it running. `mtu` is that of a bridge's port.
    pub(super) fn new(
        drivers: Vec<Box<dyn Driver>>,
        links: &[[Node; 2]],
        mtu: impl Fn(usize) -> usize,
    ) -> Self {
        let pool = |ports: usize| {
            let frames = RINGS.frames() * ports as u32;
            PacketPool::on_heap(&PoolConfig { frames, frame_size: FrameSize::TwoK }).expect("frames")
        };
        let ends = |bridge| links.iter().flatten().filter(|&&node| node == Node::Bridge(bridge)).count();
        let pools: Vec<_> = (0..drivers.len()).map(|bridge| pool(ends(bridge))).collect();
        let config = SimConfig { rings: RINGS, ..SimConfig::default() };
        let mut ports: Vec<Vec<(Port, DeviceInfo)>> = pools.iter().map(|_| Vec::new()).collect();
        let (mut wires, mut hosts, mut homes) = (Vec::new(), Vec::new(), Vec::new());
        for (number, link) in links.iter().enumerate() {
            let over = link.map(|node| match node {
                Node::Bridge(bridge) => pools[bridge].clone(),
                Node::Host => pool(1),
            });
            let (a, b, wire) = Wire::pair_over(over.each_ref(), &config, 1).expect("ports");
            for (node, (port, end)) in link.iter().zip([(a, End::A), (b, End::B)]) {
                match *node {
                    Node::Bridge(bridge) => {
                        let device = device(ports[bridge].len(), mtu(ports[bridge].len()));
                        ports[bridge].push((port, device));
                    }
                    Node::Host => {
                        hosts.push(Host { port: Box::new(port), arrived: Vec::new() });
                        homes.push((number, end.other()));
                    }
                }
            }
            wires.push(wire);
        }
        let now = wires[0].now();
        let start = |(driver, ports): (_, Vec<_>)| {
            let mut ports = ports.into_iter();
            let first = ports.next().expect("a bridge has a port");
            let mut worker = Worker::start_on(driver, first, ports.collect(), BATCH, now).expect("started");
            worker.set_power(now, PowerState::On).expect("powered on");
            for port in 0..worker.ports().count() {
                worker.set_interface_enable(now, PortId::new(port), true).expect("enabled");
            }
            worker
        };
        let bridges = drivers.into_iter().zip(ports).map(start).collect();
        Self { bridges, wires, hosts, homes }
    }

    /// One bridge with so many hosts, each on a wire of its own.
    pub(super) fn star(driver: Box<dyn Driver>, hosts: usize) -> Self {
        Self::star_with(driver, hosts, |_| 1500)
    }

    /// The same with an MTU for each port.
    pub(super) fn star_with(driver: Box<dyn Driver>, hosts: usize, mtu: impl Fn(usize) -> usize) -> Self {
        Self::new(vec![driver], &vec![[Node::Bridge(0), Node::Host]; hosts], mtu)
    }

    pub(super) fn now(&self) -> Timestamp {
        self.wires[0].now()
    }

    pub(super) fn advance(&mut self, time: Duration) {
        self.wires.iter_mut().for_each(|wire| wire.advance(time));
    }

    /// Puts a frame on the wire from a host.
    pub(super) fn offer(&mut self, host: usize, frame: &[u8]) {
        let (wire, to) = self.homes[host];
        self.wires[wire].inject(to, frame);
    }

    /// Lets a host's wire take nothing from the bridge, or lets it go on.
    pub(super) fn stall(&mut self, host: usize, stalled: bool) {
        let wake_error = stalled.then_some(rustix::io::Errno::AGAIN);
        self.wires[self.homes[host].0].set_faults(Faults { wake_error, ..Faults::default() });
    }

    /// One step of everything; says whether a frame moved.
    pub(super) fn turn(&mut self) -> bool {
        let mut moved = self.wires.iter_mut().map(Wire::settle).filter(|moved| moved.any()).count();
        let now = self.now();
        for bridge in &mut self.bridges {
            moved += bridge.step(now, 2 * BATCH).expect("no queue fails").received;
        }
        let mut batch = PacketBatch::with_capacity(BATCH);
        for Host { port, arrived } in &mut self.hosts {
            port.tx_completion.reap(BATCH);
            while port.rx_completion.dequeue(&mut batch) > 0 {
                arrived.extend(std::iter::from_fn(|| batch.pop()).map(|packet| packet.data().to_vec()));
            }
            port.rx_submission.refill();
        }
        moved > 0
    }

    /// Turns until nothing moves any more; `limit` turns at the most.
    pub(super) fn settle(&mut self, limit: usize) -> bool {
        // The first turn refills the rings of the hosts.
        self.turn();
        (0..limit).any(|_| !self.turn())
    }

    /// Sends a frame from a host, and returns what each host has received then.
    pub(super) fn send(&mut self, host: usize, frame: &[u8]) -> Vec<Vec<Vec<u8>>> {
        self.turn();
        self.take();
        self.offer(host, frame);
        assert!(self.settle(100), "frames still move");
        self.take()
    }

    /// Sends a frame from a host; says which hosts received it. It is an error if one received anything else.
    pub(super) fn reached(&mut self, host: usize, frame: &[u8]) -> Vec<usize> {
        let arrived = self.send(host, frame);
        let mut reached = Vec::new();
        for (to, frames) in arrived.into_iter().enumerate() {
            assert!(frames.iter().all(|arrived| arrived == frame), "it was altered");
            reached.extend(frames.iter().map(|_| to));
        }
        reached
    }

    /// What has arrived at each host since this was last asked.
    pub(super) fn take(&mut self) -> Vec<Vec<Vec<u8>>> {
        self.hosts.iter_mut().map(|host| std::mem::take(&mut host.arrived)).collect()
    }

    pub(super) fn enable(&mut self, bridge: usize, port: usize, enable: bool) {
        let now = self.now();
        self.bridges[bridge].set_interface_enable(now, PortId::new(port), enable).expect("it can be");
    }

    pub(super) fn tell(&mut self, bridge: usize, name: &str) -> Option<Value> {
        let now = self.now();
        self.bridges[bridge].control(now, name, &Value::Null).expect("a command without a value")
    }

    pub(super) fn stats(&mut self, bridge: usize) -> DriverStats {
        self.bridges[bridge].snapshot().driver
    }

    /// A count of a bridge by its name.
    pub(super) fn count(&mut self, bridge: usize, name: &str) -> u64 {
        let stats = self.stats(bridge);
        let all = [stats.counters, stats.drops, stats.events].concat();
        all.into_iter().find(|(known, _)| *known == name).expect("such a count").1
    }

    pub(super) fn census(&self, bridge: usize) -> Census {
        self.bridges[bridge].ports().next().expect("a port").pool.census()
    }

    /// Stops the bridges, and asserts that no frame is missing and each received one was counted once.
    pub(super) fn finish(mut self) -> Vec<DriverStats> {
        let now = self.now();
        for bridge in 0..self.bridges.len() {
            for port in 0..self.bridges[bridge].ports().count() {
                self.enable(bridge, port, false);
            }
        }
        self.bridges.into_iter().map(|bridge| whole(bridge.finish(now, None))).collect()
    }
}

fn whole(report: WorkerReport) -> DriverStats {
    let mut received = 0;
    for port in &report.ports {
        assert!(port.census.is_whole(), "{:?}", port.census);
        assert_eq!(port.census.violations, 0);
        received += port.snapshot.rx_packets - port.snapshot.rx_disabled;
    }
    let driver = report.into_first().snapshot.driver;
    let counted: u64 = driver.counters.iter().chain(&driver.drops).map(|(_, count)| count).sum();
    assert_eq!(counted, received, "{driver:?}");
    driver
}
