//! What `netdext run` refuses: one line on stderr, the exit status for scripts, and nothing left behind.

use std::process::Command;
use std::time::Duration;

use netdext::driver::RxTimestamps;
use netdext_host::link::Device;
use netdext_host::xdp::program::{ProgramConfig, SteeringProgram, XdpMode};
use netdext_tests::process::binary;
use netdext_tests::wire::{DRIVER_IFACE, DRIVER_V4};
use netdext_tests::{Finished, Namespace, Netdext, Wire, WireConfig, patiently, require};

/// A run that is meant to fail; should it start, it ends soon.
fn run(wire: &Wire, iface: &str, arguments: &[&str]) -> Finished {
    let mut all = vec!["--duration", "100ms"];
    all.extend(arguments);
    Netdext::run(&wire.driver, iface, &all).wait()
}

#[track_caller]
fn refused(wire: &Wire, iface: &str, arguments: &[&str], parts: &[&str]) {
    let finished = run(wire, iface, arguments);
    let line = finished.expect_failure(1);
    for part in parts {
        assert!(line.contains(part), "{part:?} in {line}");
    }
    assert!(finished.stdout.is_empty(), "{finished:#?}");
    wire.assert_no_xdp();
}

/// A program on the driver's interface that is held by a bpf_link of this process.
fn attach_another(wire: &Wire) -> SteeringProgram {
    wire.driver.block_on(async || {
        let device = Device::query(DRIVER_IFACE).await.unwrap();
        let mut program = load(&device);
        program.attach(&device.name, device.index, XdpMode::Skb, false).unwrap();
        program
    })
}

fn load(device: &Device) -> SteeringProgram {
    let config = ProgramConfig {
        log_frames: false,
        mac: device.mac,
        addresses: Vec::new(),
        broadcasts: Vec::new(),
        rules: Vec::new(),
        answer: false,
        answer_limit: None,
        timestamps: RxTimestamps::Some,
        latency: false,
        queues: 1,
    };
    SteeringProgram::load(&config).unwrap()
}

#[test]
fn a_missing_interface_is_refused_with_those_that_exist() {
    require!("ethtool");
    let wire = Wire::new("no such interface");
    refused(&wire, "nope0", &[], &["nope0", "lo", DRIVER_IFACE]);
}

#[test]
fn a_missing_capability_is_named_with_exit_status_77() {
    require!("setpriv", "ethtool");
    let wire = Wire::new("no capabilities");
    let mut command = wire.driver.command("setpriv");
    command.args(["--inh-caps=-all", "--bounding-set=-all"]).arg(binary());
    command.args(["run", "--iface", DRIVER_IFACE, "--duration", "100ms"]);
    let finished = Netdext::start(&mut command).wait();
    let line = finished.expect_failure(77);
    for capability in ["CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_BPF"] {
        assert!(line.contains(capability), "{line}");
    }
    wire.assert_no_xdp();
}

#[test]
fn a_benchmark_without_capabilities_names_them_with_exit_status_77() {
    require!("setpriv");
    let directory = tempfile::tempdir().unwrap();
    let mut command = Command::new("setpriv");
    command.args(["--inh-caps=-all", "--bounding-set=-all"]).arg(binary());
    command.args(["bench", "--quick", "--out", "report"]).current_dir(&directory);
    let finished = Netdext::start(&mut command).wait();
    assert!(finished.expect_failure(77).contains("CAP_SYS_ADMIN"), "{finished:#?}");
    assert!(!directory.path().join("report").exists(), "nothing is made");
}

#[test]
fn a_benchmark_of_what_does_not_exist_is_a_usage_error_that_says_what_does() {
    let directory = tempfile::tempdir().unwrap();
    for (only, why) in [
        ("nothing", "there is no case nothing; there are echo_rate,"),
        ("echo_rate:nobody", "the case echo_rate has no subject with 'nobody' in its name"),
        ("echo_rate:", "for example echo_rate:spin"),
    ] {
        let mut command = Command::new(binary());
        command.args(["bench", "--only", only, "--out", "report"]).current_dir(&directory);
        let finished = Netdext::start(&mut command).wait();
        assert_eq!(finished.status.code(), Some(2), "{finished:#?}");
        assert!(finished.stderr.contains(why), "{finished:#?}");
        assert!(!directory.path().join("report").exists(), "nothing is made");
    }
}

