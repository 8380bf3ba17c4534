//! One client of the server: its lines in, its answers out, one after the other.

use std::time::Duration;

use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::bytes::{Bytes, BytesMut};
use tokio_util::codec::{AnyDelimiterCodec, Decoder};

use super::line::{self, Rejected};
use super::protocol::{ErrorCode, ErrorObject, Request};
use super::server::ServerConfig;
use netdext_host::stats::PortStats;

/// Bytes that there is room for at the least when a client is read.
const READ_CHUNK: usize = 4096;

/// What a request is answered with.
#[derive(Debug)]
pub enum Reply {
    /// A result, as JSON text; made by [`Reply::json`].
    Json(String),
    /// The counts of a driver. They become JSON for a client only, because the kinds of a driver's metrics are lost there.
    Stats(Box<PortStats>),
    /// An empty result, after which the connection carries these bytes until either side ends.
    ///
    /// The server takes a chunk when the client has read the one before. The channel is bounded, so what
    /// happens to chunks that a slow client has no room for is the producer's decision (`try_send`).
    Stream(mpsc::Receiver<Vec<u8>>),
}

impl Reply {
    /// A result.
    ///
    /// # Errors
    ///
    /// [`ErrorCode::Failed`]: the value has no form in JSON.
    pub fn json(result: &impl Serialize) -> Answer {
        serde_json::to_string(result).map(Reply::Json).map_err(|error| not_json(&error))
    }
}

fn not_json(error: &serde_json::Error) -> ErrorObject {
    ErrorObject::new(ErrorCode::Failed, format!("the result is no JSON: {error}"))
}

/// A reply, or why there is none.
pub type Answer = Result<Reply, ErrorObject>;

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The user.
    pub uid: u32,
    /// The process; `None` if it is outside this PID namespace.
    pub pid: Option<u32>,
}

/// A request on its way to the owner of the drivers.
#[derive(Debug)]
pub struct Incoming {
    /// What is asked.
    pub request: Request,
    /// By whom.
    pub peer: Peer,
    /// Where the answer goes. Dropping it is answered as a failure; sending fails if the client has gone.
    pub answer: oneshot::Sender<Answer>,
}

/// A client's connection.
pub(super) struct Connection {
    pub(super) stream: UnixStream,
    pub(super) peer: Peer,
    pub(super) config: ServerConfig,
    pub(super) requests: mpsc::Sender<Incoming>,
    /// Becomes true when the server stops.
    pub(super) stopping: watch::Receiver<bool>,
}

/// The connection ends.
struct Ended;

/// What came next from a client.
enum Next {
    Line(Bytes),
    Refused(ErrorObject),
    Ended,
}

impl Connection {
    /// Serves the client until it goes, breaks a limit, or the server stops.
    pub(super) async fn serve(mut self) {
        let newline = b"\n".to_vec();
        let mut lines =
            AnyDelimiterCodec::new_with_max_length(newline.clone(), newline, self.config.line_bytes);
        let mut bytes = BytesMut::new();
        loop {
            let line = match self.next_line(&mut lines, &mut bytes).await {
                Next::Line(line) => line,
                Next::Refused(error) => {
                    // It ends whether or not the client reads why.
                    let _: Result<(), Ended> = self.write(&line::error_line(None, &error)).await;
                    return;
                }
                Next::Ended => return,
            };
            if let Err(Ended) = self.answer(&line).await {
                return;
            }
        }
    }

    async fn answer(&mut self, line: &[u8]) -> Result<(), Ended> {
        let (id, request) = match line::parse_request(line) {
            Ok(parsed) => parsed,
            Err(Rejected { id, error }) => return self.write(&line::error_line(id, &error)).await,
        };
        match self.ask(request).await {
            Ok(Reply::Json(result)) => self.write(&line::result_line(id, &result)).await,
            Ok(Reply::Stats(stats)) => match serde_json::to_string(&stats) {
                Ok(result) => self.write(&line::result_line(id, &result)).await,
                Err(error) => self.write(&line::error_line(Some(id), &not_json(&error))).await,
            },
            Ok(Reply::Stream(chunks)) => {
                self.write(&line::result_line(id, "{}")).await?;
                self.stream(chunks).await;
                Err(Ended)
            }
            Err(error) => self.write(&line::error_line(Some(id), &error)).await,
        }
    }

