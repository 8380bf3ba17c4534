//! Frames received and dropped, sent, reflected, and sent on a schedule.

use std::time::{Duration, Instant};

use anyhow::Context;

use super::Bench;
use super::echo::flood;
use crate::clock;
use crate::interrupt;
use crate::process::{Process, number, summary};
use crate::program;
use crate::runner::{Entry, Group, Head, Sample};
use crate::schema::{Better, Unit};
use crate::spread::quantile;
use crate::testpmd::{self, Testpmd};
use crate::wire::{ANSWERER_IFACE, ASKER, ASKER_IFACE, Wire, WireConfig, link};

/// Time for a program to begin that does not say when it does.
const SETTLE: Duration = Duration::from_millis(500);

static DROPS: [Head; 1] = [Head {
    id: "rx_drop",
    title: "Frames of 64 bytes received and dropped, flood",
    unit: Unit::Pps,
    better: Better::Higher,
}];
static SENDS: [Head; 1] =
    [Head { id: "tx", title: "Frames of 64 bytes sent", unit: Unit::Pps, better: Better::Higher }];
static REFLECTIONS: [Head; 1] = [Head {
    id: "reflect",
    title: "Frames of 64 bytes sent back, flood",
    unit: Unit::Pps,
    better: Better::Higher,
}];
static PACING: [Head; 3] = [
    Head {
        id: "pacing_p50",
        title: "Departure later than planned, median",
        unit: Unit::Ns,
        better: Better::Lower,
    },
    Head {
        id: "pacing_p99",
        title: "Departure later than planned, p99",
        unit: Unit::Ns,
        better: Better::Lower,
    },
    Head {
        id: "pacing_max",
        title: "Departure later than planned, most",
        unit: Unit::Ns,
        better: Better::Lower,
    },
];

/// Frames that a sink of ours drops in a second; `sink` are its flags.
pub fn drop_rate(bench: &Bench<'_>, sink: &str, flags: &str) -> anyhow::Result<f64> {
    let wire = Wire::new(WireConfig::default())?;
    let sink = bench.netdext.run(wire.answerer(), ANSWERER_IFACE, &format!("--driver sink {sink}"))?;
    drops_of(bench, &wire, sink, flags)
}

/// The same of a sink that is ready. `flags` are those of the flood.
pub fn drops_of(bench: &Bench<'_>, wire: &Wire, sink: Process, flags: &str) -> anyhow::Result<f64> {
    let flooded = flood(bench, wire, flags, bench.plan.time)?;
    let seconds = number(&flooded, "/sending_ns")? / 1e9;
    let summary = summary(&sink.stop()?)?;
    let dropped =
        number(&summary, "/tallies/discarded/frames").or_else(|_| number(&summary, "/counters/discarded"));
    let dropped = dropped.context("no frame arrives")?;
    Ok(dropped / seconds)
}

/// Received and dropped.
pub fn drops<'a>(bench: &'a Bench<'a>) -> Group<'a> {
    let ours = |flags: &'static str| move || Ok(Sample::of(&[drop_rate(bench, flags, "")?]));
    let mut entries = vec![Entry::new("inside the kernel (XDP_DROP)", ours("--engine xdp"))];
    for wait in ["--steer all --wait spin", "--steer all --wait adaptive", "--steer all --wait poll"] {
        let name = format!("netdext sink, {}", wait.rsplit(' ').next().unwrap_or(wait));
        entries.push(Entry::new(&name, ours(wait)));
    }
    entries.push(Entry::unless(testpmd::missing(), "dpdk-testpmd rxonly", || {
        let wire = Wire::new(WireConfig::default())?;
        let peer = Testpmd::start(&wire, "rxonly", &[])?;
        let flooded = flood(bench, &wire, "", bench.plan.time)?;
        rate(testpmd::received(&peer.stop()?)?, number(&flooded, "/sending_ns")?)
    }));
    let missing = program::find("xdp-bench").is_none().then_some("no xdp-bench: apt-get install xdp-tools");
    entries.push(Entry::unless(missing, "xdp-bench drop", || {
        peer_drop_rate(bench, &["xdp-bench", "drop", ANSWERER_IFACE])
    }));
    let missing = program::find("xdpsock").is_none().then_some("no xdpsock on PATH");
    entries.push(Entry::unless(missing, "xdpsock rxdrop", || xdpsock_drop_rate(bench)));
    Group { heads: &DROPS, entries }
}

