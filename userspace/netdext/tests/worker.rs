//! The worker over the simulated wire, watched by a driver that records its callbacks.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use netdext::dispatch::{Fired, TimerId, WaitsFor, Worker, WorkerError};
use netdext::driver::lifecycle::State;
use netdext::driver::{Cx, DeviceInfo, Driver, DriverError, DriverStats, PortId, PowerState};
use netdext::packet::{Packet, PacketBatch};
use netdext::port::sim::{End, Faults, SimConfig, Wire};
use netdext::port::{Port, RingSizes};
use netdext::queue::QueueError;
use netdext::testing::device;
use rustix::io::Errno;
use serde_json::Value;

const MS: Duration = Duration::from_millis(1);
const BUDGET: usize = 64;

/// What the probe and its test share.
#[derive(Default)]
struct Notes {
    calls: Vec<String>,
    /// The callback that fails.
    failing: Option<&'static str>,
    /// Packets to submit when the interface is enabled.
    to_send: usize,
    /// Whether received packets go into `kept`.
    keeps: bool,
    kept: Vec<Packet>,
    /// Whether the timer stays armed when the interface is disabled, against the contract.
    leaves_timer: bool,
}

/// Records every callback.
struct Probe {
    notes: Rc<RefCell<Notes>>,
    timer: Option<TimerId>,
}

impl Probe {
    fn note(&self, call: &'static str) -> Result<(), DriverError> {
        let mut notes = self.notes.borrow_mut();
        notes.calls.push(call.to_owned());
        if notes.failing == Some(call) {
            let reason = "the test wants it so".to_owned();
            return Err(DriverError { driver: "probe", operation: call, reason });
        }
        Ok(())
    }
}

impl Driver for Probe {
    fn name(&self) -> &'static str {
        "probe"
    }

    fn init(&mut self, _devices: &[DeviceInfo]) -> Result<(), DriverError> {
        self.note("init")
    }

    fn start(&mut self, cx: &mut Cx<'_>) -> Result<(), DriverError> {
        self.timer = Some(cx.timers.create("probe"));
        self.note("start")
    }

    fn set_power_state(&mut self, _cx: &mut Cx<'_>, state: PowerState) -> Result<(), DriverError> {
        self.note(if state == PowerState::On { "power on" } else { "power off" })
    }

    fn set_interface_enable(
        &mut self,
        cx: &mut Cx<'_>,
        _port: PortId,
        enable: bool,
    ) -> Result<(), DriverError> {
        let timer = self.timer.expect("made in start");
        if enable {
            cx.timers.arm_periodic(timer, cx.now + MS, MS);
            for _ in 0..self.notes.borrow().to_send {
                let packet = frame(cx);
                let _ = cx.tx(PortId::FIRST).submit(packet);
            }
        } else if !self.notes.borrow().leaves_timer {
            cx.timers.cancel(timer);
        }
        self.note(if enable { "enable" } else { "disable" })
    }

    fn rx_packets(&mut self, _cx: &mut Cx<'_>, _port: PortId, batch: &mut PacketBatch) {
        let mut notes = self.notes.borrow_mut();
        notes.calls.push(format!("rx {}", batch.len()));
        if notes.keeps {
            notes.kept.extend(std::iter::from_fn(|| batch.pop()));
        }
    }

    fn tx_packet_available(&mut self, _cx: &mut Cx<'_>, _port: PortId) {
        let _ = self.note("room");
    }

    fn timer(&mut self, _cx: &mut Cx<'_>, _fired: Fired) {
        let _ = self.note("tick");
    }

    fn stop(&mut self, _cx: &mut Cx<'_>) {
        let _ = self.note("stop");
    }

    fn stats(&self) -> DriverStats {
        DriverStats::default()
    }
}

/// A frame of 60 bytes, all zero.
fn frame(cx: &Cx<'_>) -> Packet {
    let mut packet = cx.pool.alloc().expect("a free frame");
    packet.set_data_len(60).expect("60 bytes fit");
    packet.data_mut().fill(0);
    packet
}

