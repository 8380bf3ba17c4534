//! A daemon that is killed, in the way of another, kept from its files, or talked to by clients without manners.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use netdext_tests::daemon::names_in;
use netdext_tests::process::binary;
use netdext_tests::{Netdext, Site, patiently, require};
use rustix::process::Signal;
use serde_json::Value;

const INSTALL: &str = "install --lab --iface veth0 --no-injector --yes";
const BUNDLE: &str = "org.netdext.sample";
/// Longest time that a test waits for a line of the daemon.
const SOON: Duration = Duration::from_secs(20);

fn ping_without_loss(site: &Site, count: u32) {
    let number = count.to_string();
    let text = site.namespace.run("ping", &["-q", "-c", &number, "-i", "0.01", "198.18.0.1"]);
    assert!(
        text.contains(&format!("{count} packets transmitted, {count} received, 0% packet loss")),
        "{text}"
    );
}

/// A connection to the daemon on which anything can be written.
struct Raw(BufReader<UnixStream>);

impl Raw {
    fn connect(site: &Site) -> Self {
        let stream = UnixStream::connect(site.socket()).expect("the daemon listens");
        stream.set_read_timeout(Some(patiently(SOON))).expect("a socket has timeouts");
        stream.set_write_timeout(Some(patiently(SOON))).expect("a socket has timeouts");
        Self(BufReader::new(stream))
    }

    /// Writes as much as the daemon takes.
    fn write(&mut self, bytes: &[u8]) -> bool {
        self.0.get_mut().write_all(bytes).is_ok()
    }

    /// The next line; `None` once the daemon has closed.
    fn read(&mut self) -> Option<Value> {
        let mut line = String::new();
        match self.0.read_line(&mut line) {
            Ok(0) => None,
            Ok(_) => Some(serde_json::from_str(&line).expect("JSON")),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => None,
            Err(error) => panic!("no line: {error}"),
        }
    }

    fn ask(&mut self, line: &str) -> Value {
        assert!(self.write(format!("{line}\n").as_bytes()));
        self.read().expect("an answer")
    }
}

#[test]
fn a_daemon_killed_under_traffic_leaves_its_state_and_no_program() {
    require!("ping");
    let site = Site::new("daemon, killed");
    let daemon = site.daemon();
    site.ok(INSTALL);
    let mut flood = site.namespace.command("ping");
    let mut flood = flood.args(["-f", "-q", "-w", "30", "198.18.0.1"]).stdout(Stdio::null()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(500));
    let before = std::fs::read(site.state_file()).unwrap();
    daemon.signal(Signal::KILL);
    assert!(!daemon.wait().status.success());
    flood.kill().unwrap();
    flood.wait().unwrap();

    assert_eq!(std::fs::read(site.state_file()).unwrap(), before);
    assert_eq!(site.namespace.xdp_programs("veth0"), [0_u64; 0]);
    assert!(site.namespace.link("veth0").is_some(), "nobody was left to remove the pair");
    assert_eq!(names_in(&site.runtime_dir()), ["control.sock"], "nor the socket");
    assert_eq!(site.list()[0]["active"], false);

    let _daemon = site.daemon();
    assert_eq!(site.list()[0]["state"], "activated enabled");
    ping_without_loss(&site, 20);
    // It still knows that the pair is netdext's own.
    site.ok(&format!("uninstall {BUNDLE}"));
    site.assert_no_links();
    assert_eq!(names_in(&site.state_dir()), [""; 0]);
}

#[test]
fn a_second_daemon_refuses_and_names_the_first() {
    require!("ping");
    let site = Site::new("daemon, two of them");
    let daemon = site.daemon();
    site.ok(INSTALL);
    let line = site.fails("daemon");
    let names_it = line.contains(&format!("process {}", daemon.id())) && line.contains("control.sock");
    assert!(names_it && line.contains("stop that one first"), "{line}");
    // Nor does one with a socket of its own touch the same state.
    let elsewhere = site.file("elsewhere");
    let second = Netdext::start(site.command("daemon").env("NETDEXT_RUNTIME_DIR", &elsewhere)).wait();
    let line = second.expect_failure(1);
    assert!(line.contains("in use by another netdext daemon"), "{line}");
    assert_eq!(names_in(&elsewhere), [""; 0]);
    ping_without_loss(&site, 10);
}

