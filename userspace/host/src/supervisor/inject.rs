//! The injector of a running driver.

use super::{CommandError, Supervisor};
use crate::worker::Command;
use netdext::driver::{InjectCommand, TargetStats};

impl Supervisor {
    /// Starts, stops or changes the driver's injector of echo requests.
    ///
    /// # Errors
    ///
    /// [`CommandError::Refused`]: the driver has no injector, or it cannot do that; nothing is changed then. Or
    /// another [`CommandError`].
    pub async fn inject(&mut self, command: InjectCommand) -> Result<(), CommandError> {
        self.broadcast(|reply| Command::Inject(command.clone(), reply)).await
    }

    /// The targets of the injector, each with its own counts, in the order of their turns.
    pub async fn inject_targets(&self) -> Vec<TargetStats> {
        let answers = self.ask(Command::InjectTargets).await;
        answers.into_iter().filter_map(|(_, targets)| targets.ok()).flatten().collect()
    }
}
