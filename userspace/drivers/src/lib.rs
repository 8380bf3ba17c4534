//! The drivers that come with netdext.

pub mod generate;
pub mod neighbors;
pub mod ping;
pub mod reflect;
pub mod sample;
pub mod sink;
#[cfg(test)]
mod testing;
