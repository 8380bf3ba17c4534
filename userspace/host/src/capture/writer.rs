//! The thread that writes a capture.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::open::OpenCapture;
use super::pcapng::{self, Statistics};
use super::sink::Written;
use super::{CaptureError, CaptureSink, FINISH_WITHIN};
use netdext::dispatch::Timestamp;
use netdext::tap::{Counts, Filter, Record, Source};

/// How long the writer sleeps when there is nothing to write. It looks by itself, because a worker that woke
/// it would make a system call for a frame.
const NAP: Duration = Duration::from_millis(1);

/// Frames taken from one ring before the others get their turn.
const FRAMES_PER_TURN: usize = 64;

/// Bytes written at once, give or take a frame from each ring.
const CHUNK: usize = 64 << 10;

/// How often the counts in a file are brought up to date, or written to a stream if frames were lost.
const STATISTICS_INTERVAL: Duration = Duration::from_secs(1);

/// How long a slow reader is waited for once the capture is over: less than [`FINISH_WITHIN`].
const LAST_WORDS_WITHIN: Duration = Duration::from_millis(300);

/// A running capture. Dropping it ends it too, without waiting.
#[derive(Debug)]
pub struct Capture {
    counts: Arc<Counts>,
    progress: Arc<Progress>,
    ended: Receiver<()>,
    thread: Option<JoinHandle<()>>,
    ends_on_drop: bool,
}

/// What a capture counted, in frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct CaptureReport {
    /// Frames that came by.
    pub seen: u64,
    /// Of those, the ones that the filter took: `accepted` = `written` + `dropped`, once it has ended.
    pub accepted: u64,
    /// Frames in the file or stream.
    pub written: u64,
    /// Frames that are missing there, because the disk or the reader was too slow, or the disk full.
    pub dropped: u64,
    /// Whether the writer came to its end; if not, the disk or the reader still keeps it waiting.
    pub ended: bool,
}

/// What the writer has done.
#[derive(Debug, Default)]
struct Progress {
    written: AtomicU64,
    unwritten: AtomicU64,
}

impl Capture {
    /// The counts now.
    pub fn report(&self) -> CaptureReport {
        let statistics = statistics(&self.counts, &self.progress);
        CaptureReport {
            seen: statistics.seen,
            accepted: statistics.accepted,
            written: statistics.written,
            dropped: statistics.dropped,
            ended: self.thread.as_ref().is_none_or(JoinHandle::is_finished),
        }
    }

    /// Whether it has ended by itself: the reader is gone, or all workers are.
    pub fn has_ended(&self) -> bool {
        self.report().ended
    }

    /// Leaves the capture to itself: it ends with its reader or with the driver.
    pub fn detach(mut self) {
        self.ends_on_drop = false;
    }

    /// Ends the capture: what was captured is written, the counts last. Waits half a second at the most; a
    /// disk that takes longer is left to itself.
    pub fn finish(mut self) -> CaptureReport {
        self.counts.over.store(true, Ordering::Relaxed);
        // Disconnected, the thread has ended already.
        let in_time = self.ended.recv_timeout(FINISH_WITHIN) != Err(RecvTimeoutError::Timeout);
        if let Some(thread) = self.thread.take_if(|_| in_time) {
            let _ = thread.join();
        }
        self.report()
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        if self.ends_on_drop {
            self.counts.over.store(true, Ordering::Relaxed);
        }
    }
}

fn statistics(counts: &Counts, progress: &Progress) -> Statistics {
    Statistics {
        seen: counts.seen.load(Ordering::Relaxed),
        accepted: counts.accepted.load(Ordering::Relaxed),
        dropped: counts.dropped.load(Ordering::Relaxed) + progress.unwritten.load(Ordering::Relaxed),
        written: progress.written.load(Ordering::Relaxed),
    }
}

