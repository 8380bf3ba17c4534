//! The interface and what is attached to it.

pub mod attachment;
pub mod program;
mod program_error;
pub mod steering;
