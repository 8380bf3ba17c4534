//! Echo requests answered: how soon, and how many.

use std::time::Duration;

use anyhow::Context;

use super::Bench;
use crate::prober::{RoundTrips, probe};
use crate::process::{Process, number, summary};
use crate::program;
use crate::runner::{Entry, Group, Head, Sample};
use crate::schema::{Better, Unit};
use crate::spread::quantile;
use crate::subject::Subject;
use crate::wire::{ANSWERER, ASKER, ASKER_IFACE, Wire};

static ROUND_TRIPS: [Head; 4] = [
    Head { id: "echo_rtt_p50", title: "Echo round trip, median", unit: Unit::Ns, better: Better::Lower },
    Head { id: "echo_rtt_p99", title: "Echo round trip, p99", unit: Unit::Ns, better: Better::Lower },
    Head { id: "echo_rtt_p999", title: "Echo round trip, p99.9", unit: Unit::Ns, better: Better::Lower },
    Head { id: "echo_rtt_max", title: "Echo round trip, longest", unit: Unit::Ns, better: Better::Lower },
];

static RATES: [Head; 2] = [
    Head { id: "echo_rate", title: "Echo requests answered, flood", unit: Unit::Pps, better: Better::Higher },
    Head {
        id: "echo_cpu",
        title: "Processor time of the process for a million answers",
        unit: Unit::Ns,
        better: Better::Lower,
    },
];

static PINGS: [Head; 1] = [Head {
    id: "echo_rtt_mean",
    title: "Echo round trip, mean, as ping and fping have it",
    unit: Unit::Ns,
    better: Better::Lower,
}];

/// An entry for each subject and rate of the injector.
fn entries<'a>(
    subjects: &[Subject],
    injectors: &[u32],
    measure: impl Fn(Subject, u32) -> anyhow::Result<Sample> + Copy + 'a,
) -> Vec<Entry<'a>> {
    let mut entries = Vec::new();
    for &subject in subjects {
        for &injector in injectors {
            if injector > 0 && !subject.has_injector() {
                continue;
            }
            let entry = Entry::unless(subject.missing(), &subject.name(), move || measure(subject, injector));
            entries.push(if injector == 0 { entry } else { entry.with("injector", format!("{injector}/s")) });
        }
    }
    entries
}

/// Round trips.
pub fn round_trips<'a>(bench: &'a Bench<'a>) -> Group<'a> {
    let measure = |subject: Subject, injector: u32| {
        let wire = subject.wire(false)?;
        let running = subject.start(&wire, bench.netdext, injector)?;
        let trips = probe(&wire, |prober| prober.round_trips(bench.plan.time))?;
        running.stop()?;
        let sorted = sorted(&trips)?;
        let max = *sorted.last().context("nobody answers")?;
        let figures = [quantile(&sorted, 0.5), quantile(&sorted, 0.99), quantile(&sorted, 0.999), max];
        Ok(Sample { times_ns: trips.times_ns, ..Sample::of(&figures) })
    };
    let injectors: &[u32] = if bench.plan.quick { &[0, 10_000] } else { &[0, 1_000, 10_000, 100_000] };
    Group { heads: &ROUND_TRIPS, entries: entries(&Subject::IN_ORDER, injectors, measure) }
}

/// Round trips in ns, the shortest first.
///
/// # Errors
/// There is none, or one in a hundred requests had no reply.
pub fn sorted(trips: &RoundTrips) -> anyhow::Result<Vec<f64>> {
    let mut sorted: Vec<f64> = trips.times_ns.iter().map(|&ns| ns as f64).collect();
    sorted.sort_by(f64::total_cmp);
    anyhow::ensure!(!sorted.is_empty(), "nobody answers");
    anyhow::ensure!(
        trips.lost * 100 < sorted.len() as u64,
        "{} of {} requests had no reply",
        trips.lost,
        trips.lost + sorted.len() as u64
    );
    Ok(sorted)
}

/// Answers a second under a flood of live frames.
pub fn rates<'a>(bench: &'a Bench<'a>) -> Group<'a> {
    let injectors: &[u32] = if bench.plan.quick { &[0] } else { &[0, 1_000, 10_000, 100_000] };
    let as_it_is = |subject, injector| rate(bench, subject, injector, |_| Ok(()));
    let mut all = entries(&Subject::IN_ORDER, injectors, as_it_is);
    if !bench.plan.quick {
        let threaded = |subject, injector| rate(bench, subject, injector, Wire::thread_asker_napi);
        let threaded = entries(&[Subject::Driver("spin"), Subject::Testpmd], &[0], threaded);
        all.extend(threaded.into_iter().map(|entry| entry.with("napi", "thread")));
    }
    Group { heads: &RATES, entries: all }
}

