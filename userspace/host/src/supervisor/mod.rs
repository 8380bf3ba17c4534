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

use self::config::frame_size;
pub use self::config::{QueueSelection, RunConfig, StartError};
pub use self::control::DriverControlError;
pub use self::report::{EndReason, RunError, RunInfo, RunReport};
pub use self::requirements::RequirementError;
use self::sockets::Sockets;
pub use self::steering::SteerError;
pub use self::switch::SwitchError;
use self::switch::Switches;
pub use self::workers::CommandError;
use crate::capture::OpenCaptures;
use crate::link::peer_napi::PeerNapi;
use crate::link::program::{FrameLog, ProgramError, SteeringProgram};
use crate::link::tuning::Tuned;
use crate::link::{Device, LinkEvent, LinkEvents, Netlink, PairCounters};
use crate::stats::PortStats;
use crate::worker::WorkerEvent;
use crate::worker::WorkerHandle;
use netdext::dispatch::WorkerReport;
use netdext::driver::RxTimestamps;
use netdext::packet::FrameSize;

/// How long to wait for the news that the link is gone, after a worker failed for that reason.
const GONE_GRACE: Duration = Duration::from_millis(200);

/// How often the records of `--log-frames` are fetched from the ring buffer.
const FRAME_LOG_INTERVAL: Duration = Duration::from_millis(50);

/// A running driver: its XDP program and its workers.
///
/// [`stop`](Self::stop) ends it in order and says what it leaves. Dropping it, also as part of a future that is
/// cancelled, takes the program off and has the workers stop by themselves, soon after: nobody hears their reports then.
/// A worker whose callback does not return ends when that does.
pub struct Supervisor {
    iface: String,
    driver: &'static str,
    // Before `workers`: off the interface first, so that nothing is redirected to a socket that goes away.
    program: SteeringProgram,
    // Whether the XDP program answers while the driver is enabled.
    answer: bool,
    // Before `peer_napi`: it may be the one that has the thread.
    tuned: Vec<Tuned>,
    // After `program`: answers need it.
    peer_napi: Option<PeerNapi>,
    workers: Vec<WorkerHandle>,
    events: UnboundedReceiver<WorkerEvent>,
    link: LinkEvents,
    // Of each queue's UMEM.
    frame_size: FrameSize,
    frame_log: Option<FrameLog>,
    flush_log_at: tokio::time::Instant,
    netlink: Netlink,
    // What the kernel had counted of the link when the driver started.
    link_before: PairCounters,
    reports: Vec<(u32, Option<Box<WorkerReport>>)>,
    // The first worker that ended by itself, and when that was seen.
    failed: Option<(u32, tokio::time::Instant)>,
    // Whether the workers are still to be told of `switches.link_up`.
    link_changed: bool,
    // Which frames have a timestamp while nothing is captured, and whether stages are measured.
    timestamps: (RxTimestamps, bool),
    captures: Arc<OpenCaptures>,
    sockets: Sockets,
    switches: Switches,
    info: RunInfo,
    started: Instant,
}

impl Supervisor {
    /// What was started.
    pub fn info(&self) -> &RunInfo {
        &self.info
    }

    /// The counts now.
    ///
    /// # Errors
    ///
    /// The counters of the XDP program cannot be read.
    pub async fn stats(&mut self) -> Result<PortStats, ProgramError> {
        let snapshots = self.snapshots().await;
        let counters = self.program.counters()?;
        let mut stats = PortStats::collect(&self.iface, self.driver, counters, &snapshots);
        stats.uptime_ns = Some(self.started.elapsed().as_nanos() as u64);
        Ok(stats.with_link(self.link_counters().await))
    }

    /// What the kernel counted of the link since the driver was started; `None` once the link is gone.
    async fn link_counters(&self) -> Option<PairCounters> {
        let Device { index, peer, .. } = self.info.device;
        let now = self.netlink.pair_counters(index, peer).await.ok()?;
        Some(now.since(&self.link_before))
    }

    /// Follows the link and the workers until something ends the driver. Dropping the future loses
    /// nothing: it can be called again.
    pub async fn run(&mut self) -> EndReason {
        loop {
            // What is known is kept in `self` until it is dealt with, because that takes awaiting too.
            if let Some((queue, seen)) = self.failed {
                return self.why_worker_ended(queue, seen).await;
            }
            if self.link_changed {
                self.apply_link().await;
                self.link_changed = false;
            }
            tokio::select! {
                event = self.link.next() => match event {
                    Ok(Some(event)) => if let Some(reason) = self.on_link_event(event) { return reason },
                    Ok(None) => return EndReason::LinkGone,
                    Err(error) => return EndReason::LinkEvents(error),
                },
                Some(event) = self.events.recv() => if let WorkerEvent::Ended { queue, report } = event {
                    self.reports.push((queue, report));
                    self.failed.get_or_insert_with(|| (queue, tokio::time::Instant::now()));
                },
                () = self.captures.changed() => self.set_timestamps(),
                () = tokio::time::sleep_until(self.flush_log_at), if self.frame_log.is_some() => self.flush_log(),
            }
        }
    }

    fn on_link_event(&mut self, event: LinkEvent) -> Option<EndReason> {
        let up = match event {
            LinkEvent::Up => true,
            LinkEvent::Down => false,
            LinkEvent::Deleted => return Some(EndReason::LinkGone),
            LinkEvent::MtuChanged { mtu } => {
                self.warn_about_mtu(mtu);
                return None;
            }
            LinkEvent::CarrierUp | LinkEvent::CarrierDown => return None,
        };
        tracing::info!(iface = %self.iface, "the interface is {}", if up { "up" } else { "down" });
        (self.switches.link_up, self.link_changed) = (up, true);
        None
    }

    fn flush_log(&mut self) {
        if let Some(log) = &mut self.frame_log {
            log.flush();
        }
        self.flush_log_at = tokio::time::Instant::now() + FRAME_LOG_INTERVAL;
    }

    fn warn_about_mtu(&self, mtu: u32) {
        let device = Device { mtu, ..self.info.device.clone() };
        let Ok(needed) = frame_size(&device) else {
            tracing::warn!(iface = %self.iface, mtu, "the MTU is now larger than a frame: the kernel drops such frames");
            return;
        };
        if needed > self.frame_size {
            tracing::warn!(iface = %self.iface, mtu, "the MTU is now larger than a frame: start again to change that");
        }
    }

    /// A worker whose interface goes away may notice before the news of it comes.
    async fn why_worker_ended(&mut self, queue: u32, seen: tokio::time::Instant) -> EndReason {
        let gone = async {
            while let Ok(Some(event)) = self.link.next().await {
                if event == LinkEvent::Deleted {
                    return;
                }
            }
        };
        match tokio::time::timeout_at(seen + GONE_GRACE, gone).await {
            Ok(()) => EndReason::LinkGone,
            Err(_) => EndReason::WorkerFailed { queue },
        }
    }
}
