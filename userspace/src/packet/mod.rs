//! Who owns a frame: the pool, the packets taken from it, and batches of them.
//!
//! ```text
//!                 alloc                       submit (moves)
//!   PacketPool ----------> Packet (user) ----------------------> lent to the kernel
//!        ^                   |    ^                                   |
//!        |        drop       |    |        dequeue (checked)          |
//!        +-------------------+    +-----------------------------------+
//!        +------------------------------------------------------------+
//!                              reap (checked)
//! ```
//!
//! A [`Packet`] is neither `Clone` nor `Copy` nor `Send`: submitting it moves it, so a frame that the
//! kernel holds cannot be touched, and dropping it returns the frame. What the compiler cannot see (the
//! kernel returning an address twice, or one it never had) is checked when a frame comes back: see
//! [`PacketPool::violations`].

mod batch;
mod pool;

pub use batch::{Full, PacketBatch};
pub use pool::{Census, FrameSize, OutOfFrame, Packet, PacketPool, PoolConfig, PoolConfigError};
pub(crate) use pool::{Desc, FrameMemory, LentTo};