    async fn ask(&self, request: Request) -> Answer {
        let stopping = || ErrorObject::new(ErrorCode::State, "netdext is stopping: nothing was done");
        let (answer, answered) = oneshot::channel();
        let incoming = Incoming { request, peer: self.peer, answer };
        self.requests.send(incoming).await.map_err(|_| stopping())?;
        let dropped = || ErrorObject::new(ErrorCode::Failed, "netdext ended before it had an answer");
        answered.await.map_err(|_| dropped())?
    }

    async fn next_line(&mut self, lines: &mut AnyDelimiterCodec, bytes: &mut BytesMut) -> Next {
        let Self { stream, config, stopping, .. } = self;
        let ServerConfig { line_bytes, idle, half_line, .. } = config;
        // For the rest of a line the time runs from its beginning: a byte now and then does not extend it.
        let asked = Instant::now();
        let mut began = asked;
        loop {
            match lines.decode(bytes) {
                Ok(Some(line)) => return Next::Line(line),
                Ok(None) => {}
                Err(_) => {
                    let message = format!("the line is longer than {line_bytes} bytes");
                    return Next::Refused(ErrorObject::new(ErrorCode::TooLong, message));
                }
            }
            let begun = !bytes.is_empty();
            let deadline = if begun { began + *half_line } else { asked + *idle };
            bytes.reserve(READ_CHUNK);
            let read = tokio::select! {
                _ = stopping.wait_for(|stopping| *stopping) => return Next::Ended,
                read = timeout_at(deadline, stream.read_buf(bytes)) => read,
            };
            match read {
                Ok(Ok(0) | Err(_)) if begun => {
                    return Next::Refused(ErrorObject::new(ErrorCode::BadRequest, "the line has no newline"));
                }
                Ok(Ok(0) | Err(_)) => return Next::Ended,
                Ok(Ok(_)) if begun => {}
                Ok(Ok(_)) => began = Instant::now(),
                Err(_) => return Next::Refused(too_slow(begun, *half_line, *idle)),
            }
        }
    }

    async fn write(&mut self, line: &str) -> Result<(), Ended> {
        match timeout(self.config.write, self.stream.write_all(line.as_bytes())).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Ended),
        }
    }

    /// Passes chunks on until the producer ends or the client closes its half; it still gets the chunks made
    /// until then, whole. Before that there is no time limit: a client may pause for as long as it likes, and
    /// holds up nobody but itself.
    async fn stream(&mut self, mut chunks: mpsc::Receiver<Vec<u8>>) {
        let rest_within = self.config.write;
        let (mut reader, mut writer) = self.stream.split();
        let (end, mut ended) = oneshot::channel::<()>();
        let pass_on = async {
            loop {
                let chunk = tokio::select! {
                    biased;
                    _ = &mut ended, if !chunks.is_closed() => {
                        // No new ones; those that wait are still received.
                        chunks.close();
                        continue;
                    }
                    chunk = chunks.recv() => chunk,
                };
                let Some(chunk) = chunk else { break };
                if writer.write_all(&chunk).await.is_err() {
                    break;
                }
            }
        };
        let closed = async {
            let mut ignored = [0; 256];
            while matches!(reader.read(&mut ignored).await, Ok(count) if count > 0) {}
        };
        tokio::pin!(pass_on);
        tokio::select! {
            () = &mut pass_on => {}
            () = closed => {
                drop(end);
                // A client that does not read what it asked for loses it.
                let _ = timeout(rest_within, pass_on).await;
            }
        }
    }
}

fn too_slow(begun: bool, half_line: Duration, idle: Duration) -> ErrorObject {
    let message = if begun {
        format!("a line was begun and not ended within {half_line:?}")
    } else {
        format!("nothing was asked for {idle:?}: connect again")
    };
    ErrorObject::new(ErrorCode::Busy, message)
}
