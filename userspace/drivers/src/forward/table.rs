//! Which station is behind which port.

use std::collections::HashMap;
use std::time::Duration;

use netdext::dispatch::Timestamp;
use netdext::driver::PortId;
use netdext::proto::MacAddr;

/// A station that was heard on a port is not believed to be on another one before it was silent for this long. It has to
/// be longer than a frame takes round a loop.
pub(super) const HOLD: Duration = Duration::from_secs(1);

/// How many frames are flooded in each [`BUDGET_PERIOD`] for a station that is heard on two ports, and for all those
/// together that the table has no room for.
pub(super) const FLOODS: u32 = 100;

/// How long a budget of [`FLOODS`] is for.
pub(super) const BUDGET_PERIOD: Duration = Duration::from_secs(1);

/// A station: its MAC address within its VLAN, in one number, because that is hashed fastest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Address(u64);

impl Address {
    /// The station of this address in this VLAN, of which only the lower 12 bits count; 0 without one.
    pub(super) fn new(vlan: u16, mac: MacAddr) -> Self {
        let [a, b, c, d, e, f] = mac;
        let [high, low] = (vlan & 0xfff).to_be_bytes();
        Self(u64::from_be_bytes([high, low, a, b, c, d, e, f]))
    }

    pub(super) fn vlan(self) -> u16 {
        (self.0 >> 48) as u16
    }

    pub(super) fn mac(self) -> MacAddr {
        let [_, _, mac @ ..] = self.0.to_be_bytes();
        mac
    }
}

/// What a frame says about the station that it is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// It is where it was.
    Known,
    /// It was not known before.
    Learned,
    /// It was on another port, and silent there for [`HOLD`].
    Moved,
    /// It is not known, and the table is full.
    NoRoom,
    /// It was heard on another port just now: the frame has come round a loop, or two stations have one address.
    Elsewhere,
}

#[derive(Clone, Copy, Debug)]
struct Station {
    port: PortId,
    heard: Timestamp,
    /// When it was last heard on another port too.
    disputed: Option<Timestamp>,
    floods: Budget,
}

/// [`FLOODS`] in each [`BUDGET_PERIOD`], which begins with the first of them.
#[derive(Clone, Copy, Debug, Default)]
struct Budget {
    since: Timestamp,
    spent: u32,
}

impl Budget {
    fn spend(&mut self, now: Timestamp) -> bool {
        if self.spent == 0 || now.since(self.since) >= BUDGET_PERIOD {
            *self = Self { since: now, spent: 0 };
        }
        let left = self.spent < FLOODS;
        self.spent += u32::from(left);
        left
    }
}

/// The stations that have been heard, each on one port.
#[derive(Debug)]
pub(super) struct Table {
    stations: HashMap<Address, Station>,
    capacity: usize,
    /// Of all stations that there was no room for.
    unknown_floods: Budget,
}

impl Table {
    /// A table with room for `capacity` stations.
    pub(super) fn new(capacity: usize) -> Self {
        Self { stations: HashMap::with_capacity(capacity), capacity, unknown_floods: Budget::default() }
    }

    /// Notes that a frame from this station has come in by this port.
    pub(super) fn hear(&mut self, address: Address, port: PortId, now: Timestamp) -> Heard {
        let full = self.stations.len() >= self.capacity;
        let fresh = Station { port, heard: now, disputed: None, floods: Budget::default() };
        match self.stations.get_mut(&address) {
            Some(station) if station.port == port => {
                station.heard = now;
                Heard::Known
            }
            Some(station) if now.since(station.heard) < HOLD => {
                station.disputed = Some(now);
                Heard::Elsewhere
            }
            Some(station) => {
                *station = fresh;
                Heard::Moved
            }
            None if full => Heard::NoRoom,
            None => {
                self.stations.insert(address, fresh);
                Heard::Learned
            }
        }
    }

    /// The port that this station is behind, if that is known.
    pub(super) fn find(&self, address: Address) -> Option<PortId> {
        self.stations.get(&address).map(|station| station.port)
    }

    /// Whether one more frame of this station may be flooded.
    pub(super) fn may_flood(&mut self, address: Address, now: Timestamp) -> bool {
        match self.stations.get_mut(&address) {
            Some(station) => {
                let disputed = station.disputed.is_some_and(|at| now.since(at) < HOLD);
                !disputed || station.floods.spend(now)
            }
            None => self.unknown_floods.spend(now),
        }
    }

