//! The harness of the privileged tests: namespaces, wires, frames, and netdext as a process.
//!
//! Every test works in network namespaces of its own, whose guards remove them also when it fails; nothing
//! is ever sent in the root namespace. README.md beside this crate draws the topology.

pub mod daemon;
pub mod echo;
pub mod fake;
pub mod frames;
pub mod namespace;
pub mod pretend;
pub mod process;
pub mod skip;
pub mod terminal;
pub mod wait;
pub mod wire;

pub use daemon::Site;
pub use echo::EchoRequest;
pub use frames::PacketSocket;
pub use namespace::Namespace;
pub use process::{Finished, Netdext};
pub use wait::{patience, patiently, wait_until};
pub use wire::{Wire, WireConfig};
