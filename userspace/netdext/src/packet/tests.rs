//! What a ring may return wrongly, frame state by frame state.

use super::*;

fn pool() -> (PacketPool, Lender) {
    let config = PoolConfig { frames: 4, frame_size: FrameSize::TwoK };
    let pool = PacketPool::on_heap(&config).expect("there are frames");
    let port = pool.lender().expect("it is the first port");
    (pool, port)
}

/// The start of frame `frame`, with room for the headroom.
fn desc(frame: u64) -> Desc {
    Desc { addr: frame * 2048 + 256, len: 60 }
}

/// Every frame taken in turn until none is left: quarantined ones must not be among them.
fn frames_left(pool: &PacketPool) -> Vec<u32> {
    let mut packets = Vec::new();
    while let Some(packet) = pool.alloc() {
        packets.push(packet);
    }
    packets.iter().map(Packet::frame).collect()
}

fn assert_quarantined(pool: &PacketPool, expected: Census) {
    let census = pool.census();
    assert!(census.is_whole(), "{census}");
    assert_eq!(census, Census { quarantined: 1, capacity: 4, ..expected });
    assert_eq!(pool.violations(), 1);
}

#[test]
fn a_free_frame_that_a_ring_returns_is_quarantined() {
    for over_rx in [true, false] {
        let (pool, port) = pool();
        if over_rx {
            assert!(port.take_back_rx(desc(2)).is_none());
        } else {
            assert!(!port.take_back_tx(desc(2)));
        }
        assert_quarantined(&pool, Census { free: 3, ..Census::default() });
        assert_eq!(frames_left(&pool), [0, 1, 3]);
    }
}

#[test]
fn a_frame_of_the_drivers_that_a_ring_returns_is_quarantined_and_not_sent() {
    let (pool, port) = pool();
    let packet = pool.alloc().expect("a free frame");
    assert!(!port.take_back_tx(desc(0)));
    assert_quarantined(&pool, Census { free: 3, ..Census::default() });
    assert!(port.lend_to_tx(packet).is_none());
    assert_quarantined(&pool, Census { free: 3, ..Census::default() });
    assert_eq!(frames_left(&pool), [1, 2, 3]);
}

#[test]
fn a_frame_of_the_drivers_that_was_quarantined_is_not_freed_by_dropping_its_packet() {
    let (pool, port) = pool();
    let packet = pool.alloc().expect("a free frame");
    assert!(port.take_back_rx(desc(0)).is_none());
    drop(packet);
    assert_quarantined(&pool, Census { free: 3, ..Census::default() });
    assert_eq!(frames_left(&pool), [1, 2, 3]);
}

#[test]
fn a_frame_that_comes_back_over_the_other_ring_is_quarantined() {
    let lent_to_rx = pool();
    lent_to_rx.1.lend_free_to_rx().expect("a free frame");
    assert!(!lent_to_rx.1.take_back_tx(desc(0)));
    let lent_to_tx = pool();
    lent_to_tx.1.lend_to_tx(lent_to_tx.0.alloc().expect("a free frame")).expect("it is the user's");
    assert!(lent_to_tx.1.take_back_rx(desc(0)).is_none());
    for (pool, port) in [lent_to_rx, lent_to_tx] {
        assert_quarantined(&pool, Census { free: 3, ..Census::default() });
        port.retire_lent();
        assert_quarantined(&pool, Census { free: 3, ..Census::default() });
    }
}

#[test]
fn a_quarantined_frame_stays_so_and_each_return_counts() {
    let (pool, port) = pool();
    port.lend_free_to_rx().expect("a free frame");
    assert!(!port.take_back_tx(desc(0)));
    assert!(port.take_back_rx(desc(0)).is_none());
    assert_eq!((pool.violations(), pool.census().quarantined), (2, 1));
}

#[test]
fn a_frame_that_comes_back_twice_is_taken_once() {
    let (pool, port) = pool();
    let lent = port.lend_to_tx(pool.alloc().expect("a free frame")).expect("it is the user's");
    assert!(port.take_back_tx(lent));
    assert!(!port.take_back_tx(lent), "the second time it is free");
    assert_quarantined(&pool, Census { free: 3, ..Census::default() });
}

#[test]
fn an_address_outside_the_pool_is_counted_and_no_frame_is_lost() {
    for addr in [4 * 2048, 4 * 2048 + 256, u64::MAX] {
        let (pool, port) = pool();
        assert!(port.take_back_rx(Desc { addr, len: 0 }).is_none());
        assert!(!port.take_back_tx(Desc { addr, len: 0 }));
        assert_eq!((pool.violations(), pool.census().free), (2, 4), "{addr}");
    }
}

