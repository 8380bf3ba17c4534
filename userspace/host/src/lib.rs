//! netdext on Linux: ports over AF_XDP, XDP programs and their maps, devices, and the supervisor of a running driver.
//!
//! Of other crates the interface shows tokio's channels, because all that waits here runs on its runtime,
//! `rustix::io::Errno` for what a system call returned, and `aya::maps::MapError` as the source of an error about a map.

pub mod capture;
pub mod cpu;
pub mod diagnose;
pub mod kernel;
pub mod link;
pub mod privilege;
pub mod signals;
pub mod stats;
pub mod steer;
pub mod supervisor;
pub mod worker;
pub mod xdp;
pub mod xsk;
