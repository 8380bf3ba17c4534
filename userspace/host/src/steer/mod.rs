//! Steering rules: which frames go to the driver, are answered, pass to the kernel or are dropped.
//!
//! A [`Rule`] is one line of text. A [`RuleTable`] holds rules in order and says, for each change, what has to be written
//! to the maps of the XDP program; it knows nothing of the kernel. See docs/steering.md for what a user sees.

mod change;
mod file;
mod prefixes;
mod rule;
mod table;
#[cfg(test)]
mod tests;
mod text;
mod tries;

pub use change::Change;
pub use file::{FileRule, RuleFileError, read_rules};
pub use rule::{Action, Match, PortRange, Prefix, Rule, RuleError, Vlan};
pub use table::{RuleId, RuleTable, TableError};
