//! The thread of a worker over the simulated wire: how it ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use netdext::dispatch::{WorkerError, WorkerReport};
use netdext::driver::{Cx, Driver, DriverError, DriverStats, PortId, PowerState};
use netdext::packet::PacketBatch;
use netdext::port::Port;
use netdext::port::sim::{End, Faults, SimConfig, Wire};
use netdext::testing;
use netdext_host::worker::{Command, Recipe, WaitStrategy, WorkerConfig, WorkerEvent, WorkerHandle};
use netdext_host::xsk::XskInfo;
use rustix::io::Errno;
use tokio::sync::mpsc::{UnboundedReceiver, error::TryRecvError, unbounded_channel};
use tokio::sync::oneshot;

/// How long what takes milliseconds may take on a busy machine.
const SOON: Duration = Duration::from_secs(20);

/// What becomes of the driver when it is enabled.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Lives,
    Panics,
    /// The next flush finds a socket that is of no use any more.
    LosesItsQueue,
}

/// A driver that plays the kernel and the other end of the wire itself, because they live on its thread.
struct Player {
    fate: Fate,
    wire: Wire,
    _peer: Port,
    // Says when the driver is gone.
    _alive: Arc<()>,
}

impl Driver for Player {
    fn name(&self) -> &'static str {
        "player"
    }

    fn set_interface_enable(
        &mut self,
        cx: &mut Cx<'_>,
        _port: PortId,
        enable: bool,
    ) -> Result<(), DriverError> {
        if !enable || self.fate == Fate::Lives {
            return Ok(());
        }
        // Two frames that the driver will never see.
        self.wire.inject(End::A, &[1; 60]);
        self.wire.inject(End::A, &[2; 60]);
        self.wire.settle();
        assert!(self.fate != Fate::Panics, "as the test wants it");
        self.wire.set_faults(Faults {
            wake_error: Some(Errno::NXIO),
            rx_ring_full: true,
            ..Faults::default()
        });
        let mut packet = cx.pool.alloc().expect("a free frame");
        packet.set_data_len(60).expect("it fits");
        cx.tx(PortId::FIRST).submit(packet).expect("the ring is empty");
        Ok(())
    }

    fn rx_packets(&mut self, _cx: &mut Cx<'_>, _port: PortId, _batch: &mut PacketBatch) {}

    fn stop(&mut self, _cx: &mut Cx<'_>) {
        assert!(self.fate != Fate::Panics, "a driver that panicked is not called again");
    }

    fn stats(&self) -> DriverStats {
        assert!(self.fate != Fate::Panics, "it has no counts any more");
        DriverStats::default()
    }
}

/// A worker, and what has come of it.
struct Thread {
    handle: WorkerHandle,
    events: UnboundedReceiver<WorkerEvent>,
    alive: Arc<()>,
    failures: Arc<AtomicU64>,
}

impl Thread {
    fn start(fate: Fate) -> Self {
        let device = testing::device(3, 4);
        let alive = Arc::new(());
        let of_driver = Arc::clone(&alive);
        let recipe: Recipe = Box::new(move || {
            let (port, peer, wire) = Wire::pair(&SimConfig::default(), 1).expect("there are frames");
            let info = XskInfo { zero_copy: false, tx_budget: None, huge_pages: false, busy_retries: 0 };
            Ok((vec![(port, info)], Box::new(Player { fate, wire, _peer: peer, _alive: of_driver })))
        });
        let failures = Arc::new(AtomicU64::new(0));
        let (failed, still_there) = (Arc::clone(&failures), Arc::downgrade(&alive));
        let on_failure = Box::new(move || {
            assert!(still_there.strong_count() > 1, "before the worker is taken down");
            failed.fetch_add(1, Ordering::Relaxed);
        });
        let config = WorkerConfig { wait: WaitStrategy::Poll, batch: 32, cpu: None, latency: false };
        let (sender, events) = unbounded_channel();
        let handle = WorkerHandle::spawn(config, vec![device], recipe, on_failure, sender).expect("a thread");
        Self { handle, events, alive, failures }
    }

    fn ask(&self, command: impl FnOnce(oneshot::Sender<Result<(), WorkerError>>) -> Command) -> bool {
        let (sender, answer) = oneshot::channel();
        self.handle.send(command(sender));
        answer.blocking_recv().is_ok()
    }

    /// Powers the driver on and enables it. Says whether it answered.
    fn enable(&self) -> bool {
        self.ask(|reply| Command::SetPower(PowerState::On, reply))
            && self.ask(|reply| Command::SetInterfaceEnable(PortId::FIRST, true, reply))
    }

    /// Waits for the end of the thread, and returns what it left.
    #[track_caller]
    fn ended(mut events: UnboundedReceiver<WorkerEvent>, alive: &Arc<()>) -> WorkerReport {
        let deadline = Instant::now() + SOON;
        let mut reports = Vec::new();
        loop {
            match events.try_recv() {
                Ok(WorkerEvent::Ended { queue: 3, report }) => reports.push(report),
                Ok(other) => panic!("{other:?}"),
                // The thread has let go of its end.
                Err(TryRecvError::Disconnected) => break,
                Err(TryRecvError::Empty) => sleep(Duration::from_millis(1)),
            }
            assert!(Instant::now() < deadline, "the thread does not end");
        }
        assert_eq!(Arc::strong_count(alive), 1, "the driver is gone");
        assert_eq!(reports.len(), 1);
        *reports.remove(0).expect("it left a report")
    }
}

#[test]
fn a_worker_whose_handle_is_dropped_stops_in_order_though_it_slept() {
    for enabled in [true, false] {
        let thread = Thread::start(Fate::Lives);
        assert!(!enabled || thread.enable());
        drop(thread.handle);
        let report = Thread::ended(thread.events, &thread.alive);
        assert!(report.error.is_none() && report.ports[0].census.is_whole(), "{report:?}");
        assert_eq!(thread.failures.load(Ordering::Relaxed), 0, "it was told to stop");
    }
}

#[test]
fn a_worker_whose_driver_panics_gives_up_its_socket_and_leaves_a_report() {
    let thread = Thread::start(Fate::Panics);
    assert!(!thread.enable(), "it panics");
    let report = Thread::ended(thread.events, &thread.alive);
    assert_eq!(thread.failures.load(Ordering::Relaxed), 1);
    assert!(matches!(report.error, Some(WorkerError::Panicked { driver: "player" })), "{report:?}");
    assert!(report.ports[0].census.is_whole(), "{:?}", report.ports[0].census);
    assert_eq!(
        (report.ports[0].snapshot.rx_packets, report.ports[0].snapshot.rx_disabled),
        (2, 2),
        "counted, not lost"
    );
}

#[test]
fn a_worker_whose_queue_fails_gives_up_its_socket_and_leaves_a_report() {
    let thread = Thread::start(Fate::LosesItsQueue);
    thread.enable();
    let report = Thread::ended(thread.events, &thread.alive);
    assert_eq!(thread.failures.load(Ordering::Relaxed), 1);
    assert!(matches!(report.error, Some(WorkerError::Queue(_))), "{report:?}");
    assert!(report.ports[0].census.is_whole(), "{:?}", report.ports[0].census);
    assert_eq!(report.ports[0].snapshot.rx_packets, 2);
}
