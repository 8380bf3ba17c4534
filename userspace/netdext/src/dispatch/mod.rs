//! The dispatch queue: one serial loop per worker, on which every callback of its driver runs.
//!
//! A driver therefore needs no locks. Time is a parameter of [`Worker::step`], and what can happen is a
//! closed set, so a worker over the simulated port behaves the same on every run.

mod latency;
mod served;
mod time;
mod timer;
mod waker;
mod worker;

pub use latency::LatencyHistograms;
pub(crate) use served::Served;
pub use served::{WaitsFor, WorkerSnapshot};
pub use time::Timestamp;
pub use timer::{Fired, TimerId, TimerStats, Timers};
pub use waker::Waker;
pub use worker::{ControlFailure, PortReport, Progress, Worker, WorkerError, WorkerReport};
