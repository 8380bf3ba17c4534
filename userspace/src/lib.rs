//! netdext: user-space Ethernet drivers over AF_XDP.

pub mod link;
pub mod privilege;
