//! The kernel and this process.

use super::Severity::{Note, Ok, Problem, Warning};
use super::{EndFacts, Finding, ProgramTrial, SystemFacts};
use crate::kernel::{Need, Support};
use crate::privilege::Cap;
use netdext::packet::FrameSize;
use netdext::port::RingSizes;

const SUBJECT: &str = "system";

pub(super) fn check(system: &SystemFacts, end: &EndFacts, findings: &mut Vec<Finding>) {
    findings.push(kernel(system));
    findings.push(capabilities(system));
    features(system, findings);
    findings.push(program(system));
    findings.extend(btf(system));
    findings.extend(jit(system));
    findings.push(memlock(system, end));
    findings.extend(busy_poll(system));
}

fn kernel(system: &SystemFacts) -> Finding {
    let found = |severity, finding: String, why| Finding::new("kernel", severity, SUBJECT, finding, why);
    let release = &system.release;
    if !release.is_readable() {
        let finding = format!("Linux {}: not a release that can be read", release.text);
        return found(Note, finding, "whether it can panic when an AF_XDP socket sends is not known");
    }
    if release.can_panic() {
        let finding =
            format!("Linux {} can panic as soon as an AF_XDP socket sends (xsk_destruct_skb)", release.text);
        let why = "no driver starts without --risk-kernel-panic; boot a kernel where that is mended: 6.17.11, 6.18 or newer";
        return found(Problem, finding, why);
    }
    found(Ok, format!("Linux {}", release.text), "no trouble with AF_XDP is known of it")
}

/// A finding for each feature, or one for all where they were not tried.
fn features(system: &SystemFacts, findings: &mut Vec<Finding>) {
    let Some(features) = &system.features else {
        let why = "a kernel that lacks what is needed is refused at the start";
        let finding = "what the kernel has was not tried: see capabilities";
        findings.push(Finding::new("features", Note, SUBJECT, finding, why));
        return;
    };
    findings.extend(features.iter().map(|(feature, support)| {
        let (what, since) = (feature.what(), feature.since());
        let (severity, finding) = match support {
            Support::Present => (Ok, format!("the kernel has {what}")),
            Support::Missing if Need::Rings.features().contains(&feature) => {
                (Problem, format!("the kernel lacks {what} ({since})"))
            }
            Support::Missing => (Note, format!("the kernel lacks {what} ({since})")),
            Support::Unknown(errno) => (Note, format!("whether the kernel has {what} is not known: {errno}")),
        };
        Finding::new(feature.name(), severity, SUBJECT, finding, feature.without())
    }));
}

fn capabilities(system: &SystemFacts) -> Finding {
    let why = "without them no XDP program is loaded and no socket opened";
    if system.missing.is_empty() {
        return Finding::new("capabilities", Ok, SUBJECT, "all that a run needs are here", why);
    }
    let names: Vec<_> = system.missing.iter().map(|cap: &Cap| cap.name()).collect();
    Finding::new("capabilities", Problem, SUBJECT, format!("missing: {}", names.join(", ")), why).fix(
        "sudo setcap cap_net_admin,cap_net_raw,cap_bpf,cap_perfmon,cap_ipc_lock+ep \"$(command -v netdext)\"",
    )
}

fn program(system: &SystemFacts) -> Finding {
    let why = "the verifier of each kernel judges the program anew";
    let found = |severity, finding: &str| Finding::new("program", severity, SUBJECT, finding, why);
    match &system.program {
        ProgramTrial::Loaded => found(Ok, "the kernel takes the XDP program"),
        ProgramTrial::NotTried => {
            found(Note, "whether the kernel takes the XDP program was not tried: see capabilities")
        }
        ProgramTrial::Refused(reason) => found(Problem, reason),
    }
}

fn btf(system: &SystemFacts) -> Option<Finding> {
    let why = "netdext does without; other BPF programs and bpftool's output need it";
    (!system.btf)
        .then(|| Finding::new("btf", Note, SUBJECT, "the kernel has no /sys/kernel/btf/vmlinux", why))
}

fn jit(system: &SystemFacts) -> Option<Finding> {
    let why = "the XDP program is interpreted, several times slower";
    (system.jit == Some(false)).then(|| {
        Finding::new("bpf_jit", Warning, SUBJECT, "the BPF compiler is off", why)
            .fix("sysctl -w net.core.bpf_jit_enable=1")
    })
}

fn memlock(system: &SystemFacts, end: &EndFacts) -> Finding {
    let why = "the memory of the frames is locked, and counts against RLIMIT_MEMLOCK without CAP_IPC_LOCK";
    let frame = FrameSize::for_frame_len(end.device.mtu as usize).unwrap_or(FrameSize::FourK);
    let queues = u64::from(end.device.active_queues.usable());
    let needed = queues * u64::from(RingSizes::default().frames()) * frame.bytes() as u64;
    let found = |severity, finding| Finding::new("memlock", severity, SUBJECT, finding, why);
    match system.memlock_bytes {
        _ if system.ipc_lock => found(Ok, "CAP_IPC_LOCK is here: no limit of locked memory".to_owned()),
        None => found(Ok, "no limit of locked memory".to_owned()),
        Some(limit) if limit >= needed => {
            found(Ok, format!("{limit} bytes may be locked, {needed} are needed"))
        }
        Some(limit) => found(Problem, format!("{limit} bytes may be locked, and {needed} are needed"))
            .fix(format!("ulimit -l {}", needed.div_ceil(1024))),
    }
}

fn busy_poll(system: &SystemFacts) -> Option<Finding> {
    let (poll, read) = system.busy_poll_us.filter(|&(poll, read)| poll > 0 || read > 0)?;
    let why = "every socket that sleeps in poll or read spins first, and takes CPU time from the workers";
    let finding = format!("net.core.busy_poll is {poll} us, net.core.busy_read {read} us");
    let fix = "sysctl -w net.core.busy_poll=0 net.core.busy_read=0";
    Some(Finding::new("busy_poll", Note, SUBJECT, finding, why).fix(fix))
}
