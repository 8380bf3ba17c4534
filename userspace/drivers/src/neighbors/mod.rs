//! The MAC addresses of neighbours, learnt by ARP and neighbour discovery, confirmed and forgotten in time.
//!
//! ```text
//!                 resolve                      answered
//!   (unknown) --------------> Incomplete ---------------------> Reachable <------+
//!       ^  |  learn              |  heard                         | lifetime over, | answered
//!       |  +----------> Stale <--+--- another MAC heard ----------+  and used      |
//!       |                 | resolve                               v                |
//!       |                 +-----------------------------------> Probe -------------+
//!       +---- attempts used up, or lifetime over and not used ----+
//! ```
//! The states are those of RFC 4861, 7.3.2, without the delay before a probe; ARP has the same ones (RFC 1122,
//! 2.3.2.1: unicast poll). Only an answer to our own question makes an entry `Reachable`: what a neighbour
//! says unasked is used, and then checked.

#[cfg(test)]
mod tests;

use std::collections::btree_set::BTreeSet;
use std::collections::hash_map::{Entry as Slot, HashMap};
use std::net::IpAddr;
use std::time::Duration;

use netdext::dispatch::Timestamp;
use netdext::driver::{Cx, PortId};
use netdext::proto::{MacAddr, arp, ndp};

/// How a table of neighbours behaves.
#[derive(Clone, Copy, Debug)]
pub struct NeighborConfig {
    /// Time between two requests to the same neighbour (RetransTimer of RFC 4861, 10).
    pub retry: Duration,
    /// Requests before a neighbour is given up (MAX_MULTICAST_SOLICIT and MAX_UNICAST_SOLICIT).
    pub attempts: u32,
    /// How long a confirmed or heard address is believed (REACHABLE_TIME).
    pub lifetime: Duration,
    /// Entries at the most.
    pub capacity: usize,
}

impl Default for NeighborConfig {
    fn default() -> Self {
        Self {
            retry: Duration::from_secs(1),
            attempts: 3,
            lifetime: Duration::from_secs(30),
            capacity: 16_384,
        }
    }
}

/// A request that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Solicit {
    /// Whose MAC address is asked for.
    pub target: IpAddr,
    /// The station to ask; `None` to ask everybody.
    pub to: Option<MacAddr>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Asked for; no MAC address yet.
    Incomplete,
    /// Answered within the lifetime.
    Reachable,
    /// Heard of, not used since.
    Stale,
    /// In use and being asked again.
    Probe,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    state: State,
    mac: MacAddr,
    /// When the next request is due, or the lifetime over. Each entry is in `Neighbors::due` under it.
    deadline: Timestamp,
    attempts: u32,
    used: bool,
}

/// A bounded table from IP address to MAC address. It sends nothing itself: [`pop_due`](Self::pop_due) says
/// what to send.
#[derive(Debug)]
pub struct Neighbors {
    config: NeighborConfig,
    entries: HashMap<IpAddr, Entry>,
    due: BTreeSet<(Timestamp, IpAddr)>,
    failed: u64,
}

impl Neighbors {
    /// An empty table.
    pub fn new(config: NeighborConfig) -> Self {
        Self { config, entries: HashMap::new(), due: BTreeSet::new(), failed: 0 }
    }

    /// Makes sure that the table holds `more` neighbours besides those that the configuration allows for, and
    /// that it need not grow for them.
    pub fn make_room_for(&mut self, more: usize) {
        self.config.capacity = self.config.capacity.max(NeighborConfig::default().capacity + more);
        self.entries.reserve(more.saturating_sub(self.entries.len()));
    }

    /// The MAC address to send to now. Begins to ask for it where it is unknown (and the table has room),
    /// and to confirm it where it is only heard of.
    pub fn resolve(&mut self, address: IpAddr, now: Timestamp) -> Option<MacAddr> {
        let has_room = self.entries.len() < self.config.capacity;
        match self.entries.entry(address) {
            Slot::Occupied(mut slot) => {
                let entry = slot.get_mut();
                entry.used = true;
                match entry.state {
                    State::Incomplete => return None,
                    State::Reachable | State::Probe => {}
                    State::Stale => reschedule(&mut self.due, address, entry, State::Probe, now),
                }
                Some(entry.mac)
            }
            Slot::Vacant(slot) => {
                if has_room {
                    let state = State::Incomplete;
                    slot.insert(Entry { state, mac: [0; 6], deadline: now, attempts: 0, used: true });
                    self.due.insert((now, address));
                }
                None
            }
        }
    }

    /// A neighbour told us its MAC address in a request to us: remembers it, also when it was unknown, as
    /// RFC 826 and RFC 4861 (7.2.3) have it. Returns whether the table had room.
    pub fn learn(&mut self, address: IpAddr, mac: MacAddr, now: Timestamp) -> bool {
        if self.hear(address, mac, now) {
            return true;
        }
        if self.entries.len() >= self.config.capacity {
            return false;
        }
        let deadline = now + self.config.lifetime;
        self.entries.insert(address, Entry { state: State::Stale, mac, deadline, attempts: 0, used: false });
        self.due.insert((deadline, address));
        true
    }

