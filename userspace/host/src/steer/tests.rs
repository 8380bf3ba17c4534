//! The table of rules against a dull model, and the text of rules.

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;

use netdext_abi::{
    parse::{ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6},
    rules::{ACTION_ANSWER, Side, Table, Winner, Winners, decide},
};
use proptest::prelude::*;

use super::{Action, Change, Match, PortRange, Prefix, Rule, RuleError, RuleId, RuleTable, TableError, Vlan};

fn rule(text: &str) -> Rule {
    text.parse().unwrap_or_else(|error| panic!("{text:?}: {error}"))
}

#[test]
fn a_rule_is_written_in_one_way_and_read_in_several() {
    for (text, canonical) in [
        ("all", "driver"),
        ("driver", "driver"),
        (" drop ", "drop"),
        ("all priority=3", "driver:priority=3"),
        ("drop proto=udp dport=53", "drop:proto=udp,dport=53"),
        ("drop:dport=53,proto=17", "drop:proto=udp,dport=53"),
        ("drop,proto=tcp:sport=1-1:dport=2-65535", "drop:proto=tcp,sport=1,dport=2-65535"),
        (
            "kernel:src=2001:2::/64:dst=2001:2::1,proto=icmpv6",
            "kernel:proto=icmpv6,src=2001:2::/64,dst=2001:2::1",
        ),
        ("driver:dst=198.18.0.0/24", "driver:dst=198.18.0.0/24"),
        ("driver: dst=0.0.0.0/0", "driver:dst=0.0.0.0/0"),
        ("driver:ethertype=ipv4,dst=198.18.0.1/32", "driver:dst=198.18.0.1"),
        ("answer:ethertype=0x0806,vlan=none", "answer:ethertype=arp,vlan=none"),
        ("driver:ethertype=0x88cc,vlan=4094,priority=-5", "driver:ethertype=0x88cc,vlan=4094,priority=-5"),
        ("drop:proto=47", "drop:proto=47"),
    ] {
        let rule = rule(text);
        assert_eq!(rule.to_string(), canonical, "{text:?}");
        assert_eq!(canonical.parse(), Ok(rule));
        assert_eq!(serde_json::to_value(rule).unwrap(), canonical);
    }
}

#[test]
fn what_is_no_rule_is_refused_with_an_example() {
    for text in [
        "",
        "pass",
        "drop:proto",
        "drop:port=53",
        "drop:proto=tcp,proto=udp",
        "drop:dport=53",
        "drop:proto=icmp,sport=1",
        "drop:proto=udp,dport=9-8",
        "drop:proto=256",
        "drop:dst=198.18.0.1/24",
        "drop:dst=198.18.0.0/33",
        "drop:dst=x",
        "drop:src=198.18.0.1,dst=2001:2::1",
        "drop:proto=icmpv6,dst=198.18.0.1",
        "drop:proto=icmp,dst=2001:2::1",
        "drop:ethertype=arp,dst=198.18.0.1",
        "drop:ethertype=ipv6,src=198.18.0.1",
        "drop:ethertype=ipv6,proto=icmp",
        "drop:ethertype=0x0100",
        "drop:ethertype=88cc",
        "drop:vlan=4095",
        "drop:vlan=no",
        "drop:priority=32768",
        "answer:proto=tcp",
        "answer:ethertype=0x88cc",
        "all:proto=tcp",
    ] {
        let error = text.parse::<Rule>().expect_err(text);
        let message = error.to_string();
        let helps = message.contains("for example") || matches!(error, RuleError::Twice { .. });
        assert!(helps && !message.contains('\n'), "{text:?}: {message}");
    }
}

#[test]
fn what_takes_everything_is_known() {
    for text in
        ["all", "drop", "drop:ethertype=arp", "driver:dst=0.0.0.0/0", "drop:proto=tcp", "driver:vlan=none"]
    {
        assert!(rule(text).takes_everything(), "{text}");
    }
    for text in [
        "kernel",
        "answer",
        "driver:proto=icmp",
        "drop:dst=198.18.0.0/15",
        "drop:vlan=5",
        "drop:ethertype=0x88cc",
    ] {
        assert!(!rule(text).takes_everything(), "{text}");
    }
}

