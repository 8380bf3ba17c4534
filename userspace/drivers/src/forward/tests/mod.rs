//! Forwarders on simulated wires.

mod model;
mod net;

use std::time::Duration;

use fastrand::Rng;
use netdext::driver::Driver;
use netdext::metrics::Metric;
use netdext::proto::{BROADCAST, MacAddr};
use serde_json::json;

use self::net::{Net, Node, RINGS};
use super::table::{FLOODS, HOLD};
use super::{ForwardConfig, factory};
use crate::testing::frame;

const GROUP: MacAddr = [0x01, 0, 0x5e, 0, 0, 1];
const LEN: usize = 60;

fn forwarder() -> Box<dyn Driver> {
    factory(ForwardConfig::default()).expect("a configuration that works").build(0)
}

fn knowing(stations: usize) -> Box<dyn Driver> {
    factory(ForwardConfig { stations, ..ForwardConfig::default() }).expect("a working one").build(0)
}

/// The address of a station that by custom is host `host`.
fn mac(host: usize) -> MacAddr {
    [2, 0, 0, 0, 0, host as u8]
}

/// A frame from one host to another.
fn between(from: usize, to: usize) -> Vec<u8> {
    frame(mac(to), mac(from), LEN)
}

fn broadcast(from: usize) -> Vec<u8> {
    frame(BROADCAST, mac(from), LEN)
}

/// The same frame with a VLAN tag.
fn tagged(frame: &[u8], tpid: u16, vlan: u16) -> Vec<u8> {
    let mut tagged = frame.to_vec();
    tagged.splice(12..12, [tpid.to_be_bytes(), vlan.to_be_bytes()].concat());
    tagged
}

#[test]
fn what_is_unknown_or_to_a_group_goes_to_all_others_and_what_is_known_to_its_port_alone() {
    let mut net = Net::star(forwarder(), 4);
    assert_eq!(net.reached(0, &between(0, 2)), [1, 2, 3]);
    assert_eq!(net.reached(1, &broadcast(1)), [0, 2, 3]);
    assert_eq!(net.reached(2, &frame(GROUP, mac(2), LEN)), [0, 1, 3]);
    for (from, to) in [(0, 2), (2, 0), (3, 1)] {
        assert_eq!(net.reached(from, &between(from, to)), [to]);
    }
    let [stats] = net.finish().try_into().unwrap();
    assert_eq!(stats.counters, [("forwarded", 3), ("flooded", 3)]);
    assert_eq!(stats.events[..2], [("learned", 4), ("moved", 0)]);
    assert!(stats.drops.iter().all(|(_, count)| *count == 0), "{stats:?}");
}

#[test]
fn a_frame_to_a_known_station_is_not_copied_and_a_flooded_one_once_less_than_it_has_ports() {
    let mut net = Net::star(forwarder(), 4);
    net.send(0, &broadcast(0));
    net.send(1, &broadcast(1));
    assert_eq!(net.count(0, "copies"), 4);
    // While they wait to be sent, the frames of the pool show what was used.
    let before = net.census(0);
    net.stall(1, true);
    net.send(0, &between(0, 1));
    let census = net.census(0);
    assert_eq!((census.tx_lent, census.user), (before.tx_lent + 1, 0));
    assert_eq!(before.free - census.free, 1, "the frame itself, replaced in the fill ring");
    assert_eq!(net.count(0, "copies"), 4);
    net.stall(1, false);
    net.settle(10);
    assert_eq!(net.take()[1], [between(0, 1)]);
    net.finish();
}

#[test]
fn nothing_goes_back_where_it_came_from() {
    let mut net = Net::star(forwarder(), 2);
    net.send(0, &broadcast(7));
    assert!(net.reached(0, &between(0, 7)).is_empty(), "both are behind port 0");
    assert_eq!(net.reached(0, &broadcast(0)), [1]);
    assert_eq!(net.count(0, "same_port"), 1);
    net.finish();
}

