//! A worker: one driver instance, one port, one thread.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use super::latency::StageLatency;
use super::{LatencyHistograms, TimerStats, Timers, Timestamp, WaitStrategy};
use crate::capture::{Tap, TapPair};
use crate::driver::lifecycle::{IllegalTransition, State, Transition};
use crate::driver::{
    Cx, DeviceInfo, Driver, DriverError, DriverStats, InjectCommand, PowerState, TargetStats,
};
use crate::packet::{Census, PacketBatch};
use crate::port::{ClosingCensus, Port, SocketStatistics};
use crate::queue::{ErrnoCounts, QueueError};

/// Ticks handed to the driver in one step at the most, so that a timer that is behind cannot keep the
/// rings from being served.
const TICKS_PER_STEP: usize = 64;

/// Frames in flight without a completion for this long mean that a wakeup was lost: wake again.
const STUCK_TX_AFTER: Duration = Duration::from_millis(100);

/// Why a worker cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// A callback of the driver failed.
    #[error(transparent)]
    Driver(#[from] DriverError),
    /// A queue failed.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// A command does not fit the driver's state.
    #[error(transparent)]
    Transition(#[from] IllegalTransition),
    /// A callback of the driver panicked.
    #[error("driver {driver} panicked; the log above says where")]
    Panicked {
        /// Name of the driver.
        driver: &'static str,
    },
}

/// What one step did, in frames unless said otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Sent frames returned to the pool.
    pub reaped: usize,
    /// Frames given to the fill ring.
    pub refilled: usize,
    /// Frames received.
    pub received: usize,
    /// Frames published to the tx ring.
    pub published: usize,
    /// Timer ticks delivered.
    pub ticks: usize,
}

impl Progress {
    /// Whether anything happened that makes it likely that more follows at once.
    pub fn any(&self) -> bool {
        *self != Self::default()
    }
}

/// What can end the sleep of a worker besides its timers and what it is told. What it would do nothing about is not among
/// it: that stays so, and the sleep would end at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WaitsFor {
    /// Frames that have arrived.
    pub frames: bool,
    /// Room in the tx ring.
    pub room: bool,
}

/// The counts of one worker.
#[derive(Clone, Debug)]
pub struct WorkerSnapshot {
    /// The hardware queue.
    pub queue: u32,
    /// Where the driver is in its life.
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
    /// Where the frames are.
    pub census: Census,
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
    /// The driver's own counts.
    pub driver: DriverStats,
    /// The timers, by name.
    pub timers: Vec<(&'static str, TimerStats)>,
}

/// What a worker leaves behind.
#[derive(Debug)]
pub struct WorkerReport {
    /// The counts at the end.
    pub snapshot: WorkerSnapshot,
    /// Where the frames were when the port was closed.
    pub census: ClosingCensus,
    /// Why it ended, if not because it was told to.
    pub error: Option<WorkerError>,
}

/// One driver instance on one port. All callbacks run inside [`step`](Self::step) and in
/// the changes of state, on the thread that calls those.
///
/// The order within a step is fixed: completions first, because a full tx ring must drain even when
/// nothing arrives; then the fill ring, because a frame that finds it empty is lost; then received
/// packets, what the driver sends, and timers.
pub struct Worker {
    driver: Box<dyn Driver>,
    port: Port,
    device: DeviceInfo,
    timers: Timers,
    state: State,
    batch: PacketBatch,
    rx_disabled: u64,
    tx_blocked: bool,
    quiescing: bool,
    tx_stuck: u64,
    // Frames submitted and completed when last looked at.
    tx_counts: (u64, u64),
    progressed_at: Timestamp,
    latency: Option<StageLatency>,
    taps: Vec<Tap>,
}

impl Worker {
    /// Initialises and starts a driver on a port. `batch` is how many packets one callback gets at the
    /// most.
    ///
    /// # Errors
    ///
    /// What the driver's `init` or `start` returned, with the port closed. After a failed `start` the
    /// driver was stopped.
    pub fn start(
        driver: Box<dyn Driver>,
        port: Port,
        device: DeviceInfo,
        batch: usize,
        now: Timestamp,
    ) -> Result<Self, WorkerError> {
        let mut worker = Self {
            driver,
            port,
            device,
            timers: Timers::default(),
            state: State::Created,
            batch: PacketBatch::with_capacity(batch),
            rx_disabled: 0,
            tx_blocked: false,
            quiescing: false,
            tx_stuck: 0,
            tx_counts: (0, 0),
            progressed_at: now,
            latency: None,
            taps: Vec::new(),
        };
        worker.driver.init(&worker.device)?;
        worker.state = worker.state.after(Transition::Init)?;
        // Filled before the XSKMAP has the socket, so that the first frame finds room.
        worker.port.rx_submission.refill();
        let started = worker.with_cx(now, |driver, cx| driver.start(cx));
        if let Err(error) = started {
            worker.with_cx(now, |driver, cx| driver.stop(cx));
            return Err(error.into());
        }
        worker.state = worker.state.after(Transition::Start)?;
        Ok(worker)
    }

