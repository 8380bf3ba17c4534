//! Kernels that lack something, that are known to die, or whose verifier refuses the XDP program: one line on stderr says
//! so, before anything is touched.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::process::Command;

use netdext_abi::maps::PROGRAM;
use netdext_host::kernel::{KernelFeatures, Need, Support};
use netdext_host::xdp::program::OBJECT;
use netdext_tests::daemon::names_in;
use netdext_tests::process::binary;
use netdext_tests::wire::DRIVER_IFACE;
use netdext_tests::{Namespace, Netdext, Site, Wire, pretend, require};
use rustix::process::{Resource, getrlimit};
use serde_json::Value;
use tempfile::TempDir;

/// The release on which the panic was seen.
const PANICS: &str = "6.16.12+deb14-cloud-amd64";

#[test]
fn the_kernel_of_the_tests_has_what_is_needed_and_probing_changes_nothing() {
    require!();
    let before = getrlimit(Resource::Memlock);
    let features = KernelFeatures::running();
    let after = getrlimit(Resource::Memlock);
    assert_eq!((before.current, before.maximum), (after.current, after.maximum));
    features.require(Need::Rings).expect("drivers run here");
    let unknown: Vec<_> =
        features.iter().filter(|(_, support)| matches!(support, Support::Unknown(_))).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}

#[test]
fn nothing_is_made_on_a_kernel_that_can_panic() {
    require!("strace");
    let site = Site::new("a kernel that can panic");
    let unmade = Namespace::unmade();
    let report = site.file("report");
    let netns = ["--netns", unmade.name()];
    let lab = ["--lab", "--iface", "veth7"];
    for words in [
        &[&["run"][..], &lab, &netns].concat()[..],
        &[&["run", "--json"][..], &lab, &netns].concat(),
        &[&["daemon"][..], &netns].concat(),
        &[&["install", "--yes"][..], &lab].concat(),
        &[&["ping", "198.18.0.2", "--netns", site.namespace.name()][..], &lab].concat(),
        &["bench", "--quick", "--out", report.to_str().expect("a plain path")],
    ] {
        let mut command = pretend::release(&site.namespace, PANICS);
        command.args(words);
        command.env("NETDEXT_RUNTIME_DIR", site.runtime_dir()).env("NETDEXT_STATE_DIR", site.state_dir());
        let finished = Netdext::start(&mut command).wait();
        assert_eq!(
            finished.expect_failure(1),
            "netdext: Linux 6.16.12+deb14-cloud-amd64 can panic as soon as an AF_XDP socket sends \
             (xsk_destruct_skb): boot another kernel, or risk it with --risk-kernel-panic",
            "{words:?}"
        );
        assert!(finished.stdout.is_empty(), "{words:?}: {finished:#?}");
        assert!(!unmade.exists() && site.namespace.link("veth7").is_none(), "{words:?}");
        assert!(!site.runtime_dir().exists() && !site.state_dir().exists() && !report.exists(), "{words:?}");
    }
}

#[test]
fn a_driver_runs_on_a_kernel_that_can_panic_if_the_risk_is_taken_and_on_a_mended_one() {
    require!("strace", "ethtool");
    let wire = Wire::new("a risk");
    for (release, risk) in
        [(PANICS, &["--risk-kernel-panic"][..]), ("6.17.13+deb13-amd64", &[]), ("6.17.0-19-generic", &[])]
    {
        let mut command = pretend::release(&wire.driver, release);
        command.args(["run", "--json", "--iface", DRIVER_IFACE, "--duration", "200ms"]).args(risk);
        let finished = Netdext::start(&mut command).wait();
        assert!(finished.status.success(), "{release}: {finished:#?}");
        finished.expect_whole();
    }
}

#[test]
fn what_opens_no_socket_runs_on_a_kernel_that_can_panic() {
    require!("strace", "ethtool");
    let wire = Wire::new("no socket");
    let mut command = pretend::release(&wire.driver, PANICS);
    command.args(["run", "--iface", DRIVER_IFACE, "--duration", "100ms"]);
    command.args(["--driver", "sink", "--engine", "xdp"]);
    let finished = Netdext::start(&mut command).wait();
    assert!(finished.status.success(), "{finished:#?}");
}

