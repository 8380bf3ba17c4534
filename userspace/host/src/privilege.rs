//! What the process may do: asked before anything is touched.

use std::error::Error;
use std::fmt;

use caps::{CapSet, Capability};

use crate::kernel::KernelError;
use crate::link::NetnsError;
use crate::supervisor::{StartError, SteerError, SwitchError};
use crate::worker::SpawnError;
use crate::xdp::program::ProgramError;
use crate::xsk::OpenError;

/// A capability that netdext needs and does not have (capabilities(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cap {
    /// Change links, attach an XDP program.
    NetAdmin,
    /// Open an AF_XDP socket.
    NetRaw,
    /// Load a BPF program. `CAP_SYS_ADMIN` does too.
    Bpf,
    /// Let the verifier accept packet offsets that vary. `CAP_SYS_ADMIN` does too.
    Perfmon,
    /// Make or enter a network namespace.
    SysAdmin,
}

impl Cap {
    /// The kernel's name.
    pub fn name(self) -> &'static str {
        match self {
            Cap::NetAdmin => "CAP_NET_ADMIN",
            Cap::NetRaw => "CAP_NET_RAW",
            Cap::Bpf => "CAP_BPF",
            Cap::Perfmon => "CAP_PERFMON",
            Cap::SysAdmin => "CAP_SYS_ADMIN",
        }
    }

    /// What netdext does with it.
    pub fn purpose(self) -> &'static str {
        match self {
            Cap::NetAdmin => "attach the XDP program and change links",
            Cap::NetRaw => "open AF_XDP sockets",
            Cap::Bpf => "load the XDP program",
            Cap::Perfmon => "have it verified",
            Cap::SysAdmin => "enter a network namespace",
        }
    }
}

/// Why netdext can't run here.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PrivilegeError {
    /// Capabilities are missing: exit status 77.
    #[error("not permitted: {}; run it by sudo{}", Listed(.0), setcap_hint(.0))]
    Missing(Vec<Cap>),
}

/// Whether an error, or one of its causes, is of this crate and says that a capability is missing.
pub fn is_permission(error: &(dyn Error + 'static)) -> bool {
    let mut causes = std::iter::successors(Some(error), |&error| error.source());
    causes.any(|cause| {
        matches!(cause.downcast_ref(), Some(PrivilegeError::Missing(_)))
            || cause.downcast_ref().is_some_and(NetnsError::is_permission)
            || cause.downcast_ref().is_some_and(kernel)
            || cause.downcast_ref().is_some_and(program)
            || cause.downcast_ref().is_some_and(open)
            || cause.downcast_ref().is_some_and(spawn)
            || cause.downcast_ref().is_some_and(switch)
            || cause.downcast_ref().is_some_and(steer)
            || cause.downcast_ref().is_some_and(start)
    })
}

// An error that another one stands for is none of that one's causes, so each is looked into.

fn kernel(error: &KernelError) -> bool {
    matches!(error, KernelError::NotPermitted { .. })
}

fn program(error: &ProgramError) -> bool {
    match error {
        ProgramError::NotPermitted { .. } => true,
        ProgramError::Kernel(error) => kernel(error),
        _ => false,
    }
}

fn open(error: &OpenError) -> bool {
    match error {
        OpenError::Kernel(error) => kernel(error),
        OpenError::Umem { source, .. } | OpenError::Bind { source, .. } => {
            source.raw_os_error() == Some(libc::EPERM)
        }
        _ => false,
    }
}

fn spawn(error: &SpawnError) -> bool {
    matches!(error, SpawnError::Open(error) if open(error))
}

fn switch(error: &SwitchError) -> bool {
    matches!(error, SwitchError::Program(error) if program(error))
}

fn steer(error: &SteerError) -> bool {
    match error {
        SteerError::Program(error) => program(error),
        SteerError::Iface { source, .. } => program(source),
        _ => false,
    }
}

fn start(error: &StartError) -> bool {
    match error {
        StartError::Kernel(error) => kernel(error),
        StartError::Program(error) => program(error),
        StartError::Worker(error) => spawn(error),
        StartError::Switch(error) => switch(error),
        _ => false,
    }
}

struct Listed<'a>(&'a [Cap]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, cap) in self.0.iter().enumerate() {
            let separator = if i == 0 { "" } else { ", " };
            write!(f, "{separator}{} is missing (to {})", cap.name(), cap.purpose())?;
        }
        Ok(())
    }
}

