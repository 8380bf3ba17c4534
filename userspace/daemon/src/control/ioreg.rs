//! The tree of drivers as `netdext ioreg` shows it.
//!
//! ```text
//! +-o veth0  <class IOEthernetInterface, id 0x100000001, registered, matched, active, busy 0 (0 ms), retain 2>
//!   +-o sample  <class SampleDriver, id 0x100000002, registered, matched, active, busy 0 (4 ms), retain 16>
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
    /// Whether others can find it.
    pub registered: bool,
    /// Whether a driver was found for it, or it for its provider.
    pub matched: bool,
    /// Whether it works.
    pub active: bool,
    /// Changes of state that are under way.
    pub busy: u32,
    /// How long changes of state have taken, in ns.
    pub busy_ns: u64,
    /// How many others hold it: frames out of a pool, entries below.
    pub retain: u64,
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
        Self {
            name: name.into(),
            class: class.into(),
            id,
            registered: true,
            matched: true,
            active: true,
            retain: 1,
            ..Self::default()
        }
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
    let Entry { name, class, id, registered, matched, active, busy, busy_ns, retain, properties, children } =
        entry;
    let not = |on: &bool| if *on { "" } else { "!" };
    let active = if *active { "active" } else { "inactive" };
    // Writing to a String does not fail.
    let _ = writeln!(
        text,
        "{prefix}+-o {name}  <class {class}, id {id:#x}, {}registered, {}matched, {active}, busy {busy} ({} ms), \
         retain {retain}>",
        not(registered),
        not(matched),
        busy_ns / 1_000_000,
    );
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
        (driver.busy_ns, driver.retain) = (4_900_000, 16);
        let mut queue = Entry::new("queue 0", "Queue", 3).with("rx_packets", 7).with("mode", "native");
        queue.children.push(Entry::new("pool", "PacketPool", 4));
        let mut timer = Entry::new("ReceiveTimer", "Timer", 5).with("fired", 2);
        (timer.registered, timer.matched, timer.active) = (false, false, false);
        driver.children = vec![queue, timer];
        provider.children.push(driver);
        provider
    }

    #[test]
    fn the_tree_has_the_form_of_ioreg() {
        let expected = r#"+-o veth0  <class EthernetInterface, id 0x100000001, registered, matched, active, busy 0 (0 ms), retain 1>
  | {
  |   "mtu" = 1500
  | }
  +-o sample  <class SampleDriver, id 0x100028cee, registered, matched, active, busy 0 (4 ms), retain 16>
    +-o queue 0  <class Queue, id 0x3, registered, matched, active, busy 0 (0 ms), retain 1>
    | | {
    | |   "mode" = "native"
    | |   "rx_packets" = 7
    | | }
    | +-o pool  <class PacketPool, id 0x4, registered, matched, active, busy 0 (0 ms), retain 1>
    +-o ReceiveTimer  <class Timer, id 0x5, !registered, !matched, inactive, busy 0 (0 ms), retain 1>
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
