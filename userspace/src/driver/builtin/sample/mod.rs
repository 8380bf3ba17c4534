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
//! One [`SampleFactory`] makes the instances of one run, one for each queue. They share the table of neighbours
//! and the requests that wait for a reply, because a reply may arrive on any queue; the first instance that is
//! initialised leads: it has the timers, and reports the shared counts.
//!
//! When the interface is disabled, requests still waiting count as lost: `sent == replies + lost` from then on.
//! How many these were is the event `injector_unanswered_at_disable`.

mod config;
mod injector;
mod log;
pub(super) mod outcome;
pub(super) mod pending;
pub(super) mod receive;
mod shared;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;

pub use config::{InjectorConfig, SampleConfig, SampleConfigError};

use self::injector::Injector;
use self::receive::Receiver;
use self::shared::{Access, Shared, State};
use crate::dispatch::{Fired, TimerId};
use crate::driver::builtin::neighbors::{NeighborConfig, Neighbors, send_solicit};
use crate::driver::{Cx, DeviceInfo, Driver, DriverError, DriverFactory, DriverStats};
use crate::packet::PacketBatch;
use crate::proto::Local;

const NAME: &str = "sample";

/// Requests for MAC addresses sent in one go at the most, and the pause before the next go: with thousands of
/// targets they must fill neither the tx ring nor the link.
const SOLICITS_PER_TICK: usize = 64;
const SOLICIT_PAUSE: Duration = Duration::from_millis(1);

/// Makes the instances of the sample driver for one run. `Send` and `Clone`, so each worker's thread can have
/// one.
#[derive(Clone, Debug)]
pub struct SampleFactory {
    config: SampleConfig,
    shared: Arc<Shared>,
}

impl SampleFactory {
    /// Checks the configuration. `seed` gives the identifier and the token by which the run's own echo replies
    /// are recognised, so two runs at the same time need different ones.
    ///
    /// # Errors
    ///
    /// [`SampleConfigError`] when the configuration cannot work.
    pub fn new(config: SampleConfig, seed: u64) -> Result<Self, SampleConfigError> {
        let mut rng = Rng::with_seed(seed);
        let injector =
            config.injector.as_ref().map(|injector| Injector::new(injector, &mut rng)).transpose()?;
        let targets = config.injector.as_ref().map_or(0, |injector| injector.targets.len());
        let neighbors = NeighborConfig::default();
        let capacity = neighbors.capacity.max(targets);
        let neighbors = Neighbors::new(NeighborConfig { capacity, ..neighbors });
        Ok(Self { config, shared: Arc::new(Shared::new(neighbors, injector)) })
    }

    /// Makes one instance. Not more than one for each queue of one run.
    pub fn build(&self) -> Box<dyn Driver> {
        Box::new(SampleDriver {
            receiver: Receiver::new(self.config.answer),
            shared: Arc::clone(&self.shared),
            config: self.config.clone(),
            leader: None,
        })
    }
}

impl DriverFactory for SampleFactory {
    fn name(&self) -> &'static str {
        NAME
    }

    fn build(&self, _queue: u32) -> Box<dyn Driver> {
        SampleFactory::build(self)
    }
}

/// One instance of the sample driver.
#[derive(Debug)]
struct SampleDriver {
    config: SampleConfig,
    shared: Arc<Shared>,
    receiver: Receiver,
    leader: Option<Leader>,
}

/// What only the leading instance of a run has.
#[derive(Debug)]
struct Leader {
    packets: PacketBatch,
    timers: Option<LeaderTimers>,
    solicits_sent: u64,
    solicits_not_sent: u64,
}

#[derive(Clone, Copy, Debug)]
struct LeaderTimers {
    /// Injects echo requests.
    inject: TimerId,
    /// Asks for MAC addresses again, and gives up requests that nobody answers.
    housekeeping: TimerId,
}

fn error(operation: &'static str, reason: String) -> DriverError {
    DriverError { driver: NAME, operation, reason }
}

impl SampleDriver {
    /// Gives the injector its targets.
    fn add_targets(&self, config: &InjectorConfig, device: &DeviceInfo) -> Result<(), DriverError> {
        let mut state = self.shared.lock();
        let Some(injector) = &mut state.injector else { return Ok(()) };
        for &target in &config.targets {
            if !injector.add_target(target, &self.receiver.local) {
                let networks: Vec<_> =
                    device.addresses.iter().map(|(ip, prefix)| format!("{ip}/{prefix}")).collect();
                return Err(error(
                    "init",
                    format!(
                        "the target {target} is no neighbour of {} ({}): give a target on the same network, or add \
                         an address on the target's with --addr",
                        device.name,
                        if networks.is_empty() { "no address".to_owned() } else { networks.join(", ") },
                    ),
                ));
            }
        }
        self.shared.set_learning(config.targets.is_empty());
        Ok(())
    }
}

