//! What a client can meet.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use super::protocol::{ErrorCode, ErrorObject, Selector};
use super::runtime_dir::RuntimeDirError;
use super::server::LINE_BYTES;

/// Why a request has no result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The runtime directory.
    #[error(transparent)]
    Dir(#[from] RuntimeDirError),
    /// Nothing listens in the runtime directory.
    #[error("no netdext is running (nothing listens in {}): start `netdext run` or `netdext daemon`", .dir.display())]
    NoneRunning {
        /// The runtime directory.
        dir: PathBuf,
    },
    /// No daemon listens there.
    #[error("no netdext daemon is running (nothing listens on {}): start `netdext daemon`", .path.display())]
    NoDaemon {
        /// The daemon's socket.
        path: PathBuf,
    },
    /// No process runs such a driver.
    #[error("{selector} is not there: `netdext list` shows what is")]
    NotFound {
        /// What was asked for.
        selector: Selector,
    },
    /// Several drivers match.
    #[error("{selector} could be any of {}: name the team, the bundle ID or the interface", .found.join(", "))]
    Ambiguous {
        /// What was asked for.
        selector: Selector,
        /// Those that match.
        found: Vec<String>,
    },
    /// This user may not connect.
    #[error("not permitted to use {}: run it by sudo, or as the user that started netdext", .path.display())]
    NotPermitted {
        /// The socket.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// Nobody listens on the socket any more.
    #[error("nothing listens on {}: the netdext that did is gone", .path.display())]
    Gone {
        /// The socket.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The server is there and does not answer.
    #[error("{} did not answer within {after:?}: is {} stopped or stuck?", .path.display(), process(*.pid))]
    TimedOut {
        /// The socket.
        path: PathBuf,
        /// The server's process.
        pid: Option<u32>,
        /// How long it had.
        after: Duration,
    },
    /// The connection broke.
    #[error("cannot {action} {}: {source}", .path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The socket.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The server's answer cannot be understood.
    #[error("{} gave an answer that is not understood here ({reason}): are both netdext of one version?", .path.display())]
    Protocol {
        /// The socket.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The request has no form in JSON.
    #[error("the request cannot be sent: {0}")]
    Unsendable(#[source] serde_json::Error),
    /// No server takes so long a line.
    #[error(
        "the request has {bytes} bytes, and a control socket takes {LINE_BYTES} at the most: give fewer rules or targets; \
         `netdext steer add @FILE` adds any number of rules"
    )]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// The server said no.
    #[error("{}", .0.message)]
    Refused(#[source] ErrorObject),
}

impl ClientError {
    /// Whether it is for want of permission.
    pub fn is_permission(&self) -> bool {
        match self {
            Self::Dir(error) => error.is_permission(),
            Self::NotPermitted { .. } => true,
            Self::Refused(error) => error.code == ErrorCode::NotPermitted,
            _ => false,
        }
    }

    /// Whether nobody is there, or not any more: a watcher may try to connect again.
    pub fn is_gone(&self) -> bool {
        matches!(self, Self::NoneRunning { .. } | Self::NoDaemon { .. } | Self::Gone { .. })
    }
}

fn process(pid: Option<u32>) -> String {
    pid.map_or_else(|| "its process".to_owned(), |pid| format!("process {pid}"))
}
