//! All rules of a port, in order, and what each change writes to the maps.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    net::IpAddr,
};

use netdext_abi::{
    maps::DEFAULT_PREFIXES,
    rules::{Entry, HIT_SLOTS, NO_SLOT, Side, TABLE_RULES, Table, Tries, Winner, Winners},
};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{
    prefixes::{PrefixTable, Written},
    rule::{Place, Prefix, Rule},
};

/// The number of a rule, given when it is added and never given again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RuleId(pub u32);

impl fmt::Display for RuleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Why a rule can't be added or removed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TableError {
    /// The same rule is there.
    #[error("the rule `{rule}` is there already, as number {id}")]
    Duplicate {
        /// The rule.
        rule: Box<Rule>,
        /// Its number.
        id: RuleId,
    },
    /// There is no room.
    #[error("no room for the rule `{rule}`: there are {capacity} {kind} already; delete one first")]
    Full {
        /// The rule.
        rule: Box<Rule>,
        /// What there are too many of.
        kind: &'static str,
        /// How many there can be.
        capacity: usize,
    },
    /// There is no such rule.
    #[error("there is no steering rule {id}; `netdext steer list` shows those that there are")]
    NotFound {
        /// The number that was asked for.
        id: RuleId,
    },
}

/// One write to the maps of the XDP program. Writes of one change are to be made in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// An element of an IPv4 trie; without winners it is removed.
    V4 {
        /// Which trie.
        side: Side,
        /// The address bits in network order, zeros behind the prefix.
        address: [u8; 4],
        /// Length of the prefix in bits.
        len: u8,
        /// The new value.
        winners: Option<Winners>,
    },
    /// An element of an IPv6 trie; without winners it is removed.
    V6 {
        /// Which trie.
        side: Side,
        /// The address bits in network order, zeros behind the prefix.
        address: [u8; 16],
        /// Length of the prefix in bits.
        len: u8,
        /// The new value.
        winners: Option<Winners>,
    },
    /// Another table, or none when there are no rules.
    Table {
        /// The table.
        table: Option<Box<Table>>,
        /// The first rule takes every frame to the driver.
        steer_all: bool,
    },
}

struct Stored {
    rule: Rule,
    slot: u32,
}

/// What [`Change::Table`] tells besides the general rules.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Summary {
    flags: u32,
    steer_all: bool,
    any: bool,
}

/// The rules of a port. Knows nothing of the kernel: what has to be written is returned as [`Change`]s.
///
/// It is a [`Tries`] too, so that frames can be judged on the host as the XDP program does.
pub struct RuleTable {
    rules: BTreeMap<RuleId, Stored>,
    v4: [PrefixTable<u32>; 2],
    v6: [PrefixTable<u128>; 2],
    /// By rank, the highest first.
    general: Vec<(RuleId, Entry)>,
    /// How many rules in tries have each priority.
    trie_priorities: BTreeMap<i16, usize>,
    slots: Slots,
    next: u32,
    capacity: usize,
}

/// Which numbers of hit counters are free. One that was given back is given out again as late as possible.
#[derive(Default)]
struct Slots {
    unused: u32,
    returned: VecDeque<u32>,
}

impl Slots {
    fn take(&mut self) -> u32 {
        if self.unused < HIT_SLOTS {
            self.unused += 1;
            return self.unused - 1;
        }
        self.returned.pop_front().unwrap_or(NO_SLOT)
    }

    fn give_back(&mut self, slot: u32) {
        if slot != NO_SLOT {
            self.returned.push_back(slot);
        }
    }
}

impl Default for RuleTable {
    fn default() -> Self {
        Self::new(DEFAULT_PREFIXES as usize)
    }
}

