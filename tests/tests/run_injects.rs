//! `netdext run` sends echo requests, which the kernel's stack at the other end answers.

use netdext_tests::wire::{DRIVER_IFACE, DRIVER_V4, HOST_V4, HOST_V6};
use netdext_tests::{Netdext, Wire, patience, require};
use serde_json::Value;

/// Eight requests every millisecond; fewer where not so many can be sent in time.
fn interval() -> String {
    format!("{}ms", patience())
}

/// What natively is at least this count, with fewer requests.
fn at_least(natively: u64) -> u64 {
    natively / u64::from(patience())
}

/// Runs the injector for two seconds and returns the summary of a run that ended well.
fn inject(wire: &Wire, arguments: &[&str]) -> Value {
    let interval = interval();
    let mut all = vec!["--first", "10ms", "--interval", &interval, "--batch", "8", "--duration", "2s"];
    all.extend(arguments);
    let mut netdext = Netdext::run(&wire.driver, DRIVER_IFACE, &all);
    netdext.ready();
    let finished = netdext.wait();
    assert!(finished.status.success(), "{finished:#?}");
    wire.assert_no_xdp();
    finished.expect_whole().clone()
}

fn count(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("not a count: {value}"))
}

/// What must be so when somebody answers.
fn assert_all_answered(summary: &Value, natively: u64) {
    let injector = &summary["injector"];
    let [sent, replies, lost] = ["sent", "replies", "lost"].map(|name| count(&injector[name]));
    assert!(replies >= at_least(natively), "{injector}");
    assert_eq!(sent, replies + lost, "{injector}");
    for none in ["lost", "residue", "in_flight", "late", "duplicates", "out_of_order", "not_sent"] {
        assert_eq!(injector[none], 0, "{none} in {injector}");
    }
    let rtt = &injector["rtt_ns"];
    assert_eq!(count(&rtt["count"]), replies);
    let order = ["min", "p50", "p99", "p999", "max"].map(|name| count(&rtt[name]));
    // Below a microsecond nothing gets through two stacks; a second is the limit for a reply.
    assert!(order[0] > 1000 && order[4] < 1_000_000_000 && order.is_sorted(), "{rtt}");
}

/// The echo requests that the kernel at the other end has received, by its own count.
fn requests_heard(wire: &Wire) -> u64 {
    wire.host.icmp_count("InEchos")
}

fn unlimited_replies(wire: &Wire) {
    // The kernel limits the ICMP messages that it sends; echo replies over IPv6 too, unless they are left out.
    wire.host.run("sysctl", &["-qw", "net.ipv6.icmp.ratelimit=0"]);
}

#[test]
fn requests_to_a_target_are_answered_and_counted_exactly() {
    require!("ethtool");
    let wire = Wire::new("injector, IPv4");
    let summary = inject(&wire, &["--target", HOST_V4]);
    // Two seconds of 8,000 requests a second; a busy machine may be late, but not by much.
    assert_all_answered(&summary, 4000);
    assert_eq!(count(&summary["injector"]["sent"]), requests_heard(&wire), "as the other end counts");
    assert_eq!(summary["counters"]["echo_replies_matched"], summary["injector"]["replies"]);
}

#[test]
fn requests_over_ipv6_are_answered_and_counted_exactly() {
    require!("sysctl", "ethtool");
    let wire = Wire::new("injector, IPv6");
    unlimited_replies(&wire);
    let summary = inject(&wire, &["--target", HOST_V6]);
    assert_all_answered(&summary, 4000);
    assert!(count(&summary["verdicts"]["driver_echo6_reply"]) >= at_least(4000), "{summary}");
    assert_eq!(summary["verdicts"]["driver_echo4_reply"], 0);
}

#[test]
fn two_targets_share_the_requests() {
    require!("sysctl", "ethtool");
    let wire = Wire::new("injector, two targets");
    unlimited_replies(&wire);
    let summary = inject(&wire, &["--target", HOST_V4, "--target", HOST_V6]);
    assert_all_answered(&summary, 4000);
    for verdict in ["driver_echo4_reply", "driver_echo6_reply"] {
        assert!(count(&summary["verdicts"][verdict]) > at_least(1000), "{summary}");
    }
}

#[test]
fn without_a_target_the_first_neighbour_heard_is_it() {
    require!("ping", "ethtool");
    let wire = Wire::new("injector, learnt target");
    let arguments = ["--first", "10ms", "--interval", &interval(), "--batch", "8"];
    let mut netdext = Netdext::run(&wire.driver, DRIVER_IFACE, &arguments);
    netdext.ready();
    assert_eq!(requests_heard(&wire), 0, "nobody has been heard yet");
    wire.ping_without_loss(20, &["-i", "0.02", DRIVER_V4]);
    assert!(requests_heard(&wire) > 0);
    assert_all_answered(&wire.stop(netdext), 100);
}

#[test]
fn nothing_is_sent_blindly_to_a_target_that_does_not_answer() {
    require!("ethtool");
    let wire = Wire::new("injector, unreachable target");
    let summary = inject(&wire, &["--target", "198.18.0.77", "--target", "2001:2::77"]);
    let injector = &summary["injector"];
    for none in ["sent", "replies", "lost", "residue", "in_flight"] {
        assert_eq!(injector[none], 0, "{none} in {injector}");
    }
    let events = &summary["events"];
    assert!(count(&events["injector_unresolved"]) > at_least(1000), "{events}");
    // Asked for, and asked for again, but not once per request.
    let asked = count(&events["neighbor_requests_sent"]);
    assert!((2..100).contains(&asked), "{events}");
    let sent: u64 = summary["queues"].as_array().unwrap().iter().map(|q| count(&q["tx_packets"])).sum();
    assert_eq!(sent, asked, "nothing but the questions was sent: {summary}");
}

#[test]
fn requests_to_one_that_stops_answering_are_counted_as_lost() {
    require!("sysctl", "ethtool");
    let wire = Wire::new("injector, silent target");
    wire.host.run("sysctl", &["-qw", "net.ipv4.icmp_echo_ignore_all=1"]);
    let injector = &inject(&wire, &["--target", HOST_V4])["injector"];
    let [sent, lost] = ["sent", "lost"].map(|name| count(&injector[name]));
    assert!(sent > at_least(4000) && lost == sent, "{injector}");
    assert_eq!((&injector["replies"], &injector["residue"]), (&0.into(), &0.into()));
}

#[test]
fn a_run_without_injector_sends_nothing_of_its_own_accord() {
    require!("ethtool");
    let wire = Wire::new("no injector");
    let arguments = ["--no-injector", "--duration", "300ms"];
    let finished = Netdext::run(&wire.driver, DRIVER_IFACE, &arguments).wait();
    assert!(finished.status.success(), "{finished:#?}");
    let summary = finished.expect_whole();
    assert!(summary.get("injector").is_none(), "{summary}");
    assert_eq!(requests_heard(&wire), 0);
    wire.assert_no_xdp();
}
