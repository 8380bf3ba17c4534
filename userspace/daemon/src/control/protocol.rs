//! The conversation on a control socket: one JSON object a line, an answer for each request, in order.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::spec::DriverSpec;
use netdext::driver::PowerState;

/// Version of the protocol; it changes when an old client or server would misunderstand a new one.
pub const VERSION: u32 = 2;

/// Which driver is meant. What is left out matches every driver; exactly one has to match.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Selector {
    /// The team ID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub team_id: Option<String>,
    /// The bundle ID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bundle_id: Option<String>,
    /// The interface.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iface: Option<String>,
}

impl Selector {
    /// Whether a driver of these names, on one or more interfaces, is meant.
    pub fn matches<'a>(
        &self,
        team_id: &str,
        bundle_id: &str,
        mut ifaces: impl Iterator<Item = &'a str>,
    ) -> bool {
        let fits = |wanted: &Option<String>, found: &str| wanted.as_deref().is_none_or(|w| w == found);
        fits(&self.team_id, team_id)
            && fits(&self.bundle_id, bundle_id)
            && ifaces.any(|iface| fits(&self.iface, iface))
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> =
            [&self.team_id, &self.bundle_id].into_iter().flatten().map(String::as_str).collect();
        match (names.is_empty(), &self.iface) {
            (true, None) => f.write_str("any driver"),
            (true, Some(iface)) => write!(f, "a driver on {iface}"),
            (false, None) => f.write_str(&names.join(" ")),
            (false, Some(iface)) => write!(f, "{} on {iface}", names.join(" ")),
        }
    }
}

/// Under which names a driver is installed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// Who stands for it: ten letters or digits by custom.
    pub team_id: String,
    /// Its reverse-DNS name, unique within the team.
    pub bundle_id: String,
    /// Its version.
    pub version: String,
    /// Its name for people.
    pub name: String,
}

/// The answer to [`Request::Hello`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerInfo {
    /// Version of the program.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// Whether it is the daemon, which installs drivers.
    pub daemon: bool,
}

/// What can be asked. `op` names the variant, `args` has its fields.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", content = "args", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Who is there: program version, process, and whether it is the daemon.
    Hello {},
    /// Every driver, as `netdext list --json` has it.
    List {},
    /// The tree of every driver, as `netdext ioreg --json` has it.
    Ioreg {},
    /// Installs a driver and starts it. Daemon only.
    Install {
        /// Its names.
        identity: Identity,
        /// What it is to run.
        spec: Box<DriverSpec>,
    },
    /// Stops a driver and removes all it made. Daemon only.
    Uninstall {
        /// Which.
        driver: Selector,
    },
    /// Lets the driver have its frames again.
    Enable {
        /// Which.
        driver: Selector,
    },
    /// Leaves the driver's frames to the kernel.
    Disable {
        /// Which.
        driver: Selector,
    },
    /// Powers a driver on or off.
    Power {
        /// Which.
        driver: Selector,
        /// The state to take.
        state: PowerState,
    },
    /// The counts, as `netdext stats --json` has them.
    Stats {
        /// Which.
        driver: Selector,
    },
    /// Replaces the XDP program by a fresh one, without a gap.
    Reload {
        /// Which.
        driver: Selector,
    },
    /// The steering rules in the order in which they are tried.
    SteerList {
        /// Which.
        driver: Selector,
    },
    /// Adds a steering rule.
    SteerAdd {
        /// Which.
        driver: Selector,
        /// The rule's text.
        rule: String,
        /// Do so even if it takes everything on the interface of the default route.
        #[serde(default)]
        yes: bool,
    },
    /// Adds steering rules, all or none.
    SteerAddAll {
        /// Which.
        driver: Selector,
        /// Their texts, the oldest first.
        rules: Vec<String>,
        /// Do so even if one takes everything on the interface of the default route.
        #[serde(default)]
        yes: bool,
    },
    /// Removes a steering rule.
    SteerDel {
        /// Which.
        driver: Selector,
        /// The number that adding it returned.
        id: u32,
    },
    /// A command of the driver's own; the answer is the driver's.
    DriverControl {
        /// Which.
        driver: Selector,
        /// The command.
        name: String,
        /// What is to be done, in the driver's words.
        #[serde(default)]
        value: Value,
    },
    /// Turns the connection, after the answer, into a pcapng file without an end.
    Capture {
        /// Which.
        driver: Selector,
        /// What to capture; see docs/control.md.
        #[serde(default)]
        filter: Option<String>,
        /// Bytes kept of each frame.
        #[serde(default)]
        snaplen: Option<u32>,
        /// Frames that may wait to be written.
        #[serde(default)]
        ring_size: Option<u32>,
    },
}

impl Request {
    /// Which driver a request is for; `None` if it is for none or for a new one.
    pub fn driver(&self) -> Option<&Selector> {
        match self {
            Self::Hello {} | Self::List {} | Self::Ioreg {} | Self::Install { .. } => None,
            Self::Uninstall { driver }
            | Self::Enable { driver }
            | Self::Disable { driver }
            | Self::Power { driver, .. }
            | Self::Stats { driver }
            | Self::Reload { driver }
            | Self::SteerList { driver }
            | Self::SteerAdd { driver, .. }
            | Self::SteerAddAll { driver, .. }
            | Self::SteerDel { driver, .. }
            | Self::DriverControl { driver, .. }
            | Self::Capture { driver, .. } => Some(driver),
        }
    }
}

/// What went wrong, on the wire.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct ErrorObject {
    /// For programs.
    pub code: ErrorCode,
    /// For people: what failed, on what, what to do.
    pub message: String,
}

impl ServerInfo {
    /// Of this process.
    pub(crate) fn of_this_process(daemon: bool) -> Self {
        Self { version: env!("CARGO_PKG_VERSION").to_owned(), pid: std::process::id(), daemon }
    }
}

impl ErrorObject {
    /// An error of that kind, with the line that a person reads.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

/// Kinds of errors that a client can act on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The line is no request.
    BadRequest,
    /// The line is too long.
    TooLong,
    /// The protocol's version is not spoken here.
    Version,
    /// Too many clients, or too slow a one.
    Busy,
    /// The client may not do that.
    NotPermitted,
    /// No driver, rule or target of that name.
    NotFound,
    /// Several drivers match.
    Ambiguous,
    /// Something of that name is there already.
    Exists,
    /// It does not fit the present state.
    State,
    /// It was tried and failed.
    Failed,
}
