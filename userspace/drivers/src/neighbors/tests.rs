use proptest::prelude::*;

use super::*;

const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(198, 18, 0, 2));
const MAC: MacAddr = [2, 0, 0, 0, 0, 2];
const OTHER: MacAddr = [2, 0, 0, 0, 0, 9];

fn ms(n: u64) -> Timestamp {
    Timestamp::from_nanos(n * 1_000_000)
}

fn table() -> Neighbors {
    Neighbors::new(NeighborConfig::default())
}

fn ask(to: Option<MacAddr>) -> Option<Solicit> {
    Some(Solicit { target: PEER, to })
}

#[test]
fn an_unknown_neighbour_is_asked_for_three_times_a_second_apart_and_given_up() {
    let mut table = table();
    assert_eq!(table.resolve(PEER, ms(0)), None);
    for second in 0..3 {
        assert_eq!(table.pop_due(ms(second * 1000)), ask(None), "second {second}");
        assert_eq!(table.pop_due(ms(second * 1000 + 999)), None);
        assert_eq!(table.resolve(PEER, ms(second * 1000 + 999)), None);
    }
    assert_eq!(table.pop_due(ms(3000)), None);
    assert_eq!((table.len(), table.failed(), table.next_deadline()), (0, 1, None));
    assert_eq!(table.resolve(PEER, ms(3001)), None);
    assert_eq!(table.pop_due(ms(3001)), ask(None), "wanting it again asks again");
}

#[test]
fn an_answer_is_used_until_it_expires_and_then_confirmed_by_unicast() {
    let mut table = table();
    table.resolve(PEER, ms(0));
    table.pop_due(ms(0));
    assert!(table.advertised(PEER, Some(MAC), true, true, ms(10)));
    assert_eq!(table.resolve(PEER, ms(20)), Some(MAC));
    assert_eq!(table.pop_due(ms(30_009)), None);
    assert_eq!(table.pop_due(ms(30_010)), ask(Some(MAC)));
    assert_eq!(table.resolve(PEER, ms(30_020)), Some(MAC), "still used while it is asked again");
    assert!(table.advertised(PEER, Some(MAC), true, true, ms(30_030)));
    assert_eq!(table.pop_due(ms(60_029)), None);
}

#[test]
fn a_used_neighbour_that_no_longer_answers_is_given_up() {
    let mut table = table();
    table.resolve(PEER, ms(0));
    table.pop_due(ms(0));
    table.advertised(PEER, Some(MAC), true, true, ms(0));
    table.resolve(PEER, ms(1));
    for second in 30..33 {
        assert_eq!(table.pop_due(ms(second * 1000)), ask(Some(MAC)));
    }
    assert_eq!(table.pop_due(ms(33_000)), None);
    assert_eq!(table.failed(), 1);
    assert_eq!(table.resolve(PEER, ms(33_001)), None);
}

#[test]
fn a_neighbour_that_nobody_uses_is_forgotten_without_a_request() {
    let mut table = table();
    table.resolve(PEER, ms(0));
    table.pop_due(ms(0));
    table.advertised(PEER, Some(MAC), true, true, ms(0));
    assert_eq!(table.pop_due(ms(30_000)), None);
    assert_eq!((table.len(), table.failed()), (0, 0));
}

#[test]
fn a_learnt_address_is_used_at_once_and_checked_on_first_use() {
    let mut table = table();
    assert!(table.learn(PEER, MAC, ms(0)));
    assert_eq!(table.pop_due(ms(100)), None, "not used, so not checked");
    assert_eq!(table.resolve(PEER, ms(200)), Some(MAC));
    assert_eq!(table.pop_due(ms(200)), ask(Some(MAC)));
}

#[test]
fn a_changed_address_is_used_at_once_and_checked() {
    let mut table = table();
    table.resolve(PEER, ms(0));
    table.pop_due(ms(0));
    table.advertised(PEER, Some(MAC), true, true, ms(0));
    assert!(table.hear(PEER, OTHER, ms(5)));
    assert_eq!(table.resolve(PEER, ms(6)), Some(OTHER));
    assert_eq!(table.pop_due(ms(6)), ask(Some(OTHER)));
}