#[test]
fn a_rule_is_refused_twice_without_room_or_when_it_is_not_there() {
    let mut rules = RuleTable::new(1);
    let (first, _) = rules.add(rule("drop:dst=198.18.0.1")).unwrap();
    let twice = rules.add(rule("drop:dst=198.18.0.1/32")).unwrap_err();
    assert_eq!(twice.to_string(), "the rule `drop:dst=198.18.0.1` is there already, as number 1");
    // The same prefix needs no room, another does.
    rules.add(rule("answer:dst=198.18.0.1")).unwrap();
    assert!(matches!(rules.add(rule("drop:dst=198.18.0.2")), Err(TableError::Full { capacity: 1, .. })));
    rules.del(first).unwrap();
    assert_eq!(rules.del(first), Err(TableError::NotFound { id: first }));
    for port in 0..128 {
        rules.add(rule(&format!("drop:proto=udp,dport={port}"))).unwrap();
    }
    assert!(matches!(
        rules.add(rule("drop:proto=udp,dport=128")),
        Err(TableError::Full { capacity: 128, .. })
    ));
    assert!(matches!(rules.add(rule("drop:proto=udp,dport=5")), Err(TableError::Duplicate { .. })));
}

#[test]
fn rules_that_are_taken_back_leave_their_numbers_to_the_next() {
    let (tcp, udp, host) = (rule("driver:proto=tcp"), rule("driver:proto=udp"), rule("drop:dst=198.18.0.1"));
    let (mut table, mut other) = (RuleTable::default(), RuleTable::default());
    for table in [&mut table, &mut other] {
        table.add(tcp).unwrap();
    }
    let (ids, _) = table.add_all(&[udp, host]).unwrap();
    assert!(!table.del_added(ids.clone()).is_empty(), "there is something to write");
    assert_eq!(table.list(), other.list());
    assert_eq!(table.add(host).unwrap().0, other.add(host).unwrap().0, "as where they never were");
    table.del_added(1..2);
    assert_eq!(table.add(udp).unwrap().0, RuleId(3), "a number between others is not given again");
}

#[test]
fn a_table_is_published_only_when_it_changes() {
    let mut rules = RuleTable::default();
    let table =
        |changes: &[Change]| changes.iter().filter(|change| matches!(change, Change::Table { .. })).count();
    let (first, changes) = rules.add(rule("drop:dst=198.18.0.1")).unwrap();
    assert!(
        matches!(changes[..], [Change::V4 { side: Side::Destination, .. }, Change::Table { .. }]),
        "{changes:?}"
    );
    let (second, changes) = rules.add(rule("drop:dst=198.18.0.2")).unwrap();
    assert_eq!((changes.len(), table(&changes)), (1, 0));
    assert_eq!(table(&rules.add(rule("drop:proto=47")).unwrap().1), 1);
    assert_eq!(table(&rules.del(second).unwrap().1), 0);
    assert_eq!(table(&rules.del(first).unwrap().1), 1);
    assert_eq!(rules.compiled().flags, 0);
    let (_, changes) = rules.del(RuleId(3)).unwrap();
    assert_eq!(changes, [Change::Table { table: None, steer_all: false }]);
}

#[test]
fn everything_goes_unread_to_the_driver_only_if_no_rule_comes_before() {
    let mut rules = RuleTable::default();
    let (all, _) = rules.add(Rule::all()).unwrap();
    assert!(rules.steers_all());
    // A longer prefix comes first, with the same priority.
    let (prefix, _) = rules.add(rule("kernel:dst=198.18.0.0/24")).unwrap();
    assert!(!rules.steers_all());
    let (first, _) = rules.add(rule("all:priority=1")).unwrap();
    assert!(rules.steers_all());
    rules.del(first).unwrap();
    rules.del(prefix).unwrap();
    assert!(rules.steers_all());
    rules.add(rule("drop:proto=udp,priority=2")).unwrap();
    assert!(!rules.steers_all());
    rules.del(all).unwrap();
    assert!(!rules.steers_all());
}

