//! Captures read back by an independent parser (pcap-file).

use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::time::{Duration, Instant};

use pcap_file::DataLink;
use pcap_file::pcapng::Block;
use pcap_file::pcapng::PcapNgReader;
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::InterfaceDescriptionOption;
use pcap_file::pcapng::blocks::interface_statistics::InterfaceStatisticsOption;
use tokio::sync::mpsc;

use super::*;
use netdext::dispatch::Timestamp;
use netdext::tap::Tap;

/// What a reader finds in a capture.
#[derive(Default)]
struct Found {
    packets: Vec<EnhancedPacketBlock<'static>>,
    /// Each interface statistics block: received, dropped, accepted, delivered.
    statistics: Vec<[u64; 4]>,
    name: String,
    snaplen: u32,
}

fn read(bytes: &[u8]) -> Found {
    let mut reader = PcapNgReader::new(bytes).expect("it begins with a section header");
    let mut found = Found::default();
    while let Some(block) = reader.next_block() {
        match block.expect("every block is well-formed") {
            Block::InterfaceDescription(interface) => {
                assert_eq!(interface.linktype, DataLink::ETHERNET);
                assert!(interface.options.contains(&InterfaceDescriptionOption::IfTsResol(9)));
                found.snaplen = interface.snaplen;
                found.name = interface.options.iter().find_map(name).expect("the name");
            }
            Block::EnhancedPacket(packet) => found.packets.push(packet.into_owned()),
            Block::InterfaceStatistics(statistics) => {
                let mut counts = [None; 4];
                for option in &statistics.options {
                    let (place, count) = match option {
                        InterfaceStatisticsOption::IsbIfRecv(count) => (0, count),
                        InterfaceStatisticsOption::IsbIfDrop(count) => (1, count),
                        InterfaceStatisticsOption::IsbFilterAccept(count) => (2, count),
                        InterfaceStatisticsOption::IsbUsrDeliv(count) => (3, count),
                        _ => continue,
                    };
                    counts[place] = Some(*count);
                }
                found.statistics.push(counts.map(|count| count.expect("every count is there")));
            }
            other => panic!("not written: {other:?}"),
        }
    }
    found
}

fn name(option: &InterfaceDescriptionOption<'_>) -> Option<String> {
    if let InterfaceDescriptionOption::IfName(name) = option { Some(name.to_string()) } else { None }
}

fn frame(number: u8, len: usize) -> Vec<u8> {
    let mut frame = vec![number; len];
    frame[12..14].copy_from_slice(&[0x08, 0x00]);
    frame
}

/// Puts a frame into a tap, at a time of CLOCK_MONOTONIC.
fn put(tap: &mut Tap, frame: &[u8], at: u64) -> bool {
    tap.take(frame, || Timestamp::from_nanos(at))
}

fn started(config: &CaptureConfig, sink: CaptureSink) -> (Capture, Vec<TapPair>) {
    let (capture, pairs) = start(&["veth0"], &[0, 7], config, sink, &Arc::default()).expect("it starts");
    (capture, pairs.into_iter().flatten().collect())
}

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < Duration::from_secs(10), "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn frames_are_read_back_with_time_direction_queue_and_verdict() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.pcapng");
    let (capture, mut pairs) = started(&CaptureConfig::default(), CaptureSink::create(&path).unwrap());
    let before = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let now = Timestamp::now().as_nanos();
    assert!(put(&mut pairs[0].received, &frame(1, 60), now + 123));
    assert!(put(&mut pairs[1].submitted, &frame(2, 61), now + 456));
    let report = capture.finish();
    assert_eq!(report, CaptureReport { seen: 2, accepted: 2, written: 2, dropped: 0, ended: true });

    let found = read(&std::fs::read(&path).unwrap());
    assert_eq!((found.name.as_str(), found.snaplen), ("veth0", DEFAULT_SNAPLEN));
    assert_eq!(found.statistics, [[2, 0, 2, 2]], "one block, brought up to date");
    let [first, second] = &found.packets[..] else { panic!("{:?}", found.packets) };
    assert_eq!(first.data[..], frame(1, 60));
    assert_eq!(second.data[..], frame(2, 61));
    assert_eq!((first.original_len, second.original_len), (60, 61));
    assert_eq!(second.timestamp - first.timestamp, Duration::from_nanos(333), "not a ns is lost");
    let apart = first.timestamp.abs_diff(before);
    assert!(apart < Duration::from_secs(1), "wall-clock time: {apart:?}");
    let option = |packet: &EnhancedPacketBlock<'static>, wanted: u16| -> Option<Vec<u8>> {
        packet.options.iter().find_map(|option| match option {
            EnhancedPacketOption::Unknown(option) if option.code == wanted => Some(option.value.to_vec()),
            _ => None,
        })
    };
    assert!(first.options.contains(&EnhancedPacketOption::Flags(1)), "inbound");
    assert!(second.options.contains(&EnhancedPacketOption::Flags(2)), "outbound");
    assert_eq!(option(first, 6), Some(vec![0, 0, 0, 0]), "the queue");
    assert_eq!(option(second, 6), Some(vec![7, 0, 0, 0]));
    assert_eq!(option(first, 7), Some(vec![2, 4, 0, 0, 0, 0, 0, 0, 0]), "XDP_REDIRECT");
    assert_eq!(option(second, 7), None);
}

