use super::{DescBatch, EMPTY_BATCH};
use crate::packet::{Lender, PacketBatch};
use crate::port::CompletionRing;

/// Received frames on their way from the kernel: the rx ring.
pub struct RxCompletionQueue {
    ring: Box<dyn CompletionRing>,
    lender: Lender,
    descs: DescBatch,
    packets: u64,
    bytes: u64,
    refused: u64,
}

impl RxCompletionQueue {
    pub(crate) fn new(ring: Box<dyn CompletionRing>, lender: Lender) -> Self {
        Self { ring, lender, descs: EMPTY_BATCH, packets: 0, bytes: 0, refused: 0 }
    }

    /// Takes received packets into `into`, in the order of arrival, up to its room. Returns how many.
    ///
    /// What the kernel returned wrongly is not among them: it is counted in
    /// [`PacketPool::violations`](crate::packet::PacketPool::violations), and the frame is quarantined.
    pub fn dequeue(&mut self, into: &mut PacketBatch) -> usize {
        let mut taken = 0;
        while into.room() > 0 {
            let want = into.room().min(self.descs.len());
            let got = self.ring.consume(&mut self.descs[..want]);
            // All at once, so that the loads overlap.
            self.descs[..got].iter().for_each(|&desc| self.lender.prefetch_rx(desc));
            for &desc in &self.descs[..got] {
                let Some(packet) = self.lender.take_back_rx(desc) else {
                    self.refused += 1;
                    continue;
                };
                self.packets += 1;
                self.bytes += packet.data_len() as u64;
                // Cannot be full: no more was consumed than there is room.
                if into.push(packet).is_ok() {
                    taken += 1;
                }
            }
            if got < want {
                break;
            }
        }
        taken
    }

    /// Packets received so far.
    pub fn packets(&self) -> u64 {
        self.packets
    }

    /// Descriptors that the kernel returned wrongly: frames that did not become packets.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// Bytes received so far, Ethernet headers included.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}
