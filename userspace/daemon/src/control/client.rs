//! A client of a control socket, for the command line: it blocks, with a time limit.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::de::{DeserializeOwned, IgnoredAny};

use super::client_error::ClientError;
use super::line;
use super::list::ListEntry;
use super::protocol::{Request, Selector};
use super::runtime_dir::{RuntimeDir, SocketName};
use super::server::LINE_BYTES;
use super::socket::{connect, peer};

/// How long a server has for an answer unless [`Client::set_timeout`] says otherwise.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a process has to list its drivers while one is looked for.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(3);
/// The longest answer that is read, in bytes, so that a mad server fills no memory: a list of two million rules fits.
const ANSWER_MAX: usize = 256 << 20;
/// Bytes read at a time.
const READ_CHUNK: usize = 64 * 1024;

/// A connection to a running netdext. Any number of requests may follow each other on it.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    path: PathBuf,
    pid: Option<u32>,
    timeout: Duration,
    /// What was read beyond the last answer.
    rest: Vec<u8>,
    last_id: u64,
}

impl Client {
    /// Connects to a socket.
    ///
    /// # Errors
    ///
    /// [`ClientError::Gone`] if nobody listens, [`ClientError::NotPermitted`], [`ClientError::TimedOut`] if the
    /// server accepts nobody.
    pub fn connect(path: &Path) -> Result<Self, ClientError> {
        let stream = connect(path, DEFAULT_TIMEOUT).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                ClientError::Gone { path: path.to_owned(), source }
            }
            io::ErrorKind::PermissionDenied => ClientError::NotPermitted { path: path.to_owned(), source },
            io::ErrorKind::WouldBlock => {
                ClientError::TimedOut { path: path.to_owned(), pid: None, after: DEFAULT_TIMEOUT }
            }
            _ => ClientError::Io { action: "connect to", path: path.to_owned(), source },
        })?;
        let (pid, _) = peer(&stream);
        let path = path.to_owned();
        Ok(Self { stream, path, pid, timeout: DEFAULT_TIMEOUT, rest: Vec::new(), last_id: 0 })
    }

    /// Connects to the daemon.
    ///
    /// # Errors
    ///
    /// [`ClientError::NoDaemon`], and those of [`Client::connect`].
    pub fn daemon(dir: &RuntimeDir) -> Result<Self, ClientError> {
        let path = dir.socket(SocketName::Daemon);
        Self::connect(&path).map_err(|error| match error {
            ClientError::Gone { path, .. } => ClientError::NoDaemon { path },
            other => other,
        })
    }

    /// Connects to every netdext of a runtime directory, the daemon first. Stale sockets are passed over.
    ///
    /// # Errors
    ///
    /// [`ClientError::NoneRunning`], and those of [`Client::connect`].
    pub fn all(dir: &RuntimeDir) -> Result<Vec<Self>, ClientError> {
        let mut clients = Vec::new();
        for name in dir.sockets()? {
            match Self::connect(&dir.socket(name)) {
                Ok(client) => clients.push(client),
                Err(ClientError::Gone { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        if clients.is_empty() {
            return Err(ClientError::NoneRunning { dir: dir.path().to_owned() });
        }
        Ok(clients)
    }

    /// Connects to the process that has the driver, and returns how it lists it. [`ListEntry::selector`] then
    /// means that driver and no other.
    ///
    /// A process that is stuck does not keep the others from being used; it is an error only if none of them
    /// has the driver.
    ///
    /// # Errors
    ///
    /// [`ClientError::NotFound`], [`ClientError::Ambiguous`], and those of [`Client::all`] and
    /// [`Client::request`].
    pub fn for_driver(dir: &RuntimeDir, selector: &Selector) -> Result<(Self, ListEntry), ClientError> {
        let mut found = Vec::new();
        let mut failed = None;
        for mut client in Self::all(dir)? {
            client.set_timeout(LOOKUP_TIMEOUT);
            match client.request::<Vec<ListEntry>>(&Request::List {}) {
                Ok(entries) => {
                    client.set_timeout(DEFAULT_TIMEOUT);
                    let fitting = entries.into_iter().filter(|entry| entry.is_meant_by(selector));
                    let fitting: Vec<_> = fitting.collect();
                    found.push((client, fitting));
                }
                Err(error) => failed = Some(error),
            }
        }
        let names: Vec<_> = found.iter().flat_map(|(_, entries)| entries).map(ToString::to_string).collect();
        if names.len() > 1 {
            return Err(ClientError::Ambiguous { selector: selector.clone(), found: names });
        }
        let only = found.into_iter().find_map(|(client, mut entries)| Some((client, entries.pop()?)));
        only.ok_or_else(|| failed.unwrap_or(ClientError::NotFound { selector: selector.clone() }))
    }

    /// The server's process, if it can be named here.
    pub fn pid(&self) -> Option<u32> {
        self.pid
    }

    /// The socket.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Sets how long the server has for each answer from now on.
    pub fn set_timeout(&mut self, timeout: Duration) {
        self.timeout = timeout;
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    ///
    /// [`ClientError::Refused`] if the server says no, [`ClientError::TooLong`]: the connection can be used further.
    /// After any other error it cannot.
    pub fn request<T: DeserializeOwned>(&mut self, request: &Request) -> Result<T, ClientError> {
        self.last_id += 1;
        let id = self.last_id;
        let line = line::request_line(id, request).map_err(ClientError::Unsendable)?;
        if line.len() > LINE_BYTES + 1 {
            return Err(ClientError::TooLong { bytes: line.len() });
        }
        let deadline = Instant::now() + self.timeout;
        let sent = self.send(line.as_bytes());
        // A server that refuses the client says why and closes; that is worth more than the broken pipe.
        let answer = match (self.read_line(deadline), sent) {
            (Ok(line), _) => line,
            (Err(_), Err(error)) | (Err(error), Ok(())) => return Err(error),
        };
        let response =
            line::parse_response::<T>(&answer).map_err(|error| self.protocol(error.to_string()))?;
        match response.id {
            Some(found) if found != id => Err(self.protocol(format!("id {found} instead of {id}"))),
            None if response.result.is_ok() => Err(self.protocol("a result without an id".to_owned())),
            _ => response.result.map_err(ClientError::Refused),
        }
    }

    /// Asks for a byte stream, such as [`Request::Capture`]: the connection becomes that stream.
    ///
    /// # Errors
    ///
    /// As for [`Client::request`].
    pub fn capture(mut self, request: &Request) -> Result<CaptureStream, ClientError> {
        let IgnoredAny = self.request(request)?;
        let endless = self.stream.set_read_timeout(None);
        endless.map_err(|source| self.io("wait for", source))?;
        Ok(CaptureStream { rest: io::Cursor::new(self.rest), stream: self.stream })
    }

    fn send(&self, line: &[u8]) -> Result<(), ClientError> {
        let sent = self.stream.set_write_timeout(Some(self.timeout));
        sent.and_then(|()| (&self.stream).write_all(line)).map_err(|source| self.broken("write to", source))
    }

    /// The next line without its newline.
    fn read_line(&mut self, deadline: Instant) -> Result<Vec<u8>, ClientError> {
        let mut scanned = 0;
        let mut chunk = vec![0; READ_CHUNK];
        loop {
            if let Some(end) = self.rest[scanned..].iter().position(|byte| *byte == b'\n') {
                let rest = self.rest.split_off(scanned + end + 1);
                return Ok(std::mem::replace(&mut self.rest, rest));
            }
            scanned = self.rest.len();
            if scanned > ANSWER_MAX {
                return Err(self.protocol(format!("longer than {ANSWER_MAX} bytes")));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(self.timed_out());
            }
            let read = self.stream.set_read_timeout(Some(left)).and_then(|()| self.stream.read(&mut chunk));
            match read {
                Ok(0) => return Err(self.broken("read from", io::ErrorKind::UnexpectedEof.into())),
                Ok(count) => self.rest.extend_from_slice(&chunk[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(self.broken("read from", source)),
            }
        }
    }

    fn broken(&self, action: &'static str, source: io::Error) -> ClientError {
        match source.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => self.timed_out(),
            io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => {
                ClientError::Gone { path: self.path.clone(), source }
            }
            _ => self.io(action, source),
        }
    }

    fn timed_out(&self) -> ClientError {
        ClientError::TimedOut { path: self.path.clone(), pid: self.pid, after: self.timeout }
    }

    fn io(&self, action: &'static str, source: io::Error) -> ClientError {
        ClientError::Io { action, path: self.path.clone(), source }
    }

    fn protocol(&self, reason: String) -> ClientError {
        ClientError::Protocol { path: self.path.clone(), reason }
    }
}

/// Bytes that a server sends until it ends or this is dropped. Shutting down the writing half of its descriptor
/// asks the server to end: the rest arrives, and then the end.
#[derive(Debug)]
pub struct CaptureStream {
    rest: io::Cursor<Vec<u8>>,
    stream: UnixStream,
}

impl Read for CaptureStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.rest.read(buffer)? {
            0 => self.stream.read(buffer),
            count => Ok(count),
        }
    }
}

impl AsFd for CaptureStream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}
