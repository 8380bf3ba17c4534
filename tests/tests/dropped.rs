//! A driver that nobody stops: its supervisor is dropped, or never came to be.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use netdext::driver::{Cx, Driver, DriverError, DriverFactory, DriverStats, PortId};
use netdext::packet::PacketBatch;
use netdext_host::supervisor::{RunConfig, Supervisor};
use netdext_tests::wire::DRIVER_IFACE;
use netdext_tests::{Wire, WireConfig, patiently, require};

const QUEUES: u32 = 2;

/// Where a driver waits while it is started.
#[derive(Default)]
struct Gate {
    open: Mutex<bool>,
    opened: Condvar,
    waiting: AtomicU32,
}

impl Gate {
    fn pass(&self) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let open = self.open.lock().unwrap();
        drop(self.opened.wait_while(open, |open| !*open).unwrap());
    }

    fn set(&self, open: bool) {
        *self.open.lock().unwrap() = open;
        self.opened.notify_all();
    }
}

struct Idle(Arc<Gate>);

impl Driver for Idle {
    fn name(&self) -> &'static str {
        "idle"
    }

    fn start(&mut self, _cx: &mut Cx<'_>) -> Result<(), DriverError> {
        self.0.pass();
        Ok(())
    }

    fn rx_packets(&mut self, _cx: &mut Cx<'_>, _port: PortId, _batch: &mut PacketBatch) {}

    fn stats(&self) -> DriverStats {
        DriverStats::default()
    }
}

fn idle(gate: &Arc<Gate>) -> DriverFactory {
    let gate = Arc::clone(gate);
    DriverFactory::new("idle", move |_queue| Box::new(Idle(Arc::clone(&gate))))
}

/// Descriptors of this process: sockets, maps, programs and links are among them.
fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("it can be read").count()
}

/// How many there are when no task closes one any more.
async fn settled_descriptors() -> usize {
    loop {
        let count = descriptors();
        tokio::time::sleep(patiently(Duration::from_millis(100))).await;
        if descriptors() == count {
            return count;
        }
    }
}

/// Threads of workers.
fn workers() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").expect("it can be read");
    let name = |task: std::io::Result<std::fs::DirEntry>| {
        // One that has ended meanwhile has none.
        task.ok().and_then(|task| std::fs::read_to_string(task.path().join("comm")).ok())
    };
    tasks.filter_map(name).filter(|name| name.starts_with(DRIVER_IFACE)).count()
}

/// Waits until nothing is left of a driver but so many descriptors.
async fn nothing_left(before: usize) {
    let gone = async {
        while workers() > 0 || descriptors() > before {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let outcome = tokio::time::timeout(patiently(Duration::from_secs(10)), gone).await;
    let (threads, now) = (workers(), descriptors());
    assert!(outcome.is_ok(), "{threads} threads are left, and {now} descriptors, which were {before}");
}

// One test, because another one's descriptors would be counted too.
#[test]
fn a_driver_whose_supervisor_is_dropped_or_whose_start_is_cancelled_leaves_nothing() {
    require!("ethtool");
    let wire = Wire::with("dropped", WireConfig { queues: QUEUES, ..WireConfig::default() });
    let gate = Arc::<Gate>::default();
    let config = RunConfig::new(DRIVER_IFACE, idle(&gate));
    wire.driver.block_on(async || {
        // What is asked once, such as what the kernel can do, is asked here.
        gate.set(true);
        let report = Supervisor::start(&config).await.expect("it starts").stop().await;
        assert!(report.is_whole(), "{report:?}");
        let before = settled_descriptors().await;

        let supervisor = Supervisor::start(&config).await.expect("it starts");
        assert_eq!(workers(), QUEUES as usize);
        drop(supervisor);
        wire.assert_no_xdp();
        nothing_left(before).await;

        gate.set(false);
        gate.waiting.store(0, Ordering::Relaxed);
        let all_wait = async {
            while gate.waiting.load(Ordering::Relaxed) < QUEUES {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let limit = patiently(Duration::from_secs(10));
        tokio::select! {
            started = Supervisor::start(&config) => panic!("{:?}", started.err()),
            waiting = tokio::time::timeout(limit, all_wait) => waiting.expect("every worker is being started"),
        }
        wire.assert_no_xdp();
        gate.set(true);
        nothing_left(before).await;

        // The queues can be had again.
        let report = Supervisor::start(&config).await.expect("it starts").stop().await;
        assert!(report.is_whole(), "{report:?}");
    });
    wire.assert_no_xdp();
}
