//! The MAC addresses of neighbours, learnt by ARP and neighbour discovery, confirmed and forgotten in time.
//!
//! ```text
//!                 resolve                      answered
//!   (unknown) --------------> Incomplete ---------------------> Reachable <------+
//!       ^  |  learn              |  heard                         | lifetime over, | answered
//!       |  +----------> Stale <--+--- another MAC heard ----------+  and used      |
//!       |                 | resolve                               v                |
//!       |                 +-----------------------------------> Probe -------------+
//!       +---- attempts used up, or lifetime over and not used ----+
//! ```
//! The states are those of RFC 4861, 7.3.2, without the delay before a probe; ARP has the same ones (RFC 1122,
//! 2.3.2.1: unicast poll). Only an answer to our own question makes an entry `Reachable`: what a neighbour
//! says unasked is used, and then checked.

use std::collections::btree_set::BTreeSet;
use std::collections::hash_map::{Entry as Slot, HashMap};
use std::net::IpAddr;
use std::time::Duration;

use crate::dispatch::Timestamp;
use crate::proto::MacAddr;

/// How a table of neighbours behaves.
#[derive(Clone, Copy, Debug)]
pub struct NeighborConfig {
    /// Time between two requests to the same neighbour (RetransTimer of RFC 4861, 10).
    pub retry: Duration,
    /// Requests before a neighbour is given up (MAX_MULTICAST_SOLICIT and MAX_UNICAST_SOLICIT).
    pub attempts: u32,
    /// How long a confirmed or heard address is believed (REACHABLE_TIME).
    pub lifetime: Duration,
    /// Entries at the most.
    pub capacity: usize,
}

impl Default for NeighborConfig {
    fn default() -> Self {
        Self {
            retry: Duration::from_secs(1),
            attempts: 3,
            lifetime: Duration::from_secs(30),
            capacity: 16_384,
        }
    }
}

/// A request that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Solicit {
    /// Whose MAC address is asked for.
    pub target: IpAddr,
    /// The station to ask; `None` to ask everybody.
    pub to: Option<MacAddr>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Asked for; no MAC address yet.
    Incomplete,
    /// Answered within the lifetime.
    Reachable,
    /// Heard of, not used since.
    Stale,
    /// In use and being asked again.
    Probe,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    state: State,
    mac: MacAddr,
    /// When the next request is due, or the lifetime over. Each entry is in `Neighbors::due` under it.
    deadline: Timestamp,
    attempts: u32,
    used: bool,
}

/// A bounded table from IP address to MAC address. It sends nothing itself: [`pop_due`](Self::pop_due) says
/// what to send.
#[derive(Debug)]
pub struct Neighbors {
    config: NeighborConfig,
    entries: HashMap<IpAddr, Entry>,
    due: BTreeSet<(Timestamp, IpAddr)>,
    failed: u64,
}

impl Neighbors {
    /// An empty table.
    pub fn new(config: NeighborConfig) -> Self {
        Self { config, entries: HashMap::new(), due: BTreeSet::new(), failed: 0 }
    }

    /// The MAC address to send to now. Begins to ask for it where it is unknown (and the table has room),
    /// and to confirm it where it is only heard of.
    pub fn resolve(&mut self, address: IpAddr, now: Timestamp) -> Option<MacAddr> {
        let has_room = self.entries.len() < self.config.capacity;
        match self.entries.entry(address) {
            Slot::Occupied(mut slot) => {
                let entry = slot.get_mut();
                entry.used = true;
                match entry.state {
                    State::Incomplete => return None,
                    State::Reachable | State::Probe => {}
                    State::Stale => reschedule(&mut self.due, address, entry, State::Probe, now),
                }
                Some(entry.mac)
            }
            Slot::Vacant(slot) => {
                if has_room {
                    let state = State::Incomplete;
                    slot.insert(Entry { state, mac: [0; 6], deadline: now, attempts: 0, used: true });
                    self.due.insert((now, address));
                }
                None
            }
        }
    }

