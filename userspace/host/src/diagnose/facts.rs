//! What the checks go by, and how it is gathered. `None` stands for what could not be learnt.

use std::collections::BTreeSet;

use aya::programs::links::LinkType;
use aya::programs::loaded_links;
use caps::{CapSet, Capability};
use ethtool::{EthtoolAttr, EthtoolChannelAttr, EthtoolRingAttr};
use futures_util::StreamExt;
use rustix::process::{Resource, getrlimit};

use crate::kernel::{KernelFeatures, Release};
use crate::link::offload::active_features;
use crate::link::sysfs::NetSysfs;
use crate::link::xdp_features::{XdpFeatures, xdp_features};
use crate::link::{Device, DeviceError};
use crate::privilege::{Cap, missing_for_run};
use crate::xdp::attachment::ForeignProgram;
use crate::xdp::program::{ProgramConfig, SteeringProgram};
use netdext::error::one_line;

/// Everything that the checks look at.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The machine and this process.
    pub system: SystemFacts,
    /// The interface.
    pub end: EndFacts,
    /// The other end of the pair, if it is one.
    pub peer: PeerView,
    /// The XDP program on the interface.
    pub attached: Option<AttachedProgram>,
    /// The most queues that can be active, to receive and to send.
    pub possible_queues: Option<(u32, u32)>,
    /// The hardware's receive ring.
    pub rx_ring: Option<RingSlots>,
}

/// The machine and this process.
#[derive(Clone, Debug)]
pub struct SystemFacts {
    /// The kernel's release.
    pub release: Release,
    /// What the kernel has; `None` where that was not tried, because a capability is missing.
    pub features: Option<KernelFeatures>,
    /// Capabilities that are missing for a run.
    pub missing: Vec<Cap>,
    /// Whether the kernel describes its types.
    pub btf: bool,
    /// The limit of locked memory in bytes; `None` for no limit.
    pub memlock_bytes: Option<u64>,
    /// Whether that limit does not count (`CAP_IPC_LOCK`).
    pub ipc_lock: bool,
    /// CPUs that this process may use.
    pub cpus: usize,
    /// `net.core.busy_poll` and `net.core.busy_read`, in us; only the first namespace has them.
    pub busy_poll_us: Option<(u64, u64)>,
    /// `net.core.bpf_jit_enable`; only the first namespace has it.
    pub jit: Option<bool>,
    /// Whether the kernel takes the XDP program.
    pub program: ProgramTrial,
}

/// What became of loading the XDP program, without attaching it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProgramTrial {
    /// Not tried, because a capability is missing.
    NotTried,
    /// The kernel takes it.
    Loaded,
    /// It does not, for this reason.
    Refused(String),
}

/// One end of a link.
#[derive(Clone, Debug)]
pub struct EndFacts {
    /// What netlink says.
    pub device: Device,
    /// The active features, by their names in the kernel.
    pub features: Option<BTreeSet<String>>,
    /// What the driver can do with XDP.
    pub xdp: Option<XdpFeatures>,
    /// `gro_flush_timeout` in ns.
    pub gro_flush_timeout_ns: Option<u64>,
    /// `napi_defer_hard_irqs`.
    pub defer_hard_irqs: Option<u64>,
    /// Whether NAPI runs in threads of its own.
    pub threaded: Option<bool>,
    /// The effective `rp_filter`: 0 off, 1 strict, 2 loose.
    pub rp_filter: Option<u8>,
}

/// The other end of a pair.
#[derive(Clone, Debug)]
pub enum PeerView {
    /// The interface is no end of a pair.
    NoPair,
    /// In another network namespace, where it can't be looked at from here.
    Elsewhere,
    /// In this one.
    Here(Box<EndFacts>),
}

/// An XDP program on the interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttachedProgram {
    /// Number, name and mode.
    pub program: ForeignProgram,
    /// Whether a bpf_link holds it, and so a process or a pin; `None` without the right to ask.
    pub held_by_link: Option<bool>,
}

/// Slots of a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingSlots {
    /// In use.
    pub now: u32,
    /// The most that the device allows.
    pub max: u32,
}

impl Facts {
    /// Asks the kernel about the interface `iface` of the calling thread's namespace. Nothing is changed: the XDP
    /// program is loaded and dropped again, not attached.
    ///
    /// # Errors
    /// There is no such interface, or the kernel refused to say what is on it.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub async fn gather(iface: &str) -> Result<Self, DeviceError> {
        let device = Device::query(iface).await?;
        let sysfs = NetSysfs::open();
        let attached = device
            .xdp
            .map(|there| AttachedProgram { held_by_link: held_by_link(there.id), program: there.named() });
        let peer = match (device.peer, device.peer_device().await?) {
            (_, Some(peer)) => PeerView::Here(Box::new(EndFacts::gather(peer, &sysfs).await)),
            (Some(_), None) => PeerView::Elsewhere,
            (None, None) => PeerView::NoPair,
        };
        Ok(Self {
            system: SystemFacts::gather(&device),
            possible_queues: possible_queues(iface).await,
            rx_ring: rx_ring(iface).await,
            end: EndFacts::gather(device, &sysfs).await,
            peer,
            attached,
        })
    }
}

