//! The thread that runs a worker: waits, steps, takes commands.

use std::num::NonZeroU64;
use std::os::fd::{AsFd, OwnedFd};
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
    /// Enable or disable the interface; the result is sent back.
    SetInterfaceEnable(bool, oneshot::Sender<Result<(), WorkerError>>),
    /// A command of the driver's own; its answer is sent back. A driver that refuses goes on.
    Control(Arc<ControlRequest>, oneshot::Sender<Result<Option<Value>, ControlFailure>>),
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
        /// What it leaves; `None` if the driver panicked.
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

/// The supervisor's end of a worker.
#[derive(Debug)]
pub struct WorkerHandle {
    /// The queue of the worker.
    pub queue: u32,
    commands: Sender<Command>,
    wake: Arc<OwnedFd>,
    thread: JoinHandle<()>,
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
            .spawn(move || thread_main(config, device, recipe, &receiver, &thread_wake, &events))
            .map_err(failed("thread"))?;
        Ok(Self { queue, commands: sender, wake, thread })
    }

    /// Sends a command. Says whether the worker is still there to take it.
    pub fn send(&self, command: Command) -> bool {
        let sent = self.commands.send(command).is_ok();
        // Fails only when the counter is at its end, and then the worker is awake.
        let _ = rustix::io::write(&*self.wake, &1_u64.to_ne_bytes());
        sent
    }

    /// Waits for the thread. The report has been sent as [`WorkerEvent::Ended`] before.
    pub fn join(self) {
        // A panic was caught and reported inside.
        let _ = self.thread.join();
    }
}

fn thread_main(
    config: WorkerConfig,
    device: DeviceInfo,
    recipe: Recipe,
    commands: &Receiver<Command>,
    wake: &OwnedFd,
    events: &UnboundedSender<WorkerEvent>,
) {
    let queue = device.queue;
    prepare_thread(config.cpu);
    let body = AssertUnwindSafe(|| match start(config, device, recipe, events) {
        Ok(worker) => Ok(run(worker, config, commands, wake)),
        Err(error) => Err(error),
    });
    let event = match catch_unwind(body) {
        Ok(Ok(report)) => WorkerEvent::Ended { queue, report: Some(Box::new(report)) },
        Ok(Err(error)) => WorkerEvent::StartFailed { queue, error },
        // The message went to stderr when it happened.
        Err(_) => WorkerEvent::Ended { queue, report: None },
    };
    // Nobody listens any more only when the supervisor itself is gone.
    let _ = events.send(event);
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
    let socket = port.fd().map(rustix::io::dup).transpose().map_err(|errno| SpawnError::System {
        queue,
        operation: "dup",
        source: errno.into(),
    })?;
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

/// The loop around [`Worker::step`]: the only place that sleeps and that asks what time it is.
fn run(
    mut worker: Worker,
    config: WorkerConfig,
    commands: &Receiver<Command>,
    wake: &OwnedFd,
) -> WorkerReport {
    let mut busy_until = Timestamp::now();
    let mut quiescing: Option<Quiescing> = None;
    loop {
        let now = Timestamp::now();
        let progress = worker.serve_rings(now, STEP_BUDGET).and_then(|mut progress| {
            // Reading the clock is a third of a step that finds nothing.
            let now = if progress.any() { Timestamp::now() } else { now };
            worker.serve_timers(now, &mut progress)?;
            Ok(progress)
        });
        match progress {
            Ok(progress) if progress.any() => {
                busy_until = config.wait.spin_for().map_or(now, |spin| now + spin);
            }
            Ok(_) => {}
            Err(error) => return worker.finish(now, Some(error)),
        }
        quiescing = quiescing.and_then(|waiting| look_whether_quiet(&worker, waiting, now));
        match commands.try_recv() {
            Ok(Command::Stop) | Err(TryRecvError::Disconnected) => return stop(worker),
            Ok(Command::Quiesce(limit, reply)) => {
                worker.quiesce();
                quiescing = Some(Quiescing { reply, until: now + limit, look_at: now });
                continue;
            }
            Ok(command) => {
                if let Some(error) = apply(&mut worker, command) {
                    return worker.finish(now, Some(error));
                }
                continue;
            }
            Err(TryRecvError::Empty) => {}
        }
        if config.wait.spin_for().is_some() && now >= busy_until {
            sleep(&mut worker, config.wait, wake, quiescing.is_some());
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
fn apply(worker: &mut Worker, command: Command) -> Option<WorkerError> {
    let now = Timestamp::now();
    let (result, reply) = match command {
        Command::SetPower(power, reply) => {
            let drained = if power == PowerState::Off { drain(worker, now) } else { Ok(()) };
            (drained.and_then(|()| worker.set_power(Timestamp::now(), power)), reply)
        }
        Command::SetInterfaceEnable(enable, reply) => {
            let drained = if enable { Ok(()) } else { drain(worker, now) };
            (
                drained.and_then(|()| worker.set_interface_enable(Timestamp::now(), PortId::FIRST, enable)),
                reply,
            )
        }
        Command::Control(request, reply) => return control(worker, now, &request, reply),
        Command::Snapshot(reply) => {
            let _ = reply.send(worker.snapshot());
            return None;
        }
        Command::Capture(taps) => {
            worker.capture(*taps);
            return None;
        }
        Command::Quiesce(..) | Command::Stop => return None,
    };
    match result {
        Err(error @ (WorkerError::Driver(_) | WorkerError::Queue(_))) => Some(error),
        // Who asked may have stopped waiting.
        result => {
            let _ = reply.send(result);
            None
        }
    }
}

/// Hands the driver a command of its own. Only a queue that failed is an error after which the worker cannot go on.
fn control(
    worker: &mut Worker,
    now: Timestamp,
    request: &ControlRequest,
    reply: oneshot::Sender<Result<Option<Value>, ControlFailure>>,
) -> Option<WorkerError> {
    match worker.control(now, &request.name, &request.value) {
        Err(ControlFailure::Queue(error)) => Some(error.into()),
        result => {
            // Who asked may have stopped waiting.
            let _ = reply.send(result);
            None
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

/// Stops in order: no new work, what was sent comes back, then the driver and the port.
fn stop(mut worker: Worker) -> WorkerReport {
    let start = Timestamp::now();
    let error = drain(&mut worker, start)
        .and_then(|()| worker.set_interface_enable(Timestamp::now(), PortId::FIRST, false))
        .and_then(|()| drain(&mut worker, Timestamp::now()))
        .and_then(|()| worker.set_power(Timestamp::now(), PowerState::Off))
        .err();
    worker.finish(Timestamp::now(), error)
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
