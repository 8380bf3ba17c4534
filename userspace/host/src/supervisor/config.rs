//! What to run, and what is refused before anything is touched.

use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU32;

use super::requirements::{self, Plan, RequirementError};
use super::{CommandError, RunReport, SwitchError};
use crate::cpu;
use crate::kernel::KernelError;
use crate::link::threaded::TuneError;
use crate::link::{Device, DeviceError};
use crate::steer::Rule;
use crate::worker::SpawnError;
use crate::worker::WaitStrategy;
use crate::xdp::peer_napi::PeerNapiError;
use crate::xdp::program::{ProgramError, XdpMode};
use netdext::driver::{DriverFactory, PowerState};
use netdext::packet::FrameSize;
use netdext::port::RingSizes;
use netdext::proto::broadcast;

/// Packets that one callback gets at the most.
pub(super) const CALLBACK_BATCH: usize = 64;

/// Bytes of Ethernet header with two VLAN tags, in front of the MTU.
const LINK_HEADER_MAX: usize = 14 + 2 * 4;

/// How many queues to serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueSelection {
    /// The first so many.
    First(u32),
    /// All that are active.
    All,
}

/// What to run, and how.
#[derive(Clone)]
pub struct RunConfig {
    /// The interface.
    pub iface: String,
    /// Further interfaces, for a driver that takes several; the same queue of all of them is served by one worker.
    pub other_ifaces: Vec<String>,
    /// Addresses of the driver on the first interface, each with the length of its prefix.
    pub addresses: Vec<(IpAddr, u8)>,
    /// The XDP mode.
    pub mode: XdpMode,
    /// How workers wait.
    pub wait: WaitStrategy,
    /// The queues to serve.
    pub queues: QueueSelection,
    /// Steering rules, the oldest first.
    pub rules: Vec<Rule>,
    /// Requests for the addresses are answered by the XDP program while the driver is enabled.
    pub answer: bool,
    /// Answers of the XDP program that each source gets a second.
    pub answer_limit: Option<NonZeroU32>,
    /// Do so even on the interface of the default route.
    pub cut_off: bool,
    /// Take another XDP program off the interface.
    pub replace: bool,
    /// Log every steering decision of the XDP program.
    pub log_frames: bool,
    /// Measure how long frames take from stage to stage.
    pub latency: bool,
    /// Give NAPI of a veth's other end a thread while the driver runs, where that pays.
    pub tune: bool,
    /// Slots of the rings of each queue.
    pub rings: RingSizes,
    /// Makes the driver.
    pub driver: DriverFactory,
    /// Whether the driver gets its frames from the start.
    pub enabled: bool,
    /// The power state to start in.
    pub power: PowerState,
    /// Start also on a kernel that can panic as soon as a socket sends ([`Release::can_panic`]).
    ///
    /// [`Release::can_panic`]: crate::kernel::Release::can_panic
    pub risk_kernel_panic: bool,
}

impl RunConfig {
    /// A driver on an interface, with everything else as `netdext run` has it unless told otherwise, and
    /// without an address.
    pub fn new(iface: impl Into<String>, driver: DriverFactory) -> Self {
        Self {
            iface: iface.into(),
            other_ifaces: Vec::new(),
            addresses: Vec::new(),
            mode: XdpMode::Auto,
            wait: WaitStrategy::default(),
            queues: QueueSelection::All,
            rules: Vec::new(),
            answer: false,
            answer_limit: None,
            cut_off: false,
            replace: false,
            log_frames: false,
            latency: true,
            tune: false,
            rings: RingSizes::default(),
            driver,
            enabled: true,
            power: PowerState::On,
            risk_kernel_panic: false,
        }
    }

    /// Every interface, the first one first.
    pub fn ifaces(&self) -> impl Iterator<Item = &str> + '_ {
        std::iter::once(&self.iface).chain(&self.other_ifaces).map(String::as_str)
    }
}

/// The broadcast addresses of the networks of these addresses.
pub(super) fn broadcasts(addresses: &[(IpAddr, u8)]) -> Vec<Ipv4Addr> {
    let broadcast = |&(address, prefix)| match address {
        IpAddr::V4(address) => broadcast(address, prefix),
        IpAddr::V6(_) => None,
    };
    addresses.iter().filter_map(broadcast).collect()
}

