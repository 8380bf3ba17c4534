//! The drivers that come with netdext.

pub mod neighbors;
pub mod sample;
