//! The maps of steering rules, written so that every frame sees the rules as they were at one moment.
//!
//! The program reads in one order: the number of the table, the tries of destinations, the tries of sources. A frame that
//! is judged meanwhile may see a later change and miss an earlier one only if the later one lies further back in that
//! order. So before such a change, and before a table is written again that a frame may still be reading, the kernel is
//! asked to let every program that runs now come to its end ([`wait_for_programs`]).

use std::time::Duration;

use aya::{
    Ebpf,
    maps::{
        Array, MapData, PerCpuArray,
        lpm_trie::{Key, LpmTrie},
    },
};
use netdext_abi::{
    maps::{DESTINATION_V4, DESTINATION_V6, RULE_HITS, RULES, SOURCE_V4, SOURCE_V6},
    rules::{Side, TABLES, Table, Winners},
};
use rustix::thread::{MembarrierCommand, membarrier};

use super::steering::{SteeringError, is_missing, refused, take};
use crate::steer::Change;

type Trie<A> = LpmTrie<MapData, A, [u8; size_of::<Winners>()]>;

/// Longer than any XDP program runs. Only for kernels that can't be asked to wait (`nohz_full`).
const PROGRAM_RUN: Duration = Duration::from_millis(50);

/// Places in the order in which the program reads them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    TableNumber,
    Destinations,
    Sources,
}

impl From<Side> for Place {
    fn from(side: Side) -> Self {
        match side {
            Side::Destination => Self::Destinations,
            Side::Source => Self::Sources,
        }
    }
}

