//! Many drivers: what is installed, the control socket's protocol, metrics, and the daemon that runs them.
//!
//! Of other crates the interface shows tokio's channels, over which the servers hand requests to who owns the drivers.

pub mod control;
pub mod daemon;
pub mod metrics;
pub mod registry;
pub mod spec;
