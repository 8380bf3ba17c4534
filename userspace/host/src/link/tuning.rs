//! Changes to an interface that are taken back: each is a guard.

use std::fmt;
use std::io;

use super::netlink::{DeviceError, blocking};
use super::offload::{OffloadError, active_features, set_features};
use super::sysfs::NetSysfs;

/// A change of one interface's settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Switches features (`ethtool -K`) on or off; all of them are the other way round now.
    Features {
        /// The interface.
        iface: String,
        /// Their names in the kernel.
        features: Vec<String>,
        /// What they become.
        on: bool,
    },
    /// Writes an attribute of /sys/class/net.
    Attribute {
        /// The interface.
        iface: String,
        /// Its index.
        index: u32,
        /// The attribute.
        attribute: &'static str,
        /// What is written.
        value: String,
        /// What is there now.
        before: String,
    },
}

/// Why a change could not be made or taken back.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TuningError {
    /// The features.
    #[error(transparent)]
    Features(#[from] OffloadError),
    /// The attribute.
    #[error("write {value} to /sys/class/net/{iface}/{attribute}: {source}")]
    Attribute {
        /// The interface.
        iface: String,
        /// The attribute.
        attribute: &'static str,
        /// What was to be written.
        value: String,
        /// Why it failed.
        source: io::Error,
    },
    /// No thread or runtime for the request.
    #[error(transparent)]
    Thread(#[from] DeviceError),
}

impl Change {
    /// The command that makes the change.
    pub fn command(&self) -> String {
        match self {
            Self::Features { iface, features, on } => {
                let state = if *on { "on" } else { "off" };
                let switches: Vec<_> = features.iter().map(|name| format!("{name} {state}")).collect();
                format!("ethtool -K {iface} {}", switches.join(" "))
            }
            Self::Attribute { iface, attribute, value, .. } => {
                format!("echo {value} > /sys/class/net/{iface}/{attribute}")
            }
        }
    }

    /// The change that takes this one back.
    #[must_use]
    pub fn reversed(&self) -> Self {
        let mut reversed = self.clone();
        match &mut reversed {
            Self::Features { on, .. } => *on = !*on,
            Self::Attribute { value, before, .. } => std::mem::swap(value, before),
        }
        reversed
    }

    /// Makes the change in the network namespace of the calling thread. Blocks for a few system calls.
    ///
    /// # Errors
    /// [`TuningError`]; nothing has changed then, or it was taken back.
    pub fn apply(self) -> Result<Tuned, TuningError> {
        self.make()?;
        // From here on an error takes back what was changed in part.
        let tuned = Tuned { undo: Some(self.reversed()) };
        self.check()?;
        Ok(tuned)
    }

    fn make(&self) -> Result<(), TuningError> {
        match self {
            Self::Features { iface, features, on } => {
                let names: Vec<&str> = features.iter().map(String::as_str).collect();
                Ok(blocking(async || set_features(iface, &names, *on).await)??)
            }
            Self::Attribute { iface, index, attribute, value, .. } => {
                NetSysfs::open().write(iface, *index, attribute, value).map_err(|source| {
                    let (iface, value) = (iface.clone(), value.clone());
                    TuningError::Attribute { iface, attribute, value, source }
                })
            }
        }
    }

    /// The kernel says nothing when a driver keeps a feature on.
    fn check(&self) -> Result<(), TuningError> {
        let Self::Features { iface, features, on: false } = self else { return Ok(()) };
        let active = blocking(async || active_features(iface).await)??;
        let kept: Vec<_> = features.iter().filter(|name| active.contains(*name)).cloned().collect();
        if kept.is_empty() {
            return Ok(());
        }
        Err(OffloadError::KeptOn { iface: iface.clone(), features: kept }.into())
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.command())
    }
}

/// A change that was made; dropping it takes it back. An interface that is gone needs nothing.
#[derive(Debug)]
#[must_use = "dropping it takes the change back"]
pub struct Tuned {
    undo: Option<Change>,
}

impl Tuned {
    /// Takes the change back, and says by which one.
    ///
    /// # Errors
    /// [`TuningError`]: the change stays.
    pub fn restore(mut self) -> Result<Option<Change>, TuningError> {
        let Some(undo) = self.undo.take() else { return Ok(None) };
        match undo.make() {
            Err(error) if is_gone(&error) => Ok(None),
            other => other.map(|()| Some(undo)),
        }
    }
}

impl Drop for Tuned {
    fn drop(&mut self) {
        let Some(undo) = self.undo.take() else { return };
        match undo.make() {
            Err(error) if !is_gone(&error) => tracing::warn!("{error}: undo it with `{undo}`"),
            _ => {}
        }
    }
}

fn is_gone(error: &TuningError) -> bool {
    let nodev = rustix::io::Errno::NODEV.raw_os_error();
    match error {
        TuningError::Features(OffloadError::Netlink { source, .. }) => source.raw_os_error() == Some(nodev),
        TuningError::Attribute { source, .. } => source.kind() == io::ErrorKind::NotFound,
        TuningError::Features(OffloadError::KeptOn { .. }) | TuningError::Thread(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_and_its_reverse_are_commands() {
        let change = Change::Features {
            iface: "veth1".into(),
            features: vec!["tx-a".into(), "tx-b".into()],
            on: false,
        };
        assert_eq!(change.command(), "ethtool -K veth1 tx-a off tx-b off");
        assert_eq!(change.reversed().command(), "ethtool -K veth1 tx-a on tx-b on");
        let change = Change::Attribute {
            iface: "veth1".into(),
            index: 7,
            attribute: "napi_defer_hard_irqs",
            value: "0".into(),
            before: "2".into(),
        };
        assert_eq!(change.command(), "echo 0 > /sys/class/net/veth1/napi_defer_hard_irqs");
        assert_eq!(change.reversed().command(), "echo 2 > /sys/class/net/veth1/napi_defer_hard_irqs");
    }

    #[test]
    fn an_interface_that_is_not_there_is_an_error_to_change_and_none_to_restore() {
        let change =
            Change::Features { iface: "nxt-nothing".into(), features: vec!["rx-gro".into()], on: true };
        assert!(change.clone().apply().is_err());
        assert_eq!(Tuned { undo: Some(change) }.restore().unwrap(), None);
    }
}