#[test]
fn a_station_is_forgotten_when_it_was_not_heard_for_the_ageing_time() {
    let config = ForwardConfig { ageing: Duration::from_secs(8), ..ForwardConfig::default() };
    let mut net = Net::star(factory(config).unwrap().build(0), 3);
    net.send(0, &broadcast(0));
    for _ in 0..7 {
        net.advance(Duration::from_secs(1));
        net.turn();
    }
    assert_eq!(net.reached(1, &between(1, 0)), [0], "it is not yet forgotten");
    net.advance(Duration::from_secs(2));
    assert_eq!(net.reached(2, &between(2, 0)), [0, 1]);
    assert_eq!(net.count(0, "aged"), 1);
    assert_eq!(net.reached(2, &between(2, 1)), [1], "it was heard later");
    net.finish();
}

#[test]
fn a_station_that_moves_is_relearned_by_its_first_frame_after_a_second() {
    let mut net = Net::star(forwarder(), 3);
    net.send(1, &broadcast(1));
    net.send(0, &broadcast(0));
    net.advance(HOLD);
    assert_eq!(net.reached(2, &between(0, 1)), [1]);
    assert_eq!(net.reached(1, &between(1, 0)), [2]);
    assert_eq!(net.count(0, "moved"), 1);
    net.finish();
}

#[test]
fn a_station_that_moves_from_a_port_that_went_down_is_relearned_at_once() {
    let mut net = Net::star(forwarder(), 3);
    net.send(1, &broadcast(1));
    net.send(0, &broadcast(0));
    net.enable(0, 0, false);
    assert_eq!(net.reached(2, &between(0, 1)), [1]);
    assert_eq!(net.reached(1, &between(1, 0)), [2]);
    net.finish();
}

#[test]
fn a_station_heard_on_two_ports_at_a_time_stays_on_the_first() {
    let mut net = Net::star(forwarder(), 3);
    net.send(1, &broadcast(1));
    net.send(0, &broadcast(0));
    for _ in 0..20 {
        net.advance(HOLD / 2);
        assert!(net.reached(2, &broadcast(0)).is_empty());
        assert_eq!(net.reached(0, &broadcast(0)), [1, 2]);
        assert_eq!(net.reached(1, &between(1, 0)), [0]);
    }
    assert_eq!((net.count(0, "loop"), net.count(0, "moved")), (20, 0));
    net.finish();
}

#[test]
fn a_station_has_a_port_in_each_vlan() {
    let mut net = Net::star(forwarder(), 3);
    net.send(0, &tagged(&broadcast(9), 0x8100, 10));
    net.send(1, &tagged(&broadcast(9), 0x88a8, 11));
    assert_eq!(net.reached(2, &tagged(&between(2, 9), 0x8100, 10)), [0]);
    assert_eq!(net.reached(2, &tagged(&between(2, 9), 0x88a8, 11)), [1]);
    assert_eq!(net.reached(2, &between(2, 9)), [0, 1]);
    let stations = net.tell(0, "stations").unwrap();
    let vlans: Vec<_> = stations.as_array().unwrap().iter().map(|station| &station["vlan"]).collect();
    assert_eq!(vlans, [&json!(10), &json!(11), &json!(null), &json!(10), &json!(11)]);
    net.finish();
}

#[test]
fn what_is_for_the_next_bridge_only_goes_no_further() {
    let mut net = Net::star(forwarder(), 2);
    for last in 0..=0x10 {
        let reached = net.reached(0, &frame([0x01, 0x80, 0xc2, 0, 0, last], mac(0), LEN));
        assert_eq!(reached.len(), usize::from(last == 0x10), "{last:#x}");
    }
    assert_eq!(net.count(0, "reserved"), 16);
    net.finish();
}

#[test]
fn a_frame_from_a_group_or_from_nobody_is_dropped_and_teaches_nothing() {
    let mut net = Net::star(forwarder(), 2);
    for source in [GROUP, BROADCAST, [0; 6]] {
        assert!(net.reached(0, &frame(mac(1), source, LEN)).is_empty());
    }
    assert_eq!((net.count(0, "bad_source"), net.count(0, "learned")), (3, 0));
    net.finish();
}

