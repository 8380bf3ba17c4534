//! NAPI of a veth's other end in a thread of its own, while a driver runs (`--tune`).
//!
//! On a veth the CPU that sends also does what the other end's NAPI has to do. In a thread of its own that work moves to
//! another CPU: more frames a second, and a longer way for each (docs/performance.md has figures).
//!
//! Without an XDP program at the other end, what is sent over AF_XDP goes through its NAPI only while the sending end has
//! no TCP segmentation offload (`veth_skb_is_eligible_for_gro` of drivers/net/veth.c), whether or not GRO is on there. So
//! that is switched off too where it matters; what the kernel itself sends over the driver's interface is segmented in
//! software then.

use std::collections::BTreeSet;
use std::fmt;

use super::device::{Device, Peer, PeerLocation};
use super::netlink::DeviceError;
use super::offload::active_features;
use super::sysfs::NetSysfs;
use super::tuning::{Change, Tuned, TuningError};

/// One for the driver's worker, one for the thread.
const CPUS_NEEDED: usize = 2;
/// 1 where NAPI runs in threads, in /sys/class/net/IFACE.
const THREADED: &str = "threaded";
const GRO: &str = "rx-gro";
/// TCP segmentation offload (`NETIF_F_ALL_TSO`), as the kernel names it.
const SEGMENTATION: [&str; 4] = [
    "tx-tcp-segmentation",
    "tx-tcp-ecn-segmentation",
    "tx-tcp-mangleid-segmentation",
    "tx-tcp6-segmentation",
];

/// What `--tune` did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tuning {
    /// These changes, which are taken back when the driver stops.
    Changed(Vec<Change>),
    /// Nothing.
    Left(Untuned),
}

impl fmt::Display for Tuning {
    /// The commands that make the changes, as one line for a shell, or why there are none.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Changed(changes) => f.write_str(&commands(changes)),
            Self::Left(why) => why.fmt(f),
        }
    }
}

/// The commands that make these changes, as one line for a shell.
pub fn commands(changes: &[Change]) -> String {
    changes.iter().map(Change::command).collect::<Vec<_>>().join(" && ")
}

/// Why nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Untuned {
    /// The interface is no end of a veth pair.
    NoPair,
    /// The other end is in another network namespace.
    Elsewhere,
    /// There is but one CPU.
    OneCpu,
    /// The other end has no NAPI that could have a thread.
    NoNapi {
        /// The other end.
        peer: String,
    },
    /// Its NAPI has a thread.
    Threaded {
        /// The other end.
        peer: String,
    },
    /// The kernel has no such setting, or does not tell.
    Unknown {
        /// The other end.
        peer: String,
    },
}

impl fmt::Display for Untuned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPair => f.write_str("the interface is no end of a veth pair"),
            Self::Elsewhere => f.write_str("the other end of the pair is in another network namespace"),
            Self::OneCpu => f.write_str("there is but one CPU, which NAPI of the other end has anyway"),
            Self::NoNapi { peer } => write!(
                f,
                "{peer} has no NAPI, neither by GRO nor by an XDP program; `ethtool -K {peer} gro on` gives it one"
            ),
            Self::Threaded { peer } => write!(f, "NAPI of {peer} has a thread of its own already"),
            Self::Unknown { peer } => {
                write!(f, "/sys/class/net/{peer}/{THREADED} can't be read: it came with Linux 5.12")
            }
        }
    }
}

/// What is to be known about the two ends. Features are those that are active, by the kernel's names; where the kernel does
/// not tell they are taken for off.
#[derive(Clone, Copy, Debug)]
pub struct Ends<'a> {
    /// The driver's end.
    pub device: &'a Device,
    /// Its features.
    pub features: Option<&'a BTreeSet<String>>,
    /// The other end.
    pub peer: &'a Device,
    /// Its features.
    pub peer_features: Option<&'a BTreeSet<String>>,
    /// Whether its NAPI has a thread, as far as the kernel tells.
    pub peer_threaded: Option<bool>,
}

/// Decides what is changed with so many CPUs.
///
/// # Errors
///
/// [`Untuned`], if nothing is to be changed.
pub fn decide(cpus: usize, ends: &Ends<'_>) -> Result<Vec<Change>, Untuned> {
    let name = ends.peer.name.clone();
    if cpus < CPUS_NEEDED {
        return Err(Untuned::OneCpu);
    }
    // A veth receives by NAPI only with one of them.
    let has =
        |features: Option<&BTreeSet<String>>, name| features.is_some_and(|active| active.contains(name));
    if ends.peer.xdp.is_none() && !has(ends.peer_features, GRO) {
        return Err(Untuned::NoNapi { peer: name });
    }
    match ends.peer_threaded {
        Some(false) => {}
        Some(true) => return Err(Untuned::Threaded { peer: name }),
        None => return Err(Untuned::Unknown { peer: name }),
    }
    let active = SEGMENTATION.into_iter().filter(|feature| has(ends.features, *feature));
    let features: Vec<String> = active.map(str::to_owned).collect();
    let way_around = (ends.peer.xdp.is_none() && !features.is_empty()).then(|| Change::Features {
        iface: ends.device.name.clone(),
        features,
        on: false,
    });
    let thread = Change::Attribute {
        iface: name,
        index: ends.peer.index,
        attribute: THREADED,
        value: "1".to_owned(),
        before: "0".to_owned(),
    };
    Ok(way_around.into_iter().chain([thread]).collect())
}

