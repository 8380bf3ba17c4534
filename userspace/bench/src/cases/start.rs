//! From the start to the first reply, and what a driver costs that has nothing to do.

use std::time::Instant;

use super::Bench;
use crate::interrupt;
use crate::prober::probe;
use crate::process::{Process, cpu_ns, resident_bytes};
use crate::runner::{Entry, Group, Head, Sample};
use crate::schema::{Better, Unit};
use crate::subject::{Subject, wake_asker};
use crate::wire::ANSWERER_IFACE;

static START: [Head; 1] = [Head {
    id: "start",
    title: "From the start of the process to the first reply",
    unit: Unit::Ns,
    better: Better::Lower,
}];
static AT_REST: [Head; 2] = [
    Head {
        id: "idle_cpu",
        title: "Processor time at rest, of one processor",
        unit: Unit::Percent,
        better: Better::Lower,
    },
    Head { id: "memory", title: "Resident memory, one queue", unit: Unit::Bytes, better: Better::Lower },
];

/// Start to first reply.
pub fn first_reply<'a>(bench: &'a Bench<'a>) -> Group<'a> {
    let entry = |subject: Subject, flags: &'static str| {
        Entry::new(&subject.name(), move || {
            let wire = subject.wire(false)?;
            let napi = (subject == Subject::Answer).then(|| wake_asker(&wire)).transpose()?;
            // Not on the prober's thread: that is bound to a processor, and what it starts would be too.
            let since = Instant::now();
            let mut command = bench.netdext.command(wire.answerer(), ANSWERER_IFACE, flags);
            let process = Process::start(&mut command)?;
            let took = probe(&wire, |prober| prober.first_reply(since))?;
            process.stop()?;
            drop(napi);
            Ok(Sample::of(&[took.as_nanos() as f64]))
        })
    };
    let entries = vec![
        entry(Subject::Driver("adaptive"), "--no-injector"),
        entry(Subject::Answer, "--answer --no-injector"),
    ];
    Group { heads: &START, entries }
}

/// Processor time and memory of a driver without traffic.
pub fn at_rest<'a>(bench: &'a Bench<'a>) -> Group<'a> {
    let entry = |wait: &'static str| {
        Entry::new(&format!("netdext driver, {wait}"), move || {
            let wire = Subject::Driver(wait).wire(false)?;
            let flags = format!("--no-injector --wait {wait}");
            let process = bench.netdext.run(wire.answerer(), ANSWERER_IFACE, &flags)?;
            let (before, since) = (cpu_ns(process.id())?, Instant::now());
            interrupt::sleep(bench.plan.rest)?;
            let used = (cpu_ns(process.id())? - before) as f64;
            let share = 100.0 * used / since.elapsed().as_nanos() as f64;
            let memory = resident_bytes(process.id())? as f64;
            process.stop()?;
            Ok(Sample::of(&[share, memory]))
        })
    };
    let waits: &[&str] = if bench.plan.quick { &["adaptive"] } else { &["adaptive", "poll"] };
    Group { heads: &AT_REST, entries: waits.iter().map(|&wait| entry(wait)).collect() }
}
