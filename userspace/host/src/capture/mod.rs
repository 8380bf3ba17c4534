//! Capture: every frame that a driver receives or sends, as a pcapng file or stream.
//!
//! ```text
//!  worker --Tap (received)--> bounded ring --+
//!         --Tap (submitted)-> bounded ring --+--> writer thread --> file, or chunks over a channel
//!                 ^--------- empty records --+
//! ```
//! The data path never waits: records are allocated beforehand and go round; when the writer is behind and
//! none is left, a frame is not captured but counted, and the count stands in the file.

mod open;
mod pcapng;
mod sink;
#[cfg(test)]
mod tests;
mod writer;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use netdext::tap::{Filter, TapPair};

pub(crate) use self::open::OpenCaptures;
pub use self::sink::CaptureSink;
use self::writer::Writer;
pub use self::writer::{Capture, CaptureReport};

/// The longest frame that a pool holds, rounded up: what is kept of a frame unless told otherwise.
pub const DEFAULT_SNAPLEN: u32 = 4096;

/// Frames that may wait to be written, per queue and direction, unless told otherwise.
pub const DEFAULT_RING_SIZE: u32 = 2048;

/// The most frames that may wait, per queue and direction: 256 MiB of records at the default length.
pub const MAX_RING_SIZE: u32 = 65_536;

/// What to capture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaptureConfig {
    /// Which frames.
    pub filter: Filter,
    /// Bytes kept of each frame, at most [`DEFAULT_SNAPLEN`]; 0 keeps all.
    pub snaplen: u32,
    /// Frames that may wait to be written, per queue and direction.
    pub ring_size: u32,
}

impl Default for CaptureConfig {
    fn default() -> Self {
        Self { filter: Filter::default(), snaplen: DEFAULT_SNAPLEN, ring_size: DEFAULT_RING_SIZE }
    }
}

/// Why a capture cannot be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CaptureError {
    /// The ring would hold nothing, or too much.
    #[error("a capture ring of {ring_size} frames is not possible: it takes 1 to {MAX_RING_SIZE}")]
    BadRingSize {
        /// The size asked for.
        ring_size: u32,
    },
    /// The file cannot be made.
    #[error("cannot write the capture to {}: choose another file", path.display())]
    Create {
        /// The file.
        path: PathBuf,
        /// What the system returned.
        source: io::Error,
    },
    /// The system refused a thread.
    #[error("cannot start the thread that writes the capture")]
    Thread {
        /// What the system returned.
        source: io::Error,
    },
}

/// Starts the writer of a capture on these interfaces. The worker of each queue has to be given its pair for each of
/// them.
///
/// # Errors
///
/// [`CaptureError`]; the sink itself was opened before.
pub(crate) fn start(
    ifaces: &[&str],
    queues: &[u32],
    config: &CaptureConfig,
    sink: CaptureSink,
    captures: &Arc<OpenCaptures>,
) -> Result<(Capture, Vec<Vec<TapPair>>), CaptureError> {
    let CaptureConfig { filter, snaplen, ring_size } = config;
    if !(1..=MAX_RING_SIZE).contains(ring_size) {
        return Err(CaptureError::BadRingSize { ring_size: *ring_size });
    }
    let snaplen = if *snaplen == 0 { DEFAULT_SNAPLEN } else { (*snaplen).min(DEFAULT_SNAPLEN) };
    let counts = Arc::default();
    let filter = Arc::new(filter.clone());
    let (mut pairs, mut sources) = (Vec::new(), Vec::new());
    for port in 0..ifaces.len() {
        let mut of_port = Vec::new();
        for &queue in queues {
            let (pair, both) = TapPair::new(port as u32, queue, &filter, snaplen, *ring_size, &counts);
            of_port.push(pair);
            sources.extend(both);
        }
        pairs.push(of_port);
    }
    let capture = Writer::spawn(ifaces, &filter, snaplen, sources, counts, sink, captures.open())?;
    Ok((capture, pairs))
}

/// How long [`Capture::finish`] waits for a slow disk or reader.
const FINISH_WITHIN: Duration = Duration::from_millis(500);
