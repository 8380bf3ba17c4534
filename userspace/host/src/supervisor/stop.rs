//! Stopping a driver in order.

use std::time::Duration;

use super::{RunReport, Supervisor};
use crate::link::PairCounters;
use crate::link::tuning::Tuned;
use crate::stats::PortStats;
use crate::worker::Command;
use crate::worker::WorkerEvent;

/// How long answers may take to come in before a stop.
const QUIESCE_BEFORE_STOP: Duration = Duration::from_millis(100);

/// How long workers may take to stop; each drains its rings for 400 ms at the most.
const STOP_DEADLINE: Duration = Duration::from_millis(800);

impl Supervisor {
    /// Stops the driver in order and says what it leaves. Takes less than a second; a little more if a callback of
    /// the driver does not return.
    pub async fn stop(mut self) -> RunReport {
        self.quiesce(QUIESCE_BEFORE_STOP).await;
        if let Err(error) = self.release_frames().await {
            tracing::warn!("{error}");
        }
        if let Err(error) = self.program.detach() {
            tracing::warn!("{error}");
        }
        for restored in self.tuned.drain(..).rev().map(Tuned::restore) {
            match restored {
                Ok(Some(change)) => tracing::info!(iface = %self.iface, "restored: {change}"),
                Err(error) => tracing::warn!(iface = %self.iface, "what was tuned stays: {error}"),
                // The interface is gone.
                Ok(None) => {}
            }
        }
        drop(self.peer_napi.take());
        for worker in &self.workers {
            worker.send(Command::Stop);
        }
        self.collect_reports().await;
        self.flush_log();
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
        let link = self.link_counters().await;
        self.report(missing, link)
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

    fn report(self, missing: Vec<u32>, link: Option<PairCounters>) -> RunReport {
        let Self { iface, driver, program, mut reports, .. } = self;
        reports.sort_by_key(|(queue, _)| *queue);
        let (mut snapshots, mut census, mut errors) = (Vec::new(), Vec::new(), Vec::new());
        for (queue, report) in reports {
            let Some(report) = report else { continue };
            for port in report.ports {
                snapshots.push(port.snapshot);
                census.push(port.census);
            }
            errors.extend(report.error.map(|error| (queue, error)));
        }
        // The map outlives the attachment, so this is the final count.
        let counters = program.counters().unwrap_or_default();
        let stats = PortStats::collect(&iface, driver, counters, &snapshots).with_link(link);
        RunReport { stats, census, errors, missing }
    }
}
