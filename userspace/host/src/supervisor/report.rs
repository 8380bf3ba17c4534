//! What is known of a running driver, and what it leaves.

use crate::link::threaded::Tuning;
use crate::link::{Device, DeviceError};
use crate::stats::PortStats;
use crate::xdp::program::AttachedMode;
use crate::xsk::XskInfo;
use netdext::dispatch::WorkerError;
use netdext::packet::Census;
use netdext::port::ClosingCensus;

/// Facts about an interface of a driver that was started.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RunInfo {
    /// The interface.
    pub device: Device,
    /// How the XDP program is attached.
    pub attached: AttachedMode,
    /// Each queue with what the kernel made of its socket.
    pub queues: Vec<(u32, XskInfo)>,
    /// Whether the driver is enabled on it, that is, the interface is up.
    pub enabled: bool,
    /// What was tuned for it, if that was asked for.
    pub tuning: Option<Tuning>,
}

/// Why a driver ended.
#[derive(Debug)]
#[non_exhaustive]
pub enum EndReason {
    /// It was told to.
    Requested,
    /// An interface was deleted.
    LinkGone {
        /// Its name.
        iface: String,
    },
    /// A worker failed; its report has the error.
    WorkerFailed {
        /// The queue.
        queue: u32,
    },
    /// The state of a link cannot be watched any more.
    LinkEvents {
        /// The interface.
        iface: String,
        /// Why.
        source: DeviceError,
    },
}

/// What a driver leaves behind.
#[derive(Debug)]
#[non_exhaustive]
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

/// How a driver came to a bad end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// A worker or a callback failed.
    #[error("the driver on queue {queue} of {iface} failed")]
    Worker {
        /// The interface.
        iface: String,
        /// The queue.
        queue: u32,
        /// Why.
        source: WorkerError,
    },
    /// A driver panicked, or a worker did not stop in time.
    #[error("the driver on queue {queue} of {iface} ended without a report; the log above says why")]
    NoReport {
        /// The interface.
        iface: String,
        /// The queue.
        queue: u32,
    },
    /// The pool is not whole.
    #[error("frames are missing from the pool of {iface}: {census}")]
    FramesMissing {
        /// The interface.
        iface: String,
        /// Where the frames are.
        census: Census,
    },
    /// The interface was deleted.
    #[error(
        "{iface} is gone: the interface, or the other end of its pair, was deleted; make it again and start anew"
    )]
    LinkGone {
        /// The interface.
        iface: String,
    },
    /// The state of the link cannot be watched any more.
    #[error("watching {iface} failed")]
    LinkEvents {
        /// The interface.
        iface: String,
        /// Why.
        source: DeviceError,
    },
}

impl RunReport {
    /// Whether the end was a good one.
    ///
    /// # Errors
    ///
    /// [`RunError`], also after a stop that was asked for, if something failed meanwhile.
    pub fn verdict(mut self, reason: EndReason) -> Result<(), RunError> {
        let iface = std::mem::take(&mut self.stats.iface);
        match reason {
            EndReason::LinkGone { iface } => Err(RunError::LinkGone { iface }),
            EndReason::LinkEvents { iface, source } => Err(RunError::LinkEvents { iface, source }),
            EndReason::Requested | EndReason::WorkerFailed { .. } => {
                if let Some((queue, source)) = self.errors.pop() {
                    Err(RunError::Worker { iface, queue, source })
                } else if let Some(&queue) = self.missing.first() {
                    Err(RunError::NoReport { iface, queue })
                } else if self.is_whole() {
                    Ok(())
                } else {
                    Err(RunError::FramesMissing { iface, census: self.stats.census })
                }
            }
        }
    }

    /// Whether no frame is missing on any queue.
    pub fn is_whole(&self) -> bool {
        self.missing.is_empty() && self.census.iter().all(ClosingCensus::is_whole)
    }
}
