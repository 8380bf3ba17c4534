//! A netdext that runs no driver: it serves the real control socket with counts that a test makes up.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use netdext_daemon::control::list::{ListEntry, ListState};
use netdext_daemon::control::protocol::{ErrorCode, ErrorObject, Request};
use netdext_daemon::control::{Answer, Incoming, Reply, RuntimeDir, Server, ServerConfig, SocketName};
use netdext_host::stats::{PortStats, QueueStats};
use netdext_host::xdp::steering::ProgramCounters;
use tokio::sync::{mpsc, oneshot};

/// A driver that is not there, with the counts that it shows.
#[derive(Clone, Debug)]
pub struct FakeDriver {
    /// How it is listed.
    pub entry: ListEntry,
    /// What it has counted.
    pub stats: PortStats,
}

impl FakeDriver {
    /// A sample driver on one queue of an interface; each has its own bundle ID, `org.netdext.IFACE`.
    pub fn on(iface: &str) -> Self {
        let mut stats = PortStats::collect(iface, "sample", ProgramCounters::default(), &[]);
        stats.queues.push(QueueStats { fill_level: 2048, ..QueueStats::default() });
        stats.uptime_ns = Some(62_000_000_000);
        let entry = ListEntry {
            team_id: "A123456789".to_owned(),
            bundle_id: format!("org.netdext.{iface}"),
            version: "1.0".to_owned(),
            name: "sample".to_owned(),
            enabled: true,
            active: true,
            state: ListState::ActivatedEnabled,
            iface: iface.to_owned(),
            other_ifaces: Vec::new(),
            last_error: None,
        };
        Self { entry, stats }
    }

    /// Counts received frames of 100 bytes.
    pub fn receive(&mut self, frames: u64) {
        let queue = &mut self.stats.queues[0];
        queue.rx_packets += frames;
        queue.rx_bytes += 100 * frames;
        self.stats.accounting.offered += frames;
        self.stats.accounting.delivered += frames;
    }
}

type Drivers = Arc<Mutex<Vec<FakeDriver>>>;

/// Serves the control socket of a `netdext run` until it is dropped.
#[derive(Debug)]
pub struct FakeNetdext {
    drivers: Drivers,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl FakeNetdext {
    /// Listens in this runtime directory.
    ///
    /// # Panics
    /// It can't.
    pub fn listen(directory: &Path, drivers: Vec<FakeDriver>) -> Self {
        let drivers = Arc::new(Mutex::new(drivers));
        let shared = Arc::clone(&drivers);
        let socket =
            RuntimeDir::at(directory).bind(SocketName::Run(std::process::id())).expect("the socket is free");
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime can be made").block_on(async {
                let server = Server::new(socket, ServerConfig::default()).expect("the socket can be served");
                let (sender, mut requests) = mpsc::channel::<Incoming>(8);
                let answering = async {
                    while let Some(incoming) = requests.recv().await {
                        let _ = incoming.answer.send(answer(&incoming.request, &lock(&shared)));
                    }
                };
                tokio::join!(server.serve(sender, async { stopped.await.unwrap_or(()) }), answering);
            });
        });
        Self { drivers, stop: Some(stop), thread: Some(thread) }
    }

    /// Changes what it shows.
    pub fn change<T>(&self, change: impl FnOnce(&mut Vec<FakeDriver>) -> T) -> T {
        change(&mut lock(&self.drivers))
    }
}

impl Drop for FakeNetdext {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn lock(drivers: &Drivers) -> std::sync::MutexGuard<'_, Vec<FakeDriver>> {
    drivers.lock().unwrap_or_else(PoisonError::into_inner)
}

fn answer(request: &Request, drivers: &[FakeDriver]) -> Answer {
    match request {
        Request::List {} => Reply::json(&drivers.iter().map(|driver| &driver.entry).collect::<Vec<_>>()),
        Request::Stats { driver } => {
            let mut meant = drivers.iter().filter(|fake| fake.entry.is_meant_by(driver));
            match (meant.next(), meant.next()) {
                (Some(only), None) => Reply::json(&only.stats),
                (None, _) => Err(ErrorObject::new(ErrorCode::NotFound, "no such driver")),
                (Some(_), Some(_)) => Err(ErrorObject::new(ErrorCode::Ambiguous, "several drivers")),
            }
        }
        other => Err(ErrorObject::new(ErrorCode::BadRequest, format!("not faked: {other:?}"))),
    }
}
