//! A driver whose callbacks fail or never return: the supervisor says so, and ends in order.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use netdext::driver::{Cx, Driver, DriverError, DriverFactory, DriverStats, PortId, PowerState};
use netdext::error::one_line;
use netdext::packet::PacketBatch;
use netdext_host::supervisor::{CommandError, EndReason, RunConfig, RunReport, Supervisor, SwitchError};
use netdext_tests::wire::{DRIVER_IFACE, HOST_IFACE};
use netdext_tests::{PacketSocket, Wire, patiently, require};

/// How long what takes a second at the most may take on a busy machine.
const SOON: Duration = Duration::from_secs(20);

/// What goes wrong.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fault {
    PowerOnFails,
    EnableFails,
    DisableFails,
    DisableHangs,
    PanicsOnFrames,
}

/// Where a callback hangs until the test is over.
#[derive(Default)]
struct Gate {
    open: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    fn wait(&self) {
        let open = self.open.lock().unwrap();
        drop(self.opened.wait_while(open, |open| !*open).unwrap());
    }

    fn open(&self) {
        *self.open.lock().unwrap() = true;
        self.opened.notify_all();
    }
}

struct Faulty(Fault, Arc<Gate>);

impl Faulty {
    fn fail(&self, operation: &'static str) -> Result<(), DriverError> {
        Err(DriverError { driver: self.name(), operation, reason: "as it was told to".to_owned() })
    }
}

