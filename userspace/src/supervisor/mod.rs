//! The supervisor: the one owner of a running driver's state.
//!
//! ```text
//!   link events --+
//!   worker events +--> Supervisor --commands--> workers (a thread per queue)
//!   requests -----+         '-- XSKMAP, bpf_link
//! ```
//! Stopping follows one order: XSKMAP entries out, program off the interface, tx rings drained, sockets
//! closed, frames counted. So no frame is redirected to a socket that is going away.

mod config;
mod report;
pub mod spec;

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;

pub use self::config::{QueueSelection, RunConfig, StartError};
use self::config::{check, frame_size, worker_cpus};
pub use self::report::{EndReason, RunInfo, RunReport};
use crate::dispatch::{
    Command, Recipe, WorkerConfig, WorkerError, WorkerEvent, WorkerHandle, WorkerReport, WorkerSnapshot,
};
use crate::driver::{DeviceInfo, PowerState};
use crate::link::attachment::XdpHook;
use crate::link::peer_napi::PeerNapi;
use crate::link::program::{FrameLog, ProgramConfig, ProgramError, SteeringProgram};
use crate::link::{Device, LinkEvent, LinkEvents};
use crate::port::Port;
use crate::port::xsk::{CopyMode, XskConfig};
use crate::stats::PortStats;

/// Packets that one callback gets at the most.
const CALLBACK_BATCH: usize = 64;

/// How long workers may take to stop; each drains its tx ring for 200 ms at the most.
const STOP_DEADLINE: Duration = Duration::from_millis(800);

/// How long to wait for the news that the link is gone, after a worker failed for that reason.
const GONE_GRACE: Duration = Duration::from_millis(200);

/// How often the records of `--log-frames` are fetched from the ring buffer.
const FRAME_LOG_INTERVAL: Duration = Duration::from_millis(50);

/// A running driver: its XDP program and its workers.
pub struct Supervisor {
    iface: String,
    driver: &'static str,
    program: SteeringProgram,
    // Whether the XDP program answers while the driver is enabled.
    answer: bool,
    // After `program`: answers need it.
    peer_napi: Option<PeerNapi>,
    workers: Vec<WorkerHandle>,
    events: UnboundedReceiver<WorkerEvent>,
    link: LinkEvents,
    frame_log: Option<FrameLog>,
    reports: Vec<(u32, Option<Box<WorkerReport>>)>,
    info: RunInfo,
}

impl Supervisor {
    /// Starts a driver: program loaded and attached, a worker per queue, sockets in the XSKMAP, powered
    /// on, and enabled if the interface is up.
    ///
    /// # Errors
    ///
    /// [`StartError`]; everything done until then is undone.
    pub async fn start(config: &RunConfig) -> Result<Self, StartError> {
        let device = Device::query(&config.iface).await?;
        let queues = check(config, &device)?;
        let link = LinkEvents::open(device.index).await?;
        let mut program = SteeringProgram::load(&ProgramConfig {
            log_frames: config.log_frames,
            mac: device.mac,
            addresses: config.addresses.iter().map(|(address, _)| *address).collect(),
            broadcasts: config.broadcasts(),
            rules: config.rules.clone(),
            // Only once there is a driver for what isn't answered, and an end of the wire that hears the answers.
            answer: false,
            answer_limit: config.answer_limit,
            queues,
        })?;
        let attached = program.attach(&device.name, device.index, config.mode, config.replace)?;
        let frame_log = program.logger()?;
        let (sender, events) = unbounded_channel();
        let mut supervisor = Self {
            iface: device.name.clone(),
            driver: config.driver.name(),
            program,
            answer: config.answer,
            peer_napi: None,
            workers: Vec::new(),
            events,
            link,
            frame_log,
            reports: Vec::new(),
            info: RunInfo { device, attached, queues: Vec::new(), enabled: false },
        };
        let started = supervisor.start_workers(config, queues, &sender).await;
        drop(sender);
        match started {
            Ok(()) => Ok(supervisor),
            Err(error) => {
                supervisor.stop().await;
                Err(error)
            }
        }
    }

