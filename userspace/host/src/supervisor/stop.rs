//! Stopping a driver in order.

use std::time::Duration;

use super::port::RunningPort;
use super::{RunReport, Supervisor};
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
        if let Err(error) = self.release_frames(0..self.ports.len(), |_| true).await {
            tracing::warn!("{error}");
        }
        self.ports.iter_mut().for_each(RunningPort::detach);
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
        self.report(missing).await
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
            tracing::error!(iface = self.iface(), "a worker did not stop in time");
        }
    }

    async fn report(mut self, missing: Vec<u32>) -> RunReport {
        let mut reports = std::mem::take(&mut self.reports);
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
        let mut all = Vec::new();
        for port in &self.ports {
            // The map outlives the attachment, so this is the final count.
            let counters = port.program.counters().unwrap_or_default();
            let link = port.link_counters(&self.netlink).await;
            all.push(self.port_stats(port, counters, &snapshots, link));
        }
        RunReport { stats: PortStats::with_others(all, None), census, errors, missing }
    }
}
