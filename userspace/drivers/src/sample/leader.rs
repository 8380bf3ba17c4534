//! What only one instance of a run does: the timers, the requests for MAC addresses, and changes of the injector.

use std::net::IpAddr;
use std::time::Duration;

use super::config::InjectorConfig;
use super::inject::{InjectCommand, InjectSettings};
use super::injector::{Injector, path_to};
use super::shared::{Shared, State};
use crate::neighbors::{Neighbors, send_solicit};
use crate::requests::check_payload;
use netdext::dispatch::{Fired, TimerId, Timestamp};
use netdext::driver::{Cx, DeviceInfo, PortId};
use netdext::packet::PacketBatch;
use netdext::proto::Local;
use netdext::proto::probe::Path;

/// Requests for MAC addresses sent in one go at the most, and the pause before the next go: with thousands of
/// targets they must fill neither the tx ring nor the link.
const SOLICITS_PER_GO: usize = 64;
const SOLICIT_PAUSE: Duration = Duration::from_millis(1);

/// The leading instance's part.
#[derive(Debug)]
pub(super) struct Leader {
    /// What the injector does now; `None` as long as nobody asked for one.
    config: Option<InjectorConfig>,
    /// Whether it is to send while the interface is enabled.
    started: bool,
    enabled: bool,
    packets: PacketBatch,
    timers: Option<LeaderTimers>,
    /// No request for a MAC address before this time.
    solicit_at: Timestamp,
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

impl LeaderTimers {
    fn create(cx: &mut Cx<'_>) -> Self {
        Self { inject: cx.timers.create("inject"), housekeeping: cx.timers.create("housekeeping") }
    }
}

impl Leader {
    /// Sets the injector up as `config` has it, if there is one. The error says what is wrong and what to do.
    pub(super) fn new(
        config: Option<InjectorConfig>,
        device: &DeviceInfo,
        shared: &Shared,
        local: &Local,
    ) -> Result<Self, String> {
        let mut leader = Self {
            started: config.is_some(),
            config: None,
            enabled: false,
            packets: PacketBatch::with_capacity(0),
            timers: None,
            solicit_at: Timestamp::default(),
            solicits_sent: 0,
            solicits_not_sent: 0,
        };
        if let Some(mut config) = config {
            if config.targets.is_empty() {
                config.targets = other_end(device, local).into_iter().collect();
            }
            leader.apply(config, true, Timestamp::default(), device, shared, local)?;
        }
        Ok(leader)
    }

    /// The queues exist: makes the timers that an injector needs.
    pub(super) fn start(&mut self, cx: &mut Cx<'_>) {
        if self.config.is_some() {
            self.timers = Some(LeaderTimers::create(cx));
        }
    }

    /// The interface is enabled or disabled.
    pub(super) fn set_enabled(&mut self, cx: &mut Cx<'_>, enable: bool, shared: &Shared, local: &Local) {
        self.enabled = enable;
        let (Some(config), Some(timers)) = (&self.config, self.timers) else { return };
        if !enable {
            cx.timers.cancel(timers.inject);
            cx.timers.cancel(timers.housekeeping);
            if let Some(injector) = &mut shared.lock().injector {
                injector.settle(cx.now);
            }
        } else if self.started {
            cx.timers.arm_periodic(timers.inject, cx.now + config.first, config.interval);
            self.resolve_targets(cx, shared, local);
        }
    }

    /// A timer fired.
    pub(super) fn receive_timer(&mut self, cx: &mut Cx<'_>, fired: Fired, shared: &Shared, local: &Local) {
        let (Some(config), Some(timers)) = (&self.config, self.timers) else { return };
        let State { neighbors, injector, .. } = &mut *shared.lock();
        let Some(injector) = injector else { return };
        if timers.inject == fired.id {
            injector.tick(cx, neighbors, &mut self.packets, config.batch, fired.scheduled);
        }
        self.keep_house(cx, neighbors, injector, local);
        shared.set_learning(injector.looks_for_target());
    }

    /// Starts, stops or changes the injector. The error says what is wrong and what to do; nothing is changed then.
    pub(super) fn inject(
        &mut self,
        cx: &mut Cx<'_>,
        command: &InjectCommand,
        shared: &Shared,
        local: &Local,
    ) -> Result<(), String> {
        match command {
            InjectCommand::Start => {
                if self.config.is_none() {
                    self.set(cx, &InjectSettings::default(), shared, local)?;
                }
                if !self.started {
                    self.started = true;
                    self.arm(cx, cx.now);
                    self.resolve_targets(cx, shared, local);
                }
            }
            InjectCommand::Stop => {
                self.started = false;
                if let Some(timers) = self.timers {
                    cx.timers.cancel(timers.inject);
                }
            }
            InjectCommand::Set(settings) => self.set(cx, settings, shared, local)?,
            // Answered without the leader.
            InjectCommand::Targets => {}
        }
        Ok(())
    }

