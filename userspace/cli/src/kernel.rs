//! What the kernel has to have, and the risk that a user may take with one that can panic: asked before anything is touched.

use netdext_host::kernel::{self, KernelError, KernelFeatures, Need, refuse_panic};

#[derive(Clone, Copy, Debug, clap::Args)]
#[group(skip)]
pub struct RiskArgs {
    /// Start also on a kernel that can panic as soon as an AF_XDP socket sends: Linux 6.16.8 to 6.17.10, see
    /// docs/kernels.md
    #[arg(long, help_heading = "Risks")]
    pub risk_kernel_panic: bool,
}

impl RiskArgs {
    /// Refuses a kernel on which drivers over the rings can't run.
    ///
    /// # Errors
    ///
    /// [`KernelError`].
    pub fn require_rings(self) -> Result<(), KernelError> {
        kernel::require_rings(self.risk_kernel_panic)
    }

    /// The same for a process that needs no capabilities itself, and so can't find everything out.
    ///
    /// # Errors
    ///
    /// [`KernelError`].
    pub fn require_rings_of_daemon(self) -> Result<(), KernelError> {
        refuse_panic(self.risk_kernel_panic)?;
        KernelFeatures::running().refuse_missing(Need::Rings)
    }
}

/// Refuses a kernel on which frames can't be handled inside it. No socket is opened, so none can make it panic.
///
/// # Errors
///
/// [`KernelError`].
pub fn require_in_kernel(generates: bool) -> Result<(), KernelError> {
    KernelFeatures::running().require(if generates { Need::GenerateInKernel } else { Need::InKernel })
}
