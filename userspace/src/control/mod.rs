//! The control plane: what clients ask of a running netdext, and how.
//!
//! A process that runs drivers listens on a Unix socket in the runtime directory: `control.sock` is the
//! daemon's, `run-PID.sock` that of a `netdext run`. docs/control.md describes the conversation.

pub mod protocol;
