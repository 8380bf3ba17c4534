//! Installed drivers are switched, injected through, captured from and scraped while frames flow.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use netdext_tests::wire::HOST_IFACE;
use netdext_tests::{Netdext, Site, patiently, require, wait_until};
use rustix::process::Signal;
use serde_json::Value;

const BUNDLE: &str = "org.netdext.sample";
/// Enough for a worker to see frames between two switches.
const TURNS: usize = 50;

/// A daemon with the sample driver on the lab pair.
fn installed(purpose: &str, words: &str) -> (Site, Netdext) {
    let site = Site::new(purpose);
    let daemon = site.daemon_with(words);
    site.ok("install --lab --iface veth0 --no-injector --yes");
    (site, daemon)
}

/// A flood of echo requests from a generator at the host's end of the lab pair, over the rings.
fn flood(site: &Site) -> Netdext {
    let mac = site.namespace.link("veth0").expect("the driver's end")["address"].clone();
    let words = format!(
        "run --json --iface {HOST_IFACE} --driver generate --addr 198.18.0.9/24 --target 198.18.0.1 --dst-mac {} \
         --rate 10000/s --frames echo",
        mac.as_str().expect("an address")
    );
    let mut generator = Netdext::start(&mut site.command(&words));
    generator.ready();
    generator
}

/// Every frame that the XDP program saw, and every frame of the pool, is where the counts say.
#[track_caller]
fn assert_accounted(stats: &Value) {
    let accounting = &stats["accounting"];
    let count = |name: &str| accounting[name].as_u64().unwrap_or_else(|| panic!("{name}: {stats}"));
    assert_eq!(accounting["residue"], 0, "{stats}");
    assert_eq!(stats["tx_accounting"]["residue"], 0, "{stats}");
    let verdicts = stats["verdicts"].as_object().expect("verdicts");
    let answered: u64 =
        verdicts.iter().filter(|(name, _)| name.starts_with("answer")).filter_map(|(_, n)| n.as_u64()).sum();
    assert_eq!(count("seen"), count("offered") + count("kernel") + answered, "{stats}");
    let parts = ["free", "user", "rx_lent", "tx_lent", "quarantined"];
    let sum: u64 = parts.iter().map(|name| stats["census"][name].as_u64().expect("a count")).sum();
    assert_eq!(stats["census"]["capacity"], sum, "{stats}");
    assert_eq!(stats["census"]["quarantined"], 0, "{stats}");
    // On a busy machine the rx ring may overflow, and says so; nothing else loses a frame.
    let losses = stats["losses"].as_object().expect("losses");
    let lost: Vec<_> = losses.iter().filter(|(name, n)| *name != "rx_socket_ring_full" && **n != 0).collect();
    assert!(lost.is_empty(), "{lost:?}: {stats}");
}

/// The counts once nothing is on its way any more.
fn settled(site: &Site) -> Value {
    wait_until("nothing is on its way", Duration::from_secs(10), || {
        let stats = site.stats();
        let idle = stats["tx_accounting"]["in_flight"] == 0 && stats["accounting"]["residue"] == 0;
        // Without an injector there is no such count.
        let answered = stats["injector"]["in_flight"].as_u64().unwrap_or(0) == 0;
        (idle && answered).then_some(stats)
    })
}

/// The flood is over, and what was on its way has arrived.
fn stop(site: &Site, generator: Netdext) -> (Value, Value) {
    let summary = generator.stop().expect_summary().clone();
    (summary, settled(site))
}

fn switch_under_flood(purpose: &str, off: &str, on: &str) {
    let (site, daemon) = installed(purpose, "");
    let generator = flood(&site);
    for _ in 0..TURNS {
        site.ok(&format!("{off} {BUNDLE}"));
        site.ok(&format!("{on} {BUNDLE}"));
    }
    std::thread::sleep(Duration::from_millis(300));
    let (summary, stats) = stop(&site, generator);
    assert_accounted(&stats);
    let of = |name: &str| stats["accounting"][name].as_u64().expect("a count");
    assert!(of("offered") > 1000, "the driver had frames: {stats}");
    assert!(of("kernel") > 100, "and the kernel had some: {stats}");
    let sent = summary["generator"]["sent"].as_u64().expect("a count");
    let dropped = site.namespace.dropped_in_sending(HOST_IFACE);
    assert!(
        of("seen") + dropped >= sent,
        "{sent} were sent, and {dropped} of them did not get there: {stats}"
    );
    assert_eq!(site.list()[0]["state"], "activated enabled");
    site.ok(&format!("uninstall {BUNDLE}"));
    site.assert_no_links();
    daemon.signal(Signal::TERM);
    let ended = daemon.wait();
    assert!(ended.status.success() && ended.stderr.is_empty(), "{ended:#?}");
}

