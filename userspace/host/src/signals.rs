//! The signals that end a command in order.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// SIGINT, SIGTERM, and SIGHUP: the terminal was closed.
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
    /// `None` if SIGHUP is ignored, as nohup(1) has it.
    hangup: Option<Signal>,
}

impl Signals {
    /// From here on they no longer end the process.
    ///
    /// # Errors
    ///
    /// The system refuses a handler.
    ///
    /// # Panics
    ///
    /// Outside of a runtime of tokio.
    pub fn watch() -> Result<Self, WatchError> {
        let hangup = (!hangup_is_ignored()).then(|| watch(SignalKind::hangup(), "SIGHUP")).transpose()?;
        Ok(Self {
            interrupt: watch(SignalKind::interrupt(), "SIGINT")?,
            terminate: watch(SignalKind::terminate(), "SIGTERM")?,
            hangup,
        })
    }

    /// Waits for any of them.
    pub async fn any(&mut self) {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = hangup => {}
        }
    }

    /// Whether one has come since the last time that this was asked or waited for.
    pub async fn came(&mut self) -> bool {
        tokio::select! {
            biased;
            () = self.any() => true,
            () = tokio::task::yield_now() => false,
        }
    }
}

/// A signal can't be watched for.
#[derive(Debug, thiserror::Error)]
#[error("watch for {name}")]
pub struct WatchError {
    /// The signal.
    pub name: &'static str,
    /// What the system returned.
    pub source: io::Error,
}

fn watch(kind: SignalKind, name: &'static str) -> Result<Signal, WatchError> {
    signal(kind).map_err(|source| WatchError { name, source })
}

/// What the parent process has left of SIGHUP. A handler would take the place of it.
fn hangup_is_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    status.lines().find_map(|line| line.strip_prefix("SigIgn:")).is_some_and(has_hangup)
}

/// Whether SIGHUP is in a set of signals, as proc(5) writes it.
fn has_hangup(set: &str) -> bool {
    let bit = 1 << (SignalKind::hangup().as_raw_value() - 1);
    u64::from_str_radix(set.trim(), 16).is_ok_and(|set| set & bit != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hangup_is_the_first_of_the_signals() {
        assert!(has_hangup("\t0000000000000001") && has_hangup("\t0000000000001003"));
        assert!(!has_hangup("\t0000000000001000") && !has_hangup("") && !has_hangup("x"));
    }
}
