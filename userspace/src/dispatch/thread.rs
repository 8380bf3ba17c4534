//! The thread that runs a worker: waits, steps, takes commands.

use std::num::NonZeroU64;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::thread::set_current_timer_slack;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;

use super::worker::caught;
use super::{
    Timestamp, WaitStrategy, WaitsFor, Worker, WorkerConfig, WorkerError, WorkerReport, WorkerSnapshot,
};
use crate::capture::TapPair;
use crate::cpu;
use crate::driver::{DeviceInfo, Driver, InjectCommand, PowerState, TargetStats};
use crate::port::Port;
use crate::port::xsk::{OpenError, XskInfo};

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

/// What a worker can be told. Commands are applied between batches.
#[derive(Debug)]
pub enum Command {
    /// Power on or off; the result is sent back.
    SetPower(PowerState, oneshot::Sender<Result<(), WorkerError>>),
    /// Enable or disable the interface; the result is sent back.
    SetInterfaceEnable(bool, oneshot::Sender<Result<(), WorkerError>>),
    /// Start, stop or change the driver's injector; the result is sent back. A driver that refuses goes on.
    Inject(InjectCommand, oneshot::Sender<Result<(), WorkerError>>),
    /// Send the counts of the injector's targets back.
    InjectTargets(oneshot::Sender<Vec<TargetStats>>),
    /// Send the counts back.
    Snapshot(oneshot::Sender<WorkerSnapshot>),
    /// Show every frame to a capture too, until that ends.
    Capture(Box<TapPair>),
    /// Ask nothing new, and say so when every answer is in, or after this time. Ends with the next
    /// enabling or powering on.
    Quiesce(Duration, oneshot::Sender<()>),
    /// Stop in order: disable, drain the tx ring, stop the driver, close the port.
    Stop,
}