#[test]
fn a_frame_that_ends_within_its_header_is_dropped() {
    let mut net = Net::star(forwarder(), 2);
    for frame in [&broadcast(0)[..13], &tagged(&broadcast(0), 0x8100, 1)[..17], &[]] {
        assert!(net.reached(0, frame).is_empty());
    }
    assert_eq!(net.reached(0, &broadcast(0)[..14]), [1]);
    assert_eq!(net.count(0, "malformed"), 3);
    net.finish();
}

#[test]
fn a_frame_longer_than_the_mtu_of_a_port_does_not_leave_by_it_and_tags_do_not_count() {
    let mut net = Net::star_with(forwarder(), 3, |port| [1500, 1500, 1000][port]);
    let long = |destination, len| frame(destination, mac(0), len);
    net.send(2, &broadcast(2));
    for (payload, reached) in [(1000, vec![2]), (1001, vec![])] {
        let frame = long(mac(2), payload + 14);
        assert_eq!(net.reached(0, &frame), reached, "{payload}");
        let once = tagged(&frame, 0x8100, 0);
        assert_eq!(net.reached(0, &once), reached, "{payload}, a tag");
        assert_eq!(net.reached(0, &tagged(&once, 0x88a8, 0)), reached, "{payload}, two tags");
    }
    assert_eq!(net.count(0, "too_long"), 3);
    // Where it is flooded, the other port gets it.
    assert_eq!(net.reached(0, &long(BROADCAST, 1015)), [1]);
    assert_eq!(net.count(0, "copies_not_sent"), 1);
    assert!(net.reached(0, &long(BROADCAST, 1515)).is_empty());
    assert_eq!(net.count(0, "too_long"), 4);
    net.finish();
}

#[test]
fn frames_for_a_full_ring_are_dropped_and_counted_and_others_go_on() {
    let mut net = Net::star(forwarder(), 3);
    for host in 0..3 {
        net.send(host, &broadcast(host));
    }
    net.stall(2, true);
    let room = u64::from(RINGS.tx);
    for _ in 0..room + 5 {
        assert!(net.reached(0, &between(0, 2)).is_empty());
        assert_eq!(net.reached(0, &between(0, 1)), [1]);
    }
    assert_eq!(net.count(0, "tx_full"), 5);
    // A flooded frame still gets to the others.
    assert_eq!(net.reached(0, &broadcast(0)), [1]);
    assert_eq!((net.count(0, "copies_not_sent"), net.count(0, "tx_full")), (1, 5));
    net.stall(2, false);
    net.settle(10);
    assert_eq!(net.take()[2].len(), room as usize);
    assert_eq!(net.reached(0, &between(0, 2)), [2]);
    net.finish();
}

#[test]
fn where_the_pool_has_no_frame_for_a_copy_the_frame_itself_still_leaves() {
    let mut net = Net::star(forwarder(), 3);
    net.send(0, &broadcast(0));
    let pool = net.bridges[0].ports().next().unwrap().pool.clone();
    let kept: Vec<_> = std::iter::from_fn(|| pool.alloc()).collect();
    assert_eq!(net.reached(0, &broadcast(0)), [2], "the last port");
    assert_eq!(net.count(0, "copies_not_sent"), 1);
    drop(kept);
    assert_eq!(net.reached(0, &broadcast(0)), [1, 2]);
    net.finish();
}

#[test]
fn a_port_that_is_disabled_is_left_out_and_what_was_learned_there_is_forgotten() {
    let mut net = Net::star(forwarder(), 3);
    for host in 0..3 {
        net.send(host, &broadcast(host));
    }
    net.enable(0, 2, false);
    assert_eq!(net.reached(0, &between(0, 1)), [1], "the others go on");
    assert_eq!(net.reached(0, &between(0, 2)), [1], "it is unknown now");
    net.enable(0, 2, true);
    assert_eq!(net.reached(0, &between(0, 2)), [1, 2]);
    net.send(2, &broadcast(2));
    assert_eq!(net.reached(0, &between(0, 2)), [2]);
    net.enable(0, 1, false);
    net.enable(0, 2, false);
    assert!(net.reached(0, &broadcast(0)).is_empty());
    assert_eq!(net.count(0, "no_other_port"), 1);
    net.finish();
}

