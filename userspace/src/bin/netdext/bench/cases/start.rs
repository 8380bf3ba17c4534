//! From the start to the first reply, and what a driver costs that has nothing to do.

use std::time::{Duration, Instant};

use super::super::interrupt;
use super::super::prober::probe;
use super::super::process::{Process, cpu_ns, resident_bytes};
use super::super::runner::{Entry, Head, Sample, run};
use super::super::schema::{Better, Case, Unit};
use super::super::subject::Subject;
use super::super::wire::ANSWERER_IFACE;
use super::Bench;

const START: [Head; 1] = [Head {
    id: "start",
    title: "From the start of the process to the first reply",
    unit: Unit::Ns,
    better: Better::Lower,
}];
const AT_REST: [Head; 2] = [
    Head {
        id: "idle_cpu",
        title: "Processor time at rest, of one processor",
        unit: Unit::Percent,
        better: Better::Lower,
    },
    Head { id: "memory", title: "Resident memory, one queue", unit: Unit::Bytes, better: Better::Lower },
];

/// How long a driver is watched at rest.
const REST: Duration = Duration::from_secs(1);

/// Start to first reply.
pub fn first_reply(bench: &Bench<'_>) -> anyhow::Result<Vec<Case>> {
    let entry = |name: &str, flags: &'static str| {
        Entry::new(name, move || {
            let wire = Subject::Driver("adaptive").wire(false)?;
            let took = probe(&wire, |prober| {
                let since = Instant::now();
                let mut command = bench.netdext.command(wire.answerer(), ANSWERER_IFACE, flags);
                let process = Process::start(&mut command)?;
                let took = prober.first_reply(since)?;
                process.stop()?;
                Ok(took)
            })?;
            Ok(Sample::of(&[took.as_nanos() as f64]))
        })
    };
    let answer = entry(&Subject::Answer.name(), "--answer --no-injector");
    run(&bench.plan, &START, vec![entry("netdext driver, adaptive", "--no-injector"), answer])
}

/// Processor time and memory of a driver without traffic.
pub fn at_rest(bench: &Bench<'_>) -> anyhow::Result<Vec<Case>> {
    let entry = |wait: &'static str| {
        Entry::new(&format!("netdext driver, {wait}"), move || {
            let wire = Subject::Driver(wait).wire(false)?;
            let flags = format!("--no-injector --wait {wait}");
            let process = bench.netdext.run(wire.answerer(), ANSWERER_IFACE, &flags)?;
            let (before, since) = (cpu_ns(process.id())?, Instant::now());
            interrupt::sleep(REST)?;
            let used = (cpu_ns(process.id())? - before) as f64;
            let share = 100.0 * used / since.elapsed().as_nanos() as f64;
            let memory = resident_bytes(process.id())? as f64;
            process.stop()?;
            Ok(Sample::of(&[share, memory]))
        })
    };
    run(&bench.plan, &AT_REST, vec![entry("adaptive"), entry("poll")])
}
