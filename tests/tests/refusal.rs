//! netdext starts where it works, and refuses in one line, with nothing touched, where the kernel lacks what it needs or
//! would panic.
//!
//! `NETDEXT_EXPECT_REFUSAL` says which kernel this is: `panics`, `too-old`, or, unset, one on which netdext works.
//! `cargo xtask matrix` sets it in its guests.

use netdext_tests::wire::DRIVER_IFACE;
use netdext_tests::{Finished, Namespace, Netdext, Site, Wire, require};

/// What is expected of the kernel that this runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    Start,
    Panics,
    TooOld,
}

fn expected() -> Expected {
    match std::env::var("NETDEXT_EXPECT_REFUSAL").as_deref() {
        Err(_) => Expected::Start,
        Ok("panics") => Expected::Panics,
        Ok("too-old") => Expected::TooOld,
        Ok(other) => panic!("NETDEXT_EXPECT_REFUSAL is panics or too-old, not {other}"),
    }
}

/// The one line that such a kernel is refused with.
fn refusal(expected: Expected) -> String {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let why = match expected {
        Expected::Start => unreachable!("nothing is refused"),
        Expected::Panics => {
            "can panic as soon as an AF_XDP socket sends (xsk_destruct_skb): boot another kernel, or risk it with \
             --risk-kernel-panic"
        }
        Expected::TooOld => {
            "lacks what netdext needs: accounting of BPF memory by cgroup instead of RLIMIT_MEMLOCK (Linux 5.11); boot \
             a kernel that has it"
        }
    };
    format!("netdext: Linux {release} {why}")
}

#[track_caller]
fn assert_refused(finished: &Finished, expected: Expected) {
    assert_eq!(finished.expect_failure(1), refusal(expected));
    assert!(finished.stdout.is_empty(), "{finished:#?}");
}

#[test]
fn a_driver_starts_on_an_interface_or_leaves_it_as_it_was() {
    require!("ethtool");
    let wire = Wire::new("refused or not");
    let before = wire.driver.link(DRIVER_IFACE);
    let finished = Netdext::run(&wire.driver, DRIVER_IFACE, &["--duration", "300ms"]).wait();
    match expected() {
        Expected::Start => {
            finished.expect_whole();
        }
        refused => assert_refused(&finished, refused),
    }
    wire.assert_no_xdp();
    assert_eq!(wire.driver.link(DRIVER_IFACE), before);
}

#[test]
fn what_is_refused_makes_nothing() {
    require!();
    let refused = expected();
    if refused == Expected::Start {
        // What is made by each of these commands has tests of its own.
        return;
    }
    let site = Site::new("refused");
    let unmade = Namespace::unmade();
    let netns = unmade.name();
    let report = site.file("report");
    for words in [
        &format!("run --lab --iface veth7 --netns {netns}"),
        &format!("run --json --lab --iface veth7 --answer --netns {netns}"),
        &format!("daemon --netns {netns}"),
        "install --yes --lab --iface veth7",
        &format!("ping 198.18.0.2 --lab --iface veth7 --netns {}", site.namespace.name()),
        &format!("bench --quick --out {}", report.display()),
    ] {
        assert_refused(&site.run(words), refused);
        assert!(!unmade.exists() && site.namespace.link("veth7").is_none(), "{words}");
        assert!(!site.runtime_dir().exists() && !site.state_dir().exists() && !report.exists(), "{words}");
    }
}

#[test]
fn what_opens_no_socket_runs_also_where_a_socket_would_be_the_end() {
    require!("ethtool");
    let wire = Wire::new("no socket");
    let arguments = ["--driver", "sink", "--engine", "xdp", "--duration", "300ms"];
    let finished = Netdext::run(&wire.driver, DRIVER_IFACE, &arguments).wait();
    match expected() {
        Expected::Start | Expected::Panics => assert!(finished.status.success(), "{finished:#?}"),
        Expected::TooOld => assert_refused(&finished, Expected::TooOld),
    }
    wire.assert_no_xdp();
}