/// The maps of rules.
pub(crate) struct RuleMaps {
    tables: Array<MapData, [u8; size_of::<Table>()]>,
    v4: [(Trie<[u8; 4]>, &'static str); 2],
    v6: [(Trie<[u8; 16]>, &'static str); 2],
    hits: PerCpuArray<MapData, u64>,
    /// The number of the table that was written last, from 1.
    table: u32,
    /// Tables that can be written before the program has to have come to its end once.
    fresh: u32,
    /// The first place, in reading order, that was changed since.
    unsettled: Option<Place>,
    /// What a counter was at when its rule was added.
    bases: Vec<u64>,
}

impl RuleMaps {
    pub(crate) fn take(ebpf: &mut Ebpf) -> Result<Self, SteeringError> {
        Ok(Self {
            tables: take(ebpf, RULES)?,
            v4: [(take(ebpf, DESTINATION_V4)?, DESTINATION_V4), (take(ebpf, SOURCE_V4)?, SOURCE_V4)],
            v6: [(take(ebpf, DESTINATION_V6)?, DESTINATION_V6), (take(ebpf, SOURCE_V6)?, SOURCE_V6)],
            hits: take(ebpf, RULE_HITS)?,
            table: 0,
            fresh: TABLES,
            unsettled: None,
            bases: Vec::new(),
        })
    }

    /// Writes an element of a trie.
    pub(crate) fn write_v4(
        &mut self,
        side: Side,
        address: [u8; 4],
        len: u8,
        winners: Option<Winners>,
    ) -> Result<(), SteeringError> {
        self.settle_before(side.into());
        let (trie, name) = &mut self.v4[side as usize];
        write(trie, name, &Key::new(u32::from(len), address), winners)
    }

    /// Writes an element of a trie.
    pub(crate) fn write_v6(
        &mut self,
        side: Side,
        address: [u8; 16],
        len: u8,
        winners: Option<Winners>,
    ) -> Result<(), SteeringError> {
        self.settle_before(side.into());
        let (trie, name) = &mut self.v6[side as usize];
        write(trie, name, &Key::new(u32::from(len), address), winners)
    }

    /// Writes a table that no frame is reading, and returns its number. It counts once the configuration says so, which
    /// is for the caller to do next.
    pub(crate) fn write_table(&mut self, table: &Table) -> Result<u8, SteeringError> {
        if self.fresh == 0 {
            self.settle();
        }
        let number = self.table % TABLES + 1;
        let mut bytes = Box::new([0; size_of::<Table>()]);
        table.write_to(&mut bytes);
        self.tables.set(number - 1, *bytes, 0).map_err(refused("writing the rules", RULES))?;
        self.table = number;
        self.fresh -= 1;
        Ok(number as u8)
    }

    /// Says that the number of the table has been changed.
    pub(crate) fn table_switched(&mut self) {
        self.changed(Place::TableNumber);
    }

    fn changed(&mut self, place: Place) {
        self.unsettled = Some(self.unsettled.map_or(place, |first| first.min(place)));
    }

    /// What is read after another change must not be changed while a frame may have missed that one.
    fn settle_before(&mut self, place: Place) {
        if self.unsettled.is_some_and(|first| first < place) {
            self.settle();
        }
        self.changed(place);
    }

    fn settle(&mut self) {
        wait_for_programs();
        self.unsettled = None;
        // All but the one that counts.
        self.fresh = TABLES - 1;
    }

    /// A rule with this counter begins at 0.
    pub(crate) fn begin_hits(&mut self, slot: u32) -> Result<(), SteeringError> {
        let at = slot as usize;
        if self.bases.len() <= at {
            self.bases.resize(at + 1, 0);
        }
        self.bases[at] = self.counted(slot)?;
        Ok(())
    }

    /// Frames that the rule with this counter has decided about.
    pub(crate) fn hits(&self, slot: u32) -> Result<u64, SteeringError> {
        let base = self.bases.get(slot as usize).copied().unwrap_or(0);
        Ok(self.counted(slot)?.saturating_sub(base))
    }

    fn counted(&self, slot: u32) -> Result<u64, SteeringError> {
        let per_cpu = self.hits.get(&slot, 0).map_err(refused("reading the hits of a rule", RULE_HITS))?;
        Ok(per_cpu.iter().sum())
    }
}

fn write<A: aya::Pod>(
    trie: &mut Trie<A>,
    name: &'static str,
    key: &Key<A>,
    winners: Option<Winners>,
) -> Result<(), SteeringError> {
    match winners {
        Some(winners) => {
            trie.insert(key, winners.to_bytes(), 0).map_err(refused("writing a rule's prefix", name))
        }
        None => match trie.remove(key) {
            Err(error) if !is_missing(&error) => Err(refused("removing a rule's prefix", name)(error)),
            _ => Ok(()),
        },
    }
}

/// Returns when every BPF program that ran at the call has come to its end. Takes some milliseconds.
fn wait_for_programs() {
    // The command waits for a grace period of RCU, which XDP programs run inside.
    if membarrier(MembarrierCommand::Global).is_err() {
        std::thread::sleep(PROGRAM_RUN);
    }
}

impl super::steering::SteeringMaps {
    /// Carries out what a change of a [`RuleTable`](crate::steer::RuleTable) asks for, in its order.
    ///
    /// # Errors
    ///
    /// [`SteeringError::Map`]; what came before the failed write has been done.
    pub fn apply(&mut self, changes: &[Change]) -> Result<(), SteeringError> {
        for change in changes {
            match change {
                Change::V4 { side, address, len, winners } => {
                    self.rules.write_v4(*side, *address, *len, *winners)?;
                }
                Change::V6 { side, address, len, winners } => {
                    self.rules.write_v6(*side, *address, *len, *winners)?;
                }
                Change::Table { table, steer_all } => {
                    let number = match table {
                        Some(table) => self.rules.write_table(table)?,
                        None => 0,
                    };
                    self.switch_table(number, *steer_all)?;
                    self.rules.table_switched();
                }
            }
        }
        Ok(())
    }

    /// The rule with this counter begins at 0.
    pub(crate) fn begin_hits(&mut self, slot: u32) -> Result<(), SteeringError> {
        self.rules.begin_hits(slot)
    }

    /// Frames that the rule with this counter has decided about.
    pub(crate) fn hits(&self, slot: u32) -> Result<u64, SteeringError> {
        self.rules.hits(slot)
    }
}
