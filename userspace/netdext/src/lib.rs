//! netdext: what a user-space Ethernet driver is made of.
//!
//! A driver implements [`driver::Driver`] and is run by a [`dispatch::Worker`] over a [`port::Port`].

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