#[test]
fn a_malformed_value_is_refused_with_its_flag_and_an_example() {
    require!("ethtool");
    let wire = Wire::new("malformed values");
    for (flag, value, example) in [
        ("--addr", "198.18.0.1", "198.18.0.1/24"),
        ("--addr", "198.18.0.300/24", "198.18.0.1/24"),
        ("--addr", "2001:2::1/129", "2001:2::1/64"),
        ("--duration", "5", "for example 5s"),
        ("--interval", "1x", "for example 5s"),
        ("--interval", "9us", "from 10us"),
        ("--rate", "10000", "10000/s"),
        ("--queues", "0", "for example 1, 4 or all"),
        ("--queues", "many", "for example 1, 4 or all"),
        ("--batch", "0", "from 1 on"),
        ("--ring-size", "0", "1..=65536"),
    ] {
        let finished = Netdext::run(&wire.driver, DRIVER_IFACE, &[flag, value]).wait();
        assert_eq!(finished.status.code(), Some(2), "{flag} {value}: {finished:#?}");
        // What follows the first line points to --help.
        let line = finished.stderr.lines().next().unwrap_or_default();
        assert!([flag, value, example].iter().all(|part| line.contains(part)), "{flag} {value}: {line}");
    }
    wire.assert_no_xdp();
}

#[test]
fn a_malformed_value_of_other_commands_is_refused_before_anything_is_made() {
    require!();
    let namespace = Namespace::unmade();
    let in_namespace = ["--netns", namespace.name()];
    for (words, flag, value, example) in [
        (&["ping", "--iface", "veth0", "198.18.0.2"][..], "--count", "0", "for example 8"),
        (&["ping", "--iface", "veth0", "198.18.0.2"], "--timeout", "0s", "for example 1s"),
        (&["ping", "--iface", "veth0", "198.18.0.2"], "--size", "10", "from 24 on"),
        (&["lab", "up"], "--queues", "0", "1..=64"),
        (&["lab", "up"], "--queues", "65", "1..=64"),
        (&["lab", "up"], "--iface", "eth0", "for example veth0"),
    ] {
        let mut command = Command::new(binary());
        command.args(words).args([flag, value]).args(in_namespace);
        let finished = Netdext::start(&mut command).wait();
        assert_eq!(finished.status.code(), Some(2), "{words:?} {flag} {value}: {finished:#?}");
        let line = finished.stderr.lines().next().unwrap_or_default();
        assert!([flag, value, example].iter().all(|part| line.contains(part)), "{words:?}: {line}");
        assert!(!namespace.exists(), "{words:?} {flag} {value}: the namespace stays");
    }
}

#[test]
fn a_queue_out_of_range_is_refused_with_how_many_there_are() {
    require!("ethtool");
    let wire = Wire::new("queue out of range");
    refused(&wire, DRIVER_IFACE, &["--queues", "2"], &[DRIVER_IFACE, "1 active queue", "--queues 1"]);
}

#[test]
fn an_mtu_larger_than_a_chunk_is_refused_with_the_largest() {
    require!("ethtool");
    let wire = Wire::with("large MTU", WireConfig { mtu: 9000, ..WireConfig::default() });
    for mode in ["auto", "skb"] {
        refused(&wire, DRIVER_IFACE, &["--mode", mode], &[DRIVER_IFACE, "9000", "ip link set"]);
    }
}

#[test]
fn an_address_that_no_station_can_own_is_refused() {
    require!("ethtool");
    let wire = Wire::new("multicast address");
    refused(&wire, DRIVER_IFACE, &["--addr", "224.0.0.1/24"], &["224.0.0.1", "multicast"]);
}

/// A wire over which the driver's namespace has its default route.
fn with_default_route(purpose: &str) -> Wire {
    let wire = Wire::new(purpose);
    wire.driver.ip(&["address", "add", "198.18.0.9/24", "dev", DRIVER_IFACE]);
    wire.driver.ip(&["route", "add", "default", "via", "198.18.0.2", "dev", DRIVER_IFACE]);
    wire
}

