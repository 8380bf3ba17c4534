//! netdext: user-space Ethernet drivers over AF_XDP.
//!
//! A driver implements [`driver::Driver`] and is run by a [`dispatch::Worker`] over a [`port::Port`].

pub mod capture;
pub mod control;
pub mod cpu;
pub mod daemon;
pub mod diagnose;
pub mod dispatch;
pub mod driver;
pub mod error;
pub mod link;
pub mod metrics;
pub mod packet;
pub mod port;
pub mod privilege;
pub mod proto;
pub mod queue;
pub mod registry;
pub mod stats;
pub mod steer;
pub mod supervisor;
pub mod view;
