//! Steering rules and the XDP program itself, changed while frames flow: none is lost, none misrouted.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use netdext::driver::RxTimestamps;
use netdext_abi::Counter;
use netdext_host::steer::Rule;
use netdext_host::xdp::program::{ProgramConfig, SteeringProgram, XdpMode};
use netdext_host::xdp::steering::ProgramCounters;
use netdext_tests::wire::{DRIVER_IFACE, HOST_IFACE};
use netdext_tests::{PacketSocket, Wire, patiently, require};
use nix::net::if_::if_nametoindex;

/// Frames that are always dropped, always the driver's (which has no socket here), always the kernel's.
const FLOWS: [[u8; 4]; 3] = [[10, 0, 0, 1], [10, 1, 0, 1], [10, 2, 0, 1]];
/// The rules that decide about the first two flows.
const STANDING: [&str; 2] = ["drop:dst=10.0.0.0/16", "driver:dst=10.1.0.0/16"];

fn rule(text: &str) -> Rule {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// What flowed while a change was made again and again.
struct Flow {
    sent: [u64; 3],
    counters: ProgramCounters,
    dropped: u64,
}

impl Flow {
    /// Every frame is accounted for, and each flow went where it belongs.
    fn assert_whole(&self) {
        let Self { sent, counters, dropped } = self;
        let count = |counter| counters.get(counter);
        let seen = [
            count(Counter::RuleDrop),
            count(Counter::RuleDriver),
            count(Counter::KernelOther) + count(Counter::RuleKernel),
        ];
        assert_eq!(count(Counter::NoSocket), seen[1], "{counters:?}");
        assert_eq!(counters.frames(), seen.iter().sum::<u64>(), "another verdict: {counters:?}");
        let residue = sent.iter().sum::<u64>() - counters.frames() - dropped;
        assert_eq!(residue, 0, "sent {sent:?}, seen {seen:?}, dropped {dropped}");
        for (sent, seen) in sent.iter().zip(seen) {
            assert!(seen <= *sent && sent - seen <= *dropped, "sent {sent}, seen {seen}, dropped {dropped}");
        }
    }
}

/// Sends the three flows in turn while `change` runs on the attached program.
fn under_traffic(purpose: &str, change: impl FnOnce(&mut SteeringProgram) + Send) -> Flow {
    let wire = Wire::new(purpose);
    // Nobody says a word of his own accord, so that every frame is known.
    for namespace in [&wire.driver, &wire.host] {
        namespace.run("sysctl", &["-qw", "net.ipv6.conf.all.disable_ipv6=1"]);
    }
    let before = wire.host.dropped_in_sending(HOST_IFACE);
    let frames = FLOWS.map(|to| wire.udp_frame(to));
    let socket = PacketSocket::open(&wire.host, HOST_IFACE);
    let (end, rounds) = (AtomicBool::new(false), AtomicU64::new(0));
    let counters = std::thread::scope(|scope| {
        let changing = scope.spawn(|| {
            wire.driver.enter(|| {
                let config = ProgramConfig {
                    log_frames: false,
                    mac: wire.driver_mac(),
                    addresses: Vec::new(),
                    broadcasts: Vec::new(),
                    rules: STANDING.map(rule).to_vec(),
                    answer: false,
                    answer_limit: None,
                    timestamps: RxTimestamps::Some,
                    latency: false,
                    queues: 1,
                };
                let mut program = SteeringProgram::load(&config).expect("the program loads");
                let index = if_nametoindex(DRIVER_IFACE).expect("the interface is there");
                program.attach(DRIVER_IFACE, index, XdpMode::Native, false).expect("the program attaches");
                let sending = scope.spawn(|| {
                    while !end.load(Ordering::Relaxed) {
                        frames.iter().for_each(|frame| socket.send(frame));
                        rounds.fetch_add(1, Ordering::Relaxed);
                    }
                });
                let started = Instant::now();
                change(&mut program);
                let took = started.elapsed();
                end.store(true, Ordering::Relaxed);
                sending.join().expect("the frames are sent");
                let sent = 3 * rounds.load(Ordering::Relaxed);
                println!("{purpose}: {took:.1?}, {:.0} frames/s", sent as f64 / took.as_secs_f64());
                // The last frames may still be in the ring.
                std::thread::sleep(patiently(Duration::from_millis(100)));
                program.counters().expect("the counters can be read")
            })
        });
        changing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    let sent = rounds.load(Ordering::Relaxed);
    assert!(sent > 1_000, "hardly any traffic: {sent}");
    // A frame that the socket was refused is dropped, and sent again.
    let dropped = wire.host.dropped_in_sending(HOST_IFACE) - before - socket.refused();
    Flow { sent: [sent; 3], counters, dropped }
}

#[test]
fn ten_thousand_rules_come_and_go_and_no_frame_is_lost_or_misrouted() {
    require!("sysctl", "ethtool");
    const CHANGES: u32 = 10_000;
    let flow = under_traffic("rules come and go", |program| {
        let mut present = Vec::new();
        for number in 0..CHANGES {
            let [_, _, high, low] = number.to_be_bytes();
            // Each is about addresses of a flow, and steers them where they go anyway.
            let text = match number % 8 {
                0 => format!("drop:dst=10.0.{}.0/24,priority={}", low, high % 2),
                1 => format!("driver:dst=10.1.0.0/{}", 17 + low % 16),
                2 => format!("kernel:src=198.0.0.0/{},priority=-{}", 8 + low % 3, 1 + u32::from(high)),
                3 => format!("answer:dst=10.0.0.0/8,priority={}", 1 + number / 8),
                4 => format!("answer:src=198.18.{high}.{low}"),
                5 => format!("drop:dst=10.0.0.1,priority={}", number / 8),
                6 if number % 200 == 6 => {
                    format!("drop:proto=udp,dport=53,dst=10.0.0.0/16,priority={number}")
                }
                _ => format!("drop:dst=10.3.{high}.{low}"),
            };
            match program.add_rule(rule(&text)) {
                Ok(id) => present.push(id),
                Err(error) => assert!(error.to_string().contains("is there already"), "{error}"),
            }
            if present.len() > 40 {
                let at = (number as usize * 7) % present.len();
                program.del_rule(present.swap_remove(at)).expect("the rule is there");
            }
        }
        for id in present {
            program.del_rule(id).expect("the rule is there");
        }
        assert_eq!(program.rules().expect("the rules can be read").len(), STANDING.len());
    });
    flow.assert_whole();
}

#[test]
fn a_rule_that_takes_the_place_of_another_leaves_no_gap_wherever_the_two_lie() {
    require!("sysctl", "ethtool");
    // In a trie of destinations, of sources, and in the table.
    let same =
        ["driver:dst=10.1.0.0/16", "driver:src=198.18.0.2,dst=10.1.0.0/16", "driver:proto=udp,dst=10.1.0.1"];
    let flow = under_traffic("rules take each other's place", |program| {
        let standing = program.rules().expect("the rules can be read");
        let mut last = standing.iter().find(|state| state.rule == rule(same[0])).expect("it is there").id;
        for round in 1..300 {
            let next = program.add_rule(rule(same[round % 3])).expect("the other one is another");
            program.del_rule(last).expect("the last one is there");
            last = next;
        }
    });
    flow.assert_whole();
}

#[test]
fn twenty_reloads_lose_no_frame() {
    require!("sysctl", "ethtool");
    let flow = under_traffic("the program is replaced", |program| {
        let first = program.program_id();
        for _ in 0..20 {
            program.reload().expect("the program is replaced");
        }
        assert_ne!(program.program_id(), first);
    });
    flow.assert_whole();
}
