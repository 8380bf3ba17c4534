//! The tree of drivers as `netdext ioreg` shows it.
//!
//! ```text
//! +-o veth0  <class EthernetInterface, id 0x100000001, matched, active>
//!   +-o sample  <class AfXdpDriver, id 0x100000002, matched, active>
//!     | {
//!     |   "wait" = "adaptive"
//!     | }
//!     +-o queue 0  <class ...>
//! ```

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// An entry of the tree: a provider interface, a driver, a queue, a pool, a timer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// What it is: the name of a type.
    pub class: String,
    /// Its number, unique in the tree.
    pub id: u64,
    /// Whether a driver was found for it, or it for its provider.
    pub matched: bool,
    /// Whether it works.
    pub active: bool,
    /// Live counts and settings by name.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub properties: Map<String, Value>,
    /// What stands on it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub children: Vec<Entry>,
}

impl Entry {
    /// An entry that works and has nothing below it.
    pub fn new(name: impl Into<String>, class: impl Into<String>, id: u64) -> Self {
        Self { name: name.into(), class: class.into(), id, matched: true, active: true, ..Self::default() }
    }

    /// Adds a property, replacing one of the same name.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.properties.insert(name.into(), value.into());
        self
    }
}

/// The trees as text, in the form of ioreg.
pub fn text(roots: &[Entry]) -> String {
    let mut text = String::new();
    for root in roots {
        write_entry(&mut text, root, "", true);
    }
    text
}

fn write_entry(text: &mut String, entry: &Entry, prefix: &str, last: bool) {
    let Entry { name, class, id, matched, active, properties, children } = entry;
    let matched = if *matched { "matched" } else { "!matched" };
    let active = if *active { "active" } else { "inactive" };
    // Writing to a String does not fail.
    let _ = writeln!(text, "{prefix}+-o {name}  <class {class}, id {id:#x}, {matched}, {active}>");
    let below = format!("{prefix}{}", if last { "  " } else { "| " });
    if !properties.is_empty() {
        let bar = if children.is_empty() { "  " } else { "| " };
        let _ = writeln!(text, "{below}{bar}{{");
        for (name, value) in properties {
            let _ = writeln!(text, "{below}{bar}  {name:?} = {value}");
        }
        let _ = writeln!(text, "{below}{bar}}}");
    }
    for (index, child) in children.iter().enumerate() {
        write_entry(text, child, &below, index + 1 == children.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> Entry {
        let mut provider = Entry::new("veth0", "EthernetInterface", 0x1_0000_0001).with("mtu", 1500);
        let mut driver = Entry::new("sample", "SampleDriver", 0x1_0002_8cee);
        let mut queue = Entry::new("queue 0", "Queue", 3).with("rx_packets", 7).with("mode", "native");
        queue.children.push(Entry::new("pool", "PacketPool", 4));
        let mut timer = Entry::new("ReceiveTimer", "Timer", 5).with("fired", 2);
        (timer.matched, timer.active) = (false, false);
        driver.children = vec![queue, timer];
        provider.children.push(driver);
        provider
    }

    #[test]
    fn the_tree_has_the_form_of_ioreg() {
        let expected = r#"+-o veth0  <class EthernetInterface, id 0x100000001, matched, active>
  | {
  |   "mtu" = 1500
  | }
  +-o sample  <class SampleDriver, id 0x100028cee, matched, active>
    +-o queue 0  <class Queue, id 0x3, matched, active>
    | | {
    | |   "mode" = "native"
    | |   "rx_packets" = 7
    | | }
    | +-o pool  <class PacketPool, id 0x4, matched, active>
    +-o ReceiveTimer  <class Timer, id 0x5, !matched, inactive>
        {
          "fired" = 2
        }
"#;
        assert_eq!(text(&[tree()]), expected);
        assert_eq!(text(&[tree(), tree()]), expected.repeat(2));
    }

    #[test]
    fn the_tree_survives_the_way() {
        let json = serde_json::to_string(&tree()).unwrap();
        assert_eq!(serde_json::from_str::<Entry>(&json).unwrap(), tree());
    }
}
