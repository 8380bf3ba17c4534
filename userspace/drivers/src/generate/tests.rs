//! The generator over the simulated wire, its frames read by smoltcp.

use netdext::driver::PortId;
use std::collections::HashSet;
use std::time::Duration;

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    EthernetFrame, EthernetProtocol, Icmpv4Message, Icmpv4Packet, Icmpv6Message, Icmpv6Packet, IpProtocol,
    Ipv4Packet, Ipv6Packet, UdpPacket, UdpRepr,
};

use super::*;
use crate::testing::{Bench, OUR_MAC, OUR4, PEER_MAC, PEER4, PEER6, device, frame};

fn config(frames: FrameKind, sizes: &str) -> GenerateConfig {
    GenerateConfig {
        frames,
        target: PEER4.into(),
        destination_mac: PEER_MAC,
        sizes: sizes.parse().unwrap(),
        flows: 1,
        rate: Rate::PerSecond(1000.0),
        count: None,
    }
}

/// What a generator counted, as its metrics say.
fn generated(stats: &DriverStats) -> Sent {
    let metrics = stats.group("generator").expect("it is one");
    let count = |name: &str| match metrics.get(name) {
        Some(Metric::Counter(count)) => *count,
        other => panic!("{name}: {other:?}"),
    };
    let Some(Metric::Histogram(pacing_error_ns)) = metrics.get("pacing_error_ns") else {
        panic!("{metrics:?}")
    };
    Sent {
        sent: count("sent"),
        skipped: count("skipped"),
        no_frame: count("no_frame"),
        refused: count("refused"),
        first: None,
        last: None,
        pacing_error_ns: pacing_error_ns.clone(),
    }
}

fn bench(config: GenerateConfig) -> Bench {
    Bench::new(factory(config).unwrap().build(0))
}

/// Checks every header and checksum of a frame by smoltcp; returns flow and sequence number.
fn read(frame: &[u8], kind: FrameKind) -> (u16, u64) {
    let link = EthernetFrame::new_checked(frame).unwrap();
    assert_eq!((link.dst_addr().0, link.src_addr().0), (PEER_MAC, OUR_MAC));
    let l4 = match link.ethertype() {
        EthernetProtocol::Ipv4 => {
            let ip = Ipv4Packet::new_checked(link.payload()).unwrap();
            assert!(ip.verify_checksum());
            assert_eq!((ip.src_addr(), ip.dst_addr()), (OUR4, PEER4));
            assert_eq!(usize::from(ip.total_len()), link.payload().len());
            match kind {
                FrameKind::Udp => {
                    assert_eq!(ip.next_header(), IpProtocol::Udp);
                    let udp = UdpPacket::new_checked(ip.payload()).unwrap();
                    UdpRepr::parse(
                        &udp,
                        &ip.src_addr().into(),
                        &ip.dst_addr().into(),
                        &ChecksumCapabilities::default(),
                    )
                    .expect("a right checksum");
                    assert_ne!(udp.checksum(), 0, "none is not a checksum");
                }
                FrameKind::Echo => {
                    let icmp = Icmpv4Packet::new_checked(ip.payload()).unwrap();
                    assert_eq!(icmp.msg_type(), Icmpv4Message::EchoRequest);
                    assert!(icmp.verify_checksum());
                }
            }
            ip.payload().to_vec()
        }
        EthernetProtocol::Ipv6 => {
            let ip = Ipv6Packet::new_checked(link.payload()).unwrap();
            let icmp = Icmpv6Packet::new_checked(ip.payload()).unwrap();
            assert_eq!(icmp.msg_type(), Icmpv6Message::EchoRequest);
            assert!(icmp.verify_checksum(&ip.src_addr(), &ip.dst_addr()));
            ip.payload().to_vec()
        }
        other => panic!("{other}"),
    };
    let flow_at = if kind == FrameKind::Udp { 0 } else { 4 };
    let flow = u16::from_be_bytes([l4[flow_at], l4[flow_at + 1]]);
    assert_eq!(l4[8..12], *b"nxgn");
    (flow, u64::from_be_bytes(l4[12..20].try_into().unwrap()))
}