#[test]
fn many_prefixes_are_added_and_removed_in_little_time() {
    let mut rules = RuleTable::default();
    for number in 0..20_000_u32 {
        let address = IpAddr::from((0x0a00_0000 + number * 16).to_be_bytes());
        let matching = Match { dst: Prefix::new(address, 28), ..Match::default() };
        let (_, changes) = rules.add(Rule::new(Action::Drop, matching, 0).unwrap()).unwrap();
        assert!(changes.len() <= 2);
    }
    let (id, changes) = rules.add(rule("kernel:dst=10.0.0.0/8,priority=1")).unwrap();
    assert_eq!(changes.len(), 20_001, "the higher priority is carried down to every prefix inside");
    assert_eq!(rules.del(id).unwrap().1.len(), 20_001);
    for id in 1..=20_000 {
        rules.del(RuleId(id)).unwrap();
    }
    assert!(rules.is_empty());
}

/// A frame as the dull model sees it.
#[derive(Clone, Debug)]
struct Packet {
    ethertype: u16,
    vlan: Option<u16>,
    ip: Option<(IpAddr, IpAddr, u8)>,
    ports: (u16, u16),
    fragment: bool,
}

impl Packet {
    fn has_ports(&self) -> bool {
        !self.fragment && self.ip.is_some_and(|(.., proto)| proto == 6 || proto == 17)
    }

    fn frame(&self) -> Vec<u8> {
        let mut frame = vec![0x02; 12];
        if let Some(vlan) = self.vlan {
            frame.extend([0x81, 0x00]);
            // With a priority, which isn't part of the number.
            frame.extend((vlan | 0xa000).to_be_bytes());
        }
        frame.extend(self.ethertype.to_be_bytes());
        let mut payload = [self.ports.0.to_be_bytes(), self.ports.1.to_be_bytes()].concat();
        payload.extend([0; 16]);
        match self.ip {
            Some((IpAddr::V4(src), IpAddr::V4(dst), proto)) => {
                let fragment = if self.fragment { 0x20 } else { 0 };
                frame.extend([0x45, 0, 0, 40, 0, 0, fragment, 0, 64, proto, 0, 0]);
                frame.extend(src.octets());
                frame.extend(dst.octets());
            }
            Some((IpAddr::V6(src), IpAddr::V6(dst), proto)) => {
                if self.fragment {
                    payload.splice(0..0, [proto, 0, 0, 1, 0, 0, 0, 1]);
                }
                frame.extend([
                    0x60,
                    0,
                    0,
                    0,
                    0,
                    payload.len() as u8,
                    if self.fragment { 44 } else { proto },
                    64,
                ]);
                frame.extend(src.octets());
                frame.extend(dst.octets());
            }
            _ => payload = vec![0; 46],
        }
        frame.extend(payload);
        frame
    }
}

fn contains(prefix: Prefix, address: IpAddr) -> bool {
    let bits = |address: IpAddr| match address {
        IpAddr::V4(v4) => format!("{:032b}", v4.to_bits()),
        IpAddr::V6(v6) => format!("{:0128b}", v6.to_bits()),
    };
    let len = usize::from(prefix.len());
    prefix.address().is_ipv4() == address.is_ipv4() && bits(prefix.address())[..len] == bits(address)[..len]
}

/// Whether a rule matches, part by part.
fn matches(rule: &Rule, packet: &Packet) -> bool {
    let Match { ethertype, vlan, proto, src, dst, sport, dport } = *rule.matching();
    let port = |range: Option<PortRange>, port: u16| {
        range.is_none_or(|range| packet.has_ports() && (range.first()..=range.last()).contains(&port))
    };
    ethertype.is_none_or(|ethertype| ethertype == packet.ethertype)
        && vlan.is_none_or(|vlan| match vlan {
            Vlan::Untagged => packet.vlan.is_none(),
            Vlan::Tagged(number) => packet.vlan == Some(number),
        })
        && proto.is_none_or(|proto| packet.ip.is_some_and(|(.., actual)| actual == proto))
        && src.is_none_or(|prefix| packet.ip.is_some_and(|(src, ..)| contains(prefix, src)))
        && dst.is_none_or(|prefix| packet.ip.is_some_and(|(_, dst, _)| contains(prefix, dst)))
        && port(sport, packet.ports.0)
        && port(dport, packet.ports.1)
}

