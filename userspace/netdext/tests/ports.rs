//! A worker with several ports over simulated wires, which share one pool.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use netdext::dispatch::{Fired, TimerId, Worker, WorkerError};
use netdext::driver::lifecycle::State;
use netdext::driver::{ControlError, Cx, DeviceInfo, Driver, DriverError, DriverStats, PortId, PowerState};
use netdext::packet::{PacketBatch, PacketPool, PoolConfig};
use netdext::port::Port;
use netdext::port::sim::{End, SimConfig, Wire};
use serde_json::Value;

const TICK: Duration = Duration::from_millis(10);

/// Sends what comes by one of its two ports out of the other, and notes what it is called for.
struct Coupler {
    calls: Rc<RefCell<Vec<String>>>,
    timer: Option<TimerId>,
}

impl Coupler {
    fn note(&self, call: String) {
        self.calls.borrow_mut().push(call);
    }
}

impl Driver for Coupler {
    fn name(&self) -> &'static str {
        "coupler"
    }

    fn init(&mut self, devices: &[DeviceInfo]) -> Result<(), DriverError> {
        let names: Vec<_> = devices.iter().map(|device| device.name.as_str()).collect();
        self.note(format!("init {}", names.join(" ")));
        Ok(())
    }

    fn start(&mut self, cx: &mut Cx<'_>) -> Result<(), DriverError> {
        self.timer = Some(cx.timers.create("tick"));
        Ok(())
    }

    fn set_power_state(&mut self, _cx: &mut Cx<'_>, state: PowerState) -> Result<(), DriverError> {
        self.note(format!("power {state:?}"));
        Ok(())
    }

    fn set_interface_enable(
        &mut self,
        cx: &mut Cx<'_>,
        port: PortId,
        enable: bool,
    ) -> Result<(), DriverError> {
        self.note(format!("enable {} {enable}", port.index()));
        let timer = self.timer.expect("it was started");
        if enable {
            cx.timers.arm_periodic(timer, cx.now + TICK, TICK);
        } else if !cx.ports().any(|other| other != port && cx.is_enabled(other)) {
            cx.timers.cancel(timer);
        }
        Ok(())
    }

    fn rx_packets(&mut self, cx: &mut Cx<'_>, port: PortId, batch: &mut PacketBatch) {
        self.note(format!("rx {} {}", port.index(), batch.len()));
        let other = PortId::new(1 - port.index());
        if cx.is_enabled(other) {
            cx.tx(other).submit_batch(batch);
        }
    }

    fn timer(&mut self, _cx: &mut Cx<'_>, _fired: Fired) {
        self.note("tick".to_owned());
    }

    fn woken(&mut self, _cx: &mut Cx<'_>) {
        self.note("woken".to_owned());
    }

    fn control(
        &mut self,
        cx: &mut Cx<'_>,
        _name: &str,
        _value: &Value,
    ) -> Result<Option<Value>, ControlError> {
        Ok(self.timer.map(|timer| cx.timers.is_armed(timer).into()))
    }

    fn stats(&self) -> DriverStats {
        DriverStats { counters: vec![("calls", self.calls.borrow().len() as u64)], ..DriverStats::default() }
    }
}

/// The coupler between two wires, with the test at their far ends.
struct Bench {
    worker: Worker,
    wires: [Wire; 2],
    peers: [Port; 2],
    calls: Rc<RefCell<Vec<String>>>,
}

fn device(name: &str) -> DeviceInfo {
    DeviceInfo {
        name: name.to_owned(),
        mac: [2, 0, 0, 0, 0, 1],
        mtu: 1500,
        queue: 0,
        queues: 1,
        addresses: Vec::new(),
        peer_addresses: Vec::new(),
    }
}

fn pool(config: &SimConfig) -> PacketPool {
    PacketPool::on_heap(&PoolConfig { frames: 2 * config.frames, frame_size: config.frame_size })
        .expect("there are frames")
}

impl Bench {
    fn new() -> Self {
        let config = SimConfig::default();
        let pool_of_worker = pool(&config);
        let make = |seed| {
            Wire::pair_over([&pool_of_worker, &pool(&config)], &config, seed).expect("there are frames")
        };
        let (first, peer0, wire0) = make(1);
        let (second, peer1, wire1) = make(2);
        let calls = Rc::<RefCell<Vec<String>>>::default();
        let driver = Box::new(Coupler { calls: Rc::clone(&calls), timer: None });
        let others = vec![(second, device("sim1"))];
        let mut worker = Worker::start_on(driver, (first, device("sim0")), others, 32, wire0.now())
            .expect("both ports have one pool");
        worker.set_power(wire0.now(), PowerState::On).expect("it powers on");
        Self { worker, wires: [wire0, wire1], peers: [peer0, peer1], calls }
    }