#[test]
fn received_data_that_reaches_beyond_its_frame_quarantines_it() {
    let (pool, port) = pool();
    port.lend_free_to_rx().expect("a free frame");
    assert!(port.take_back_rx(Desc { addr: 256, len: 2048 - 255 }).is_none());
    assert_quarantined(&pool, Census { free: 3, ..Census::default() });
}

#[test]
fn received_data_that_ends_with_its_frame_is_taken() {
    let (_pool, port) = pool();
    port.lend_free_to_rx().expect("a free frame");
    let packet = port.take_back_rx(Desc { addr: 256, len: 2048 - 256 }).expect("it fits");
    assert_eq!((packet.data_offset(), packet.data().len()), (256, 2048 - 256));
}

#[test]
fn what_a_closed_port_was_lent_counts_as_free_and_is_never_handed_out_again() {
    let (pool, port) = pool();
    let received = port.lend_free_to_rx().expect("a free frame");
    let sent = port.lend_to_tx(pool.alloc().expect("a free frame")).expect("it is the user's");
    let _held = pool.alloc().expect("a free frame");
    port.retire_lent();
    assert_eq!(pool.census(), Census { free: 3, user: 1, capacity: 4, ..Census::default() });
    assert_eq!(pool.available(), 1);
    let other = pool.lender().expect("it is the second port");
    assert_eq!(frames_left(&pool), [3]);
    assert!(other.lend_free_to_rx().is_some() && other.lend_free_to_rx().is_none());

    // A ring that is still there, because it was moved into another port.
    assert!(port.take_back_rx(received).is_none() && !port.take_back_tx(sent));
    assert_eq!((pool.violations(), pool.census().quarantined, pool.census().is_whole()), (2, 2, true));
}

#[test]
fn what_was_lent_to_one_port_does_not_come_back_over_another() {
    let (pool, port) = pool();
    let other = pool.lender().expect("it is the second port");
    let received = other.lend_free_to_rx().expect("a free frame");
    let sent = other.lend_to_tx(pool.alloc().expect("a free frame")).expect("it is the user's");
    assert!(port.take_back_rx(received).is_none() && !port.take_back_tx(sent));

    let census = Census { free: 2, quarantined: 2, capacity: 4, ..Census::default() };
    assert_eq!((pool.census(), other.lent()), (census, Lent::default()));
    assert_eq!((port.counts().violations, other.counts().violations, pool.violations()), (2, 0, 2));
    let tx_quarantined = (port.counts().tx_quarantined, other.counts().tx_quarantined);
    assert_eq!(tx_quarantined, (0, 1), "it was the other that had it");
}

#[test]
fn a_port_that_closes_leaves_what_another_was_lent() {
    let (pool, port) = pool();
    let other = pool.lender().expect("it is the second port");
    for port in [&port, &other] {
        port.lend_free_to_rx().expect("a free frame");
        port.lend_to_tx(pool.alloc().expect("a free frame")).expect("it is the user's");
        assert_eq!(port.lent(), Lent { rx: 1, tx: 1 });
    }
    port.retire_lent();
    assert_eq!((port.lent(), other.lent()), (Lent::default(), Lent { rx: 1, tx: 1 }));
    let census = Census { free: 2, rx_lent: 1, tx_lent: 1, capacity: 4, ..Census::default() };
    assert_eq!(pool.census(), census);
}

#[test]
fn every_port_of_a_pool_has_a_number_of_its_own_until_there_are_no_more() {
    let (pool, first) = pool();
    let mut ports = vec![first];
    let error = loop {
        match pool.lender() {
            Ok(port) => ports.push(port),
            Err(error) => break error,
        }
    };
    assert_eq!(
        error.to_string(),
        format!("a packet pool has no number for another port after {} of them", ports.len())
    );
    assert_eq!(ports.len(), 126);
    let last = ports.last().expect("there are some");
    last.lend_free_to_rx().expect("a free frame");
    last.lend_to_tx(pool.alloc().expect("a free frame")).expect("it is the user's");
    let with_frames = ports.iter().filter(|port| port.lent() != Lent::default()).count();
    assert_eq!((with_frames, last.lent()), (1, Lent { rx: 1, tx: 1 }));
}