#[test]
fn frames_of_every_kind_and_size_are_valid_numbered_and_spread_over_the_flows() {
    for kind in [FrameKind::Udp, FrameKind::Echo] {
        let mut bench = bench(GenerateConfig { flows: 3, ..config(kind, "64:2,594,1518") });
        bench.run(Duration::from_millis(299), Duration::from_micros(500));
        let frames = bench.arrived.clone();
        assert!(frames.len() > 250, "{}", frames.len());
        for (number, frame) in frames.iter().enumerate() {
            let (flow, sequence) = read(frame, kind);
            assert_eq!((usize::from(flow), sequence), (1024 + number % 3, number as u64), "{kind}");
        }
        let lengths: Vec<_> = frames[..4].iter().map(Vec::len).collect();
        let count = |len| lengths.iter().filter(|&&found| found == len).count();
        assert_eq!((count(60), count(590), count(1514)), (2, 1, 1), "{lengths:?}");
        bench.finish();
    }
}

#[test]
fn echo_requests_go_over_ipv6_too() {
    let mut bench = bench(GenerateConfig { target: PEER6.into(), ..config(FrameKind::Echo, "78,1518") });
    bench.run(Duration::from_millis(10), Duration::from_millis(1));
    assert!(bench.arrived.len() >= 10);
    for (number, frame) in bench.arrived.iter().enumerate() {
        assert_eq!(read(frame, FrameKind::Echo).1, number as u64);
    }
    bench.finish();
}

#[test]
fn every_checksum_is_right_over_many_sequence_numbers() {
    let ends = Endpoints {
        source_mac: OUR_MAC,
        destination_mac: PEER_MAC,
        source: OUR4.into(),
        target: PEER4.into(),
    };
    for kind in [FrameKind::Udp, FrameKind::Echo] {
        let template = Template::new(kind, &ends, 64).unwrap();
        let mut bytes = vec![0; template.len()];
        for step in 0..70_000_u64 {
            let sequence = step * 0x1_0001_0001;
            template.write(&mut bytes, (step % 64_512) as u16, sequence);
            assert_eq!(read(&bytes, kind).1, sequence);
        }
    }
}

#[test]
fn departures_follow_the_schedule_and_their_lateness_is_recorded() {
    let mut bench = bench(config(FrameKind::Udp, "64"));
    // The first frame is due at once, the next ones every millisecond; looked at 250 us late each time.
    bench.jump(Duration::from_micros(250));
    for _ in 0..99 {
        bench.jump(Duration::from_millis(1));
    }
    assert_eq!(bench.arrived.len(), 100);
    let stats = generated(&bench.finish().snapshot.driver);
    assert_eq!((stats.sent, stats.skipped, stats.pacing_error_ns.len()), (100, 0, 100));
    let (least, most) = (stats.pacing_error_ns.min(), stats.pacing_error_ns.max());
    assert!((249_000..=251_000).contains(&least) && (249_000..=251_000).contains(&most), "{least} {most}");
}

#[test]
fn a_stall_of_the_ring_is_recorded_for_every_frame_that_it_held_up() {
    let mut bench = bench(config(FrameKind::Udp, "64"));
    bench.stall();
    // 64 frames fill the ring; the next wait.
    bench.run(Duration::from_millis(90), Duration::from_millis(1));
    let before = generated(&bench.worker.snapshot().driver);
    assert_eq!(before.sent, 64);
    bench.release();
    for _ in 0..4 {
        bench.turn();
    }
    let stats = generated(&bench.finish().snapshot.driver);
    assert_eq!((stats.sent, stats.skipped), (91, 0));
    // The one that waited longest was due at 64 ms and left at 90 ms.
    let worst = stats.pacing_error_ns.max();
    assert!((25_900_000..26_100_000).contains(&worst), "{worst}");
}

#[test]
fn what_is_hopelessly_late_is_skipped_and_counted() {
    let mut bench = bench(config(FrameKind::Udp, "64"));
    bench.jump(Duration::from_secs(10));
    for _ in 0..10 {
        bench.jump(Duration::from_micros(1));
    }
    let stats = generated(&bench.finish().snapshot.driver);
    assert_eq!((stats.skipped, stats.sent), (9900, 101));
}

#[test]
fn a_count_is_kept_to_and_its_end_is_told() {
    let factory =
        factory(GenerateConfig { count: Some(10), rate: Rate::Max, ..config(FrameKind::Udp, "64") }).unwrap();
    let mut finished = tokio_test(factory.finished());
    // Of three queues the first takes one frame more.
    for (queue, expected) in [(0, 4), (1, 3), (2, 3)] {
        assert!(!finished(), "before queue {queue}");
        let mut bench = Bench::on(factory.build(queue), device(queue, 3));
        for _ in 0..5 {
            bench.jump(Duration::from_millis(1));
        }
        assert_eq!(bench.arrived.len(), expected);
        bench.finish();
    }
    assert!(finished());
}

