//! `netdext top` in a pseudo-terminal, over the real control protocol.

use std::path::Path;
use std::process::Command;

use netdext_tests::fake::{FakeDriver, FakeNetdext};
use netdext_tests::process::binary;
use netdext_tests::terminal::Terminal;
use netdext_tests::{Netdext, require};
use rustix::process::Signal;

fn command(directory: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.arg("top").args(arguments).env("NETDEXT_RUNTIME_DIR", directory);
    command
}

fn top(directory: &Path, arguments: &[&str]) -> Terminal {
    let mut all = vec!["--interval", "100ms"];
    all.extend(arguments);
    Terminal::start(&command(directory, &all), 80, 24)
}

#[test]
fn counts_and_rates_fill_a_screen_of_80_by_24_and_q_gives_the_terminal_back() {
    require!("setsid");
    let directory = tempfile::tempdir().unwrap();
    let netdext = FakeNetdext::listen(directory.path(), vec![FakeDriver::on("veth0")]);
    let mut terminal = top(directory.path(), &[]);
    terminal
        .wait_for("the driver", |text| text.starts_with("netdext  sample on veth0  running  up 00:01:02"));
    assert!(terminal.is_full_screen() && !terminal.is_as_a_shell_left_it());
    netdext.change(|drivers| drivers[0].receive(12_345));
    let text = terminal.wait_for("the new counts", |text| text.contains("offered 12345 = delivered 12345"));
    for title in
        ["queues", "accounting", "drops by cause", "verdicts", "distributions", "pkt/s, peak", "q quit"]
    {
        assert!(text.contains(title), "no {title:?}:\n{text}");
    }
    terminal.wait_for("the peak of the curve", |text| !text.contains("peak 0 "));
    // Nothing more comes, so the rates return to 0.
    terminal.wait_for("rates of 0", |text| {
        text.contains("\n0               0          0          0          0        2048")
    });
    terminal.send("q");
    assert!(terminal.wait().success());
    assert!(terminal.is_as_a_shell_left_it(), "{}", terminal.text());
}

#[test]
fn a_signal_ends_it_and_gives_the_terminal_back() {
    require!("setsid");
    let directory = tempfile::tempdir().unwrap();
    let _netdext = FakeNetdext::listen(directory.path(), vec![FakeDriver::on("veth0")]);
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        let mut terminal = top(directory.path(), &[]);
        terminal.wait_for("the driver", |text| text.contains("sample on veth0"));
        terminal.signal(signal);
        assert!(terminal.wait().success());
        assert!(terminal.is_as_a_shell_left_it(), "{signal:?}: {}", terminal.text());
    }
    let mut terminal = top(directory.path(), &[]);
    terminal.wait_for("the driver", |text| text.contains("sample on veth0"));
    terminal.send("\x03");
    assert!(terminal.wait().success());
}

#[test]
fn keys_change_the_driver_and_pause() {
    require!("setsid");
    let directory = tempfile::tempdir().unwrap();
    let drivers = ["veth0", "veth2"].map(FakeDriver::on).into();
    let netdext = FakeNetdext::listen(directory.path(), drivers);
    let mut terminal = top(directory.path(), &[]);
    terminal.wait_for("the first driver", |text| text.contains("on veth0") && text.contains("driver 1 of 2"));
    terminal.send("\x1b[C");
    terminal
        .wait_for("the second driver", |text| text.contains("on veth2") && text.contains("driver 2 of 2"));
    terminal.send("p");
    terminal.wait_for("the pause", |text| text.contains("PAUSED"));
    netdext.change(|drivers| drivers[1].receive(77));
    std::thread::sleep(std::time::Duration::from_millis(400));
    assert!(!terminal.text().contains("offered 77"), "{}", terminal.text());
    terminal.send("p");
    terminal.wait_for("the counts after the pause", |text| text.contains("offered 77"));
    netdext.change(|drivers| drivers.pop());
    terminal.wait_for("the driver that is left", |text| text.contains("on veth0") && !text.contains("of 2"));
}

#[test]
fn another_size_is_filled() {
    require!("setsid");
    let directory = tempfile::tempdir().unwrap();
    let _netdext = FakeNetdext::listen(directory.path(), vec![FakeDriver::on("veth0")]);
    let mut terminal = top(directory.path(), &[]);
    let widest = |text: &str| text.lines().map(|line| line.chars().count()).max();
    terminal.wait_for("80 columns", |text| widest(text) == Some(80));
    terminal.resize(120, 40);
    terminal.wait_for("120 columns and 40 lines", |text| {
        widest(text) == Some(120) && text.lines().nth(39).is_some_and(|line| line.starts_with("q quit"))
    });
    terminal.resize(60, 16);
    terminal.wait_for("60 columns and 16 lines", |text| {
        widest(text) == Some(60) && text.lines().nth(15).is_some_and(|line| line.starts_with("q quit"))
    });
}

#[test]
fn a_netdext_that_goes_away_is_missed_and_found_again() {
    require!("setsid");
    let directory = tempfile::tempdir().unwrap();
    let mut first = FakeDriver::on("veth0");
    first.receive(1);
    let netdext = FakeNetdext::listen(directory.path(), vec![first]);
    let terminal = top(directory.path(), &[]);
    terminal.wait_for("the counts", |text| text.contains("offered 1 "));
    drop(netdext);
    let text =
        terminal.wait_for("that nobody answers", |text| text.contains("trying again: no netdext is running"));
    assert!(text.contains("offered 1 "), "the last counts stay:\n{text}");
    let mut second = FakeDriver::on("veth0");
    second.receive(2);
    let _netdext = FakeNetdext::listen(directory.path(), vec![second]);
    terminal.wait_for("the new counts", |text| text.contains("offered 2 ") && !text.contains("trying again"));
}

#[test]
fn without_a_terminal_it_says_what_to_use_instead() {
    require!();
    let directory = tempfile::tempdir().unwrap();
    let finished = Netdext::start(&mut command(directory.path(), &[])).wait();
    assert!(finished.expect_failure(1).contains("netdext stats --watch"), "{finished:?}");
}
