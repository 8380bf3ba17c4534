//! A server with an owner of drivers that answers by a fixed rule.

use std::future::Future;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use netdext_daemon::control::line::{Response, parse_response};
use netdext_daemon::control::list::{ListEntry, ListState};
use netdext_daemon::control::protocol::{ErrorCode, ErrorObject, Request, ServerInfo};
use netdext_daemon::control::{
    Answer, Client, Incoming, Reply, RuntimeDir, Server, ServerConfig, SocketName,
};
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::{mpsc, oneshot};

/// How long anything may take that should take no time, on a machine under load.
pub const SOON: Duration = Duration::from_secs(20);
/// Bytes of the answer to `ioreg`: more than the buffers of a socket take.
pub const LARGE: usize = 8 << 20;
/// How long the answer to `reload` takes.
pub const SLOW: Duration = Duration::from_millis(300);

/// Limits that tests can wait for.
pub fn quick() -> ServerConfig {
    ServerConfig {
        half_line: Duration::from_millis(300),
        write: Duration::from_millis(300),
        ..ServerConfig::default()
    }
}

/// A running server. It stops with its guard.
pub struct Fixture {
    pub dir: RuntimeDir,
    pub path: PathBuf,
    /// How many producers of streams have ended.
    pub ended: Arc<AtomicUsize>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    _temp: Option<TempDir>,
}

impl Fixture {
    pub fn start(config: ServerConfig) -> Self {
        let temp = tempfile::tempdir().unwrap();
        let dir = RuntimeDir::at(temp.path().join("run"));
        let mut fixture = Self::start_in(dir, SocketName::Daemon, config, vec![entry("veth0")]);
        fixture._temp = Some(temp);
        fixture
    }

    pub fn start_in(
        dir: RuntimeDir,
        name: SocketName,
        config: ServerConfig,
        drivers: Vec<ListEntry>,
    ) -> Self {
        let socket = dir.bind(name).unwrap();
        let path = socket.path().to_owned();
        let (stop, stopped) = oneshot::channel();
        let ended = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&ended);
        let thread = std::thread::spawn(move || {
            block_on(async {
                let server = Server::new(socket, config).unwrap();
                let (sender, requests) = mpsc::channel(8);
                tokio::spawn(own(requests, drivers, count));
                server.serve(sender, async { drop(stopped.await) }).await;
            });
        });
        Self { dir, path, ended, stop: Some(stop), thread: Some(thread), _temp: None }
    }

    pub fn client(&self) -> Client {
        Client::connect(&self.path).unwrap()
    }

    pub fn raw(&self) -> Raw {
        Raw::connect(&self.path)
    }

    /// Tells the server to stop, without waiting for it.
    pub fn begin_stop(&mut self) {
        drop(self.stop.take());
    }

    /// Stops the server and waits for it.
    pub fn stop(&mut self) {
        self.begin_stop();
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.stop();
    }
}

pub fn block_on(future: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future);
}

pub fn entry(iface: &str) -> ListEntry {
    ListEntry {
        team_id: "A123456789".to_owned(),
        bundle_id: "org.netdext.sample".to_owned(),
        version: "1.0/1".to_owned(),
        name: "org.netdext.sample".to_owned(),
        enabled: true,
        active: true,
        state: ListState::ActivatedEnabled,
        iface: iface.to_owned(),
        other_ifaces: Vec::new(),
        last_error: None,
    }
}

async fn own(mut requests: mpsc::Receiver<Incoming>, drivers: Vec<ListEntry>, ended: Arc<AtomicUsize>) {
    while let Some(Incoming { request, peer, answer }) = requests.recv().await {
        assert_eq!(peer.pid, Some(std::process::id()));
        if let Request::Reload { .. } = request {
            tokio::spawn(async move {
                tokio::time::sleep(SLOW).await;
                let _ = answer.send(Reply::json(&"reloaded"));
            });
            continue;
        }
        if let Some(reply) = answer_to(request, &drivers, &ended) {
            let _ = answer.send(reply);
        }
    }
}

/// `None` drops the request.
fn answer_to(request: Request, drivers: &[ListEntry], ended: &Arc<AtomicUsize>) -> Option<Answer> {
    Some(match request {
        Request::Hello {} => {
            Reply::json(&ServerInfo { version: "0.1.0".to_owned(), pid: std::process::id(), daemon: true })
        }
        Request::List {} => Reply::json(&drivers),
        Request::Ioreg {} => Reply::json(&"x".repeat(LARGE)),
        Request::Capture { ring_size, .. } => Ok(stream(ring_size.unwrap_or(16), Arc::clone(ended))),
        Request::DriverControl { .. } => return None,
        _ => Err(ErrorObject::new(ErrorCode::NotFound, "there is no such thing here")),
    })
}

/// So many numbered chunks as fast as they can be made; those without room are dropped.
fn stream(chunks: u32, ended: Arc<AtomicUsize>) -> Reply {
    let (sender, receiver) = mpsc::channel(4);
    std::thread::spawn(move || {
        for number in 0..chunks {
            let mut chunk = vec![0; 4096];
            chunk[..4].copy_from_slice(&number.to_le_bytes());
            match sender.try_send(chunk) {
                Ok(()) | Err(mpsc::error::TrySendError::Full(_)) => {}
                Err(mpsc::error::TrySendError::Closed(_)) => break,
            }
        }
        ended.fetch_add(1, Ordering::SeqCst);
    });
    Reply::Stream(receiver)
}

/// A connection on which anything can be written.
pub struct Raw {
    pub stream: BufReader<UnixStream>,
}

impl Raw {
    pub fn connect(path: &std::path::Path) -> Self {
        let stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream.set_write_timeout(Some(SOON)).unwrap();
        Self { stream: BufReader::new(stream) }
    }

    /// Writes, and says whether the server took all of it.
    pub fn write(&mut self, bytes: &[u8]) -> bool {
        self.stream.get_mut().write_all(bytes).is_ok()
    }

    /// The next answer; `None` once the server has closed.
    pub fn read(&mut self) -> Option<Response<Value>> {
        let mut line = Vec::new();
        match self.stream.read_until(b'\n', &mut line) {
            Ok(0) => None,
            Ok(_) => Some(parse_response(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => None,
            Err(error) => panic!("no answer: {error}"),
        }
    }

    pub fn ask(&mut self, line: &str) -> Response<Value> {
        assert!(self.write(format!("{line}\n").as_bytes()));
        self.read().expect("the connection stays")
    }

    pub fn read_error(&mut self) -> ErrorObject {
        self.read().expect("an error before the end").result.unwrap_err()
    }
}

/// Asks until the answer is yes.
pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !done() {
        assert!(Instant::now() < deadline, "not within {SOON:?}: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
