//! The kernel and this process.

use super::Severity::{Note, Ok, Problem, Warning};
use super::{EndFacts, Finding, ProgramTrial, SystemFacts};
use crate::packet::FrameSize;
use crate::port::RingSizes;
use crate::privilege::{Cap, KernelVersion, OLDEST_KERNEL};

const SUBJECT: &str = "system";

pub(super) fn check(system: &SystemFacts, end: &EndFacts, findings: &mut Vec<Finding>) {
    findings.push(kernel(system));
    findings.push(capabilities(system));
    findings.push(program(system));
    findings.extend(btf(system));
    findings.extend(jit(system));
    findings.push(memlock(system, end));
    findings.extend(busy_poll(system));
}

fn kernel(system: &SystemFacts) -> Finding {
    let found = |severity, finding: String, why| Finding::new("kernel", severity, SUBJECT, finding, why);
    let release = &system.release.text;
    let Some(version) = system.release.version else {
        return found(
            Note,
            format!("Linux {release}: not a release that can be read"),
            "what it can is not known",
        );
    };
    if version < OLDEST_KERNEL {
        let why = "it has no bpf_link for XDP, or charges BPF memory to RLIMIT_MEMLOCK";
        return found(Problem, format!("Linux {release} is too old: {OLDEST_KERNEL} is the oldest"), why);
    }
    if [16, 17].iter().any(|&minor| version == KernelVersion { major: 6, minor }) {
        let why = "Linux 6.17 and some releases of 6.16 can panic when an AF_XDP socket in copy mode sends; boot a \
                   release where that is mended";
        return found(Warning, format!("Linux {release}"), why);
    }
    found(Ok, format!("Linux {release}"), "no trouble with AF_XDP is known of it")
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
        ProgramTrial::Refused(reason) => {
            found(Problem, &format!("the kernel refuses the XDP program: {reason}"))
        }
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
