//! Starting a driver.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use super::config::{CALLBACK_BATCH, RunConfig, StartError, check, worker_cpus};
use super::sockets::Sockets;
use super::switch::Switches;
use super::{RunInfo, Supervisor};
use crate::link::attachment::XdpHook;
use crate::link::program::{ProgramConfig, ProgramError, SteeringProgram};
use crate::link::{Device, LinkEvents, Netlink, kernel, threaded};
use crate::worker::Recipe;
use crate::worker::WorkerConfig;
use crate::worker::WorkerEvent;
use crate::worker::WorkerHandle;
use crate::xsk::{self, CopyMode, XskConfig};
use netdext::driver::DeviceInfo;

impl Supervisor {
    /// Starts a driver: program loaded and attached, a worker per queue, sockets in the XSKMAP, powered
    /// on, and enabled if the interface is up.
    ///
    /// # Errors
    ///
    /// [`StartError`]; everything done until then is undone, as it is if the future is dropped.
    pub async fn start(config: &RunConfig) -> Result<Self, StartError> {
        kernel::refuse_panic(config.risk_kernel_panic)?;
        let device = Device::query(&config.iface).await?;
        let plan = check(config, &device)?;
        let (queues, answers) = (plan.queues, plan.answers(config));
        let link = LinkEvents::open(device.index).await?;
        let netlink = Netlink::open()?;
        let link_is_up = link.state().is_some_and(|state| state.up);
        let mut program = SteeringProgram::load(&ProgramConfig {
            log_frames: config.log_frames,
            mac: device.mac,
            addresses: config.addresses.iter().map(|(address, _)| *address).collect(),
            broadcasts: config.broadcasts(),
            rules: plan.rules,
            // Only once there is a driver for what isn't answered, and an end of the wire that hears the answers.
            answer: false,
            answer_limit: config.answer_limit,
            timestamps: config.driver.requirements().rx_timestamps,
            latency: config.latency,
            queues,
        })?;
        // As above, for rules that answer.
        program.maps_mut().set_paused(true).map_err(ProgramError::from)?;
        let peer_addresses = device.peer_addresses(&netlink).await?;
        let link_before = netlink.pair_counters(device.index, device.peer).await?;
        let attached = program.attach(&device.name, device.index, config.mode, config.replace)?;
        let frame_log = program.logger()?;
        let first = DeviceInfo {
            name: device.name.clone(),
            mac: device.mac,
            mtu: device.mtu as usize,
            queue: 0,
            queues,
            addresses: config.addresses.clone(),
            peer_addresses,
        };
        let sockets = Sockets::new(program.sockets());
        let (sender, events) = unbounded_channel();
        let mut supervisor = Self {
            iface: device.name.clone(),
            driver: config.driver.name(),
            program,
            answer: config.answer,
            tuned: Vec::new(),
            peer_napi: None,
            workers: Vec::new(),
            events,
            link,
            frame_log,
            netlink,
            link_before,
            frame_size: plan.frame_size,
            flush_log_at: tokio::time::Instant::now(),
            reports: Vec::new(),
            failed: None,
            link_changed: false,
            started: Instant::now(),
            timestamps: (config.driver.requirements().rx_timestamps, config.latency),
            captures: Arc::default(),
            sockets,
            switches: Switches { enabled: config.enabled, power: config.power, link_up: link_is_up },
            info: RunInfo { device, attached, queues: Vec::new(), enabled: false, tuning: None },
        };
        let started = supervisor.start_workers(config, &first, answers, &sender).await;
        drop(sender);
        match started {
            Ok(()) => Ok(supervisor),
            Err(error) => {
                let report = supervisor.stop().await;
                Err(error.explained_by(report))
            }
        }
    }

    async fn start_workers(
        &mut self,
        config: &RunConfig,
        first: &DeviceInfo,
        answers: bool,
        events: &UnboundedSender<WorkerEvent>,
    ) -> Result<(), StartError> {
        if answers {
            self.prepare_answers().await?;
        }
        if config.tune {
            let cpus = std::thread::available_parallelism().map_or(1, usize::from);
            let (tuning, tuned) = threaded::tune(&self.info.device, cpus).await?;
            (self.info.tuning, self.tuned) = (Some(tuning), tuned);
        }
        let cpus = worker_cpus();
        for queue in 0..first.queues {
            let worker = WorkerConfig {
                wait: config.wait,
                latency: config.latency,
                batch: CALLBACK_BATCH,
                cpu: (!cpus.is_empty()).then(|| cpus[queue as usize % cpus.len()]),
            };
            let device = DeviceInfo { queue, ..first.clone() };
            let recipe = self.recipe(config, queue);
            let on_failure = self.sockets.on_failure(queue);
            self.workers.push(WorkerHandle::spawn(worker, vec![device], recipe, on_failure, events.clone())?);
        }
        while self.info.queues.len() < first.queues as usize {
            match self.events.recv().await {
                Some(WorkerEvent::Started { queue, sockets }) => {
                    for (socket, info) in sockets {
                        self.sockets.add(queue, socket);
                        self.info.queues.push((queue, info));
                    }
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
        // Not before the driver is running: what came earlier would be lost on it.
        self.set_power(self.switches.power).await?;
        self.set_enabled(self.switches.enabled).await?;
        Ok(())
    }

    fn recipe(&self, config: &RunConfig, queue: u32) -> Recipe {
        let socket = XskConfig {
            iface: self.iface.clone(),
            queue,
            rings: config.rings,
            frame_size: self.frame_size,
            copy: if self.info.attached.mode == XdpHook::Skb { CopyMode::Copy } else { CopyMode::Auto },
            risk_kernel_panic: config.risk_kernel_panic,
        };
        let factory = config.driver.clone();
        Box::new(move || {
            let (port, info) = xsk::open(&socket)?;
            Ok((vec![(port, info)], factory.build(queue)))
        })
    }

    fn forget(&mut self, queue: u32) {
        if let Some(index) = self.workers.iter().position(|worker| worker.queue == queue) {
            self.workers.swap_remove(index).join();
        }
    }
}
