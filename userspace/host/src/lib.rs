//! netdext on Linux: ports over AF_XDP, XDP programs and their maps, devices, and the supervisor of a running driver.

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
