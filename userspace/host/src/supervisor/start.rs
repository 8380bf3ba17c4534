//! Starting a driver.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use super::Supervisor;
use super::config::{CALLBACK_BATCH, RunConfig, StartError, check, worker_cpus};
use super::port::RunningPort;
use super::sockets::wait_for_receive_polls;
use super::switch::Switches;
use crate::kernel;
use crate::link::{Device, Netlink};
use crate::worker::{OnFailure, Recipe, WorkerConfig, WorkerEvent, WorkerHandle};
use crate::xdp::attachment::XdpHook;
use crate::xsk::{self, CopyMode, XskConfig};
use netdext::driver::PortId;

impl Supervisor {
    /// Starts a driver: a program loaded and attached to each interface, a worker per queue, sockets in the XSKMAPs,
    /// powered on, and enabled where the interface is up.
    ///
    /// # Errors
    ///
    /// [`StartError`]; everything done until then is undone, as it is if the future is dropped.
    pub async fn start(config: &RunConfig) -> Result<Self, StartError> {
        kernel::refuse_panic(config.risk_kernel_panic)?;
        let mut devices = Vec::new();
        for iface in config.ifaces() {
            devices.push(Device::query(iface).await?);
        }
        let plan = check(config, &devices)?;
        let netlink = Netlink::open()?;
        let mut ports = Vec::new();
        for (number, device) in devices.into_iter().enumerate() {
            ports.push(RunningPort::attach(PortId::new(number), device, config, &plan, &netlink).await?);
        }
        let (sender, events) = unbounded_channel();
        let mut supervisor = Self {
            driver: config.driver.name(),
            ports,
            workers: Vec::new(),
            events,
            netlink,
            frame_size: plan.frame_size,
            flush_log_at: tokio::time::Instant::now(),
            reports: Vec::new(),
            failed: None,
            started: Instant::now(),
            captures: Arc::default(),
            switches: Switches { enabled: config.enabled, power: config.power },
        };
        let started = supervisor.start_workers(config, plan.queues, &sender).await;
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
        queues: u32,
        events: &UnboundedSender<WorkerEvent>,
    ) -> Result<(), StartError> {
        let cpus = worker_cpus();
        for queue in 0..queues {
            let worker = WorkerConfig {
                wait: config.wait,
                latency: config.latency,
                batch: CALLBACK_BATCH,
                cpu: (!cpus.is_empty()).then(|| cpus[queue as usize % cpus.len()]),
            };
            let devices = self.ports.iter().map(|port| port.device_info(queue)).collect();
            let recipe = self.recipe(config, queue);
            let on_failure = self.on_failure(queue);
            self.workers.push(WorkerHandle::spawn(worker, devices, recipe, on_failure, events.clone())?);
        }
        let mut started = 0;
        while started < queues {
            match self.events.recv().await {
                Some(WorkerEvent::Started { queue, sockets }) => {
                    for (port, (socket, info)) in self.ports.iter_mut().zip(sockets) {
                        port.sockets.add(queue, socket);
                        port.info.queues.push((queue, info));
                    }
                    started += 1;
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
        for port in &mut self.ports {
            port.info.queues.sort_by_key(|(queue, _)| *queue);
        }
        // Not before the driver is running: what came earlier would be lost on it.
        self.set_power(self.switches.power).await?;
        self.set_enabled(self.switches.enabled).await?;
        Ok(())
    }

    /// What takes the sockets of a worker that cannot go on out of every XSKMAP, and waits until what was redirected before
    /// is in its rx rings.
    fn on_failure(&self, queue: u32) -> OnFailure {
        let all: Vec<_> = self.ports.iter().map(|port| port.sockets.on_failure(queue)).collect();
        Box::new(move || {
            // Out of all of them before the first is waited for.
            let claimed = all.into_iter().map(|give_up| give_up()).fold(false, |some, this| some | this);
            if claimed {
                wait_for_receive_polls();
            }
        })
    }

    fn recipe(&self, config: &RunConfig, queue: u32) -> Recipe {
        // One of the ports that can't share memory with the device is reason enough for all to copy.
        let skb = self.ports.iter().any(|port| port.info.attached.mode == XdpHook::Skb);
        let socket = |port: &RunningPort| XskConfig {
            iface: port.iface.clone(),
            queue,
            rings: config.rings,
            frame_size: self.frame_size,
            copy: if skb { CopyMode::Copy } else { CopyMode::Auto },
            risk_kernel_panic: config.risk_kernel_panic,
        };
        let sockets: Vec<_> = self.ports.iter().map(socket).collect();
        let factory = config.driver.clone();
        Box::new(move || Ok((xsk::open_all(&sockets)?, factory.build(queue))))
    }

    fn forget(&mut self, queue: u32) {
        if let Some(index) = self.workers.iter().position(|worker| worker.queue == queue) {
            self.workers.swap_remove(index).join();
        }
    }
}