#[test]
fn what_stands_where_the_socket_belongs_is_replaced_only_if_it_is_stale() {
    require!();
    let site = Site::new("daemon, socket path");
    std::fs::create_dir(site.runtime_dir()).unwrap();
    std::fs::set_permissions(site.runtime_dir(), PermissionsExt::from_mode(0o700)).unwrap();
    std::fs::write(site.socket(), "not a socket").unwrap();
    let line = site.fails("daemon");
    assert!(line.contains("control.sock is in the way and is no socket"), "{line}");
    assert_eq!(std::fs::read(site.socket()).unwrap(), b"not a socket");
    std::fs::remove_file(site.socket()).unwrap();

    // A socket stays when the process that made it is gone.
    drop(UnixListener::bind(site.socket()).unwrap());
    assert!(site.socket().exists());
    let daemon = site.daemon();
    assert_eq!(site.ok("list"), "0 extension(s)");
    let mode = std::fs::metadata(site.socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    daemon.signal(Signal::TERM);
    assert!(daemon.wait().status.success());

    std::fs::set_permissions(site.runtime_dir(), PermissionsExt::from_mode(0o777)).unwrap();
    let line = site.fails("daemon");
    assert!(line.contains("can be written by others (mode 0777): `chmod go-w "), "{line}");
}

#[test]
fn a_directory_that_may_not_be_used_is_a_matter_of_permission() {
    require!("setpriv", "unshare", "mount");
    let site = Site::new("daemon, not permitted");
    // A user without the right to the directory, and with every capability that netdext asks for.
    let as_nobody = |words: &str| {
        let capabilities = "+net_admin,+net_raw,+bpf,+perfmon";
        let mut command = site.namespace.command("setpriv");
        command.args(["--reuid", "65534", "--clear-groups", "--inh-caps", capabilities, "--ambient-caps"]);
        command.arg(capabilities).arg(binary()).args(words.split(' '));
        command.env("NETDEXT_RUNTIME_DIR", site.runtime_dir()).env("NETDEXT_STATE_DIR", site.state_dir());
        Netdext::start(&mut command).wait()
    };
    let finished = as_nobody("daemon");
    let line = finished.expect_failure(77);
    assert!(line.contains("runtime directory") && line.contains("run it by sudo"), "{line}");
    // A mount namespace goes with its process.
    std::fs::create_dir(site.runtime_dir()).unwrap();
    std::fs::set_permissions(site.runtime_dir(), PermissionsExt::from_mode(0o700)).unwrap();
    let script = "mount -t tmpfs -o ro,mode=0700 tmpfs \"$1\" && exec \"$0\" daemon";
    let mut command = site.namespace.command("unshare");
    command.args(["--mount", "sh", "-c", script]).arg(binary()).arg(site.runtime_dir());
    command.env("NETDEXT_RUNTIME_DIR", site.runtime_dir()).env("NETDEXT_STATE_DIR", site.state_dir());
    let finished = Netdext::start(&mut command).wait();
    let line = finished.expect_failure(1);
    assert!(line.contains("Read-only file system") && line.contains("NETDEXT_RUNTIME_DIR"), "{line}");
}

#[test]
fn a_state_file_that_is_damaged_or_newer_is_left_as_it_is() {
    require!();
    let site = Site::new("daemon, state file");
    let daemon = site.daemon();
    site.ok(INSTALL);
    daemon.signal(Signal::TERM);
    assert!(daemon.wait().status.success());
    let good = std::fs::read(site.state_file()).unwrap();
    let mut newer: Value = serde_json::from_slice(&good).unwrap();
    newer["schema"] = 99.into();
    newer["of_tomorrow"] = true.into();
    for (bytes, why) in [
        (good[..good.len() / 2].to_vec(), "is damaged ("),
        (Vec::new(), "is damaged ("),
        (b"\xff\xfe\x00".to_vec(), "is damaged ("),
        (serde_json::to_vec(&newer).unwrap(), "has schema 99, and this netdext knows 2"),
    ] {
        std::fs::write(site.state_file(), &bytes).unwrap();
        for words in ["daemon", "list"] {
            let line = site.fails(words);
            assert!(line.contains(why) && line.contains("it was left as it is"), "{words}: {line}");
        }
        assert_eq!(std::fs::read(site.state_file()).unwrap(), bytes);
        assert_eq!(names_in(&site.state_dir()), ["state.json"]);
        assert_eq!(names_in(&site.runtime_dir()), [""; 0]);
    }
    std::fs::write(site.state_file(), &good).unwrap();
    let _daemon = site.daemon();
    assert_eq!(site.list()[0]["state"], "activated enabled");
}

#[test]
fn a_line_that_is_no_request_gets_an_error_and_harms_nobody() {
    require!("ping");
    let site = Site::new("daemon, bad lines");
    let _daemon = site.daemon();
    site.ok(INSTALL);
    let mut raw = Raw::connect(&site);
    for (line, why) in [
        (r#"{"v":2,"id":1,"op":"stats","args":{"driver":{},"colour":"red"}}"#, "colour"),
        (r#"{"v":2,"id":2,"op":"stats","args":{"driver":{"team_id":5}}}"#, "team_id"),
        (r#"{"v":2,"id":3,"op":"fly"}"#, "fly"),
        (r#"{"v":2,"id":4,"op":"list","also":1}"#, "also"),
        ("no JSON", ""),
    ] {
        let answer = raw.ask(line);
        assert_eq!(answer["ok"], false, "{answer}");
        let message = answer["error"]["message"].as_str().unwrap();
        assert!(answer["error"]["code"] == "bad_request" && message.contains(why), "{line}: {answer}");
    }
    assert_eq!(raw.ask(r#"{"v":2,"id":7,"op":"hello"}"#)["result"]["daemon"], true);

    let mut long = Raw::connect(&site);
    // The daemon may close before it has all of it.
    long.write(&vec![b'a'; 10 * 1024 * 1024]);
    long.write(b"\n");
    let answer = long.read();
    assert!(answer.is_none_or(|answer| answer["error"]["code"] == "too_long"));
    ping_without_loss(&site, 20);
    assert_eq!(raw.ask(r#"{"v":2,"id":8,"op":"list"}"#)["result"][0]["active"], true);
}

#[test]
fn half_a_line_and_then_silence_holds_up_neither_clients_nor_frames() {
    require!("ping");
    let site = Site::new("daemon, half a line");
    let _daemon = site.daemon();
    site.ok(INSTALL);
    let mut half = Raw::connect(&site);
    assert!(half.write(br#"{"v":2,"id":1,"op":"li"#));
    let begun = Instant::now();
    let mut other = Raw::connect(&site);
    for id in 0..100 {
        assert_eq!(other.ask(&format!(r#"{{"v":2,"id":{id},"op":"list"}}"#))["id"], id);
    }
    ping_without_loss(&site, 50);
    site.ok("disable");
    site.ok("enable");
    assert!(begun.elapsed() < patiently(Duration::from_secs(9)), "{:?}", begun.elapsed());
    // In the end the daemon gives up on it, and says so.
    assert_eq!(half.read().expect("a word of farewell")["ok"], false);
    assert_eq!(half.read(), None);
    assert!(begun.elapsed() >= Duration::from_secs(9), "{:?}", begun.elapsed());
    assert_eq!(other.ask(r#"{"v":2,"id":1,"op":"hello"}"#)["ok"], true);
}

#[test]
fn a_thousand_clients_leave_the_driver_and_the_daemon_as_they_were() {
    require!("ping");
    let site = Site::new("daemon, a thousand clients");
    let daemon = site.daemon();
    site.ok(INSTALL);
    let descriptors = || std::fs::read_dir(format!("/proc/{}/fd", daemon.id())).unwrap().count();
    let before = descriptors();
    let mut early = Raw::connect(&site);
    assert_eq!(early.ask(r#"{"v":2,"id":1,"op":"hello"}"#)["ok"], true);
    let mut clients: Vec<_> = (0..1000).filter_map(|_| UnixStream::connect(site.socket()).ok()).collect();
    assert!(clients.len() > 500, "{} connected", clients.len());
    ping_without_loss(&site, 50);
    assert_eq!(
        early.ask(r#"{"v":2,"id":2,"op":"list"}"#)["result"][0]["active"],
        true,
        "who was there is served"
    );
    // Those beyond the limit are told so.
    let last = clients.last_mut().expect("clients");
    last.set_read_timeout(Some(patiently(SOON))).unwrap();
    let mut text = String::new();
    last.read_to_string(&mut text).expect("a line, and the end");
    assert!(text.contains("\"busy\""), "{text}");
    drop(clients);
    netdext_tests::wait_until("the clients' descriptors are closed", SOON, || {
        (descriptors() <= before + 2).then_some(())
    });
    assert_eq!(site.list()[0]["state"], "activated enabled");
}

#[test]
fn a_broken_disk_is_no_reason_to_say_what_was_not_done() {
    require!("unshare", "mount", "ping");
    let site = Site::new("daemon, full disk");
    std::fs::create_dir(site.state_dir()).unwrap();
    // In a mount namespace of its own, which goes with the process. The filler leaves no room for a state file.
    let script = "mount -t tmpfs -o size=8k,mode=0700 tmpfs \"$1\" && head -c 8192 /dev/zero > \"$1/filler\" && \
                  exec \"$0\" daemon";
    let mut command: Command = site.namespace.command("unshare");
    command.args(["--mount", "sh", "-c", script]).arg(binary()).arg(site.state_dir());
    command.env("NETDEXT_RUNTIME_DIR", site.runtime_dir()).env("NETDEXT_STATE_DIR", site.state_dir());
    let daemon = Netdext::start(&mut command);
    netdext_tests::wait_until("the daemon is ready", SOON, || (!daemon.stdout().is_empty()).then_some(()));
    let line = site.fails(INSTALL);
    assert!(line.contains("No space left on device") && line.contains("the state is as it was"), "{line}");
    assert_eq!(site.ok("list"), "0 extension(s)");
    site.assert_no_links();
}