#[test]
fn steering_everything_on_the_default_route_needs_yes() {
    require!("ethtool");
    let wire = with_default_route("default route");
    let steer_all = ["--no-injector", "--steer", "all"];
    refused(&wire, DRIVER_IFACE, &steer_all, &[DRIVER_IFACE, "default route", "--yes"]);
    let finished = run(&wire, DRIVER_IFACE, &[&steer_all[..], &["--yes"]].concat());
    assert!(finished.status.success(), "{finished:#?}");
    finished.expect_whole();
    wire.assert_no_xdp();
}

#[test]
fn taking_everything_inside_the_kernel_on_the_default_route_needs_yes() {
    require!("ethtool");
    let wire = with_default_route("default route, inside the kernel");
    let reflect = ["--engine", "xdp", "--driver", "reflect"];
    for flags in [&["--engine", "xdp", "--driver", "sink"], &reflect] {
        refused(&wire, DRIVER_IFACE, flags, &[DRIVER_IFACE, "default route", flags[3], "--yes"]);
    }
    // What leaves all else to the kernel cuts nobody off.
    for meant in ["--yes", "--frames=echo"] {
        let finished = run(&wire, DRIVER_IFACE, &[&reflect[..], &[meant]].concat());
        assert!(finished.status.success(), "{meant}: {finished:#?}");
        wire.assert_no_xdp();
    }
}

#[test]
fn another_xdp_program_is_named_and_stays() {
    require!("ethtool");
    let wire = Wire::new("another XDP program");
    let program = attach_another(&wire);
    let id = program.program_id();
    let sits_there = [u64::from(id)];
    for (flags, advice) in [(&[][..], "--replace"), (&["--replace"][..], "bpf_link")] {
        let finished = run(&wire, DRIVER_IFACE, flags);
        let line = finished.expect_failure(1);
        for part in [DRIVER_IFACE, "netdext", &format!("id {id}"), "skb mode", advice] {
            assert!(line.contains(part), "{part:?} in {line}");
        }
        assert_eq!(wire.driver.xdp_programs(DRIVER_IFACE), sits_there, "it stays");
    }
}

#[test]
fn a_program_attached_by_netlink_is_replaced_when_asked() {
    require!("bpftool", "ethtool");
    let wire = Wire::new("XDP program by netlink");
    let device = wire.driver.block_on(async || Device::query(DRIVER_IFACE).await.unwrap());
    let program = load(&device);
    let id = program.program_id().to_string();
    wire.driver.run("bpftool", &["net", "attach", "xdpgeneric", "id", &id, "dev", DRIVER_IFACE]);
    let finished = run(&wire, DRIVER_IFACE, &["--no-injector"]);
    let line = finished.expect_failure(1);
    assert!(line.contains(&format!("id {id}")) && line.contains("--replace"), "{line}");
    assert_eq!(wire.driver.xdp_programs(DRIVER_IFACE), [u64::from(program.program_id())], "it stays");
    let finished = run(&wire, DRIVER_IFACE, &["--no-injector", "--replace"]);
    assert!(finished.status.success(), "{finished:#?}");
    wire.assert_no_xdp();
}

#[test]
fn a_second_netdext_is_refused_and_the_first_keeps_answering() {
    require!("ping", "ethtool");
    let wire = Wire::new("two of us");
    let mut first = Netdext::run(&wire.driver, DRIVER_IFACE, &["--no-injector"]);
    first.ready();
    for flags in [&[][..], &["--replace"][..]] {
        let finished = run(&wire, DRIVER_IFACE, flags);
        let line = finished.expect_failure(1);
        assert!(line.contains(DRIVER_IFACE) && line.contains("XDP program"), "{line}");
        wire.ping_without_loss(3, &["-i", "0.01", DRIVER_V4]);
    }
    assert_eq!(wire.stop(first)["counters"]["echo4_answered"], 6);
}

