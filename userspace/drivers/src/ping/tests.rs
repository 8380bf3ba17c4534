//! The probe over the simulated wire, against a driver that answers.

use std::net::IpAddr;
use std::time::Duration;

use super::{EVENTS, KnownMac, NextHop, Ping, PingConfig, PingEvent, PingResults, Reply, ReplyKind};
use crate::sample::{self, SampleConfig};
use netdext::dispatch::Worker;
use netdext::driver::{DeviceInfo, PortId, PowerState};
use netdext::port::sim::{End, Faults, SimConfig, Wire};
use netdext::proto::testing::{OUR_MAC, OUR4, OUR6, PEER_MAC, PEER4, PEER6, addresses, arp_request};

const MS: Duration = Duration::from_millis(1);

fn config(target: impl Into<IpAddr>, source: impl Into<IpAddr>) -> PingConfig {
    let target = target.into();
    PingConfig {
        target,
        source: source.into(),
        next_hop: NextHop { address: target, mac: KnownMac::Unknown },
        count: Some(5),
        interval: MS,
        timeout: 20 * MS,
        payload_len: 56,
    }
}

fn device(mac: [u8; 6], addresses: Vec<(IpAddr, u8)>) -> DeviceInfo {
    DeviceInfo {
        name: "sim".into(),
        mac,
        mtu: 1500,
        queue: 0,
        queues: 1,
        addresses,
        peer_addresses: Vec::new(),
    }
}

struct Net {
    ping: Ping,
    events: tokio::sync::mpsc::Receiver<PingEvent>,
    probe: Worker,
    peer: Worker,
    wire: Wire,
}

impl Net {
    /// The probe at one end; at the other a station with the addresses `theirs`.
    fn new(config: PingConfig, theirs: &[IpAddr], sim: &SimConfig) -> Self {
        let (a, b, wire) = Wire::pair(sim, 1).expect("frames");
        let (ping, events) = Ping::new(config, 7).expect("a valid configuration");
        let sample = sample::factory(SampleConfig { injector: None, ..SampleConfig::default() }, 1).unwrap();
        let theirs = theirs.iter().map(|ip| (*ip, if ip.is_ipv4() { 24 } else { 64 })).collect();
        let start = |driver, port, device| {
            let mut worker = Worker::start(driver, port, device, 32, wire.now()).expect("started");
            worker.set_power(wire.now(), PowerState::On).expect("powered on");
            worker.set_interface_enable(wire.now(), PortId::FIRST, true).expect("enabled");
            worker
        };
        let probe = start(ping.factory().build(0), a, device(OUR_MAC, addresses()));
        let peer = start(sample.build(0), b, device(PEER_MAC, theirs));
        Self { ping, events, probe, peer, wire }
    }

    fn near(config: PingConfig) -> Self {
        Self::new(config, &[PEER4.into(), PEER6.into()], &SimConfig::default())
    }

    /// Lets `time` pass, a tenth of a millisecond at a time.
    fn run(&mut self, time: Duration) -> &mut Self {
        for _ in 0..time.as_micros() / 100 {
            for _ in 0..8 {
                self.probe.step(self.wire.now(), 64).expect("no queue fails");
                self.wire.step(64);
                self.peer.step(self.wire.now(), 64).expect("no queue fails");
                self.wire.step(64);
            }
            self.wire.advance(Duration::from_micros(100));
        }
        self
    }

    /// Ends both; no frame is missing and every received one was counted once.
    fn finish(mut self) -> (PingResults, Vec<PingEvent>) {
        let now = self.wire.now();
        self.probe.set_interface_enable(now, PortId::FIRST, false).expect("disabled");
        for worker in [self.probe, self.peer] {
            let report = worker.finish(now, None);
            assert!(report.ports[0].census.is_whole(), "{:?}", report.ports[0].census);
            let driver = &report.ports[0].snapshot.driver;
            let counted: u64 = driver.counters.iter().chain(&driver.drops).map(|(_, count)| count).sum();
            assert_eq!(counted + report.ports[0].snapshot.rx_disabled, report.ports[0].snapshot.rx_packets);
        }
        let mut events = Vec::new();
        while let Ok(event) = self.events.try_recv() {
            events.push(event);
        }
        let results = self.ping.results();
        assert_eq!(results.sent, results.received + results.lost);
        (results, events)
    }
}

fn replies(events: &[PingEvent]) -> Vec<&Reply> {
    let replies = events.iter().map(|event| match event {
        PingEvent::Reply(reply) => Some(reply),
        PingEvent::NextHopSilent | PingEvent::Finished => None,
    });
    replies.flatten().collect()
}

