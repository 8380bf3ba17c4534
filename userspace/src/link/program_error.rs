//! What can go wrong with the XDP program, and what the kernel meant by it.

use std::io;

use aya::{
    EbpfError,
    programs::{ProgramError as AyaProgramError, xdp::XdpError},
    util::KernelVersion,
};
use rustix::io::Errno;
use thiserror::Error;

use super::{
    attachment::{self, AttachmentError, ForeignProgram, XdpHook},
    steering::SteeringError,
};
use crate::steer::TableError;

/// Why the program can't be loaded, attached or used.
#[derive(Debug, Error)]
pub enum ProgramError {
    /// A capability is missing: `CAP_BPF` for maps, `CAP_NET_ADMIN` for XDP, and `CAP_PERFMON` because the verifier allows
    /// variable offsets into a packet only with it.
    #[error("not permitted to {operation}: needs CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON (or root)")]
    NotPermitted {
        /// What was tried.
        operation: &'static str,
        /// The kernel's answer.
        source: Box<EbpfError>,
    },
    /// The running kernel lacks something.
    #[error("Linux {running} is too old to {operation}: it lacks {missing}")]
    KernelTooOld {
        /// The running version.
        running: String,
        /// What was tried.
        operation: &'static str,
        /// Features and the versions that brought them.
        missing: String,
        /// The kernel's answer.
        source: Box<EbpfError>,
    },
    /// Loading failed for another reason.
    #[error("loading the XDP program failed")]
    Load(#[source] Box<EbpfError>),
    /// Another program is there.
    #[error("{iface} already has the XDP program {program}; take it off, or use --replace")]
    Foreign {
        /// The interface.
        iface: String,
        /// What sits there.
        program: ForeignProgram,
    },
    /// Another process holds the other program, so that only it can take it off.
    #[error(
        "the XDP program {program} on {iface} is held by a bpf_link of another process and can't be replaced; \
         stop that process"
    )]
    HeldElsewhere {
        /// The interface.
        iface: String,
        /// What sits there.
        program: ForeignProgram,
    },
    /// The device refuses the mode.
    #[error("{iface} refuses an XDP program in {mode} mode")]
    Attach {
        /// The interface.
        iface: String,
        /// The mode.
        mode: XdpHook,
        /// The kernel's answer.
        source: Box<EbpfError>,
    },
    /// A steering rule can't be added or removed.
    #[error(transparent)]
    Rule(#[from] TableError),
    /// Only a bpf_link changes its program without a gap, and this attachment is none.
    #[error(
        "the XDP program can't be replaced: it isn't attached by a bpf_link; stop the driver and start it again"
    )]
    NotReloadable,
    /// Another program couldn't be put in the place of the one that is attached, which is off now.
    #[error(
        "replacing the XDP program failed, and it is off the interface; stop the driver and start it again"
    )]
    Reload(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// This program is attached already.
    #[error("the XDP program is already attached")]
    AlreadyAttached,
    /// The program was given up, but something else keeps it on the interface.
    #[error("the XDP program {id} is still attached to interface {ifindex} after it was detached")]
    StillAttached {
        /// The interface.
        ifindex: u32,
        /// The kernel's number of the program.
        id: u32,
    },
    /// The system's logger was asked for twice, or no records are compiled in.
    #[error("reading the log records of the XDP program failed")]
    Log(#[source] aya_log::Error),
    /// A trial run failed.
    #[error("running the XDP program over a frame of {len} bytes failed")]
    TestRun {
        /// Length of the frame in bytes.
        len: usize,
        /// The kernel's answer.
        source: Box<EbpfError>,
    },
    /// Asking for, or taking off, the program on an interface failed.
    #[error(transparent)]
    Attachment(#[from] AttachmentError),
    /// A map can't be read or changed.
    #[error(transparent)]
    Steering(#[from] SteeringError),
}

/// What the program needs of the kernel, by the version that brought it.
const FEATURES: [(KernelVersion, &str); 3] = [
    (KernelVersion::new(4, 18, 0), "AF_XDP sockets and XSKMAP (4.18)"),
    (KernelVersion::new(5, 8, 0), "the BPF ring buffer (5.8)"),
    (
        KernelVersion::new(5, 11, 0),
        "memory accounting of BPF maps by cgroup instead of RLIMIT_MEMLOCK (5.11)",
    ),
];

/// The features that a kernel lacks, `None` when it has them all.
fn missing_features(running: KernelVersion) -> Option<String> {
    let missing: Vec<_> =
        FEATURES.iter().filter(|(since, _)| running < *since).map(|(_, what)| *what).collect();
    (!missing.is_empty()).then(|| missing.join(", "))
}

pub(super) fn load_error(error: EbpfError) -> ProgramError {
    let operation = "load the XDP program";
    let running = KernelVersion::current().ok();
    if let Some((running, missing)) = running.and_then(|running| Some((running, missing_features(running)?)))
    {
        let source = Box::new(error);
        return ProgramError::KernelTooOld { running: running.to_string(), operation, missing, source };
    }
    match os_error(&error) {
        Some(Errno::PERM | Errno::ACCESS) => {
            ProgramError::NotPermitted { operation, source: Box::new(error) }
        }
        _ => ProgramError::Load(Box::new(error)),
    }
}

pub(super) fn attach_error(iface: &str, ifindex: u32, mode: XdpHook, error: EbpfError) -> ProgramError {
    match os_error(&error) {
        Some(Errno::PERM | Errno::ACCESS) => {
            ProgramError::NotPermitted { operation: "attach the XDP program", source: Box::new(error) }
        }
        // Another was quicker than we.
        Some(Errno::BUSY | Errno::EXIST) => match attachment::attached_program(ifindex) {
            Ok(Some(program)) => ProgramError::Foreign { iface: iface.into(), program },
            _ => ProgramError::Attach { iface: iface.into(), mode, source: Box::new(error) },
        },
        _ => ProgramError::Attach { iface: iface.into(), mode, source: Box::new(error) },
    }
}

/// The kernel's error number, wherever in the chain it is.
pub(super) fn os_error(error: &EbpfError) -> Option<Errno> {
    if let EbpfError::ProgramError(AyaProgramError::XdpError(XdpError::NetlinkError(netlink))) = error {
        return netlink.raw_os_error().map(Errno::from_raw_os_error);
    }
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(current) = cause {
        if let Some(io) = current.downcast_ref::<io::Error>() {
            return Errno::from_io_error(io);
        }
        cause = current.source();
    }
    None
}

/// The last cause of an error: what the kernel said.
pub(super) fn innermost(error: &EbpfError) -> String {
    let mut last: &dyn std::error::Error = error;
    while let Some(cause) = last.source() {
        last = cause;
    }
    last.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_kernel_is_told_what_it_lacks() {
        assert_eq!(missing_features(KernelVersion::new(6, 1, 0)), None);
        let missing = missing_features(KernelVersion::new(5, 4, 0)).unwrap();
        assert!(missing.contains("ring buffer (5.8)") && !missing.contains("XSKMAP"), "{missing}");
        assert!(missing_features(KernelVersion::new(4, 9, 0)).unwrap().contains("XSKMAP (4.18)"));
    }
}
