//! The supervisor: the one owner of a running driver's state.
//!
//! ```text
//!   link events --+
//!   worker events +--> Supervisor --commands--> workers (a thread per queue)
//!   requests -----+         '-- XSKMAP, bpf_link
//! ```
//! Stopping follows one order: XSKMAP entries out, program off the interface, tx rings drained, sockets
//! closed, frames counted. So no frame is redirected to a socket that is going away.

mod capture;
mod config;
mod control;
mod port;
mod report;
mod requirements;
mod sockets;
mod start;
mod steering;
mod stop;
mod switch;
mod workers;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::UnboundedReceiver;

pub use self::config::{QueueSelection, RunConfig, StartError};
pub use self::control::DriverControlError;
use self::port::RunningPort;
pub use self::report::{EndReason, RunError, RunInfo, RunReport};
pub use self::requirements::RequirementError;
pub use self::steering::SteerError;
pub use self::switch::SwitchError;
use self::switch::Switches;
pub use self::workers::CommandError;
use crate::capture::OpenCaptures;
use crate::link::{DeviceError, LinkEvent, Netlink, PairCounters};
use crate::stats::PortStats;
use crate::worker::WorkerEvent;
use crate::worker::WorkerHandle;
use crate::xdp::program::ProgramError;
use crate::xdp::steering::ProgramCounters;
use netdext::dispatch::{WorkerReport, WorkerSnapshot};
use netdext::packet::FrameSize;

/// How long to wait for the news that the link is gone, after a worker failed for that reason.
const GONE_GRACE: Duration = Duration::from_millis(200);

/// How often the records of `--log-frames` are fetched from the ring buffer.
const FRAME_LOG_INTERVAL: Duration = Duration::from_millis(50);

/// A running driver: its interfaces with their XDP programs, and its workers.
///
/// [`stop`](Self::stop) ends it in order and says what it leaves. Dropping it, also as part of a future that is
/// cancelled, takes the programs off and has the workers stop by themselves, soon after: nobody hears their reports then.
/// A worker whose callback does not return ends when that does.
pub struct Supervisor {
    driver: &'static str,
    // Before `workers`: off the interfaces first, so that nothing is redirected to a socket that goes away.
    ports: Vec<RunningPort>,
    workers: Vec<WorkerHandle>,
    events: UnboundedReceiver<WorkerEvent>,
    // Of each queue's UMEM.
    frame_size: FrameSize,
    flush_log_at: tokio::time::Instant,
    netlink: Netlink,
    reports: Vec<(u32, Option<Box<WorkerReport>>)>,
    // The first worker that ended by itself, and when that was seen.
    failed: Option<(u32, tokio::time::Instant)>,
    captures: Arc<OpenCaptures>,
    switches: Switches,
    started: Instant,
}

impl Supervisor {
    /// What was started, on the first interface.
    pub fn info(&self) -> &RunInfo {
        &self.ports[0].info
    }

    /// What was started, on each interface.
    pub fn infos(&self) -> impl Iterator<Item = &RunInfo> + '_ {
        self.ports.iter().map(|port| &port.info)
    }

    /// The name of the first interface, by which the driver is known.
    fn iface(&self) -> &str {
        &self.ports[0].iface
    }

    /// The counts now.
    ///
    /// # Errors
    ///
    /// The counters of an XDP program cannot be read.
    pub async fn stats(&mut self) -> Result<PortStats, ProgramError> {
        let snapshots = self.snapshots().await;
        let mut all = Vec::new();
        for port in &self.ports {
            let counters = port.program.counters()?;
            let link = port.link_counters(&self.netlink).await;
            all.push(self.port_stats(port, counters, &snapshots, link));
        }
        Ok(PortStats::with_others(all, Some(self.started.elapsed())))
    }

    fn port_stats(
        &self,
        port: &RunningPort,
        counters: ProgramCounters,
        snapshots: &[WorkerSnapshot],
        link: Option<PairCounters>,
    ) -> PortStats {
        let own: Vec<_> = snapshots.iter().filter(|snapshot| snapshot.port == port.id).cloned().collect();
        PortStats::collect(&port.iface, self.driver, counters, &own).with_link(link)
    }

    /// Follows the links and the workers until something ends the driver. Dropping the future loses
    /// nothing: it can be called again.
    pub async fn run(&mut self) -> EndReason {
        loop {
            // What is known is kept in `self` until it is dealt with, because that takes awaiting too.
            if let Some((queue, seen)) = self.failed {
                return self.why_worker_ended(queue, seen).await;
            }
            if let Some(port) = self.ports.iter().position(|port| port.link_changed) {
                self.apply_link(port).await;
                self.ports[port].link_changed = false;
            }
            let logs = self.ports.iter().any(|port| port.frame_log.is_some());
            tokio::select! {
                (port, event) = next_link_event(&mut self.ports) => {
                    let frame_size = self.frame_size;
                    let port = &mut self.ports[port];
                    let iface = || port.iface.clone();
                    match event {
                        Ok(Some(event)) => if let Some(reason) = port.on_link_event(event, frame_size) {
                            return reason;
                        },
                        Ok(None) => return EndReason::LinkGone { iface: iface() },
                        Err(source) => return EndReason::LinkEvents { iface: iface(), source },
                    }
                },
                Some(event) = self.events.recv() => if let WorkerEvent::Ended { queue, report } = event {
                    self.reports.push((queue, report));
                    self.failed.get_or_insert_with(|| (queue, tokio::time::Instant::now()));
                },
                () = self.captures.changed() => self.set_timestamps(),
                () = tokio::time::sleep_until(self.flush_log_at), if logs => self.flush_log(),
            }
        }
    }

    fn flush_log(&mut self) {
        for log in self.ports.iter_mut().filter_map(|port| port.frame_log.as_mut()) {
            log.flush();
        }
        self.flush_log_at = tokio::time::Instant::now() + FRAME_LOG_INTERVAL;
    }

    /// A worker whose interface goes away may notice before the news of it comes.
    async fn why_worker_ended(&mut self, queue: u32, seen: tokio::time::Instant) -> EndReason {
        let gone = async {
            loop {
                match next_link_event(&mut self.ports).await {
                    (port, Ok(None | Some(LinkEvent::Deleted))) => return Some(port),
                    (_, Ok(Some(_))) => {}
                    (_, Err(_)) => return None,
                }
            }
        };
        match tokio::time::timeout_at(seen + GONE_GRACE, gone).await {
            Ok(Some(port)) => EndReason::LinkGone { iface: self.ports[port].iface.clone() },
            Ok(None) | Err(_) => EndReason::WorkerFailed { queue },
        }
    }
}

/// What happens next to the link of any port. Dropping the future loses nothing.
async fn next_link_event(ports: &mut [RunningPort]) -> (usize, Result<Option<LinkEvent>, DeviceError>) {
    let next = ports.iter_mut().map(|port| Box::pin(port.link.next()));
    let (event, port, _) = futures_util::future::select_all(next).await;
    (port, event)
}