/// Frames a second. Of a peer none at all is no figure: it did not take part.
fn rate(frames: f64, ns: f64) -> anyhow::Result<Sample> {
    anyhow::ensure!(frames > 0.0, "no frame was counted");
    Ok(Sample::of(&[frames * 1e9 / ns]))
}

/// A peer that drops in XDP, counted by the device.
fn peer_drop_rate(bench: &Bench<'_>, words: &[&str]) -> anyhow::Result<Sample> {
    let wire = Wire::new(WireConfig::default())?;
    let mut peer = Process::start(wire.at_answerer(words[0]).args(&words[1..]))?;
    interrupt::sleep(SETTLE)?;
    let before = received(wire.answerer(), ANSWERER_IFACE)?;
    let flooded = flood(bench, &wire, "", bench.plan.time)?;
    let dropped = received(wire.answerer(), ANSWERER_IFACE)? - before;
    // The device counts what nobody takes, too.
    peer.expect_running()?;
    // How it ends is its own affair.
    drop(peer);
    rate(dropped, number(&flooded, "/sending_ns")?)
}

/// Frames that an interface has received.
fn received(namespace: &str, iface: &str) -> anyhow::Result<f64> {
    number(&link(namespace, iface)?, "/stats64/rx/packets")
}

fn xdpsock_drop_rate(bench: &Bench<'_>) -> anyhow::Result<Sample> {
    let wire = Wire::new(WireConfig::default())?;
    let mut peer = wire.at_answerer("xdpsock");
    let peer = Process::start(peer.args(["-i", ANSWERER_IFACE, "-q", "0", "-r", "-N", "-n", "1"]))?;
    interrupt::sleep(SETTLE)?;
    let flooded = flood(bench, &wire, "", bench.plan.time)?;
    interrupt::sleep(Duration::from_millis(1100))?;
    let lines = peer.stop()?;
    let received = lines.iter().rev().find_map(|line| xdpsock_received(line));
    let received = received.ok_or_else(|| anyhow::anyhow!("xdpsock printed no count of received frames"))?;
    rate(received, number(&flooded, "/sending_ns")?)
}

/// The total in a line `rx   1,234   5,678` of xdpsock.
fn xdpsock_received(line: &str) -> Option<f64> {
    let mut words = line.split_whitespace();
    let total = words.next().filter(|word| *word == "rx").and_then(|_| words.nth(1))?;
    total.replace(',', "").parse().ok()
}

/// Frames that our generator sends over the rings in a second; `receiver` are the flags of a sink at the other end.
pub fn send_rate(bench: &Bench<'_>, queues: u32, receiver: &str, flags: &str) -> anyhow::Result<f64> {
    let (sending, wire, sink) =
        start_sending(bench, queues, receiver, &format!("--wait spin --rate max {flags}"))?;
    let summary = summary(&sending.wait()?)?;
    sink.stop()?;
    drop(wire);
    Ok(number(&summary, "/generator/sent")? * 1e9 / number(&summary, "/generator/sending_ns")?)
}

fn start_sending(
    bench: &Bench<'_>,
    queues: u32,
    receiver: &str,
    flags: &str,
) -> anyhow::Result<(Process, Wire, Process)> {
    let wire = Wire::new(WireConfig { queues, ..WireConfig::default() })?;
    let sink = bench.netdext.run(wire.asker(), ASKER_IFACE, &format!("--driver sink {receiver}"))?;
    let arguments = format!(
        "--driver generate --target {ASKER} --dst-mac {} --duration {}ms {flags}",
        wire.asker_mac,
        bench.plan.time.as_millis()
    );
    let sending = Process::start(&mut bench.netdext.command(wire.answerer(), ANSWERER_IFACE, &arguments))?;
    Ok((sending, wire, sink))
}

