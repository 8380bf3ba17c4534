//! What the kernel has of what netdext is built on, found by probing, and the kernels that it dies on.
//!
//! A version says little: distributions take features back into old kernels, and leave others out of new ones. So each
//! feature is tried, in a way that changes no interface and takes about a millisecond. Only a kernel that is known to
//! panic is told by its release, because trying is what kills it.

mod probe;
mod release;

use std::fmt;
use std::sync::OnceLock;

use rustix::io::Errno;

pub use self::release::Release;

/// A feature of the kernel that netdext needs or makes use of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Feature {
    /// AF_XDP sockets.
    AfXdp,
    /// `XDP_USE_NEED_WAKEUP`: the kernel says when it has to be woken.
    NeedWakeup,
    /// The BPF ring buffer, in which the XDP program records what it is asked to log.
    RingBuffer,
    /// An XDP program's attachment that ends with the process that made it.
    BpfLink,
    /// BPF memory is charged to the memory cgroup, not to `RLIMIT_MEMLOCK`.
    BpfMemory,
    /// `BPF_PROG_TEST_RUN` with frames that are sent.
    LiveFrames,
    /// `XDP_MAX_TX_SKB_BUDGET`: frames that one system call sends in copy mode.
    TxBudget,
    /// `XDP_USE_SG`: frames in several buffers.
    MultiBuffer,
}

impl Feature {
    /// Every feature, in the order in which Linux got them.
    pub const ALL: [Self; 8] = [
        Self::AfXdp,
        Self::NeedWakeup,
        Self::RingBuffer,
        Self::BpfLink,
        Self::BpfMemory,
        Self::LiveFrames,
        Self::MultiBuffer,
        Self::TxBudget,
    ];

    /// Its name in output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::AfXdp => "af_xdp",
            Self::NeedWakeup => "need_wakeup",
            Self::RingBuffer => "ring_buffer",
            Self::BpfLink => "bpf_link",
            Self::BpfMemory => "bpf_memory",
            Self::LiveFrames => "live_frames",
            Self::TxBudget => "tx_budget",
            Self::MultiBuffer => "multi_buffer",
        }
    }

    /// What it is, in words.
    pub const fn what(self) -> &'static str {
        match self {
            Self::AfXdp => "AF_XDP sockets",
            Self::NeedWakeup => "the need_wakeup flag of AF_XDP",
            Self::RingBuffer => "the BPF ring buffer",
            Self::BpfLink => "bpf_link for XDP",
            Self::BpfMemory => "accounting of BPF memory by cgroup instead of RLIMIT_MEMLOCK",
            Self::LiveFrames => "live frames of BPF_PROG_TEST_RUN",
            Self::TxBudget => "XDP_MAX_TX_SKB_BUDGET",
            Self::MultiBuffer => "AF_XDP frames in several buffers (XDP_USE_SG)",
        }
    }

    /// Where it comes from: the first Linux with it, and what has to be configured.
    pub const fn since(self) -> &'static str {
        match self {
            Self::AfXdp => "Linux 4.18, CONFIG_XDP_SOCKETS",
            Self::NeedWakeup => "Linux 5.4",
            Self::RingBuffer => "Linux 5.8",
            Self::BpfLink => "Linux 5.9",
            Self::BpfMemory => "Linux 5.11",
            Self::LiveFrames => "Linux 5.18",
            Self::MultiBuffer => "Linux 6.6",
            Self::TxBudget => "Linux 6.17",
        }
    }

    /// What happens without it.
    pub const fn without(self) -> &'static str {
        match self {
            Self::AfXdp => "without it there are no rings: no driver starts, save those of --engine xdp",
            Self::NeedWakeup => {
                "without it a driver would have to wake the kernel for every batch: none starts"
            }
            Self::RingBuffer => "without it the XDP program cannot be loaded, which logs into one",
            Self::BpfLink => {
                "without it the XDP program would outlive a netdext that is killed: no driver starts"
            }
            Self::BpfMemory => {
                "without it the maps of the XDP program do not fit the usual limit: no driver starts"
            }
            Self::LiveFrames => {
                "without it --driver generate --engine xdp is refused; over the rings it works"
            }
            Self::MultiBuffer => "netdext does not use it: a frame lies in one chunk of at most 4096 bytes",
            Self::TxBudget => {
                "without it one system call sends 32 frames in copy mode, and the rest is pushed in a loop"
            }
        }
    }
}

