//! The thread that runs a worker: waits, steps, takes commands.

use std::num::NonZeroU64;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::thread::set_current_timer_slack;
use serde_json::Value;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;

use super::WaitStrategy;
use crate::cpu;
use crate::xsk::{OpenError, XskInfo};
use netdext::dispatch::{
    ControlFailure, Timestamp, WaitsFor, Worker, WorkerError, WorkerReport, WorkerSnapshot,
};
use netdext::driver::{DeviceInfo, Driver, PortId, PowerState};
use netdext::port::Port;
use netdext::tap::TapPair;

/// Packets handled in one step before the other rings and the timers get their turn.
const STEP_BUDGET: usize = 256;

/// How long the tx ring may take to drain at the end.
const DRAIN_TIME: Duration = Duration::from_millis(200);

/// The longest sleep while frames are in flight: when completions fail to appear, the worker must look.
const SLEEP_WITH_TX_IN_FLIGHT: Duration = Duration::from_millis(20);

/// How often it is looked whether they are in.
const QUIESCE_LOOK: Duration = Duration::from_millis(1);

/// The longest sleep while the kernel has not taken all of the tx ring: time to ask it again.
const SLEEP_WITH_TX_PENDING: Duration = Duration::from_millis(1);

/// A command of a driver's own.
#[derive(Debug)]
pub struct ControlRequest {
    /// Its name.
    pub name: String,
    /// What is to be done, in the driver's words.
    pub value: Value,
}

/// What a worker can be told. Commands are applied between batches.
#[derive(Debug)]
pub enum Command {
    /// Power on or off; the result is sent back.
    SetPower(PowerState, oneshot::Sender<Result<(), WorkerError>>),
    /// Enable or disable the interface of a port; the result is sent back.
    SetInterfaceEnable(PortId, bool, oneshot::Sender<Result<(), WorkerError>>),
    /// A command of the driver's own; its answer is sent back. A driver that refuses goes on.
    Control(Arc<ControlRequest>, oneshot::Sender<Result<Option<Value>, ControlFailure>>),
    /// Send the counts of each port back.
    Snapshot(oneshot::Sender<Vec<WorkerSnapshot>>),
    /// Show every frame of a port to a capture too, until that ends.
    Capture(PortId, Box<TapPair>),
    /// Ask nothing new, and say so when every answer is in, or after this time. Ends with the next
    /// enabling or powering on.
    Quiesce(Duration, oneshot::Sender<()>),
    /// Stop in order: disable, drain the tx rings, stop the driver, close the ports.
    Stop,
}

/// What a worker tells its supervisor without having been asked.
#[derive(Debug)]
pub enum WorkerEvent {
    /// The driver is started. The descriptors are to be put into the XSKMAPs.
    Started {
        /// The queue of this worker.
        queue: u32,
        /// For each port a duplicate of its socket's descriptor, and what the kernel made of the socket.
        sockets: Vec<(OwnedFd, XskInfo)>,
    },
    /// The worker could not be started.
    StartFailed {
        /// The queue of this worker.
        queue: u32,
        /// Why.
        error: SpawnError,
    },
    /// The worker has ended.
    Ended {
        /// The queue of this worker.
        queue: u32,
        /// What it leaves; `None` if the driver panicked before it was started or while it was stopped.
        report: Option<Box<WorkerReport>>,
    },
}

/// Why a worker could not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpawnError {
    /// No AF_XDP socket.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The driver refused.
    #[error(transparent)]
    Worker(#[from] WorkerError),
    /// The system refused a thread or a descriptor.
    #[error("cannot start the worker of queue {queue}: {operation}")]
    System {
        /// The queue.
        queue: u32,
        /// The operation.
        operation: &'static str,
        /// What the system returned.
        source: std::io::Error,
    },
}

/// A driver with its ports, which share one pool, in the order of its devices.
pub type Made = (Vec<(Port, XskInfo)>, Box<dyn Driver>);

/// Makes the ports and the driver of a worker, on that worker's own thread, because neither can move to
/// another one, and so that the memory is near the CPU.
pub type Recipe = Box<dyn FnOnce() -> Result<Made, OpenError> + Send>;

/// What is done on the worker's own thread when it cannot go on or its driver panicked, before what has arrived is
/// counted and the ports are closed: frames are to pass to the kernel from then on.
pub type OnFailure = Box<dyn FnOnce() + Send>;

