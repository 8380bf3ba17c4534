//! The control socket end to end: a real server in a directory of its own, and clients that behave and
//! that do not. The drivers behind it are made up, so no privilege is needed.

mod behaving;
mod fixture;
mod garbage;
mod misbehaving;
mod sockets;
mod streams;
