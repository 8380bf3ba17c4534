//! What the daemon knows of one installed driver.

use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::runner::Runner;
use crate::control::Answer;
use crate::control::list::{ListEntry, ListState};
use crate::control::protocol::{ErrorCode, ErrorObject, Identity, Selector};
use crate::registry::Installed;
use netdext_host::supervisor::RunInfo;

/// The first wait before a failed driver is started again; each further one is twice as long.
const FIRST_RETRY: Duration = Duration::from_millis(250);
/// The longest wait.
const LAST_RETRY: Duration = Duration::from_secs(30);
/// A driver that ran for this long starts from the first wait again.
const STEADY: Duration = Duration::from_secs(60);

/// Where the answer to a client goes.
pub(super) type ReplySender = oneshot::Sender<Answer>;

/// Where a driver is.
pub(super) enum Phase {
    /// Not started, or ended since: it is disabled.
    Off,
    /// Being started; whoever installs it waits for the outcome.
    Starting { runner: Runner, installer: Option<ReplySender> },
    /// Running.
    Running { runner: Runner, info: Box<RunInfo>, since: Instant },
    /// Being stopped for good; whoever uninstalls it waits for the outcome.
    Stopping { uninstaller: Option<ReplySender> },
    /// Failed, and waiting to be started again.
    Waiting,
}

/// One installed driver.
pub(super) struct Slot {
    /// Unique in this daemon.
    pub id: u64,
    pub installed: Installed,
    pub phase: Phase,
    pub last_error: Option<String>,
    retries: u32,
}

impl Slot {
    pub fn new(id: u64, installed: Installed) -> Self {
        Self { id, installed, phase: Phase::Off, last_error: None, retries: 0 }
    }

    /// The runner, if the driver can be asked something.
    pub fn runner(&self) -> Option<&Runner> {
        match &self.phase {
            Phase::Running { runner, .. } => Some(runner),
            Phase::Off | Phase::Starting { .. } | Phase::Stopping { .. } | Phase::Waiting => None,
        }
    }

    /// Notes a failure, and says how long to wait before the next try. A disabled driver is off from then on.
    pub fn failed(&mut self, error: String) -> Duration {
        if matches!(self.phase, Phase::Running { since, .. } if since.elapsed() >= STEADY) {
            self.retries = 0;
        }
        self.last_error = Some(error);
        self.phase = if self.installed.enabled { Phase::Waiting } else { Phase::Off };
        let wait = FIRST_RETRY.saturating_mul(1 << self.retries.min(16)).min(LAST_RETRY);
        self.retries += 1;
        wait
    }

    /// Means this driver alone.
    pub fn selector(&self) -> Selector {
        let Identity { team_id, bundle_id, .. } = &self.installed.identity;
        Selector { team_id: Some(team_id.clone()), bundle_id: Some(bundle_id.clone()), iface: None }
    }

    /// What `netdext list` shows.
    pub fn list_entry(&self) -> ListEntry {
        let identity = &self.installed.identity;
        ListEntry {
            team_id: identity.team_id.clone(),
            bundle_id: identity.bundle_id.clone(),
            version: identity.version.clone(),
            name: identity.name.clone(),
            enabled: self.installed.enabled,
            active: matches!(self.phase, Phase::Running { .. }),
            state: self.state(),
            iface: self.installed.spec.iface.clone(),
            other_ifaces: self.installed.spec.other_ifaces.clone(),
            last_error: self.last_error.clone(),
        }
    }

    fn state(&self) -> ListState {
        match (&self.phase, self.installed.enabled, self.installed.powered) {
            (Phase::Running { .. }, _, false) => ListState::ActivatedPoweredOff,
            (Phase::Running { .. }, true, true) => ListState::ActivatedEnabled,
            (Phase::Running { .. } | Phase::Off, ..) => ListState::ActivatedDisabled,
            (Phase::Starting { .. }, ..) => ListState::TerminatedWaitingToStart,
            (Phase::Stopping { .. }, ..) => ListState::TerminatedWaitingToUninstall,
            (Phase::Waiting, ..) => ListState::TerminatedWaitingToRestart,
        }
    }

    /// Why the driver cannot be asked anything now.
    pub fn not_running(&self) -> ErrorObject {
        let bundle = &self.installed.identity.bundle_id;
        let why = match (&self.phase, &self.last_error) {
            (Phase::Off, _) => format!("it is disabled; `netdext enable {bundle}` starts it"),
            (Phase::Starting { .. }, _) => "it is being started; try again".to_owned(),
            (Phase::Stopping { .. }, _) => "it is being uninstalled".to_owned(),
            (_, Some(error)) => format!("it failed and will be started again: {error}"),
            (_, None) => "it will be started again".to_owned(),
        };
        ErrorObject { code: ErrorCode::State, message: format!("{bundle} does not run: {why}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::testing::installed;

    #[test]
    fn each_failure_doubles_the_wait_up_to_half_a_minute() {
        let mut slot = Slot::new(1, installed("org.netdext.sample", "veth0"));
        let waits: Vec<_> = (0..20).map(|_| slot.failed("x".into()).as_millis()).collect();
        assert_eq!(waits[..4], [250, 500, 1000, 2000]);
        assert_eq!(waits[19], 30_000);
        assert!(waits.windows(2).all(|pair| pair[0] <= pair[1]));
    }

    #[test]
    fn a_disabled_driver_that_fails_does_not_wait_for_a_start_that_never_comes() {
        let mut slot = Slot::new(1, installed("org.netdext.sample", "veth0"));
        slot.installed.enabled = false;
        slot.failed("veth0 is gone".into());
        assert_eq!(slot.list_entry().state, ListState::ActivatedDisabled);
        assert_eq!(slot.list_entry().last_error.as_deref(), Some("veth0 is gone"));
        assert!(slot.not_running().message.contains("`netdext enable org.netdext.sample` starts it"));
    }

    #[test]
    fn a_failed_driver_says_why_it_cannot_be_asked() {
        let mut slot = Slot::new(1, installed("org.netdext.sample", "veth0"));
        slot.failed("no interface veth0 here".into());
        assert_eq!(slot.list_entry().state, ListState::TerminatedWaitingToRestart);
        assert!(slot.not_running().message.contains("no interface veth0 here"));
    }
}
