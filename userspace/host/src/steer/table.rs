//! All rules of a port, in order, and what each change writes to the maps.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    ops::Range,
    slice,
};

use netdext_abi::{
    maps::DEFAULT_PREFIXES,
    rules::{Entry, HIT_SLOTS, NO_SLOT, Side, TABLE_RULES, Table, Tries, Winners},
};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{
    change::{Change, in_writing_order},
    rule::{Place, Rule},
    tries::PrefixTries,
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
#[non_exhaustive]
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
    #[error("no room for the rule `{rule}`: there can be {capacity} {kind} at the most")]
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
    tries: PrefixTries,
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
            tries: PrefixTries::new(),
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
    /// As for [`Self::add_all`].
    pub fn add(&mut self, rule: Rule) -> Result<(RuleId, Vec<Change>), TableError> {
        self.add_all(slice::from_ref(&rule)).map(|(ids, changes)| (RuleId(ids.start), changes))
    }

    /// Adds rules, the oldest first, all or none of them, and returns their numbers, which follow each other. What is to
    /// be written has each element of a map once.
    ///
    /// # Errors
    ///
    /// [`TableError::Duplicate`], [`TableError::Full`]; nothing has changed then.
    pub fn add_all(&mut self, rules: &[Rule]) -> Result<(Range<u32>, Vec<Change>), TableError> {
        let (before, first) = (self.summary(), self.next);
        for rule in rules {
            if let Err(error) = self.insert(*rule) {
                self.take_back(first);
                return Err(error);
            }
        }
        let inserted = rules.iter().filter_map(|rule| match rule.place() {
            Place::Trie(side, prefix) => Some((side, prefix)),
            Place::Table => None,
        });
        let mut changes = self.tries.refresh(inserted);
        let general = rules.iter().any(|rule| rule.place() == Place::Table);
        changes.extend(self.publish(before, general));
        Ok((first..self.next, changes))
    }

    fn insert(&mut self, rule: Rule) -> Result<(), TableError> {
        self.check(&rule)?;
        let id = RuleId(self.next);
        self.next += 1;
        let slot = self.slots.take();
        let winner = rule.winner(id.0, slot);
        match rule.place() {
            Place::Trie(side, prefix) => {
                *self.trie_priorities.entry(rule.priority()).or_default() += 1;
                self.tries.insert(side, prefix, winner);
            }
            Place::Table => {
                let at = self.general.partition_point(|(_, entry)| entry.rule.rank > winner.rank);
                self.general.insert(at, (id, rule.entry(winner)));
            }
        }
        self.rules.insert(id, Stored { rule, slot });
        Ok(())
    }

    /// Takes back what was inserted from this number on, of which nobody knows yet.
    fn take_back(&mut self, first: u32) {
        for id in first..self.next {
            let Some(rule) = self.forget(RuleId(id)) else { continue };
            if let Place::Trie(side, prefix) = rule.place() {
                self.tries.take_out(side, prefix, rule.rank(id));
            }
        }
        self.next = first;
    }

    /// Removes a rule, and says what is to be written.
    ///
    /// # Errors
    ///
    /// [`TableError::NotFound`].
    pub fn del(&mut self, id: RuleId) -> Result<(Rule, Vec<Change>), TableError> {
        let before = self.summary();
        let rule = self.forget(id).ok_or(TableError::NotFound { id })?;
        let mut changes = match rule.place() {
            Place::Trie(side, prefix) => self.tries.remove(side, prefix, rule.rank(id.0)),
            Place::Table => Vec::new(),
        };
        changes.extend(self.publish(before, rule.place() == Place::Table));
        Ok((rule, changes))
    }

    /// Removes the rules of these numbers, as far as they are there, and says what is to be written.
    pub fn del_all(&mut self, ids: Range<u32>) -> Vec<Change> {
        let removed = ids.filter_map(|id| self.del(RuleId(id)).ok());
        in_writing_order(removed.flat_map(|(_, changes)| changes).collect())
    }

    /// Takes back rules that were added last, of which nobody has been told: their numbers are given again. Says what is to
    /// be written.
    pub fn del_added(&mut self, ids: Range<u32>) -> Vec<Change> {
        if !ids.is_empty() && ids.end == self.next {
            self.next = ids.start;
        }
        self.del_all(ids)
    }

    /// Removes a rule from everywhere but the tries.
    fn forget(&mut self, id: RuleId) -> Option<Rule> {
        let Stored { rule, slot } = self.rules.remove(&id)?;
        match rule.place() {
            Place::Trie(..) => {
                if let Some(count) = self.trie_priorities.get_mut(&rule.priority()) {
                    *count -= 1;
                    if *count == 0 {
                        self.trie_priorities.remove(&rule.priority());
                    }
                }
            }
            Place::Table => self.general.retain(|(other, _)| *other != id),
        }
        self.slots.give_back(slot);
        Some(rule)
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
        Summary { flags: self.tries.flags(), steer_all: self.steers_all(), any: !self.is_empty() }
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
                let (own, used) = self.tries.at(side, prefix);
                if own.is_empty() && used >= self.capacity {
                    return full("prefixes of this kind", self.capacity);
                }
                // Equal rules differ in the number, which is the last part of the rank.
                let from = own.partition_point(|winner| winner.rank < rule.rank(u32::MAX));
                let alike = own[from..].iter().take_while(|winner| winner.rank <= rule.rank(0));
                let mut numbers = alike.map(|winner| RuleId(u32::MAX - winner.rank as u32));
                numbers.find(|id| self.rules.get(id).is_some_and(|stored| stored.rule == *rule))
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
}

impl Tries for RuleTable {
    fn longest_v4(&self, side: Side, address: [u8; 4]) -> Option<&Winners> {
        self.tries.longest_v4(side, address)
    }

    fn longest_v6(&self, side: Side, address: [u8; 16]) -> Option<&Winners> {
        self.tries.longest_v6(side, address)
    }
}
