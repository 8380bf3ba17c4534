//! Steering rules in the kernel: the same verdicts as on the host, whatever was added and removed before.

use std::{collections::HashMap, os::fd::AsFd as _};

use netdext_abi::{Counter, Decision, Verdict, verdict};
use netdext_host::{
    steer::{Rule, RuleId, TableError},
    xdp::program::{ProgramConfig, ProgramError, SteeringProgram},
};

use super::{MAC, OWNED_V4, XDP_PASS, XDP_REDIRECT, config, counted, host, skip, table, xdp_socket};

const XDP_DROP: u32 = 1;
const XDP_TX: u32 = 3;

/// Numbers that look random and are the same for the same seed (splitmix64).
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % end as u64) as usize
    }

    fn pick<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.below(of.len())]
    }
}

/// A rule about the frames of the table and those of [`udp`], which often is about several of them.
fn random_rule(random: &mut Random) -> Rule {
    loop {
        let mut text = random.pick(&["driver", "kernel", "drop", "answer"]).to_owned();
        let parts = [
            ["", "dst=198.18.0.1", "dst=198.18.0.0/24", "dst=0.0.0.0/0", "dst=2001:2::/64", "dst=2001:2::1"],
            ["", "src=198.18.0.2", "src=198.18.0.0/15", "src=2001:2::2", "src=::/0", "src=10.0.0.0/8"],
            ["", "proto=udp", "proto=icmp", "proto=icmpv6", "proto=tcp", "proto=17"],
            ["", "", "dport=53", "dport=50-60", "sport=1000-2000", "dport=0-52"],
            ["", "", "vlan=100", "vlan=none", "vlan=7", ""],
            ["", "", "", "ethertype=arp", "ethertype=ipv4", "ethertype=0x88cc"],
            ["", "", "", "", "priority=1", "priority=-1"],
        ];
        // One prefix alone is the common case.
        let last = if random.below(2) == 0 { parts.len() } else { 2 };
        for part in &parts[..last] {
            text += " ";
            text += random.pick(part);
        }
        if let Ok(rule) = text.parse() {
            return rule;
        }
    }
}

/// UDP over IPv4 from port 1053 of a neighbour.
fn udp(to: [u8; 4], port: u16) -> Vec<u8> {
    let mut frame = MAC.to_vec();
    frame.extend([2, 0, 0, 0, 0, 2, 8, 0, 0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 198, 18, 0, 2]);
    frame.extend(to);
    frame.extend(1053_u16.to_be_bytes());
    frame.extend(port.to_be_bytes());
    frame.extend([0, 8, 0, 0]);
    frame
}

fn xdp_action(decision: &Decision) -> u32 {
    match decision.action {
        Verdict::Driver => XDP_REDIRECT,
        Verdict::Kernel => XDP_PASS,
        Verdict::Drop => XDP_DROP,
        Verdict::Answer(_) => XDP_TX,
    }
}

#[test]
fn with_random_rules_the_kernel_judges_as_the_host_does() {
    if skip() {
        return;
    }
    let seed = 0x7374_6565_7269_6e67;
    println!("seed {seed:#x}");
    let mut random = Random(seed);
    let mut frames: Vec<_> =
        table().into_iter().map(|case| case.frame).filter(|frame| frame.len() >= 14).collect();
    frames.extend([53, 54, 1].map(|port| udp(OWNED_V4, port)));
    frames.push(udp([10, 0, 0, 1], 53));
    let socket = xdp_socket();
    let mut program = SteeringProgram::load(&config()).unwrap();
    program.insert_socket(0, socket.as_fd()).unwrap();
    let mut host = host(false);
    let mut present: Vec<RuleId> = Vec::new();
    let mut met: HashMap<Counter, u64> = HashMap::new();
    for step in 0..120 {
        if present.len() > 25 || (!present.is_empty() && random.below(3) == 0) {
            let id = present.swap_remove(random.below(present.len()));
            program.del_rule(id).unwrap();
            host.set_rules(|rules| drop(rules.del(id).unwrap()));
        } else {
            let rule = random_rule(&mut random);
            match program.add_rule(rule) {
                Ok(id) => {
                    host.set_rules(|rules| assert_eq!(rules.add(rule).unwrap().0, id));
                    present.push(id);
                }
                Err(error) => {
                    assert!(matches!(error, ProgramError::Rule(TableError::Duplicate { .. })), "{error}");
                }
            }
        }
        let mut before = program.counters().unwrap();
        for frame in &frames {
            let expected = verdict(&**frame, &host);
            let run = program.test_run(frame).unwrap();
            let after = program.counters().unwrap();
            assert_eq!(
                counted(&before, &after),
                HashMap::from([(expected.reason, 1)]),
                "step {step}: {frame:02x?}"
            );
            assert_eq!(run.action, xdp_action(&expected), "step {step}: {frame:02x?}");
            *met.entry(expected.reason).or_default() += 1;
            before = after;
        }
    }
    for counter in [Counter::RuleDriver, Counter::RuleKernel, Counter::RuleDrop] {
        assert!(met.get(&counter) > Some(&100), "{}: {met:?}", counter.name());
    }
}

