//! How long frames take from stage to stage of a worker.
//!
//! ```text
//!  XDP program --xdp_to_user--> out of the rx ring --user_to_tx--> into the tx ring --tx_to_completion--> reaped
//! ```
//! The clock is read once per batch and stage, not per frame. Of a batch a few frames are measured, evenly
//! spread, and each counts for those around it; so small batches are measured frame by frame, and large ones
//! cost no more than small ones.

use std::collections::VecDeque;

use super::Timestamp;
use crate::metrics::Histogram;
use crate::packet::PacketBatch;
use crate::queue::TxSubmissionQueue;

/// Frames of a batch that are measured, give or take one.
const SAMPLES_PER_BATCH: usize = 4;

/// Measured frames that may wait for their completion; beyond that, batches are left out.
const MAX_IN_FLIGHT: usize = 512;

/// Significant digits of a recorded time: 1 % is finer than what a machine repeats.
const DIGITS: u8 = 2;

/// Times from stage to stage in ns.
#[derive(Clone, Debug)]
pub struct LatencyHistograms {
    /// From the XDP program to the worker's rx ring having been read.
    pub xdp_to_user: Histogram,
    /// From there to the same packet's publication on the tx ring.
    pub user_to_tx: Histogram,
    /// From publication on the tx ring to the completion having been read. Completions come in the order of
    /// submission, and that is relied on.
    pub tx_to_completion: Histogram,
}

impl Default for LatencyHistograms {
    fn default() -> Self {
        let empty = || Histogram::with_digits(DIGITS);
        Self { xdp_to_user: empty(), user_to_tx: empty(), tx_to_completion: empty() }
    }
}

impl LatencyHistograms {
    /// Adds another worker's times.
    pub fn merge(&mut self, other: &Self) {
        let Self { xdp_to_user, user_to_tx, tx_to_completion } = other;
        self.xdp_to_user.merge(xdp_to_user);
        self.user_to_tx.merge(user_to_tx);
        self.tx_to_completion.merge(tx_to_completion);
    }
}

/// A published frame whose completion is awaited.
struct InFlight {
    /// Which completion is its own: the count of frames submitted up to and with it.
    number: u64,
    published: Timestamp,
    counts_for: u16,
}

/// Measures the stages of one worker. Allocates nothing after it was made.
pub(super) struct StageLatency {
    clock: Box<dyn Fn() -> Timestamp>,
    histograms: LatencyHistograms,
    in_flight: VecDeque<InFlight>,
    // Moves on with every batch, so that it is not always the same places of a batch that are measured.
    turn: usize,
}

impl StageLatency {
    pub(super) fn new(clock: Box<dyn Fn() -> Timestamp>) -> Self {
        Self {
            clock,
            histograms: LatencyHistograms::default(),
            in_flight: VecDeque::with_capacity(MAX_IN_FLIGHT),
            turn: 0,
        }
    }

    pub(super) fn histograms(&self) -> &LatencyHistograms {
        &self.histograms
    }

    /// A batch has come out of the rx ring.
    pub(super) fn received(&mut self, batch: &mut PacketBatch) {
        let now = (self.clock)();
        let (first, stride) = self.next_places(batch.len());
        for place in (first..batch.len()).step_by(stride) {
            let Some(packet) = batch.get_mut(place) else { break };
            packet.mark_received(now, stride as u16);
        }
        // The XDP program has chosen these already.
        for place in 0..batch.len() {
            if let Some(seen) = batch.get_mut(place).and_then(|packet| packet.rx_timestamp_ns()) {
                self.histograms.xdp_to_user.record(now.as_nanos().saturating_sub(seen));
            }
        }
    }

    /// What is staged is about to be published and the kernel woken for it.
    pub(super) fn publishing(&mut self, tx: &mut TxSubmissionQueue) {
        let staged = tx.staged();
        if staged == 0 {
            return;
        }
        let now = (self.clock)();
        for mark in tx.drain_marks() {
            let time = nanos_between(mark.received, now);
            self.histograms.user_to_tx.record_n(time, mark.counts_for.into());
        }
        let before = tx.submitted() - staged as u64;
        let (first, stride) = self.next_places(staged);
        for place in (first..staged).step_by(stride) {
            if self.in_flight.len() == MAX_IN_FLIGHT {
                break;
            }
            self.in_flight.push_back(InFlight {
                number: before + place as u64 + 1,
                published: now,
                counts_for: stride as u16,
            });
        }
    }

    /// The completion ring was read at `now`, and `completed` frames have come back in all.
    pub(super) fn completed(&mut self, now: Timestamp, completed: u64) {
        while let Some(frame) = self.in_flight.pop_front_if(|frame| frame.number <= completed) {
            let time = nanos_between(frame.published, now);
            self.histograms.tx_to_completion.record_n(time, frame.counts_for.into());
        }
    }

    /// The first place of a batch to measure, and the distance to the next.
    fn next_places(&mut self, batch: usize) -> (usize, usize) {
        let stride = batch.div_ceil(SAMPLES_PER_BATCH).max(1);
        self.turn = self.turn.wrapping_add(1);
        (self.turn % stride, stride)
    }
}

fn nanos_between(earlier: Timestamp, later: Timestamp) -> u64 {
    later.as_nanos().saturating_sub(earlier.as_nanos())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_of_a_batch_is_measured_in_its_turn_and_counts_add_up() {
        let mut latency = StageLatency::new(Box::new(Timestamp::default));
        for batch in [1, 2, 3, 4, 5, 7, 8, 63, 64] {
            let mut hits = vec![0; batch];
            let mut weight = 0;
            let (_, stride) = latency.next_places(batch);
            for _ in 0..stride * 10 {
                let (first, stride) = latency.next_places(batch);
                for place in (first..batch).step_by(stride) {
                    hits[place] += 1;
                    weight += stride;
                }
            }
            assert!(hits.iter().all(|&count| count == 10), "{batch}: {hits:?}");
            assert_eq!(weight, batch * stride * 10, "on average each frame counts once");
            assert!(batch.div_ceil(stride) <= SAMPLES_PER_BATCH, "{batch}");
        }
    }

    #[test]
    fn a_time_beyond_the_bound_counts_as_the_bound() {
        let mut latency = StageLatency::new(Box::new(Timestamp::default));
        latency.in_flight.push_back(InFlight { number: 1, published: Timestamp::default(), counts_for: 3 });
        latency.completed(Timestamp::from_nanos(u64::MAX), 1);
        let recorded = &latency.histograms().tx_to_completion;
        assert_eq!(recorded.len(), 3);
        assert!(recorded.max() >= 60_000_000_000, "{}", recorded.max());
    }
}