#[test]
fn the_daemon_takes_the_risk_for_its_drivers() {
    require!("strace", "ethtool");
    let site = Site::new("a daemon's risk");
    let mut command = pretend::release(&site.namespace, PANICS);
    command.args(["daemon", "--risk-kernel-panic"]);
    command.env("NETDEXT_RUNTIME_DIR", site.runtime_dir()).env("NETDEXT_STATE_DIR", site.state_dir());
    let mut daemon = Netdext::start(&mut command);
    daemon.line("ready: daemon, ", std::time::Duration::from_secs(20));
    let installed = site.ok("install --lab --iface veth0 --yes");
    assert!(installed.contains("[activated enabled]"), "{installed}");
    site.ok("uninstall org.netdext.sample");
    let finished = daemon.stop();
    assert!(finished.stderr.is_empty(), "{finished:#?}");
    site.assert_no_links();
}

#[test]
fn a_kernel_that_lacks_something_is_refused_with_the_linux_that_has_it() {
    require!("strace");
    let site = Namespace::new("a kernel that lacks something");
    for (call, errno, when, lacks) in [
        ("socket", "EAFNOSUPPORT", "1", "AF_XDP sockets (Linux 4.18, CONFIG_XDP_SOCKETS)"),
        ("bind", "EINVAL", "1", "the need_wakeup flag of AF_XDP (Linux 5.4)"),
        (
            "bpf",
            "ENOSYS",
            "1+",
            "the BPF ring buffer (Linux 5.8), bpf_link for XDP (Linux 5.9), accounting of BPF memory by cgroup instead of RLIMIT_MEMLOCK (Linux 5.11)",
        ),
        // The map that is made with a limit of 0, which aya tries twice.
        ("bpf", "EPERM", "1..2", "accounting of BPF memory by cgroup instead of RLIMIT_MEMLOCK (Linux 5.11)"),
    ] {
        let namespace = Namespace::unmade();
        let mut command = pretend::refusal(&site, call, errno, when);
        command.args([
            "run",
            "--lab",
            "--iface",
            "veth7",
            "--netns",
            namespace.name(),
            "--duration",
            "100ms",
        ]);
        let finished = Netdext::start(&mut command).wait();
        let line = finished.expect_failure(1);
        assert!(line.starts_with("netdext: Linux "), "{line}");
        assert!(
            line.ends_with(&format!("lacks what netdext needs: {lacks}; boot a kernel that has it")),
            "{line}"
        );
        assert!(!namespace.exists(), "{line}");
    }
}

#[test]
fn the_root_of_a_user_namespace_is_told_that_bpf_is_not_for_it() {
    require!("unshare");
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--net"]).arg(binary());
    command.args(["run", "--json", "--lab", "--iface", "veth0"]);
    let finished = Netdext::start(&mut command).wait();
    let line = finished.expect_failure(77);
    assert!(line.contains("not permitted") && line.contains("user namespace"), "{line}");
    assert!(finished.stdout.is_empty(), "{finished:#?}");
}

/// netdext with an instruction at the beginning of its XDP program changed: a register that nobody has set is read.
fn with_a_bad_program() -> (TempDir, PathBuf) {
    let object = aya_obj::Object::parse(OBJECT).expect("the object can be parsed");
    let function = &object.functions[&object.programs[PROGRAM].function_key()];
    let head: Vec<u8> = function
        .instructions
        .iter()
        .take(8)
        .flat_map(|insn| {
            let registers = insn.src_reg() << 4 | insn.dst_reg();
            let [low, high] = insn.off.to_le_bytes();
            [&[insn.code, registers, low, high][..], &insn.imm.to_le_bytes()].concat()
        })
        .collect();
    let mut bytes = std::fs::read(binary()).expect("netdext can be read");
    let found: Vec<usize> =
        find(&bytes, &OBJECT[..64]).into_iter().filter(|at| bytes[*at..].starts_with(OBJECT)).collect();
    let [object_at] = found[..] else { panic!("the object is in netdext {} times", found.len()) };
    let [program_at] = find(OBJECT, &head)[..] else { panic!("the program's beginning is not found") };
    // r0 = r9
    bytes[object_at + program_at..][..8].copy_from_slice(&[0xbf, 0x90, 0, 0, 0, 0, 0, 0]);
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let path = directory.path().join("netdext");
    std::fs::write(&path, bytes).expect("it can be written");
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).expect("its mode can be set");
    (directory, path)
}