/// Asks a future whether it is ready, as often as one likes until it is.
fn tokio_test(future: impl Future<Output = ()>) -> impl FnMut() -> bool {
    let mut future = Box::pin(future);
    move || {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        future.as_mut().poll(&mut context).is_ready()
    }
}

#[test]
fn without_a_rate_every_step_sends_a_burst() {
    let mut bench = bench(GenerateConfig { rate: Rate::Max, ..config(FrameKind::Udp, "64") });
    for _ in 0..100 {
        bench.jump(Duration::from_micros(1));
    }
    let numbers: HashSet<_> = bench.arrived.iter().map(|frame| read(frame, FrameKind::Udp).1).collect();
    assert!(bench.arrived.len() > 3000 && numbers.len() == bench.arrived.len(), "{}", bench.arrived.len());
    let stats = generated(&bench.finish().snapshot.driver);
    assert!(stats.pacing_error_ns.is_empty(), "nothing is late that was not planned");
    assert_eq!(stats.refused, 0);
}

#[test]
fn the_queues_take_turns() {
    let factory = factory(config(FrameKind::Udp, "64")).unwrap();
    let mut second = Bench::on(factory.build(1), device(1, 2));
    let start = second.now();
    second.turn();
    assert!(second.arrived.is_empty());
    second.jump(Duration::from_millis(1));
    assert_eq!((second.arrived.len(), second.now()), (1, start + Duration::from_millis(1)));
    second.jump(Duration::from_millis(1));
    assert_eq!(second.arrived.len(), 1, "half of the rate");
    second.finish();
}

#[test]
fn what_comes_back_is_counted_and_requests_for_the_mac_address_are_answered() {
    let mut bench = bench(GenerateConfig { count: Some(1), ..config(FrameKind::Echo, "64") });
    bench.jump(Duration::from_millis(1));
    let mut reply = bench.arrived.pop().unwrap();
    reply[34] = 0;
    bench.offer(&reply);
    bench.offer(&frame(OUR_MAC, PEER_MAC, 60));
    let mut request = vec![0; arp::Request::LEN];
    arp::Request { source_mac: PEER_MAC, source: PEER4, target: OUR4, to: None }.write(&mut request);
    let answers = bench.exchange(&request);
    assert_eq!(answers.len(), 1);
    assert_eq!((&answers[0][..6], &answers[0][20..22]), (&PEER_MAC[..], &[0, 2][..]));
    let counters = bench.finish().snapshot.driver.counters;
    assert_eq!(counters, [("echo_replies", 1), ("neighbors_answered", 1), ("other", 1)]);
}

#[test]
fn disabling_stops_the_frames_and_enabling_begins_a_new_schedule() {
    let mut bench = bench(config(FrameKind::Udp, "64"));
    bench.run(Duration::from_millis(5), Duration::from_millis(1));
    bench.worker.set_interface_enable(bench.now(), PortId::FIRST, false).unwrap();
    let sent = bench.arrived.len();
    bench.run(Duration::from_millis(50), Duration::from_millis(1));
    assert_eq!(bench.arrived.len(), sent);
    bench.worker.set_interface_enable(bench.now(), PortId::FIRST, true).unwrap();
    bench.jump(Duration::from_micros(10));
    assert_eq!(bench.arrived.len(), sent + 1, "the time in between is not made up for");
    let stats = generated(&bench.finish().snapshot.driver);
    assert_eq!(stats.skipped, 0);
}

#[test]
fn what_cannot_be_sent_is_refused_at_the_start_with_what_to_do() {
    let refused = |change: fn(&mut GenerateConfig), device: DeviceInfo| {
        let mut config = config(FrameKind::Udp, "64");
        change(&mut config);
        factory(config).unwrap().build(0).init(&[device]).unwrap_err().reason
    };
    let reason = refused(|c| c.sizes = "1519".parse().unwrap(), device(0, 1));
    assert!(reason.contains("1518 is the longest"), "{reason}");
    let reason = refused(|c| c.target = PEER6.into(), device(0, 1));
    assert!(reason.contains("give 78 or more"), "{reason}");
    let bare = DeviceInfo { addresses: Vec::new(), ..device(0, 1) };
    let reason = refused(|_| {}, bare);
    assert!(reason.contains("--addr"), "{reason}");
}