/// Why the other end could not be tuned.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TuneError {
    /// It could not be looked up.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The change was refused.
    #[error(transparent)]
    Change(#[from] TuningError),
}

/// Gives NAPI of `device`'s other end a thread where that can be done with so many CPUs, and says what it did. Dropping the
/// guards takes it back. Call it in the namespace of `device`.
///
/// # Errors
///
/// [`TuneError`]; nothing is changed then.
///
/// # Panics
///
/// Outside of a tokio runtime.
pub async fn tune(device: &Device, cpus: usize) -> Result<(Tuning, Vec<Tuned>), TuneError> {
    match plan(device, cpus).await? {
        Ok(changes) => {
            // An error drops the guards of what was changed before.
            let tuned = changes.iter().cloned().map(Change::apply).collect::<Result<_, _>>()?;
            let tuning = Tuning::Changed(changes);
            tracing::info!(iface = %device.name, "tuned: {tuning}");
            Ok((tuning, tuned))
        }
        Err(why) => {
            tracing::info!(iface = %device.name, "not tuned: {why}");
            Ok((Tuning::Left(why), Vec::new()))
        }
    }
}

async fn plan(device: &Device, cpus: usize) -> Result<Result<Vec<Change>, Untuned>, DeviceError> {
    let (Some("veth"), Some(Peer { location, .. })) = (device.kind.as_deref(), device.peer) else {
        return Ok(Err(Untuned::NoPair));
    };
    if location != PeerLocation::SameNamespace {
        return Ok(Err(Untuned::Elsewhere));
    }
    let Some(peer) = device.peer_device().await? else { return Ok(Err(Untuned::NoPair)) };
    let features = active_features(&device.name).await.ok();
    let peer_features = active_features(&peer.name).await.ok();
    let peer_threaded =
        NetSysfs::open().read(&peer.name, peer.index, THREADED).ok().map(|value| value != "0");
    let ends = Ends {
        device,
        features: features.as_ref(),
        peer: &peer,
        peer_features: peer_features.as_ref(),
        peer_threaded,
    };
    Ok(decide(cpus, &ends))
}

#[cfg(test)]
mod tests {
    use super::super::device::{ActiveQueues, QueueSource};
    use super::*;
    use crate::xdp::attachment::{XdpAttachment, XdpHook};

    fn device(name: &str, index: u32) -> Device {
        Device {
            name: name.to_owned(),
            index,
            mac: [2, 0, 0, 0, 0, 2],
            mtu: 1500,
            up: true,
            carrier: true,
            kind: Some("veth".to_owned()),
            alias: String::new(),
            peer: None,
            active_queues: ActiveQueues { rx: 1, tx: 1, source: QueueSource::Sysfs },
            addresses: Vec::new(),
            xdp: None,
            is_default_route: false,
        }
    }

    fn decided(
        cpus: usize,
        segmentation: bool,
        peer: &Device,
        gro: bool,
        threaded: Option<bool>,
    ) -> Result<String, Untuned> {
        let active = |on: bool, name: &str| on.then(|| name.to_owned()).into_iter().collect();
        let features = active(segmentation, "tx-tcp6-segmentation");
        let peer_features = active(gro, GRO);
        let ends = Ends {
            device: &device("veth0", 6),
            features: Some(&features),
            peer,
            peer_features: Some(&peer_features),
            peer_threaded: threaded,
        };
        decide(cpus, &ends).map(|changes| commands(&changes))
    }

    #[test]
    fn frames_are_led_through_napi_and_napi_is_given_a_thread() {
        const THREAD: &str = "echo 1 > /sys/class/net/veth1/threaded";
        let peer = device("veth1", 7);
        let with_program =
            Device { xdp: Some(XdpAttachment { mode: XdpHook::Native, id: 1 }), ..peer.clone() };
        let decided = |segmentation, peer, gro| decided(2, segmentation, peer, gro, Some(false)).unwrap();
        assert_eq!(decided(false, &peer, true), THREAD);
        assert_eq!(
            decided(true, &peer, true),
            format!("ethtool -K veth0 tx-tcp6-segmentation off && {THREAD}")
        );
        assert_eq!(decided(true, &with_program, false), THREAD, "a program has its NAPI in any case");
    }

    #[test]
    fn nothing_is_changed_without_a_second_cpu_or_napi_or_if_it_is_so_already() {
        let (peer, name) = (device("veth1", 7), || "veth1".to_owned());
        for (cpus, gro, threaded, why) in [
            (1, true, Some(false), Untuned::OneCpu),
            (2, false, Some(false), Untuned::NoNapi { peer: name() }),
            (2, true, Some(true), Untuned::Threaded { peer: name() }),
            (2, true, None, Untuned::Unknown { peer: name() }),
        ] {
            let left = decided(cpus, true, &peer, gro, threaded).unwrap_err();
            assert!(!left.to_string().contains('\n'), "{left}");
            assert_eq!(left, why);
        }
    }
}
