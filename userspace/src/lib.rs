//! netdext: user-space Ethernet drivers over AF_XDP.
//!
//! A driver implements [`driver::Driver`] and is run by a [`dispatch::Worker`] over a [`port::Port`].

pub mod control;
pub mod dispatch;
pub mod driver;
pub mod link;
pub mod packet;
pub mod port;
pub mod privilege;
pub mod proto;
pub mod queue;
pub mod stats;
pub mod steer;
pub mod supervisor;