#[test]
fn fifty_times_disabled_and_enabled_under_a_flood_no_frame_is_lost() {
    require!();
    switch_under_flood("daemon, enable under flood", "disable", "enable");
}

#[test]
fn fifty_power_cycles_under_a_flood_lose_no_frame() {
    require!();
    switch_under_flood("daemon, power under flood", "power off", "power on");
}

#[test]
fn the_injector_is_changed_from_the_command_line_up_to_ten_thousand_targets() {
    require!();
    let site = Site::new("daemon, injector");
    let _daemon = site.daemon();
    site.ok("install --lab --iface veth0 --yes --addr 198.18.0.1/15 --first 10ms --interval 10ms --batch 4");
    // The host's end has every address of 198.19.0.0/16, and a network that reaches the driver from them.
    site.namespace.ip(&["address", "add", "198.18.0.3/15", "dev", HOST_IFACE]);
    site.namespace.ip(&["route", "add", "local", "198.19.0.0/16", "dev", "lo"]);
    let sent = || site.stats()["injector"]["sent"].as_u64().expect("a count");
    wait_until("it injects", Duration::from_secs(10), || (sent() > 8).then_some(()));

    site.ok(&format!("inject stop {BUNDLE}"));
    let still = sent();
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(sent(), still, "nothing is sent while it is stopped");
    site.ok(&format!("inject start {BUNDLE}"));
    wait_until("it injects again", Duration::from_secs(5), || (sent() > still + 8).then_some(()));

    let targets: Vec<String> =
        (1..=10_000_u32).map(|n| format!("198.19.{}.{}", n / 250, 1 + n % 250)).collect();
    let file = site.file("targets");
    std::fs::write(&file, targets.join("\n")).expect("it can be written");
    let words =
        format!("inject set {BUNDLE} --targets {} --interval 1ms --batch 10 --size 100", file.display());
    site.ok(&words);
    let shown = || -> Vec<Value> {
        let lines = site.ok(&format!("inject targets {BUNDLE} --json"));
        lines.lines().map(|line| serde_json::from_str(line).expect("an object a line")).collect()
    };
    let all = wait_until("every target has answered", Duration::from_secs(40), || {
        let all = shown();
        all.iter().all(|target| target["replies"].as_u64() > Some(0)).then_some(all)
    });
    let names: Vec<_> = all.iter().map(|target| target["target"].as_str().expect("an address")).collect();
    assert_eq!(names, targets);

    let refused = site.fails(&format!("inject set {BUNDLE} --interval 10us --batch 64"));
    assert!(refused.contains("lower the batch"), "{refused}");
    site.ok(&format!("inject stop {BUNDLE}"));
    let stats = settled(&site);
    assert_eq!(stats["injector"]["residue"], 0, "{stats}");
    assert_accounted(&stats);
}

/// Runs tshark on a file, and returns its lines after it was asserted that it does not complain.
fn tshark(file: &std::path::Path, filter: &str) -> usize {
    let output = Command::new("tshark").arg("-r").arg(file).args(["-n", "-Y", filter]).output();
    let output = output.expect("tshark can be started");
    let complaints = String::from_utf8_lossy(&output.stderr);
    let complaints: Vec<_> = complaints.lines().filter(|line| !line.contains("Running as user")).collect();
    assert!(output.status.success() && complaints.is_empty(), "{complaints:?}");
    String::from_utf8_lossy(&output.stdout).lines().count()
}