/// The writer's own side.
pub(super) struct Writer {
    sources: Vec<Source>,
    counts: Arc<Counts>,
    progress: Arc<Progress>,
    sink: CaptureSink,
    /// The blocks that begin the file, until they are written.
    head: Option<Vec<u8>>,
    end: End,
    clock: WallClock,
    began: u64,
    /// Where the statistics block of a file is.
    statistics_at: Option<u64>,
    statistics_due: Instant,
    /// What the statistics said last.
    dropped_said: u64,
    /// Frames taken from the rings and not yet written, in the order of their time.
    taken: Vec<Record>,
    chunk: Vec<u8>,
    _open: OpenCapture,
}

impl Writer {
    pub(super) fn spawn(
        ifaces: &[&str],
        filter: &Filter,
        snaplen: u32,
        sources: Vec<Source>,
        counts: Arc<Counts>,
        sink: CaptureSink,
        open: OpenCapture,
    ) -> Result<Capture, CaptureError> {
        sink.begin()?;
        let clock = WallClock::now();
        let progress = Arc::<Progress>::default();
        let mut head = Vec::new();
        pcapng::section_header(&mut head);
        for iface in ifaces {
            pcapng::interface_description(&mut head, iface, snaplen, &filter.to_string());
        }
        let mut writer = Self {
            taken: Vec::with_capacity(sources.len() * FRAMES_PER_TURN),
            sources,
            counts: Arc::clone(&counts),
            progress: Arc::clone(&progress),
            sink,
            head: Some(head),
            end: End { counts: Arc::clone(&counts), since: Cell::new(None) },
            began: clock.at(Timestamp::now()),
            clock,
            statistics_at: None,
            statistics_due: Instant::now() + STATISTICS_INTERVAL,
            dropped_said: 0,
            chunk: Vec::with_capacity(CHUNK * 2),
            _open: open,
        };
        let (end, ended) = channel();
        let body = move || {
            writer.run();
            let _ = end.send(());
        };
        let thread = std::thread::Builder::new()
            .name("capture".to_owned())
            .spawn(body)
            .map_err(|source| CaptureError::Thread { source })?;
        Ok(Capture { counts, progress, ended, thread: Some(thread), ends_on_drop: true })
    }

    fn run(&mut self) {
        if let Some(mut head) = self.head.take_if(|_| self.sink.can_replace()) {
            self.statistics_at = Some(head.len() as u64);
            self.append_statistics(&mut head);
            self.head = Some(head);
        }
        let mut outcome = self.write(&[]);
        while outcome != Written::Gone {
            // Asked before the rings are looked at, so that nothing captured before is missed.
            let over = self.end.is_near();
            let all_gone = self.take_from_rings();
            let idle = self.taken.is_empty();
            outcome = self.write_taken();
            if idle && (over || all_gone) {
                break;
            }
            if outcome != Written::Gone && Instant::now() >= self.statistics_due {
                self.statistics_due = Instant::now() + STATISTICS_INTERVAL;
                outcome = self.write_statistics(false);
            }
            if idle {
                std::thread::sleep(NAP);
            }
        }
        if outcome != Written::Gone {
            self.write_statistics(true);
        }
        // Where it ended by itself, the workers need not go on copying.
        self.counts.over.store(true, Ordering::Relaxed);
        let left = self.sources.iter().map(|source| source.filled.try_iter().count() as u64).sum();
        self.progress.unwritten.fetch_add(left, Ordering::Relaxed);
    }

    /// Takes up to a turn's frames from each ring. Says whether all workers are gone.
    fn take_from_rings(&mut self) -> bool {
        let mut gone = 0;
        for source in &self.sources {
            for _ in 0..FRAMES_PER_TURN {
                match source.filled.try_recv() {
                    Ok(record) => self.taken.push(record),
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => {
                        gone += 1;
                        break;
                    }
                }
            }
        }
        // Rings of several queues and directions become one order, as far as they are taken together.
        self.taken.sort_by_key(|record| record.at);
        gone == self.sources.len()
    }

