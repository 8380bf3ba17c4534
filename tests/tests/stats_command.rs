//! `netdext stats` over the real control protocol.

use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use netdext_tests::fake::{FakeDriver, FakeNetdext};
use netdext_tests::process::binary;
use netdext_tests::{Finished, Netdext, require, wait_until};
use serde_json::Value;

fn command(directory: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.arg("stats").args(arguments).env("NETDEXT_RUNTIME_DIR", directory);
    command
}

fn stats(directory: &Path, arguments: &[&str]) -> Finished {
    Netdext::start(&mut command(directory, arguments)).wait()
}

fn two_drivers(directory: &Path) -> FakeNetdext {
    let mut drivers: Vec<_> = ["veth0", "veth2"].map(FakeDriver::on).into();
    drivers[0].receive(26);
    FakeNetdext::listen(directory, drivers)
}

#[test]
fn the_counts_of_every_driver_are_printed_with_where_the_frames_went() {
    require!();
    let directory = tempfile::tempdir().unwrap();
    let _netdext = two_drivers(directory.path());
    let finished = stats(directory.path(), &[]);
    assert!(finished.status.success(), "{finished:#?}");
    let text = finished.stdout.join("\n");
    assert!(
        text.starts_with("sample on veth0: running, up 00:01:02\n  queue  rx packets  rx bytes"),
        "{text}"
    );
    assert!(text.contains("\n  frames     offered 26 = delivered 26 + lost 0 + residue 0\n"), "{text}");
    assert!(text.contains("\nsample on veth2: running"), "{text}");
}

#[test]
fn json_is_what_the_driver_said_one_object_a_line() {
    require!();
    let directory = tempfile::tempdir().unwrap();
    let netdext = two_drivers(directory.path());
    let finished = stats(directory.path(), &["--json"]);
    let objects: Vec<Value> =
        finished.stdout.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let said = netdext.change(|drivers| {
        drivers.iter().map(|driver| serde_json::to_value(&driver.stats).unwrap()).collect::<Vec<_>>()
    });
    assert_eq!(objects, said);
}

#[test]
fn a_driver_is_chosen_by_team_and_bundle_by_bundle_or_by_interface() {
    require!();
    let directory = tempfile::tempdir().unwrap();
    let _netdext = two_drivers(directory.path());
    for choice in [&["A123456789", "org.netdext.veth2"][..], &["org.netdext.veth2"], &["--iface", "veth2"]] {
        let finished = stats(directory.path(), choice);
        let heads: Vec<_> = finished.stdout.iter().filter(|line| line.starts_with("sample on")).collect();
        assert_eq!(heads.len(), 1, "{choice:?}: {finished:#?}");
        assert!(heads[0].starts_with("sample on veth2"), "{choice:?}: {finished:#?}");
    }
    let finished = stats(directory.path(), &["org.netdext.other"]);
    assert!(finished.expect_failure(1).contains("org.netdext.other"), "{finished:?}");
}

#[test]
fn a_driver_that_does_not_run_has_no_counts() {
    require!();
    let directory = tempfile::tempdir().unwrap();
    let netdext = two_drivers(directory.path());
    netdext.change(|drivers| drivers[0].entry.active = false);
    let finished = stats(directory.path(), &["--json"]);
    assert_eq!(finished.stdout.len(), 1, "{finished:#?}");
    netdext.change(|drivers| drivers.clear());
    assert!(stats(directory.path(), &[]).expect_failure(1).contains("no driver is running"));
}

/// A netdext that ends whenever it is asked something.
fn ends_when_asked(directory: &Path) {
    let listener = UnixListener::bind(directory.join("run-1.sock")).unwrap();
    std::thread::spawn(move || listener.incoming().for_each(drop));
}

#[test]
fn one_that_ends_meanwhile_is_passed_over_while_another_answers() {
    require!();
    let directory = tempfile::tempdir().unwrap();
    let netdext = two_drivers(directory.path());
    ends_when_asked(directory.path());
    let finished = stats(directory.path(), &["--json"]);
    assert!(finished.status.success() && finished.stderr.is_empty(), "{finished:#?}");
    assert_eq!(finished.stdout.len(), 2, "{finished:#?}");
    drop(netdext);
    assert!(stats(directory.path(), &[]).expect_failure(1).contains("is gone"));
}

#[test]
fn with_nobody_to_ask_it_says_what_to_start() {
    require!();
    let directory = tempfile::tempdir().unwrap();
    for arguments in [&[][..], &["--watch"]] {
        let finished = stats(directory.path(), arguments);
        assert!(finished.expect_failure(1).contains("netdext run"), "{finished:?}");
    }
}

#[test]
fn watching_repeats_with_rates_through_a_restart_of_netdext() {
    require!();
    let directory = tempfile::tempdir().unwrap();
    let netdext = two_drivers(directory.path());
    let watching = Netdext::start(&mut command(directory.path(), &["--iface", "veth0", "--watch", "100ms"]));
    let seen = |what: &str, wanted: &dyn Fn(&[String]) -> bool| {
        wait_until(what, Duration::from_secs(10), || wanted(&watching.stdout()).then_some(()));
    };
    seen("there are rates", &|lines| lines.iter().any(|line| line.contains("rx packet/s")));
    netdext.change(|drivers| drivers[0].receive(1_000_000));
    seen("the rate is above 0", &|lines| {
        let rates = lines.iter().filter(|line| line.starts_with("  0  ") && line.contains('M'));
        rates.count() > 0
    });
    drop(netdext);
    let missed = || watching.stderr().contains("trying again: no netdext is running").then_some(());
    wait_until("it says that nobody answers", Duration::from_secs(10), missed);
    let before = watching.stdout().len();
    let _netdext = two_drivers(directory.path());
    seen("there are counts again", &|lines| lines.len() > before);
    assert_eq!(watching.stderr().matches("trying again").count(), 1, "{}", watching.stderr());
}

#[test]
fn watching_ends_with_its_reader() {
    require!();
    let directory = tempfile::tempdir().unwrap();
    let _netdext = two_drivers(directory.path());
    let script = format!("{} stats --json --watch 100ms | head -n 3", binary().display());
    let mut shell = Command::new("sh");
    shell.args(["-c", &script]).env("NETDEXT_RUNTIME_DIR", directory.path());
    let finished = Netdext::start(&mut shell).wait();
    assert_eq!((finished.stdout.len(), finished.stderr.as_str()), (3, ""), "{finished:#?}");
}

#[test]
fn a_bad_interval_is_a_usage_error_that_names_the_flag() {
    require!();
    let directory = tempfile::tempdir().unwrap();
    let finished = stats(directory.path(), &["--watch", "1ms"]);
    assert_eq!(finished.status.code(), Some(2), "{finished:#?}");
    assert!(finished.stderr.contains("--watch") && finished.stderr.contains("for example"), "{finished:#?}");
}