    fn enable(&mut self, port: usize, enable: bool) {
        let now = self.wires[0].now();
        self.worker.set_interface_enable(now, PortId::new(port), enable).expect("it can be switched");
    }

    fn turn(&mut self) {
        for (peer, wire) in self.peers.iter_mut().zip(&mut self.wires) {
            peer.rx_submission.refill();
            wire.settle();
        }
        self.worker.step(self.wires[0].now(), 64).expect("no queue fails");
        for wire in &mut self.wires {
            wire.settle();
        }
    }

    fn advance(&mut self, by: Duration) {
        self.wires.iter_mut().for_each(|wire| wire.advance(by));
    }

    /// What has come out of the far end of a wire: the first byte of each frame.
    fn arrived(&mut self, port: usize) -> Vec<u8> {
        let mut batch = PacketBatch::with_capacity(64);
        self.peers[port].rx_completion.dequeue(&mut batch);
        std::iter::from_fn(|| batch.pop()).map(|packet| packet.data()[0]).collect()
    }

    /// Whether the driver's timer is armed, as it says itself.
    fn is_armed(&mut self) -> bool {
        let now = self.wires[0].now();
        self.worker.control(now, "armed", &Value::Null).expect("it says") == Some(true.into())
    }

    /// What the driver was called for since this was last asked.
    fn calls(&mut self) -> Vec<String> {
        std::mem::take(&mut *self.calls.borrow_mut())
    }
}

#[test]
fn a_frame_goes_from_port_to_port_in_the_same_memory() {
    let mut bench = Bench::new();
    bench.enable(0, true);
    bench.enable(1, true);
    assert_eq!(bench.calls(), ["init sim0 sim1", "power On", "enable 0 true", "enable 1 true"]);
    bench.turn();
    let free = bench.worker.snapshot().census.free;
    bench.wires[0].inject(End::A, &[7; 60]);
    bench.wires[1].inject(End::A, &[9; 60]);
    bench.turn();
    assert_eq!((bench.arrived(0), bench.arrived(1)), (vec![9], vec![7]));
    assert_eq!(bench.calls(), ["rx 0 1", "rx 1 1"]);
    bench.turn();
    let snapshots = bench.worker.snapshots();
    assert_eq!(
        snapshots[0].census.free, free,
        "no frame was taken from the pool for it, and none is missing"
    );
    for (snapshot, port) in snapshots.iter().zip(0..) {
        assert_eq!(snapshot.port, PortId::new(port));
        assert_eq!((snapshot.rx_packets, snapshot.tx_packets, snapshot.tx_completed), (1, 1, 1));
        assert_eq!((snapshot.tx_lent, snapshot.tx_in_flight), (0, 0));
        assert_eq!(snapshot.driver.counters.is_empty(), port > 0, "its own counts are with the first");
    }
    let report = bench.worker.finish(bench.wires[0].now(), None);
    assert!(report.ports.iter().all(|port| port.census.is_whole()), "{report:?}");
    assert_eq!(report.ports[0].snapshot.census.rx_lent, 0);
}

#[test]
fn the_timers_stop_before_the_last_port_that_is_enabled_and_not_before_another() {
    let mut bench = Bench::new();
    bench.enable(0, true);
    bench.enable(1, true);
    bench.turn();
    bench.calls();
    bench.worker.quiesce_unless_others(PortId::new(1));
    bench.advance(TICK);
    bench.turn();
    assert_eq!(bench.calls(), ["tick"], "the other port goes on");
    bench.enable(1, false);
    bench.calls();
    bench.worker.quiesce_unless_others(PortId::new(0));
    bench.advance(TICK);
    bench.turn();
    assert!(bench.calls().is_empty(), "there is no other");
}