/// The longest payload of an echo request to any of the targets, or to any address if they are to be learnt.
fn longest_payload(config: &InjectorConfig, device: &DeviceInfo) -> usize {
    let over_ipv6 = if config.targets.is_empty() {
        device.addresses.iter().any(|(address, _)| address.is_ipv6())
    } else {
        config.targets.iter().any(IpAddr::is_ipv6)
    };
    let overhead = if over_ipv6 { 48 } else { 28 };
    device.mtu.saturating_sub(overhead)
}

impl Driver for SampleDriver {
    fn name(&self) -> &'static str {
        NAME
    }

    fn init(&mut self, device: &DeviceInfo) -> Result<(), DriverError> {
        self.receiver.local = Local::new(device.mac, &device.addresses);
        if !self.shared.take_lead() {
            return Ok(());
        }
        let mut batch = 0;
        if let Some(config) = &self.config.injector {
            let longest = longest_payload(config, device);
            if config.payload_len > longest {
                let (payload, mtu) = (config.payload_len, device.mtu);
                return Err(error(
                    "init",
                    format!(
                        "a payload of {payload} bytes does not fit the MTU of {mtu}: {longest} is the limit"
                    ),
                ));
            }
            self.add_targets(config, device)?;
            batch = config.batch;
        }
        let packets = PacketBatch::with_capacity(batch);
        self.leader = Some(Leader { packets, timers: None, solicits_sent: 0, solicits_not_sent: 0 });
        Ok(())
    }

    fn start(&mut self, cx: &mut Cx<'_>) -> Result<(), DriverError> {
        if let Some(leader) = &mut self.leader
            && self.config.injector.is_some()
        {
            leader.timers = Some(LeaderTimers {
                inject: cx.timers.create("inject"),
                housekeeping: cx.timers.create("housekeeping"),
            });
        }
        Ok(())
    }

    fn set_interface_enable(&mut self, cx: &mut Cx<'_>, enable: bool) -> Result<(), DriverError> {
        let (Some(leader), Some(config)) = (&mut self.leader, &self.config.injector) else { return Ok(()) };
        let Some(timers) = leader.timers else { return Ok(()) };
        let State { neighbors, injector } = &mut *self.shared.lock();
        let Some(injector) = injector else { return Ok(()) };
        if enable {
            cx.timers.arm_periodic(timers.inject, cx.now + config.first, config.interval);
            // Asked for now, so that the first tick finds the MAC addresses.
            for target in injector.targets() {
                neighbors.resolve(target, cx.now);
            }
            leader.keep_house(cx, neighbors, injector, &self.receiver.local);
        } else {
            cx.timers.cancel(timers.inject);
            cx.timers.cancel(timers.housekeeping);
            injector.settle(cx.now);
        }
        Ok(())
    }

    fn rx_packets(&mut self, cx: &mut Cx<'_>, batch: &mut PacketBatch) {
        let mut access = Access::new(&self.shared);
        while let Some(packet) = batch.pop() {
            self.receiver.complete(cx, packet, &mut access);
        }
    }

    fn receive_timer(&mut self, cx: &mut Cx<'_>, fired: Fired) {
        let (Some(leader), Some(config)) = (&mut self.leader, &self.config.injector) else { return };
        let State { neighbors, injector } = &mut *self.shared.lock();
        let Some(injector) = injector else { return };
        if leader.timers.is_some_and(|timers| timers.inject == fired.id) {
            injector.tick(cx, neighbors, &mut leader.packets, config.batch);
        }
        leader.keep_house(cx, neighbors, injector, &self.receiver.local);
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
            counters: self.receiver.outcomes.counters(),
            drops: self.receiver.outcomes.drops(),
            ..DriverStats::default()
        };
        if let Some(leader) = &self.leader {
            let state = self.shared.lock();
            stats.events = vec![
                ("neighbor_requests_sent", leader.solicits_sent),
                ("neighbor_requests_not_sent", leader.solicits_not_sent),
                ("neighbors_unreachable", state.neighbors.failed()),
            ];
            if let Some(injector) = &state.injector {
                stats.events.extend(injector.events());
                stats.injector = Some(injector.stats());
            }
        }
        stats
    }
}

impl Leader {
    /// Sends the requests for MAC addresses that are due, gives up echo requests whose time is over, and arms
    /// the timer for the next time there is something to do.
    fn keep_house(
        &mut self,
        cx: &mut Cx<'_>,
        neighbors: &mut Neighbors,
        injector: &mut Injector,
        local: &Local,
    ) {
        injector.expire(cx.now);
        for _ in 0..SOLICITS_PER_TICK {
            let Some(solicit) = neighbors.pop_due(cx.now) else { break };
            let source = local.source_for(solicit.target);
            match source.and_then(|source| send_solicit(cx, source, solicit)) {
                Some(()) => self.solicits_sent += 1,
                None => self.solicits_not_sent += 1,
            }
        }
        let Some(LeaderTimers { housekeeping, .. }) = self.timers else { return };
        match [neighbors.next_deadline(), injector.deadline()].into_iter().flatten().min() {
            Some(deadline) => cx.timers.arm_once(housekeeping, deadline.max(cx.now + SOLICIT_PAUSE)),
            None => cx.timers.cancel(housekeeping),
        }
    }
}
