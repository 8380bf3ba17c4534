//! Prefixes with the winners at each: what lies in one trie of the XDP program.
//!
//! The kernel finds the longest prefix that contains an address, and must find there all it needs. So the winners at a
//! prefix are those among its own rules and the rules of every prefix around it, and a change is carried down to the
//! prefixes inside. In the order of (address, length) whatever lies inside a prefix follows it without a gap.

use std::collections::{BTreeMap, btree_map::Entry};
use std::ops::RangeBounds;

use netdext_abi::rules::{ACTION_ANSWER, Winner, Winners};

/// From one new prefix for so many present ones on, a walk through all costs less than looking up what is around each.
const DENSE: usize = 16;

/// The bits of an address, the first one highest.
pub(super) trait Bits: Copy + Ord {
    const WIDTH: u8;
    /// The first and the last address of those that begin with the same `len` bits.
    fn range(self, len: u8) -> (Self, Self);
}

impl Bits for u32 {
    const WIDTH: u8 = 32;

    fn range(self, len: u8) -> (Self, Self) {
        let rest = Self::MAX.checked_shr(u32::from(len)).unwrap_or(0);
        (self & !rest, self | rest)
    }
}

impl Bits for u128 {
    const WIDTH: u8 = 128;

    fn range(self, len: u8) -> (Self, Self) {
        let rest = Self::MAX.checked_shr(u32::from(len)).unwrap_or(0);
        (self & !rest, self | rest)
    }
}

struct Node {
    /// The rules with this very prefix, at least one, the lowest rank first.
    own: Vec<Winner>,
    /// Among those and the rules of all prefixes around it.
    winners: Winners,
}

impl Node {
    /// The winners among its own rules and what those around it make of the address.
    fn judge(&self, around: Winners) -> Winners {
        let highest = self.own.iter().rev();
        let unanswering = highest.clone().find(|rule| rule.action != ACTION_ANSWER);
        highest.take(1).chain(unanswering).fold(around, |winners, rule| winners.with(*rule))
    }
}

/// A change of one element of the trie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Written<A> {
    pub address: A,
    pub len: u8,
    /// `None` when it is to be removed.
    pub winners: Option<Winners>,
}

/// The rules of one trie.
pub(super) struct PrefixTable<A> {
    nodes: BTreeMap<(A, u8), Node>,
    /// How many prefixes there are of each length.
    lengths: Vec<u32>,
}

impl<A: Bits> PrefixTable<A> {
    pub fn new() -> Self {
        Self { nodes: BTreeMap::new(), lengths: vec![0; usize::from(A::WIDTH) + 1] }
    }

    /// Number of prefixes.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// The rules with this very prefix.
    pub fn own(&self, address: A, len: u8) -> &[Winner] {
        self.nodes.get(&(address, len)).map_or(&[], |node| &node.own)
    }

    /// The winners at the longest prefix of at most `len` bits that contains the address.
    pub fn longest(&self, address: A, len: u8) -> Option<&Winners> {
        (0..=len)
            .rev()
            .filter(|len| self.lengths[usize::from(*len)] > 0)
            .find_map(|len| self.nodes.get(&(address.range(len).0, len)))
            .map(|node| &node.winners)
    }

    fn inherited(&self, address: A, len: u8) -> Winners {
        let around = len.checked_sub(1).and_then(|shorter| self.longest(address, shorter));
        around.copied().unwrap_or(Winners::NONE)
    }

    /// Adds a rule to its own prefix. [`Self::refresh`] has to be told of the prefix before anything else is asked.
    pub fn insert(&mut self, address: A, len: u8, rule: Winner) {
        match self.nodes.entry((address, len)) {
            Entry::Vacant(vacant) => {
                vacant.insert(Node { own: vec![rule], winners: Winners::NONE });
                self.lengths[usize::from(len)] += 1;
            }
            Entry::Occupied(mut node) => {
                let own = &mut node.get_mut().own;
                own.insert(own.partition_point(|other| other.rank < rule.rank), rule);
            }
        }
    }

    /// Takes a rule out of its own prefix, and says whether the prefix is gone with it. Those inside still have it.
    pub fn take_out(&mut self, address: A, len: u8, rank: u64) -> bool {
        let Entry::Occupied(mut node) = self.nodes.entry((address, len)) else { return false };
        let own = &mut node.get_mut().own;
        if let Ok(at) = own.binary_search_by_key(&rank, |rule| rule.rank) {
            own.remove(at);
        }
        let gone = node.get().own.is_empty();
        if gone {
            node.remove();
            self.lengths[usize::from(len)] -= 1;
        }
        gone
    }

    /// Says what has changed since rules were added to these prefixes: the outer ones before those inside.
    pub fn refresh(&mut self, mut added: Vec<(A, u8)>) -> Vec<Written<A>> {
        let mut written = Vec::with_capacity(added.len());
        if added.len().saturating_mul(DENSE) >= self.nodes.len() {
            self.sweep(.., Winners::NONE, &mut written);
            return written;
        }
        added.sort_unstable();
        let mut swept = None;
        for (address, len) in added {
            // It lies inside the one before.
            if swept.is_some_and(|last| address <= last) {
                continue;
            }
            let (first, last) = address.range(len);
            let around = self.inherited(address, len);
            self.sweep((first, len)..=(last, A::WIDTH), around, &mut written);
            swept = Some(last);
        }
        written
    }

    /// Judges a range anew, and notes where another rule wins.
    fn sweep(&mut self, range: impl RangeBounds<(A, u8)>, around: Winners, written: &mut Vec<Written<A>>) {
        // The prefixes around the present one, the innermost last, each with its last address.
        let mut outer: Vec<(A, Winners)> = Vec::new();
        for (&(address, len), node) in self.nodes.range_mut(range) {
            while outer.pop_if(|(last, _)| *last < address).is_some() {}
            let winners = node.judge(outer.last().map_or(around, |(_, winners)| *winners));
            if winners != node.winners {
                node.winners = winners;
                written.push(Written { address, len, winners: Some(winners) });
            }
            outer.push((address.range(len).1, winners));
        }
    }

    /// Removes a rule, which is there, and says what changes.
    pub fn remove(&mut self, address: A, len: u8, rank: u64) -> Vec<Written<A>> {
        let mut written = Vec::new();
        if self.take_out(address, len, rank) {
            written.push(Written { address, len, winners: None });
        }
        let (first, last) = address.range(len);
        let lost = |node: &Node| node.winners.any.rank == rank || node.winners.unanswering.rank == rank;
        let inside = self.nodes.range((first, len)..=(last, A::WIDTH));
        let losers: Vec<_> = inside.filter(|(_, node)| lost(node)).map(|(key, _)| *key).collect();
        // The outer ones come first, so what the inner ones inherit is right already.
        for (address, len) in losers {
            let inherited = self.inherited(address, len);
            let Some(node) = self.nodes.get_mut(&(address, len)) else { continue };
            node.winners = node.judge(inherited);
            written.push(Written { address, len, winners: Some(node.winners) });
        }
        written
    }
}
