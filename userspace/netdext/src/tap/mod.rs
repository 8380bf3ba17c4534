//! Taps: the worker's end of a capture.

mod filter;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};

pub use self::filter::{BadFilter, Filter};
use crate::dispatch::Timestamp;
use crate::packet::Packet;

/// Which way a frame goes, seen from netdext.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// It came out of the rx ring.
    In,
    /// It goes into the tx ring.
    Out,
}

/// One captured frame, on its way to the writer or back.
#[derive(Debug)]
pub struct Record {
    /// When it came by.
    pub at: Timestamp,
    /// The place of the port among those of the driver.
    pub port: u32,
    /// The queue.
    pub queue: u32,
    /// Which way it went.
    pub direction: Direction,
    /// Bytes of the whole frame.
    pub original_len: u32,
    /// The first bytes of the frame; it has room for as many as are kept.
    pub data: Vec<u8>,
}

/// What all taps of a capture and its writer share.
#[derive(Debug, Default)]
pub struct Counts {
    /// Frames that came by.
    pub seen: AtomicU64,
    /// Of those, the ones that the filter takes.
    pub accepted: AtomicU64,
    /// Of those, the ones for which no record was left.
    pub dropped: AtomicU64,
    /// The capture is over: taps are to go.
    pub over: AtomicBool,
}

/// The writer's end of a tap.
pub struct Source {
    /// The place of the tap's port among those of the driver.
    pub port: u32,
    /// The queue of the tap.
    pub queue: u32,
    /// The direction of the tap.
    pub direction: Direction,
    /// Records with a frame.
    pub filled: Receiver<Record>,
    /// Where they go back to.
    pub empty: SyncSender<Record>,
}

/// Copies frames of one queue of one port and one direction into records. It neither waits nor allocates.
#[derive(Debug)]
pub struct Tap {
    port: u32,
    queue: u32,
    direction: Direction,
    snaplen: usize,
    filter: Arc<Filter>,
    empty: Receiver<Record>,
    filled: SyncSender<Record>,
    counts: Arc<Counts>,
}

impl Tap {
    fn new(
        port: u32,
        queue: u32,
        direction: Direction,
        filter: &Arc<Filter>,
        snaplen: u32,
        ring_size: u32,
        counts: &Arc<Counts>,
    ) -> (Self, Source) {
        // Both hold all records, so sending never finds one full.
        let (to_writer, filled) = sync_channel(ring_size as usize);
        let (to_tap, empty) = sync_channel(ring_size as usize);
        for _ in 0..ring_size {
            let data = Vec::with_capacity(snaplen as usize);
            let record = Record { at: Timestamp::default(), port, queue, direction, original_len: 0, data };
            let _ = to_tap.try_send(record);
        }
        let tap = Self {
            port,
            queue,
            direction,
            snaplen: snaplen as usize,
            filter: Arc::clone(filter),
            empty,
            filled: to_writer,
            counts: Arc::clone(counts),
        };
        (tap, Source { port, queue, direction, filled, empty: to_tap })
    }

    /// Captures a packet if the filter takes it and a record is left. Says whether the capture goes on.
    pub fn offer(&mut self, packet: &Packet) -> bool {
        // A received frame came when the XDP program saw it; others come now.
        let seen = packet.rx_timestamp_ns().filter(|_| self.direction == Direction::In);
        self.take(packet.data(), || seen.map_or_else(Timestamp::now, Timestamp::from_nanos))
    }

    /// Captures a frame that came by at `at`, likewise.
    pub fn take(&mut self, frame: &[u8], at: impl FnOnce() -> Timestamp) -> bool {
        if self.counts.over.load(Ordering::Relaxed) {
            return false;
        }
        self.counts.seen.fetch_add(1, Ordering::Relaxed);
        if !self.filter.takes(self.direction, self.queue, frame) {
            return true;
        }
        self.counts.accepted.fetch_add(1, Ordering::Relaxed);
        let mut record = match self.empty.try_recv() {
            Ok(record) => record,
            Err(TryRecvError::Empty) => {
                self.counts.dropped.fetch_add(1, Ordering::Relaxed);
                return true;
            }
            Err(TryRecvError::Disconnected) => return false,
        };
        let kept = frame.len().min(self.snaplen);
        record.at = at();
        record.port = self.port;
        record.original_len = frame.len() as u32;
        record.data.clear();
        record.data.extend_from_slice(&frame[..kept]);
        self.filled.try_send(record).is_ok()
    }
}

/// The two taps of a worker.
#[derive(Debug)]
pub struct TapPair {
    /// For what comes out of the rx ring.
    pub received: Tap,
    /// For what goes into the tx ring.
    pub submitted: Tap,
}

impl TapPair {
    /// The taps of a queue of a port, with `ring_size` records of up to `snaplen` bytes in each direction, and what the writer
    /// needs of them.
    pub fn new(
        port: u32,
        queue: u32,
        filter: &Arc<Filter>,
        snaplen: u32,
        ring_size: u32,
        counts: &Arc<Counts>,
    ) -> (Self, [Source; 2]) {
        let tap = |direction| Tap::new(port, queue, direction, filter, snaplen, ring_size, counts);
        let (received, incoming) = tap(Direction::In);
        let (submitted, outgoing) = tap(Direction::Out);
        (Self { received, submitted }, [incoming, outgoing])
    }
}