#[test]
fn a_port_that_is_disabled_is_so_alone() {
    let mut bench = Bench::new();
    bench.enable(0, true);
    bench.enable(1, true);
    bench.turn();
    bench.calls();
    bench.worker.quiesce();
    bench.enable(1, false);
    assert_eq!(bench.calls(), ["enable 1 false"]);
    let states: Vec<_> = bench.worker.snapshots().iter().map(|snapshot| snapshot.state).collect();
    assert_eq!(states, [State::Running, State::Idle]);
    bench.wires[0].inject(End::A, &[1; 60]);
    bench.wires[1].inject(End::A, &[2; 60]);
    bench.advance(TICK);
    bench.turn();
    assert_eq!(bench.calls(), ["rx 0 1", "tick"], "the other one goes on, its timers too");
    assert_eq!((bench.arrived(0), bench.arrived(1)), (vec![], vec![]));
    let waits: Vec<_> = bench.worker.waits_for().map(|(_, waits)| waits.frames).collect();
    assert_eq!(waits, [true, false]);

    // What arrived meanwhile is handed over as soon as somebody wants it.
    bench.enable(1, true);
    bench.turn();
    assert_eq!(bench.calls(), ["enable 1 true", "rx 1 1"]);
    assert_eq!(bench.arrived(0), [2]);

    bench.wires[0].inject(End::A, &[3; 60]);
    bench.wires[0].settle();
    bench.enable(0, false);
    bench.enable(0, false);
    assert_eq!(bench.worker.state(), State::Running);
    bench.enable(1, false);
    assert_eq!(bench.worker.state(), State::Idle);
    assert_eq!(bench.calls(), ["enable 0 false", "enable 1 false"]);
    assert_eq!(bench.worker.snapshot().rx_disabled, 1, "it came too late");
    assert_eq!(bench.worker.next_deadline(), None);
    let report = bench.worker.finish(bench.wires[0].now(), None);
    assert!(report.ports.iter().all(|port| port.census.is_whole()), "{report:?}");
}

#[test]
fn powering_off_and_on_leaves_every_port_as_it_was() {
    let mut bench = Bench::new();
    bench.enable(1, true);
    bench.calls();
    let now = bench.wires[0].now();
    bench.worker.set_power(now, PowerState::Off).unwrap();
    assert_eq!(
        (bench.calls(), bench.worker.state()),
        (vec!["enable 1 false".into(), "power Off".into()], State::Asleep)
    );
    // While it sleeps this is only remembered.
    bench.enable(0, true);
    bench.enable(1, false);
    assert_eq!((bench.calls(), bench.worker.state()), (vec![], State::Asleep));
    bench.worker.set_power(now, PowerState::On).unwrap();
    assert_eq!(
        (bench.calls(), bench.worker.state()),
        (vec!["power On".into(), "enable 0 true".into()], State::Running)
    );
    bench.enable(0, false);
    bench.worker.set_power(now, PowerState::Off).unwrap();
    assert_eq!(bench.worker.state(), State::PoweredOff);
}

#[test]
fn the_last_port_that_is_disabled_by_powering_off_is_known_to_be_the_last() {
    let mut bench = Bench::new();
    bench.enable(0, true);
    bench.enable(1, true);
    bench.worker.set_power(bench.wires[0].now(), PowerState::Off).unwrap();
    bench.worker.set_power(bench.wires[0].now(), PowerState::On).unwrap();
    bench.enable(0, false);
    bench.calls();
    bench.enable(1, false);
    // The coupler ends its timer with the last port: one that was left armed would fire here.
    bench.worker.set_power(bench.wires[0].now(), PowerState::Off).unwrap();
    assert!(!bench.is_armed(), "powered off with a timer armed");
    bench.worker.set_power(bench.wires[0].now(), PowerState::On).unwrap();
    bench.enable(0, true);
    bench.enable(1, true);
    assert!(bench.is_armed());
    bench.worker.set_power(bench.wires[0].now(), PowerState::Off).unwrap();
    assert!(!bench.is_armed(), "the first port was still taken to be enabled");
}

#[test]
fn a_wake_is_delivered_in_the_next_step_that_an_interface_is_enabled_in() {
    let mut bench = Bench::new();
    let waker = bench.worker.waker();
    std::thread::spawn(move || waker.wake()).join().expect("it wakes from another thread");
    bench.turn();
    assert!(!bench.calls().contains(&"woken".to_owned()), "nobody could do anything about it");
    bench.enable(1, true);
    bench.turn();
    bench.turn();
    assert_eq!(bench.calls(), ["enable 1 true", "woken"], "once");
    let waker = bench.worker.waker();
    waker.wake();
    waker.wake();
    bench.turn();
    assert_eq!(bench.calls(), ["woken"]);
}

#[test]
fn ports_of_two_pools_are_refused() {
    let config = SimConfig::default();
    let (first, _peer, wire) = Wire::pair(&config, 1).unwrap();
    let (second, _peer, _wire) = Wire::pair(&config, 2).unwrap();
    let driver = Box::new(Coupler { calls: Rc::default(), timer: None });
    let others = vec![(second, device("sim1"))];
    let error = Worker::start_on(driver, (first, device("sim0")), others, 32, wire.now()).err();
    assert!(matches!(error, Some(WorkerError::ForeignPool { ref iface }) if iface == "sim1"), "{error:?}");
}