    /// A neighbour mentioned its MAC address: merged where the neighbour is known (RFC 826). Returns whether
    /// it is.
    pub fn hear(&mut self, address: IpAddr, mac: MacAddr, now: Timestamp) -> bool {
        let Some(entry) = self.entries.get_mut(&address) else { return false };
        if entry.state == State::Incomplete || entry.mac != mac {
            entry.mac = mac;
            // Believed until the next use, which asks again.
            reschedule(&mut self.due, address, entry, State::Stale, now + self.config.lifetime);
        }
        true
    }

    /// A neighbour answered, or advertised itself: RFC 4861, 7.2.5. An ARP reply is an answer that
    /// overrides. Returns whether the neighbour is known; others are not remembered.
    pub fn advertised(
        &mut self,
        address: IpAddr,
        mac: Option<MacAddr>,
        solicited: bool,
        overrides: bool,
        now: Timestamp,
    ) -> bool {
        let Some(entry) = self.entries.get_mut(&address) else { return false };
        let lifetime_over = now + self.config.lifetime;
        let known = (entry.state != State::Incomplete).then_some(entry.mac);
        match (known, mac) {
            (None, None) => {}
            (Some(old), Some(new)) if old != new && !overrides => {
                if entry.state == State::Reachable {
                    reschedule(&mut self.due, address, entry, State::Stale, lifetime_over);
                }
            }
            (_, mac) => {
                entry.mac = mac.unwrap_or(entry.mac);
                if solicited {
                    entry.used = false;
                    reschedule(&mut self.due, address, entry, State::Reachable, lifetime_over);
                } else if known != Some(entry.mac) {
                    reschedule(&mut self.due, address, entry, State::Stale, lifetime_over);
                }
            }
        }
        true
    }

    /// Takes the next request that is due at `now`, and gives up the neighbours that have been asked often
    /// enough or were not used.
    pub fn pop_due(&mut self, now: Timestamp) -> Option<Solicit> {
        while let Some(&(deadline, target)) = self.due.first() {
            if deadline > now {
                return None;
            }
            let Some(entry) = self.entries.get_mut(&target) else {
                unreachable!("every address in `due` has an entry")
            };
            match entry.state {
                State::Reachable if entry.used => {
                    reschedule(&mut self.due, target, entry, State::Probe, deadline);
                }
                State::Incomplete | State::Probe if entry.attempts < self.config.attempts => {
                    let attempts = entry.attempts + 1;
                    let state = entry.state;
                    reschedule(&mut self.due, target, entry, state, now + self.config.retry);
                    entry.attempts = attempts;
                    return Some(Solicit { target, to: (state == State::Probe).then_some(entry.mac) });
                }
                state => {
                    self.failed += u64::from(matches!(state, State::Incomplete | State::Probe));
                    self.entries.remove(&target);
                    self.due.pop_first();
                }
            }
        }
        None
    }

    /// When [`pop_due`](Self::pop_due) has something to do next.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        self.due.first().map(|&(deadline, _)| deadline)
    }

    /// How many neighbours are in the table.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether the table is empty.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Neighbours given up because they did not answer.
    pub fn failed(&self) -> u64 {
        self.failed
    }
}

fn reschedule(
    due: &mut BTreeSet<(Timestamp, IpAddr)>,
    address: IpAddr,
    entry: &mut Entry,
    state: State,
    deadline: Timestamp,
) {
    due.remove(&(entry.deadline, address));
    due.insert((deadline, address));
    (entry.state, entry.deadline, entry.attempts) = (state, deadline, 0);
}

/// Sends one request for a MAC address, from `source`, an address of ours of the same family. `None` if there is
/// no packet or no room in the tx ring.
pub(super) fn send_solicit(cx: &mut Cx<'_>, source: IpAddr, solicit: Solicit) -> Option<()> {
    let Solicit { target, to } = solicit;
    let source_mac = cx.device(PortId::FIRST).mac;
    let mut packet = cx.pool.alloc()?;
    let offset = packet.data_offset();
    match (source, target) {
        (IpAddr::V4(source), IpAddr::V4(target)) => {
            packet.set_data(offset, arp::Request::LEN).ok()?;
            arp::Request { source_mac, source, target, to }.write(packet.data_mut());
        }
        (IpAddr::V6(source), IpAddr::V6(target)) => {
            packet.set_data(offset, ndp::Request::LEN).ok()?;
            ndp::Request { source_mac, source, target, to }.write(packet.data_mut());
        }
        _ => return None,
    }
    cx.tx(PortId::FIRST).submit(packet).ok()
}
