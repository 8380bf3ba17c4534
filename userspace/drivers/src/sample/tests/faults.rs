use std::time::Duration;

use super::{Ended, Net, SECOND, both_targets, count, injecting, targets4};
use crate::requests::InjectorStats;
use netdext::port::RingSizes;
use netdext::port::sim::{Faults, SimConfig};

const STEP: Duration = Duration::from_millis(5);
const SEEDS: u64 = 12;

fn sim() -> SimConfig {
    let rings = RingSizes { rx: 256, tx: 256 };
    SimConfig { rings, frames: rings.frames(), latency: Duration::from_micros(100), ..SimConfig::default() }
}

/// Two drivers with resolved addresses and no request under way, for `SEEDS` seeds: nothing but echoes follows.
fn with_seeds(test: impl Fn(Net)) {
    let start = fastrand::u64(..);
    for seed in start..start.saturating_add(SEEDS) {
        println!("seed {seed}");
        let config = injecting(&both_targets(), |c| {
            (c.first, c.interval, c.batch) = (SECOND / 2, SECOND / 20, 16);
            c.reply_timeout = SECOND / 5;
        });
        let mut net = Net::with_driver(config, &sim(), seed);
        net.run(SECOND / 10, STEP);
        assert_eq!(count(&net.stats(), "neighbor_updated"), 2);
        test(net);
    }
}

/// Lets the requests that were sent with faults be answered or given up without new faults.
fn end(mut net: Net) -> Ended {
    net.wire.set_faults(Faults::default());
    net.run(SECOND / 2, STEP);
    net.finish()
}

#[test]
fn without_faults_nothing_is_lost() {
    with_seeds(|mut net| {
        net.run(2 * SECOND, STEP);
        let ended = end(net);
        let injector = InjectorStats::of(&ended.ours.driver).unwrap();
        // From half a second on, and up to the last step, which ends on a tick whose batch is still under way.
        assert_eq!(injector.sent, 43 * 16);
        assert_eq!(
            (injector.not_sent, injector.late, injector.duplicates, injector.out_of_order),
            (0, 0, 0, 0)
        );
        assert_eq!(injector.lost, count_at_disable(&ended.ours.driver.events));
        let theirs = ended.theirs.unwrap().driver;
        assert_eq!(count(&theirs, "echo4_answered") + count(&theirs, "echo6_answered"), injector.replies);
    });
}