/// Answers a second. `flooding` is called when the flood has begun.
fn rate(
    bench: &Bench<'_>,
    subject: Subject,
    injector: u32,
    flooding: impl FnOnce(&Wire) -> anyhow::Result<()>,
) -> anyhow::Result<Sample> {
    let wire = subject.wire(true)?;
    let running = subject.start(&wire, bench.netdext, injector)?;
    let before = running.cpu_ns()?;
    let flood = start_flood(bench, &wire, "--frames echo", bench.plan.time)?;
    flooding(&wire)?;
    let flooded = summary(&flood.wait()?)?;
    let used = running.cpu_ns()? - before;
    running.stop()?;
    let replies = number(&flooded, "/tallies/replies/frames").context("nobody answers")?;
    anyhow::ensure!(replies > 0.0, "nobody answers");
    let seconds = number(&flooded, "/sending_ns")? / 1e9;
    // What runs inside the kernel is nobody's processor time.
    let cpu = (used > 0).then(|| used as f64 * 1e6 / replies);
    Ok(Sample { figures: vec![Some(replies / seconds), cpu], times_ns: Vec::new() })
}

/// Floods who answers with live frames for so long; the summary of the generator.
pub fn flood(
    bench: &Bench<'_>,
    wire: &Wire,
    more: &str,
    time: Duration,
) -> anyhow::Result<serde_json::Value> {
    summary(&start_flood(bench, wire, more, time)?.wait()?)
}

fn start_flood(bench: &Bench<'_>, wire: &Wire, more: &str, time: Duration) -> anyhow::Result<Process> {
    let arguments = format!(
        "--driver generate --engine xdp --addr {ASKER}/24 --target {ANSWERER} --dst-mac {} --duration {}ms {more}",
        wire.answerer_mac,
        time.as_millis()
    );
    bench.netdext.run(wire.asker(), ASKER_IFACE, &arguments)
}

/// The mean that `ping -f` and `fping` print: other probers than ours, for comparison. Not in a quick run.
pub fn pings<'a>(bench: &'a Bench<'a>) -> Group<'a> {
    let mut entries = Vec::new();
    if bench.plan.quick {
        return Group { heads: &PINGS, entries };
    }
    for (program, arguments) in
        [("ping", "-q -f -c 5000 198.18.0.1"), ("fping", "-q -c 200 -p 1 -i 1 198.18.0.1")]
    {
        for subject in [Subject::Kernel, Subject::Driver("spin")] {
            let name = format!("{}, by {program}", subject.name());
            let missing =
                program::find(program).is_none().then(|| format!("no {program}: apt-get install {program}"));
            entries.push(Entry::unless(missing, &name, move || {
                let wire = subject.wire(false)?;
                let running = subject.start(&wire, bench.netdext, 0)?;
                let mut command = wire.at_asker(program);
                let output = command.args(arguments.split(' ')).output().context("start it")?;
                running.stop()?;
                // fping writes to its standard error.
                let text = [output.stdout, output.stderr].concat();
                let text = String::from_utf8_lossy(&text);
                let mean = mean_ms(&text).with_context(|| format!("no mean in {text:?}"))?;
                Ok(Sample::of(&[mean * 1e6]))
            }));
        }
    }
    Group { heads: &PINGS, entries }
}

/// The second of the numbers after `min/avg/max`, in ms.
fn mean_ms(text: &str) -> Option<f64> {
    let numbers = text.split("min/avg/max").nth(1)?.split('=').nth(1)?;
    numbers.split('/').nth(1)?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_is_read_from_ping_and_fping() {
        let ping = "rtt min/avg/max/mdev = 0.003/0.005/0.077/0.001 ms, ipg/ewma 0.007/0.005 ms";
        let fping = "198.18.0.1 : xmt/rcv/%loss = 5/5/0%, min/avg/max = 0.014/0.025/0.060";
        assert_eq!((mean_ms(ping), mean_ms(fping)), (Some(0.005), Some(0.025)));
        assert_eq!(mean_ms("100% packet loss"), None);
    }
}
