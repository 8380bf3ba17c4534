//! What a change of the rules writes to the maps.

use netdext_abi::rules::{Side, Table, Winners};

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

/// Orders the writes of several changes: what the program reads first is written last, so that a frame that sees a write
/// sees those before it too, and nothing has to be waited for in between. Of several tables the last one is left.
pub(super) fn in_writing_order(mut changes: Vec<Change>) -> Vec<Change> {
    let mut tables = changes.iter().filter(|change| matches!(change, Change::Table { .. })).count();
    changes.retain(|change| {
        let table = matches!(change, Change::Table { .. });
        tables -= usize::from(table);
        !table || tables == 0
    });
    // Stable: writes to one place stay in their order.
    changes.sort_by_key(|change| match change {
        Change::V4 { side: Side::Source, .. } | Change::V6 { side: Side::Source, .. } => 0,
        Change::V4 { .. } | Change::V6 { .. } => 1,
        Change::Table { .. } => 2,
    });
    changes
}