#[test]
fn hearing_the_known_address_neither_confirms_nor_disturbs_it() {
    let mut table = table();
    table.resolve(PEER, ms(0));
    table.pop_due(ms(0));
    table.advertised(PEER, Some(MAC), true, true, ms(0));
    table.resolve(PEER, ms(1));
    assert!(table.hear(PEER, MAC, ms(29_000)));
    assert_eq!(table.pop_due(ms(30_000)), ask(Some(MAC)));
}

#[test]
fn only_known_neighbours_are_merged() {
    let mut table = table();
    assert!(!table.hear(PEER, MAC, ms(0)));
    assert!(!table.advertised(PEER, Some(MAC), true, true, ms(0)));
    assert!(table.is_empty());
}

#[test]
fn an_advertisement_that_does_not_override_only_makes_a_different_address_doubtful() {
    let mut table = table();
    table.resolve(PEER, ms(0));
    table.pop_due(ms(0));
    table.advertised(PEER, Some(MAC), true, true, ms(0));
    table.advertised(PEER, Some(OTHER), true, false, ms(5));
    assert_eq!(table.resolve(PEER, ms(6)), Some(MAC));
    assert_eq!(table.pop_due(ms(6)), ask(Some(MAC)));
}

#[test]
fn an_unsolicited_advertisement_completes_but_does_not_confirm() {
    let mut table = table();
    table.resolve(PEER, ms(0));
    table.pop_due(ms(0));
    table.advertised(PEER, None, true, true, ms(1));
    assert_eq!(table.resolve(PEER, ms(2)), None, "without an address there is nothing to use");
    table.advertised(PEER, Some(MAC), false, true, ms(3));
    assert_eq!(table.resolve(PEER, ms(4)), Some(MAC));
    assert_eq!(table.pop_due(ms(4)), ask(Some(MAC)));
    table.advertised(PEER, None, true, true, ms(5));
    assert_eq!(table.pop_due(ms(3000)), None, "the answer may leave out the address");
}

#[test]
fn a_full_table_takes_nothing_new() {
    let mut table = Neighbors::new(NeighborConfig { capacity: 1, ..NeighborConfig::default() });
    assert!(table.learn(PEER, MAC, ms(0)));
    let second = IpAddr::from([198, 18, 0, 3]);
    assert!(!table.learn(second, MAC, ms(0)));
    assert_eq!(table.resolve(second, ms(0)), None);
    assert_eq!(table.len(), 1);
    assert!(table.learn(PEER, OTHER, ms(0)), "what is known is still updated");
}

#[test]
fn ten_thousand_neighbours_are_each_asked_once_a_second() {
    let mut table = table();
    let address = |n: u32| IpAddr::from(std::net::Ipv4Addr::from_bits(0xc612_0000 + n));
    for n in 0..10_000 {
        table.resolve(address(n), ms(u64::from(n) / 100));
    }
    for second in 0..3 {
        let asked = std::iter::from_fn(|| table.pop_due(ms(second * 1000 + 200))).count();
        assert_eq!(asked, 10_000);
    }
    assert_eq!(table.pop_due(ms(10_000)), None);
    assert_eq!((table.failed(), table.len()), (10_000, 0));
}

proptest! {
    #[test]
    fn every_entry_has_exactly_one_deadline(
        steps in prop::collection::vec((0..6_u8, 0..8_u8, 0..3_u8, 0..4000_u64), 1..300)
    ) {
        let mut table = Neighbors::new(NeighborConfig { capacity: 6, ..NeighborConfig::default() });
        let mut now = 0;
        for (operation, host, mac, pause) in steps {
            now += pause;
            let (address, mac) = (IpAddr::from([198, 18, 0, host]), [2, 0, 0, 0, 0, mac]);
            match operation {
                0 => drop(table.resolve(address, ms(now))),
                1 => drop(table.learn(address, mac, ms(now))),
                2 => drop(table.hear(address, mac, ms(now))),
                3 => drop(table.advertised(address, Some(mac), true, pause % 2 == 0, ms(now))),
                4 => drop(table.advertised(address, None, pause % 2 == 0, true, ms(now))),
                _ => while table.pop_due(ms(now)).is_some() {},
            }
            prop_assert!(table.len() <= 6);
            prop_assert_eq!(table.due.len(), table.entries.len());
            for (address, entry) in &table.entries {
                prop_assert!(table.due.contains(&(entry.deadline, *address)));
            }
        }
    }
}