/// The first rule that matches: by priority, lengths of the prefixes, age.
fn first<'a>(rules: &'a [(RuleId, Rule)], packet: &Packet, answers: bool) -> Option<&'a (RuleId, Rule)> {
    let len = |prefix: Option<Prefix>| prefix.map_or(0, |prefix| u32::from(prefix.len()));
    let order = |(id, rule): &&(RuleId, Rule)| {
        let lengths = len(rule.matching().src) + len(rule.matching().dst);
        (rule.priority(), lengths, std::cmp::Reverse(*id))
    };
    let taken = |(_, rule): &&(RuleId, Rule)| answers || rule.action() != Action::Answer;
    rules.iter().filter(taken).filter(|(_, rule)| matches(rule, packet)).max_by_key(order)
}

/// Few addresses, so that prefixes often contain each other and the frames' addresses.
fn address(v4: bool) -> impl Strategy<Value = IpAddr> {
    (0..4_u8, prop::sample::select(vec![0_u8, 1, 2, 0x80])).prop_map(move |(a, b)| {
        if v4 {
            IpAddr::from([10, a, 0, b])
        } else {
            IpAddr::from([0x20, 1, a, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, b])
        }
    })
}

fn prefix(v4: bool) -> impl Strategy<Value = Prefix> {
    let lens =
        if v4 { vec![0, 8, 14, 15, 16, 24, 25, 31, 32] } else { vec![0, 16, 22, 24, 64, 120, 121, 127, 128] };
    (address(v4), prop::sample::select(lens)).prop_map(|(address, len)| {
        let masked = match address {
            IpAddr::V4(v4) => IpAddr::from(
                (v4.to_bits() & u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0)).to_be_bytes(),
            ),
            IpAddr::V6(v6) => IpAddr::from(
                (v6.to_bits() & u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0)).to_be_bytes(),
            ),
        };
        Prefix::new(masked, len).unwrap()
    })
}

fn range() -> impl Strategy<Value = PortRange> {
    let port = prop::sample::select(vec![0_u16, 1, 53, 54, 1000, 65_534, 65_535]);
    (port.clone(), port).prop_map(|(a, b)| PortRange::new(a.min(b), a.max(b)).unwrap())
}

fn ethertype() -> impl Strategy<Value = u16> {
    prop::sample::select(vec![ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, 0x88cc])
}

fn protocol() -> impl Strategy<Value = u8> {
    prop::sample::select(vec![1, 6, 17, 47, 58])
}

fn any_rule() -> impl Strategy<Value = Rule> {
    let action = prop::sample::select(vec![Action::Driver, Action::Answer, Action::Kernel, Action::Drop]);
    let single = any::<bool>().prop_flat_map(|v4| (prefix(v4), any::<bool>())).prop_map(|(prefix, dst)| {
        if dst {
            Match { dst: Some(prefix), ..Match::default() }
        } else {
            Match { src: Some(prefix), ..Match::default() }
        }
    });
    let vlan = prop::sample::select(vec![Vlan::Untagged, Vlan::Tagged(0), Vlan::Tagged(7)]);
    let general = any::<bool>().prop_flat_map(move |v4| {
        (
            proptest::option::weighted(0.3, ethertype()),
            proptest::option::weighted(0.3, vlan.clone()),
            proptest::option::of(protocol()),
            proptest::option::weighted(0.3, prefix(v4)),
            proptest::option::weighted(0.3, prefix(v4)),
            proptest::option::weighted(0.3, range()),
            proptest::option::weighted(0.3, range()),
        )
    });
    let general = general.prop_map(|(ethertype, vlan, proto, src, dst, sport, dport)| Match {
        ethertype,
        vlan,
        proto,
        src,
        dst,
        sport,
        dport,
    });
    let priority = prop::sample::select(vec![0, 0, 0, 1, -1, i16::MIN, i16::MAX]);
    (action, prop_oneof![single, general], priority)
        .prop_filter_map("a contradiction", |(action, matching, priority)| {
            Rule::new(action, matching, priority).ok()
        })
}

