//! The verdict on the host: the table that the kernel is tested with, and what must hold for any frame.

mod frames;

use std::collections::HashSet;

use frames::{MAC, OWNED_V4, OWNED_V6, table};
use netdext_abi::rules::{ACTION_DRIVER, Side, Table, Tries, Winner, Winners};
use netdext_abi::verdict::{First, by_rules};
use netdext_abi::{
    COUNTER_NAMES, Config, Counter, Decision, Kind, Parsed, PortView, Reader, RxMeta, Verdict, maps::OWNED,
    parse, verdict,
};
use proptest::prelude::*;

struct Host {
    config: Config,
    v4: HashSet<[u8; 4]>,
    v6: HashSet<[u8; 16]>,
    /// The one rule that takes every frame to the driver.
    everything: Table,
}

impl PortView for Host {
    fn config(&self) -> Config {
        self.config
    }

    fn v4(&self, address: [u8; 4]) -> u32 {
        if self.v4.contains(&address) { OWNED } else { 0 }
    }

    fn owns_v6(&self, address: [u8; 16]) -> bool {
        self.v6.contains(&address)
    }

    type Tries = NoRules;

    fn rules(&self, table: u8) -> Option<(&Table, &NoRules)> {
        (table != 0).then_some((&self.everything, &NoRules))
    }

    fn hit(&self, _: u32) {}
}

/// No rule here is about a prefix.
struct NoRules;

impl Tries for NoRules {
    fn longest_v4(&self, _: Side, _: [u8; 4]) -> Option<&Winners> {
        None
    }

    fn longest_v6(&self, _: Side, _: [u8; 16]) -> Option<&Winners> {
        None
    }
}

fn host(flags: u16) -> Host {
    let mut everything = Table { count: 1, ..Table::default() };
    everything.entries[0].rule = Winner { rank: 1, slot: 0, action: ACTION_DRIVER };
    let table = u8::from(flags & Config::STEER_ALL != 0);
    let config = Config { mac: MAC, flags }.with_table(table);
    Host { config, v4: HashSet::from([OWNED_V4]), v6: HashSet::from([OWNED_V6]), everything }
}

#[test]
fn every_frame_of_the_table_gets_its_verdict() {
    for case in table() {
        let Decision { action, reason } = verdict(&*case.frame, &host(0));
        assert_eq!(reason, case.expected, "{}", case.name);
        let driver = reason.name().starts_with("driver_");
        assert_eq!(action == Verdict::Driver, driver, "{}", case.name);
    }
}

#[test]
fn the_table_has_every_verdict_but_those_that_need_a_huge_or_tiny_frame() {
    let mut met: HashSet<_> = table().into_iter().map(|case| case.expected).collect();
    met.extend([Counter::DriverSteerAll, Counter::TruncatedEthernet, Counter::DatagramTooLong]);
    // With a flag set, with rules, or without one of the programs: other tests' matter.
    met.extend(Counter::ANSWERED);
    met.extend([
        Counter::AnswerRateLimited,
        Counter::RuleDriver,
        Counter::RuleKernel,
        Counter::RuleDrop,
        Counter::KernelNoPolicy,
    ]);
    for counter in Counter::ALL.into_iter().take_while(|counter| *counter != Counter::NoSocket) {
        assert!(met.contains(&counter), "no frame gives {}", counter.name());
    }
    assert_eq!(verdict(&[0xffu8; 13][..], &host(0)).reason, Counter::TruncatedEthernet);
    let mut huge = vec![0; 14 + 65_535];
    huge[..6].copy_from_slice(&MAC);
    huge[12..18].copy_from_slice(&[0x08, 0, 0x45, 0, 0xff, 0xff]);
    assert_eq!(verdict(&*huge, &host(0)).reason, Counter::DatagramTooLong);
}

#[test]
fn steering_all_takes_even_malformed_frames_and_those_to_other_stations() {
    let all = Decision { action: Verdict::Driver, reason: Counter::DriverSteerAll };
    let mut answered = 0;
    for case in table() {
        assert_eq!(verdict(&*case.frame, &host(Config::STEER_ALL)), all);
        let answering = verdict(&*case.frame, &host(Config::ANSWER));
        let is_answer = matches!(answering.action, Verdict::Answer(_));
        answered += u32::from(is_answer);
        let expected = if is_answer { answering } else { all };
        assert_eq!(verdict(&*case.frame, &host(Config::STEER_ALL | Config::ANSWER)), expected);
    }
    assert!(answered > 0, "the table has a request that the program answers");
}

