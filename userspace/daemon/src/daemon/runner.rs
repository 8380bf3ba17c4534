//! One installed driver, running: a task that owns its supervisor.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use super::suspend::SleepEvent;
use crate::control::protocol::Request;
use crate::control::{self, Answer};
use crate::spec::{DriverSpec, DriverTypes, SpecError};
use netdext::driver::PowerState;
use netdext::error::one_line;
use netdext_host::kernel;
use netdext_host::link::alias::DriverAlias;
use netdext_host::link::{Lab, LabConfig, LabError};
use netdext_host::supervisor::{EndReason, RunConfig, RunError, RunInfo, StartError, Supervisor};

/// Requests that may wait for a driver; the control server has fewer clients than that.
const ORDERS: usize = 256;

/// A request for one driver, and where the answer goes.
pub(super) struct Order {
    pub request: Request,
    pub reply: oneshot::Sender<Answer>,
}

/// What to start.
pub(super) struct Start {
    /// The number of the driver in the daemon.
    pub driver: u64,
    pub bundle_id: String,
    pub types: Arc<DriverTypes>,
    pub spec: DriverSpec,
    pub power: PowerState,
    /// Whether an earlier process made the interface, and could not remove it.
    pub made_link: bool,
    /// Whether it starts also on a kernel that can panic.
    pub risk_kernel_panic: bool,
}

/// What a runner tells the daemon.
pub(super) enum Event {
    /// The driver runs.
    Started {
        driver: u64,
        info: Box<RunInfo>,
        /// Whether the interface was made for it.
        made_link: bool,
    },
    /// The driver has ended, and what it made is removed.
    Ended {
        driver: u64,
        /// In one line, why, unless it was told to.
        error: Option<String>,
    },
    /// The machine goes to sleep or is awake again.
    Sleep(SleepEvent),
    /// It is time to start a failed driver again.
    Retry { driver: u64 },
    /// A driver has answered a request that the daemon has to take note of.
    Answered { driver: u64, request: Request, answer: Answer, client: oneshot::Sender<Answer> },
}

/// Why a driver does not run.
#[derive(Debug, thiserror::Error)]
enum RunnerError {
    #[error(transparent)]
    Spec(#[from] SpecError),
    #[error(transparent)]
    Lab(#[from] LabError),
    #[error(transparent)]
    Start(#[from] StartError),
    #[error(transparent)]
    Run(#[from] RunError),
}

/// The daemon's end of a running driver. Dropping it stops the driver in order; [`Event::Ended`] says when
/// that is done.
pub(super) struct Runner {
    orders: mpsc::Sender<Order>,
}

impl Runner {
    /// Starts a task for the driver on the [`LocalSet`](tokio::task::LocalSet) of the caller.
    pub fn spawn(start: Start, events: mpsc::UnboundedSender<Event>) -> Self {
        let (orders, receiver) = mpsc::channel(ORDERS);
        tokio::task::spawn_local(async move {
            let driver = start.driver;
            let error = run(start, receiver, &events).await.err().map(|error| one_line(&error));
            // Nobody listens any more only when the daemon itself is gone.
            let _ = events.send(Event::Ended { driver, error });
        });
        Self { orders }
    }

    /// Hands a request to the driver; gives it back if too many wait or the driver is ending.
    pub fn send(&self, order: Order) -> Result<(), Box<Order>> {
        self.orders.try_send(order).map_err(|refused| Box::new(refused.into_inner()))
    }
}

async fn run(
    start: Start,
    orders: mpsc::Receiver<Order>,
    events: &mpsc::UnboundedSender<Event>,
) -> Result<(), RunnerError> {
    // Before a pair is made.
    kernel::refuse_panic(start.risk_kernel_panic).map_err(StartError::from)?;
    let lab = if start.spec.lab { make_lab(&start).await? } else { None };
    let result = with_link(&start, lab.is_some(), orders, events).await;
    // What failed first is what the user needs to know.
    match lab {
        Some(lab) => result.and(lab.down().await.map_err(Into::into)),
        None if start.made_link => result.and(remove_link(&start.spec.iface).await.map_err(Into::into)),
        None => result,
    }
}

/// Removes a pair that an earlier process made; that it is gone already is no error.
pub(super) async fn remove_link(iface: &str) -> Result<(), LabError> {
    match Lab::remove(iface).await {
        Err(LabError::Device(error)) if error.is_gone() => Ok(()),
        other => other,
    }
}

async fn make_lab(start: &Start) -> Result<Option<Lab>, LabError> {
    let Some(config) = LabConfig::for_driver(&start.spec.iface) else { return Ok(None) };
    let queues = start.spec.queues.unwrap_or(1);
    Lab::ensure(&LabConfig { queues, bundle_id: start.bundle_id.clone(), ..config }).await
}

async fn with_link(
    start: &Start,
    made_link: bool,
    orders: mpsc::Receiver<Order>,
    events: &mpsc::UnboundedSender<Event>,
) -> Result<(), RunnerError> {
    let risk_kernel_panic = start.risk_kernel_panic;
    let config = RunConfig { power: start.power, risk_kernel_panic, ..start.spec.resolve(&start.types)? };
    let supervisor = Supervisor::start(&config).await?;
    let mut aliases = Vec::new();
    for info in supervisor.infos() {
        match DriverAlias::set(&info.device, &start.bundle_id).await {
            Ok(alias) => aliases.push(alias),
            // The driver works without it.
            Err(error) => tracing::warn!(iface = %info.device.name, "{}", one_line(&error)),
        }
    }
    let _ = events.send(Event::Started {
        driver: start.driver,
        info: Box::new(supervisor.info().clone()),
        made_link,
    });
    let result = serve(supervisor, orders).await;
    for alias in aliases {
        if let Err(error) = alias.restore().await {
            tracing::warn!(iface = %start.spec.iface, "{}", one_line(&error));
        }
    }
    Ok(result?)
}

/// Runs the driver until it fails or nobody can ask anything of it any more, then stops it.
async fn serve(mut supervisor: Supervisor, mut orders: mpsc::Receiver<Order>) -> Result<(), RunError> {
    let reason = loop {
        tokio::select! {
            reason = supervisor.run() => break reason,
            order = orders.recv() => match order {
                Some(Order { request, reply }) => {
                    let answer = control::driver::answer(&mut supervisor, request).await;
                    // Who asked may have stopped waiting.
                    let _ = reply.send(answer);
                }
                None => break EndReason::Requested,
            },
        }
    };
    supervisor.stop().await.verdict(reason)
}
