//! One client of the server: its lines in, its answers out, one after the other.

use std::time::Duration;

use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout, timeout_at};

use super::line::{self, Rejected};
use super::protocol::{ErrorCode, ErrorObject, Request};
use super::server::ServerConfig;

/// Bytes read at a time.
const READ_CHUNK: usize = 4096;

/// What a request is answered with.
#[derive(Debug)]
pub enum Reply {
    /// A result, as JSON text; made by [`Reply::json`].
    Json(String),
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
        serde_json::to_string(result)
            .map(Reply::Json)
            .map_err(|error| ErrorObject::new(ErrorCode::Failed, format!("the result is no JSON: {error}")))
    }
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
    Line(Vec<u8>),
    Refused(ErrorObject),
    Ended,
}

impl Connection {
    /// Serves the client until it goes, breaks a limit, or the server stops.
    pub(super) async fn serve(mut self) {
        let mut lines = LineBuffer::new(self.config.line_bytes);
        loop {
            let line = match self.next_line(&mut lines).await {
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

    async fn next_line(&mut self, lines: &mut LineBuffer) -> Next {
        let Self { stream, config, stopping, .. } = self;
        let ServerConfig { line_bytes, idle, half_line, .. } = config;
        // For the rest of a line the time runs from its beginning: a byte now and then does not extend it.
        let asked = Instant::now();
        let mut began = asked;
        let mut chunk = [0; READ_CHUNK];
        loop {
            match lines.take() {
                Some(Ok(line)) => return Next::Line(line),
                Some(Err(TooLong)) => {
                    let message = format!("the line is longer than {line_bytes} bytes");
                    return Next::Refused(ErrorObject::new(ErrorCode::TooLong, message));
                }
                None => {}
            }
            let begun = !lines.is_empty();
            let deadline = if begun { began + *half_line } else { asked + *idle };
            let read = tokio::select! {
                _ = stopping.wait_for(|stopping| *stopping) => return Next::Ended,
                read = timeout_at(deadline, stream.read(&mut chunk)) => read,
            };
            match read {
                Ok(Ok(0) | Err(_)) if begun => {
                    return Next::Refused(ErrorObject::new(ErrorCode::BadRequest, "the line has no newline"));
                }
                Ok(Ok(0) | Err(_)) => return Next::Ended,
                Ok(Ok(count)) => {
                    if !begun {
                        began = Instant::now();
                    }
                    lines.push(&chunk[..count]);
                }
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

/// A line longer than it may be.
#[derive(Debug, PartialEq, Eq)]
struct TooLong;

/// Bytes on their way to becoming lines.
#[derive(Debug)]
struct LineBuffer {
    bytes: Vec<u8>,
    /// How many of them are known to have no newline.
    scanned: usize,
    /// Bytes that a line may have, without its newline.
    max: usize,
}

impl LineBuffer {
    fn new(max: usize) -> Self {
        Self { bytes: Vec::new(), scanned: 0, max }
    }

    fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The next line without its newline; `None` if it is not whole yet.
    fn take(&mut self) -> Option<Result<Vec<u8>, TooLong>> {
        let Some(end) = self.bytes[self.scanned..].iter().position(|byte| *byte == b'\n') else {
            self.scanned = self.bytes.len();
            return (self.scanned > self.max).then_some(Err(TooLong));
        };
        let end = self.scanned + end;
        if end > self.max {
            return Some(Err(TooLong));
        }
        let rest = self.bytes.split_off(end + 1);
        let mut line = std::mem::replace(&mut self.bytes, rest);
        line.truncate(end);
        self.scanned = 0;
        Some(Ok(line))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_out_whole_however_they_were_cut() {
        let text = b"one\n\ntwo\nthree";
        for cut in 0..=text.len() {
            let mut lines = LineBuffer::new(5);
            let mut found = Vec::new();
            for part in [&text[..cut], &text[cut..]] {
                lines.push(part);
                while let Some(line) = lines.take() {
                    found.push(line.unwrap());
                }
            }
            assert_eq!(found, [b"one".to_vec(), b"".to_vec(), b"two".to_vec()], "cut at {cut}");
            assert!(!lines.is_empty());
        }
    }

    #[test]
    fn the_longest_line_passes_and_one_byte_more_does_not() {
        let mut lines = LineBuffer::new(4);
        lines.push(b"1234\n");
        assert_eq!(lines.take(), Some(Ok(b"1234".to_vec())));
        lines.push(b"1234");
        assert_eq!(lines.take(), None);
        lines.push(b"5");
        assert_eq!(lines.take(), Some(Err(TooLong)));
        let mut lines = LineBuffer::new(4);
        lines.push(b"12345\n");
        assert_eq!(lines.take(), Some(Err(TooLong)));
    }
}
