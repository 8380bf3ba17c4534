//! What is known of a running driver, and what it leaves.

use crate::dispatch::WorkerError;
use crate::link::program::AttachedMode;
use crate::link::{Device, DeviceError};
use crate::port::ClosingCensus;
use crate::port::xsk::XskInfo;
use crate::stats::PortStats;

/// Facts about a driver that was started.
#[derive(Clone, Debug)]
pub struct RunInfo {
    /// The interface.
    pub device: Device,
    /// How the XDP program is attached.
    pub attached: AttachedMode,
    /// Each queue with what the kernel made of its socket.
    pub queues: Vec<(u32, XskInfo)>,
    /// Whether the driver is enabled, that is, the interface is up.
    pub enabled: bool,
}

/// Why a driver ended.
#[derive(Debug)]
pub enum EndReason {
    /// It was told to.
    Requested,
    /// The interface was deleted.
    LinkGone,
    /// A worker failed; its report has the error.
    WorkerFailed {
        /// The queue.
        queue: u32,
    },
    /// The state of the link cannot be watched any more.
    LinkEvents(DeviceError),
}

/// What a driver leaves behind.
#[derive(Debug)]
pub struct RunReport {
    /// The counts at the end.
    pub stats: PortStats,
    /// Where the frames of each queue were at the end.
    pub census: Vec<ClosingCensus>,
    /// Errors of workers, by queue.
    pub errors: Vec<(u32, WorkerError)>,
    /// Queues whose driver panicked or whose worker did not stop in time.
    pub missing: Vec<u32>,
}

impl RunReport {
    /// Whether no frame is missing on any queue.
    pub fn is_whole(&self) -> bool {
        self.missing.is_empty() && self.census.iter().all(ClosingCensus::is_whole)
    }
}