impl RuleTable {
    /// No rules, and room for `capacity` prefixes in each trie.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self {
            rules: BTreeMap::new(),
            v4: [PrefixTable::new(), PrefixTable::new()],
            v6: [PrefixTable::new(), PrefixTable::new()],
            general: Vec::new(),
            trie_priorities: BTreeMap::new(),
            slots: Slots::default(),
            next: 1,
            capacity,
        }
    }

    /// Adds a rule. It is number 1, 2 and so on; what is to be written comes with the number.
    ///
    /// # Errors
    ///
    /// [`TableError::Duplicate`], [`TableError::Full`]; nothing has changed then.
    pub fn add(&mut self, rule: Rule) -> Result<(RuleId, Vec<Change>), TableError> {
        self.check(&rule)?;
        let before = self.summary();
        let id = RuleId(self.next);
        self.next += 1;
        let slot = self.slots.take();
        let winner = rule.winner(id.0, slot);
        let mut changes = match rule.place() {
            Place::Trie(side, prefix) => {
                *self.trie_priorities.entry(rule.priority()).or_default() += 1;
                self.change_trie(side, prefix, |change| change.add(winner))
            }
            Place::Table => {
                let at = self.general.partition_point(|(_, entry)| entry.rule.rank > winner.rank);
                self.general.insert(at, (id, rule.entry(winner)));
                Vec::new()
            }
        };
        self.rules.insert(id, Stored { rule, slot });
        changes.extend(self.publish(before, rule.place() == Place::Table));
        Ok((id, changes))
    }

    /// Removes a rule, and says what is to be written.
    ///
    /// # Errors
    ///
    /// [`TableError::NotFound`].
    pub fn del(&mut self, id: RuleId) -> Result<(Rule, Vec<Change>), TableError> {
        let before = self.summary();
        let Stored { rule, slot } = self.rules.remove(&id).ok_or(TableError::NotFound { id })?;
        let mut changes = match rule.place() {
            Place::Trie(side, prefix) => {
                if let Some(count) = self.trie_priorities.get_mut(&rule.priority()) {
                    *count -= 1;
                    if *count == 0 {
                        self.trie_priorities.remove(&rule.priority());
                    }
                }
                self.change_trie(side, prefix, |change| change.remove(rule.rank(id.0)))
            }
            Place::Table => {
                self.general.retain(|(other, _)| *other != id);
                Vec::new()
            }
        };
        self.slots.give_back(slot);
        changes.extend(self.publish(before, rule.place() == Place::Table));
        Ok((rule, changes))
    }

    /// The rules in the order in which they are tried, each with the number of its hit counter, if it has one.
    #[must_use]
    pub fn list(&self) -> Vec<(RuleId, Rule, Option<u32>)> {
        let slot = |slot| (slot != NO_SLOT).then_some(slot);
        let mut list: Vec<_> =
            self.rules.iter().map(|(id, stored)| (*id, stored.rule, slot(stored.slot))).collect();
        list.sort_by_key(|(id, rule, _)| std::cmp::Reverse(rule.rank(id.0)));
        list
    }

    /// A rule by its number, with the number of its hit counter.
    #[must_use]
    pub fn get(&self, id: RuleId) -> Option<(&Rule, Option<u32>)> {
        self.rules.get(&id).map(|stored| (&stored.rule, (stored.slot != NO_SLOT).then_some(stored.slot)))
    }

    /// Number of rules.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    /// Whether there are no rules.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// The table that the XDP program is to scan.
    #[must_use]
    pub fn compiled(&self) -> Table {
        let mut table = Table { flags: self.summary().flags, ..Table::default() };
        for (to, (_, entry)) in table.entries.iter_mut().zip(&self.general) {
            *to = *entry;
            table.count += 1;
        }
        table
    }

    /// Whether the first rule takes every frame to the driver, whatever it is.
    #[must_use]
    pub fn steers_all(&self) -> bool {
        let first = self.general.first().and_then(|(id, _)| self.rules.get(id));
        let highest = self.trie_priorities.last_key_value().map(|(priority, _)| *priority);
        // A rule in a trie of the same priority may have the longer prefix.
        first.is_some_and(|first| {
            first.rule.is_all() && highest.is_none_or(|trie| trie < first.rule.priority())
        })
    }

    fn summary(&self) -> Summary {
        let flag = |used: bool, flag| if used { flag } else { 0 };
        let [destination_v4, source_v4] = &self.v4;
        let [destination_v6, source_v6] = &self.v6;
        let flags = flag(destination_v4.len() > 0, Table::DESTINATION_V4)
            | flag(source_v4.len() > 0, Table::SOURCE_V4)
            | flag(destination_v6.len() > 0, Table::DESTINATION_V6)
            | flag(source_v6.len() > 0, Table::SOURCE_V6);
        Summary { flags, steer_all: self.steers_all(), any: !self.is_empty() }
    }

    /// The last write of a change, where one is needed: it makes what was written to an empty trie count.
    fn publish(&self, before: Summary, general: bool) -> Option<Change> {
        let now = self.summary();
        let table = || now.any.then(|| Box::new(self.compiled()));
        (general || now != before).then(|| Change::Table { table: table(), steer_all: now.steer_all })
    }

    fn check(&self, rule: &Rule) -> Result<(), TableError> {
        let full = |kind, capacity| Err(TableError::Full { rule: Box::new(*rule), kind, capacity });
        // The rank of the highest number would be that of no rule.
        if self.next == u32::MAX {
            return full("numbers given to rules", self.next as usize);
        }
        let same = match rule.place() {
            Place::Trie(side, prefix) => {
                let (own, used) = self.at(side, prefix);
                if own.is_empty() && used >= self.capacity {
                    return full("prefixes", self.capacity);
                }
                // The number is the part of the rank in which equal rules differ.
                let numbers = own.iter().map(|winner| RuleId(u32::MAX - winner.rank as u32));
                numbers.into_iter().find(|id| self.rules.get(id).is_some_and(|stored| stored.rule == *rule))
            }
            Place::Table => {
                let same = |id: &RuleId| self.rules.get(id).is_some_and(|stored| stored.rule == *rule);
                let same = self.general.iter().map(|(id, _)| *id).find(same);
                if same.is_none() && self.general.len() == TABLE_RULES {
                    return full("rules with more than one prefix", TABLE_RULES);
                }
                same
            }
        };
        same.map_or(Ok(()), |id| Err(TableError::Duplicate { rule: Box::new(*rule), id }))
    }

    /// The rules with a prefix alone, and how many prefixes their trie has.
    fn at(&self, side: Side, prefix: Prefix) -> (&[Winner], usize) {
        match prefix.address() {
            IpAddr::V4(v4) => {
                let trie = &self.v4[side as usize];
                (trie.own(v4.to_bits(), prefix.len()), trie.len())
            }
            IpAddr::V6(v6) => {
                let trie = &self.v6[side as usize];
                (trie.own(v6.to_bits(), prefix.len()), trie.len())
            }
        }
    }

    fn change_trie(
        &mut self,
        side: Side,
        prefix: Prefix,
        change: impl Fn(TrieChange<'_>) -> Vec<Change>,
    ) -> Vec<Change> {
        let len = prefix.len();
        match prefix.address() {
            IpAddr::V4(v4) => {
                change(TrieChange::V4 { side, trie: &mut self.v4[side as usize], address: v4.to_bits(), len })
            }
            IpAddr::V6(v6) => {
                change(TrieChange::V6 { side, trie: &mut self.v6[side as usize], address: v6.to_bits(), len })
            }
        }
    }
}

