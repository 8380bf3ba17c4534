//! `netdext run --tune`: NAPI of the other end gets a thread where a CPU is to spare, and loses it again.

use std::time::Duration;

use netdext::link::Device;
use netdext::link::threaded::{Tuning, Untuned, tune};
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

#[test]
fn napi_of_the_other_end_has_a_thread_until_the_guard_is_dropped() {
    require!("ethtool");
    let namespace = pair("tune, guard");
    namespace.block_on(async || {
        let device = Device::query("veth0").await.unwrap();
        let (tuning, tuned) = tune(&device, 3).await.unwrap();
        let Tuning::Changed(change) = &tuning else { panic!("{tuning:?}") };
        assert_eq!(change.command(), "echo 1 > /sys/class/net/veth1/threaded");
        assert_eq!(threaded(&namespace), "1");
        let (again, none) = tune(&device, 3).await.unwrap();
        assert_eq!(again, Tuning::Left(Untuned::Threaded { peer: "veth1".to_owned() }));
        drop(none);
        assert_eq!(threaded(&namespace), "1", "who changed nothing takes nothing back");
        drop(tuned);
        assert_eq!(threaded(&namespace), "0");
    });
}

#[test]
fn nothing_is_changed_without_a_spare_cpu_or_without_napi() {
    require!("ethtool");
    let namespace = pair("tune, left alone");
    let left = |cpus| {
        namespace.block_on(async || {
            let device = Device::query("veth0").await.unwrap();
            tune(&device, cpus).await.unwrap().0
        })
    };
    assert_eq!(left(2), Tuning::Left(Untuned::FewCpus { cpus: 2 }));
    namespace.run("ethtool", &["-K", "veth1", "gro", "off"]);
    assert_eq!(left(3), Tuning::Left(Untuned::NoNapi { peer: "veth1".to_owned() }));
    assert_eq!(threaded(&namespace), "0");
}

#[test]
fn a_run_says_what_it_tuned_and_takes_it_back_on_each_way_to_end() {
    require!("ethtool");
    let namespace = pair("tune, run");
    let spare = std::thread::available_parallelism().is_ok_and(|cpus| cpus.get() > 2);
    for signal in [Signal::INT, Signal::TERM] {
        let mut process = Netdext::run(&namespace, "veth0", &["--no-injector", "--tune"]);
        let (ready, _) = process.ready();
        let tuned = &ready["tuned"];
        if spare {
            assert_eq!(tuned["command"], "echo 1 > /sys/class/net/veth1/threaded", "{ready}");
            assert_eq!(threaded(&namespace), "1");
        } else {
            let why = tuned["left"].as_str().unwrap_or_else(|| panic!("{ready}"));
            assert!(why.contains("none to spare") && !why.contains('\n'), "{why}");
            assert_eq!(threaded(&namespace), "0");
        }
        process.signal(signal);
        process.wait().expect_whole();
        assert_eq!(threaded(&namespace), "0");
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