#[test]
fn each_rule_counts_the_frames_that_it_decided_about_and_a_new_one_begins_at_zero() {
    if skip() {
        return;
    }
    let rules = ["drop:proto=udp,dport=53", "kernel:dst=198.18.0.0/24", "driver:priority=-1"];
    let rules = rules.map(|text| text.parse().unwrap()).to_vec();
    let mut program = SteeringProgram::load(&ProgramConfig { rules, ..config() }).unwrap();
    for (to, port) in [(OWNED_V4, 53), (OWNED_V4, 53), (OWNED_V4, 54), ([10, 0, 0, 1], 54)] {
        program.test_run(&udp(to, port)).unwrap();
    }
    let hits = |program: &SteeringProgram| {
        let rules = program.rules().unwrap().into_iter();
        rules.map(|state| (state.rule.to_string(), state.hits.unwrap())).collect::<Vec<_>>()
    };
    // By prefix length, so that the third frame is the only one that no port excludes.
    let all = hits(&program);
    assert_eq!(
        all,
        [
            ("kernel:dst=198.18.0.0/24".to_owned(), 3),
            ("drop:proto=udp,dport=53".to_owned(), 0),
            ("driver:priority=-1".to_owned(), 1)
        ]
    );
    program.del_rule(RuleId(2)).unwrap();
    program.test_run(&udp(OWNED_V4, 53)).unwrap();
    assert_eq!(hits(&program)[0], ("drop:proto=udp,dport=53".to_owned(), 1));
    let id = program.add_rule("kernel:dst=198.18.0.0/24".parse().unwrap()).unwrap();
    assert_eq!((id, hits(&program)[0].1), (RuleId(4), 0));
    let gone = program.del_rule(RuleId(2)).unwrap_err().to_string();
    assert!(gone.contains("no steering rule 2"), "{gone}");
}

#[test]
fn a_rule_answers_requests_and_leaves_all_else_to_the_next_rule() {
    if skip() {
        return;
    }
    let rules = ["answer", "drop:dst=198.18.0.1,priority=-1"].map(|text| text.parse().unwrap()).to_vec();
    let mut program = SteeringProgram::load(&ProgramConfig { rules, ..config() }).unwrap();
    let request = table().into_iter().find(|case| case.expected == Counter::DriverArpRequest).unwrap().frame;
    assert_eq!(program.test_run(&request).unwrap().action, XDP_TX);
    assert_eq!(program.test_run(&udp(OWNED_V4, 53)).unwrap().action, XDP_DROP);
    assert_eq!(program.test_run(&udp([10, 0, 0, 1], 53)).unwrap().action, XDP_PASS);
    let hits: Vec<_> = program.rules().unwrap().iter().map(|state| state.hits.unwrap()).collect();
    assert_eq!(hits, [1, 1]);
    assert_eq!(program.counters().unwrap().get(Counter::AnsweredArp), 1);
    for (paused, action) in [(true, XDP_PASS), (false, XDP_TX)] {
        program.maps_mut().set_paused(paused).unwrap();
        assert_eq!(program.test_run(&request).unwrap().action, action, "paused: {paused}");
    }
    program.del_rule(RuleId(1)).unwrap();
    assert_eq!(
        program.test_run(&request).unwrap().action,
        XDP_PASS,
        "to the driver, which has no socket here"
    );
    assert_eq!(program.counters().unwrap().get(Counter::DriverArpRequest), 2);
}

#[test]
fn reloading_keeps_rules_counters_and_sockets() {
    if skip() {
        return;
    }
    let socket = xdp_socket();
    let rules = vec!["drop:dst=198.18.0.1".parse().unwrap(), "driver:dst=10.0.0.1".parse().unwrap()];
    let mut program = SteeringProgram::load(&ProgramConfig { rules, ..config() }).unwrap();
    program.insert_socket(0, socket.as_fd()).unwrap();
    let mut ids = vec![program.program_id()];
    for round in 1..=5 {
        assert_eq!(program.test_run(&udp(OWNED_V4, 53)).unwrap().action, XDP_DROP);
        assert_eq!(program.test_run(&udp([10, 0, 0, 1], 53)).unwrap().action, XDP_REDIRECT);
        let hits: Vec<_> = program.rules().unwrap().iter().map(|state| state.hits).collect();
        assert_eq!(hits, [Some(round), Some(round)]);
        assert_eq!(program.counters().unwrap().get(Counter::RuleDrop), round);
        program.reload().unwrap();
        ids.push(program.program_id());
    }
    ids.dedup();
    assert_eq!(ids.len(), 6, "each time a fresh program: {ids:?}");
}