#[test]
fn without_the_policy_program_a_rule_decides_or_the_frame_is_the_kernels() {
    let unjudged = |flags| {
        let (host, case) = (host(flags), table().remove(0));
        let First::Undecided(undecided) = by_rules(&*case.frame, &host) else { panic!("a rule has decided") };
        undecided.unjudged(&host)
    };
    assert_eq!(unjudged(0), Decision { action: Verdict::Kernel, reason: Counter::KernelNoPolicy });
    let ruled = Decision { action: Verdict::Driver, reason: Counter::DriverSteerAll };
    assert_eq!(unjudged(Config::STEER_ALL | Config::ANSWER), ruled);
}

#[test]
fn counter_names_are_unique_and_fit_the_padded_table() {
    let unique: HashSet<_> = COUNTER_NAMES.iter().collect();
    assert_eq!(unique.len(), COUNTER_NAMES.len());
    for (counter, padded) in Counter::ALL.iter().zip(&netdext_abi::counter::PADDED_NAMES) {
        assert_eq!(std::str::from_utf8(padded).unwrap().trim_end(), counter.name());
    }
}

#[test]
fn receive_metadata_without_its_magic_is_none() {
    let mut bytes = [0; 16];
    assert_eq!(RxMeta::from_bytes(&bytes), None);
    bytes[..4].copy_from_slice(&netdext_abi::RX_META_MAGIC.to_ne_bytes());
    bytes[8..].copy_from_slice(&7u64.to_ne_bytes());
    assert_eq!(RxMeta::from_bytes(&bytes).map(|meta| meta.ktime_ns), Some(7));
}

#[test]
fn a_frame_cut_before_the_end_of_its_datagram_is_malformed_and_after_it_unchanged() {
    for case in table() {
        let Ok(whole) = parse(&*case.frame) else { continue };
        let end = usize::from(whole.l3_end.max(whole.link_header_len));
        for len in 0..=case.frame.len() {
            let cut = parse(&case.frame[..len]);
            if len >= end {
                assert_eq!(cut, Ok(whole), "{} cut to {len}", case.name);
            } else if len < usize::from(whole.link_header_len) || whole.l3_end != 0 {
                assert!(cut.is_err(), "{} cut to {len}", case.name);
            }
        }
    }
}

fn check_offsets(frame: &[u8], parsed: &Parsed) {
    assert!(matches!(parsed.link_header_len, 14 | 18 | 22));
    assert_eq!(parsed.link_header_len, 14 + 4 * u16::from(parsed.vlan_tags));
    assert!(usize::from(parsed.l3_end) <= frame.len());
    let icmp = !matches!(parsed.kind, Kind::ArpRequest | Kind::ArpReply | Kind::Other);
    assert_eq!(parsed.l4 != 0, icmp);
    if icmp {
        assert!(parsed.l4 + 8 <= parsed.l3_end);
        assert!(!parsed.fragment);
    }
    // Padding must not matter: the same headers without it.
    let end = usize::from(parsed.l3_end.max(parsed.link_header_len));
    assert_eq!(parse(&frame[..end]).as_ref(), Ok(parsed));
}

/// Panics on what the verifier would refuse: a read that isn't preceded by a check.
struct Strict<'a>(&'a [u8]);

impl Reader for Strict<'_> {
    fn contains(&self, end: usize) -> bool {
        end <= self.0.len()
    }

    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        assert!(offset < 0xffff, "an offset beyond what the verifier follows: {offset}");
        self.0.get(offset..offset + N).map(|bytes| bytes.try_into().unwrap())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn any_bytes_are_parsed_without_panic_and_with_offsets_inside(
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        if let Ok(parsed) = parse(&Strict(&bytes)) {
            check_offsets(&bytes, &parsed);
        }
    }

    #[test]
    fn a_damaged_frame_is_parsed_without_panic_and_with_offsets_inside(
        which in any::<prop::sample::Index>(),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let cases = table();
        let mut frame = cases[which.index(cases.len())].frame.clone();
        for (at, byte) in damage {
            let at = at.index(frame.len());
            frame[at] = byte;
        }
        frame.truncate(cut.index(2 * frame.len()));
        if let Ok(parsed) = parse(&Strict(&frame)) {
            check_offsets(&frame, &parsed);
        }
        prop_assert_eq!(verdict(&Strict(&frame), &host(0)), verdict(&*frame, &host(0)));
    }
}
