//! The injector is started, stopped and changed while it runs.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use proptest::prelude::*;
use serde_json::{Value, json};
use smoltcp::wire::ArpOperation;

use super::{Net, SECOND, answering, count, injecting, targets4};
use crate::requests::InjectorStats;
use crate::sample::{InjectSettings, TargetStats};
use netdext::driver::PortId;
use netdext::port::RingSizes;
use netdext::port::sim::SimConfig;
use netdext::proto::Local;
use netdext::proto::testing::{
    Message, OUR_MAC, OUR4, PEER_MAC, PEER4, arp_message, arp_request, respond, see,
};

const STEP: Duration = Duration::from_millis(100);

/// The peer has every address of this network: 198.18.0.0/24 but the driver's.
fn peer() -> Local {
    let all: Vec<_> = (2..255_u8).map(|host| (IpAddr::from([198, 18, 0, host]), 24)).collect();
    Local::new(PEER_MAC, &all)
}

fn host(number: u8) -> IpAddr {
    [198, 18, 0, number].into()
}

fn tell(net: &mut Net, name: &str, value: &Value) -> Result<Value, String> {
    let now = net.wire.now();
    let answer = net.driver.control(now, name, value).map_err(|error| error.to_string())?;
    Ok(answer.expect("it leads"))
}

fn ns(time: Duration) -> Option<u64> {
    u64::try_from(time.as_nanos()).ok()
}

fn start(net: &mut Net) {
    assert_eq!(tell(net, "inject_start", &Value::Null), Ok(json!({})));
}

fn stop(net: &mut Net) {
    assert_eq!(tell(net, "inject_stop", &Value::Null), Ok(json!({})));
}

fn targets(net: &mut Net) -> Vec<TargetStats> {
    serde_json::from_value(tell(net, "inject_targets", &Value::Null).unwrap()).unwrap()
}

fn set(net: &mut Net, change: impl FnOnce(&mut InjectSettings)) -> Result<(), String> {
    let mut settings = InjectSettings::default();
    change(&mut settings);
    tell(net, "inject_set", &json!(settings)).map(drop)
}

/// Answers everything that the driver asks, and lets time pass; returns the echo requests, by destination and
/// length of the payload.
fn run_answered(net: &mut Net, steps: u32, answers: bool) -> Vec<(IpAddr, usize)> {
    let mut requests = Vec::new();
    for _ in 0..steps {
        net.run(STEP, STEP);
        // As often as an answer may lead to a question.
        for _ in 0..3 {
            for frame in net.take_arrived() {
                let is_echo = match see(&frame).unwrap().message {
                    Message::Echo { reply: false, destination, data, .. } => {
                        requests.push((destination, data.len()));
                        true
                    }
                    _ => false,
                };
                if (!is_echo || answers)
                    && let Some(Ok(reply)) = respond(&frame, &peer())
                {
                    net.wire.inject(netdext::port::sim::End::A, &reply);
                }
            }
            net.settle();
        }
    }
    requests
}

fn check(injector: &InjectorStats, targets: &[TargetStats]) {
    assert_eq!(injector.sent, injector.replies + injector.lost + injector.in_flight);
    for target in targets {
        assert_eq!(target.sent, target.replies + target.lost + target.in_flight, "{target:?}");
    }
}

#[test]
fn a_stopped_injector_sends_nothing_and_goes_on_when_it_is_started() {
    let mut net = Net::with_test(injecting(&targets4(), |c| c.interval = SECOND));
    assert_eq!(run_answered(&mut net, 25, true).len(), 2 * 8);
    stop(&mut net);
    assert_eq!(run_answered(&mut net, 50, true), []);
    start(&mut net);
    assert_eq!(run_answered(&mut net, 5, true).len(), 8, "the first batch at once");
    start(&mut net);
    assert_eq!(run_answered(&mut net, 10, true).len(), 8, "starting twice changes nothing");
    let stats = InjectorStats::of(&net.finish().ours.driver).unwrap();
    assert_eq!((stats.sent, stats.replies, stats.lost), (32, 32, 0));
}

