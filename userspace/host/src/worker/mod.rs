//! The thread that a worker of a running driver has, and how it waits.

mod thread;
mod wait;

pub use thread::{
    Command, ControlRequest, Made, OnFailure, Recipe, SpawnError, WorkerConfig, WorkerEvent, WorkerHandle,
};
pub use wait::{UnknownWaitStrategy, WaitStrategy};
