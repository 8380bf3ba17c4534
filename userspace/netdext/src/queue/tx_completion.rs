use super::{DescBatch, EMPTY_BATCH};
use crate::packet::Lender;
use crate::port::CompletionRing;

/// Sent frames on their way back from the kernel: the completion ring.
pub struct TxCompletionQueue {
    ring: Box<dyn CompletionRing>,
    lender: Lender,
    descs: DescBatch,
    completed: u64,
}

impl TxCompletionQueue {
    pub(crate) fn new(ring: Box<dyn CompletionRing>, lender: Lender) -> Self {
        Self { ring, lender, descs: EMPTY_BATCH, completed: 0 }
    }

    /// Returns up to `max` sent frames to the pool, and says how many.
    pub fn reap(&mut self, max: usize) -> usize {
        let mut reaped = 0;
        while reaped < max {
            let want = (max - reaped).min(self.descs.len());
            let got = self.ring.consume(&mut self.descs[..want]);
            let returned = self.descs[..got].iter().filter(|&&desc| self.lender.take_back_tx(desc)).count();
            self.completed += returned as u64;
            reaped += got;
            if got < want {
                break;
            }
        }
        reaped
    }

    /// Frames completed so far.
    pub fn completed(&self) -> u64 {
        self.completed
    }
}