#[test]
fn each_request_gets_its_reply_over_ipv4_and_ipv6_and_then_it_is_finished() {
    for config in [config(PEER4, OUR4), config(PEER6, OUR6)] {
        let mut net = Net::near(config);
        net.run(10 * MS);
        let (results, events) = net.finish();
        assert_eq!((results.sent, results.received, results.lost, results.not_sent), (5, 5, 0, 0));
        assert_eq!(events.last(), Some(&PingEvent::Finished));
        let replies = replies(&events);
        assert_eq!(replies.iter().map(|reply| reply.sequence).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
        assert!(replies.iter().all(|r| (r.payload_len, r.hop_limit, r.kind) == (56, 64, ReplyKind::InTime)));
        assert_eq!(results.rtt.map(|rtt| rtt.min >= Duration::from_nanos(1)), Some(true));
    }
}

#[test]
fn the_round_trip_is_the_latency_of_the_wire_there_and_back() {
    let sim = SimConfig { latency: 2 * MS, ..SimConfig::default() };
    let mut net = Net::new(config(PEER4, OUR4), &[PEER4.into()], &sim);
    net.run(40 * MS);
    let (results, events) = net.finish();
    let rtt = results.rtt.expect("replies");
    // The histogram keeps three digits; the other station needs a step of a tenth of a millisecond at the most.
    assert!(rtt.min >= 4 * MS - MS / 250 && rtt.max <= 4 * MS + MS / 2, "{rtt:?}");
    assert!(replies(&events).iter().all(|reply| reply.rtt >= 4 * MS));
}

#[test]
fn a_target_behind_a_gateway_is_asked_for_nowhere_and_answers() {
    let far: IpAddr = "203.0.113.9".parse().unwrap();
    // The station at the other end is gateway and target in one: it has both addresses.
    let next_hop = NextHop { address: PEER4.into(), mac: KnownMac::Unknown };
    let mut net =
        Net::new(PingConfig { next_hop, ..config(far, OUR4) }, &[PEER4.into(), far], &SimConfig::default());
    net.run(10 * MS);
    assert_eq!(net.finish().0.received, 5);
}

#[test]
fn a_station_that_does_not_say_its_address_is_reported_and_nothing_is_sent() {
    let absent: IpAddr = "198.18.0.9".parse().unwrap();
    let mut net = Net::near(config(absent, OUR4));
    net.run(Duration::from_millis(3500));
    let (results, events) = net.finish();
    assert_eq!((results.sent, events), (0, vec![PingEvent::NextHopSilent]));
}

#[test]
fn a_heard_address_is_used_at_once_and_a_fixed_one_without_asking() {
    let absent: IpAddr = "198.18.0.9".parse().unwrap();
    for (mac, asked) in [(KnownMac::Heard(PEER_MAC), true), (KnownMac::Fixed(PEER_MAC), false)] {
        let mut net = Net::near(PingConfig {
            next_hop: NextHop { address: absent, mac },
            timeout: 2 * MS,
            ..config(absent, OUR4)
        });
        net.run(15 * MS);
        // Five requests, and at most one question for the MAC address.
        assert_eq!(net.probe.snapshot().tx_packets, 5 + u64::from(asked));
        let (results, events) = net.finish();
        assert_eq!((results.sent, results.lost), (5, 5));
        assert_eq!(events, [PingEvent::Finished]);
    }
}

#[test]
fn loss_duplicates_and_late_replies_are_told_apart() {
    let lossy = |faults: Faults, timeout| {
        let mut net = Net::near(PingConfig { count: Some(200), timeout, ..config(PEER4, OUR4) });
        net.run(MS / 2);
        net.wire.set_faults(faults);
        net.run(260 * MS);
        net.finish()
    };
    let (lost, _) = lossy(Faults { drop: 0.3, ..Faults::default() }, 20 * MS);
    assert!(lost.sent == 200 && lost.lost > 20 && lost.received > 20, "{lost:?}");
    let (doubled, events) = lossy(Faults { duplicate: 0.5, ..Faults::default() }, 20 * MS);
    assert!(doubled.received == 200 && doubled.duplicates > 20, "{doubled:?}");
    let told = replies(&events).iter().filter(|reply| reply.kind == ReplyKind::Duplicate).count();
    assert_eq!(told as u64, doubled.duplicates);
    let (late, _) = lossy(Faults { delayed: 0.5, delay: 5 * MS, ..Faults::default() }, 3 * MS);
    assert!(late.late > 20 && late.lost >= late.late, "{late:?}");
    let (mixed, _) = lossy(Faults { delayed: 0.5, delay: 5 * MS, ..Faults::default() }, 20 * MS);
    assert!(mixed.received == 200 && mixed.reordered > 20, "{mixed:?}");
}

#[test]
fn the_probe_answers_for_its_own_address() {
    let mut net = Net::near(PingConfig { count: None, ..config(PEER4, OUR4) });
    net.run(MS);
    let before = net.probe.snapshot().tx_packets;
    net.wire.inject(End::A, &arp_request(PEER4, OUR4));
    net.run(MS / 10);
    let snapshot = net.probe.snapshot();
    assert!(snapshot.tx_packets > before);
    assert!(snapshot.driver.counters.contains(&("arp_answered", 1)), "{:?}", snapshot.driver.counters);
    net.finish();
}

#[test]
fn a_front_end_that_does_not_listen_stops_nothing() {
    let mut net = Net::near(PingConfig {
        count: Some(20_000),
        interval: Duration::from_micros(10),
        ..config(PEER4, OUR4)
    });
    net.run(220 * MS);
    let (results, events) = net.finish();
    assert_eq!(results.received, 20_000);
    assert_eq!(results.left_out, 20_000 - EVENTS as u64);
    assert_eq!(
        (events.len(), events.last()),
        (EVENTS + 1, Some(&PingEvent::Finished)),
        "the end is not lost"
    );
}

#[test]
fn a_payload_that_the_mtu_does_not_hold_is_refused() {
    let (port, _other, wire) = Wire::pair(&SimConfig::default(), 1).unwrap();
    let (ping, _events) = Ping::new(PingConfig { payload_len: 1473, ..config(PEER4, OUR4) }, 1).unwrap();
    let driver = ping.factory().build(0);
    let Err(error) = Worker::start(driver, port, device(OUR_MAC, addresses()), 32, wire.now()) else {
        panic!("started")
    };
    assert!(error.to_string().contains("1472 is the limit"), "{error}");
}