impl SystemFacts {
    fn gather(device: &Device) -> Self {
        let missing = missing_for_run();
        let sysctl = |name: &str| number(std::fs::read_to_string(format!("/proc/sys/net/core/{name}")).ok()?);
        Self {
            release: Release::running(),
            features: missing.is_empty().then(|| KernelFeatures::running().clone()),
            program: if missing.is_empty() { try_program(device) } else { ProgramTrial::NotTried },
            missing,
            btf: std::path::Path::new("/sys/kernel/btf/vmlinux").exists(),
            memlock_bytes: getrlimit(Resource::Memlock).current,
            ipc_lock: caps::has_cap(None, CapSet::Effective, Capability::CAP_IPC_LOCK).unwrap_or(false),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            busy_poll_us: sysctl("busy_poll").zip(sysctl("busy_read")),
            jit: sysctl("bpf_jit_enable").map(|value| value != 0),
        }
    }
}

fn try_program(device: &Device) -> ProgramTrial {
    let config = ProgramConfig { queues: device.active_queues.usable(), ..ProgramConfig::default() };
    match SteeringProgram::load(&config) {
        Ok(_dropped) => ProgramTrial::Loaded,
        Err(error) => ProgramTrial::Refused(one_line(&error)),
    }
}

impl EndFacts {
    async fn gather(device: Device, sysfs: &NetSysfs) -> Self {
        let attribute = |name| number(sysfs.read(&device.name, device.index, name).ok()?);
        Self {
            features: active_features(&device.name).await.ok(),
            xdp: xdp_features(device.index).await,
            gro_flush_timeout_ns: attribute("gro_flush_timeout"),
            defer_hard_irqs: attribute("napi_defer_hard_irqs"),
            threaded: attribute("threaded").map(|value| value != 0),
            rp_filter: rp_filter(&device.name),
            device,
        }
    }

    /// Whether the feature of that name is active; `false` also where that is not known.
    pub fn has(&self, feature: &str) -> bool {
        self.features.as_ref().is_some_and(|features| features.contains(feature))
    }
}

fn number(text: String) -> Option<u64> {
    text.trim().parse().ok()
}

/// The kernel takes the stricter of the interface's and that of `all` (ip-sysctl).
fn rp_filter(iface: &str) -> Option<u8> {
    let read = |name: &str| {
        let path = format!("/proc/sys/net/ipv4/conf/{name}/rp_filter");
        u8::try_from(number(std::fs::read_to_string(path).ok()?)?).ok()
    };
    Some(read("all")?.max(read(iface)?))
}

fn held_by_link(program_id: u32) -> Option<bool> {
    for link in loaded_links() {
        let link = link.ok()?;
        if link.program_id() == program_id && link.link_type().is_ok_and(|kind| kind == LinkType::Xdp) {
            return Some(true);
        }
    }
    Some(false)
}

/// `None` where the driver has no channels to speak of.
async fn possible_queues(iface: &str) -> Option<(u32, u32)> {
    let (connection, mut handle, _) = ethtool::new_connection().ok()?;
    tokio::spawn(connection);
    let mut replies = Box::pin(handle.channel().get(Some(iface)).execute().await.ok()?);
    let (mut rx, mut tx) = (0, 0);
    for attribute in &replies.next().await?.ok()?.payload.nlas {
        match attribute {
            EthtoolAttr::Channel(EthtoolChannelAttr::RxMax(max)) => rx += max,
            EthtoolAttr::Channel(EthtoolChannelAttr::TxMax(max)) => tx += max,
            EthtoolAttr::Channel(EthtoolChannelAttr::CombinedMax(max)) => {
                rx += max;
                tx += max;
            }
            _ => {}
        }
    }
    (rx > 0 && tx > 0).then_some((rx, tx))
}

/// `None` where the device has no ring to size.
async fn rx_ring(iface: &str) -> Option<RingSlots> {
    let (connection, mut handle, _) = ethtool::new_connection().ok()?;
    tokio::spawn(connection);
    let mut replies = Box::pin(handle.ring().get(Some(iface)).execute().await.ok()?);
    let (mut now, mut max) = (None, None);
    for attribute in &replies.next().await?.ok()?.payload.nlas {
        match attribute {
            EthtoolAttr::Ring(EthtoolRingAttr::Rx(slots)) => now = Some(*slots),
            EthtoolAttr::Ring(EthtoolRingAttr::RxMax(slots)) => max = Some(*slots),
            _ => {}
        }
    }
    Some(RingSlots { now: now?, max: max? })
}
