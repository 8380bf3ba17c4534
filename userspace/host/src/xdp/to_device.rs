//! Every frame of an interface sent out of another one by as little as it takes, to compare forwarders with.

use aya::Ebpf;
use aya::maps::MapError;
use aya::maps::xdp::{DevMap, XdpMapError};
use aya::programs::links::FdLink;
use netdext_abi::generate::{DEVICES, TO_DEVICE};

use super::attachment::XdpHook;
use super::program::{attach_held, loader, xdp_mut};
use super::program_error::{ProgramError, load_error};
use super::steering::{refused, take};
use super::traffic::OBJECT;

/// A program that redirects every frame. Dropping it takes the program off.
///
/// A veth sends such frames only if its peer has an XDP program or GRO.
#[derive(Debug)]
pub struct ToDevice {
    // Before `ebpf`: off the interface first.
    _link: FdLink,
    _ebpf: Ebpf,
}

impl ToDevice {
    /// Attaches the program to the interface `from`, in native mode; what that receives leaves by the interface with the
    /// index `to`. Both are in the calling thread's network namespace.
    ///
    /// # Errors
    ///
    /// [`ProgramError`].
    pub fn attach(from: &str, from_index: u32, to: u32) -> Result<Self, ProgramError> {
        let mut ebpf = loader().load(OBJECT).map_err(load_error)?;
        let mut devices: DevMap<_> = take(&mut ebpf, DEVICES)?;
        let set = devices.set(0, to, None, 0).map_err(|error| match error {
            XdpMapError::MapError(error) => error,
            XdpMapError::ChainedProgramNotSupported => MapError::ProgIdNotSupported,
        });
        set.map_err(refused("inserting a device", DEVICES))?;
        let xdp = xdp_mut(&mut ebpf, TO_DEVICE).map_err(load_error)?;
        xdp.load().map_err(|error| load_error(error.into()))?;
        let link = attach_held(&mut ebpf, TO_DEVICE, from, from_index, XdpHook::Native)?;
        Ok(Self { _link: link, _ebpf: ebpf })
    }
}
