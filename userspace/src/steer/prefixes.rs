//! Prefixes with the winners at each: what lies in one trie of the XDP program.
//!
//! The kernel finds the longest prefix that contains an address, and must find there all it needs. So the winners at a
//! prefix are those among its own rules and the rules of every prefix around it, and a change is carried down to the
//! prefixes inside. In the order of (address, length) whatever lies inside a prefix follows it without a gap.

use std::collections::BTreeMap;

use netdext_abi::rules::{Winner, Winners};

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
    /// The rules with this very prefix, at least one.
    own: Vec<Winner>,
    /// Among those and the rules of all prefixes around it.
    winners: Winners,
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

    pub fn contains(&self, address: A, len: u8) -> bool {
        self.nodes.contains_key(&(address, len))
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

    /// Adds a rule and says what changes.
    pub fn add(&mut self, address: A, len: u8, rule: Winner) -> Vec<Written<A>> {
        let mut written = Vec::new();
        if !self.contains(address, len) {
            let winners = self.inherited(address, len).with(rule);
            self.nodes.insert((address, len), Node { own: vec![rule], winners });
            self.lengths[usize::from(len)] += 1;
            written.push(Written { address, len, winners: Some(winners) });
        } else if let Some(node) = self.nodes.get_mut(&(address, len)) {
            node.own.push(rule);
        }
        // The prefix itself comes first; a new one has the rule already, and is left as it is.
        let (first, last) = address.range(len);
        for (&(address, len), node) in self.nodes.range_mut((first, len)..=(last, A::WIDTH)) {
            let winners = node.winners.with(rule);
            if winners != node.winners {
                node.winners = winners;
                written.push(Written { address, len, winners: Some(winners) });
            }
        }
        written
    }

    /// Removes a rule, which is there, and says what changes.
    pub fn remove(&mut self, address: A, len: u8, rank: u64) -> Vec<Written<A>> {
        let mut written = Vec::new();
        if let Some(node) = self.nodes.get_mut(&(address, len)) {
            node.own.retain(|rule| rule.rank != rank);
            if node.own.is_empty() {
                self.nodes.remove(&(address, len));
                self.lengths[usize::from(len)] -= 1;
                written.push(Written { address, len, winners: None });
            }
        }
        let (first, last) = address.range(len);
        let lost = |node: &Node| node.winners.any.rank == rank || node.winners.unanswering.rank == rank;
        let inside = self.nodes.range((first, len)..=(last, A::WIDTH));
        let losers: Vec<_> = inside.filter(|(_, node)| lost(node)).map(|(key, _)| *key).collect();
        // The outer ones come first, so what the inner ones inherit is right already.
        for (address, len) in losers {
            let inherited = self.inherited(address, len);
            let Some(node) = self.nodes.get_mut(&(address, len)) else { continue };
            node.winners = node.own.iter().fold(inherited, |winners, rule| winners.with(*rule));
            written.push(Written { address, len, winners: Some(node.winners) });
        }
        written
    }
}