#[test]
fn frames_of_several_rings_are_in_the_order_of_their_times() {
    let (sender, mut receiver) = mpsc::channel(64);
    let (capture, mut pairs) = started(&CaptureConfig::default(), CaptureSink::Channel(sender));
    // Within the writer's nap, so that it finds them together.
    for round in 0..10 {
        let [first, second] = &mut pairs[..] else { unreachable!("two queues") };
        // The rings are looked at in the other order.
        put(&mut second.submitted, &frame(0, 60), round * 4);
        put(&mut second.received, &frame(1, 60), round * 4 + 1);
        put(&mut first.submitted, &frame(2, 60), round * 4 + 2);
        put(&mut first.received, &frame(3, 60), round * 4 + 3);
        let written = 4 * (round + 1);
        wait_until("they are written", || capture.report().written == written);
    }
    drop(pairs);
    wait_until("a capture without workers ends", || capture.has_ended());
    let found = read(&drain(&mut receiver));
    let times: Vec<_> =
        found.packets.chunks(4).map(|chunk| chunk.is_sorted_by_key(|p| p.timestamp)).collect();
    assert_eq!(times.len(), 10);
    // A nap that ends between two frames splits a round; not all of them.
    assert!(times.iter().filter(|sorted| **sorted).count() >= 5, "{times:?}");
}

#[test]
fn frames_of_two_interfaces_stay_with_their_own_and_none_is_dropped() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.pcapng");
    let config = CaptureConfig { ring_size: 4, ..CaptureConfig::default() };
    let sink = CaptureSink::create(&path).unwrap();
    let (capture, mut pairs) = start(&["veth0", "veth2"], &[0], &config, sink, &Arc::default()).unwrap();
    for round in 0..50_u8 {
        for (port, pairs) in pairs.iter_mut().enumerate() {
            put(&mut pairs[0].received, &frame(port as u8, 60), round.into());
            put(&mut pairs[0].submitted, &frame(port as u8, 60), round.into());
        }
        let taken = 4 * (u64::from(round) + 1);
        wait_until("they are written", || {
            let report = capture.report();
            report.written + report.dropped == taken
        });
    }
    let report = capture.finish();
    assert_eq!((report.accepted, report.written, report.dropped), (200, 200, 0));
    let found = read(&std::fs::read(&path).unwrap());
    assert_eq!(found.packets.len(), 200);
    for packet in &found.packets {
        assert_eq!(packet.interface_id, u32::from(packet.data[0]), "the interface that it came by");
    }
}

fn drain(receiver: &mut mpsc::Receiver<Vec<u8>>) -> Vec<u8> {
    let mut bytes = Vec::new();
    while let Some(chunk) = receiver.blocking_recv() {
        bytes.extend(chunk);
    }
    bytes
}

#[test]
fn the_filter_and_the_snaplen_are_kept_to() {
    let (sender, mut receiver) = mpsc::channel(64);
    let config =
        CaptureConfig { filter: "out and queue 7".parse().unwrap(), snaplen: 33, ..CaptureConfig::default() };
    let (capture, mut pairs) = started(&config, CaptureSink::Channel(sender));
    for pair in &mut pairs {
        put(&mut pair.received, &frame(1, 60), 1);
        put(&mut pair.submitted, &frame(2, 60), 2);
    }
    let report = capture.finish();
    assert_eq!((report.seen, report.accepted, report.written), (4, 1, 1));
    let found = read(&drain(&mut receiver));
    let [packet] = &found.packets[..] else { panic!("{:?}", found.packets) };
    assert_eq!((packet.data.len(), packet.original_len, found.snaplen), (33, 60, 33));
    assert_eq!(packet.data[..], frame(2, 60)[..33]);
    assert_eq!(found.statistics, [[4, 0, 1, 1]]);
}

#[test]
fn a_reader_that_does_not_read_costs_frames_which_are_counted_in_the_stream() {
    let (sender, mut receiver) = mpsc::channel(1);
    let config = CaptureConfig { ring_size: 16, ..CaptureConfig::default() };
    let (capture, mut pairs) = started(&config, CaptureSink::Channel(sender));
    let begun = Instant::now();
    for number in 0..1000 {
        assert!(put(&mut pairs[0].received, &frame(number as u8, 60), number));
    }
    assert!(begun.elapsed() < Duration::from_secs(1), "the data path does not wait");
    let report = capture.report();
    assert_eq!((report.seen, report.accepted), (1000, 1000));
    assert!(report.dropped > 900, "{report:?}");
    // The reader comes back: from now on there is room again.
    let reader = std::thread::spawn(move || drain(&mut receiver));
    let dropped = report.dropped;
    wait_until("what waited is written", || {
        let report = capture.report();
        report.written + report.dropped == 1000
    });
    assert!(put(&mut pairs[0].received, &frame(9, 60), 5000));
    let report = capture.finish();
    assert!(report.ended && report.accepted == report.written + report.dropped, "{report:?}");
    assert_eq!(report.dropped, dropped, "the last one found room");
    let found = read(&reader.join().unwrap());
    assert_eq!(found.packets.len() as u64, report.written);
    assert_eq!(found.statistics.last(), Some(&[1001, report.dropped, 1001, report.written]));
}