#[test]
fn replies_that_come_after_a_stop_still_count_and_missing_ones_are_lost() {
    let mut net = Net::with_test(injecting(&targets4(), |_| {}));
    run_answered(&mut net, 9, true);
    net.run(STEP, STEP);
    stop(&mut net);
    let replies: Vec<_> =
        net.take_arrived().iter().filter_map(|frame| respond(frame, &peer())?.ok()).collect();
    for reply in &replies[..5] {
        net.exchange(reply);
    }
    assert_eq!((net.injector().replies, net.injector().in_flight), (5, 3));
    net.run(2 * SECOND, STEP);
    assert_eq!((net.injector().lost, net.injector().in_flight), (3, 0));
    net.finish();
}

#[test]
fn interval_batch_and_payload_change_while_requests_are_on_their_way() {
    let mut net = Net::with_test(injecting(&targets4(), |c| c.interval = SECOND));
    run_answered(&mut net, 9, true);
    net.run(STEP, STEP);
    let sent_before = net.take_arrived();
    assert_eq!(sent_before.len(), 8);
    set(&mut net, |s| {
        (s.interval_ns, s.batch, s.payload_bytes) = (ns(2 * STEP), Some(3), Some(200));
    })
    .unwrap();
    for frame in &sent_before {
        net.exchange(&respond(frame, &peer()).unwrap().unwrap());
    }
    assert_eq!(net.injector().replies, 8, "of the length that they were asked with");
    assert_eq!(run_answered(&mut net, 10, true), [(PEER4.into(), 200); 15]);
    assert_eq!(net.injector().replies, 8 + 15);
    net.finish();
}

#[test]
fn many_more_requests_than_before_can_wait_after_a_change() {
    let rings = RingSizes { rx: 64, tx: 1024 };
    let sim = SimConfig { rings, frames: rings.frames(), ..SimConfig::default() };
    let mut net = Net::with_test_on(injecting(&targets4(), |_| {}), &sim);
    run_answered(&mut net, 10, true);
    set(&mut net, |s| (s.interval_ns, s.batch) = (ns(STEP), Some(600))).unwrap();
    assert_eq!(run_answered(&mut net, 10, false).len(), 6000);
    let stats = net.injector();
    assert_eq!((stats.in_flight, stats.not_sent), (6000, 0));
    net.finish();
}

#[test]
fn every_target_has_its_own_counts_and_one_that_stays_keeps_them() {
    let all: Vec<IpAddr> = (10..60).map(host).collect();
    let mut net = Net::with_test(injecting(&all, |c| (c.interval, c.batch) = (STEP, 50)));
    run_answered(&mut net, 15, true);
    let before = targets(&mut net);
    assert_eq!(before.iter().map(|target| target.target).collect::<Vec<_>>(), all);
    assert!(before.iter().all(|t| t.replies > 3 && t.rtt_ns.min <= t.rtt_ns.mean), "{before:?}");
    check(&net.injector(), &before);

    set(&mut net, |s| s.targets = Some(vec![host(70), host(20)])).unwrap();
    net.run(2 * SECOND, STEP);
    net.take_arrived();
    let after = targets(&mut net);
    assert_eq!(after.len(), 2);
    assert!(after[0].target == host(70) && after[0].sent == 0, "nobody said where it is: {after:?}");
    let kept = before[10];
    assert!(after[1].target == host(20) && after[1].replies == kept.replies && after[1].sent > kept.sent);
    run_answered(&mut net, 40, false);
    let last = targets(&mut net);
    assert!(last[0].lost > 0 && last[0].replies == 0, "{last:?}");
    check(&net.injector(), &last);
    net.finish();
}

