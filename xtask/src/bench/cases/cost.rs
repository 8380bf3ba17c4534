//! What frame size, queues and rules cost.

use super::super::runner::{Entry, Head, Sample, run};
use super::super::schema::{Better, Case, Unit};
use super::Bench;
use super::traffic::{drop_rate, send_rate};

const SIZES: [Head; 1] = [Head {
    id: "rx_drop_by_size",
    title: "Frames received and dropped, by their size",
    unit: Unit::Pps,
    better: Better::Higher,
}];
const QUEUES: [Head; 1] = [Head {
    id: "tx_by_queues",
    title: "Frames of 64 bytes sent, by the number of queues",
    unit: Unit::Pps,
    better: Better::Higher,
}];
const RULES: [Head; 1] = [Head {
    id: "rx_drop_by_rules",
    title: "Frames received and dropped, by the number of steering rules",
    unit: Unit::Pps,
    better: Better::Higher,
}];

/// By frame size, FCS included.
pub fn sizes(bench: &Bench<'_>) -> anyhow::Result<Vec<Case>> {
    let sizes: &[u32] = if bench.plan.quick { &[64, 1518] } else { &[64, 256, 512, 1024, 1518] };
    let mut entries = Vec::new();
    for size in sizes {
        let entry = Entry::new("netdext sink, spin", move || {
            let flags = format!("--size {size}");
            Ok(Sample::of(&[drop_rate(bench, "--steer all --wait spin", &flags)?]))
        });
        entries.push(entry.with("size", size));
    }
    let why = "the MTU has to fit a frame of the pool: 3818 bytes at the most";
    entries.push(Entry::missing("netdext sink, spin", why).with("size", 9018));
    run(&bench.plan, &SIZES, entries)
}

/// By the number of queues, each with a worker of its own.
pub fn queues(bench: &Bench<'_>) -> anyhow::Result<Vec<Case>> {
    let counts: &[u32] = if bench.plan.quick { &[1, 2] } else { &[1, 2, 4] };
    let mut entries = Vec::new();
    for &queues in counts {
        let entry = Entry::new("netdext generate, to XDP_DROP", move || {
            Ok(Sample::of(&[send_rate(bench, queues, "--engine xdp", "--queues all")?]))
        });
        entries.push(entry.with("queues", queues));
    }
    run(&bench.plan, &QUEUES, entries)
}

/// By the number of rules.
pub fn rules(bench: &Bench<'_>) -> anyhow::Result<Vec<Case>> {
    let counts: &[u32] = if bench.plan.quick { &[1, 1000] } else { &[1, 1000, 10_000, 100_000, 1_000_000] };
    let entry = |&rules: &u32| {
        let why = "`netdext run` takes no file of rules, and a command line does not hold so many";
        Entry::missing("netdext sink, spin", why).with("rules", rules)
    };
    run(&bench.plan, &RULES, counts.iter().map(entry).collect())
}
