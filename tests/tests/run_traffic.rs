//! `netdext run --driver sink|reflect|generate`, with both engines, against each other and against the kernel.

use std::time::Duration;

use netdext_drivers::generate::{Endpoints, FrameKind, Template};
use netdext_host::xdp::traffic::{Role, Traffic};
use netdext_tests::wire::{DRIVER_IFACE, DRIVER_V4, HOST_IFACE, HOST_V4};
use netdext_tests::{Finished, Netdext, Wire, WireConfig, patiently, require};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde_json::Value;

/// More than one call of the live-frames engine, and not a multiple of it.
const FLOOD: u64 = 100_000;

fn text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// A netdext at the driver end with these flags, ready.
fn at_driver_end(wire: &Wire, flags: &[&str]) -> Netdext {
    let mut netdext = Netdext::run(&wire.driver, DRIVER_IFACE, flags);
    netdext.ready();
    netdext
}

/// Floods the driver end with live frames from the host end, until `count` are generated.
fn flood(wire: &Wire, count: u64, flags: &[&str]) -> Value {
    let (mac, count) = (text(wire.driver_mac()), count.to_string());
    let address = format!("{HOST_V4}/24");
    let mut all = vec!["--driver", "generate", "--engine", "xdp", "--addr", &address, "--target", DRIVER_V4];
    all.extend(["--dst-mac", &mac, "--count", &count]);
    all.extend(flags);
    let finished = Netdext::run(&wire.host, HOST_IFACE, &all).wait();
    finished.expect_summary().clone()
}

/// Sends from the driver end over the rings to the host end, until `count` are sent.
fn send(wire: &Wire, count: u64, flags: &[&str]) -> Finished {
    let (mac, count) = (text(wire.host_mac()), count.to_string());
    let mut all = vec!["--driver", "generate", "--target", HOST_V4, "--dst-mac", &mac, "--count", &count];
    all.extend(flags);
    Netdext::run(&wire.driver, DRIVER_IFACE, &all).wait()
}

fn frames(summary: &Value, name: &str) -> u64 {
    summary["tallies"][name]["frames"].as_u64().unwrap_or(0)
}

#[test]
fn the_kernels_frames_are_those_of_the_rings() {
    require!("ethtool");
    const FLOWS: u16 = 7;
    // Each CPU numbers its own frames.
    let allowed = sched_getaffinity(None).unwrap();
    let mut one = CpuSet::new();
    one.set((0..CpuSet::MAX_CPU).find(|cpu| allowed.is_set(*cpu)).unwrap());
    sched_setaffinity(None, &one).unwrap();
    let (v4, v6) = (["198.18.0.1", "198.18.0.2"], ["2001:2::1", "2001:2::2"]);
    for (kind, [source, target]) in
        [(FrameKind::Udp, v4), (FrameKind::Echo, v4), (FrameKind::Udp, v6), (FrameKind::Echo, v6)]
    {
        let ends = Endpoints {
            source_mac: [2, 0, 0, 0, 0, 1],
            destination_mac: [2, 0, 0, 0, 0, 2],
            source: source.parse().unwrap(),
            target: target.parse().unwrap(),
        };
        let template = Template::new(kind, &ends, 101).unwrap();
        let traffic = Traffic::load(Role::Generate, &template.for_kernel(FLOWS.into())).unwrap();
        let mut expected = vec![0; template.len()];
        for sequence in 0..300_u64 {
            template.write(&mut expected, (sequence % u64::from(FLOWS)) as u16, sequence);
            // What a receiver may have left in the headers and the stamp.
            let mut used = template.bytes().to_vec();
            used[..54].fill(0xa5);
            if source == v6[0] {
                used[54..74].fill(0x5a);
            }
            assert_eq!(traffic.write_once(&used).unwrap(), expected, "{kind} to {target}, {sequence}");
        }
    }
}

#[test]
fn a_sink_counts_every_frame_that_the_device_did_not_drop() {
    require!("ethtool");
    let wire = Wire::new("sink");
    let sink = at_driver_end(&wire, &["--driver", "sink", "--steer", "all", "--wait", "spin"]);
    let flooded = flood(&wire, FLOOD, &[]);
    assert_eq!(frames(&flooded, "generated"), FLOOD);
    let summary = wire.stop(sink);
    let discarded = summary["counters"]["discarded"].as_u64().unwrap();
    assert!(discarded > 0, "{summary}");
    assert_eq!(discarded, summary["accounting"]["delivered"].as_u64().unwrap());
}

#[test]
fn a_sink_inside_the_kernel_counts_frames_and_bytes() {
    require!("ethtool");
    let wire = Wire::new("sink inside the kernel");
    let sink = at_driver_end(&wire, &["--driver", "sink", "--engine", "xdp"]);
    let flooded = flood(&wire, FLOOD, &["--size", "128"]);
    let finished = sink.stop();
    wire.assert_no_xdp();
    let summary = finished.expect_summary();
    let dropped = FLOOD.saturating_sub(flooded["device"]["tx_packets"].as_u64().unwrap());
    // The host's kernel may have a word to say besides.
    let (frames, bytes) = (frames(summary, "discarded"), summary["tallies"]["discarded"]["bytes"].as_u64());
    assert!((FLOOD - dropped..FLOOD - dropped + 50).contains(&frames), "{summary} {flooded}");
    assert!(bytes >= Some((FLOOD - dropped) * 124), "{summary}");
}