#[test]
fn a_capture_nobody_reads_any_more_ends_and_its_taps_go() {
    let (sender, receiver) = mpsc::channel(1);
    let (capture, mut pairs) = started(&CaptureConfig::default(), CaptureSink::Channel(sender));
    drop(receiver);
    put(&mut pairs[0].received, &frame(1, 60), 1);
    wait_until("it ends", || capture.has_ended());
    assert!(!put(&mut pairs[0].received, &frame(2, 60), 2), "the tap is to go");
    assert!(!put(&mut pairs[1].submitted, &frame(2, 60), 2));
}

#[test]
fn finishing_does_not_wait_for_a_reader_that_is_stuck() {
    let (sender, _receiver) = mpsc::channel(1);
    let (capture, mut pairs) = started(&CaptureConfig::default(), CaptureSink::Channel(sender));
    wait_until("the head fills the channel", || {
        put(&mut pairs[0].received, &frame(1, 60), 1);
        capture.report().seen > 20
    });
    let begun = Instant::now();
    let report = capture.finish();
    assert!(begun.elapsed() < FINISH_WITHIN + Duration::from_millis(300), "{:?}", begun.elapsed());
    assert_eq!(report.accepted, report.written + report.dropped, "{report:?}");
}

/// A file that takes `room` bytes, and then none, as a full disk does.
fn limited_file(path: &Path, room: u64) -> CaptureSink {
    let CaptureSink::File(file) = CaptureSink::create(path).unwrap() else { unreachable!("a file") };
    CaptureSink::File(file.with_room(room))
}

#[test]
fn a_full_disk_costs_frames_which_are_counted_in_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.pcapng");
    let (capture, mut pairs) = started(&CaptureConfig::default(), limited_file(&path, 6000));
    for number in 0..100 {
        assert!(put(&mut pairs[0].received, &frame(number, 500), number.into()));
        let done = u64::from(number) + 1;
        wait_until("it is written or not", || {
            let report = capture.report();
            report.written + report.dropped == done
        });
    }
    let report = capture.finish();
    assert!(report.written > 3 && report.dropped > 50, "{report:?}");
    let found = read(&std::fs::read(&path).unwrap());
    assert_eq!(found.packets.len() as u64, report.written, "no half block stays");
    assert_eq!(found.statistics, [[100, report.dropped, 100, report.written]]);
}

#[test]
fn a_file_that_cannot_be_begun_becomes_no_file_with_frames_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.pcapng");
    let (capture, mut pairs) = started(&CaptureConfig::default(), limited_file(&path, 10));
    put(&mut pairs[0].received, &frame(1, 60), 1);
    let report = capture.finish();
    assert_eq!((report.written, report.dropped), (0, 1));
    assert_eq!(std::fs::read(&path).unwrap(), [0_u8; 0]);
}

#[test]
fn a_device_that_takes_nothing_ends_the_capture_only() {
    assert!(std::fs::metadata("/dev/full").unwrap().file_type().is_char_device());
    let sink = CaptureSink::create(Path::new("/dev/full")).unwrap();
    let (capture, _pairs) = started(&CaptureConfig::default(), sink);
    wait_until("it ends", || capture.has_ended());
    assert_eq!(capture.finish().written, 0);
}

#[test]
fn a_file_that_was_there_keeps_its_content_until_a_capture_begins() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.pcapng");
    let earlier = vec![0xa5; 100_000];
    std::fs::write(&path, &earlier).unwrap();
    let refused = CaptureConfig { ring_size: 0, ..CaptureConfig::default() };
    assert!(start(&["veth0"], &[0], &refused, CaptureSink::create(&path).unwrap(), &Arc::default()).is_err());
    assert_eq!(std::fs::read(&path).unwrap(), earlier);
    let (capture, mut pairs) = started(&CaptureConfig::default(), CaptureSink::create(&path).unwrap());
    put(&mut pairs[0].received, &frame(1, 60), Timestamp::now().as_nanos());
    capture.finish();
    assert_eq!(read(&std::fs::read(&path).unwrap()).packets.len(), 1, "and nothing of what was there");
}

#[test]
fn what_cannot_be_is_refused_with_the_reason() {
    let error = CaptureSink::create(Path::new("/nonexistent/x.pcapng")).expect_err("no such folder");
    assert!(error.to_string().contains("/nonexistent/x.pcapng"), "{error}");
    for ring_size in [0, MAX_RING_SIZE + 1] {
        let (sender, _receiver) = mpsc::channel(1);
        let config = CaptureConfig { ring_size, ..CaptureConfig::default() };
        let Err(error) = start(&["veth0"], &[0], &config, CaptureSink::Channel(sender), &Arc::default())
        else {
            panic!("a ring of {ring_size}")
        };
        assert!(error.to_string().contains(&ring_size.to_string()), "{error}");
    }
}