/// Whether the kernel has a feature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Support {
    /// It has.
    Present,
    /// It has not.
    Missing,
    /// It was not found out: for this reason.
    Unknown(Errno),
}

/// What a command does with the kernel, which says what it needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// A driver over the rings.
    Rings,
    /// Frames are dropped or sent back inside the kernel.
    InKernel,
    /// Frames are generated inside the kernel.
    GenerateInKernel,
}

impl Need {
    /// The features without which it does not work.
    pub const fn features(self) -> &'static [Feature] {
        use Feature::{AfXdp, BpfLink, BpfMemory, LiveFrames, NeedWakeup, RingBuffer};
        match self {
            Self::Rings => &[AfXdp, NeedWakeup, RingBuffer, BpfLink, BpfMemory],
            Self::InKernel => &[BpfLink, BpfMemory],
            Self::GenerateInKernel => &[BpfLink, BpfMemory, LiveFrames],
        }
    }
}

/// Why netdext does not start on this kernel.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KernelError {
    /// The kernel lacks something.
    #[error("Linux {release} lacks what netdext needs: {}; boot a kernel that has it{}", Listed(.missing), hint(.missing))]
    Lacks {
        /// The kernel's release.
        release: String,
        /// What it lacks.
        missing: Vec<Feature>,
    },
    /// The kernel can panic; see [`Release::can_panic`].
    #[error(
        "Linux {release} can panic as soon as an AF_XDP socket sends (xsk_destruct_skb): boot another kernel, or risk it \
         with --risk-kernel-panic"
    )]
    Panics {
        /// The kernel's release.
        release: String,
    },
    /// BPF is forbidden, and not for want of a capability of this process.
    #[error(
        "not permitted: {} can't be used, although the capabilities are here: a user namespace, a container's system call \
         filter or a security module forbids it; run it on the host",
        .feature.what()
    )]
    NotPermitted {
        /// What was tried.
        feature: Feature,
        /// The kernel's answer.
        source: Errno,
    },
}

struct Listed<'a>(&'a [Feature]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, feature) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            write!(f, "{separator}{} ({})", feature.what(), feature.since())?;
        }
        Ok(())
    }
}

fn hint(missing: &[Feature]) -> &'static str {
    if missing == [Feature::LiveFrames] { ", or use --engine ring" } else { "" }
}

/// What the running kernel has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelFeatures {
    found: [(Feature, Support); Feature::ALL.len()],
}

impl KernelFeatures {
    /// What the running kernel has, probed once in this process.
    ///
    /// While it is probed, the soft `RLIMIT_MEMLOCK` of the process is 0 for some microseconds.
    pub fn running() -> &'static Self {
        static RUNNING: OnceLock<KernelFeatures> = OnceLock::new();
        RUNNING.get_or_init(|| Self { found: probe::all() })
    }

    /// Made up: what `found` does not name is there.
    pub fn given(found: &[(Feature, Support)]) -> Self {
        let support =
            |feature| found.iter().find(|(given, _)| *given == feature).map(|(_, support)| *support);
        Self { found: Feature::ALL.map(|feature| (feature, support(feature).unwrap_or(Support::Present))) }
    }

    /// Whether the kernel has a feature.
    pub fn support(&self, feature: Feature) -> Support {
        self.iter().find(|(found, _)| *found == feature).map_or(Support::Missing, |(_, support)| support)
    }

    /// Every feature with what was found.
    pub fn iter(&self) -> impl Iterator<Item = (Feature, Support)> {
        self.found.iter().copied()
    }

    /// Refuses a kernel that lacks what is needed.
    ///
    /// # Errors
    ///
    /// [`KernelError::Lacks`]. What could not be found out is no reason: using it says more.
    pub fn refuse_missing(&self, need: Need) -> Result<(), KernelError> {
        let is_missing = |feature: &Feature| self.support(*feature) == Support::Missing;
        let missing: Vec<_> = need.features().iter().copied().filter(is_missing).collect();
        if missing.is_empty() {
            return Ok(());
        }
        Err(KernelError::Lacks { release: Release::running().text, missing })
    }

    /// The same for a process that has the capabilities, so that what it may not use is forbidden otherwise.
    ///
    /// # Errors
    ///
    /// [`KernelError::Lacks`], [`KernelError::NotPermitted`].
    pub fn require(&self, need: Need) -> Result<(), KernelError> {
        self.refuse_missing(need)?;
        for &feature in need.features() {
            if let Support::Unknown(source @ (Errno::PERM | Errno::ACCESS)) = self.support(feature) {
                return Err(KernelError::NotPermitted { feature, source });
            }
        }
        Ok(())
    }
}

