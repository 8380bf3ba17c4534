//! What can go wrong with the XDP program, and what the kernel meant by it.

use std::io;

use aya::{
    EbpfError,
    programs::{ProgramError as AyaProgramError, xdp::XdpError},
};
use rustix::io::Errno;
use thiserror::Error;

use super::{
    attachment::{self, ForeignProgram, XdpHook},
    steering::SteeringError,
    verifier::{Verdict, WholeLog},
};
use crate::kernel::{KernelError, KernelFeatures, Need};
use crate::link::netlink::DeviceError;
use crate::steer::TableError;

/// Why the program can't be loaded, attached or used.
#[derive(Debug, Error)]
#[non_exhaustive]
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
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The kernel's verifier refuses the program.
    #[error("the kernel's verifier refuses the XDP program: {verdict}{log}")]
    Refused {
        /// The end of what it says.
        verdict: Verdict,
        /// All that it says.
        log: WholeLog,
        /// What the load returned; the verdict says why.
        returned: io::Error,
    },
    /// A signal came while the kernel was verifying the program.
    #[error("loading the XDP program was interrupted while the kernel was verifying it{}; try again{log}", detail(.verdict))]
    Interrupted {
        /// Where the verifier was, if it says so.
        verdict: Verdict,
        /// All that it says.
        log: WholeLog,
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
    Attachment(#[from] DeviceError),
    /// A map can't be read or changed.
    #[error(transparent)]
    Steering(#[from] SteeringError),
}

fn detail(verdict: &Verdict) -> String {
    let text = verdict.to_string();
    if text.is_empty() { text } else { format!(", {text}") }
}

/// What became of loading, from what the kernel said of it.
pub(crate) fn load_error(error: EbpfError) -> ProgramError {
    if let EbpfError::ProgramError(AyaProgramError::LoadError { io_error, verifier_log }) = &error
        && let Some(judged) = judged(io_error, &verifier_log.to_string(), WholeLog::keep)
    {
        return judged;
    }
    if let Err(lacks) = KernelFeatures::running().refuse_missing(Need::Rings) {
        return lacks.into();
    }
    match os_error(&error) {
        Some(Errno::PERM | Errno::ACCESS) => {
            ProgramError::NotPermitted { operation: "load the XDP program", source: Box::new(error) }
        }
        _ => ProgramError::Load(Box::new(error)),
    }
}

/// The error of a load that came as far as the verifier.
fn judged(io_error: &io::Error, log: &str, keep: impl Fn(&str) -> WholeLog) -> Option<ProgramError> {
    let verdict = || Verdict::of(log);
    match Errno::from_io_error(io_error) {
        Some(Errno::AGAIN | Errno::INTR) => {
            Some(ProgramError::Interrupted { verdict: verdict(), log: keep(log) })
        }
        // Without a word of the verifier the program never got to it.
        _ if log.trim().is_empty() => None,
        _ => Some(ProgramError::Refused {
            verdict: verdict(),
            log: keep(log),
            returned: io_error
                .raw_os_error()
                .map_or_else(|| io_error.kind().into(), io::Error::from_raw_os_error),
        }),
    }
}

pub(crate) fn attach_error(iface: &str, ifindex: u32, mode: XdpHook, error: EbpfError) -> ProgramError {
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
pub(crate) fn os_error(error: &EbpfError) -> Option<Errno> {
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
pub(crate) fn innermost(error: &EbpfError) -> String {
    let mut last: &dyn std::error::Error = error;
    while let Some(cause) = last.source() {
        last = cause;
    }
    last.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use netdext::error::one_line;

    fn said(errno: Errno, log: &str) -> Option<String> {
        let keep =
            |log: &str| if log.is_empty() { WholeLog::Empty } else { WholeLog::In("/tmp/x.log".into()) };
        judged(&errno.into(), log, keep).map(|error| one_line(&error))
    }

    #[test]
    fn a_program_that_the_verifier_refuses_is_not_called_a_want_of_permission() {
        for errno in [Errno::ACCESS, Errno::INVAL, Errno::PERM, Errno::TOOBIG] {
            assert_eq!(
                said(errno, "1: (95) exit\nR0 !read_ok\nprocessed 1 insns (limit 1000000)\n").unwrap(),
                "the kernel's verifier refuses the XDP program: R0 !read_ok (processed 1 insns); its whole log is in \
                 /tmp/x.log"
            );
        }
        // Without its log it is something else.
        assert_eq!(said(Errno::PERM, ""), None);
        assert_eq!(said(Errno::ACCESS, "\n"), None);
    }

    #[test]
    fn an_interrupted_load_says_so() {
        assert_eq!(
            said(Errno::AGAIN, "").unwrap(),
            "loading the XDP program was interrupted while the kernel was verifying it; try again"
        );
        assert_eq!(
            said(Errno::AGAIN, "7: (bf) r1 = r6\nprocessed 8 insns (limit 1000000)\n").unwrap(),
            "loading the XDP program was interrupted while the kernel was verifying it, at 7: (bf) r1 = r6 (processed \
             8 insns); try again; its whole log is in /tmp/x.log"
        );
    }
}