    /// Forgets the stations that were not heard for `ageing`; says how many.
    pub(super) fn age(&mut self, now: Timestamp, ageing: Duration) -> usize {
        self.forget(|station| now.since(station.heard) >= ageing)
    }

    /// Forgets the stations behind this port.
    pub(super) fn forget_port(&mut self, port: PortId) {
        self.forget(|station| station.port == port);
    }

    /// Forgets all stations; says how many.
    pub(super) fn clear(&mut self) -> usize {
        self.forget(|_| true)
    }

    fn forget(&mut self, gone: impl Fn(&Station) -> bool) -> usize {
        let before = self.stations.len();
        self.stations.retain(|_, station| !gone(station));
        before - self.stations.len()
    }

    /// How many stations are known.
    pub(super) fn len(&self) -> usize {
        self.stations.len()
    }

    /// Each station with its port and when it was last heard there, in the order of their ports and addresses.
    pub(super) fn list(&self) -> Vec<(PortId, Address, Timestamp)> {
        let mut list: Vec<_> =
            self.stations.iter().map(|(&address, station)| (station.port, address, station.heard)).collect();
        list.sort_unstable();
        list
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: PortId = PortId::FIRST;
    const MAC: MacAddr = [2, 0, 0, 0, 0, 9];

    fn seconds(seconds: u64) -> Timestamp {
        Timestamp::from_nanos(seconds * 1_000_000_000)
    }

    #[test]
    fn an_address_is_its_vlan_and_its_mac() {
        let address = Address::new(0xf123, MAC);
        assert_eq!((address.vlan(), address.mac()), (0x123, MAC));
        assert_ne!(address, Address::new(0x124, MAC));
    }

    #[test]
    fn a_station_is_held_on_its_port_until_it_was_silent_for_a_second() {
        let mut table = Table::new(8);
        let (address, b) = (Address::new(0, MAC), PortId::new(1));
        let almost = seconds(3) - Duration::from_nanos(1);
        assert_eq!(table.hear(address, A, seconds(1)), Heard::Learned);
        assert_eq!(table.hear(address, A, seconds(2)), Heard::Known);
        assert_eq!(table.hear(address, b, almost), Heard::Elsewhere);
        assert_eq!(table.find(address), Some(A));
        assert_eq!(table.hear(address, b, seconds(3)), Heard::Moved);
        assert_eq!(table.find(address), Some(b));
    }

    #[test]
    fn a_station_heard_on_two_ports_floods_within_a_budget_until_a_second_later() {
        let mut table = Table::new(8);
        let address = Address::new(0, MAC);
        table.hear(address, A, seconds(1));
        assert!((0..2 * FLOODS).all(|_| table.may_flood(address, seconds(1))), "nothing is wrong with it");
        table.hear(address, PortId::new(1), seconds(1));
        let flooded = (0..2 * FLOODS).filter(|_| table.may_flood(address, seconds(1))).count();
        assert_eq!(flooded, FLOODS as usize);
        assert!((0..2 * FLOODS).all(|_| table.may_flood(address, seconds(2))));
    }

    #[test]
    fn stations_without_room_share_a_budget() {
        let mut table = Table::new(1);
        assert_eq!(table.hear(Address::new(0, MAC), A, seconds(1)), Heard::Learned);
        let others = [1, 2].map(|vlan| Address::new(vlan, MAC));
        assert_eq!(others.map(|address| table.hear(address, A, seconds(1))), [Heard::NoRoom; 2]);
        let flooded = |table: &mut Table, now| {
            (0..FLOODS).flat_map(|_| others).filter(|&address| table.may_flood(address, now)).count()
        };
        assert_eq!(flooded(&mut table, seconds(1)), FLOODS as usize);
        assert_eq!(flooded(&mut table, seconds(2)), FLOODS as usize);
        assert_eq!(table.len(), 1);
    }

    #[test]
    fn who_was_not_heard_for_the_ageing_time_is_forgotten() {
        let mut table = Table::new(8);
        let [early, late] = [1, 2].map(|vlan| Address::new(vlan, MAC));
        table.hear(early, A, seconds(1));
        table.hear(late, A, seconds(2));
        assert_eq!(table.age(seconds(10), Duration::from_secs(9)), 1);
        assert_eq!((table.find(early), table.find(late)), (None, Some(A)));
    }
}