/// What a worker tells its supervisor without having been asked.
#[derive(Debug)]
pub enum WorkerEvent {
    /// The driver is started. The descriptor is to be put into the XSKMAP.
    Started {
        /// The queue of this worker.
        queue: u32,
        /// A duplicate of the socket's descriptor.
        socket: OwnedFd,
        /// What the kernel made of the socket.
        info: XskInfo,
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

/// Makes the port and the driver of a worker, on that worker's own thread, because neither can move to
/// another one, and so that the memory is near the CPU.
pub type Recipe = Box<dyn FnOnce() -> Result<(Port, XskInfo, Box<dyn Driver>), OpenError> + Send>;

/// What is done on the worker's own thread when it cannot go on or its driver panicked, before what has arrived is
/// counted and the port is closed: frames are to pass to the kernel from then on.
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
    /// Starts a worker on a thread of its own. What becomes of it is sent to `events`.
    ///
    /// # Errors
    ///
    /// [`SpawnError::System`] if there is no thread or no eventfd to be had.
    pub fn spawn(
        config: WorkerConfig,
        device: DeviceInfo,
        recipe: Recipe,
        on_failure: OnFailure,
        events: UnboundedSender<WorkerEvent>,
    ) -> Result<Self, SpawnError> {
        let queue = device.queue;
        let failed = |operation| move |source| SpawnError::System { queue, operation, source };
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|errno| failed("eventfd")(errno.into()))?;
        let wake = Arc::new(wake);
        let (sender, receiver) = channel();
        let thread_wake = Arc::clone(&wake);
        let thread = std::thread::Builder::new()
            .name(format!("{}-{queue}", device.name))
            .spawn(move || {
                let commands = Commands { receiver, wake: thread_wake };
                thread_main(config, device, recipe, on_failure, &commands, &events);
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
    device: DeviceInfo,
    recipe: Recipe,
    on_failure: OnFailure,
    commands: &Commands,
    events: &UnboundedSender<WorkerEvent>,
) {
    let queue = device.queue;
    prepare_thread(config.cpu);
    let event = match caught(|| start(config, device, recipe, events)) {
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
    device: DeviceInfo,
    recipe: Recipe,
    events: &UnboundedSender<WorkerEvent>,
) -> Result<Worker, SpawnError> {
    let queue = device.queue;
    let (port, info, driver) = recipe()?;
    let socket = port.fd().map(|socket| socket.try_clone_to_owned()).transpose();
    let socket = socket.map_err(|source| SpawnError::System { queue, operation: "dup", source })?;
    let mut worker = Worker::start(driver, port, device, config.batch, Timestamp::now())?;
    if config.latency {
        worker.measure_latency(Timestamp::now);
    }
    if let Some(socket) = socket {
        let _ = events.send(WorkerEvent::Started { queue, socket, info });
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
    if worker.unanswered() == 0 || now >= waiting.until {
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
            let drained = if power == PowerState::Off { drain(worker, now) } else { Ok(()) };
            (drained.and_then(|()| worker.set_power(Timestamp::now(), power)), reply)
        }
        Command::SetInterfaceEnable(enable, reply) => {
            let drained = if enable { Ok(()) } else { drain(worker, now) };
            (drained.and_then(|()| worker.set_interface_enable(Timestamp::now(), enable)), reply)
        }
        Command::Inject(command, reply) => return inject(worker, now, &command, reply),
        Command::InjectTargets(reply) => {
            let _ = reply.send(worker.inject_targets());
            return Ok(());
        }
        Command::Snapshot(reply) => {
            let _ = reply.send(worker.snapshot());
            return Ok(());
        }
        Command::Capture(taps) => {
            worker.capture(*taps);
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

/// Hands a command to the driver's injector. Only a queue that failed is an error after which the worker cannot
/// go on.
fn inject(
    worker: &mut Worker,
    now: Timestamp,
    command: &InjectCommand,
    reply: oneshot::Sender<Result<(), WorkerError>>,
) -> Result<(), WorkerError> {
    match worker.inject(now, command) {
        Err(error @ WorkerError::Queue(_)) => Err(error),
        result => {
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
    let WaitsFor { frames, room } = worker.waits_for();
    let mut flags = PollFlags::empty();
    flags.set(PollFlags::IN, frames);
    // Always ready unless the ring is more than half full, so asking for it otherwise would spin.
    flags.set(PollFlags::OUT, room);
    let timeout = limit.and_then(|limit| Timespec::try_from(limit).ok());
    let socket = worker.port().fd().filter(|_| !flags.is_empty());
    let mut fds =
        [PollFd::new(wake, PollFlags::IN), PollFd::from_borrowed_fd(socket.unwrap_or(wake.as_fd()), flags)];
    let waited = if socket.is_some() { &mut fds[..] } else { &mut fds[..1] };
    // A signal or a spurious wakeup only costs a step.
    if poll(waited, timeout.as_ref()).is_ok() && fds[0].revents().contains(PollFlags::IN) {
        let _ = rustix::io::read(wake, &mut [0_u8; 8][..]);
    }
}

/// Hands the driver what has arrived, and waits until what was sent has come back: what has to happen before
/// the driver may not be called any more. Ends at once where there is nothing, and in any case soon.
fn drain(worker: &mut Worker, start: Timestamp) -> Result<(), WorkerError> {
    worker.quiesce();
    loop {
        let now = Timestamp::now();
        if worker.step(now, STEP_BUDGET)?.any() {
            // Frames may arrive without end, unless those who ask have seen to it that none does.
            if now.since(start) >= DRAIN_TIME {
                return Ok(());
            }
        } else if worker.is_drained() || now.since(start) >= DRAIN_TIME {
            return Ok(());
        } else {
            std::thread::sleep(Duration::from_micros(200));
        }
    }
}

/// Stops in order: no new work, and what was sent comes back. The end of the driver and of the port follows.
fn stop(worker: &mut Worker) -> Result<(), WorkerError> {
    drain(worker, Timestamp::now())?;
    worker.set_interface_enable(Timestamp::now(), false)?;
    drain(worker, Timestamp::now())?;
    worker.set_power(Timestamp::now(), PowerState::Off)
}