/// Sent over the rings.
pub fn sends<'a>(bench: &'a Bench<'a>) -> Group<'a> {
    let entry = |name: &str, receiver: &'static str| {
        Entry::new(name, move || Ok(Sample::of(&[send_rate(bench, 1, receiver, "")?])))
    };
    let mut entries = vec![entry("netdext generate, to XDP_DROP", "--engine xdp")];
    if !bench.plan.quick {
        entries.push(entry("netdext generate, to netdext sink", "--steer all --wait adaptive"));
    }
    entries.push(Entry::unless(testpmd::missing(), "dpdk-testpmd txonly, to XDP_DROP", || {
        let wire = Wire::new(WireConfig::default())?;
        let sink = bench.netdext.run(wire.asker(), ASKER_IFACE, "--driver sink --engine xdp")?;
        let peer = Testpmd::start(&wire, "txonly", &["--txpkts=60"])?;
        interrupt::sleep(SETTLE)?;
        let (before, since) = (received(wire.asker(), ASKER_IFACE)?, Instant::now());
        interrupt::sleep(bench.plan.time)?;
        let (after, took) = (received(wire.asker(), ASKER_IFACE)?, since.elapsed());
        peer.stop()?;
        sink.stop()?;
        rate(after - before, took.as_nanos() as f64)
    }));
    Group { heads: &SENDS, entries }
}

/// Sent back.
pub fn reflections<'a>(bench: &'a Bench<'a>) -> Group<'a> {
    let entry = |name: &str, flags: &'static str| {
        Entry::new(name, move || {
            let wire = Wire::new(WireConfig::default())?;
            let reflector = format!("--driver reflect {flags}");
            let reflector = bench.netdext.run(wire.answerer(), ANSWERER_IFACE, &reflector)?;
            let flooded = flood(bench, &wire, "", bench.plan.time)?;
            reflector.stop()?;
            let returned = number(&flooded, "/tallies/returned/frames")?;
            Ok(Sample::of(&[returned * 1e9 / number(&flooded, "/sending_ns")?]))
        })
    };
    let entries = vec![
        entry("inside the kernel (XDP_TX)", "--engine xdp"),
        entry("netdext reflect, spin", "--steer all --wait spin"),
        entry("netdext reflect, adaptive", "--steer all --wait adaptive"),
        Entry::unless(testpmd::missing(), "dpdk-testpmd macswap", || {
            let wire = Wire::new(WireConfig::default())?;
            let peer = Testpmd::start(&wire, "macswap", &[])?;
            let flooded = flood(bench, &wire, "", bench.plan.time)?;
            peer.stop()?;
            rate(number(&flooded, "/tallies/returned/frames")?, number(&flooded, "/sending_ns")?)
        }),
    ];
    Group { heads: &REFLECTIONS, entries }
}

/// Sent on a schedule.
pub fn pacing<'a>(bench: &'a Bench<'a>) -> Group<'a> {
    let rates: &[u32] = if bench.plan.quick { &[10_000] } else { &[1_000, 10_000, 100_000] };
    let mut entries = Vec::new();
    let waits: &[&str] = if bench.plan.quick { &["spin", "adaptive"] } else { &["spin", "adaptive", "poll"] };
    for wait in waits {
        for rate in rates {
            let entry = Entry::new(&format!("netdext generate, {wait}"), move || {
                let flags = format!("--wait {wait} --rate {rate}/s");
                let (sending, wire, sink) = start_sending(bench, 1, "--engine xdp", &flags)?;
                let summary = summary(&sending.wait()?)?;
                sink.stop()?;
                drop(wire);
                let error = |name: &str| number(&summary, &format!("/generator/pacing_error_ns/{name}"));
                Ok(Sample::of(&[error("p50")?, error("p99")?, error("max")?]))
            });
            entries.push(entry.with("rate", format!("{rate}/s")));
        }
    }
    for &rate in rates {
        let entry = Entry::new("the clock alone", move || {
            let late = clock::lateness(rate, bench.plan.time)?;
            let max = late.last().copied().unwrap_or_default();
            Ok(Sample::of(&[quantile(&late, 0.5), quantile(&late, 0.99), max]))
        });
        entries.push(entry.with("rate", format!("{rate}/s")));
    }
    Group { heads: &PACING, entries }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_is_read_from_xdpsock() {
        assert_eq!(xdpsock_received("rx                 1,234,567      8,900,001     "), Some(8_900_001.0));
        assert_eq!(xdpsock_received("tx                 0              0"), None);
        assert_eq!(xdpsock_received(" sock0@veth0:0 rxdrop xdp-drv"), None);
    }
}