/// A worker with a probe at end A of a wire.
struct Bench {
    worker: Worker,
    wire: Wire,
    notes: Rc<RefCell<Notes>>,
    // Its rings must live as long as the wire is used.
    _peer: Port,
}

fn start(notes: Notes, config: &SimConfig) -> Result<Bench, (WorkerError, Rc<RefCell<Notes>>)> {
    let (port, peer, wire) = Wire::pair(config, 1).expect("there are frames");
    let notes = Rc::new(RefCell::new(notes));
    let driver = Box::new(Probe { notes: Rc::clone(&notes), timer: None });
    match Worker::start(driver, port, device(0, 1), 32, wire.now()) {
        Ok(worker) => Ok(Bench { worker, wire, notes, _peer: peer }),
        Err(error) => Err((error, notes)),
    }
}

impl Bench {
    fn new(notes: Notes, config: &SimConfig) -> Self {
        start(notes, config).unwrap_or_else(|(error, _)| panic!("{error}"))
    }

    fn running(notes: Notes, config: &SimConfig) -> Self {
        let mut bench = Self::new(notes, config);
        bench.power(PowerState::On).expect("it powers on");
        bench.enable(true).expect("it is enabled");
        bench
    }

    fn power(&mut self, state: PowerState) -> Result<(), WorkerError> {
        self.worker.set_power(self.wire.now(), state)
    }

    fn enable(&mut self, enable: bool) -> Result<(), WorkerError> {
        self.worker.set_interface_enable(self.wire.now(), PortId::FIRST, enable)
    }

    fn waits_for(&self) -> WaitsFor {
        self.worker.waits_for().next().expect("a port").1
    }

    fn inject(&mut self, frames: u8) {
        for number in 0..frames {
            self.wire.inject(End::A, &[number; 60]);
        }
        self.wire.settle();
    }

    fn step_after(&mut self, time: Duration) {
        self.wire.advance(time);
        self.worker.step(self.wire.now(), BUDGET).expect("the step succeeds");
    }

    fn calls(&self) -> Vec<String> {
        std::mem::take(&mut self.notes.borrow_mut().calls)
    }
}

fn count(calls: &[String], call: &str) -> usize {
    calls.iter().filter(|&known| known == call).count()
}

#[test]
fn the_callbacks_come_in_the_order_of_the_contract() {
    let mut bench = Bench::running(Notes::default(), &SimConfig::default());
    bench.inject(3);
    bench.step_after(MS);
    bench.enable(false).expect("it is disabled");
    bench.power(PowerState::Off).expect("it powers off");
    let Bench { worker, wire, notes, .. } = bench;
    let report = worker.finish(wire.now(), None);
    assert!(report.ports[0].census.is_whole(), "{:?}", report.ports[0].census);
    let expected = ["init", "start", "power on", "enable", "rx 3", "tick", "disable", "power off", "stop"];
    assert_eq!(notes.borrow().calls, expected);
}

#[test]
fn powering_off_while_enabled_disables_first_and_powering_on_enables_again() {
    let mut bench = Bench::running(Notes::default(), &SimConfig::default());
    bench.calls();
    bench.power(PowerState::Off).expect("it powers off");
    assert_eq!(bench.worker.state(), State::Asleep);
    bench.power(PowerState::Off).expect("asking twice does nothing");
    bench.power(PowerState::On).expect("it powers on");
    assert_eq!(bench.calls(), ["disable", "power off", "power on", "enable"]);
    assert_eq!(bench.worker.state(), State::Running);
}

#[test]
fn enabling_while_powered_off_is_only_remembered() {
    let mut bench = Bench::new(Notes::default(), &SimConfig::default());
    bench.calls();
    bench.enable(true).expect("it is remembered");
    assert_eq!(bench.calls(), [""; 0]);
    bench.power(PowerState::On).expect("it powers on");
    assert_eq!(bench.calls(), ["power on", "enable"]);
}