fn find(bytes: &[u8], part: &[u8]) -> Vec<usize> {
    bytes.windows(part.len()).enumerate().filter(|(_, window)| *window == part).map(|(at, _)| at).collect()
}

#[test]
fn a_program_that_the_verifier_refuses_is_told_in_one_line_with_the_whole_log_in_a_file() {
    require!("ethtool");
    let wire = Wire::new("a bad program");
    let (directory, netdext) = with_a_bad_program();
    let logs = directory.path().join("tmp");
    std::fs::create_dir(&logs).unwrap();
    let mut command = wire.driver.command(netdext.to_str().expect("a plain path"));
    command.args(["run", "--json", "--iface", DRIVER_IFACE, "--duration", "100ms"]).env("TMPDIR", &logs);
    let finished = Netdext::start(&mut command).wait();
    let line = finished.expect_failure(1);
    let (verdict, file) = line.split_once("; its whole log is in ").expect("it names a file");
    assert!(
        verdict.starts_with("netdext: the kernel's verifier refuses the XDP program: R9 !read_ok"),
        "{line}"
    );
    assert!(line.len() < 300 && !line.contains("not permitted"), "{line}");
    let metadata = std::fs::symlink_metadata(file).expect("the file is there");
    assert!(metadata.is_file() && metadata.mode() & 0o777 == 0o600, "{metadata:?}");
    assert!(std::fs::read_to_string(file).unwrap().contains("R9 !read_ok"));
    assert_eq!(names_in(&logs).len(), 1);
    wire.assert_no_xdp();

    let mut command = wire.driver.command(netdext.to_str().expect("a plain path"));
    command.args(["doctor", "--json", "--iface", DRIVER_IFACE]).env("TMPDIR", &logs);
    let finished = Netdext::start(&mut command).wait();
    let findings =
        finished.stdout.iter().map(|line| serde_json::from_str::<Value>(line).expect("JSON lines"));
    let program = findings.into_iter().find(|finding| finding["check"] == "program").expect("a finding");
    assert_eq!(program["severity"], "problem");
    let text = program["finding"].as_str().unwrap();
    assert!(text.contains("R9 !read_ok") && text.len() < 300 && !text.contains('\n'), "{text}");
}

/// Which of its calls of bpf(2) loads the program of a driver, counted from 1.
fn call_that_loads(wire: &Wire) -> usize {
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let calls = directory.path().join("calls");
    let mut command = wire.driver.command("strace");
    command.arg("-qq").arg("-o").arg(&calls).args(["-e", "trace=bpf", "-e", "signal=none"]).arg(binary());
    command.args(["run", "--iface", DRIVER_IFACE, "--duration", "100ms"]);
    let finished = Netdext::start(&mut command).wait();
    assert!(finished.status.success(), "{finished:#?}");
    let calls = std::fs::read_to_string(calls).unwrap();
    // The kernel has 15 characters of a name.
    let named = format!("prog_name=\"{}", PROGRAM.get(..15).unwrap_or(PROGRAM));
    let loads = |line: &str| line.starts_with("bpf(BPF_PROG_LOAD") && line.contains(&named);
    calls.lines().position(loads).expect("it is loaded") + 1
}

#[test]
fn an_interrupted_load_and_a_forbidden_one_say_what_they_are() {
    require!("strace", "ethtool");
    let wire = Wire::new("interrupted load");
    let at = call_that_loads(&wire);
    for (errno, status, says) in [
        ("EAGAIN", 1, "was interrupted while the kernel was verifying it; try again"),
        (
            "EPERM",
            77,
            "not permitted to load the XDP program: needs CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON (or root)",
        ),
    ] {
        // aya tries again: once for a log, and once for a limit of memory each time.
        let mut command = pretend::refusal(&wire.driver, "bpf", errno, &format!("{at}..{}", at + 3));
        command.args(["run", "--json", "--iface", DRIVER_IFACE, "--duration", "100ms"]);
        let finished = Netdext::start(&mut command).wait();
        let line = finished.expect_failure(status);
        assert!(line.contains(says), "{line}");
        wire.assert_no_xdp();
    }
}
