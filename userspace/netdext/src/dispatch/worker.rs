//! A worker: one driver instance, its ports, one thread.

use std::os::fd::BorrowedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use super::served::{Served, WaitsFor, WorkerSnapshot};
use super::{Timers, Timestamp, Waker};
use crate::driver::lifecycle::{IllegalTransition, State, Transition};
use crate::driver::{ControlError, Cx, DeviceInfo, Driver, DriverError, DriverStats, PortId, PowerState};
use crate::packet::{PacketBatch, PacketPool};
use crate::port::{ClosingCensus, Port};
use crate::queue::QueueError;
use crate::tap::TapPair;

/// Ticks handed to the driver in one step at the most, so that a timer that is behind cannot keep the
/// rings from being served.
const TICKS_PER_STEP: usize = 64;

/// Why a worker cannot go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
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
    /// The ports of a worker have one pool, so that a frame can go from one to the other.
    #[error("the port of {iface} has another pool than the first of the worker")]
    ForeignPool {
        /// The interface.
        iface: String,
    },
}

/// Why a command has no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ControlFailure {
    /// The driver does not carry it out, and goes on.
    #[error(transparent)]
    Refused(#[from] ControlError),
    /// A queue failed after it.
    #[error(transparent)]
    Queue(#[from] QueueError),
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
    /// Wakes delivered.
    pub wakes: usize,
}

impl Progress {
    /// Whether anything happened that makes it likely that more follows at once.
    pub fn any(&self) -> bool {
        *self != Self::default()
    }
}

/// What a worker leaves behind of one port.
#[derive(Debug)]
#[non_exhaustive]
pub struct PortReport {
    /// The counts at the end.
    pub snapshot: WorkerSnapshot,
    /// Where the frames were when the port was closed.
    pub census: ClosingCensus,
}

/// What a worker leaves behind.
#[derive(Debug)]
#[non_exhaustive]
pub struct WorkerReport {
    /// Its ports, of which there is at least one.
    pub ports: Vec<PortReport>,
    /// Why it ended, if not because it was told to.
    pub error: Option<WorkerError>,
}

impl WorkerReport {
    /// What is left of the first port, which is the only one of most drivers.
    pub fn into_first(mut self) -> PortReport {
        self.ports.swap_remove(0)
    }
}

/// One driver instance on its ports: the same queue of one or more interfaces. All callbacks run inside
/// [`step`](Self::step) and in the changes of state, on the thread that calls those.
///
/// The order within a step is fixed: completions first, because a full tx ring must drain even when
/// nothing arrives; then the fill rings, because a frame that finds one empty is lost; then received
/// packets, what the driver sends, and timers.
pub struct Worker {
    driver: Box<dyn Driver>,
    pool: PacketPool,
    ports: Vec<Served>,
    timers: Timers,
    waker: Waker,
    state: State,
    batch: PacketBatch,
    quiescing: bool,
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
        Self::start_on(driver, (port, device), Vec::new(), batch, now)
    }

    /// The same with further ports, which share the pool of the first.
    ///
    /// # Errors
    ///
    /// As for [`start`](Self::start), and [`WorkerError::ForeignPool`].
    pub fn start_on(
        driver: Box<dyn Driver>,
        first: (Port, DeviceInfo),
        others: Vec<(Port, DeviceInfo)>,
        batch: usize,
        now: Timestamp,
    ) -> Result<Self, WorkerError> {
        let pool = first.0.pool.clone();
        if let Some((_, device)) = others.iter().find(|(port, _)| !port.pool.is_same(&pool)) {
            return Err(WorkerError::ForeignPool { iface: device.name.clone() });
        }
        let ports = std::iter::once(first).chain(others).enumerate();
        let mut worker = Self {
            driver,
            pool,
            ports: ports
                .map(|(number, (port, device))| Served::new(PortId::new(number), port, device, now))
                .collect(),
            timers: Timers::default(),
            waker: Waker::default(),
            state: State::Created,
            batch: PacketBatch::with_capacity(batch),
            quiescing: false,
        };
        let devices: Vec<_> = worker.ports.iter().map(|port| port.device.clone()).collect();
        worker.driver.init(&devices)?;
        worker.state = worker.state.after(Transition::Init)?;
        // Filled before the XSKMAP has the sockets, so that the first frame finds room.
        worker.refill();
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
        let clock: Rc<dyn Fn() -> Timestamp> = Rc::new(clock);
        for port in &mut self.ports {
            port.measure_latency(Rc::clone(&clock));
        }
    }

    /// Shows every frame of a port from now on to a capture too, until that ends.
    ///
    /// # Panics
    ///
    /// If the worker has no such port.
    pub fn capture(&mut self, port: PortId, taps: TapPair) {
        self.ports[port.index()].capture(taps);
    }

    /// Serves every ring and timer once, with up to `budget` packets each way and port.
    ///
    /// # Errors
    ///
    /// A queue that cannot go on. The worker should then be [finished](Self::finish).
    pub fn step(&mut self, now: Timestamp, budget: usize) -> Result<Progress, WorkerError> {
        let mut progress = self.serve_rings(now, budget)?;
        self.serve_timers(now, &mut progress)?;
        Ok(progress)
    }

    /// The first half of [`step`](Self::step): everything but the timers.
    ///
    /// # Errors
    ///
    /// As for [`step`](Self::step).
    pub fn serve_rings(&mut self, now: Timestamp, budget: usize) -> Result<Progress, WorkerError> {
        let mut progress = Progress {
            reaped: self.ports.iter_mut().map(|port| port.reap(now, budget)).sum(),
            refilled: self.refill(),
            ..Progress::default()
        };
        for index in 0..self.ports.len() {
            self.ports[index].received = 0;
            // What arrives before a port is enabled waits in its ring.
            if self.serves(index) {
                let id = self.ports[index].id;
                if self.ports[index].take_room() {
                    self.with_cx(now, |driver, cx| driver.tx_packet_available(cx, id));
                }
                progress.received += self.receive(index, now, budget);
            }
        }
        progress.published = self.flush(now)?;
        Ok(progress)
    }

    /// The second half of [`step`](Self::step). It takes the time anew, because what a timer stamps should not include the
    /// time that the rings took.
    ///
    /// # Errors
    ///
    /// As for [`step`](Self::step).
    pub fn serve_timers(&mut self, now: Timestamp, progress: &mut Progress) -> Result<(), WorkerError> {
        if self.state.is_running() && self.waker.take() {
            self.with_cx(now, |driver, cx| driver.woken(cx));
            progress.wakes = 1;
        }
        progress.ticks = self.fire_timers(now);
        if progress.ticks + progress.wakes > 0 {
            progress.published += self.flush(now)?;
        }
        Ok(())
    }

    fn refill(&mut self) -> usize {
        self.ports.iter_mut().map(Served::refill).sum()
    }

    /// Whether the driver gets what arrives at this port.
    fn serves(&self, index: usize) -> bool {
        self.state.is_running() && self.ports[index].enabled
    }

    /// Hands the driver what has arrived at a port.
    fn receive(&mut self, index: usize, now: Timestamp, budget: usize) -> usize {
        let id = self.ports[index].id;
        let mut received = 0;
        while received < budget {
            let got = self.ports[index].dequeue(&mut self.batch);
            if got == 0 {
                break;
            }
            received += got;
            self.with_batch(id, now);
            // What the driver left: freed, that is, on its way back to the fill ring.
            self.batch.clear();
            if got < self.batch.room() {
                break;
            }
        }
        self.ports[index].received = received;
        received
    }

    fn with_batch(&mut self, port: PortId, now: Timestamp) {
        let Self { driver, pool, ports, timers, waker, batch, .. } = self;
        driver.rx_packets(&mut Cx::new(pool, ports, timers, waker, now), port, batch);
    }

    fn with_cx<T>(&mut self, now: Timestamp, call: impl FnOnce(&mut dyn Driver, &mut Cx<'_>) -> T) -> T {
        let Self { driver, pool, ports, timers, waker, .. } = self;
        call(driver.as_mut(), &mut Cx::new(pool, ports, timers, waker, now))
    }

    fn fire_timers(&mut self, now: Timestamp) -> usize {
        let mut ticks = 0;
        while self.state.is_running() && !self.quiescing && ticks < TICKS_PER_STEP {
            let Some(fired) = self.timers.pop_due(now) else { break };
            self.with_cx(now, |driver, cx| driver.timer(cx, fired));
            ticks += 1;
        }
        ticks
    }

    fn flush(&mut self, now: Timestamp) -> Result<usize, QueueError> {
        self.ports.iter_mut().map(|port| port.flush(now)).sum()
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
            | (PowerState::Off, State::PoweredOff | State::Asleep) => return Ok(()),
            (PowerState::On, _) => {
                let after = self.state.after(Transition::PowerOn)?;
                self.call(now, |driver, cx| driver.set_power_state(cx, PowerState::On))?;
                self.tell_ports(now, true)?;
                self.state = after;
            }
            (PowerState::Off, _) => {
                let after = self.state.after(Transition::PowerOff)?;
                self.tell_ports(now, false)?;
                self.call(now, |driver, cx| driver.set_power_state(cx, PowerState::Off))?;
                self.state = after;
            }
        }
        if power == PowerState::Off {
            // Too late for the driver, and too old for when it is powered on again.
            self.ports.iter_mut().for_each(|port| port.drop_arrived(&mut self.batch));
        }
        Ok(())
    }

    /// Enables or disables the interface of a port. While the driver is powered off this is only remembered.
    ///
    /// # Errors
    ///
    /// The driver's error, after which its state is [`State::Failed`]. Asking for what already is is no
    /// error and does nothing.
    ///
    /// # Panics
    ///
    /// If the worker has no such port.
    pub fn set_interface_enable(
        &mut self,
        now: Timestamp,
        port: PortId,
        enable: bool,
    ) -> Result<(), WorkerError> {
        let index = port.index();
        let others = self.ports.iter().any(|other| other.id != port && other.enabled);
        // Nothing is asked of this port any more; the others go on.
        self.quiescing &= !enable && !others;
        let transition = if enable { Transition::Enable } else { Transition::Disable };
        if !matches!(self.state, State::PoweredOff | State::Idle | State::Running | State::Asleep) {
            // Not started, or not any more.
            self.state.after(transition)?;
        }
        if self.ports[index].enabled == enable {
            return Ok(());
        }
        // The driver runs as long as one of its ports is enabled.
        let after = if others { self.state } else { self.state.after(transition)? };
        if matches!(self.state, State::Idle | State::Running) {
            self.tell(now, index, enable)?;
        }
        self.state = after;
        self.ports[index].enabled = enable;
        if !enable {
            // Too late for the driver, and too old for when it is enabled again.
            self.ports[index].drop_arrived(&mut self.batch);
        }
        Ok(())
    }

    /// Tells the driver of every port that is to be enabled that it is so now, or is not.
    fn tell_ports(&mut self, now: Timestamp, enable: bool) -> Result<(), WorkerError> {
        for index in 0..self.ports.len() {
            if self.ports[index].enabled && self.ports[index].told != enable {
                self.tell(now, index, enable)?;
            }
        }
        Ok(())
    }

    fn tell(&mut self, now: Timestamp, index: usize, enable: bool) -> Result<(), WorkerError> {
        let id = self.ports[index].id;
        self.call(now, |driver, cx| driver.set_interface_enable(cx, id, enable))?;
        self.ports[index].told = enable;
        Ok(())
    }

    /// Calls the driver, which has failed if it returns an error.
    fn call(
        &mut self,
        now: Timestamp,
        call: impl FnOnce(&mut dyn Driver, &mut Cx<'_>) -> Result<(), DriverError>,
    ) -> Result<(), WorkerError> {
        if let Err(error) = self.with_cx(now, call) {
            self.state = self.state.after(Transition::Fail)?;
            return Err(error.into());
        }
        Ok(())
    }

    /// Hands the driver a command, and returns its answer, if this instance has one.
    ///
    /// # Errors
    ///
    /// [`ControlFailure::Refused`]: nothing is changed, and the driver goes on. [`ControlFailure::Queue`]: the worker
    /// should be [finished](Self::finish).
    pub fn control(
        &mut self,
        now: Timestamp,
        name: &str,
        value: &serde_json::Value,
    ) -> Result<Option<serde_json::Value>, ControlFailure> {
        let answer = self.with_cx(now, |driver, cx| driver.control(cx, name, value))?;
        // What was asked for at once, such as MAC addresses, is staged.
        self.flush(now)?;
        Ok(answer)
    }

    /// Fires no timer until the driver is enabled or powered on again, so that nothing new is asked while
    /// answers still come in: the first step of an orderly stop.
    pub fn quiesce(&mut self) {
        self.quiescing = true;
    }

    /// As [`quiesce`](Self::quiesce), unless another port than this one is enabled: its timers go on.
    pub fn quiesce_unless_others(&mut self, port: PortId) {
        self.quiescing |= !self.ports.iter().any(|other| other.id != port && other.enabled);
    }

    /// What the driver still waits for; see [`Driver::pending`].
    pub fn pending(&self) -> u64 {
        self.driver.pending()
    }

    /// Whether every frame handed to the tx rings has come back.
    pub fn is_drained(&self) -> bool {
        self.ports.iter().all(Served::is_drained)
    }

    /// Whether every frame handed to this port's tx ring has come back, and none came out of its rx ring in the last
    /// step.
    ///
    /// # Panics
    ///
    /// If the worker has no such port.
    pub fn is_quiet(&self, port: PortId) -> bool {
        let port = &self.ports[port.index()];
        port.is_drained() && port.received == 0
    }

    /// Notes that a callback panicked, which no one can say how far it came: no other follows.
    pub fn panicked(&mut self) -> WorkerError {
        self.state = State::Failed;
        WorkerError::Panicked { driver: self.driver.name() }
    }

    /// Stops the driver and closes the ports. The interfaces should be disabled before, and the tx rings
    /// drained. A driver that panicked is only asked what it counted.
    pub fn finish(mut self, now: Timestamp, error: Option<WorkerError>) -> WorkerReport {
        let panicked = matches!(error, Some(WorkerError::Panicked { .. }));
        if self.state != State::Stopped && !panicked {
            self.with_cx(now, |driver, cx| driver.stop(cx));
            self.state = State::Stopped;
        }
        self.batch.clear();
        // Where something has failed, what had arrived by then is still in the rings.
        self.ports.iter_mut().for_each(|port| port.drop_arrived(&mut self.batch));
        let stats = caught(|| self.driver.stats()).unwrap_or_default();
        let snapshots = self.snapshots_with(stats);
        let Self { driver, pool, ports, .. } = self;
        let kept = pool.census().user;
        if kept > 0 {
            // Against its contract; they come back when it is dropped.
            tracing::warn!(driver = driver.name(), packets = kept, "packets kept after stop");
        }
        // One that panics here too keeps its packets, which the census shows.
        let _ = caught(|| drop(driver));
        let closed = ports.into_iter().map(|served| served.port.close());
        let mut reports: Vec<_> = snapshots
            .into_iter()
            .zip(closed)
            .map(|(snapshot, census)| PortReport { snapshot, census })
            .collect();
        let census = pool.census();
        for PortReport { snapshot, census: closing } in &mut reports {
            snapshot.census = census;
            snapshot.tx_lent = 0;
            snapshot.tx_unconfirmed = closing.lent.tx.into();
        }
        WorkerReport { ports: reports, error }
    }

    /// When the next timer is due.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        if self.state.is_running() && !self.quiescing { self.timers.next_deadline() } else { None }
    }

    /// Wakes the worker: see [`Cx::waker`].
    pub fn waker(&self) -> Waker {
        self.waker.clone()
    }

    /// Has `notify` called for each wake from now on: what ends the sleep of the worker's thread. Only the first call
    /// counts.
    pub fn on_wake(&self, notify: impl Fn() + Send + Sync + 'static) {
        self.waker.on_wake(notify);
    }

    /// The driver's state.
    pub fn state(&self) -> State {
        self.state
    }

    /// Each port, in their order.
    pub fn ports(&self) -> impl Iterator<Item = &Port> + '_ {
        self.ports.iter().map(|served| &served.port)
    }

    /// Frames in the tx rings that the kernel has not yet taken.
    pub fn tx_pending(&mut self) -> u32 {
        self.ports.iter_mut().map(|served| served.port.tx_submission.level()).sum()
    }

    /// What the worker is to be woken for by each of its sockets.
    pub fn waits_for(&self) -> impl Iterator<Item = (Option<BorrowedFd<'_>>, WaitsFor)> + '_ {
        let running = self.state.is_running();
        self.ports.iter().map(move |served| (served.port.fd(), served.waits_for(running)))
    }

    /// The counts of each port now.
    pub fn snapshots(&mut self) -> Vec<WorkerSnapshot> {
        let stats = self.driver.stats();
        self.snapshots_with(stats)
    }

    fn snapshots_with(&mut self, driver: DriverStats) -> Vec<WorkerSnapshot> {
        let state = self.state;
        let mut snapshots: Vec<_> = self.ports.iter_mut().map(|port| port.snapshot(state)).collect();
        snapshots[0].driver = driver;
        snapshots[0].timers = self.timers.iter().map(|(name, _, stats)| (name, stats)).collect();
        snapshots
    }

    /// The counts of the first port now.
    pub fn snapshot(&mut self) -> WorkerSnapshot {
        self.snapshots().swap_remove(0)
    }
}

/// What `work` returns, or `None` if it panics; the message goes to stderr then. It is for calls of the driver: what a
/// panic leaves half done is the driver's, and that is not used any more.
fn caught<T>(work: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(work)).ok()
}