/// A place in one of the tries.
enum TrieChange<'a> {
    V4 { side: Side, trie: &'a mut PrefixTable<u32>, address: u32, len: u8 },
    V6 { side: Side, trie: &'a mut PrefixTable<u128>, address: u128, len: u8 },
}

impl TrieChange<'_> {
    fn add(self, winner: Winner) -> Vec<Change> {
        match self {
            Self::V4 { side, trie, address, len } => changes_v4(side, trie.add(address, len, winner)),
            Self::V6 { side, trie, address, len } => changes_v6(side, trie.add(address, len, winner)),
        }
    }

    fn remove(self, rank: u64) -> Vec<Change> {
        match self {
            Self::V4 { side, trie, address, len } => changes_v4(side, trie.remove(address, len, rank)),
            Self::V6 { side, trie, address, len } => changes_v6(side, trie.remove(address, len, rank)),
        }
    }
}

fn changes_v4(side: Side, written: Vec<Written<u32>>) -> Vec<Change> {
    let change = |Written { address, len, winners }: Written<u32>| Change::V4 {
        side,
        address: address.to_be_bytes(),
        len,
        winners,
    };
    written.into_iter().map(change).collect()
}

fn changes_v6(side: Side, written: Vec<Written<u128>>) -> Vec<Change> {
    let change = |Written { address, len, winners }: Written<u128>| Change::V6 {
        side,
        address: address.to_be_bytes(),
        len,
        winners,
    };
    written.into_iter().map(change).collect()
}

impl Tries for RuleTable {
    fn longest_v4(&self, side: Side, address: [u8; 4]) -> Option<&Winners> {
        self.v4[side as usize].longest(u32::from_be_bytes(address), 32)
    }

    fn longest_v6(&self, side: Side, address: [u8; 16]) -> Option<&Winners> {
        self.v6[side as usize].longest(u128::from_be_bytes(address), 128)
    }
}