    /// Measures from now on how long frames take from stage to stage. `clock` is read once for every batch
    /// received and every batch published.
    pub fn measure_latency(&mut self, clock: impl Fn() -> Timestamp + 'static) {
        self.latency = Some(StageLatency::new(Box::new(clock)));
    }

    /// Shows every frame from now on to a capture too, until that ends.
    pub fn capture(&mut self, taps: TapPair) {
        self.taps.push(taps.received);
        self.port.tx_submission.add_tap(taps.submitted);
    }

    /// Serves every ring and timer once, with up to `budget` packets each way.
    ///
    /// # Errors
    ///
    /// A queue that cannot go on. The worker should then be [finished](Self::finish).
    pub fn step(&mut self, now: Timestamp, budget: usize) -> Result<Progress, WorkerError> {
        let mut progress = self.serve_rings(now, budget)?;
        self.serve_timers(now, &mut progress)?;
        Ok(progress)
    }

    /// The first half of a step: everything but the timers.
    pub(super) fn serve_rings(&mut self, now: Timestamp, budget: usize) -> Result<Progress, WorkerError> {
        let mut progress = Progress {
            reaped: self.port.tx_completion.reap(budget),
            refilled: self.port.rx_submission.refill(),
            ..Progress::default()
        };
        if progress.reaped > 0
            && let Some(latency) = &mut self.latency
        {
            latency.completed(now, self.port.tx_completion.completed());
        }
        if self.tx_blocked && self.state.is_running() && self.port.tx_submission.room() > 0 {
            self.tx_blocked = false;
            self.with_cx(now, |driver, cx| driver.tx_packet_available(cx));
        }
        // What arrives before the driver is enabled waits in the ring for it.
        if self.state.is_running() {
            progress.received = self.receive(now, budget);
        }
        progress.published = self.flush(now)?;
        Ok(progress)
    }

    /// The second half of a step. It takes the time anew, because what a timer stamps should not include the
    /// time that the rings took.
    pub(super) fn serve_timers(
        &mut self,
        now: Timestamp,
        progress: &mut Progress,
    ) -> Result<(), WorkerError> {
        progress.ticks = self.fire_timers(now);
        if progress.ticks > 0 {
            progress.published += self.flush(now)?;
        }
        Ok(())
    }

    /// Hands the driver what has arrived, or drops it if the driver is not running.
    fn receive(&mut self, now: Timestamp, budget: usize) -> usize {
        let mut received = 0;
        while received < budget {
            let got = self.port.rx_completion.dequeue(&mut self.batch);
            if got == 0 {
                break;
            }
            received += got;
            self.observe_received();
            if self.state.is_running() {
                self.with_batch(now);
            } else {
                self.rx_disabled += got as u64;
            }
            // What the driver left: freed, that is, on its way back to the fill ring.
            self.batch.clear();
            if got < self.batch.room() {
                break;
            }
        }
        received
    }

    fn observe_received(&mut self) {
        if let Some(latency) = &mut self.latency {
            latency.received(&mut self.batch);
        }
        if !self.taps.is_empty() {
            self.taps.retain_mut(|tap| self.batch.iter().all(|packet| tap.offer(packet)));
        }
    }

    fn with_batch(&mut self, now: Timestamp) {
        let Self { driver, port, device, timers, batch, .. } = self;
        let mut cx = Cx { pool: &port.pool, tx: &mut port.tx_submission, timers, device, now };
        driver.rx_packets(&mut cx, batch);
    }