#[test]
fn a_capture_over_the_control_socket_is_a_whole_file_when_it_is_interrupted() {
    require!("ping", "tshark");
    let (site, _daemon) = installed("daemon, capture", "");
    let file = site.file("live.pcapng");
    let words = format!("capture {BUNDLE} -w {}", file.display());
    let capture = Netdext::start(&mut site.command(&words));
    wait_until("the capture has begun", Duration::from_secs(5), || {
        std::fs::metadata(&file).is_ok_and(|file| file.len() > 0).then_some(())
    });
    let text = site.namespace.run("ping", &["-q", "-c", "40", "-i", "0.01", "-s", "400", "198.18.0.1"]);
    assert!(text.contains("40 packets transmitted, 40 received"), "{text}");
    // It ends in the middle of a flood.
    let mut flood = site.namespace.command("ping");
    let mut flood = flood.args(["-f", "-q", "-w", "20", "198.18.0.1"]).stdout(Stdio::null()).spawn().unwrap();
    wait_until("the flood is under way", Duration::from_secs(10), || {
        (site.stats()["counters"]["echo4_answered"].as_u64() > Some(500)).then_some(())
    });
    let ended = capture.stop();
    flood.kill().expect("it runs");
    flood.wait().expect("it can be waited for");
    assert!(ended.status.success() && ended.stderr.is_empty(), "{ended:#?}");
    let of_ping = |direction: u32, kind: u32| {
        let frames = format!("icmp.type == {kind} and frame.packet_flags_direction == {direction}");
        tshark(&file, &format!("{frames} and ip.len == 428"))
    };
    assert_eq!((of_ping(1, 8), of_ping(2, 0)), (40, 40));
    assert!(tshark(&file, "icmp.type == 8 and ip.len == 84") > 100, "of the flood");
    assert_eq!(tshark(&file, "_ws.malformed or icmp.checksum.status == 0"), 0);

    // A second one, to standard output, after the first.
    let mut pipe = site.command(&format!("capture {BUNDLE} --filter out --snaplen 64"));
    let mut pipe = pipe.stdout(Stdio::piped()).spawn().expect("netdext can be started");
    let mut magic = [0; 4];
    std::io::Read::read_exact(pipe.stdout.as_mut().expect("a pipe"), &mut magic).expect("a file's beginning");
    assert_eq!(magic, [0x0a, 0x0d, 0x0d, 0x0a]);
    let interrupted = Instant::now();
    rustix::process::kill_process(rustix::process::Pid::from_child(&pipe), Signal::INT).expect("it runs");
    // It writes on into the pipe until its end.
    let mut rest = Vec::new();
    std::io::Read::read_to_end(pipe.stdout.as_mut().expect("a pipe"), &mut rest).expect("the rest");
    assert!(pipe.wait().expect("it can be waited for").success());
    assert!(interrupted.elapsed() < patiently(Duration::from_secs(5)));
}

#[test]
fn the_daemon_serves_the_counts_of_every_driver_to_prometheus() {
    require!("ping", "curl");
    let (site, _daemon) = installed("daemon, metrics", "--metrics 127.0.0.1:9469");
    site.ok("install --lab --iface veth8 --no-injector --yes --bundle-id org.netdext.second");
    site.namespace.run("ping", &["-q", "-c", "20", "-i", "0.01", "198.18.0.1", "-I", HOST_IFACE]);
    let scrape = || site.namespace.run("curl", &["-sS", "--fail", "http://127.0.0.1:9469/metrics"]);
    let text = scrape();
    assert!(text.ends_with("# EOF\n"), "{text}");
    for sample in [
        "netdext_running{iface=\"veth0\",driver=\"sample\"} 1",
        "netdext_running{iface=\"veth8\",driver=\"sample\"} 1",
        "action=\"echo4_answered\"} 20",
    ] {
        assert!(text.contains(sample), "{sample}: {text}");
    }
    site.ok("uninstall org.netdext.second");
    assert!(!scrape().contains("veth8"));
}

#[test]
fn every_frame_has_a_timestamp_while_there_is_a_capture_and_few_have_one_without() {
    require!("ping");
    let (site, _daemon) = installed("daemon, timestamps", "");
    // The time from the XDP program to the worker is known of the frames that have one.
    let stamped = || {
        let count = || site.stats()["latency_ns"]["xdp_to_user"]["count"].as_u64().expect("a count");
        let before = count();
        site.namespace.run("ping", &["-q", "-c", "40", "-i", "0.01", "198.18.0.1"]);
        count() - before
    };
    let few = stamped();
    assert!(few < 20, "one in 16 of each kind and CPU, not {few} of 40");

    let file = site.state_dir().join("x.pcapng");
    let capture = Netdext::start(&mut site.command(&format!("capture --iface veth0 -w {}", file.display())));
    wait_until("the capture has begun", Duration::from_secs(5), || file.exists().then_some(()));
    let all = stamped();
    assert!(all >= 40, "{all} of 40");
    assert!(capture.stop().status.success());
    wait_until("it has ended for the XDP program too", Duration::from_secs(10), || {
        (stamped() < 20).then_some(())
    });
}
