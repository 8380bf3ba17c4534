//! The commands of a driver's own.

use std::sync::Arc;

use netdext::dispatch::ControlFailure;
use netdext::driver::ControlError;
use serde_json::Value;

use super::{CommandError, Supervisor};
use crate::worker::{Command, ControlRequest};

/// Why a command of a driver's own was not carried out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DriverControlError {
    /// The driver refused it, and goes on.
    #[error(transparent)]
    Refused(ControlError),
    /// A worker did not carry it out.
    #[error(transparent)]
    Command(#[from] CommandError),
}

impl Supervisor {
    /// Hands every instance of the driver a command of its own. The answer is what the instances say that have one: one
    /// answer as it is, several as an array in the order of the queues, none as null.
    ///
    /// # Errors
    ///
    /// [`DriverControlError`]: of the first instance that refused it or did not answer. Those before have carried it
    /// out.
    pub async fn control(&self, name: &str, value: Value) -> Result<Value, DriverControlError> {
        let request = Arc::new(ControlRequest { name: name.to_owned(), value });
        let mut answers = Vec::new();
        for (queue, answer) in self.ask(|reply| Command::Control(Arc::clone(&request), reply)).await {
            match answer? {
                Ok(answer) => answers.extend(answer),
                Err(ControlFailure::Refused(error)) => return Err(DriverControlError::Refused(error)),
                // A queue failed, and with it the worker.
                Err(_) => return Err(CommandError::Ended { queue }.into()),
            }
        }
        Ok(if answers.len() > 1 { answers.into() } else { answers.pop().unwrap_or_default() })
    }
}
