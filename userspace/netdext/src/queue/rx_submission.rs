use rustix::io::Errno;

use super::{DescBatch, EMPTY_BATCH, RING_BATCH};
use crate::packet::{Lender, PacketBatch};
use crate::port::{RingSizes, SubmissionRing};

/// Empty frames on their way to the kernel: the fill ring.
///
/// When the kernel finds it empty, it drops what arrives, so the worker refills it on every step, before
/// anything else takes frames from the pool.
pub struct RxSubmissionQueue {
    ring: Box<dyn SubmissionRing>,
    lender: Lender,
    descs: DescBatch,
    low_water: u32,
    low_water_hits: u64,
    submitted: u64,
}

impl RxSubmissionQueue {
    pub(crate) fn new(ring: Box<dyn SubmissionRing>, lender: Lender, sizes: RingSizes) -> Self {
        let low_water = sizes.fill() / 4;
        Self { ring, lender, descs: EMPTY_BATCH, low_water, low_water_hits: 0, submitted: 0 }
    }

    /// Moves packets from `from` to the kernel, as many as fit; the rest stays in `from`. So do packets of
    /// another pool, behind the others. Returns how many were moved.
    pub fn submit(&mut self, from: &mut PacketBatch) -> usize {
        let mut room = self.ring.room() as usize;
        let mut moved = 0;
        let mut unseen = from.len();
        while room > 0 && unseen > 0 {
            let mut count = 0;
            while count < RING_BATCH.min(room) && unseen > 0 {
                let Some(packet) = from.pop() else { break };
                unseen -= 1;
                if !self.lender.owns(&packet) {
                    // Cannot be full: one was just taken out.
                    let _ = from.push(packet);
                    continue;
                }
                let Some(desc) = self.lender.lend_to_rx(packet) else { continue };
                self.descs[count] = desc;
                count += 1;
            }
            self.ring.produce(&self.descs[..count]);
            room -= count;
            moved += count;
        }
        self.submitted += moved as u64;
        moved
    }

    /// Fills the ring from the pool, as far as both allow. Returns how many frames went in.
    pub fn refill(&mut self) -> usize {
        let mut room = self.ring.room();
        if self.submitted > 0 && self.ring.size() - room < self.low_water {
            self.low_water_hits += 1;
        }
        let mut moved = 0;
        while room > 0 {
            let mut count = 0;
            while count < RING_BATCH.min(room as usize) {
                let Some(desc) = self.lender.lend_free_to_rx() else { break };
                self.descs[count] = desc;
                count += 1;
            }
            if count == 0 {
                break;
            }
            self.ring.produce(&self.descs[..count]);
            room -= count as u32;
            moved += count;
        }
        self.submitted += moved as u64;
        moved
    }

    /// Wakes the kernel if it asks for that before it takes more frames from the ring (zero-copy drivers
    /// do, after they found it empty).
    ///
    /// # Errors
    ///
    /// What the system call returned.
    pub fn wake_if_needed(&mut self) -> Result<(), Errno> {
        if self.ring.needs_wakeup() { self.ring.wake() } else { Ok(()) }
    }

    /// Frames that the ring holds now.
    pub fn level(&mut self) -> u32 {
        self.ring.size() - self.ring.room()
    }

    /// How often [`refill`](Self::refill) found less than a quarter of the ring filled.
    pub fn low_water_hits(&self) -> u64 {
        self.low_water_hits
    }

    /// Frames lent over this queue so far.
    pub fn submitted(&self) -> u64 {
        self.submitted
    }
}