/// File capabilities are of use for a run, not for entering a namespace.
fn setcap_hint(missing: &[Cap]) -> &'static str {
    if missing.contains(&Cap::SysAdmin) {
        ""
    } else {
        ", or once: sudo setcap cap_net_admin,cap_net_raw,cap_bpf,cap_perfmon,cap_ipc_lock+ep PATH-OF-NETDEXT"
    }
}

/// The capabilities for `netdext run` that are not effective in this thread.
pub fn missing_for_run() -> Vec<Cap> {
    missing_for_run_given(effective)
}

/// The capabilities for `--netns` that are not effective in this thread.
pub fn missing_for_namespace() -> Vec<Cap> {
    if effective(Capability::CAP_SYS_ADMIN) { Vec::new() } else { vec![Cap::SysAdmin] }
}

fn missing_for_run_given(has: impl Fn(Capability) -> bool) -> Vec<Cap> {
    let mut missing = Vec::new();
    if !has(Capability::CAP_NET_ADMIN) {
        missing.push(Cap::NetAdmin);
    }
    if !has(Capability::CAP_NET_RAW) {
        missing.push(Cap::NetRaw);
    }
    if !has(Capability::CAP_BPF) && !has(Capability::CAP_SYS_ADMIN) {
        missing.push(Cap::Bpf);
    }
    if !has(Capability::CAP_PERFMON) && !has(Capability::CAP_SYS_ADMIN) {
        missing.push(Cap::Perfmon);
    }
    missing
}

/// A capability set that can't be read counts as empty: the message about it is the same.
fn effective(capability: Capability) -> bool {
    caps::has_cap(None, CapSet::Effective, capability).unwrap_or(false)
}

/// Fails unless the capabilities for `netdext run` are there, with a namespace those for it too.
///
/// # Errors
/// [`PrivilegeError`], naming what is missing.
pub fn require_for_run(with_namespace: bool) -> Result<(), PrivilegeError> {
    let mut missing = missing_for_run();
    if with_namespace {
        missing.extend(missing_for_namespace());
    }
    if missing.is_empty() { Ok(()) } else { Err(PrivilegeError::Missing(missing)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_system_does_not_permit_is_known_through_the_errors_that_stand_for_others() {
        let not_permitted = || ProgramError::NotPermitted {
            operation: "load the XDP program",
            source: Box::new(aya::EbpfError::NoBTF),
        };
        let bind = |errno| OpenError::Bind {
            iface: "veth0".to_owned(),
            queue: 0,
            source: std::io::Error::from_raw_os_error(errno),
        };
        let umem = OpenError::Umem {
            iface: "veth0".to_owned(),
            queue: 0,
            bytes: 4096,
            source: std::io::Error::from_raw_os_error(libc::EPERM),
        };
        assert!(is_permission(&not_permitted()));
        assert!(is_permission(&SwitchError::Program(not_permitted())));
        assert!(is_permission(&SteerError::Program(not_permitted())));
        assert!(is_permission(&SteerError::Iface {
            iface: "veth0".to_owned(),
            source: Box::new(not_permitted())
        }));
        assert!(is_permission(&StartError::Switch(SwitchError::Program(not_permitted()))));
        assert!(is_permission(&umem));
        assert!(is_permission(&StartError::Worker(SpawnError::Open(bind(libc::EPERM)))));
        assert!(!is_permission(&StartError::Worker(SpawnError::Open(bind(libc::EBUSY)))));
    }

    #[test]
    fn each_missing_capability_is_named_with_its_purpose() {
        let text = PrivilegeError::Missing(missing_for_run_given(|_| false)).to_string();
        for part in ["CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_BPF", "open AF_XDP sockets", "sudo"] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(!text.contains('\n'));
    }

    #[test]
    fn cap_sys_admin_stands_in_for_those_of_bpf_only() {
        let missing = missing_for_run_given(|cap| cap == Capability::CAP_SYS_ADMIN);
        assert_eq!(missing, [Cap::NetAdmin, Cap::NetRaw]);
        assert_eq!(missing_for_run_given(|cap| cap != Capability::CAP_SYS_ADMIN), []);
    }
}
