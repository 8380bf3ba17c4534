//! The other end of a veth pair, made ready for frames that an XDP program sends.
//!
//! A veth puts what an XDP program sends (`XDP_TX`) into a ring of its peer, but wakes the peer's NAPI only if the peer
//! has an XDP program of its own (`veth_xdp_flush` in drivers/net/veth.c): GRO, which gives it NAPI too, is not enough.
//! Without, such frames wait in the ring until it is full, and then are lost. Hence a program that passes every frame is
//! attached to the peer. It is held by a bpf_link, so that it goes with the process in any case.

use aya::Ebpf;
use aya::programs::links::FdLink;
use netdext_abi::generate::PASS;

use super::attachment::XdpHook;
use super::program::{attach_held, loader, xdp_mut};
use super::program_error::{ProgramError, load_error};
use super::traffic::OBJECT;
use crate::link::device::{Device, Peer, PeerLocation};
use crate::link::netlink::DeviceError;

/// Why the peer could not be made ready.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PeerNapiError {
    /// The peer could not be looked up.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The program could not be loaded or attached.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// An XDP program of the stack ("generic") has no NAPI of the device.
    #[error(
        "{peer} has an XDP program in skb mode, so that answers from the XDP program would be lost: take it off, or run \
         without --answer"
    )]
    Skb {
        /// The peer.
        peer: String,
    },
}

/// A program on the peer that passes every frame. Dropping it takes the program off.
#[derive(Debug)]
pub struct PeerNapi {
    // Before `ebpf`: off the interface first.
    _link: FdLink,
    _ebpf: Ebpf,
}

impl PeerNapi {
    /// Makes the peer of `device` ready. `None` if there is nothing to be done: `device` is no veth, or its peer has an
    /// XDP program, or it is in another network namespace, where it is left alone with a warning.
    ///
    /// # Errors
    ///
    /// [`PeerNapiError`].
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub async fn prepare(device: &Device) -> Result<Option<Self>, PeerNapiError> {
        let (Some("veth"), Some(Peer { location, .. })) = (device.kind.as_deref(), device.peer) else {
            return Ok(None);
        };
        if location != PeerLocation::SameNamespace {
            tracing::warn!(
                iface = %device.name,
                "the other end of the pair is in another network namespace: answers are lost unless it has an XDP \
                 program, for example one that passes every frame"
            );
            return Ok(None);
        }
        let Some(peer) = device.peer_device().await? else { return Ok(None) };
        match peer.xdp {
            Some(program) if program.mode == XdpHook::Skb => Err(PeerNapiError::Skb { peer: peer.name }),
            Some(_) => Ok(None),
            None => Ok(Some(Self::attach(&peer.name, peer.index)?)),
        }
    }

    /// Attaches the program to an interface of the calling thread's network namespace, in native mode.
    ///
    /// # Errors
    ///
    /// [`ProgramError`].
    pub fn attach(iface: &str, ifindex: u32) -> Result<Self, ProgramError> {
        let mut ebpf = loader().load(OBJECT).map_err(load_error)?;
        let xdp = xdp_mut(&mut ebpf, PASS).map_err(load_error)?;
        xdp.load().map_err(|error| load_error(error.into()))?;
        let link = attach_held(&mut ebpf, PASS, iface, ifindex, XdpHook::Native)?;
        Ok(Self { _link: link, _ebpf: ebpf })
    }
}
