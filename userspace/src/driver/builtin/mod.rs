//! The drivers that come with netdext.

pub mod neighbors;
pub mod ping;
pub mod sample;