#[test]
fn a_reply_from_a_target_that_was_just_removed_matches() {
    let mut net = Net::with_test(injecting(&[host(10)], |c| c.interval = SECOND));
    run_answered(&mut net, 9, true);
    net.run(STEP, STEP);
    let asked = net.take_arrived();
    assert_eq!(asked.len(), 8);
    for other in [20, 30, 40] {
        set(&mut net, |s| s.targets = Some(vec![host(other)])).unwrap();
    }
    for frame in &asked {
        net.exchange(&respond(frame, &peer()).unwrap().unwrap());
    }
    assert_eq!((net.injector().replies, net.injector().in_flight), (8, 0));
    assert_eq!(targets(&mut net)[0].replies, 0, "they are not the new target's");
    net.finish();
}

#[test]
fn what_cannot_work_is_refused_and_nothing_changes() {
    let mut net = Net::with_test(injecting(&targets4(), |c| c.interval = SECOND));
    run_answered(&mut net, 10, true);
    let refusals = [
        (set(&mut net, |s| s.batch = Some(0)), "batch is 0"),
        (set(&mut net, |s| s.interval_ns = ns(Duration::ZERO)), "interval is 0"),
        (set(&mut net, |s| s.payload_bytes = Some(8)), "too short"),
        (set(&mut net, |s| s.payload_bytes = Some(1473)), "does not fit the MTU of 1500: 1472 is the limit"),
        (set(&mut net, |s| s.payload_bytes = Some(usize::MAX)), "fits no datagram"),
        (set(&mut net, |s| s.interval_ns = Some(1)), "1048576 is the limit"),
        (
            set(&mut net, |s| {
                (s.batch, s.targets) = (Some(1), Some(vec![host(9), [203, 0, 113, 1].into()]));
            }),
            "203.0.113.1 is no neighbour",
        ),
    ];
    for (result, expected) in refusals {
        let message = result.expect_err(expected);
        assert!(message.contains(expected) && !message.contains('\n'), "{message}");
    }
    assert_eq!(run_answered(&mut net, 10, true), [(PEER4.into(), 56); 8]);
    net.finish();
}

#[test]
fn a_driver_without_an_injector_gets_one_when_it_is_told_what_to_send() {
    let mut net = Net::with_test(answering());
    assert_eq!(targets(&mut net), []);
    stop(&mut net);
    assert!(InjectorStats::of(&net.stats()).is_none());
    set(&mut net, |s| (s.targets, s.interval_ns) = (Some(vec![host(9)]), ns(SECOND))).unwrap();
    assert_eq!(run_answered(&mut net, 20, true), [], "not before it is started");
    start(&mut net);
    assert_eq!(run_answered(&mut net, 15, true), [(host(9), 56); 8], "the first batch finds no MAC address");
    let stats = net.finish().ours.driver;
    assert_eq!(count(&stats, "injector_unresolved"), 8);
}

#[test]
fn what_is_said_while_the_interface_is_disabled_is_for_later() {
    let mut net = Net::with_test(injecting(&targets4(), |c| c.interval = SECOND));
    net.exchange(&arp_message(ArpOperation::Reply, (PEER_MAC, PEER4), (OUR_MAC, OUR4)));
    net.driver.set_interface_enable(net.wire.now(), PortId::FIRST, false).unwrap();
    stop(&mut net);
    set(&mut net, |s| s.interval_ns = ns(3 * STEP)).unwrap();
    start(&mut net);
    assert_eq!(run_answered(&mut net, 30, true), []);
    net.driver.set_interface_enable(net.wire.now(), PortId::FIRST, true).unwrap();
    // The first after a second, as always after enabling, then every 300 ms.
    assert_eq!(run_answered(&mut net, 17, true).len(), 3 * 8);
    net.driver.set_interface_enable(net.wire.now(), PortId::FIRST, false).unwrap();
    stop(&mut net);
    net.driver.set_interface_enable(net.wire.now(), PortId::FIRST, true).unwrap();
    assert_eq!(run_answered(&mut net, 30, true), []);
    net.finish();
}

