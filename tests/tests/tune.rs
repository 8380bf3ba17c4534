//! `netdext run --tune`: NAPI of the other end gets the driver's frames and a thread, and loses both again.

use std::time::Duration;

use netdext_host::link::Device;
use netdext_host::link::threaded::{Tuning, Untuned, tune};
use netdext_tests::{Namespace, Netdext, require, wait_until};
use rustix::process::Signal;

/// A pair in one namespace, up, of which `veth1` has NAPI.
fn pair(purpose: &str) -> Namespace {
    let namespace = Namespace::new(purpose);
    namespace.ip(&["link", "add", "veth0", "type", "veth", "peer", "name", "veth1"]);
    namespace.run("ethtool", &["-K", "veth1", "gro", "on"]);
    namespace.ip(&["link", "set", "veth0", "up"]);
    namespace.ip(&["link", "set", "veth1", "up"]);
    namespace
}

/// What the kernel says of `veth1`: 1 where NAPI runs in threads.
fn threaded(namespace: &Namespace) -> String {
    namespace.run("cat", &["/sys/class/net/veth1/threaded"]).trim().to_owned()
}

/// Features of `veth0`.
fn features(namespace: &Namespace) -> String {
    namespace.run("ethtool", &["-k", "veth0"])
}

fn has_several_cpus() -> bool {
    std::thread::available_parallelism().is_ok_and(|cpus| cpus.get() > 1)
}

/// The command that gives NAPI of `veth1` a thread.
const THREAD: &str = "echo 1 > /sys/class/net/veth1/threaded";

#[test]
fn napi_of_the_other_end_has_a_thread_until_the_guards_are_dropped() {
    require!("ethtool");
    let namespace = pair("tune, guard");
    let before = features(&namespace);
    namespace.block_on(async || {
        let device = Device::query("veth0").await.unwrap();
        let (tuning, tuned) = tune(&device, 2).await.unwrap();
        let command = tuning.to_string();
        let (off, thread) = command.split_once(" && ").unwrap();
        assert!(off.starts_with("ethtool -K veth0 tx-tcp-segmentation off"), "{off}");
        assert_eq!(thread, THREAD);
        assert_eq!(threaded(&namespace), "1");
        assert!(features(&namespace).contains("tx-tcp-segmentation: off"), "{}", features(&namespace));
        let (again, none) = tune(&device, 2).await.unwrap();
        assert_eq!(again, Tuning::Left(Untuned::Threaded { peer: "veth1".to_owned() }));
        drop(none);
        assert_eq!(threaded(&namespace), "1", "who changed nothing takes nothing back");
        drop(tuned);
        assert_eq!(threaded(&namespace), "0");
        assert_eq!(features(&namespace), before);
    });
}

#[test]
fn nothing_is_changed_with_one_cpu_or_without_napi() {
    require!("ethtool");
    let namespace = pair("tune, left alone");
    let before = features(&namespace);
    let left = |cpus| {
        namespace.block_on(async || {
            let device = Device::query("veth0").await.unwrap();
            tune(&device, cpus).await.unwrap().0
        })
    };
    assert_eq!(left(1), Tuning::Left(Untuned::OneCpu));
    namespace.run("ethtool", &["-K", "veth1", "gro", "off"]);
    assert_eq!(left(2), Tuning::Left(Untuned::NoNapi { peer: "veth1".to_owned() }));
    assert_eq!(threaded(&namespace), "0");
    assert_eq!(features(&namespace), before);
}

#[test]
fn a_run_says_what_it_tuned_and_takes_it_back_on_each_way_to_end() {
    require!("ethtool");
    let namespace = pair("tune, run");
    let before = features(&namespace);
    for signal in [Signal::INT, Signal::TERM] {
        let mut process = Netdext::run(&namespace, "veth0", &["--no-injector", "--tune"]);
        let (ready, _) = process.ready();
        let tuned = &ready["tuned"];
        if has_several_cpus() {
            let command = tuned["command"].as_str().unwrap_or_else(|| panic!("{ready}"));
            assert!(command.ends_with(&format!(" && {THREAD}")), "{command}");
            assert_eq!(threaded(&namespace), "1");
        } else {
            let why = tuned["left"].as_str().unwrap_or_else(|| panic!("{ready}"));
            assert!(why.contains("one CPU") && !why.contains('\n'), "{why}");
            assert_eq!(threaded(&namespace), "0");
        }
        process.signal(signal);
        process.wait().expect_whole();
        assert_eq!(threaded(&namespace), "0");
        assert_eq!(features(&namespace), before);
    }
    // An error: the interface goes away, and with it what was tuned.
    let mut process = Netdext::run(&namespace, "veth0", &["--no-injector", "--tune"]);
    process.ready();
    namespace.ip(&["link", "del", "veth0"]);
    let finished = process.wait();
    assert!(!finished.stderr.contains("stays"), "{finished:#?}");
    wait_until("the pair is gone", Duration::from_secs(5), || {
        namespace.link("veth1").is_none().then_some(())
    });
}

#[test]
fn what_the_driver_sends_is_received_by_napi_only_if_it_is_tuned() {
    require!("ethtool");
    let namespace = pair("tune, way");
    let by_napi = || -> u64 {
        let text = namespace.run("ethtool", &["-S", "veth1"]);
        let counts =
            text.lines().filter(|line| line.trim().starts_with("rx_queue_") && line.contains("_xdp_packets"));
        counts.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
    };
    let received_by_napi = |flags: &[&str]| {
        let generate =
            ["--driver", "generate", "--count", "200", "--rate", "10000/s", "--target", "198.18.0.9"];
        let mac = ["--dst-mac", "02:00:00:00:00:09"];
        let before = by_napi();
        Netdext::run(&namespace, "veth0", &[&generate[..], &mac, flags].concat()).wait().expect_whole();
        by_napi() - before
    };
    assert!(received_by_napi(&[]) < 100, "the way around it is why there is something to tune");
    if has_several_cpus() {
        assert!(received_by_napi(&["--tune"]) >= 200);
    }
}
