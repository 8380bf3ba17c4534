//! The rules by one prefix: a table for each trie of the XDP program.

use std::net::IpAddr;

use netdext_abi::rules::{Side, Table, Tries, Winner, Winners};

use super::{
    change::Change,
    prefixes::{PrefixTable, Written},
    rule::Prefix,
};

/// Of each family, by [`Side`].
pub(super) struct PrefixTries {
    v4: [PrefixTable<u32>; 2],
    v6: [PrefixTable<u128>; 2],
}

impl PrefixTries {
    pub fn new() -> Self {
        Self { v4: [PrefixTable::new(), PrefixTable::new()], v6: [PrefixTable::new(), PrefixTable::new()] }
    }

    /// The flags of the tries that have a prefix.
    pub fn flags(&self) -> u32 {
        let flag = |used: bool, flag| if used { flag } else { 0 };
        let [destination_v4, source_v4] = &self.v4;
        let [destination_v6, source_v6] = &self.v6;
        flag(destination_v4.len() > 0, Table::DESTINATION_V4)
            | flag(source_v4.len() > 0, Table::SOURCE_V4)
            | flag(destination_v6.len() > 0, Table::DESTINATION_V6)
            | flag(source_v6.len() > 0, Table::SOURCE_V6)
    }

    /// The rules with this very prefix, the lowest rank first, and how many prefixes their trie has.
    pub fn at(&self, side: Side, prefix: Prefix) -> (&[Winner], usize) {
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

    /// Adds a rule. [`Self::refresh`] says what that changes, and has to come next or after more of these.
    pub fn insert(&mut self, side: Side, prefix: Prefix, rule: Winner) {
        match prefix.address() {
            IpAddr::V4(v4) => self.v4[side as usize].insert(v4.to_bits(), prefix.len(), rule),
            IpAddr::V6(v6) => self.v6[side as usize].insert(v6.to_bits(), prefix.len(), rule),
        }
    }

    /// Takes a rule out that was inserted since [`Self::refresh`].
    pub fn take_out(&mut self, side: Side, prefix: Prefix, rank: u64) {
        match prefix.address() {
            IpAddr::V4(v4) => self.v4[side as usize].take_out(v4.to_bits(), prefix.len(), rank),
            IpAddr::V6(v6) => self.v6[side as usize].take_out(v6.to_bits(), prefix.len(), rank),
        };
    }

    /// Says what has changed since rules were inserted at these prefixes: sources before destinations.
    pub fn refresh(&mut self, inserted: impl Iterator<Item = (Side, Prefix)>) -> Vec<Change> {
        let mut v4 = [Vec::new(), Vec::new()];
        let mut v6 = [Vec::new(), Vec::new()];
        for (side, prefix) in inserted {
            match prefix.address() {
                IpAddr::V4(address) => v4[side as usize].push((address.to_bits(), prefix.len())),
                IpAddr::V6(address) => v6[side as usize].push((address.to_bits(), prefix.len())),
            }
        }
        let mut changes = Vec::new();
        for side in [Side::Source, Side::Destination] {
            let at = side as usize;
            changes.extend(changes_v4(side, self.v4[at].refresh(std::mem::take(&mut v4[at]))));
            changes.extend(changes_v6(side, self.v6[at].refresh(std::mem::take(&mut v6[at]))));
        }
        changes
    }

    /// Removes a rule, which is there, and says what changes.
    pub fn remove(&mut self, side: Side, prefix: Prefix, rank: u64) -> Vec<Change> {
        match prefix.address() {
            IpAddr::V4(v4) => {
                changes_v4(side, self.v4[side as usize].remove(v4.to_bits(), prefix.len(), rank)).collect()
            }
            IpAddr::V6(v6) => {
                changes_v6(side, self.v6[side as usize].remove(v6.to_bits(), prefix.len(), rank)).collect()
            }
        }
    }
}

fn changes_v4(side: Side, written: Vec<Written<u32>>) -> impl Iterator<Item = Change> {
    written.into_iter().map(move |Written { address, len, winners }| Change::V4 {
        side,
        address: address.to_be_bytes(),
        len,
        winners,
    })
}

fn changes_v6(side: Side, written: Vec<Written<u128>>) -> impl Iterator<Item = Change> {
    written.into_iter().map(move |Written { address, len, winners }| Change::V6 {
        side,
        address: address.to_be_bytes(),
        len,
        winners,
    })
}

impl Tries for PrefixTries {
    fn longest_v4(&self, side: Side, address: [u8; 4]) -> Option<&Winners> {
        self.v4[side as usize].longest(u32::from_be_bytes(address), 32)
    }

    fn longest_v6(&self, side: Side, address: [u8; 16]) -> Option<&Winners> {
        self.v6[side as usize].longest(u128::from_be_bytes(address), 128)
    }
}
