//! `netdext run --driver forward`: hosts that reach each other through it.
//!
//! ```text
//!  host 0: eth0 === port0 [ netdext, without an address of the kernel's ] port1 === eth0: host 1
//!                                                                         port2 === eth0: host 2
//! ```
//! Host N has 198.18.0.(N+1)/24 and 2001:2::(N+1)/64.

use std::ops::Range;
use std::process::Command;
use std::time::Duration;

use netdext_tests::process::binary;
use netdext_tests::{Namespace, Netdext, require, wait_until};
use serde_json::Value;
use tempfile::TempDir;

/// Longest time until something that was switched works.
const SOON: Duration = Duration::from_secs(10);

/// A namespace for the forwarder, and one for each host.
struct Site {
    bridge: Namespace,
    ports: Vec<String>,
    hosts: Vec<Namespace>,
    directory: TempDir,
}

fn port(number: usize) -> String {
    format!("port{number}")
}

/// Both addresses of a host.
fn addresses(host: usize) -> [String; 2] {
    [format!("198.18.0.{}", host + 1), format!("2001:2::{}", host + 1)]
}

impl Site {
    fn new(purpose: &str, hosts: Range<usize>, queues: &str) -> Self {
        let bridge = Namespace::new(&format!("{purpose}, the forwarder"));
        let host = |number: usize| {
            let host = Namespace::new(&format!("{purpose}, host {number}"));
            let (port, shape) = (port(number), ["numtxqueues", queues, "numrxqueues", queues]);
            let end = |name| [&["name", name], &shape[..]].concat();
            let link = [&["link", "add"], &end(&port)[..], &["type", "veth", "peer"], &end("eth0")].concat();
            bridge.ip(&[&link[..], &["netns", host.name()]].concat());
            bridge.ip(&["link", "set", "dev", &port, "addrgenmode", "none"]);
            host.ip(&["link", "set", "dev", "eth0", "addrgenmode", "none"]);
            // Complete frames, as from a real wire.
            host.run("ethtool", &["-K", "eth0", "tx", "off", "tso", "off", "gso", "off", "txvlan", "off"]);
            let [v4, v6] = addresses(number);
            host.ip(&["address", "add", &format!("{v4}/24"), "dev", "eth0"]);
            host.ip(&["address", "add", &format!("{v6}/64"), "dev", "eth0", "nodad"]);
            bridge.ip(&["link", "set", "dev", &port, "up"]);
            host.ip(&["link", "set", "dev", "eth0", "up"]);
            host
        };
        let ports = hosts.clone().map(port).collect();
        let hosts = hosts.map(host).collect();
        Self { bridge, ports, hosts, directory: tempfile::tempdir().unwrap() }
    }

    /// The forwarder over all ports, ready.
    fn forward(&self) -> Netdext {
        let ifaces = self.ports.iter().flat_map(|port| ["--iface", port]);
        let mut command =
            self.netdext(&["run", "--json", "--netns", self.bridge.name(), "--driver", "forward"]);
        let mut netdext = Netdext::start(command.args(ifaces));
        netdext.ready();
        netdext
    }

    /// A command of netdext, with its sockets in a directory of the test's own.
    fn netdext(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command.env("NETDEXT_RUNTIME_DIR", self.directory.path()).args(arguments);
        command
    }

    /// Whether one host hears another's answer to one echo request.
    fn reaches(&self, from: usize, to: &str) -> bool {
        let ping = self.hosts[from].command("ping").args(["-c", "1", "-W", "0.5", to]).output();
        ping.expect("ping can be started").status.success()
    }

    /// Sends echo requests from one host to another over both protocols, each of which is to be answered once.
    #[track_caller]
    fn ping_without_loss(&self, from: usize, to: usize) {
        for address in addresses(to) {
            let text = self.hosts[from].run("ping", &["-q", "-c", "20", "-i", "0.01", &address]);
            assert!(text.contains("20 packets transmitted, 20 received, 0% packet loss"), "{text}");
            assert!(!text.contains("duplicates"), "{text}");
        }
    }

    /// Stops the forwarder; nothing may be missing and no program left.
    #[track_caller]
    fn stop(&self, netdext: Netdext) -> Value {
        let finished = netdext.stop();
        assert!(finished.status.success(), "{finished:#?}");
        for port in &self.ports {
            assert_eq!(self.bridge.xdp_programs(port), [0_u64; 0], "left on {port}");
        }
        // One for each port; the first has the counts of the driver.
        let lines = finished.stdout.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let summaries: Vec<_> = lines.filter(|line| line["event"] == "summary").collect();
        let ifaces: Vec<_> = summaries.iter().map(|summary| summary["iface"].as_str().unwrap()).collect();
        assert_eq!(ifaces, self.ports);
        for summary in &summaries {
            assert_eq!(summary["whole"], true, "{summary}");
            assert_eq!(summary["violations"], 0, "{summary}");
            for accounting in ["accounting", "tx_accounting"] {
                assert_eq!(summary[accounting]["residue"], 0, "{summary}");
            }
        }
        summaries[0].clone()
    }
}

/// What `iperf3` at one host says of a transfer to the server at this address.
#[track_caller]
fn transfer(host: &Namespace, server: &str, arguments: &[&str]) -> Value {
    let mut all = vec!["--json", "--client", server, "--connect-timeout", "5000"];
    all.extend(arguments);
    let text = host.run("iperf3", &all);
    serde_json::from_str(&text).expect("iperf3 writes JSON")
}

