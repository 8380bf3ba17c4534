//! What is measured: one file a group of cases.

mod cost;
mod echo;
mod forward;
mod start;
mod traffic;
mod xdp;

use super::plan::Plan;
use super::process::Netdext;
use super::runner::Group;

/// What every case works with.
pub struct Bench<'a> {
    /// The netdext under measurement.
    pub netdext: &'a Netdext,
    /// How much is measured.
    pub plan: Plan,
}

/// Everything that is measured, the most wanted first: what comes last is the first to be left out of a round.
pub fn all<'a>(bench: &'a Bench<'a>) -> Vec<Group<'a>> {
    let groups = vec![
        echo::rates(bench),
        echo::round_trips(bench),
        traffic::drops(bench),
        traffic::sends(bench),
        traffic::reflections(bench),
        forward::through(bench),
        traffic::pacing(bench),
        start::first_reply(bench),
        start::at_rest(bench),
        xdp::costs(bench),
        cost::sizes(bench),
        cost::queues(bench),
        cost::rules(bench),
        echo::pings(bench),
    ];
    groups.into_iter().filter(|group| !group.entries.is_empty()).collect()
}

/// What is changed of the system while a case runs; all of it goes with the case's namespaces.
pub fn changes() -> Vec<String> {
    [
        "GRO is on at the end of the kernel's stack in echo_rate, and at the flooded port of the kernel's bridge in forward: \
         without it a veth drops live frames",
        "each end has a permanent neighbour entry for the other end",
        "netdext, dpdk-testpmd and the traffic programs put XDP programs on their ends of the pair",
        "echo_rtt and start of what answers in XDP have a program that passes every frame at the end of who asks, as \
         netdext itself puts there if both ends are in one namespace: without one a veth is not woken for what an XDP \
         program sends",
        "round trips through XDP_REDIRECT have such a program at both ends, for the same reason",
        "NAPI of who asks has a thread of its own in echo_rate with napi thread, as netdext run --tune gives it",
    ]
    .map(str::to_owned)
    .to_vec()
}
