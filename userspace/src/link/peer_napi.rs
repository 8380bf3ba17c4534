//! The other end of a veth pair, made ready for frames that an XDP program sends.
//!
//! A veth hands what an XDP program sends (`XDP_TX`) to the NAPI of its peer, and a peer has one only with an XDP program
//! of its own or with GRO on. Without, every such frame is dropped, and only `ethtool -S` says so. Hence GRO is switched
//! on at the peer, and off again at the end.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use rustix::thread::LinkNameSpaceType;

use super::device::{Device, Peer, PeerLocation};
use super::netlink::{DeviceError, Netlink, link_name};
use super::offload::{OffloadError, active_features, set_features};

/// GRO, by its kernel name (net/ethtool/common.c).
const GRO: &str = "rx-gro";

/// Why the peer could not be made ready, or not be put back.
#[derive(Debug, thiserror::Error)]
pub enum PeerNapiError {
    /// The peer could not be looked up.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// Its features could not be read or changed.
    #[error(transparent)]
    Offload(#[from] OffloadError),
    /// GRO stays off.
    #[error("{peer} keeps GRO off, so that answers from the XDP program would be lost: run without --answer")]
    KeptOff {
        /// The peer.
        peer: String,
    },
    /// The network namespace of the pair can't be opened or entered.
    #[error("open the network namespace of the pair: {0}")]
    Namespace(#[source] io::Error),
}

/// GRO switched on at the peer; dropping it switches GRO off again, as [`restore`](Self::restore) does and tells.
#[derive(Debug)]
pub struct PeerNapi {
    index: u32,
    namespace: File,
    restore_on_drop: bool,
}

impl PeerNapi {
    /// Makes the peer of `device` ready. `None` if there is nothing to put back: `device` is no veth, or its peer was
    /// ready, or it is in another network namespace, where it is left alone with a warning.
    ///
    /// # Errors
    ///
    /// [`PeerNapiError`].
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub async fn prepare(device: &Device) -> Result<Option<Self>, PeerNapiError> {
        let (Some("veth"), Some(Peer { index, location })) = (device.kind.as_deref(), device.peer) else {
            return Ok(None);
        };
        if location != PeerLocation::SameNamespace {
            tracing::warn!(
                iface = %device.name,
                "the other end of the pair is in another network namespace: answers are lost unless it has GRO on \
                 (`ethtool -K IFACE gro on` there)"
            );
            return Ok(None);
        }
        let Some(link) = Netlink::open()?.link_by_index(index).await? else { return Ok(None) };
        let peer = link_name(&link);
        if active_features(&peer).await?.contains(GRO) {
            return Ok(None);
        }
        let namespace = File::open("/proc/thread-self/ns/net").map_err(PeerNapiError::Namespace)?;
        set_features(&peer, &[GRO], true).await?;
        let guard = Self { index, namespace, restore_on_drop: true };
        if !active_features(&peer).await?.contains(GRO) {
            return Err(PeerNapiError::KeptOff { peer });
        }
        Ok(Some(guard))
    }

    /// Switches GRO off again. That the pair is gone is no error.
    ///
    /// # Errors
    ///
    /// [`PeerNapiError`].
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub async fn restore(mut self) -> Result<(), PeerNapiError> {
        self.restore_on_drop = false;
        switch_off(self.index).await
    }
}

async fn switch_off(index: u32) -> Result<(), PeerNapiError> {
    match Netlink::open()?.link_by_index(index).await? {
        Some(link) => Ok(set_features(&link_name(&link), &[GRO], false).await?),
        None => Ok(()),
    }
}

impl Drop for PeerNapi {
    fn drop(&mut self) {
        if !self.restore_on_drop {
            return;
        }
        // A destructor can be run inside a runtime, where blocking is not allowed, and on a thread of another
        // namespace: hence a thread with a runtime of its own, in the namespace of the pair.
        let restored = std::thread::scope(|scope| {
            let restore = || {
                let namespace = self.namespace.as_fd();
                rustix::thread::move_into_link_name_space(namespace, Some(LinkNameSpaceType::Network))
                    .map_err(|e| PeerNapiError::Namespace(e.into()))?;
                let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
                runtime.map_err(PeerNapiError::Namespace)?.block_on(switch_off(self.index))
            };
            scope.spawn(restore).join()
        });
        match restored {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "GRO stays on at the other end of the pair"),
            Err(_) => tracing::warn!("GRO stays on at the other end of the pair: restoring it panicked"),
        }
    }
}