fn packet() -> impl Strategy<Value = Packet> {
    let vlan = proptest::option::of(prop::sample::select(vec![0_u16, 7, 8]));
    let port = prop::sample::select(vec![0_u16, 1, 53, 54, 999, 65_535]);
    let ip = any::<bool>().prop_flat_map(|v4| (address(v4), address(v4), protocol()));
    (ethertype(), vlan, ip, port.clone(), port, any::<bool>()).prop_map(
        |(other, vlan, ip, sport, dport, fragment)| {
            // ICMP would have to be well-formed, which is another test's matter: number 47 is as good.
            let (src, dst, proto) = ip;
            let proto = if matches!(proto, 1 | 58) { 47 } else { proto };
            match other {
                ETHERTYPE_IPV4 | ETHERTYPE_IPV6 => {
                    let ethertype = if src.is_ipv4() { ETHERTYPE_IPV4 } else { ETHERTYPE_IPV6 };
                    Packet { ethertype, vlan, ip: Some((src, dst, proto)), ports: (sport, dport), fragment }
                }
                ethertype => Packet { ethertype, vlan, ip: None, ports: (0, 0), fragment: false },
            }
        },
    )
}

/// Rules that are not among `others` and come once.
fn without_twins(others: &[Rule], rules: Vec<Rule>) -> Vec<Rule> {
    let mut seen: HashSet<Rule> = others.iter().copied().collect();
    rules.into_iter().filter(|rule| seen.insert(*rule)).collect()
}

/// Where the program reads a change: what is read first has to be written last.
fn place(change: &Change) -> u8 {
    match change {
        Change::V4 { side: Side::Source, .. } | Change::V6 { side: Side::Source, .. } => 0,
        Change::V4 { .. } | Change::V6 { .. } => 1,
        Change::Table { .. } => 2,
    }
}

/// Rank and action.
type Plain = (u64, u32);

/// What the maps hold after changes. Winners without their slot: that depends on which were free.
#[derive(Clone, Debug, Default, PartialEq)]
struct Written {
    tries: BTreeMap<(bool, Vec<u8>, u8), [Plain; 2]>,
    /// General rules, flags, whether everything is the driver's.
    table: Option<(Vec<Plain>, u32, bool)>,
}

impl Written {
    fn apply(&mut self, changes: &[Change]) {
        let plain = |winner: Winner| (winner.rank, winner.action);
        for change in changes {
            let (side, address, len, winners) = match change {
                Change::V4 { side, address, len, winners } => (side, address.to_vec(), *len, winners),
                Change::V6 { side, address, len, winners } => (side, address.to_vec(), *len, winners),
                Change::Table { table, steer_all } => {
                    self.table = table.as_ref().map(|table| {
                        let general = &table.entries[..table.count as usize];
                        let general = general.iter().map(|entry| plain(entry.rule)).collect();
                        (general, table.flags, *steer_all)
                    });
                    continue;
                }
            };
            let key = (*side == Side::Source, address, len);
            match winners {
                Some(Winners { any, unanswering }) => {
                    self.tries.insert(key, [plain(*any), plain(*unanswering)]);
                }
                None => drop(self.tries.remove(&key)),
            }
        }
    }
}

