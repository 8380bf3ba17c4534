//! What the supervisor tells its workers, and how long it waits for their answers.

use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use super::Supervisor;
use crate::worker::Command;
use crate::worker::WorkerHandle;
use netdext::dispatch::{WorkerError, WorkerSnapshot};

/// How long workers may take to answer. The longest that they do is to drain their rings, for 200 ms at the most;
/// who takes longer is in a callback that does not return.
const ANSWER_DEADLINE: Duration = Duration::from_secs(1);

/// How long the answer may come after the end of what was to be waited for.
const QUIESCE_GRACE: Duration = Duration::from_millis(50);

/// Why a command was not carried out by every worker.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CommandError {
    /// A driver refused it, and goes on.
    #[error(transparent)]
    Refused(#[from] WorkerError),
    /// A driver failed while carrying it out. The worker has ended, and [`Supervisor::run`] says so next.
    #[error("the driver on queue {queue} failed while carrying it out, and is stopped")]
    Ended {
        /// The queue.
        queue: u32,
    },
    /// A driver does not return from a callback.
    #[error("the driver on queue {queue} does not answer: a callback of it does not return; stop the driver")]
    Silent {
        /// The queue.
        queue: u32,
    },
}

impl Supervisor {
    /// The counts of every worker that answers.
    pub(super) async fn snapshots(&self) -> Vec<WorkerSnapshot> {
        let mut snapshots = Vec::new();
        for (queue, answer) in self.ask(Command::Snapshot).await {
            match answer {
                Ok(of_ports) => snapshots.extend(of_ports),
                Err(error @ CommandError::Silent { .. }) => tracing::warn!(queue, "no counts: {error}"),
                // One that has ended left its counts in its report.
                Err(_) => {}
            }
        }
        snapshots
    }

    /// Has every worker carry out a command.
    pub(super) async fn broadcast(
        &self,
        command: impl Fn(oneshot::Sender<Result<(), WorkerError>>) -> Command,
    ) -> Result<(), CommandError> {
        for (_, answer) in self.ask(command).await {
            answer??;
        }
        Ok(())
    }

    /// Sends every worker a command, and returns each queue with its answer.
    pub(super) async fn ask<T>(
        &self,
        command: impl Fn(oneshot::Sender<T>) -> Command,
    ) -> Vec<(u32, Result<T, CommandError>)> {
        self.ask_within(ANSWER_DEADLINE, command).await
    }

    /// Lets the answers to what was asked come in, so that switching off loses none of them.
    pub(super) async fn quiesce(&self, limit: Duration) {
        // The driver is to be switched off all the same where a worker has ended or does not answer.
        self.ask_within(limit + QUIESCE_GRACE, |reply| Command::Quiesce(limit, reply)).await;
    }

    async fn ask_within<T>(
        &self,
        limit: Duration,
        command: impl Fn(oneshot::Sender<T>) -> Command,
    ) -> Vec<(u32, Result<T, CommandError>)> {
        let ask = |worker: &WorkerHandle| {
            let (sender, answer) = oneshot::channel();
            worker.send(command(sender));
            (worker.queue, answer)
        };
        // All are asked before the first is waited for.
        let waiting: Vec<_> = self.workers.iter().map(ask).collect();
        let deadline = Instant::now() + limit;
        let mut answers = Vec::with_capacity(waiting.len());
        for (queue, answer) in waiting {
            let answer = match timeout_at(deadline, answer).await {
                Ok(Ok(answer)) => Ok(answer),
                Ok(Err(_)) => Err(CommandError::Ended { queue }),
                Err(_) => Err(CommandError::Silent { queue }),
            };
            answers.push((queue, answer));
        }
        answers
    }
}