#[test]
fn frames_that_arrive_before_the_driver_is_enabled_wait_for_it() {
    let mut bench = Bench::new(Notes::default(), &SimConfig::default());
    bench.inject(2);
    bench.step_after(MS);
    bench.power(PowerState::On).expect("it powers on");
    bench.calls();
    bench.inject(3);
    bench.step_after(MS);
    assert_eq!(bench.calls(), [""; 0]);
    assert!(!bench.waits_for().frames, "it would not take them");

    bench.enable(true).expect("it is enabled");
    bench.inject(1);
    assert!(bench.waits_for().frames);
    bench.step_after(Duration::ZERO);
    assert_eq!(bench.calls(), ["enable", "rx 6"]);
    let snapshot = bench.worker.snapshot();
    assert_eq!((snapshot.rx_disabled, snapshot.rx_packets, snapshot.census.user), (0, 6, 0));
}

#[test]
fn frames_that_are_in_the_ring_when_the_driver_is_disabled_are_counted_and_dropped() {
    let mut bench = Bench::running(Notes::default(), &SimConfig::default());
    bench.inject(3);
    bench.calls();
    bench.enable(false).expect("it is disabled");
    let snapshot = bench.worker.snapshot();
    assert_eq!((snapshot.rx_disabled, snapshot.rx_packets, snapshot.census.user), (3, 3, 0));

    bench.enable(true).expect("it is enabled");
    bench.inject(2);
    bench.power(PowerState::Off).expect("it powers off");
    bench.power(PowerState::On).expect("it powers on");
    bench.step_after(Duration::ZERO);
    assert_eq!(bench.calls(), ["disable", "enable", "disable", "power off", "power on", "enable"]);
    assert_eq!(bench.worker.snapshot().rx_disabled, 5);
}

#[test]
fn an_error_in_init_ends_it_with_no_other_callback() {
    let notes = Notes { failing: Some("init"), ..Notes::default() };
    let Err((error, notes)) = start(notes, &SimConfig::default()) else { panic!("init fails") };
    assert!(matches!(error, WorkerError::Driver(DriverError { operation: "init", .. })), "{error}");
    assert_eq!(notes.borrow().calls, ["init"]);
}

#[test]
fn an_error_in_start_stops_the_driver_once() {
    let notes = Notes { failing: Some("start"), ..Notes::default() };
    let Err((error, notes)) = start(notes, &SimConfig::default()) else { panic!("start fails") };
    assert!(matches!(error, WorkerError::Driver(DriverError { operation: "start", .. })), "{error}");
    assert_eq!(notes.borrow().calls, ["init", "start", "stop"]);
}

#[test]
fn an_error_in_any_later_callback_fails_the_driver_which_is_stopped_once_with_a_whole_pool() {
    for failing in ["power on", "enable", "disable", "power off"] {
        let notes = Notes { failing: Some(failing), to_send: 5, ..Notes::default() };
        let mut bench = Bench::new(notes, &SimConfig::default());
        bench.inject(4);
        let outcome = bench
            .power(PowerState::On)
            .and_then(|()| bench.enable(true))
            .and_then(|()| bench.enable(false))
            .and_then(|()| bench.power(PowerState::Off));
        let error = outcome.expect_err("one of them fails");
        assert!(matches!(&error, WorkerError::Driver(error) if error.operation == failing), "{error}");
        assert_eq!(bench.worker.state(), State::Failed);
        let refused = bench.enable(true).expect_err("a failed driver takes no command");
        assert!(matches!(refused, WorkerError::Transition(_)), "{refused}");

        bench.step_after(MS);
        let Bench { worker, wire, notes, .. } = bench;
        let report = worker.finish(wire.now(), Some(error));
        assert!(report.ports[0].census.is_whole() && report.error.is_some(), "{:?}", report.ports[0].census);
        let calls = &notes.borrow().calls;
        assert_eq!(count(calls, "stop"), 1, "{calls:?}");
        assert_eq!(calls[calls.len() - 2..], [failing, "stop"], "nothing between failing and stopping");
    }
}

