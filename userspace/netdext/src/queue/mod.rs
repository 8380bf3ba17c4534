//! The four queues of a port, named as AF_XDP names the rings under them.
//!
//! | Queue | Ring | Direction |
//! |---|---|---|
//! | [`RxSubmissionQueue`] | fill | empty frames to the kernel |
//! | [`RxCompletionQueue`] | rx | received frames from the kernel |
//! | [`TxSubmissionQueue`] | tx | frames to send to the kernel |
//! | [`TxCompletionQueue`] | completion | sent frames from the kernel |
//!
//! Submitting moves packets in; what a full ring cannot take stays with the caller. Publishing happens
//! once per batch, and only then is the kernel woken, if it asks for it.

mod rx_completion;
mod rx_submission;
mod tx_completion;
mod tx_submission;

pub use rx_completion::RxCompletionQueue;
pub use rx_submission::RxSubmissionQueue;
pub use tx_completion::TxCompletionQueue;
pub use tx_submission::{ErrnoCounts, Flushed, QueueError, RejectReason, Rejected, TxSubmissionQueue};

use crate::packet::Desc;

/// Descriptors moved over a ring in one call at the most.
pub const RING_BATCH: usize = 64;

/// Kept in the queues, so that a call need not clear one.
type DescBatch = [Desc; RING_BATCH];

const EMPTY_BATCH: DescBatch = [Desc { addr: 0, len: 0 }; RING_BATCH];