    /// A neighbour told us its MAC address in a request to us: remembers it, also when it was unknown, as
    /// RFC 826 and RFC 4861 (7.2.3) have it. Returns whether the table had room.
    pub fn learn(&mut self, address: IpAddr, mac: MacAddr, now: Timestamp) -> bool {
        if self.hear(address, mac, now) {
            return true;
        }
        if self.entries.len() >= self.config.capacity {
            return false;
        }
        let deadline = now + self.config.lifetime;
        self.entries.insert(address, Entry { state: State::Stale, mac, deadline, attempts: 0, used: false });
        self.due.insert((deadline, address));
        true
    }

    /// A neighbour mentioned its MAC address: merged where the neighbour is known (RFC 826). Returns whether
    /// it is.
    pub fn hear(&mut self, address: IpAddr, mac: MacAddr, now: Timestamp) -> bool {
        let Some(entry) = self.entries.get_mut(&address) else { return false };
        if entry.state == State::Incomplete || entry.mac != mac {
            entry.mac = mac;
            // Believed until the next use, which asks again.
            reschedule(&mut self.due, address, entry, State::Stale, now + self.config.lifetime);
        }
        true
    }

    /// A neighbour answered, or advertised itself: RFC 4861, 7.2.5. An ARP reply is an answer that
    /// overrides. Returns whether the neighbour is known; others are not remembered.
    pub fn advertised(
        &mut self,
        address: IpAddr,
        mac: Option<MacAddr>,
        solicited: bool,
        overrides: bool,
        now: Timestamp,
    ) -> bool {
        let Some(entry) = self.entries.get_mut(&address) else { return false };
        let lifetime_over = now + self.config.lifetime;
        let known = (entry.state != State::Incomplete).then_some(entry.mac);
        match (known, mac) {
            (None, None) => {}
            (Some(old), Some(new)) if old != new && !overrides => {
                if entry.state == State::Reachable {
                    reschedule(&mut self.due, address, entry, State::Stale, lifetime_over);
                }
            }
            (_, mac) => {
                entry.mac = mac.unwrap_or(entry.mac);
                if solicited {
                    entry.used = false;
                    reschedule(&mut self.due, address, entry, State::Reachable, lifetime_over);
                } else if known != Some(entry.mac) {
                    reschedule(&mut self.due, address, entry, State::Stale, lifetime_over);
                }
            }
        }
        true
    }

    /// Takes the next request that is due at `now`, and gives up the neighbours that have been asked often
    /// enough or were not used.
    pub fn pop_due(&mut self, now: Timestamp) -> Option<Solicit> {
        while let Some(&(deadline, target)) = self.due.first() {
            if deadline > now {
                return None;
            }
            let Some(entry) = self.entries.get_mut(&target) else {
                unreachable!("every address in `due` has an entry")
            };
            match entry.state {
                State::Reachable if entry.used => {
                    reschedule(&mut self.due, target, entry, State::Probe, deadline);
                }
                State::Incomplete | State::Probe if entry.attempts < self.config.attempts => {
                    let attempts = entry.attempts + 1;
                    let state = entry.state;
                    reschedule(&mut self.due, target, entry, state, now + self.config.retry);
                    entry.attempts = attempts;
                    return Some(Solicit { target, to: (state == State::Probe).then_some(entry.mac) });
                }
                state => {
                    self.failed += u64::from(matches!(state, State::Incomplete | State::Probe));
                    self.entries.remove(&target);
                    self.due.pop_first();
                }
            }
        }
        None
    }

    /// When [`pop_due`](Self::pop_due) has something to do next.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        self.due.first().map(|&(deadline, _)| deadline)
    }

    /// How many neighbours are in the table.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether the table is empty.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Neighbours given up because they did not answer.
    pub fn failed(&self) -> u64 {
        self.failed
    }
}

fn reschedule(
    due: &mut BTreeSet<(Timestamp, IpAddr)>,
    address: IpAddr,
    entry: &mut Entry,
    state: State,
    deadline: Timestamp,
) {
    due.remove(&(entry.deadline, address));
    due.insert((deadline, address));
    (entry.state, entry.deadline, entry.attempts) = (state, deadline, 0);
}

#[cfg(test)]
mod tests {
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
}