#[test]
fn the_table_is_not_looked_through_while_no_port_is_enabled() {
    let mut net = Net::star(forwarder(), 2);
    let ageing = ForwardConfig::default().ageing;
    let looks = |net: &mut Net| net.bridges[0].snapshot().timers[0].1.fired;
    for _ in 0..8 {
        net.advance(ageing / 8);
        net.turn();
    }
    assert_eq!(looks(&mut net), 8);
    net.enable(0, 0, false);
    net.advance(ageing / 8);
    net.turn();
    assert_eq!(looks(&mut net), 9, "one port is enough");
    net.enable(0, 1, false);
    net.advance(ageing);
    net.enable(0, 1, true);
    net.turn();
    assert_eq!(looks(&mut net), 9);
    net.advance(ageing / 8);
    net.turn();
    assert_eq!(looks(&mut net), 10);
    net.finish();
}

#[test]
fn a_full_table_floods_to_whom_it_has_no_room_for_and_learns_again_when_there_is_some() {
    let mut net = Net::star(knowing(2), 3);
    net.send(0, &broadcast(0));
    net.send(1, &broadcast(1));
    net.send(2, &broadcast(2));
    assert_eq!(net.reached(1, &between(1, 2)), [0, 2]);
    assert_eq!(net.reached(2, &between(2, 0)), [0]);
    assert_eq!((net.count(0, "no_room"), net.count(0, "learned")), (2, 2));
    net.enable(0, 0, false);
    net.send(2, &broadcast(2));
    assert_eq!(net.reached(1, &between(1, 2)), [2]);
    net.finish();
}

#[test]
fn the_stations_are_shown_and_can_be_forgotten() {
    let mut net = Net::star(forwarder(), 3);
    net.send(1, &broadcast(5));
    net.advance(Duration::from_millis(7));
    net.send(0, &broadcast(6));
    let stations = json!([
        { "mac": "02:00:00:00:00:06", "vlan": null, "port": "sim0", "age_ns": 0 },
        { "mac": "02:00:00:00:00:05", "vlan": null, "port": "sim1", "age_ns": 7_000_000 },
    ]);
    assert_eq!(net.tell(0, "stations"), Some(stations));
    assert!(matches!(net.stats(0).metrics.get("stations"), Some(Metric::Gauge(2))));
    assert_eq!(net.tell(0, "flush"), Some(json!({ "forgotten": 2 })));
    assert_eq!(net.tell(0, "stations"), Some(json!([])));
    assert_eq!(net.reached(2, &between(2, 5)), [0, 1]);
    let now = net.now();
    for (name, value, named) in [("flush", json!(1), "flush: "), ("sing", json!(null), "no command sing")] {
        let error = net.bridges[0].control(now, name, &value).unwrap_err().to_string();
        assert!(error.contains(named), "{error}");
    }
    net.finish();
}

#[test]
fn instances_of_a_run_share_what_they_learn_and_one_of_them_speaks() {
    let run = factory(ForwardConfig::default()).unwrap();
    let [a, b] = [Node::Bridge(0), Node::Bridge(1)];
    let links = [[a, Node::Host], [a, Node::Host], [a, Node::Host], [b, Node::Host], [b, Node::Host]];
    let mut net = Net::new(vec![run.build(0), run.build(1)], &links, |_| 1500);
    // Port 0 has hosts 0 and 3 at its queues, port 1 hosts 1 and 4.
    net.send(0, &broadcast(7));
    assert_eq!(net.reached(4, &between(8, 7)), [3]);
    assert_eq!(net.reached(0, &between(7, 8)), [1]);
    assert_eq!(net.tell(0, "stations").unwrap().as_array().unwrap().len(), 2);
    assert_eq!(net.tell(1, "stations"), None);
    assert!(net.stats(1).metrics.is_empty());
    // Of the second instance only: what the first still knows there, the second floods.
    net.enable(1, 1, false);
    net.send(1, &broadcast(8));
    assert!(net.reached(3, &between(7, 8)).is_empty());
    net.finish();
}

/// Two bridges with a host each, and two wires between them.
fn ring(drivers: [Box<dyn Driver>; 2]) -> Net {
    let [a, b] = [Node::Bridge(0), Node::Bridge(1)];
    Net::new(drivers.into(), &[[a, Node::Host], [b, Node::Host], [a, b], [b, a]], |_| 1500)
}

