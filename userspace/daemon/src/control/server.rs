//! The server of a control socket.

use std::future::Future;
use std::io::{self, Write};
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::connection::{Connection, Incoming, Peer};
use super::line;
use super::protocol::{ErrorCode, ErrorObject};
use super::socket::{ControlSocket, peer};

/// How long to leave the socket alone when a connection cannot be accepted, for want of descriptors mostly.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Bytes of the longest line that a server takes, without its newline.
pub const LINE_BYTES: usize = 1024 * 1024;

/// Limits that keep a client from harming others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerConfig {
    /// Bytes of a line, without its newline.
    pub line_bytes: usize,
    /// Clients at a time.
    pub clients: usize,
    /// From the first byte of a line to its newline.
    pub half_line: Duration,
    /// From an answer to the next request.
    pub idle: Duration,
    /// For an answer to be read by the client.
    pub write: Duration,
    /// For answers that are owed when the server stops.
    pub drain: Duration,
    /// Users that may ask.
    pub users: Vec<u32>,
}

impl Default for ServerConfig {
    /// The limits that docs/control.md states; root and the process's own user may ask.
    fn default() -> Self {
        Self {
            line_bytes: LINE_BYTES,
            clients: 64,
            half_line: Duration::from_secs(10),
            idle: Duration::from_secs(600),
            write: Duration::from_secs(10),
            drain: Duration::from_secs(1),
            users: vec![0, rustix::process::geteuid().as_raw()],
        }
    }
}

/// A control socket being served. All clients share one task's thread; none can hold up another, because
/// each is a task of its own and every wait for a client has an end.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    config: ServerConfig,
    /// Removes the file when the server goes.
    _socket: ControlSocket,
}

impl Server {
    /// Serves a socket. To be called within a tokio runtime.
    ///
    /// # Errors
    ///
    /// The socket cannot be handed to the runtime, for want of descriptors.
    pub fn new(socket: ControlSocket, config: ServerConfig) -> io::Result<Self> {
        let listener = socket.listener().try_clone()?;
        listener.set_nonblocking(true)?;
        Ok(Self { listener: UnixListener::from_std(listener)?, config, _socket: socket })
    }

    /// Passes requests on to `requests` until `shutdown` or until nobody receives them. Then the socket goes,
    /// and answers that are owed are still delivered, for `drain` at the most.
    ///
    /// Dropping the future ends all at once.
    pub async fn serve(self, requests: mpsc::Sender<Incoming>, shutdown: impl Future<Output = ()>) {
        let (stop, stopping) = watch::channel(false);
        let mut clients = JoinSet::new();
        tokio::pin!(shutdown);
        loop {
            tokio::select! {
                () = &mut shutdown => break,
                () = requests.closed() => break,
                Some(_) = clients.join_next() => {}
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        while clients.try_join_next().is_some() {}
                        match self.admit(&stream, clients.len()) {
                            Ok(peer) => {
                                let connection = Connection {
                                    stream,
                                    peer,
                                    config: self.config.clone(),
                                    requests: requests.clone(),
                                    stopping: stopping.clone(),
                                };
                                clients.spawn(connection.serve());
                            }
                            Err(error) => refuse(stream, &error),
                        }
                    }
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a client of the control socket");
                        sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
        let drain = self.config.drain;
        drop(self);
        drop(requests);
        stop.send_replace(true);
        // What is left after that is aborted with the set.
        let _ = timeout(drain, async { while clients.join_next().await.is_some() {} }).await;
    }

    fn admit(&self, stream: &UnixStream, clients: usize) -> Result<Peer, ErrorObject> {
        let (pid, uid) = peer(stream);
        let Some(uid) = uid.filter(|uid| self.config.users.contains(uid)) else {
            let message = "this user may not control netdext: use the user that started it, or root";
            return Err(ErrorObject::new(ErrorCode::NotPermitted, message));
        };
        if clients >= self.config.clients {
            let message = format!("there are {clients} clients already: try again later");
            return Err(ErrorObject::new(ErrorCode::Busy, message));
        }
        Ok(Peer { uid, pid })
    }
}

/// Says why, if that is possible without waiting, and closes.
fn refuse(stream: UnixStream, error: &ErrorObject) {
    let line = line::error_line(None, error);
    let _: io::Result<()> = stream.into_std().and_then(|mut stream| stream.write_all(line.as_bytes()));
}
