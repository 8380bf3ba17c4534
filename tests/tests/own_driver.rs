//! A driver of another crate is as much at home as those that come with netdext.

use std::net::UdpSocket;
use std::process::Command;
use std::time::Duration;

use netdext_tests::wire::{DRIVER_IFACE, DRIVER_V4, HOST_IFACE, HOST_V4};
use netdext_tests::{Finished, Namespace, Netdext, Site, Wire, WireConfig, patiently, require};
use serde_json::{Value, json};

/// netdext with the driver `udp-echo`.
const OURS: &str = env!("CARGO_BIN_EXE_with_udp_echo");

fn run(namespace: &Namespace, words: &str) -> Netdext {
    let mut command = Command::new(OURS);
    command.args(["run", "--json", "--netns", namespace.name(), "--iface", DRIVER_IFACE]);
    Netdext::start(command.args(words.split_whitespace()))
}

/// Our netdext at a site of the daemon.
fn at(site: &Site, words: &str) -> Command {
    let mut command = site.namespace.command(OURS);
    command.args(words.split_whitespace());
    command.env("NETDEXT_RUNTIME_DIR", site.runtime_dir()).env("NETDEXT_STATE_DIR", site.state_dir());
    command
}

fn done(command: &mut Command) -> Finished {
    let finished = Netdext::start(command).wait();
    assert!(finished.status.success(), "{finished:#?}");
    finished
}

/// What comes back of a datagram to a port of the driver.
fn exchange(namespace: &Namespace, port: u16) -> Option<Vec<u8>> {
    namespace.enter(|| {
        let socket = UdpSocket::bind((HOST_V4, 0)).expect("a socket");
        socket.set_read_timeout(Some(patiently(Duration::from_secs(1)))).expect("a socket has timeouts");
        socket.connect((DRIVER_V4, port)).expect("a route");
        socket.send(b"to and fro").expect("it is sent");
        let mut answer = [0; 64];
        socket.recv(&mut answer).ok().map(|len| answer[..len].to_vec())
    })
}

#[test]
fn it_is_run_with_its_options_and_gets_what_it_wants_steered_to_it() {
    require!("ethtool");
    let wire = Wire::new("own driver");
    // The driver answers no ARP.
    let mac = wire.driver_mac().map(|byte| format!("{byte:02x}")).join(":");
    wire.host.ip(&["neighbour", "add", DRIVER_V4, "lladdr", &mac, "dev", HOST_IFACE]);
    let mut netdext = run(&wire.driver, "--driver udp-echo --port 9");
    assert_eq!(netdext.ready().0["driver"], "udp-echo");
    assert_eq!(exchange(&wire.host, 9).as_deref(), Some(&b"to and fro"[..]));
    let summary = wire.stop(netdext);
    assert_eq!((&summary["counters"]["echoed"], &summary["counters"]["ignored"]), (&json!(1), &json!(0)));
}

#[test]
fn what_it_refuses_or_can_not_have_is_said_before_anything_is_attached() {
    require!("ethtool");
    let wire = Wire::with("own driver, two queues", WireConfig { queues: 2, ..WireConfig::default() });
    let finished = run(&wire.driver, "--driver udp-echo --port 0").wait();
    assert_eq!(finished.status.code(), Some(2), "{finished:#?}");
    assert!(finished.stderr.contains("--port 0 is no port"), "{finished:#?}");
    let finished = run(&wire.driver, "--driver udp-echo").wait();
    let line = finished.expect_failure(1);
    assert!(line.contains("serves 1 queue(s) at the most, not the 2 of veth0"), "{line}");
    assert!(finished.stdout.is_empty(), "{finished:#?}");
    wire.assert_no_xdp();
    let finished = run(&wire.driver, "--driver udp-echo --queues 1 --duration 100ms").wait();
    assert!(finished.status.success(), "{finished:#?}");
}

#[test]
fn it_is_installed_and_a_netdext_that_does_not_know_it_says_so_and_runs_the_others() {
    require!();
    let site = Site::new("daemon, own driver");
    let mut daemon = Netdext::start(&mut at(&site, "daemon"));
    daemon.line("ready: daemon, ", Duration::from_secs(20));
    done(&mut at(&site, "install --yes --lab --iface veth0 --answer --driver udp-echo --port 9"));
    assert_eq!(exchange(&site.namespace, 9).as_deref(), Some(&b"to and fro"[..]));
    site.ok("install --yes --lab --iface veth8 --addr 198.18.8.1/24 --no-injector");
    assert!(daemon.stop().status.success());

    let state: Value = serde_json::from_slice(&std::fs::read(site.state_file()).unwrap()).unwrap();
    assert_eq!(state["drivers"][0]["spec"]["options"], json!({ "port": 9 }));
    // The rules that the driver wants are not the user's.
    assert_eq!(state["drivers"][0]["rules"], json!([]));

    let mut daemon = Netdext::start(&mut at(&site, "daemon"));
    daemon.line("ready: daemon, 2 of 2 ", Duration::from_secs(20));
    assert_eq!(exchange(&site.namespace, 9).as_deref(), Some(&b"to and fro"[..]));
    assert!(daemon.stop().status.success());

    let mut daemon = Netdext::start(&mut site.command("daemon"));
    daemon.line("ready: daemon, 1 of 2 ", Duration::from_secs(20));
    let list = site.list();
    let error = list[0]["last_error"].as_str().expect("an error");
    assert_eq!(error, "there is no driver udp-echo; there are: sample, sink, reflect, generate");
    assert_eq!(list[1]["state"], "activated enabled");
}