fn count_at_disable(events: &[(&'static str, u64)]) -> u64 {
    events.iter().find(|(name, _)| *name == "injector_unanswered_at_disable").unwrap().1
}

#[test]
fn exactly_the_requests_whose_request_or_reply_was_dropped_are_lost() {
    with_seeds(|mut net| {
        net.wire.set_faults(Faults { drop: 0.2, ..Faults::default() });
        net.run(2 * SECOND, STEP);
        let dropped = net.moved.lost as u64;
        let ended = end(net);
        let injector = InjectorStats::of(&ended.ours.driver).unwrap();
        assert!(dropped > 50, "{dropped} dropped");
        assert_eq!(injector.lost - count_at_disable(&ended.ours.driver.events), dropped);
        assert_eq!((injector.late, injector.duplicates), (0, 0));
    });
}

#[test]
fn exactly_the_replies_that_came_twice_are_duplicates() {
    with_seeds(|mut net| {
        net.wire.set_faults(Faults { duplicate: 0.2, ..Faults::default() });
        net.run(2 * SECOND, STEP);
        let ended = end(net);
        let ours = &ended.ours.driver;
        let injector = InjectorStats::of(ours).unwrap();
        let theirs = ended.theirs.unwrap();
        let answered = count(&theirs.driver, "echo4_answered") + count(&theirs.driver, "echo6_answered");
        // A request that came twice was answered twice.
        assert!(answered > injector.sent, "{answered} answers to {} requests", injector.sent);
        assert_eq!(injector.lost, count_at_disable(&ours.events));
        let neighbor_frames = count(ours, "neighbor_updated");
        assert_eq!(injector.duplicates, ended.ours.rx_packets - neighbor_frames - injector.replies);
        assert!(injector.duplicates > 50, "{} duplicates", injector.duplicates);
    });
}

#[test]
fn exactly_the_replies_that_were_delayed_too_long_are_late() {
    with_seeds(|mut net| {
        net.wire.set_faults(Faults { delayed: 0.1, delay: SECOND / 4, ..Faults::default() });
        net.run(2 * SECOND, STEP);
        let ended = end(net);
        let injector = InjectorStats::of(&ended.ours.driver).unwrap();
        assert!(injector.late > 50, "{} late", injector.late);
        assert_eq!(injector.lost, injector.late + count_at_disable(&ended.ours.driver.events));
        assert_eq!(injector.duplicates, 0);
    });
}

#[test]
fn overtaking_is_seen_and_loses_nothing() {
    with_seeds(|mut net| {
        net.wire.set_faults(Faults { reorder: 0.3, ..Faults::default() });
        net.run(2 * SECOND, STEP);
        let ended = end(net);
        let injector = InjectorStats::of(&ended.ours.driver).unwrap();
        assert!(injector.out_of_order > 20, "{} out of order", injector.out_of_order);
        assert_eq!(injector.lost, count_at_disable(&ended.ours.driver.events));
    });
}

#[test]
fn with_everything_going_wrong_at_once_every_request_and_every_frame_is_accounted_for() {
    with_seeds(|mut net| {
        let faults = Faults {
            drop: 0.1,
            duplicate: 0.1,
            reorder: 0.2,
            delayed: 0.1,
            delay: SECOND / 4,
            ..Faults::default()
        };
        for round in 0..8 {
            net.wire.set_faults(Faults {
                stall_completions: round % 3 == 1,
                rx_ring_full: round == 5,
                ..faults
            });
            net.run(SECOND / 4, STEP);
            let injector = net.injector();
            assert_eq!(injector.sent, injector.replies + injector.lost + injector.in_flight);
        }
        let ended = end(net);
        let ours = &ended.ours.driver;
        let injector = InjectorStats::of(ours).unwrap();
        assert!(injector.sent > 500 && injector.replies > 100, "{injector:?}");
        assert!(injector.late <= injector.lost);
        assert_eq!(count(ours, "echo_replies_matched"), injector.replies);
        assert_eq!(count(ours, "echo_replies_late"), injector.late);
        assert_eq!(count(ours, "echo_replies_duplicate"), injector.duplicates);
        assert_eq!(count(ours, "echo_replies_mismatched") + count(ours, "echo_replies_too_old"), 0);
    });
}

#[test]
fn more_requests_than_there_are_sequence_numbers_are_matched_one_by_one() {
    let config = injecting(&targets4(), |c| {
        (c.interval, c.batch, c.reply_timeout) = (Duration::from_micros(500), 50, SECOND);
        c.first = SECOND / 10;
    });
    // A second and a half under way: more than 65,536 requests wait at the same time.
    let rings = RingSizes { rx: 512, tx: 512 };
    let latency = Duration::from_millis(450);
    let sim = SimConfig { rings, frames: rings.frames(), latency, ..SimConfig::default() };
    let mut net = Net::with_driver(config, &sim, 1);
    let mut most = 0;
    for _ in 0..30 {
        net.run(SECOND / 10, Duration::from_micros(500));
        most = most.max(net.injector().in_flight);
    }
    assert!(most > 65_536, "{most} in flight");
    let ended = net.finish();
    let injector = InjectorStats::of(&ended.ours.driver).unwrap();
    assert!(injector.replies > 100_000, "{injector:?}");
    assert_eq!((injector.duplicates, injector.late, injector.out_of_order), (0, 0, 0));
    assert_eq!(injector.lost, count_at_disable(&ended.ours.driver.events));
}