    async fn start_workers(
        &mut self,
        config: &RunConfig,
        queues: u32,
        events: &UnboundedSender<WorkerEvent>,
    ) -> Result<(), StartError> {
        // In skb mode answers go through the peer's ordinary receive path.
        if config.answer && self.info.attached.mode == XdpHook::Native {
            self.peer_napi = PeerNapi::prepare(&self.info.device).await?;
        }
        let cpus = worker_cpus();
        for queue in 0..queues {
            let worker = WorkerConfig {
                wait: config.wait,
                batch: CALLBACK_BATCH,
                cpu: (!cpus.is_empty()).then(|| cpus[queue as usize % cpus.len()]),
            };
            let device = DeviceInfo {
                name: self.iface.clone(),
                mac: self.info.device.mac,
                mtu: self.info.device.mtu as usize,
                queue,
                queues,
                addresses: config.addresses.clone(),
            };
            let recipe = self.recipe(config, queue)?;
            self.workers.push(WorkerHandle::spawn(worker, device, recipe, events.clone())?);
        }
        while self.info.queues.len() < queues as usize {
            match self.events.recv().await {
                Some(WorkerEvent::Started { queue, socket, info }) => {
                    self.program.insert_socket(queue, socket.as_fd())?;
                    self.info.queues.push((queue, info));
                }
                Some(WorkerEvent::StartFailed { queue, error }) => {
                    self.forget(queue);
                    return Err(error.into());
                }
                Some(WorkerEvent::Ended { queue, report }) => {
                    self.reports.push((queue, report));
                    return Err(StartError::EndedEarly { queue });
                }
                // Not while this function holds a sender.
                None => break,
            }
        }
        self.info.queues.sort_by_key(|(queue, _)| *queue);
        self.set_power(PowerState::On).await?;
        if self.link.state().is_some_and(|state| state.up) {
            self.set_interface_enable(true).await?;
        }
        Ok(())
    }

    fn recipe(&self, config: &RunConfig, queue: u32) -> Result<Recipe, StartError> {
        let xsk = XskConfig {
            iface: self.iface.clone(),
            queue,
            rings: config.rings,
            frame_size: frame_size(&self.info.device)?,
            copy: if self.info.attached.mode == XdpHook::Skb { CopyMode::Copy } else { CopyMode::Auto },
        };
        let factory = Arc::clone(&config.driver);
        Ok(Box::new(move || {
            let (port, info) = Port::open_xsk(&xsk)?;
            Ok((port, info, factory.build(queue)))
        }))
    }

    fn forget(&mut self, queue: u32) {
        if let Some(index) = self.workers.iter().position(|worker| worker.queue == queue) {
            self.workers.swap_remove(index).join();
        }
    }

    /// What was started.
    pub fn info(&self) -> &RunInfo {
        &self.info
    }

    /// Powers the driver on or off on every queue.
    ///
    /// # Errors
    ///
    /// The first error of a worker.
    pub async fn set_power(&mut self, power: PowerState) -> Result<(), WorkerError> {
        self.broadcast(|reply| Command::SetPower(power, reply)).await
    }

    /// Enables or disables the driver on every queue, and with it the answers of the XDP program.
    ///
    /// # Errors
    ///
    /// The first error of a worker.
    pub async fn set_interface_enable(&mut self, enable: bool) -> Result<(), WorkerError> {
        if !enable {
            self.switch_answers(false);
        }
        self.broadcast(|reply| Command::SetInterfaceEnable(enable, reply)).await?;
        if enable {
            self.switch_answers(self.answer);
        }
        self.info.enabled = enable;
        Ok(())
    }

    /// A failure is logged only: the requests go to the driver then, which answers them too.
    fn switch_answers(&mut self, on: bool) {
        if let Err(error) = self.program.maps_mut().set_answer(on) {
            tracing::error!(iface = %self.iface, on, "switch the answers of the XDP program: {error}");
        }
    }

    async fn broadcast(
        &mut self,
        command: impl Fn(oneshot::Sender<Result<(), WorkerError>>) -> Command,
    ) -> Result<(), WorkerError> {
        let mut replies = Vec::new();
        for worker in &self.workers {
            let (sender, receiver) = oneshot::channel();
            worker.send(command(sender));
            replies.push(receiver);
        }
        for reply in replies {
            // A worker that ended instead of answering says why in its report.
            if let Ok(result) = reply.await {
                result?;
            }
        }
        Ok(())
    }

    /// The counts now.
    ///
    /// # Errors
    ///
    /// The counters of the XDP program cannot be read.
    pub async fn stats(&mut self) -> Result<PortStats, ProgramError> {
        let snapshots = self.snapshots().await;
        let counters = self.program.counters()?;
        Ok(PortStats::collect(&self.iface, self.driver, counters, &snapshots))
    }

    async fn snapshots(&self) -> Vec<WorkerSnapshot> {
        let mut snapshots = Vec::new();
        for worker in &self.workers {
            let (sender, receiver) = oneshot::channel();
            worker.send(Command::Snapshot(sender));
            snapshots.extend(receiver.await.ok());
        }
        snapshots
    }

    /// Follows the link and the workers until something ends the driver. Dropping the future loses
    /// nothing: it can be called again.
    pub async fn run(&mut self) -> EndReason {
        loop {
            tokio::select! {
                event = self.link.next() => match event {
                    Ok(Some(event)) => if let Some(reason) = self.on_link_event(event).await { return reason },
                    Ok(None) => return EndReason::LinkGone,
                    Err(error) => return EndReason::LinkEvents(error),
                },
                Some(event) = self.events.recv() => if let WorkerEvent::Ended { queue, report } = event {
                    self.reports.push((queue, report));
                    return self.why_worker_ended(queue).await;
                },
                () = flush_frame_log(&mut self.frame_log) => {}
            }
        }
    }

