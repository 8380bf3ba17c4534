//! A port as a worker serves it: its rings in the order of a step, and what is watched and counted of them.

use std::rc::Rc;
use std::time::Duration;

use super::latency::StageLatency;
use super::{LatencyHistograms, TimerStats, Timestamp};
use crate::driver::lifecycle::State;
use crate::driver::{DeviceInfo, DriverStats, PortId};
use crate::packet::{Census, PacketBatch};
use crate::port::{Port, SocketStatistics};
use crate::proto::Local;
use crate::queue::{ErrnoCounts, QueueError, TxSubmissionQueue};
use crate::tap::{Tap, TapPair};

/// Frames in flight without a completion for this long mean that a wakeup was lost: wake again.
const STUCK_TX_AFTER: Duration = Duration::from_millis(100);

/// What can end the sleep of a worker besides its timers and what it is told. What it would do nothing about is not among
/// it: that stays so, and the sleep would end at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WaitsFor {
    /// Frames that have arrived.
    pub frames: bool,
    /// Room in the tx ring.
    pub room: bool,
}

/// The counts of one port of a worker.
#[derive(Clone, Debug)]
pub struct WorkerSnapshot {
    /// The port.
    pub port: PortId,
    /// The hardware queue.
    pub queue: u32,
    /// Where the driver is in its life, as this port sees it: idle while it runs on other ports only.
    pub state: State,
    /// Frames received over the rx ring.
    pub rx_packets: u64,
    /// Their bytes.
    pub rx_bytes: u64,
    /// Frames submitted to the tx ring.
    pub tx_packets: u64,
    /// Their bytes.
    pub tx_bytes: u64,
    /// Frames that the completion ring returned.
    pub tx_completed: u64,
    /// Frames submitted and not yet completed.
    pub tx_in_flight: u64,
    /// Frames in the fill ring.
    pub fill_level: u32,
    /// Times the fill ring was found below its low-water mark.
    pub fill_low_water: u64,
    /// Frames that had arrived when the driver was disabled or stopped and were not handed to it, and dropped.
    pub rx_disabled: u64,
    /// System calls to wake the kernel for the tx ring.
    pub tx_wakeups: u64,
    /// What those returned, by errno.
    pub tx_errnos: ErrnoCounts,
    /// Packets whose data had to be moved before it could be sent.
    pub tx_realigned: u64,
    /// Times the kernel was woken because completions failed to appear.
    pub tx_stuck: u64,
    /// Losses that the kernel counted.
    pub socket: SocketStatistics,
    /// Where the frames of the pool are, which the ports of a worker share.
    pub census: Census,
    /// Of those, frames that this port's tx ring has.
    pub tx_lent: u32,
    /// Descriptors that the kernel returned wrongly.
    pub violations: u64,
    /// Of those, descriptors of the rx ring: received frames that nobody got.
    pub rx_refused: u64,
    /// Frames that were quarantined while the tx ring had them: submitted, and never completed.
    pub tx_quarantined: u64,
    /// Frames that the kernel still held for sending when the socket was closed; 0 before.
    pub tx_unconfirmed: u64,
    /// Times from stage to stage, if they are measured.
    pub latency: Option<LatencyHistograms>,
    /// The driver's own counts, which are with its first port; empty with the others.
    pub driver: DriverStats,
    /// The timers, by name, likewise.
    pub timers: Vec<(&'static str, TimerStats)>,
}

/// A port with all that belongs to it.
pub(crate) struct Served {
    pub(super) id: PortId,
    pub(super) port: Port,
    pub(crate) device: DeviceInfo,
    pub(crate) local: Local,
    /// Whether the interface is to be enabled while the driver has power.
    pub(super) enabled: bool,
    /// Whether the driver was told that it is.
    pub(crate) told: bool,
    /// Frames taken from the rx ring in the last step.
    pub(super) received: usize,
    rx_disabled: u64,
    tx_blocked: bool,
    tx_stuck: u64,
    // Frames submitted and completed when last looked at.
    tx_counts: (u64, u64),
    progressed_at: Timestamp,
    latency: Option<StageLatency>,
    taps: Vec<Tap>,
}

impl Served {
    pub(super) fn new(id: PortId, port: Port, device: DeviceInfo, now: Timestamp) -> Self {
        Self {
            id,
            port,
            local: Local::new(device.mac, &device.addresses),
            device,
            enabled: false,
            told: false,
            received: 0,
            rx_disabled: 0,
            tx_blocked: false,
            tx_stuck: 0,
            tx_counts: (0, 0),
            progressed_at: now,
            latency: None,
            taps: Vec::new(),
        }
    }

    pub(crate) fn tx(&mut self) -> &mut TxSubmissionQueue {
        &mut self.port.tx_submission
    }

    pub(super) fn measure_latency(&mut self, clock: Rc<dyn Fn() -> Timestamp>) {
        self.latency = Some(StageLatency::new(Box::new(move || clock())));
    }