impl Driver for Faulty {
    fn name(&self) -> &'static str {
        "faulty"
    }

    fn set_power_state(&mut self, _cx: &mut Cx<'_>, state: PowerState) -> Result<(), DriverError> {
        match (self.0, state) {
            (Fault::PowerOnFails, PowerState::On) => self.fail("set_power_state"),
            _ => Ok(()),
        }
    }

    fn set_interface_enable(
        &mut self,
        _cx: &mut Cx<'_>,
        _port: PortId,
        enable: bool,
    ) -> Result<(), DriverError> {
        match (self.0, enable) {
            (Fault::EnableFails, true) | (Fault::DisableFails, false) => self.fail("set_interface_enable"),
            (Fault::DisableHangs, false) => {
                self.1.wait();
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn rx_packets(&mut self, _cx: &mut Cx<'_>, _port: PortId, batch: &mut PacketBatch) {
        assert!(self.0 != Fault::PanicsOnFrames, "as it was told to");
        batch.clear();
    }

    fn stats(&self) -> DriverStats {
        DriverStats::default()
    }
}

fn factory(fault: Fault, gate: &Arc<Gate>) -> DriverFactory {
    let gate = Arc::clone(gate);
    DriverFactory::new("faulty", move |_queue| Box::new(Faulty(fault, Arc::clone(&gate))))
}

/// Runs `work` in the namespace of the driver's end, but not for ever.
fn in_time<T: Send>(wire: &Wire, work: impl AsyncFnOnce() -> T + Send) -> T {
    wire.driver.block_on(async || tokio::time::timeout(patiently(SOON), work()).await.expect("it ends"))
}

fn config(fault: Fault, gate: &Arc<Gate>) -> RunConfig {
    RunConfig::new(DRIVER_IFACE, factory(fault, gate))
}

async fn started(fault: Fault, gate: &Arc<Gate>) -> Supervisor {
    Supervisor::start(&config(fault, gate)).await.expect("it starts")
}

/// One worker failed, with the driver's own words, and no frame is missing.
#[track_caller]
fn assert_failed(report: &RunReport) {
    let [(0, error)] = report.errors.as_slice() else { panic!("{report:?}") };
    assert!(one_line(error).contains("as it was told to"), "{error}");
    assert!(report.is_whole(), "{report:?}");
}

#[test]
fn a_failed_callback_is_seen_however_often_something_else_is_asked() {
    require!("ethtool");
    let wire = Wire::new("faulty driver, asked all the time");
    let report = in_time(&wire, async || {
        let mut supervisor = started(Fault::DisableFails, &Arc::default()).await;
        wire.driver.ip(&["link", "set", "dev", DRIVER_IFACE, "down"]);
        let reason = loop {
            tokio::select! {
                reason = supervisor.run() => break reason,
                () = tokio::time::sleep(Duration::from_millis(10)) => {
                    supervisor.stats().await.expect("the counters can be read");
                }
            }
        };
        assert!(matches!(reason, EndReason::WorkerFailed { queue: 0 }), "{reason:?}");
        supervisor.stop().await
    });
    assert_failed(&report);
    wire.assert_no_xdp();
}

#[test]
fn a_switch_whose_callback_fails_is_no_success() {
    require!("ethtool");
    let wire = Wire::new("faulty driver, switched");
    let report = in_time(&wire, async || {
        let mut supervisor = started(Fault::DisableFails, &Arc::default()).await;
        let error = supervisor.set_enabled(false).await.expect_err("the callback failed");
        assert!(matches!(error, SwitchError::Command(CommandError::Ended { queue: 0 })), "{error:?}");
        let reason = supervisor.run().await;
        assert!(matches!(reason, EndReason::WorkerFailed { queue: 0 }), "{reason:?}");
        supervisor.stop().await
    });
    assert_failed(&report);
    wire.assert_no_xdp();
}

#[test]
fn a_driver_that_fails_on_the_way_to_be_enabled_is_not_started_and_says_why() {
    require!("ethtool");
    let wire = Wire::new("faulty driver, not started");
    for (fault, operation) in
        [(Fault::PowerOnFails, "set_power_state"), (Fault::EnableFails, "set_interface_enable")]
    {
        let error = in_time(&wire, async || Supervisor::start(&config(fault, &Arc::default())).await.err());
        let line = one_line(&error.expect("it failed"));
        assert!(line.contains(operation) && line.contains("as it was told to"), "{line}");
        wire.assert_no_xdp();
    }
}

#[test]
fn a_worker_that_panics_leaves_its_frames_to_the_kernel_at_once_and_none_is_lost() {
    require!("ethtool");
    let wire = Wire::new("faulty driver, panicking");
    let (socket, frame) = (PacketSocket::open(&wire.host, HOST_IFACE), wire.udp_frame([198, 18, 0, 1]));
    let rule = "driver:proto=udp".parse().expect("a rule");
    let config = RunConfig { rules: vec![rule], ..config(Fault::PanicsOnFrames, &Arc::default()) };
    let over = AtomicBool::new(false);
    let report = std::thread::scope(|scope| {
        scope.spawn(|| {
            let deadline = Instant::now() + patiently(SOON);
            while !over.load(Ordering::Relaxed) && Instant::now() < deadline {
                socket.send(&frame);
                std::thread::sleep(Duration::from_micros(50));
            }
        });
        let report = in_time(&wire, async || {
            let mut supervisor = Supervisor::start(&config).await.expect("it starts");
            let reason = supervisor.run().await;
            assert!(matches!(reason, EndReason::WorkerFailed { queue: 0 }), "{reason:?}");
            let before = supervisor.stats().await.expect("the XDP program is there").accounting;
            let mut after = before;
            while after.seen < before.seen + 100 {
                after = supervisor.stats().await.expect("the XDP program is there").accounting;
            }
            // The counters are read one after the other, while frames arrive.
            let to_kernel = after.offered < before.offered + 50;
            assert!(before.offered > 0 && to_kernel, "{before:?} {after:?}");
            supervisor.stop().await
        });
        over.store(true, Ordering::Relaxed);
        report
    });
    let [(0, error)] = report.errors.as_slice() else { panic!("{report:?}") };
    assert_eq!(one_line(error), "driver faulty panicked; the log above says where");
    assert!(report.is_whole(), "{report:?}");
    assert_eq!(report.stats.accounting.residue, 0, "{:?}", report.stats);
    wire.assert_no_xdp();
}

#[test]
fn a_callback_that_never_returns_keeps_nobody_from_stopping_the_driver() {
    require!("ethtool");
    let wire = Wire::new("faulty driver, hanging");
    let gate = Arc::<Gate>::default();
    let report = in_time(&wire, async || {
        let mut supervisor = started(Fault::DisableHangs, &gate).await;
        let error = supervisor.set_enabled(false).await.expect_err("the callback hangs");
        assert!(matches!(error, SwitchError::Command(CommandError::Silent { queue: 0 })), "{error:?}");
        let stats = supervisor.stats().await.expect("the XDP program is there");
        assert!(stats.queues.is_empty(), "nobody can say what the queue counted: {stats:?}");
        supervisor.stop().await
    });
    gate.open();
    assert_eq!(report.missing, [0], "{report:?}");
    wire.assert_no_xdp();
}
