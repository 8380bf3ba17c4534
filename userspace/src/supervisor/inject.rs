//! The injector of a running driver.

use tokio::sync::oneshot;

use super::Supervisor;
use crate::dispatch::{Command, WorkerError};
use crate::driver::{InjectCommand, TargetStats};

impl Supervisor {
    /// Starts, stops or changes the driver's injector of echo requests.
    ///
    /// # Errors
    ///
    /// The driver refuses: it has no injector, or it cannot do that. Nothing is changed then.
    pub async fn inject(&mut self, command: InjectCommand) -> Result<(), WorkerError> {
        self.broadcast(|reply| Command::Inject(command.clone(), reply)).await
    }

    /// The targets of the injector, each with its own counts, in the order of their turns.
    pub async fn inject_targets(&self) -> Vec<TargetStats> {
        let mut targets = Vec::new();
        for worker in &self.workers {
            let (sender, receiver) = oneshot::channel();
            worker.send(Command::InjectTargets(sender));
            targets.extend(receiver.await.into_iter().flatten());
        }
        targets
    }
}
