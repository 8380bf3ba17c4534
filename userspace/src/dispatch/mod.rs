//! The dispatch queue: one serial loop per worker, on which every callback of its driver runs.
//!
//! A driver therefore needs no locks. Time is a parameter of [`Worker::step`], and what can happen is a
//! closed set, so a worker over the simulated port behaves the same on every run.

mod latency;
mod thread;
mod time;
mod timer;
mod wait;
mod worker;

pub use latency::LatencyHistograms;
pub use thread::{Command, OnFailure, Recipe, SpawnError, WorkerEvent, WorkerHandle};
pub use time::Timestamp;
pub use timer::{Fired, TimerId, TimerStats, Timers};
pub use wait::{UnknownWaitStrategy, WaitStrategy};
pub use worker::{Progress, WaitsFor, Worker, WorkerConfig, WorkerError, WorkerReport, WorkerSnapshot};
