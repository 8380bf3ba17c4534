//! What frame size, queues and rules cost.

use std::net::Ipv4Addr;

use super::super::runner::{Entry, Head, Sample, run};
use super::super::schema::{Better, Case, Unit};
use super::super::wire::ANSWERER;
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

/// Rules that fit a command line of 2 MiB, each with `--steer`.
const RULES_ON_A_COMMAND_LINE: u32 = 20_000;

/// By the number of rules: one that takes the flood, and others about addresses that do not occur.
pub fn rules(bench: &Bench<'_>) -> anyhow::Result<Vec<Case>> {
    let counts: &[u32] = if bench.plan.quick { &[1, 1000] } else { &[1, 1000, 20_000, 1_000_000] };
    let entry = |&rules: &u32| {
        let entry = if rules > RULES_ON_A_COMMAND_LINE {
            Entry::missing("netdext sink, spin", "a command line does not hold so many rules")
        } else {
            Entry::new("netdext sink, spin", move || {
                let flags = format!("--wait spin {}", steering(rules));
                Ok(Sample::of(&[drop_rate(bench, &flags, "")?]))
            })
        };
        entry.with("rules", rules)
    };
    run(&bench.plan, &RULES, counts.iter().map(entry).collect())
}

/// The flags for so many rules.
fn steering(rules: u32) -> String {
    let mut flags = format!("--steer driver:dst={ANSWERER}");
    for number in 1..rules {
        let address = Ipv4Addr::from_bits(Ipv4Addr::new(10, 0, 0, 0).to_bits() + number);
        flags.push_str(&format!(" --steer drop:dst={address}"));
    }
    flags
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_rules_are_made_as_were_asked_for_and_fit_a_command_line() {
        assert_eq!(steering(1), "--steer driver:dst=198.18.0.1");
        assert_eq!(
            steering(3),
            "--steer driver:dst=198.18.0.1 --steer drop:dst=10.0.0.1 --steer drop:dst=10.0.0.2"
        );
        // Each word costs a pointer besides its bytes, and a quarter of the stack limit of 8 MiB is for them all.
        let flags = steering(RULES_ON_A_COMMAND_LINE);
        assert!(flags.len() + 8 * flags.split(' ').count() < 2 << 20, "{}", flags.len());
    }
}