/// A transfer of each kind between hosts 0 and 1 in both directions; the forwarder has `queues` queues.
fn transfers(purpose: &str, queues: &str) {
    const TCP_BYTES: u64 = 20_000_000;
    const UDP_BYTES: u64 = 1_000_000;
    let site = Site::new(purpose, 0..2, queues);
    let netdext = site.forward();
    let mut command = site.hosts[1].command("iperf3");
    let mut server = Netdext::start(command.args(["--server", "--forceflush"]));
    server.line("Server listening", SOON);
    let (tcp, udp) = (TCP_BYTES.to_string(), UDP_BYTES.to_string());
    for address in addresses(1) {
        for direction in [&[][..], &["--reverse"]] {
            let report = transfer(&site.hosts[0], &address, &[&["--bytes", &tcp], direction].concat());
            let bytes = report["end"]["sum_received"]["bytes"].as_u64().unwrap();
            // What was on its way at the end is not counted.
            assert!(bytes > TCP_BYTES / 2, "{address} {direction:?}: {report}");
            let slow = ["--udp", "--bitrate", "20M", "--bytes", &udp];
            let report = transfer(&site.hosts[0], &address, &[&slow, direction].concat());
            let sum = &report["end"]["sum"];
            assert!(sum["packets"].as_u64() > Some(100), "{address} {direction:?}: {report}");
            assert!(sum["lost_percent"].as_f64() < Some(5.0), "{address} {direction:?}: {report}");
        }
    }
    let summary = site.stop(netdext);
    assert_eq!(summary["drops"]["loop"], 0, "{summary}");
    // A segment of 1448 bytes is a frame: TCP in both directions over both protocols.
    assert!(summary["counters"]["forwarded"].as_u64() > Some(4 * TCP_BYTES / 1500), "{summary}");
    assert!(summary["counters"]["flooded"].as_u64() < Some(100), "{summary}");
}

#[test]
fn two_hosts_ping_each_other_through_the_forwarder() {
    require!("ping", "ethtool");
    let site = Site::new("ping", 0..2, "1");
    let netdext = site.forward();
    site.ping_without_loss(0, 1);
    site.ping_without_loss(1, 0);
    let output = site.netdext(&["tell", "port0", "stations"]).output().expect("netdext can be started");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("port0") && text.contains("port1") && text.contains("age_ns"), "{text}");
    let summary = site.stop(netdext);
    assert!(summary["counters"]["forwarded"].as_u64() >= Some(160), "{summary}");
    assert_eq!(summary["metrics"]["stations"], 0, "all are forgotten at the end: {summary}");
}

#[test]
fn udp_and_tcp_go_both_ways_over_both_protocols() {
    require!("iperf3", "ethtool");
    transfers("iperf3", "1");
}

#[test]
fn udp_and_tcp_go_both_ways_over_two_queues() {
    require!("iperf3", "ethtool");
    transfers("iperf3 over two queues", "2");
}

#[test]
fn a_port_set_down_and_up_again_is_left_out_meanwhile_and_the_others_go_on() {
    require!("ping", "ethtool");
    let site = Site::new("down and up", 0..3, "1");
    let netdext = site.forward();
    site.ping_without_loss(0, 2);
    for _ in 0..3 {
        site.bridge.ip(&["link", "set", "dev", &port(2), "down"]);
        assert!(!site.reaches(0, &addresses(2)[0]), "it is down");
        site.ping_without_loss(0, 1);
        site.bridge.ip(&["link", "set", "dev", &port(2), "up"]);
        wait_until("ping works again", SOON, || site.reaches(0, &addresses(2)[0]).then_some(()));
        site.ping_without_loss(2, 1);
    }
    site.stop(netdext);
}

#[test]
fn what_enters_a_loop_of_two_forwarders_goes_round_no_further() {
    require!("ping", "ethtool");
    let mut sites = [("one side", 0..1), ("the other", 1..2)].map(|(side, host)| Site::new(side, host, "1"));
    for wire in ["wire0", "wire1"] {
        let to = sites[1].bridge.name().to_owned();
        sites[0]
            .bridge
            .ip(&["link", "add", "name", wire, "type", "veth", "peer", "name", wire, "netns", &to]);
        for site in &mut sites {
            site.bridge.ip(&["link", "set", "dev", wire, "addrgenmode", "none"]);
            site.bridge.ip(&["link", "set", "dev", wire, "up"]);
            site.ports.push(wire.to_owned());
        }
    }
    let running = sites.each_ref().map(Site::forward);
    for address in addresses(1) {
        // The first one asks everybody for the address.
        wait_until("there is a way", SOON, || sites[0].reaches(0, &address).then_some(()));
        let text = sites[0].hosts[0].run("ping", &["-q", "-c", "20", "-i", "0.01", &address]);
        assert!(!text.contains("duplicates"), "{text}");
    }
    let mut looped = 0;
    for (site, netdext) in sites.iter().zip(running) {
        let summary = site.stop(netdext);
        let count = |name: &str| summary["counters"][name].as_u64().unwrap();
        // 21 requests and 21 replies over each protocol.
        assert!((84..200).contains(&(count("forwarded") + count("flooded"))), "{summary}");
        looped += summary["drops"]["loop"].as_u64().unwrap();
    }
    assert!((1..100).contains(&looped), "{looped}");
}