/// Frames that the bridges have sent.
fn sent(net: &mut Net) -> u64 {
    net.bridges.iter_mut().flat_map(|bridge| bridge.snapshots()).map(|port| port.tx_packets).sum()
}

#[test]
fn a_broadcast_into_a_loop_reaches_each_host_once_and_goes_round_no_further() {
    let mut net = ring([forwarder(), forwarder()]);
    for round in 1..=50 {
        assert_eq!(net.reached(0, &broadcast(0)), [1]);
        // Two from the first bridge, two from the second, one of which comes back.
        assert_eq!(sent(&mut net), 4 * round);
    }
    assert_eq!(net.reached(1, &between(1, 0)), [0]);
    assert_eq!(net.reached(0, &between(0, 1)), [1]);
    assert_eq!(net.count(0, "loop") + net.count(1, "loop"), 100);
    net.finish();
}

#[test]
fn in_a_mesh_each_host_gets_a_broadcast_once_and_no_frame_twice() {
    let bridges = [0, 1, 2].map(Node::Bridge);
    let [a, b, c] = bridges;
    let mut links: Vec<_> = bridges.iter().map(|&bridge| [bridge, Node::Host]).collect();
    links.extend([[a, b], [c, a], [b, c], [b, a], [a, c], [c, b], [a, a]]);
    let ends = 2 * links.len() as u64;
    let mut net = Net::new(vec![forwarder(), forwarder(), forwarder()], &links, |_| 1500);
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut rng = Rng::with_seed(seed);
    for step in 0..2_000 {
        net.advance(Duration::from_millis(rng.u64(..1_500)));
        let (from, to) = (rng.usize(..3), rng.usize(..4));
        let before = sent(&mut net);
        if to == 3 {
            let others: Vec<_> = (0..3).filter(|&host| host != from).collect();
            assert_eq!(net.reached(from, &broadcast(from)), others, "step {step}");
        } else {
            let reached = net.reached(from, &between(from, to));
            assert!(reached.is_sorted_by(|one, next| one < next), "step {step}: {reached:?}");
        }
        assert!(sent(&mut net) - before <= ends, "step {step}");
    }
    net.finish();
}

#[test]
fn frames_to_a_station_that_is_known_on_the_loop_only_do_not_go_round() {
    let mut net = ring([forwarder(), forwarder()]);
    net.send(0, &broadcast(0));
    // The first bridge forgets its host; the second goes on sending to the first.
    net.enable(0, 0, false);
    let before = sent(&mut net);
    assert!(net.reached(1, &between(1, 0)).is_empty());
    assert!(sent(&mut net) - before <= 4);
    net.finish();
}

#[test]
fn frames_of_stations_without_room_go_round_a_loop_within_the_budget() {
    let mut net = ring([knowing(0), knowing(0)]);
    net.offer(0, &broadcast(0));
    assert!(net.settle(10 * FLOODS as usize), "they go round for ever");
    let floods = net.count(0, "flooded") + net.count(1, "flooded");
    assert!((2..=2 * u64::from(FLOODS)).contains(&floods), "{floods}");
    assert!(net.count(0, "storm") + net.count(1, "storm") > 0);
    net.take();
    net.finish();
}

#[test]
fn a_station_that_was_learned_on_the_loop_gets_its_port_back() {
    let mut net = ring([forwarder(), forwarder()]);
    net.turn();
    net.offer(0, &broadcast(0));
    net.turn();
    net.turn();
    // It is on its way back to the first bridge, and nobody knows any more where it came from.
    net.tell(0, "flush");
    net.tell(1, "flush");
    assert!(!net.settle(50), "it is to go round");
    // It speaks again: what goes round is seen to, and a second after that it is believed.
    net.offer(0, &broadcast(0));
    assert!(net.settle(10 * FLOODS as usize), "it goes round for ever");
    net.take();
    net.advance(HOLD);
    assert_eq!(net.reached(0, &broadcast(0)), [1]);
    assert_eq!(net.reached(1, &between(1, 0)), [0]);
    net.finish();
}