#[test]
fn a_learnt_target_that_falls_silent_is_replaced_by_the_next_neighbour_heard() {
    let mut net = Net::with_test(injecting(&[], |c| c.interval = SECOND));
    let hello = |net: &mut Net, number: u8| {
        net.exchange(&arp_request(Ipv4Addr::new(198, 18, 0, number), OUR4));
    };
    hello(&mut net, 10);
    assert_eq!(run_answered(&mut net, 10, true), [(host(10), 56); 8]);
    assert_eq!(run_answered(&mut net, 10, false).len(), 8, "one batch without an answer");
    hello(&mut net, 20);
    assert!(run_answered(&mut net, 30, true).iter().all(|(target, _)| *target == host(10)), "it lives");
    run_answered(&mut net, 45, false);
    hello(&mut net, 10);
    assert_eq!(targets(&mut net)[0].target, host(10), "nobody else was heard");
    hello(&mut net, 20);
    assert_eq!(targets(&mut net)[0].target, host(20));
    assert!(run_answered(&mut net, 12, true).iter().all(|(target, _)| *target == host(20)));
    let stats = net.finish().ours.driver;
    assert_eq!(count(&stats, "injector_targets_replaced"), 1);
}

#[test]
fn a_target_that_was_given_stays_however_silent_it_is() {
    let mut net = Net::with_test(injecting(&targets4(), |c| c.interval = STEP));
    run_answered(&mut net, 60, false);
    assert!(net.injector().lost > 100);
    net.exchange(&arp_request(Ipv4Addr::new(198, 18, 0, 20), OUR4));
    assert_eq!(targets(&mut net)[0].target, IpAddr::from(PEER4));
    net.finish();
}

#[test]
fn how_late_a_request_was_is_recorded_and_counts_in_the_time_from_the_schedule() {
    let mut net = Net::with_test(injecting(&targets4(), |c| (c.batch, c.interval) = (1, SECOND)));
    run_answered(&mut net, 9, true);
    // The first tick is due at 1 s, and the worker looks 7 ms later.
    net.run(Duration::from_millis(107), Duration::from_millis(107));
    let request = net.take_arrived().remove(0);
    net.run(Duration::from_millis(2), Duration::from_millis(2));
    net.exchange(&respond(&request, &peer()).unwrap().unwrap());
    let stats = net.injector();
    let near = |value: u64, expected: u64, digits: u64| value.abs_diff(expected) <= expected / digits;
    assert!(near(stats.pacing_error_ns.max(), 7_000_000, 50), "{}", stats.pacing_error_ns.max());
    assert!(near(stats.rtt_ns.max(), 2_000_000, 500), "{}", stats.rtt_ns.max());
    assert!(near(stats.rtt_from_schedule_ns.max(), 9_000_000, 500), "{}", stats.rtt_from_schedule_ns.max());
    assert_eq!(stats.pacing_error_ns.len(), stats.sent);
    net.finish();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn every_request_is_accounted_for_whatever_is_changed(
        steps in prop::collection::vec((0..7_u8, 1..40_usize, any::<bool>()), 1..60)
    ) {
        let mut net = Net::with_test(injecting(&[host(10), host(11)], |c| c.interval = STEP));
        for (operation, size, answers) in steps {
            let _ = match operation {
                0 => tell(&mut net, "inject_start", &Value::Null).map(drop),
                1 => tell(&mut net, "inject_stop", &Value::Null).map(drop),
                2 => set(&mut net, |s| s.interval_ns = ns(Duration::from_millis(10 * size as u64))),
                3 => set(&mut net, |s| s.batch = Some(size)),
                4 => set(&mut net, |s| s.payload_bytes = Some(20 + 40 * size)),
                5 => set(&mut net, |s| {
                    s.targets = Some((0..size as u8 % 12).map(|number| host(10 + number)).collect());
                }),
                _ => {
                    let enable = size % 2 == 0;
                    let now = net.wire.now();
                    net.driver.set_interface_enable(now, PortId::FIRST, enable).map_err(|error| error.to_string())
                }
            };
            run_answered(&mut net, size as u32 % 5, answers);
            check(&net.injector(), &targets(&mut net));
        }
        prop_assert_eq!(count(&net.stats(), "echo_replies_mismatched"), 0);
        net.finish();
    }
}