#[test]
fn a_queue_that_cannot_go_on_ends_the_step_and_the_pool_stays_whole() {
    let notes = Notes { to_send: 5, ..Notes::default() };
    let mut bench = Bench::running(notes, &SimConfig::default());
    bench.wire.set_faults(Faults { wake_error: Some(Errno::NXIO), ..Faults::default() });
    let error = bench.worker.step(bench.wire.now(), BUDGET).expect_err("ENXIO does not pass");
    assert!(matches!(error, WorkerError::Queue(QueueError::Wake { in_ring: 5, .. })), "{error}");
    let Bench { worker, wire, notes, .. } = bench;
    let report = worker.finish(wire.now(), Some(error));
    assert_eq!(report.ports[0].census.before.tx_lent, 5);
    assert!(report.ports[0].census.is_whole(), "{:?}", report.ports[0].census);
    assert_eq!(count(&notes.borrow().calls, "stop"), 1);
}

#[test]
fn what_had_arrived_when_a_queue_failed_is_counted() {
    let notes = Notes { to_send: 5, ..Notes::default() };
    let mut bench = Bench::running(notes, &SimConfig::default());
    bench.wire.set_faults(Faults { wake_error: Some(Errno::NXIO), ..Faults::default() });
    let error = bench.worker.step(bench.wire.now(), BUDGET).expect_err("ENXIO does not pass");
    bench.inject(3);
    let Bench { worker, wire, notes, .. } = bench;
    let report = worker.finish(wire.now(), Some(error));
    assert_eq!((report.ports[0].snapshot.rx_packets, report.ports[0].snapshot.rx_disabled), (3, 3));
    assert!(report.ports[0].census.is_whole(), "{:?}", report.ports[0].census);
    assert_eq!(count(&notes.borrow().calls, "rx 3"), 0, "the driver has been stopped");
}

#[test]
fn timers_fire_only_while_running() {
    let notes = Notes { leaves_timer: true, ..Notes::default() };
    let mut bench = Bench::running(notes, &SimConfig::default());
    bench.step_after(2 * MS);
    assert_eq!(count(&bench.calls(), "tick"), 2);

    bench.enable(false).expect("it is disabled");
    bench.step_after(2 * MS);
    assert_eq!(count(&bench.calls(), "tick"), 0, "disabled");
    assert_eq!(bench.worker.next_deadline(), None);

    bench.enable(true).expect("it is enabled");
    bench.step_after(MS);
    assert_eq!(count(&bench.calls(), "tick"), 1);
    assert!(bench.worker.next_deadline().is_some());

    bench.worker.quiesce();
    bench.step_after(2 * MS);
    assert_eq!(count(&bench.calls(), "tick"), 0, "quiesced");
    assert_eq!(bench.worker.next_deadline(), None);
}

#[test]
fn packets_that_are_kept_beyond_stop_show_in_the_closing_census() {
    let notes = Notes { keeps: true, ..Notes::default() };
    let mut bench = Bench::running(notes, &SimConfig::default());
    bench.inject(3);
    bench.step_after(MS);
    let Bench { worker, wire, notes, .. } = bench;
    let report = worker.finish(wire.now(), None);
    assert_eq!((report.ports[0].census.before.user, report.ports[0].census.after.user), (3, 3));
    assert!(
        report.ports[0].census.after.is_whole() && !report.ports[0].census.is_whole(),
        "{:?}",
        report.ports[0].census
    );
    assert_eq!(notes.borrow().kept.len(), 3);
}

#[test]
fn a_driver_that_was_refused_for_a_full_ring_hears_once_when_there_is_room() {
    let rings = RingSizes { rx: 8, tx: 4 };
    let config = SimConfig { rings, frames: 64, ..SimConfig::default() };
    let mut bench = Bench::running(Notes { to_send: 5, ..Notes::default() }, &config);
    bench.step_after(Duration::ZERO);
    bench.step_after(Duration::ZERO);
    assert_eq!(count(&bench.calls(), "room"), 0, "the kernel has taken nothing yet");
    bench.wire.settle();
    bench.step_after(Duration::ZERO);
    bench.step_after(Duration::ZERO);
    assert_eq!(count(&bench.calls(), "room"), 1);
}