#[test]
fn the_driver_answers_flooded_echo_requests_and_the_generator_counts_the_replies() {
    require!("ethtool");
    let wire = Wire::new("echo flood");
    let sample = at_driver_end(&wire, &["--no-injector", "--wait", "spin"]);
    let flooded = flood(&wire, FLOOD, &["--frames", "echo", "--flows", "100"]);
    let summary = wire.stop(sample);
    let answered = summary["counters"]["echo4_answered"].as_u64().unwrap();
    assert!(answered > 0, "{summary}");
    // Valid requests only: the driver refuses what has a wrong checksum. A slow machine has no room for all answers.
    for (cause, count) in summary["drops"].as_object().unwrap() {
        assert!(
            count == 0
                || cause.starts_with("socket_")
                || ["sent", "tx_full"].iter().any(|word| cause.contains(word)),
            "{cause}: {summary}"
        );
    }
    let replies = frames(&flooded, "replies");
    assert!(replies > 0 && replies <= answered, "{replies} of {answered}");
}

#[test]
fn the_kernels_stack_answers_what_the_rings_send_on_a_schedule() {
    require!("ethtool");
    let wire = Wire::new("paced");
    let finished = send(
        &wire,
        2000,
        &["--frames", "echo", "--rate", "5000/s", "--size", "64:7,594:4,1518:1", "--flows", "9"],
    );
    let summary = finished.expect_whole();
    assert_eq!(summary["generator"]["sent"], 2000);
    assert_eq!(summary["generator"]["skipped"], 0);
    assert_eq!(summary["counters"]["echo_replies"], 2000, "{summary}");
    assert_eq!(summary["generator"]["pacing_error_ns"]["count"], 2000);
    // 2000 departures at 5000 a second: 1999 distances of 200 us, plus what the last one was late.
    let sending = summary["generator"]["sending_ns"].as_u64().unwrap();
    assert!((390_000_000..1_000_000_000).contains(&sending), "{summary}");
}

#[test]
fn frames_sent_as_fast_as_it_goes_arrive_from_every_queue() {
    require!("ethtool");
    const COUNT: u64 = 20_001;
    let wire = Wire::with("as fast as it goes", WireConfig { queues: 2, ..WireConfig::default() });
    let mut sink = Netdext::run(&wire.host, HOST_IFACE, &["--driver", "sink", "--engine", "xdp"]);
    sink.ready();
    let finished = send(&wire, COUNT, &["--rate", "max"]);
    let summary = finished.expect_whole();
    assert_eq!(summary["generator"]["sent"], COUNT);
    for queue in summary["queues"].as_array().unwrap() {
        assert!(queue["tx_packets"].as_u64() >= Some(COUNT / 2), "{summary}");
    }
    let discarded = frames(sink.stop().expect_summary(), "discarded");
    assert!(discarded > 0 && discarded <= COUNT + 50, "{discarded}");
}

#[test]
fn both_reflectors_send_frames_back_to_where_they_came_from() {
    require!("ethtool");
    for flags in [&["--engine", "xdp"][..], &["--steer", "all", "--wait", "spin"]] {
        let wire = Wire::new("reflect");
        let mut all = vec!["--driver", "reflect"];
        all.extend(flags);
        let reflector = at_driver_end(&wire, &all);
        let flooded = flood(&wire, FLOOD, &[]);
        let finished = reflector.stop();
        let summary = finished.expect_summary();
        let reflected =
            summary["counters"]["reflected"].as_u64().unwrap_or_else(|| frames(summary, "reflected"));
        let returned = frames(&flooded, "returned");
        assert!(returned > 0 && returned <= reflected, "{returned} of {reflected}, {flags:?}");
        assert_eq!(frames(&flooded, "replies"), 0);
    }
}

#[test]
fn a_flood_is_stopped_by_a_signal_within_a_second_and_leaves_nothing() {
    require!("ethtool");
    let wire = Wire::new("flood, stopped");
    let mac = text(wire.host_mac());
    let flags = ["--driver", "generate", "--engine", "xdp", "--target", HOST_V4, "--dst-mac", &mac];
    let flood = at_driver_end(&wire, &flags);
    std::thread::sleep(Duration::from_millis(300));
    let finished = flood.stop();
    assert!(finished.took < patiently(Duration::from_secs(2)), "{:?}", finished.took);
    assert!(frames(finished.expect_summary(), "generated") > 0);
    // Nobody takes live frames there: said, not hidden.
    assert!(finished.stderr.contains("gro on"), "{}", finished.stderr);
    wire.assert_no_xdp();
}

#[test]
fn what_can_not_be_generated_is_refused_in_one_line() {
    require!("ethtool");
    let wire = Wire::new("refused");
    let mac = text(wire.host_mac());
    let run = |flags: &[&str]| {
        let mut all = vec!["--driver", "generate"];
        all.extend(flags);
        Netdext::run(&wire.driver, DRIVER_IFACE, &all).wait()
    };
    let cases: [(&[&str], i32, &str); 4] = [
        (&["--target", HOST_V4], 2, "--dst-mac"),
        (&["--dst-mac", &mac], 2, "--target"),
        (&["--dst-mac", &mac, "--target", HOST_V4, "--size", "1519"], 1, "1518 is the longest"),
        (
            &["--dst-mac", &mac, "--target", HOST_V4, "--size", "1519", "--engine", "xdp"],
            1,
            "1518 is the longest",
        ),
    ];
    for (flags, status, named) in cases {
        let finished = run(flags);
        assert_eq!(finished.status.code(), Some(status), "{flags:?}: {finished:#?}");
        assert!(finished.stderr.contains(named), "{flags:?}: {finished:#?}");
        wire.assert_no_xdp();
    }
}
