//! The model of one port, and what it can say.

use std::collections::{HashMap, VecDeque};

use netdext::packet::{Census, Lent, Packet};
use netdext::port::{Port, RingSizes};

/// What the model can foretell.
#[derive(Clone, Copy, PartialEq)]
pub enum Trust {
    /// Nothing is lost uncounted, duplicated or reordered.
    Exact,
    /// The wire loses, duplicates, reorders and delays; the kernel is honest.
    Kernel,
    /// The kernel also returns addresses that were not lent to it.
    Nobody,
}

/// A packet in hand, and what its data should be.
pub struct Held {
    pub packet: Packet,
    pub data: Vec<u8>,
}

/// The model of one port, next to the port.
pub struct Side {
    pub port: Port,
    pub fill_size: usize,
    pub held: Vec<Held>,
    // Frames by the address of their first byte, in the order of submission.
    pub tx: VecDeque<usize>,
    // Lent for receiving, in order; `None` where `refill` chose the frame.
    pub rx: VecDeque<Option<usize>>,
    // Payloads by serial number, with how often each arrived at the other end.
    pub sent: HashMap<u64, (Vec<u8>, u32)>,
    // The last serial number that arrived here.
    pub arrived: u64,
    pub received: u64,
}

/// Which frame a packet is.
pub fn frame(packet: &Packet) -> usize {
    packet.data().as_ptr().addr() - packet.data_offset()
}

impl Side {
    pub fn new(port: Port, rings: RingSizes) -> Self {
        Self {
            port,
            fill_size: rings.fill() as usize,
            held: Vec::new(),
            tx: VecDeque::new(),
            rx: VecDeque::new(),
            sent: HashMap::new(),
            arrived: 0,
            received: 0,
        }
    }

    pub fn hold(&mut self, packet: Packet) {
        let data = packet.data().to_vec();
        self.held.push(Held { packet, data });
    }

    /// Frames of its pool that this side has in hand or has lent.
    pub fn taken(&self) -> usize {
        self.held.len() + self.tx.len() + self.rx.len()
    }

    /// A frame that comes into the driver's hands must not be anywhere else.
    pub fn assert_nowhere(&self, packet: &Packet) {
        let this = frame(packet);
        assert!(self.held.iter().all(|held| frame(&held.packet) != this), "handed out twice");
        assert!(!self.tx.contains(&this), "handed out while it is being sent");
        assert!(!self.rx.contains(&Some(this)), "handed out while it is lent for receiving");
    }

    pub fn assert_held(&self) {
        for Held { packet, data } in &self.held {
            assert!(packet.data() == data, "the data of a held packet changed");
        }
    }
}

/// The census of a pool is what the lists of the sides that share it say.
pub fn assert_census<'a>(sides: impl IntoIterator<Item = &'a Side> + Clone, trust: Trust) {
    let pool = &sides.clone().into_iter().next().expect("a pool has a port").port.pool;
    let census = pool.census();
    assert!(census.is_whole(), "{census}");
    let mut expected =
        Census { capacity: pool.capacity() as u32, free: census.capacity, ..Census::default() };
    for side in sides {
        side.assert_held();
        let (rx, tx) = (side.rx.len() as u32, side.tx.len() as u32);
        expected.free = expected.free.saturating_sub(side.taken() as u32);
        expected.user += side.held.len() as u32;
        expected.rx_lent += rx;
        expected.tx_lent += tx;
        if trust != Trust::Nobody {
            assert_eq!(side.port.lent(), Lent { rx, tx });
            assert_eq!((side.port.violations(), pool.violations()), (0, 0));
        }
    }
    if trust == Trust::Nobody {
        assert!(census.user <= expected.user, "{census}");
    } else {
        assert_eq!(census, expected);
    }
}
