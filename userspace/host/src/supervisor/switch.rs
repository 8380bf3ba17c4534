//! Switching a running driver: enabled or not, powered or not, with a link or without.

use std::time::Duration;

use tokio::sync::oneshot;

use super::sockets::wait_for_receive_polls;
use super::{CommandError, Supervisor};
use crate::link::program::ProgramError;
use crate::worker::Command;
use netdext::dispatch::WorkerError;
use netdext::driver::{PortId, PowerState};
use netdext::error::one_line;

/// How long answers may take to come in before the driver is switched off. A round trip on a link takes
/// microseconds; a target that is silent for longer is not waited for.
const QUIESCE_BEFORE_SWITCH: Duration = Duration::from_millis(5);

/// Why a driver could not be switched.
#[derive(Debug, thiserror::Error)]
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
    /// The interface is administratively up.
    pub link_up: bool,
}

impl Switches {
    /// Whether the frames for the driver are to go to its sockets.
    fn is_active(self) -> bool {
        let Self { enabled, power, link_up } = self;
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
        self.follow_link_and_user().await
    }

    /// Powers the driver on or off. Off stops its timers, drains the rings and leaves its frames to the kernel.
    ///
    /// # Errors
    ///
    /// [`SwitchError`].
    pub async fn set_power(&mut self, power: PowerState) -> Result<(), SwitchError> {
        self.switches.power = power;
        self.switch(|reply| Command::SetPower(power, reply)).await
    }

    /// Tells the workers whether the interface is up. While it is not, the sockets are out of the XSKMAP.
    pub(super) async fn apply_link(&mut self) {
        match self.follow_link_and_user().await {
            // `run` says why, or that the interface is gone, which may be the reason.
            Ok(()) | Err(SwitchError::Command(CommandError::Ended { .. })) => {}
            Err(error) => tracing::error!(iface = %self.iface, "set_interface_enable: {}", one_line(&error)),
        }
    }

    async fn follow_link_and_user(&mut self) -> Result<(), SwitchError> {
        let enable = self.switches.enabled && self.switches.link_up;
        let switched = self.switch(|reply| Command::SetInterfaceEnable(PortId::FIRST, enable, reply)).await;
        if switched.is_ok() {
            self.info.enabled = enable;
        }
        self.switch_answers();
        switched
    }

    /// Has every worker carry out a command, in the one order that there is: the sockets come into the XSKMAP before it, or
    /// out of it before it. A driver may ask something as soon as it is enabled, and the answer is its own; what comes
    /// before it is enabled waits in the rx rings.
    async fn switch(
        &mut self,
        command: impl Fn(oneshot::Sender<Result<(), WorkerError>>) -> Command,
    ) -> Result<(), SwitchError> {
        if self.switches.is_active() {
            self.claim_frames()?;
        } else {
            self.release_frames().await?;
        }
        let told = self.broadcast(command).await;
        if told.is_err() {
            // A driver that was not switched on would leave them in its rx ring.
            self.release_frames().await?;
        }
        Ok(told?)
    }

    /// Whether the user has the driver enabled.
    pub fn is_enabled(&self) -> bool {
        self.switches.enabled
    }

    /// The power state.
    pub fn power(&self) -> PowerState {
        self.switches.power
    }

    /// Puts the sockets into the XSKMAP.
    fn claim_frames(&mut self) -> Result<(), ProgramError> {
        if !self.sockets.are_claimed() {
            self.sockets.claim()?;
            self.switch_answers();
        }
        Ok(())
    }

    /// Lets the XDP program answer exactly while the driver has its frames. A failure is logged only: the
    /// requests go to the driver then, which answers them too.
    fn switch_answers(&mut self) {
        let active = self.sockets.are_claimed() && self.info.enabled;
        let on = self.answer && active;
        let maps = self.program.maps_mut();
        if let Err(error) = maps.set_answer(on).and_then(|()| maps.set_paused(!active)) {
            tracing::error!(iface = %self.iface, on, "switch the answers of the XDP program: {error}");
        }
    }

    /// Takes the sockets out of the XSKMAP, so that frames pass to the kernel, and waits until those that were
    /// redirected before are in the rx rings.
    pub(super) async fn release_frames(&mut self) -> Result<(), ProgramError> {
        if !self.sockets.are_claimed() {
            return Ok(());
        }
        self.quiesce(QUIESCE_BEFORE_SWITCH).await;
        let released = self.sockets.release();
        self.switch_answers();
        // Fails only if it panics.
        let _ = tokio::task::spawn_blocking(wait_for_receive_polls).await;
        Ok(released?)
    }
}
