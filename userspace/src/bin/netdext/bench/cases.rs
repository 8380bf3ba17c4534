//! What is measured: one file a group of cases.

mod cost;
mod echo;
mod start;
mod traffic;

use super::process::Netdext;
use super::runner::Plan;
use super::schema::Case;

/// What every case works with.
pub struct Bench<'a> {
    /// The netdext under measurement.
    pub netdext: &'a Netdext,
    /// How much is measured.
    pub plan: Plan,
}

/// Measures a group of cases that are measured together.
type Group = fn(&Bench<'_>) -> anyhow::Result<Vec<Case>>;

/// Runs every case.
///
/// # Errors
/// A signal has come.
pub fn run_all(bench: &Bench<'_>) -> anyhow::Result<Vec<Case>> {
    let groups: [Group; 12] = [
        echo::round_trips,
        echo::rates,
        echo::pings,
        traffic::drops,
        traffic::sends,
        traffic::reflections,
        traffic::pacing,
        start::first_reply,
        start::at_rest,
        cost::sizes,
        cost::queues,
        cost::rules,
    ];
    let mut cases = Vec::new();
    for group in groups {
        cases.extend(group(bench)?);
    }
    Ok(cases)
}

/// What is changed of the system while a case runs; all of it goes with the case's namespaces.
pub fn changes() -> Vec<String> {
    [
        "GRO is on at the end of the kernel's stack in echo_rate: without it a veth drops live frames",
        "every namespace has a permanent neighbour entry for the other end",
        "netdext, dpdk-testpmd and the traffic programs put XDP programs on their ends of the pair",
        "echo_rtt of netdext --answer has a netdext at the end of who asks, whose program leaves every frame to the kernel: \
         without one a veth is not woken for what an XDP program sends",
    ]
    .map(str::to_owned)
    .to_vec()
}