    fn set(
        &mut self,
        cx: &mut Cx<'_>,
        settings: &InjectSettings,
        shared: &Shared,
        local: &Local,
    ) -> Result<(), String> {
        let before = self.config.as_ref();
        let is_new = before.is_none();
        let InjectSettings { interval_ns, batch, payload_bytes, targets } = settings;
        let mut config = before.cloned().unwrap_or_default();
        let interval_before = config.interval;
        config.interval = interval_ns.map_or(config.interval, Duration::from_nanos);
        config.batch = batch.unwrap_or(config.batch);
        config.payload_len = payload_bytes.unwrap_or(config.payload_len);
        if let Some(targets) = targets {
            config.targets.clone_from(targets);
        }
        let interval_now = config.interval;
        self.apply(config, is_new || targets.is_some(), cx.now, cx.device(PortId::FIRST), shared, local)?;
        if self.timers.is_none() {
            self.timers = Some(LeaderTimers::create(cx));
        }
        if interval_now != interval_before {
            self.arm(cx, cx.now + interval_now);
        }
        if targets.is_some() && self.started {
            self.resolve_targets(cx, shared, local);
        }
        Ok(())
    }

    /// Checks a configuration and makes it the injector's, which is made if there is none.
    fn apply(
        &mut self,
        config: InjectorConfig,
        new_targets: bool,
        now: Timestamp,
        device: &DeviceInfo,
        shared: &Shared,
        local: &Local,
    ) -> Result<(), String> {
        let waiting = config.waiting().map_err(|error| error.to_string())?;
        check_payload(config.payload_len, device.mtu, over_ipv6(&config, device))?;
        let paths = if new_targets { paths(&config.targets, device, local)? } else { Vec::new() };
        let State { neighbors, injector, identity } = &mut *shared.lock();
        let injector = injector.get_or_insert_with(|| Injector::new(*identity, &config, waiting));
        if new_targets {
            injector.set_targets(&paths, now).map_err(|_| {
                format!(
                    "too many earlier targets still have requests on their way: try again in {:?}",
                    config.reply_timeout
                )
            })?;
            neighbors.make_room_for(paths.len());
            shared.set_learning(injector.looks_for_target());
        }
        injector.set_shape(config.payload_len, waiting);
        if self.config.as_ref().is_none_or(|before| before.batch != config.batch) {
            self.packets = PacketBatch::with_capacity(config.batch);
        }
        self.config = Some(config);
        Ok(())
    }

    /// Lets the injector send from `first` on, if it is to send now.
    fn arm(&self, cx: &mut Cx<'_>, first: Timestamp) {
        if let (Some(config), Some(timers), true, true) =
            (&self.config, self.timers, self.started, self.enabled)
        {
            cx.timers.arm_periodic(timers.inject, first, config.interval);
        }
    }

    /// Asks for the MAC addresses now, so that the next tick finds them.
    fn resolve_targets(&mut self, cx: &mut Cx<'_>, shared: &Shared, local: &Local) {
        if !self.enabled {
            return;
        }
        let State { neighbors, injector, .. } = &mut *shared.lock();
        let Some(injector) = injector else { return };
        for target in injector.targets() {
            neighbors.resolve(target, cx.now);
        }
        self.keep_house(cx, neighbors, injector, local);
    }

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
        if cx.now >= self.solicit_at {
            self.solicit(cx, neighbors, local);
        }
        let Some(LeaderTimers { housekeeping, .. }) = self.timers else { return };
        let solicit_at = neighbors.next_deadline().map(|deadline| deadline.max(self.solicit_at));
        match [solicit_at, injector.deadline()].into_iter().flatten().min() {
            Some(deadline) => cx.timers.arm_once(housekeeping, deadline.max(cx.now + SOLICIT_PAUSE)),
            None => cx.timers.cancel(housekeeping),
        }
    }

    fn solicit(&mut self, cx: &mut Cx<'_>, neighbors: &mut Neighbors, local: &Local) {
        for _ in 0..SOLICITS_PER_GO {
            let Some(solicit) = neighbors.pop_due(cx.now) else { return };
            let source = local.source_for(solicit.target);
            match source.and_then(|source| send_solicit(cx, source, solicit)) {
                Some(()) => self.solicits_sent += 1,
                None => self.solicits_not_sent += 1,
            }
        }
        self.solicit_at = cx.now + SOLICIT_PAUSE;
    }

    /// Requests for MAC addresses, by what became of them.
    pub(super) fn events(&self) -> [(&'static str, u64); 2] {
        [
            ("neighbor_requests_sent", self.solicits_sent),
            ("neighbor_requests_not_sent", self.solicits_not_sent),
        ]
    }
}

/// The address of a veth pair's other end that is on a network of ours; IPv4 before IPv6.
fn other_end(device: &DeviceInfo, local: &Local) -> Option<IpAddr> {
    let addresses = device.peer_addresses.iter().map(|(address, _)| *address);
    addresses.filter(|address| path_to(*address, local).is_some()).min_by_key(IpAddr::is_ipv6)
}

/// Whether any of the targets, or any address if they are to be learnt, is one of IPv6.
fn over_ipv6(config: &InjectorConfig, device: &DeviceInfo) -> bool {
    if config.targets.is_empty() {
        device.addresses.iter().any(|(address, _)| address.is_ipv6())
    } else {
        config.targets.iter().any(IpAddr::is_ipv6)
    }
}

/// How to reach each of the targets.
fn paths(targets: &[IpAddr], device: &DeviceInfo, local: &Local) -> Result<Vec<Path>, String> {
    let path = |&target| {
        path_to(target, local).ok_or_else(|| {
            let networks: Vec<_> =
                device.addresses.iter().map(|(ip, prefix)| format!("{ip}/{prefix}")).collect();
            format!(
                "the target {target} is no neighbour of {} ({}): give a target on the same network, or add an \
                 address on the target's with --addr",
                device.name,
                if networks.is_empty() { "no address".to_owned() } else { networks.join(", ") },
            )
        })
    };
    targets.iter().map(path).collect()
}
