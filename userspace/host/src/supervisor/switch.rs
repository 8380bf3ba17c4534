//! Switching a running driver: enabled or not, powered or not, with a link or without.

use std::ops::Range;
use std::time::Duration;

use tokio::sync::oneshot;

use super::port::RunningPort;
use super::sockets::wait_for_receive_polls;
use super::{CommandError, Supervisor};
use crate::worker::Command;
use crate::xdp::program::ProgramError;
use netdext::dispatch::WorkerError;
use netdext::driver::PowerState;
use netdext::error::one_line;

/// How long answers may take to come in before the driver is switched off. A round trip on a link takes
/// microseconds; a target that is silent for longer is not waited for.
const QUIESCE_BEFORE_SWITCH: Duration = Duration::from_millis(5);

/// Why a driver could not be switched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SwitchError {
    /// The XSKMAP.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// A worker.
    #[error(transparent)]
    Command(#[from] CommandError),
}

/// What decides whether the driver gets its frames.
#[derive(Clone, Copy, Debug)]
pub(super) struct Switches {
    /// By the user.
    pub enabled: bool,
    /// By the user, or by the system's sleep.
    pub power: PowerState,
}

impl Switches {
    /// Whether the frames of a port whose interface is up, or not, are to go to its sockets.
    fn is_active(self, link_up: bool) -> bool {
        let Self { enabled, power } = self;
        enabled && link_up && power == PowerState::On
    }
}

impl Supervisor {
    /// Lets the driver have its frames, or leaves them to the kernel. Nothing is lost on the way: what was
    /// redirected before is still handed to the driver.
    ///
    /// # Errors
    ///
    /// [`SwitchError`].
    pub async fn set_enabled(&mut self, enabled: bool) -> Result<(), SwitchError> {
        self.switches.enabled = enabled;
        if !enabled && self.ports.len() > 1 {
            // As long as another port has its frames, releasing those of one doesn't.
            self.quiesce(QUIESCE_BEFORE_SWITCH).await;
        }
        let mut switched = Ok(());
        for port in 0..self.ports.len() {
            switched = switched.and(self.follow_link_and_user(port).await);
        }
        switched
    }

    /// Powers the driver on or off. Off stops its timers, drains the rings and leaves its frames to the kernel.
    ///
    /// # Errors
    ///
    /// [`SwitchError`].
    pub async fn set_power(&mut self, power: PowerState) -> Result<(), SwitchError> {
        self.switches.power = power;
        self.switch(0..self.ports.len(), |reply| Command::SetPower(power, reply)).await
    }

    /// Tells the workers whether the interface of a port is up. While it is not, the sockets are out of the XSKMAP.
    pub(super) async fn apply_link(&mut self, port: usize) {
        match self.follow_link_and_user(port).await {
            // `run` says why, or that the interface is gone, which may be the reason.
            Ok(()) | Err(SwitchError::Command(CommandError::Ended { .. })) => {}
            Err(error) => {
                tracing::error!(iface = %self.ports[port].iface, "set_interface_enable: {}", one_line(&error));
            }
        }
    }

    async fn follow_link_and_user(&mut self, port: usize) -> Result<(), SwitchError> {
        let RunningPort { id, link_up, .. } = self.ports[port];
        let enable = self.switches.enabled && link_up;
        let command = |reply| Command::SetInterfaceEnable(id, enable, reply);
        let switched = self.switch(port..port + 1, command).await;
        let port = &mut self.ports[port];
        port.info.enabled = enable && switched.is_ok();
        port.switch_answers();
        switched
    }

    /// Has every worker carry out a command, in the one order that there is: the sockets of the ports that it is about come
    /// into the XSKMAP before it, or out of it before it. A driver may ask something as soon as it is enabled, and the
    /// answer is its own; what comes before it is enabled waits in the rx rings.
    async fn switch(
        &mut self,
        ports: Range<usize>,
        command: impl Fn(oneshot::Sender<Result<(), WorkerError>>) -> Command,
    ) -> Result<(), SwitchError> {
        let switches = self.switches;
        let active = |port: &RunningPort| switches.is_active(port.link_up);
        self.claim_frames(ports.clone(), active)?;
        // Whatever becomes of it, the workers are told.
        let mut switched =
            self.release_frames(ports.clone(), |port| !active(port)).await.map_err(SwitchError::from);
        if let Err(error) = self.broadcast(command).await {
            switched = switched.and(Err(error.into()));
            // A driver that was not switched on would leave them in its rx ring.
            let released = self.release_frames(ports, |_| true).await;
            switched = switched.and(released.map_err(SwitchError::from));
        }
        switched
    }

    /// Puts the sockets of the ports that are meant into the XSKMAP: all, or none that was not there before.
    fn claim_frames(
        &mut self,
        ports: Range<usize>,
        is_meant: impl Fn(&RunningPort) -> bool,
    ) -> Result<(), ProgramError> {
        let mut claimed = Vec::new();
        for index in ports {
            let port = &mut self.ports[index];
            if !is_meant(port) || port.sockets.are_claimed() {
                continue;
            }
            if let Err(error) = port.claim_frames() {
                for index in claimed {
                    let port: &mut RunningPort = &mut self.ports[index];
                    if let Err(error) = port.sockets.release() {
                        tracing::error!(iface = %port.iface, "a socket stays in the XSKMAP: {error}");
                    }
                    port.switch_answers();
                }
                return Err(error);
            }
            claimed.push(index);
        }
        Ok(())
    }

    /// Whether the user has the driver enabled.
    pub fn is_enabled(&self) -> bool {
        self.switches.enabled
    }

    /// The power state.
    pub fn power(&self) -> PowerState {
        self.switches.power
    }

    /// Takes the sockets of the ports that are meant out of the XSKMAP, so that frames pass to the kernel, and waits until
    /// those that were redirected before are in the rx rings. The timers of the driver go on if it keeps a port.
    pub(super) async fn release_frames(
        &mut self,
        ports: Range<usize>,
        is_meant: impl Fn(&RunningPort) -> bool,
    ) -> Result<(), ProgramError> {
        let is_meant = |port: &RunningPort| is_meant(port) && port.sockets.are_claimed();
        let meant = self.ports[ports.clone()].iter().filter(|port| is_meant(port)).count();
        if meant == 0 {
            return Ok(());
        }
        if meant == self.ports.iter().filter(|port| port.sockets.are_claimed()).count() {
            self.quiesce(QUIESCE_BEFORE_SWITCH).await;
        }
        let mut released = Ok(());
        for port in self.ports[ports].iter_mut().filter(|port| is_meant(port)) {
            released = released.and(port.sockets.release());
            port.switch_answers();
        }
        // Fails only if it panics.
        let _ = tokio::task::spawn_blocking(wait_for_receive_polls).await;
        Ok(released?)
    }
}