#[test]
fn a_disabled_driver_does_not_wait_for_room_and_hears_of_it_when_it_is_enabled() {
    let rings = RingSizes { rx: 8, tx: 4 };
    let config = SimConfig { rings, frames: 64, ..SimConfig::default() };
    let mut bench = Bench::running(Notes { to_send: 5, ..Notes::default() }, &config);
    bench.wire.set_faults(Faults { wake_error: Some(Errno::AGAIN), ..Faults::default() });
    bench.step_after(Duration::ZERO);
    assert!(bench.waits_for().room, "the ring has 4 slots, and the kernel takes nothing");

    bench.enable(false).expect("it is disabled");
    bench.wire.set_faults(Faults::default());
    bench.step_after(Duration::ZERO);
    bench.wire.settle();
    bench.step_after(Duration::ZERO);
    assert!(!bench.waits_for().room, "there is room, which nobody is told of");

    bench.notes.borrow_mut().to_send = 0;
    bench.calls();
    bench.enable(true).expect("it is enabled");
    bench.step_after(Duration::ZERO);
    assert_eq!(bench.calls(), ["enable", "room"]);
    assert!(!bench.waits_for().room);
}

#[test]
fn a_driver_that_was_not_refused_does_not_hear_of_room() {
    let rings = RingSizes { rx: 8, tx: 4 };
    let config = SimConfig { rings, frames: 64, ..SimConfig::default() };
    let mut bench = Bench::running(Notes { to_send: 4, ..Notes::default() }, &config);
    for _ in 0..3 {
        bench.step_after(Duration::ZERO);
        bench.wire.settle();
    }
    assert_eq!(count(&bench.calls(), "room"), 0);
}

#[test]
fn completions_that_fail_to_appear_for_100_ms_wake_the_kernel_again() {
    let config = SimConfig { need_wakeup: false, ..SimConfig::default() };
    let mut bench = Bench::new(Notes { to_send: 1, ..Notes::default() }, &config);
    bench.wire.set_faults(Faults { stall_completions: true, ..Faults::default() });
    bench.power(PowerState::On).expect("it powers on");
    // Idle for long: that is not the frames' time.
    bench.step_after(Duration::ZERO);
    bench.wire.advance(Duration::from_secs(10));
    bench.enable(true).expect("it is enabled");
    let stuck = |bench: &mut Bench| {
        let snapshot = bench.worker.snapshot();
        (snapshot.tx_stuck, snapshot.tx_wakeups)
    };
    bench.step_after(Duration::ZERO);
    assert_eq!(stuck(&mut bench), (0, 0), "just submitted");
    bench.step_after(99 * MS);
    assert_eq!(stuck(&mut bench), (0, 0), "99 ms");
    bench.step_after(MS);
    assert_eq!(stuck(&mut bench), (1, 1), "100 ms");
    bench.step_after(99 * MS);
    assert_eq!(stuck(&mut bench), (1, 1), "it waits as long again");
    bench.step_after(MS);
    assert_eq!(stuck(&mut bench), (2, 2));

    bench.wire.set_faults(Faults::default());
    bench.wire.settle();
    bench.step_after(MS);
    bench.step_after(Duration::from_secs(10));
    assert_eq!(stuck(&mut bench), (2, 2), "everything has come back");
}

#[test]
fn a_driver_without_commands_refuses_one_by_name_and_goes_on() {
    let mut bench = Bench::running(Notes::default(), &SimConfig::default());
    let error = bench.worker.control(bench.wire.now(), "sing", &Value::Null).expect_err("it has none");
    assert_eq!(
        error.to_string(),
        "the driver probe has no command sing: its documentation lists its commands"
    );
    assert_eq!(bench.worker.state(), State::Running);
    bench.step_after(MS);
    assert!(bench.notes.borrow().calls.iter().any(|call| call == "tick"), "its timer still fires");
}
