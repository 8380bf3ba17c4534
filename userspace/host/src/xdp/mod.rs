//! The XDP programs: loading and attaching them, their maps, and what they count.

pub mod attachment;
mod near;
pub mod peer_napi;
pub mod program;
pub(crate) mod program_error;
mod rules;
pub mod run_time;
pub(crate) mod spare_loader;
pub mod steering;
pub mod to_device;
pub mod traffic;
pub mod verifier;