    async fn on_link_event(&mut self, event: LinkEvent) -> Option<EndReason> {
        let enable = match event {
            LinkEvent::Up => true,
            LinkEvent::Down => false,
            LinkEvent::Deleted => return Some(EndReason::LinkGone),
            LinkEvent::MtuChanged { mtu } => {
                self.warn_about_mtu(mtu);
                return None;
            }
            LinkEvent::CarrierUp | LinkEvent::CarrierDown => return None,
        };
        tracing::info!(iface = %self.iface, "the interface is {}", if enable { "up" } else { "down" });
        // A worker that fails says so by ending, and `run` sees that next.
        if let Err(error) = self.set_interface_enable(enable).await {
            tracing::error!(iface = %self.iface, "set_interface_enable: {error}");
        }
        None
    }

    fn warn_about_mtu(&self, mtu: u32) {
        let device = Device { mtu, ..self.info.device.clone() };
        let (Ok(now), Ok(needed)) = (frame_size(&self.info.device), frame_size(&device)) else {
            tracing::warn!(iface = %self.iface, mtu, "the MTU is now larger than a frame: the kernel drops such frames");
            return;
        };
        if needed.bytes() > now.bytes() {
            tracing::warn!(iface = %self.iface, mtu, "the MTU is now larger than a frame: start again to change that");
        }
    }

    /// A worker whose interface goes away may notice before the news of it comes.
    async fn why_worker_ended(&mut self, queue: u32) -> EndReason {
        let gone = async {
            while let Ok(Some(event)) = self.link.next().await {
                if event == LinkEvent::Deleted {
                    return;
                }
            }
        };
        match tokio::time::timeout(GONE_GRACE, gone).await {
            Ok(()) => EndReason::LinkGone,
            Err(_) => EndReason::WorkerFailed { queue },
        }
    }

    /// Stops the driver in order and says what it leaves. Takes less than a second.
    pub async fn stop(mut self) -> RunReport {
        self.quiesce().await;
        for (queue, _) in &self.info.queues {
            if let Err(error) = self.program.remove_socket(*queue) {
                tracing::warn!(queue, "{error}");
            }
        }
        if let Err(error) = self.program.detach() {
            tracing::warn!("{error}");
        }
        if let Some(napi) = self.peer_napi.take()
            && let Err(error) = napi.restore().await
        {
            tracing::warn!("GRO stays on at the other end of the pair: {error}");
        }
        for worker in &self.workers {
            worker.send(Command::Stop);
        }
        self.collect_reports().await;
        if let Some(log) = &mut self.frame_log {
            log.flush();
        }
        let missing: Vec<u32> = self
            .workers
            .iter()
            .map(|worker| worker.queue)
            .filter(|queue| !self.reports.iter().any(|(known, report)| known == queue && report.is_some()))
            .collect();
        for worker in self.workers.drain(..) {
            // A thread that did not stop in time ends with the process.
            if !missing.contains(&worker.queue) {
                worker.join();
            }
        }
        self.report(missing)
    }

    /// Lets the answers to what was asked come in, so that stopping loses none of them.
    async fn quiesce(&mut self) {
        let mut replies = Vec::new();
        for worker in &self.workers {
            let (sender, receiver) = oneshot::channel();
            worker.send(Command::Quiesce(sender));
            replies.push(receiver);
        }
        for reply in replies {
            // A worker that has ended has nothing to wait for.
            let _ = reply.await;
        }
    }

    async fn collect_reports(&mut self) {
        let all = async {
            while self.reports.len() < self.workers.len() {
                match self.events.recv().await {
                    Some(WorkerEvent::Ended { queue, report }) => self.reports.push((queue, report)),
                    Some(WorkerEvent::StartFailed { queue, .. }) => self.reports.push((queue, None)),
                    Some(WorkerEvent::Started { .. }) => {}
                    None => break,
                }
            }
        };
        if tokio::time::timeout(STOP_DEADLINE, all).await.is_err() {
            tracing::error!(iface = %self.iface, "a worker did not stop in time");
        }
    }

    fn report(self, missing: Vec<u32>) -> RunReport {
        let Self { iface, driver, program, mut reports, .. } = self;
        reports.sort_by_key(|(queue, _)| *queue);
        let (mut snapshots, mut census, mut errors) = (Vec::new(), Vec::new(), Vec::new());
        for (queue, report) in reports {
            let Some(report) = report else { continue };
            snapshots.push(report.snapshot);
            census.push(report.census);
            errors.extend(report.error.map(|error| (queue, error)));
        }
        // The map outlives the attachment, so this is the final count.
        let counters = program.counters().unwrap_or_default();
        RunReport { stats: PortStats::collect(&iface, driver, counters, &snapshots), census, errors, missing }
    }
}

/// Hands log records of the XDP program on, from time to time; waits for ever where there is no log.
async fn flush_frame_log(log: &mut Option<FrameLog>) {
    let Some(log) = log else { return std::future::pending().await };
    tokio::time::sleep(FRAME_LOG_INTERVAL).await;
    log.flush();
}