#[test]
fn flags_that_do_not_go_together_leave_no_namespace_and_no_pair() {
    require!();
    let mac = ["--dst-mac", "02:00:00:00:00:02"];
    let generate = ["--driver", "generate"];
    let in_kernel = |flags: &[&'static str]| [&["--driver", "sink", "--engine", "xdp"], flags].concat();
    for (flags, named) in [
        (&generate[..], "--target"),
        (&[&generate[..], &["--target", "198.18.0.2"]].concat(), "--dst-mac"),
        (&[&generate[..], &["--target", "198.18.0.2", "--flows", "0"], &mac].concat(), "64512"),
        (&[&generate[..], &["--engine", "xdp"]].concat(), "--target"),
        (&["--engine", "xdp"], "--driver sink"),
        (&in_kernel(&["--capture", "/nonexistent/x.pcapng"]), "--capture does nothing"),
        (&in_kernel(&["--metrics", "127.0.0.1:0"]), "--metrics does nothing"),
        (&in_kernel(&["--log-frames"]), "--log-frames does nothing"),
        (&in_kernel(&["--tune"]), "--tune does nothing"),
        (&in_kernel(&["--steer", "all"]), "--steer does nothing"),
        (&in_kernel(&["--answer"]), "--answer does nothing"),
        (&in_kernel(&["--mode", "skb"]), "--mode skb does nothing"),
        (&["--rate", "max"], "--driver generate"),
    ] {
        let namespace = Namespace::unmade();
        let finished = Netdext::run(&namespace, DRIVER_IFACE, &[&["--lab"][..], flags].concat()).wait();
        assert_eq!(finished.status.code(), Some(2), "{flags:?}: {finished:#?}");
        assert!(finished.stderr.contains(named), "{flags:?}: {finished:#?}");
        assert!(!namespace.exists(), "{flags:?}: the namespace stays");
    }
}

#[test]
fn where_standard_error_can_not_be_written_the_exit_status_still_says_what_happened() {
    require!("setpriv", "ethtool");
    let wire = Wire::with("nobody listens", WireConfig { queues: 2, ..WireConfig::default() });
    let empty = tempfile::tempdir().unwrap();
    let stats = "stats".to_owned();
    let run = format!("run --netns {} --iface {DRIVER_IFACE} --duration 100ms", wire.driver.name());
    for (prefix, words, status) in [
        ("", &stats, 1),
        ("setpriv --inh-caps=-all --bounding-set=-all", &run, 77),
        ("", &format!("{run} --no-such-flag"), 2),
        // It has a warning to log.
        ("", &format!("{run} --queues 1"), 0),
    ] {
        for stderr in ["/dev/full", "&-"] {
            let script = format!("exec {prefix} {} {words} 2>{stderr}", binary().display());
            let mut command = Command::new("sh");
            command.args(["-c", &script]).env("NETDEXT_RUNTIME_DIR", empty.path());
            let finished = Netdext::start(&mut command).wait();
            assert_eq!(finished.status.code(), Some(status), "{words} 2>{stderr}: {finished:#?}");
        }
    }
    wire.assert_no_xdp();
}

#[test]
fn queues_mean_nothing_inside_the_kernel_but_for_the_pair_that_is_made() {
    require!();
    let namespace = Namespace::unmade();
    let flags = ["--driver", "sink", "--engine", "xdp", "--queues", "2", "--duration", "100ms"];
    let finished = Netdext::run(&namespace, DRIVER_IFACE, &flags).wait();
    assert_eq!(finished.status.code(), Some(2), "{finished:#?}");
    assert!(finished.stderr.contains("--queues does nothing"), "{finished:#?}");
    let finished = Netdext::run(&namespace, DRIVER_IFACE, &[&flags[..], &["--lab"]].concat()).wait();
    assert!(finished.status.success(), "{finished:#?}");
}

#[test]
fn a_command_line_without_an_interface_is_refused() {
    require!();
    let finished = Netdext::start(Command::new(binary()).arg("run")).wait();
    assert_eq!(finished.status.code(), Some(2), "{finished:#?}");
    assert!(finished.stderr.contains("--iface"), "{finished:#?}");
    assert!(finished.took < patiently(Duration::from_secs(5)));
}