fn number(winner: Winner) -> Option<RuleId> {
    winner.is_some().then(|| RuleId(u32::MAX - winner.rank as u32))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn rules_added_at_once_are_as_if_added_one_by_one(
        before in proptest::collection::vec(any_rule(), 0..40),
        bulk in proptest::collection::vec(any_rule(), 0..60),
        gone in proptest::collection::vec(any::<prop::sample::Index>(), 0..10),
    ) {
        let (mut one, mut all) = (RuleTable::default(), RuleTable::default());
        let (mut one_map, mut all_map) = (Written::default(), Written::default());
        let before = without_twins(&[], before);
        let bulk = without_twins(&before, bulk);
        for rule in &before {
            one_map.apply(&one.add(*rule).unwrap().1);
        }
        all_map.apply(&all.add_all(&before).unwrap().1);
        // Gaps in the numbers and in the prefixes.
        for index in gone.iter().filter(|_| !before.is_empty()) {
            let id = RuleId(index.index(before.len()) as u32 + 1);
            if let (Ok((_, one)), Ok((_, all))) = (one.del(id), all.del(id)) {
                one_map.apply(&one);
                all_map.apply(&all);
            }
        }
        let standing = all_map.clone();
        for rule in &bulk {
            one_map.apply(&one.add(*rule).unwrap().1);
        }
        let (ids, changes) = all.add_all(&bulk).unwrap();
        prop_assert!(changes.is_sorted_by_key(place), "{:?}", changes);
        all_map.apply(&changes);
        prop_assert_eq!(ids.len(), bulk.len());
        prop_assert_eq!(one.list(), all.list());
        prop_assert_eq!(&one_map, &all_map);
        let changes = all.del_all(ids);
        prop_assert!(changes.is_sorted_by_key(place), "{:?}", changes);
        all_map.apply(&changes);
        prop_assert_eq!(all_map.tries, standing.tries);
        prop_assert_eq!(all_map.table, standing.table);
    }

    #[test]
    fn a_bulk_with_a_rule_that_cannot_be_added_changes_nothing(
        before in proptest::collection::vec(any_rule(), 1..20),
        bulk in proptest::collection::vec(any_rule(), 0..20),
        twin in any::<prop::sample::Index>(),
        at in any::<prop::sample::Index>(),
    ) {
        let before = without_twins(&[], before);
        let mut bulk = without_twins(&before, bulk);
        let (mut table, mut map) = (RuleTable::default(), Written::default());
        map.apply(&table.add_all(&before).unwrap().1);
        let (list, standing) = (table.list(), map.clone());
        let good = bulk.clone();
        bulk.insert(at.index(bulk.len() + 1), before[twin.index(before.len())]);
        let refused = matches!(table.add_all(&bulk), Err(TableError::Duplicate { .. }));
        prop_assert!(refused);
        prop_assert_eq!(table.list(), list);
        // Nothing of it is left that a later change would bring to light.
        let (ids, changes) = table.add_all(&good).unwrap();
        prop_assert_eq!(ids.start as usize, before.len() + 1);
        map.apply(&changes);
        map.apply(&table.del_all(ids));
        prop_assert_eq!(map.tries, standing.tries);
        prop_assert_eq!(map.table, standing.table);
    }

    #[test]
    fn a_rule_reads_back_from_its_text(rule in any_rule()) {
        prop_assert_eq!(rule.to_string().parse(), Ok(rule));
    }

    #[test]
    fn the_tables_find_the_rules_that_the_model_finds(
        steps in proptest::collection::vec((any_rule(), any::<prop::sample::Index>(), 0..3), 1..60),
        packets in proptest::collection::vec(packet(), 1..20),
    ) {
        let mut table = RuleTable::default();
        let mut model: Vec<(RuleId, Rule)> = Vec::new();
        for (rule, which, step) in steps {
            if step == 0 && !model.is_empty() {
                let (id, rule) = model.remove(which.index(model.len()));
                prop_assert_eq!(table.del(id).unwrap().0, rule);
            } else if model.iter().any(|(_, other)| *other == rule) {
                let twice = matches!(table.add(rule), Err(TableError::Duplicate { .. }));
                prop_assert!(twice, "{rule}");
            } else {
                model.push((table.add(rule).unwrap().0, rule));
            }
            let compiled: Table = table.compiled();
            for packet in &packets {
                let frame = packet.frame();
                let found = decide(&*frame, &compiled, &table);
                let any = first(&model, packet, true).map(|(id, _)| *id);
                let unanswering = first(&model, packet, false).map(|(id, _)| *id);
                prop_assert_eq!(number(found.any), any, "{:?}", packet);
                prop_assert_eq!(number(found.unanswering), unanswering, "{:?}", packet);
                prop_assert!(found.unanswering.action != ACTION_ANSWER);
            }
        }
        prop_assert_eq!(table.list().len(), model.len());
        let order: Vec<_> = table.list().iter().map(|(id, rule, _)| (rule.priority(), rule.rank(id.0))).collect();
        prop_assert!(order.is_sorted_by(|a, b| a.1 > b.1 && a.0 >= b.0));
    }
}
