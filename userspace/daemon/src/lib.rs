//! Many drivers: what is installed, the control socket's protocol, metrics, and the daemon that runs them.

pub mod control;
pub mod daemon;
pub mod metrics;
pub mod registry;
pub mod spec;