/// The supervisor's end of a worker. Dropping it stops the worker in order, without waiting for that: it takes tens of
/// milliseconds, and a callback of the driver may never return.
#[derive(Debug)]
pub struct WorkerHandle {
    /// The queue of the worker.
    pub queue: u32,
    commands: Sender<Command>,
    wake: Arc<OwnedFd>,
    // `None` once it was waited for.
    thread: Option<JoinHandle<()>>,
}

impl WorkerHandle {
    /// Starts a worker on a thread of its own, for the same queue of all `devices`. What becomes of it is sent to
    /// `events`.
    ///
    /// # Errors
    ///
    /// [`SpawnError::System`] if there is no thread or no eventfd to be had.
    ///
    /// # Panics
    ///
    /// Without a device.
    pub fn spawn(
        config: WorkerConfig,
        devices: Vec<DeviceInfo>,
        recipe: Recipe,
        on_failure: OnFailure,
        events: UnboundedSender<WorkerEvent>,
    ) -> Result<Self, SpawnError> {
        let queue = devices[0].queue;
        let failed = |operation| move |source| SpawnError::System { queue, operation, source };
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|errno| failed("eventfd")(errno.into()))?;
        let wake = Arc::new(wake);
        let (sender, receiver) = channel();
        let thread_wake = Arc::clone(&wake);
        let thread = std::thread::Builder::new()
            .name(format!("{}-{queue}", devices[0].name))
            .spawn(move || {
                let commands = Commands { receiver, wake: thread_wake };
                thread_main(config, devices, recipe, on_failure, &commands, &events);
            })
            .map_err(failed("thread"))?;
        Ok(Self { queue, commands: sender, wake, thread: Some(thread) })
    }

    /// Sends a command. Says whether the worker is still there to take it.
    pub fn send(&self, command: Command) -> bool {
        let sent = self.commands.send(command).is_ok();
        // Fails only when the counter is at its end, and then the worker is awake.
        let _ = rustix::io::write(&*self.wake, &1_u64.to_ne_bytes());
        sent
    }

    /// Waits for the thread. The report has been sent as [`WorkerEvent::Ended`] before.
    pub fn join(mut self) {
        // A panic was caught and reported inside.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

impl Drop for WorkerHandle {
    fn drop(&mut self) {
        // The end of the channel would stop it too, but does not wake it.
        self.send(Command::Stop);
    }
}

/// The worker's end of what it is told.
struct Commands {
    receiver: Receiver<Command>,
    wake: Arc<OwnedFd>,
}

fn thread_main(
    config: WorkerConfig,
    devices: Vec<DeviceInfo>,
    recipe: Recipe,
    on_failure: OnFailure,
    commands: &Commands,
    events: &UnboundedSender<WorkerEvent>,
) {
    let queue = devices[0].queue;
    prepare_thread(config.cpu);
    let event = match caught(|| start(config, devices, recipe, &commands.wake, events)) {
        Some(Ok(worker)) => {
            let report = serve(worker, config, on_failure, commands).map(Box::new);
            WorkerEvent::Ended { queue, report }
        }
        Some(Err(error)) => WorkerEvent::StartFailed { queue, error },
        None => WorkerEvent::Ended { queue, report: None },
    };
    // Nobody listens any more only when the supervisor itself is gone.
    let _ = events.send(event);
}

/// Runs a worker to its end, and says what it leaves: `None` if the driver panics while it is stopped.
fn serve(
    mut worker: Worker,
    config: WorkerConfig,
    on_failure: OnFailure,
    commands: &Commands,
) -> Option<WorkerReport> {
    let error = match caught(|| run(&mut worker, config, commands)) {
        Some(ended) => ended.err(),
        None => Some(worker.panicked()),
    };
    if error.is_some() {
        on_failure();
    }
    caught(|| worker.finish(Timestamp::now(), error))
}

fn prepare_thread(cpu: Option<usize>) {
    if let Some(cpu) = cpu
        && let Err(errno) = cpu::pin_to(cpu)
    {
        tracing::warn!("cannot pin the worker to CPU {cpu}: {errno}");
    }
    // The default of 50 us would make every short timer late by as much.
    if let Err(errno) = set_current_timer_slack(NonZeroU64::new(1)) {
        tracing::debug!("cannot set the timer slack: {errno}");
    }
}

fn start(
    config: WorkerConfig,
    devices: Vec<DeviceInfo>,
    recipe: Recipe,
    wake: &Arc<OwnedFd>,
    events: &UnboundedSender<WorkerEvent>,
) -> Result<Worker, SpawnError> {
    let queue = devices[0].queue;
    let (made, driver) = recipe()?;
    let (mut ports, mut sockets) = (Vec::new(), Vec::new());
    for ((port, info), device) in made.into_iter().zip(devices) {
        let socket = port.fd().map(|socket| socket.try_clone_to_owned()).transpose();
        let socket = socket.map_err(|source| SpawnError::System { queue, operation: "dup", source })?;
        sockets.extend(socket.map(|socket| (socket, info)));
        ports.push((port, device));
    }
    let first = ports.remove(0);
    let mut worker = Worker::start_on(driver, first, ports, config.batch, Timestamp::now())?;
    let wake = Arc::clone(wake);
    // Fails only when the counter is at its end, and then the worker is awake.
    worker.on_wake(move || {
        let _ = rustix::io::write(&*wake, &1_u64.to_ne_bytes());
    });
    if config.latency {
        worker.measure_latency(Timestamp::now);
    }
    if !sockets.is_empty() {
        let _ = events.send(WorkerEvent::Started { queue, sockets });
    }
    Ok(worker)
}

/// Who waits for the answers to come in, since when, and when that was last looked at.
struct Quiescing {
    reply: oneshot::Sender<()>,
    until: Timestamp,
    look_at: Timestamp,
}

/// The loop around [`Worker::step`]: the only place that sleeps and that asks what time it is. Returns when the worker was
/// told to stop and has its driver disabled and powered off.
fn run(worker: &mut Worker, config: WorkerConfig, commands: &Commands) -> Result<(), WorkerError> {
    let mut busy_until = Timestamp::now();
    let mut quiescing: Option<Quiescing> = None;
    loop {
        let now = Timestamp::now();
        let mut progress = worker.serve_rings(now, STEP_BUDGET)?;
        // Reading the clock is a third of a step that finds nothing.
        let after = if progress.any() { Timestamp::now() } else { now };
        worker.serve_timers(after, &mut progress)?;
        if progress.any() {
            busy_until = config.wait.spin_for().map_or(now, |spin| now + spin);
        }
        quiescing = quiescing.and_then(|waiting| look_whether_quiet(worker, waiting, now));
        match commands.receiver.try_recv() {
            Ok(Command::Stop) | Err(TryRecvError::Disconnected) => return stop(worker),
            Ok(Command::Quiesce(limit, reply)) => {
                worker.quiesce();
                quiescing = Some(Quiescing { reply, until: now + limit, look_at: now });
                continue;
            }
            Ok(command) => {
                apply(worker, command)?;
                continue;
            }
            Err(TryRecvError::Empty) => {}
        }
        if config.wait.spin_for().is_some() && now >= busy_until {
            sleep(worker, config.wait, &commands.wake, quiescing.is_some());
        } else {
            std::hint::spin_loop();
        }
    }
}

fn look_whether_quiet(worker: &Worker, waiting: Quiescing, now: Timestamp) -> Option<Quiescing> {
    if now < waiting.look_at {
        return Some(waiting);
    }
    if worker.pending() == 0 || now >= waiting.until {
        // Who asked may have stopped waiting.
        let _ = waiting.reply.send(());
        return None;
    }
    Some(Quiescing { look_at: now + QUIESCE_LOOK, ..waiting })
}

/// Applies a command. Returns the error after which the worker cannot go on.
fn apply(worker: &mut Worker, command: Command) -> Result<(), WorkerError> {
    let now = Timestamp::now();
    let (result, reply) = match command {
        Command::SetPower(power, reply) => {
            let drained = if power == PowerState::Off { drain(worker, now, None) } else { Ok(()) };
            (drained.and_then(|()| worker.set_power(Timestamp::now(), power)), reply)
        }
        Command::SetInterfaceEnable(port, enable, reply) => {
            let drained = if enable { Ok(()) } else { drain(worker, now, Some(port)) };
            (drained.and_then(|()| worker.set_interface_enable(Timestamp::now(), port, enable)), reply)
        }
        Command::Control(request, reply) => return control(worker, now, &request, reply),
        Command::Snapshot(reply) => {
            let _ = reply.send(worker.snapshots());
            return Ok(());
        }
        Command::Capture(port, taps) => {
            worker.capture(port, *taps);
            return Ok(());
        }
        Command::Quiesce(..) | Command::Stop => return Ok(()),
    };
    match result {
        Err(error @ (WorkerError::Driver(_) | WorkerError::Queue(_))) => Err(error),
        // Who asked may have stopped waiting.
        result => {
            let _ = reply.send(result);
            Ok(())
        }
    }
}

/// Hands the driver a command of its own. Only a queue that failed is an error after which the worker cannot go on.
fn control(
    worker: &mut Worker,
    now: Timestamp,
    request: &ControlRequest,
    reply: oneshot::Sender<Result<Option<Value>, ControlFailure>>,
) -> Result<(), WorkerError> {
    match worker.control(now, &request.name, &request.value) {
        Err(ControlFailure::Queue(error)) => Err(error.into()),
        result => {
            // Who asked may have stopped waiting.
            let _ = reply.send(result);
            Ok(())
        }
    }
}

/// Sleeps until a frame arrives, room to send appears, a timer is due or a command comes.
fn sleep(worker: &mut Worker, wait: WaitStrategy, wake: &OwnedFd, quiescing: bool) {
    let now = Timestamp::now();
    // Awake shortly before a timer is due: what the system takes to wake a thread would make it late.
    let timer =
        worker.next_deadline().map(|deadline| deadline.since(now).saturating_sub(wait.awake_before()));
    let pending = (worker.tx_pending() > 0).then_some(SLEEP_WITH_TX_PENDING);
    let in_flight = (!worker.is_drained()).then_some(SLEEP_WITH_TX_IN_FLIGHT);
    let quiescing = quiescing.then_some(QUIESCE_LOOK);
    let limit = [timer, pending, in_flight, quiescing].into_iter().flatten().min();
    if limit == Some(Duration::ZERO) {
        return;
    }
    let mut fds = vec![PollFd::new(wake, PollFlags::IN)];
    for (socket, WaitsFor { frames, room }) in worker.waits_for() {
        let mut flags = PollFlags::empty();
        flags.set(PollFlags::IN, frames);
        // Always ready unless the ring is more than half full, so asking for it otherwise would spin.
        flags.set(PollFlags::OUT, room);
        fds.extend(
            socket.filter(|_| !flags.is_empty()).map(|socket| PollFd::from_borrowed_fd(socket, flags)),
        );
    }
    let timeout = limit.and_then(|limit| Timespec::try_from(limit).ok());
    // A signal or a spurious wakeup only costs a step.
    if poll(&mut fds, timeout.as_ref()).is_ok() && fds[0].revents().contains(PollFlags::IN) {
        let _ = rustix::io::read(wake, &mut [0_u8; 8][..]);
    }
}

/// Hands the driver what has arrived, at one port or at all of them, and waits until what was sent there has come back:
/// what has to happen before the driver may not be called any more. Ends at once where there is nothing, and in any
/// case soon. The timers stop unless another port goes on.
fn drain(worker: &mut Worker, start: Timestamp, port: Option<PortId>) -> Result<(), WorkerError> {
    match port {
        Some(port) => worker.quiesce_unless_others(port),
        None => worker.quiesce(),
    }
    loop {
        let now = Timestamp::now();
        let progress = worker.step(now, STEP_BUDGET)?;
        let quiet = match port {
            Some(port) => worker.is_quiet(port),
            None => !progress.any() && worker.is_drained(),
        };
        // Frames may arrive without end, unless those who ask have seen to it that none does.
        if quiet || now.since(start) >= DRAIN_TIME {
            return Ok(());
        }
        if !progress.any() {
            std::thread::sleep(Duration::from_micros(200));
        }
    }
}

/// Stops in order: no new work, and what was sent comes back. The end of the driver and of the ports follows.
fn stop(worker: &mut Worker) -> Result<(), WorkerError> {
    drain(worker, Timestamp::now(), None)?;
    for port in (0..worker.ports().count()).map(PortId::new) {
        worker.set_interface_enable(Timestamp::now(), port, false)?;
    }
    drain(worker, Timestamp::now(), None)?;
    worker.set_power(Timestamp::now(), PowerState::Off)
}

/// What `work` returns, or `None` if it panics; the message goes to stderr then. What a panic leaves half done is the
/// driver's, and that is not used any more.
fn caught<T>(work: impl FnOnce() -> T) -> Option<T> {
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
