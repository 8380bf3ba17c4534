//! The forwarder against a dull model: any frames over any enabled ports.
//!
//! `NETDEXT_SEED` repeats a run.

use std::collections::HashMap;
use std::time::Duration;

use fastrand::Rng;
use netdext::dispatch::Timestamp;
use netdext::proto::{BROADCAST, MacAddr};

use super::net::Net;
use super::{GROUP, HOLD, knowing, mac, tagged};
use crate::testing::frame;

const PORTS: usize = 3;
const STATIONS: usize = 6;
const MTU: [usize; PORTS] = [1500, 1500, 200];
const RESERVED: MacAddr = [0x01, 0x80, 0xc2, 0, 0, 2];

/// What a bridge is to do.
struct Model {
    enabled: [bool; PORTS],
    room: usize,
    // The port of a station of a VLAN, and when it was last heard.
    known: HashMap<(u16, MacAddr), (usize, Timestamp)>,
}

impl Model {
    /// Where a frame is to arrive.
    fn receive(&mut self, now: Timestamp, port: usize, sent: &Sent) -> Vec<usize> {
        let source = (sent.vlan, sent.source);
        if sent.source[0] & 1 == 1 || sent.destination == RESERVED {
            return Vec::new();
        }
        match self.known.get(&source).copied() {
            Some((home, heard)) if home != port && now.since(heard) < HOLD => return Vec::new(),
            None if self.known.len() == self.room => {}
            _ => {
                self.known.insert(source, (port, now));
            }
        }
        let to = self.known.get(&(sent.vlan, sent.destination)).map(|(home, _)| *home);
        let takes = |out: usize| out != port && self.enabled[out] && sent.payload <= MTU[out];
        (0..PORTS).filter(|&out| to.is_none_or(|home| home == out) && takes(out)).collect()
    }

    fn enable(&mut self, port: usize, enable: bool) {
        self.enabled[port] = enable;
        if !enable {
            self.known.retain(|_, (home, _)| *home != port);
        }
    }
}

struct Sent {
    source: MacAddr,
    destination: MacAddr,
    vlan: u16,
    payload: usize,
}

impl Sent {
    fn any(rng: &mut Rng) -> Self {
        let special = [BROADCAST, GROUP, RESERVED];
        let mut address = |specials| match rng.usize(..STATIONS + specials) {
            number if number < STATIONS => mac(number),
            number => special[number - STATIONS],
        };
        let (source, destination) = (address(1), address(3));
        Self { source, destination, vlan: rng.u16(..2), payload: rng.usize(46..250) }
    }

    fn bytes(&self) -> Vec<u8> {
        let untagged = frame(self.destination, self.source, 14 + self.payload);
        if self.vlan == 0 { untagged } else { tagged(&untagged, 0x8100, self.vlan) }
    }
}

fn run(seed: u64, steps: usize) {
    let mut rng = Rng::with_seed(seed);
    let room = rng.usize(1..2 * STATIONS);
    let mut net = Net::star_with(knowing(room), PORTS, |port| MTU[port]);
    let mut model = Model { enabled: [true; PORTS], room, known: HashMap::new() };
    for step in 0..steps {
        net.advance(Duration::from_millis(rng.u64(..400)));
        if rng.u8(..10) == 0 {
            let (port, enable) = (rng.usize(..PORTS), rng.bool());
            net.enable(0, port, enable);
            model.enable(port, enable);
        }
        // While a port is disabled nothing is redirected to its socket.
        let (port, sent) = (rng.usize(..PORTS), Sent::any(&mut rng));
        if !model.enabled[port] {
            continue;
        }
        let expected = model.receive(net.now(), port, &sent);
        assert_eq!(net.reached(port, &sent.bytes()), expected, "seed {seed}, step {step}");
    }
    net.finish();
}

#[test]
fn any_frames_over_any_enabled_ports_arrive_where_a_map_says() {
    let seed = std::env::var("NETDEXT_SEED")
        .map_or_else(|_| fastrand::u64(..), |seed| seed.parse().expect("NETDEXT_SEED is a number"));
    println!("NETDEXT_SEED={seed}");
    for run_number in 0..20 {
        run(seed.wrapping_add(run_number), 500);
    }
}