/// Why a driver could not be started. Nothing is left behind then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The kernel can panic.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The interface cannot be used.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The interface has no Ethernet address.
    #[error("{iface} is no Ethernet interface")]
    NotEthernet {
        /// The interface.
        iface: String,
    },
    /// An interface is named more than once.
    #[error("{iface} is given twice: a driver takes each interface once")]
    IfaceTwice {
        /// The interface.
        iface: String,
    },
    /// Frames of the interface do not fit a chunk of the UMEM.
    #[error(
        "the MTU of {iface} is {mtu}, and a frame of the UMEM holds {max}: lower it with `ip link set {iface} mtu {max}`"
    )]
    MtuTooLarge {
        /// The interface.
        iface: String,
        /// Its MTU in bytes.
        mtu: u32,
        /// The largest possible MTU in bytes.
        max: usize,
    },
    /// More queues were asked for than there are.
    #[error(
        "{iface} has {active} active queue(s), not {wanted}: use --queues {active}, or `ethtool -L {iface}` for more"
    )]
    QueueOutOfRange {
        /// The interface.
        iface: String,
        /// How many were asked for.
        wanted: u32,
        /// How many are active.
        active: u32,
    },
    /// Steering everything would cut the host off.
    #[error(
        "{iface} carries the default route: the rule `{rule}` would cut this host off; add --yes if that is meant"
    )]
    DefaultRoute {
        /// The rule.
        rule: Box<Rule>,
        /// The interface.
        iface: String,
    },
    /// So would what the driver itself steers.
    #[error(
        "the driver {driver} takes every frame of {iface}, which carries the default route: it would cut this host off; \
         add --yes if that is meant"
    )]
    DriverCutsOff {
        /// The driver.
        driver: &'static str,
        /// The interface.
        iface: String,
    },
    /// The driver needs what it can't have.
    #[error(transparent)]
    Requirement(#[from] RequirementError),
    /// The XDP program.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// The other end of the pair is not ready for answers of the XDP program.
    #[error(transparent)]
    PeerNapi(#[from] PeerNapiError),
    /// The other end of the pair could not be tuned.
    #[error(transparent)]
    Tune(#[from] TuneError),
    /// A worker.
    #[error(transparent)]
    Worker(#[from] SpawnError),
    /// A worker ended while it was being set up.
    #[error("the worker of queue {queue} ended while it was being started")]
    EndedEarly {
        /// The queue.
        queue: u32,
    },
    /// Switching the driver on: a callback, or the XSKMAP.
    #[error(transparent)]
    Switch(#[from] SwitchError),
}

impl StartError {
    /// The error of the worker that ended, where that is all that is known so far.
    pub(super) fn explained_by(self, report: RunReport) -> Self {
        let (Self::EndedEarly { queue } | Self::Switch(SwitchError::Command(CommandError::Ended { queue }))) =
            self
        else {
            return self;
        };
        let cause = report.errors.into_iter().find(|(failed, _)| *failed == queue);
        cause.map_or(self, |(_, error)| Self::Worker(error.into()))
    }
}

/// Refuses what cannot work.
pub(super) fn check(config: &RunConfig, devices: &[Device]) -> Result<Plan, StartError> {
    let mut queues = u32::MAX;
    let mut frame_size = FrameSize::TwoK;
    for (index, device) in devices.iter().enumerate() {
        if device.mac == [0; 6] {
            return Err(StartError::NotEthernet { iface: device.name.clone() });
        }
        if devices[..index].iter().any(|other| other.index == device.index) {
            return Err(StartError::IfaceTwice { iface: device.name.clone() });
        }
        frame_size = frame_size.max(self::frame_size(device)?);
        queues = queues.min(wanted_queues(config, device)?);
    }
    for device in devices {
        warn_of_unserved_queues(device, queues);
    }
    let plan = requirements::plan(config, queues, frame_size)?;
    let everything = plan.rules.iter().find(|rule| rule.takes_everything());
    if let Some(rule) = everything
        && !config.cut_off
        && let Some(device) = devices.iter().find(|device| device.is_default_route)
    {
        let iface = device.name.clone();
        return Err(if config.rules.contains(rule) {
            StartError::DefaultRoute { iface, rule: Box::new(*rule) }
        } else {
            StartError::DriverCutsOff { driver: config.driver.name(), iface }
        });
    }
    Ok(plan)
}

/// How many queues of a device are asked for.
fn wanted_queues(config: &RunConfig, device: &Device) -> Result<u32, StartError> {
    let active = device.active_queues.usable();
    match config.queues {
        QueueSelection::All => Ok(active),
        QueueSelection::First(wanted) if wanted <= active => Ok(wanted),
        QueueSelection::First(wanted) => {
            Err(StartError::QueueOutOfRange { iface: device.name.clone(), wanted, active })
        }
    }
}

fn warn_of_unserved_queues(device: &Device, served: u32) {
    let active = device.active_queues.usable();
    if served < active {
        tracing::warn!(
            iface = %device.name,
            "{served} of {active} queues are served: frames that arrive on the others stay with the kernel"
        );
    }
}

/// The frame size that holds the interface's frames.
pub(super) fn frame_size(device: &Device) -> Result<FrameSize, StartError> {
    FrameSize::for_frame_len(device.mtu as usize + LINK_HEADER_MAX).ok_or_else(|| StartError::MtuTooLarge {
        iface: device.name.clone(),
        mtu: device.mtu,
        max: FrameSize::FourK.max_data() - LINK_HEADER_MAX,
    })
}

/// The CPUs to pin workers to, in order of use: the last one first, because interrupts prefer the first.
/// Empty on a single CPU, where pinning means nothing.
pub(super) fn worker_cpus() -> Vec<usize> {
    let cpus = cpu::allowed().unwrap_or_default();
    if cpus.len() > 1 { cpus.into_iter().rev().collect() } else { Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::{ActiveQueues, QueueSource};
    use netdext::driver::{Driver, Requirements};

    fn device(name: &str, index: u32, is_default_route: bool) -> Device {
        Device {
            name: name.to_owned(),
            index,
            mac: [2, 0, 0, 0, 0, 1],
            mtu: 1500,
            up: true,
            carrier: true,
            kind: None,
            alias: String::new(),
            peer: None,
            active_queues: ActiveQueues { rx: 1, tx: 1, source: QueueSource::Sysfs },
            addresses: Vec::new(),
            xdp: None,
            is_default_route,
        }
    }

    #[test]
    fn what_cuts_the_host_off_is_refused_with_what_takes_everything() {
        let build = |_queue| -> Box<dyn Driver> { unreachable!("it is refused before") };
        let needs = Requirements::default().ports(1..=2).steering(["all"]);
        let greedy = DriverFactory::new("greedy", build).requiring(needs);
        let config = RunConfig { other_ifaces: vec!["veth2".to_owned()], ..RunConfig::new("veth0", greedy) };
        let devices = [device("veth0", 1, false), device("veth2", 2, true)];
        assert_eq!(
            check(&config, &devices).unwrap_err().to_string(),
            "the driver greedy takes every frame of veth2, which carries the default route: it would cut this host \
             off; add --yes if that is meant"
        );
        let users = RunConfig { rules: vec!["all".parse().unwrap()], ..config.clone() };
        assert_eq!(
            check(&users, &devices).unwrap_err().to_string(),
            "veth2 carries the default route: the rule `driver` would cut this host off; add --yes if that is meant"
        );
        assert!(check(&RunConfig { cut_off: true, ..config.clone() }, &devices).is_ok());
        assert!(check(&config, &[device("veth0", 1, false), device("veth2", 2, false)]).is_ok());
    }

    #[test]
    fn the_broadcast_addresses_are_those_of_the_addresses_that_are_given() {
        let addresses = [("198.18.0.9".parse().unwrap(), 24), ("2001:db8::1".parse().unwrap(), 64)];
        assert_eq!(broadcasts(&addresses), [Ipv4Addr::new(198, 18, 0, 255)]);
        assert!(broadcasts(&[]).is_empty(), "of an interface without addresses");
    }
}
