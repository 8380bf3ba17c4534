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
//!
//! Several ports can share one pool. A frame is lent to a ring of one of them, and only that one's other ring can
//! return it.

mod batch;
mod census;
mod layout;
mod lender;
mod owner;
#[expect(clippy::module_inception, reason = "it holds the type of that name; all is re-exported here")]
mod packet;
mod pool;
#[cfg(test)]
mod tests;

pub use batch::{Full, PacketBatch};
pub use census::Census;
pub use layout::{FrameSize, HEADROOM, OutOfFrame, PoolConfig, PoolConfigError};
pub(crate) use lender::Lender;
pub use lender::Lent;
pub use owner::Desc;
pub(crate) use owner::LentTo;
pub use packet::Packet;
pub(crate) use packet::ReceiveMark;
pub use pool::{FrameMemory, PacketPool};
