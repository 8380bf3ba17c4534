//! What frame size, queues and rules cost.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::Context;

use super::Bench;
use super::traffic::{drop_rate, drops_of, send_rate};
use crate::runner::{Entry, Group, Head, Sample};
use crate::schema::{Better, Unit};
use crate::wire::{ANSWERER, ANSWERER_IFACE, Wire, WireConfig};

static SIZES: [Head; 1] = [Head {
    id: "rx_drop_by_size",
    title: "Frames received and dropped, by their size",
    unit: Unit::Pps,
    better: Better::Higher,
}];
static QUEUES: [Head; 1] = [Head {
    id: "tx_by_queues",
    title: "Frames of 64 bytes sent, by the number of queues",
    unit: Unit::Pps,
    better: Better::Higher,
}];
static RULES: [Head; 1] = [Head {
    id: "rx_drop_by_rules",
    title: "Frames received and dropped, by the number of steering rules",
    unit: Unit::Pps,
    better: Better::Higher,
}];

/// By frame size, FCS included.
pub fn sizes<'a>(bench: &'a Bench<'a>) -> Group<'a> {
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
    Group { heads: &SIZES, entries }
}

/// By the number of queues, each with a worker of its own.
pub fn queues<'a>(bench: &'a Bench<'a>) -> Group<'a> {
    let counts: &[u32] = if bench.plan.quick { &[1, 2] } else { &[1, 2, 4] };
    let mut entries = Vec::new();
    for &queues in counts {
        let entry = Entry::new("netdext generate, to XDP_DROP", move || {
            Ok(Sample::of(&[send_rate(bench, queues, "--engine xdp", "--queues all")?]))
        });
        entries.push(entry.with("queues", queues));
    }
    Group { heads: &QUEUES, entries }
}

/// Longest time to load the rules.
const LOADED_WITHIN: Duration = Duration::from_secs(60);

/// By the number of rules: one that takes the flood, and others about addresses that do not occur.
pub fn rules<'a>(bench: &'a Bench<'a>) -> Group<'a> {
    let counts: &[u32] =
        if bench.plan.quick { &[1, 1_000, 100_000] } else { &[1, 1_000, 100_000, 1_000_000] };
    let entry = |&rules: &u32| {
        let entry = Entry::new("netdext sink, spin", move || {
            let directory = tempfile::tempdir().context("make a folder for the rules")?;
            let file = directory.path().join("rules");
            std::fs::write(&file, steering(rules)).context("write the rules")?;
            let flags = format!("--driver sink --wait spin --steer @{}", file.display());
            let wire = Wire::new(WireConfig::default())?;
            let (namespace, netdext) = (wire.answerer(), bench.netdext);
            let sink = netdext.run_within(LOADED_WITHIN, namespace, ANSWERER_IFACE, &flags)?;
            Ok(Sample::of(&[drops_of(bench, &wire, sink, "")?]))
        });
        entry.with("rules", rules)
    };
    Group { heads: &RULES, entries: counts.iter().map(entry).collect() }
}

/// So many rules, one a line.
fn steering(rules: u32) -> String {
    let first = Ipv4Addr::new(10, 0, 0, 0).to_bits();
    let others = (1..rules).map(|number| format!("driver:dst={}/32\n", Ipv4Addr::from_bits(first + number)));
    std::iter::once(format!("driver:dst={ANSWERER}/32\n")).chain(others).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_rules_are_made_as_were_asked_for() {
        assert_eq!(steering(1), "driver:dst=198.18.0.1/32\n");
        assert_eq!(steering(1_000_000).lines().count(), 1_000_000);
        assert_eq!(steering(1_000).lines().nth(999), Some("driver:dst=10.0.3.231/32"));
    }
}
