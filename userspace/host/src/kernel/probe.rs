//! How each feature is tried. Nothing is bound, attached or sent: what is asked for can't be had, and the error tells
//! whether the kernel knew what it was asked for.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use aya::maps::MapType;
use aya::programs::links::FdLink;
use aya::programs::xdp::XdpError;
use aya::programs::{ProgramError, TestRun as _, TestRunOptions, Xdp, XdpMode};
use aya::sys::is_map_supported;
use aya::{EbpfError, TestRunAttrs};
use netdext_abi::generate::PASS;
use rustix::io::Errno;
use rustix::net::xdp::{SocketAddrXdp, SocketAddrXdpFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::Support::{Missing, Present, Unknown};
use super::{Feature, Support};
use crate::xdp::program::{loader, xdp_mut};
use crate::xdp::program_error::os_error;
use crate::xdp::spare_loader;
use crate::xdp::traffic::OBJECT;
use crate::xsk::set_tx_budget;

/// The loopback interface of every network namespace. Its driver has no XDP.
const LOOPBACK: u32 = 1;
/// The index of no interface: the highest that there can be, and they are counted from 1.
const NO_INTERFACE: u32 = i32::MAX as u32;

pub(super) fn all() -> [(Feature, Support); Feature::ALL.len()] {
    let socket = socket_with(AddressFamily::XDP, SocketType::RAW, SocketFlags::CLOEXEC, None);
    let memory = bpf_memory();
    let (link, live) = with_program();
    Feature::ALL.map(|feature| {
        let support = match feature {
            Feature::AfXdp => af_xdp(&socket),
            Feature::NeedWakeup => bind_flag(&socket, SocketAddrXdpFlags::XDP_USE_NEED_WAKEUP),
            Feature::MultiBuffer => bind_flag(&socket, SocketAddrXdpFlags::XDP_USE_SG),
            Feature::TxBudget => tx_budget(&socket),
            Feature::RingBuffer => map(MapType::RingBuf),
            Feature::BpfMemory => memory,
            Feature::BpfLink => link,
            Feature::LiveFrames => live,
        };
        // A kernel without bpf(2), or a container's filter that makes it look like one.
        let support = if support == Unknown(Errno::NOSYS) { Missing } else { support };
        (feature, support)
    })
}

fn af_xdp(socket: &Result<OwnedFd, Errno>) -> Support {
    match socket {
        Ok(_) => Present,
        Err(Errno::AFNOSUPPORT) => Missing,
        Err(errno) => Unknown(*errno),
    }
}

/// Binds to no interface: the flags are looked at before the interface is (`xsk_bind` in net/xdp/xsk.c).
fn bind_flag(socket: &Result<OwnedFd, Errno>, flag: SocketAddrXdpFlags) -> Support {
    let bound = socket
        .as_ref()
        .map_err(|errno| *errno)
        .and_then(|socket| bind(socket, &SocketAddrXdp::new(flag, 0, 0)));
    match bound {
        Ok(()) | Err(Errno::NODEV) => Present,
        Err(Errno::INVAL) => Missing,
        Err(errno) => Unknown(errno),
    }
}

/// A socket without a tx ring has no budget that would do, which a kernel that knows the option says.
fn tx_budget(socket: &Result<OwnedFd, Errno>) -> Support {
    match socket.as_ref().map_err(|errno| *errno).and_then(|socket| set_tx_budget(socket.as_fd(), 0)) {
        Err(Errno::NOPROTOOPT) => Missing,
        Ok(()) | Err(Errno::ACCESS | Errno::INVAL) => Present,
        Err(errno) => Unknown(errno),
    }
}

fn map(kind: MapType) -> Support {
    match is_map_supported(kind) {
        Ok(true) => Present,
        Ok(false) => Missing,
        Err(error) => Unknown(errno(&error.io_error)),
    }
}

/// Makes a small map with nothing left of `RLIMIT_MEMLOCK`. Before 5.11 no capability helped; aya raises the limit there,
/// if it may, and tries again.
fn bpf_memory() -> Support {
    // Lowering one's own limit is only ever forbidden by a filter of system calls, which says nothing of BPF.
    let Ok(limit) = NothingLocked::set() else { return Unknown(Errno::CANCELED) };
    let found = map(MapType::Array);
    let raised = getrlimit(Resource::Memlock).current != Some(0);
    drop(limit);
    match found {
        Present if raised => Missing,
        Unknown(Errno::PERM) if map(MapType::Array) == Present => Missing,
        found => found,
    }
}

/// A soft `RLIMIT_MEMLOCK` of 0, until this is dropped.
struct NothingLocked(Rlimit);

impl NothingLocked {
    fn set() -> rustix::io::Result<Self> {
        let before = getrlimit(Resource::Memlock);
        let none = Rlimit { current: Some(0), maximum: before.maximum };
        setrlimit(Resource::Memlock, none).map(|()| Self(before))
    }
}

impl Drop for NothingLocked {
    fn drop(&mut self) {
        // What is not above the hard limit can always be set.
        let _ = setrlimit(Resource::Memlock, self.0);
    }
}

/// What takes a loaded program: bpf_link, and live frames.
fn with_program() -> (Support, Support) {
    let mut loader = loader();
    let loaded = loader.load(OBJECT);
    spare_loader::keep(loader);
    let found = loaded.and_then(|mut ebpf| {
        let xdp = xdp_mut(&mut ebpf, PASS)?;
        xdp.load()?;
        Ok((bpf_link(xdp), live_frames(xdp)))
    });
    match found {
        Ok(found) => found,
        Err(error) => {
            let unknown = Unknown(os_error(&error).unwrap_or(Errno::INVAL));
            (unknown, unknown)
        }
    }
}

/// Attaches a program in native mode to an interface that has none: the kernel says so, unless it does not know what to
/// make of the request; then aya tries netlink.
fn bpf_link(xdp: &mut Xdp) -> Support {
    match xdp.attach_to_if_index(LOOPBACK, XdpMode::Driver) {
        Err(ProgramError::SyscallError(error))
            if error.io_error.kind() == io::ErrorKind::PermissionDenied =>
        {
            Unknown(Errno::PERM)
        }
        Err(ProgramError::SyscallError(_)) => Present,
        Err(ProgramError::XdpError(XdpError::NetlinkError(_))) => Missing,
        Err(_) => Unknown(Errno::INVAL),
        // Taken off again at once.
        Ok(id) => match xdp.take_link(id).map(FdLink::try_from) {
            Ok(Ok(_link)) => Present,
            _ => Missing,
        },
    }
}

/// Sends one frame as if it came from no interface.
fn live_frames(xdp: &Xdp) -> Support {
    let frame = [0; 64];
    // struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
    let context: Vec<u8> =
        [0, frame.len() as u32, 0, NO_INTERFACE, 0, 0].into_iter().flat_map(u32::to_ne_bytes).collect();
    let options = TestRunOptions {
        data_in: Some(&frame),
        ctx_in: Some(&context),
        repeat: 1,
        attrs: TestRunAttrs::new().xdp_live_frames(1),
        ..TestRunOptions::new()
    };
    match xdp.test_run(options).map_err(EbpfError::from) {
        Ok(_) => Present,
        Err(error) => match os_error(&error) {
            Some(Errno::NODEV) => Present,
            Some(Errno::INVAL) => Missing,
            other => Unknown(other.unwrap_or(Errno::INVAL)),
        },
    }
}

fn errno(error: &io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::INVAL)
}
