//! What the process may do: asked before anything is touched.

use std::error::Error;
use std::fmt;

use caps::{CapSet, Capability};

use crate::kernel::KernelError;
use crate::link::NetnsError;
use crate::supervisor::StartError;
use crate::xdp::program::ProgramError;

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
            || matches!(cause.downcast_ref(), Some(KernelError::NotPermitted { .. }))
            || matches!(cause.downcast_ref(), Some(ProgramError::NotPermitted { .. }))
            || matches!(cause.downcast_ref(), Some(StartError::Program(ProgramError::NotPermitted { .. })))
            || cause.downcast_ref().is_some_and(NetnsError::is_permission)
    })
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
