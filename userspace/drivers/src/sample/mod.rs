//! The sample driver: answers ARP, neighbour discovery and echo requests, and injects echo requests by timer.
//!
//! It is the example to start from when writing a driver. Two handlers do the work:
//!
//! * The timer's takes packets from the pool, writes an echo request into each, sets data offset, data length
//!   and link header length, and submits it. What cannot be submitted goes back to the pool and is counted,
//!   and the timer stays armed in either case.
//! * The receive handler logs where each packet lies and completes it: requests for our addresses are answered
//!   in place, replies to the injector matched, everything else returned to the pool.
//!
//! One [`factory`] makes the instances of one run, one for each queue. They share the table of neighbours
//! and the requests that wait for a reply, because a reply may arrive on any queue; the first instance that is
//! initialised leads: it has the timers, and reports the shared counts.
//!
//! When the interface is disabled, requests still waiting count as lost: `sent == replies + lost` from then on.
//! How many these were is the event `injector_unanswered_at_disable`.
//!
//! The injector can be started, stopped and changed while it runs, by the commands `inject_start`, `inject_stop`,
//! `inject_set` ([`InjectSettings`]) and `inject_targets`. A request that was sent before a change is matched as it
//! was sent.

mod config;
mod inject;
mod injector;
mod leader;
mod log;
#[cfg(feature = "cli")]
mod options;
mod receive;
mod shared;
mod targets;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use fastrand::Rng;

pub use config::{InjectorConfig, SampleConfig, SampleConfigError};
pub use inject::{InjectSettings, RttSummary, TargetStats};
#[cfg(feature = "cli")]
pub use options::{Options, interval_of};

use self::inject::InjectCommand;
use self::injector::Injector;
use self::leader::Leader;
use self::receive::Receiver;
use self::shared::{Access, Shared};
use crate::requests::{Identity, InjectorStats};
use netdext::dispatch::Fired;
use netdext::driver::{
    ControlError, Cx, DeviceInfo, Driver, DriverError, DriverFactory, DriverStats, PortId, Requirements,
    RxTimestamps,
};
use netdext::packet::PacketBatch;
use netdext::proto::Local;
use serde_json::{Value, json};

const NAME: &str = "sample";

/// Makes the instances of the sample driver for one run. `seed` gives the identifier and the token by which the run's
/// own echo replies are recognised, so two runs at the same time need different ones.
///
/// # Errors
///
/// [`SampleConfigError`] when the configuration cannot work.
pub fn factory(config: SampleConfig, seed: u64) -> Result<DriverFactory, SampleConfigError> {
    if let Some(injector) = &config.injector {
        injector.waiting()?;
    }
    Ok(sharing(config, Arc::new(Shared::new(Identity::new(&mut Rng::with_seed(seed))))))
}

/// Makes instances that share this.
fn sharing(config: SampleConfig, shared: Arc<Shared>) -> DriverFactory {
    let build = move |_queue| -> Box<dyn Driver> {
        Box::new(Sample {
            receiver: Receiver::new(config.answer),
            shared: Arc::clone(&shared),
            config: config.clone(),
            leader: None,
        })
    };
    // The time of a reply is that of the XDP program.
    DriverFactory::new(NAME, build)
        .requiring(Requirements::default().rx_timestamps(RxTimestamps::EchoReplies))
}

/// One instance of the sample driver.
#[derive(Debug)]
pub struct Sample {
    config: SampleConfig,
    shared: Arc<Shared>,
    receiver: Receiver,
    leader: Option<Leader>,
}

fn error(operation: &'static str, reason: String) -> DriverError {
    DriverError { driver: NAME, operation, reason }
}

impl Sample {
    /// The targets, each with its own counts, in the order of their turns.
    fn target_stats(&self) -> Vec<TargetStats> {
        let state = self.shared.lock();
        state.injector.as_ref().map(Injector::target_stats).unwrap_or_default()
    }
}

impl Driver for Sample {
    fn name(&self) -> &'static str {
        NAME
    }

    fn init(&mut self, devices: &[DeviceInfo]) -> Result<(), DriverError> {
        let device = &devices[0];
        self.receiver.responder.local = Local::new(device.mac, &device.addresses);
        if !self.shared.take_lead() {
            return Ok(());
        }
        let injector = self.config.injector.take();
        let leader = Leader::new(injector, device, &self.shared, &self.receiver.responder.local);
        self.leader = Some(leader.map_err(|reason| error("init", reason))?);
        Ok(())
    }

    fn start(&mut self, cx: &mut Cx<'_>) -> Result<(), DriverError> {
        if let Some(leader) = &mut self.leader {
            leader.start(cx);
        }
        Ok(())
    }

    fn set_interface_enable(
        &mut self,
        cx: &mut Cx<'_>,
        _port: PortId,
        enable: bool,
    ) -> Result<(), DriverError> {
        if let Some(leader) = &mut self.leader {
            leader.set_enabled(cx, enable, &self.shared, &self.receiver.responder.local);
        }
        Ok(())
    }

    fn rx_packets(&mut self, cx: &mut Cx<'_>, _port: PortId, batch: &mut PacketBatch) {
        let mut access = Access::new(&self.shared);
        while let Some(packet) = batch.pop() {
            self.receiver.complete(cx, packet, &mut access);
        }
    }

    fn timer(&mut self, cx: &mut Cx<'_>, fired: Fired) {
        if let Some(leader) = &mut self.leader {
            leader.receive_timer(cx, fired, &self.shared, &self.receiver.responder.local);
        }
    }

    fn control(&mut self, cx: &mut Cx<'_>, name: &str, value: &Value) -> Result<Option<Value>, ControlError> {
        let Some(command) = InjectCommand::read(name, value)? else {
            return Err(ControlError::Unknown { driver: NAME, name: name.to_owned() });
        };
        let Some(leader) = &mut self.leader else { return Ok(None) };
        if command == InjectCommand::Targets {
            return Ok(Some(json!(self.target_stats())));
        }
        leader
            .inject(cx, &command, &self.shared, &self.receiver.responder.local)
            .map_err(|reason| ControlError::Refused { driver: NAME, name: name.to_owned(), reason })?;
        Ok(Some(json!({})))
    }

    fn pending(&self) -> u64 {
        if self.leader.is_none() {
            return 0;
        }
        self.shared.lock().injector.as_ref().map_or(0, Injector::in_flight)
    }

    fn stop(&mut self, cx: &mut Cx<'_>) {
        self.receiver.finish_log();
        if self.leader.is_some()
            && let Some(injector) = &mut self.shared.lock().injector
        {
            injector.settle(cx.now);
        }
    }

    fn stats(&self) -> DriverStats {
        let mut stats = DriverStats {
            counters: self.receiver.responder.outcomes.counters(),
            drops: self.receiver.responder.outcomes.drops(),
            ..DriverStats::default()
        };
        if let Some(leader) = &self.leader {
            let state = self.shared.lock();
            stats.events.extend(leader.events());
            stats.events.push(("neighbors_unreachable", state.neighbors.failed()));
            if let Some(injector) = &state.injector {
                stats.events.extend(injector.events());
                stats.groups.push((InjectorStats::GROUP, injector.stats().metrics()));
            }
        }
        stats
    }
}