    fn with_cx<T>(&mut self, now: Timestamp, call: impl FnOnce(&mut dyn Driver, &mut Cx<'_>) -> T) -> T {
        let Self { driver, port, device, timers, .. } = self;
        let mut cx = Cx { pool: &port.pool, tx: &mut port.tx_submission, timers, device, now };
        call(driver.as_mut(), &mut cx)
    }

    fn fire_timers(&mut self, now: Timestamp) -> usize {
        let mut ticks = 0;
        while self.state.is_running() && !self.quiescing && ticks < TICKS_PER_STEP {
            let Some(fired) = self.timers.pop_due(now) else { break };
            self.with_cx(now, |driver, cx| driver.receive_timer(cx, fired));
            ticks += 1;
        }
        ticks
    }

    fn flush(&mut self, now: Timestamp) -> Result<usize, QueueError> {
        self.tx_blocked |= self.port.tx_submission.take_rejected_full();
        if let Some(latency) = &mut self.latency {
            latency.publishing(&mut self.port.tx_submission);
        }
        let flushed = self.port.tx_submission.flush()?;
        // The kernel asks for this only after it found the fill ring empty, which it says once.
        if self.port.rx_submission.wake_if_needed().is_err() {
            tracing::debug!(queue = self.device.queue, "waking the kernel for the fill ring failed");
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

    /// Powers the driver on or off.
    ///
    /// # Errors
    ///
    /// The driver's error, after which its state is [`State::Failed`]. Asking for the present power state
    /// is no error and does nothing.
    pub fn set_power(&mut self, now: Timestamp, power: PowerState) -> Result<(), WorkerError> {
        self.quiescing &= power == PowerState::Off;
        match (power, self.state) {
            (PowerState::On, State::Idle | State::Running)
            | (PowerState::Off, State::PoweredOff | State::Asleep) => Ok(()),
            (PowerState::On, State::Asleep) => self.change_state(now, Transition::PowerOn, |driver, cx| {
                driver.set_power_state(cx, PowerState::On)?;
                driver.set_interface_enable(cx, true)
            }),
            (PowerState::Off, State::Running) => {
                self.change_state(now, Transition::PowerOff, |driver, cx| {
                    driver.set_interface_enable(cx, false)?;
                    driver.set_power_state(cx, PowerState::Off)
                })
            }
            (PowerState::On, _) => self.change_state(now, Transition::PowerOn, |driver, cx| {
                driver.set_power_state(cx, PowerState::On)
            }),
            (PowerState::Off, _) => self.change_state(now, Transition::PowerOff, |driver, cx| {
                driver.set_power_state(cx, PowerState::Off)
            }),
        }
    }

    /// Enables or disables the interface. While the driver is powered off this is only remembered.
    ///
    /// # Errors
    ///
    /// The driver's error, after which its state is [`State::Failed`]. Asking for what already is is no
    /// error and does nothing.
    pub fn set_interface_enable(&mut self, now: Timestamp, enable: bool) -> Result<(), WorkerError> {
        self.quiescing &= !enable;
        let transition = if enable { Transition::Enable } else { Transition::Disable };
        match (enable, self.state) {
            (true, State::Running | State::Asleep) | (false, State::Idle | State::PoweredOff) => Ok(()),
            (true, State::PoweredOff) | (false, State::Asleep) => {
                self.change_state(now, transition, |_, _| Ok(()))
            }
            _ => self.change_state(now, transition, |driver, cx| driver.set_interface_enable(cx, enable)),
        }
    }

    fn change_state(
        &mut self,
        now: Timestamp,
        transition: Transition,
        call: impl FnOnce(&mut dyn Driver, &mut Cx<'_>) -> Result<(), DriverError>,
    ) -> Result<(), WorkerError> {
        let after = self.state.after(transition)?;
        if let Err(error) = self.with_cx(now, call) {
            self.state = self.state.after(Transition::Fail)?;
            return Err(error.into());
        }
        let was_running = self.state.is_running();
        self.state = after;
        if was_running {
            // Too late for the driver, and too old for when it is enabled again.
            self.receive(now, self.port.pool.capacity());
        }
        Ok(())
    }

    /// Starts, stops or changes the driver's injector.
    ///
    /// # Errors
    ///
    /// The driver refuses, and nothing is changed; unlike after other errors of a driver it goes on.
    pub fn inject(&mut self, now: Timestamp, command: &InjectCommand) -> Result<(), WorkerError> {
        self.with_cx(now, |driver, cx| driver.inject(cx, command)).map_err(WorkerError::from)?;
        // What was asked for at once, such as MAC addresses, is staged.
        self.flush(now)?;
        Ok(())
    }

    /// The targets of the driver's injector, each with its own counts.
    pub fn inject_targets(&self) -> Vec<TargetStats> {
        self.driver.inject_targets()
    }

    /// Fires no timer until the driver is enabled or powered on again, so that nothing new is asked while
    /// answers still come in: the first step of an orderly stop.
    pub fn quiesce(&mut self) {
        self.quiescing = true;
    }

    /// Requests of the driver that wait for an answer.
    pub fn unanswered(&self) -> u64 {
        self.driver.stats().injector.map_or(0, |injector| injector.in_flight)
    }

    /// Whether every frame handed to the tx ring has come back.
    pub fn is_drained(&self) -> bool {
        self.port.tx_in_flight() == 0
    }

    /// Notes that a callback panicked, which no one can say how far it came: no other follows.
    pub(super) fn panicked(&mut self) -> WorkerError {
        self.state = State::Failed;
        WorkerError::Panicked { driver: self.driver.name() }
    }

    /// Stops the driver and closes the port. The interface should be disabled before, and the tx ring
    /// drained. A driver that panicked is only asked what it counted.
    pub fn finish(mut self, now: Timestamp, error: Option<WorkerError>) -> WorkerReport {
        let panicked = matches!(error, Some(WorkerError::Panicked { .. }));
        if self.state != State::Stopped && !panicked {
            self.with_cx(now, |driver, cx| driver.stop(cx));
            self.state = State::Stopped;
        }
        self.batch.clear();
        // Where something has failed, what had arrived by then is still in the ring.
        self.receive(now, self.port.pool.capacity());
        let stats = caught(|| self.driver.stats()).unwrap_or_default();
        let mut snapshot = self.snapshot_with(stats);
        let Self { driver, port, .. } = self;
        if snapshot.census.user > 0 {
            // Against its contract; they come back when it is dropped.
            tracing::warn!(driver = driver.name(), packets = snapshot.census.user, "packets kept after stop");
        }
        // One that panics here too keeps its packets, which the census shows.
        let _ = caught(|| drop(driver));
        let census = port.close();
        snapshot.census = census.after;
        snapshot.tx_unconfirmed = census.lent.tx.into();
        WorkerReport { snapshot, census, error }
    }

    /// When the next timer is due.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        if self.state.is_running() && !self.quiescing { self.timers.next_deadline() } else { None }
    }

    /// The driver's state.
    pub fn state(&self) -> State {
        self.state
    }

    /// The port, to sleep on its descriptor.
    pub(super) fn port(&self) -> &Port {
        &self.port
    }

    /// Frames in the tx ring that the kernel has not yet taken.
    pub(super) fn tx_pending(&mut self) -> u32 {
        self.port.tx_submission.level()
    }

    /// What the worker is to be woken for by its socket.
    pub fn waits_for(&self) -> WaitsFor {
        let running = self.state.is_running();
        WaitsFor { frames: running, room: running && self.tx_blocked }
    }

    /// The counts now.
    pub fn snapshot(&mut self) -> WorkerSnapshot {
        let stats = self.driver.stats();
        self.snapshot_with(stats)
    }

    fn snapshot_with(&mut self, driver: DriverStats) -> WorkerSnapshot {
        let Port { rx_submission, rx_completion, tx_submission, tx_completion, .. } = &mut self.port;
        WorkerSnapshot {
            queue: self.device.queue,
            state: self.state,
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
            violations: self.port.violations(),
            tx_quarantined: self.port.tx_quarantined(),
            tx_unconfirmed: 0,
            latency: self.latency.as_ref().map(|latency| latency.histograms().clone()),
            driver,
            timers: self.timers.iter().map(|(name, _, stats)| (name, stats)).collect(),
        }
    }
}

/// What `work` returns, or `None` if it panics; the message goes to stderr then. It is for calls of the driver: what a
/// panic leaves half done is the driver's, and that is not used any more.
pub(super) fn caught<T>(work: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(work)).ok()
}

/// How a worker runs.
#[derive(Clone, Copy, Debug)]
pub struct WorkerConfig {
    /// How it waits.
    pub wait: WaitStrategy,
    /// Packets that one callback gets at the most.
    pub batch: usize,
    /// The CPU it is pinned to; `None` leaves that to the scheduler.
    pub cpu: Option<usize>,
    /// Whether it measures how long frames take from stage to stage.
    pub latency: bool,
}
