//! netdext: what a user-space Ethernet driver is made of.
//!
//! A driver implements [`driver::Driver`] and is run by a [`dispatch::Worker`] over a [`port::Port`].
//!
//! Of other crates the interface shows `rustix::io::Errno`, which is an errno with its name, `serde_json::Value` for what
//! a driver is told, and with the feature `cli` clap's `Args` for its options.

pub mod dispatch;
pub mod driver;
pub mod error;
pub mod metrics;
mod named;
pub mod packet;
pub mod port;
pub mod proto;
pub mod queue;
#[cfg(feature = "cli")]
pub mod registry;
pub mod tap;
pub mod testing;
#[cfg(feature = "cli")]
pub mod units;