    pub(super) fn capture(&mut self, taps: TapPair) {
        self.taps.push(taps.received);
        self.port.tx_submission.add_tap(taps.submitted);
    }

    /// Takes what was sent back; says how many frames.
    pub(super) fn reap(&mut self, now: Timestamp, budget: usize) -> usize {
        let reaped = self.port.tx_completion.reap(budget);
        if reaped > 0
            && let Some(latency) = &mut self.latency
        {
            latency.completed(now, self.port.tx_completion.completed());
        }
        reaped
    }

    pub(super) fn refill(&mut self) -> usize {
        self.port.rx_submission.refill()
    }

    /// Whether there is room again after the driver found none. Says so once.
    pub(super) fn take_room(&mut self) -> bool {
        let room = self.tx_blocked && self.port.tx_submission.room() > 0;
        self.tx_blocked &= !room;
        room
    }

    /// Takes a batch of what has arrived; says how many frames.
    pub(super) fn dequeue(&mut self, batch: &mut PacketBatch) -> usize {
        let got = self.port.rx_completion.dequeue(batch);
        if got > 0 {
            if let Some(latency) = &mut self.latency {
                latency.received(batch);
            }
            self.taps.retain_mut(|tap| batch.iter().all(|packet| tap.offer(packet)));
        }
        got
    }

    /// Drops all that has arrived, and counts it.
    pub(super) fn drop_arrived(&mut self, batch: &mut PacketBatch) {
        loop {
            let got = self.dequeue(batch);
            if got == 0 {
                return;
            }
            self.rx_disabled += got as u64;
            batch.clear();
        }
    }

    /// Publishes what is staged, and wakes the kernel if it asks for that; says how many frames.
    pub(super) fn flush(&mut self, now: Timestamp) -> Result<usize, QueueError> {
        self.tx_blocked |= self.port.tx_submission.take_rejected_full();
        if let Some(latency) = &mut self.latency {
            latency.publishing(&mut self.port.tx_submission);
        }
        let flushed = self.port.tx_submission.flush()?;
        // The kernel asks for this only after it found the fill ring empty, which it says once.
        if self.port.rx_submission.wake_if_needed().is_err() {
            let DeviceInfo { name, queue, .. } = &self.device;
            tracing::debug!(iface = name, queue, "waking the kernel for the fill ring failed");
        }
        self.watch_for_stuck_tx(now)?;
        Ok(flushed.published)
    }

    fn watch_for_stuck_tx(&mut self, now: Timestamp) -> Result<(), QueueError> {
        // Also new submissions restart the clock: when none complete, the full ring ends them soon.
        let counts = (self.port.tx_submission.submitted(), self.port.tx_completion.completed());
        if self.port.tx_in_flight() == 0 || counts != self.tx_counts {
            self.tx_counts = counts;
            self.progressed_at = now;
        } else if now.since(self.progressed_at) >= STUCK_TX_AFTER {
            self.tx_stuck += 1;
            self.progressed_at = now;
            self.port.tx_submission.kick()?;
        }
        Ok(())
    }

    /// Whether every frame handed to the tx ring has come back.
    pub(super) fn is_drained(&self) -> bool {
        self.port.tx_in_flight() == 0
    }

    pub(super) fn waits_for(&self, running: bool) -> WaitsFor {
        let running = running && self.enabled;
        WaitsFor { frames: running, room: running && self.tx_blocked }
    }

    /// The counts now. The driver's own are left to the worker.
    pub(super) fn snapshot(&mut self, state: State) -> WorkerSnapshot {
        // Another port may be enabled.
        let state = match state {
            State::Running if !self.enabled => State::Idle,
            State::Asleep if !self.enabled => State::PoweredOff,
            state => state,
        };
        let Port { rx_submission, rx_completion, tx_submission, tx_completion, .. } = &mut self.port;
        WorkerSnapshot {
            port: self.id,
            queue: self.device.queue,
            state,
            rx_packets: rx_completion.packets(),
            rx_bytes: rx_completion.bytes(),
            tx_packets: tx_submission.submitted(),
            tx_bytes: tx_submission.bytes(),
            tx_completed: tx_completion.completed(),
            fill_level: rx_submission.level(),
            fill_low_water: rx_submission.low_water_hits(),
            rx_refused: rx_completion.refused(),
            rx_disabled: self.rx_disabled,
            tx_wakeups: tx_submission.wakeups(),
            tx_errnos: tx_submission.errnos().clone(),
            tx_realigned: tx_submission.realigned(),
            tx_stuck: self.tx_stuck,
            tx_in_flight: self.port.tx_in_flight(),
            // Only fails on a closed descriptor, and the port keeps it open.
            socket: self.port.statistics().unwrap_or_default(),
            census: self.port.pool.census(),
            tx_lent: self.port.lent().tx,
            violations: self.port.violations(),
            tx_quarantined: self.port.tx_quarantined(),
            tx_unconfirmed: 0,
            latency: self.latency.as_ref().map(|latency| latency.histograms().clone()),
            driver: DriverStats::default(),
            timers: Vec::new(),
        }
    }
}