    fn write_taken(&mut self) -> Written {
        let mut outcome = Written::Yes;
        let mut frames = 0;
        let mut taken = std::mem::take(&mut self.taken);
        self.chunk.clear();
        for record in taken.drain(..) {
            pcapng::enhanced_packet(&mut self.chunk, self.clock.at(record.at), &record);
            frames += 1;
            self.give_back(record);
            if self.chunk.len() >= CHUNK {
                outcome = self.write_chunk(frames).max(outcome);
                frames = 0;
            }
        }
        self.taken = taken;
        if frames > 0 { self.write_chunk(frames).max(outcome) } else { outcome }
    }

    /// A record goes back to the tap that filled it.
    fn give_back(&self, record: Record) {
        let place = (record.port, record.queue, record.direction);
        let mine = |source: &&Source| (source.port, source.queue, source.direction) == place;
        if let Some(source) = self.sources.iter().find(mine) {
            // An error means that the worker is gone.
            let _ = source.empty.try_send(record);
        }
    }

    fn write_chunk(&mut self, frames: u64) -> Written {
        let chunk = std::mem::take(&mut self.chunk);
        let outcome = self.write(&chunk);
        let count = if outcome == Written::Yes { &self.progress.written } else { &self.progress.unwritten };
        count.fetch_add(frames, Ordering::Relaxed);
        self.chunk = chunk;
        self.chunk.clear();
        outcome
    }

    fn write(&mut self, blocks: &[u8]) -> Written {
        if let Some(head) = self.head.take() {
            let outcome = self.write_whole(&head);
            if outcome != Written::Yes {
                self.head = Some(head);
                return outcome;
            }
        }
        if blocks.is_empty() { Written::Yes } else { self.write_whole(blocks) }
    }

    fn write_whole(&mut self, blocks: &[u8]) -> Written {
        let Self { sink, end, .. } = self;
        sink.write(blocks, || end.may_wait())
    }

    /// Brings the counts in a file up to date. To a stream they are appended, when frames were lost since, or
    /// at the end.
    fn write_statistics(&mut self, last: bool) -> Written {
        let mut block = Vec::new();
        let dropped = self.append_statistics(&mut block);
        if let Some(offset) = self.statistics_at.filter(|_| self.head.is_none()) {
            return self.sink.replace(offset, &block);
        }
        if !last && dropped == self.dropped_said {
            return Written::Yes;
        }
        self.dropped_said = dropped;
        self.write(&block)
    }

    fn append_statistics(&self, out: &mut Vec<u8>) -> u64 {
        let statistics = statistics(&self.counts, &self.progress);
        pcapng::interface_statistics(out, self.clock.at(Timestamp::now()), self.began, &statistics);
        statistics.dropped
    }
}

/// Whether the capture is over, and since when.
struct End {
    counts: Arc<Counts>,
    since: Cell<Option<Instant>>,
}

impl End {
    fn is_near(&self) -> bool {
        let over = self.counts.over.load(Ordering::Relaxed);
        if over && self.since.get().is_none() {
            self.since.set(Some(Instant::now()));
        }
        over
    }

    /// Whether to wait for a slow reader: also at the end, but not for long.
    fn may_wait(&self) -> bool {
        !self.is_near() || self.since.get().is_some_and(|since| since.elapsed() < LAST_WORDS_WITHIN)
    }
}

/// CLOCK_MONOTONIC as time since 1970, by the difference at the start of the capture: a step of the wall
/// clock does not tear frames apart.
#[derive(Clone, Copy, Debug)]
struct WallClock {
    ahead: u64,
}

impl WallClock {
    fn now() -> Self {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { ahead: (wall.as_nanos() as u64).saturating_sub(Timestamp::now().as_nanos()) }
    }

    fn at(self, time: Timestamp) -> u64 {
        time.as_nanos() + self.ahead
    }
}