/// Refuses a kernel on which drivers over the rings can't run, or that can panic, unless that risk is taken.
///
/// # Errors
///
/// [`KernelError`].
pub fn require_rings(risk_panic: bool) -> Result<(), KernelError> {
    refuse_panic(risk_panic)?;
    KernelFeatures::running().require(Need::Rings)
}

/// Refuses a kernel that can panic, unless the risk is taken.
///
/// # Errors
///
/// [`KernelError::Panics`].
pub fn refuse_panic(risk_it: bool) -> Result<(), KernelError> {
    judge_panic(&Release::running(), risk_it)
}

fn judge_panic(release: &Release, risk_it: bool) -> Result<(), KernelError> {
    if release.can_panic() && !risk_it {
        return Err(KernelError::Panics { release: release.text.clone() });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use netdext::error::one_line;

    fn refusal(found: &[(Feature, Support)], need: Need) -> String {
        one_line(&KernelFeatures::given(found).require(need).unwrap_err())
    }

    #[test]
    fn a_kernel_that_can_panic_is_refused_in_these_words_unless_the_risk_is_taken() {
        let release = Release::new("6.16.12+deb14-cloud-amd64");
        let line = one_line(&judge_panic(&release, false).unwrap_err());
        assert_eq!(
            line,
            "Linux 6.16.12+deb14-cloud-amd64 can panic as soon as an AF_XDP socket sends (xsk_destruct_skb): boot \
             another kernel, or risk it with --risk-kernel-panic"
        );
        assert!(judge_panic(&release, true).is_ok());
        assert!(judge_panic(&Release::new("6.17.13+deb13-amd64"), false).is_ok());
    }

    #[test]
    fn what_is_missing_is_said_with_the_linux_that_has_it() {
        let old = [(Feature::BpfMemory, Support::Missing), (Feature::TxBudget, Support::Missing)];
        let line = refusal(&old, Need::Rings);
        let words = "lacks what netdext needs: accounting of BPF memory by cgroup instead of RLIMIT_MEMLOCK (Linux 5.11); \
                     boot a kernel that has it";
        assert!(line.ends_with(words) && line.starts_with("Linux "), "{line}");
        let older = [(Feature::BpfLink, Support::Missing), (Feature::BpfMemory, Support::Missing)];
        assert!(refusal(&older, Need::InKernel).contains("bpf_link for XDP (Linux 5.9), accounting of"));
    }

    #[test]
    fn only_what_is_needed_is_required() {
        let missing = |feature| KernelFeatures::given(&[(feature, Support::Missing)]);
        assert!(missing(Feature::AfXdp).require(Need::InKernel).is_ok());
        assert!(missing(Feature::LiveFrames).require(Need::Rings).is_ok());
        assert!(missing(Feature::TxBudget).require(Need::Rings).is_ok());
        let line = refusal(&[(Feature::LiveFrames, Support::Missing)], Need::GenerateInKernel);
        assert!(line.contains("(Linux 5.18)") && line.ends_with(", or use --engine ring"), "{line}");
    }

    #[test]
    fn what_is_forbidden_is_not_called_missing() {
        let forbidden = [(Feature::RingBuffer, Support::Unknown(Errno::PERM))];
        let line = refusal(&forbidden, Need::Rings);
        assert!(line.starts_with("not permitted: the BPF ring buffer can't be used"), "{line}");
        assert!(KernelFeatures::given(&forbidden).refuse_missing(Need::Rings).is_ok());
        let unclear = KernelFeatures::given(&[(Feature::BpfLink, Support::Unknown(Errno::NOMEM))]);
        assert!(unclear.require(Need::Rings).is_ok());
    }

    #[test]
    fn every_feature_is_listed_once_and_has_a_name_of_its_own() {
        let names: std::collections::BTreeSet<_> =
            Feature::ALL.iter().map(|feature| feature.name()).collect();
        assert_eq!(names.len(), Feature::ALL.len());
    }
}
