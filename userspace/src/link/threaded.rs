//! NAPI of a veth's other end in a thread of its own, while a driver runs (`--tune`).
//!
//! On a veth the CPU that sends also does what the other end's NAPI has to do. In a thread of its own that work moves to
//! another CPU, which pays only where one is to spare: with two, the driver and who talks to it have them already.

use std::fmt;

use super::device::{Device, Peer, PeerLocation};
use super::netlink::DeviceError;
use super::offload::active_features;
use super::sysfs::NetSysfs;
use super::tuning::{Change, Tuned, TuningError};

/// CPUs that a driver and who talks to it keep busy.
const BUSY_CPUS: usize = 2;
/// 1 where NAPI runs in threads, in /sys/class/net/IFACE.
const THREADED: &str = "threaded";
const GRO: &str = "rx-gro";

/// What `--tune` did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tuning {
    /// This change, which is taken back when the driver stops.
    Changed(Change),
    /// Nothing.
    Left(Untuned),
}

/// Why nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Untuned {
    /// The interface is no end of a veth pair.
    NoPair,
    /// The other end is in another network namespace.
    Elsewhere,
    /// There is no CPU to spare.
    FewCpus {
        /// CPUs that this process may use.
        cpus: usize,
    },
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
            Self::FewCpus { cpus } => write!(
                f,
                "there are {cpus} CPU(s), and none to spare for NAPI of the other end beside the driver and its sender"
            ),
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

/// Decides for the other end of a pair, which has this `gro` and is `threaded` now, as far as the kernel tells.
///
/// # Errors
///
/// [`Untuned`], if nothing is to be changed.
pub fn decide(cpus: usize, peer: &Device, gro: bool, threaded: Option<bool>) -> Result<Change, Untuned> {
    let name = peer.name.clone();
    if cpus <= BUSY_CPUS {
        return Err(Untuned::FewCpus { cpus });
    }
    // A veth receives by NAPI only with one of them.
    if peer.xdp.is_none() && !gro {
        return Err(Untuned::NoNapi { peer: name });
    }
    match threaded {
        Some(false) => Ok(Change::Attribute {
            iface: name,
            index: peer.index,
            attribute: THREADED,
            value: "1".to_owned(),
            before: "0".to_owned(),
        }),
        Some(true) => Err(Untuned::Threaded { peer: name }),
        None => Err(Untuned::Unknown { peer: name }),
    }
}

/// Why the other end could not be tuned.
#[derive(Debug, thiserror::Error)]
pub enum TuneError {
    /// It could not be looked up.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The change was refused.
    #[error(transparent)]
    Change(#[from] TuningError),
}

/// Gives NAPI of `device`'s other end a thread where that pays with so many CPUs, and says what it did. Dropping the guard
/// takes it back. Call it in the namespace of `device`.
///
/// # Errors
///
/// [`TuneError`]; nothing is changed then.
///
/// # Panics
///
/// Outside of a tokio runtime.
pub async fn tune(device: &Device, cpus: usize) -> Result<(Tuning, Option<Tuned>), TuneError> {
    match plan(device, cpus).await? {
        Ok(change) => {
            let tuned = change.clone().apply()?;
            tracing::info!(iface = %device.name, "tuned: {change}");
            Ok((Tuning::Changed(change), Some(tuned)))
        }
        Err(why) => {
            tracing::info!(iface = %device.name, "not tuned: {why}");
            Ok((Tuning::Left(why), None))
        }
    }
}

async fn plan(device: &Device, cpus: usize) -> Result<Result<Change, Untuned>, DeviceError> {
    let (Some("veth"), Some(Peer { location, .. })) = (device.kind.as_deref(), device.peer) else {
        return Ok(Err(Untuned::NoPair));
    };
    if location != PeerLocation::SameNamespace {
        return Ok(Err(Untuned::Elsewhere));
    }
    let Some(peer) = device.peer_device().await? else { return Ok(Err(Untuned::NoPair)) };
    let gro = active_features(&peer.name).await.is_ok_and(|features| features.contains(GRO));
    let threaded = NetSysfs::open().read(&peer.name, peer.index, THREADED).ok().map(|value| value != "0");
    Ok(decide(cpus, &peer, gro, threaded))
}

#[cfg(test)]
mod tests {
    use super::super::device::{ActiveQueues, QueueSource};
    use super::*;

    fn peer() -> Device {
        Device {
            name: "veth1".to_owned(),
            index: 7,
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

    #[test]
    fn a_thread_is_given_only_with_a_third_cpu_and_napi_that_has_none() {
        let change = decide(3, &peer(), true, Some(false)).unwrap();
        assert_eq!(change.command(), "echo 1 > /sys/class/net/veth1/threaded");
        assert_eq!(change.reversed().command(), "echo 0 > /sys/class/net/veth1/threaded");
        let name = || "veth1".to_owned();
        for (cpus, gro, threaded, why) in [
            (1, true, Some(false), Untuned::FewCpus { cpus: 1 }),
            (2, true, Some(false), Untuned::FewCpus { cpus: 2 }),
            (3, false, Some(false), Untuned::NoNapi { peer: name() }),
            (3, true, Some(true), Untuned::Threaded { peer: name() }),
            (3, true, None, Untuned::Unknown { peer: name() }),
        ] {
            let left = decide(cpus, &peer(), gro, threaded).unwrap_err();
            assert!(!left.to_string().contains('\n'), "{left}");
            assert_eq!(left, why);
        }
    }
}
