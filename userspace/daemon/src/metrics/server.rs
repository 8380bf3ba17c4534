//! The HTTP server: `GET /metrics` and nothing else.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use super::exposition;
use netdext_host::stats::PortStats;

/// Asks for the counts of every driver.
pub type StatsRequest = oneshot::Sender<Vec<PortStats>>;

/// Connections served at a time; further ones are closed at once. A scraper needs one.
const MAX_CONNECTIONS: usize = 16;

/// What is waited for, and how long. Scrapers give up after ten seconds by default.
#[derive(Clone, Copy, Debug)]
struct Limits {
    /// A client's request.
    header: Duration,
    /// The end of a connection, the slowest reading included.
    connection: Duration,
    /// The counts.
    stats: Duration,
}

const LIMITS: Limits = Limits {
    header: Duration::from_secs(2),
    connection: Duration::from_secs(10),
    stats: Duration::from_secs(2),
};

/// Bytes of request that are buffered; a longer header is refused.
const MAX_REQUEST: usize = 16 << 10;

/// How long to pause after accepting failed, for want of descriptors for example.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The media type of OpenMetrics text.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Why metrics cannot be served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MetricsError {
    /// The address cannot be listened on.
    #[error("cannot serve metrics on {address}: choose another address and port")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What bind(2) or listen(2) returned.
        source: io::Error,
    },
}

/// A metrics server that listens, and serves once [`serve`](Self::serve) is polled.
#[derive(Debug)]
pub struct MetricsServer {
    listener: TcpListener,
    address: SocketAddr,
    limits: Limits,
}

impl MetricsServer {
    /// Listens on `address`, in the network namespace of the calling thread; port 0 chooses one.
    ///
    /// # Errors
    ///
    /// [`MetricsError::Bind`].
    pub async fn bind(address: SocketAddr) -> Result<Self, MetricsError> {
        let failed = |source| MetricsError::Bind { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self { listener, address, limits: LIMITS })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves for ever. Each scrape asks `stats` for the counts. Dropping the future closes everything.
    pub async fn serve(self, stats: mpsc::Sender<StatsRequest>) {
        let mut connections = JoinSet::new();
        loop {
            let accepted = self.listener.accept().await;
            while connections.try_join_next().is_some() {}
            match accepted {
                Ok((stream, _)) if connections.len() < MAX_CONNECTIONS => {
                    connections.spawn(connection(stream, stats.clone(), self.limits));
                }
                Ok((_, peer)) => tracing::debug!(%peer, "too many connections for metrics"),
                Err(error) => {
                    tracing::debug!("cannot accept a connection for metrics: {error}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

async fn connection(stream: TcpStream, stats: mpsc::Sender<StatsRequest>, limits: Limits) {
    let service = service_fn(|request| answer(request, stats.clone(), limits));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header)
        .max_buf_size(MAX_REQUEST)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    match tokio::time::timeout(limits.connection, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!("a client of the metrics: {error}"),
        Err(_) => tracing::debug!("a client of the metrics took too long"),
    }
}

async fn answer(
    request: Request<Incoming>,
    stats: mpsc::Sender<StatsRequest>,
    limits: Limits,
) -> Result<Response<Full<Bytes>>, Infallible> {
    Ok(match (request.uri().path(), request.method()) {
        ("/metrics", &Method::GET) => metrics(stats, limits).await,
        ("/metrics", _) => {
            let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
            response
        }
        _ => plain(StatusCode::NOT_FOUND, "only /metrics\n"),
    })
}

async fn metrics(stats: mpsc::Sender<StatsRequest>, limits: Limits) -> Response<Full<Bytes>> {
    let (reply, answer) = oneshot::channel();
    let asked = async {
        stats.send(reply).await.ok()?;
        answer.await.ok()
    };
    let text = match tokio::time::timeout(limits.stats, asked).await {
        Ok(Some(drivers)) => exposition(drivers),
        Ok(None) | Err(_) => return plain(StatusCode::SERVICE_UNAVAILABLE, "the drivers do not answer\n"),
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(OPENMETRICS));
    response
}

fn plain(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// Serves drivers without counts on a port of the loopback, and asks one question.
    async fn ask(request: &[u8], answers: bool) -> String {
        let mut server = MetricsServer::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let short = Duration::from_millis(100);
        server.limits = Limits { header: short, stats: short, ..LIMITS };
        let address = server.address();
        let (sender, mut receiver) = mpsc::channel::<StatsRequest>(1);
        let driver = async {
            let mut unanswered = Vec::new();
            while let Some(reply) = receiver.recv().await {
                if answers {
                    let _ = reply.send(Vec::new());
                } else {
                    unanswered.push(reply);
                }
            }
        };
        let client = async {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(request).await.unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).await.unwrap();
            text
        };
        tokio::select! {
            text = client => text,
            () = server.serve(sender) => unreachable!("it serves for ever"),
            () = driver => unreachable!("the server holds the sender"),
        }
    }

    #[tokio::test]
    async fn metrics_are_openmetrics_text_with_an_end() {
        let text = ask(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", true).await;
        assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
        assert!(text.contains("content-type: application/openmetrics-text; version=1.0.0"), "{text}");
        assert!(text.contains("\nnetdext_build_info{") && text.ends_with("# EOF\n"), "{text}");
    }

    #[tokio::test]
    async fn everything_else_is_refused() {
        for (request, status) in [
            ("GET / HTTP/1.1", "404 Not Found"),
            ("GET /metrics/x HTTP/1.1", "404 Not Found"),
            ("POST /metrics HTTP/1.1", "405 Method Not Allowed"),
            ("nonsense", "400 Bad Request"),
        ] {
            let text = ask(format!("{request}\r\nHost: x\r\n\r\n").as_bytes(), true).await;
            assert!(text.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{request}: {text}");
        }
        let long = format!("GET /metrics HTTP/1.1\r\nHost: {}\r\n\r\n", "x".repeat(2 * MAX_REQUEST));
        assert!(ask(long.as_bytes(), true).await.starts_with("HTTP/1.1 431 "));
    }

    #[tokio::test]
    async fn a_driver_that_does_not_answer_is_not_waited_for() {
        let text = ask(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", false).await;
        assert!(text.starts_with("HTTP/1.1 503 "), "{text}");
    }

    #[tokio::test]
    async fn half_a_request_is_not_waited_for() {
        let begun = std::time::Instant::now();
        let text = ask(b"GET /metrics HTTP/1.1\r\nHos", true).await;
        assert!(begun.elapsed() < LIMITS.header, "{:?}", begun.elapsed());
        assert!(!text.contains("200 OK"), "{text}");
    }

    #[tokio::test]
    async fn an_address_in_use_is_named() {
        let first = MetricsServer::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let error = MetricsServer::bind(first.address()).await.expect_err("it is in use");
        assert!(error.to_string().contains(&first.address().to_string()), "{error}");
    }
}
