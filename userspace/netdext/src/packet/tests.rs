//! What a ring may return wrongly, frame state by frame state.

use super::*;

fn pool() -> PacketPool {
    let config = PoolConfig { frames: 4, frame_size: FrameSize::TwoK };
    PacketPool::on_heap(&config).expect("there are frames")
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
        let pool = pool();
        if over_rx {
            assert!(pool.take_back_rx(desc(2)).is_none());
        } else {
            assert!(!pool.take_back_tx(desc(2)));
        }
        assert_quarantined(&pool, Census { free: 3, ..Census::default() });
        assert_eq!(frames_left(&pool), [0, 1, 3]);
    }
}

#[test]
fn a_frame_of_the_drivers_that_a_ring_returns_is_quarantined_and_not_sent() {
    let pool = pool();
    let packet = pool.alloc().expect("a free frame");
    assert!(!pool.take_back_tx(desc(0)));
    assert_quarantined(&pool, Census { free: 3, ..Census::default() });
    assert!(packet.lend(LentTo::Tx).is_none());
    assert_quarantined(&pool, Census { free: 3, ..Census::default() });
    assert_eq!(frames_left(&pool), [1, 2, 3]);
}

#[test]
fn a_frame_of_the_drivers_that_was_quarantined_is_not_freed_by_dropping_its_packet() {
    let pool = pool();
    let packet = pool.alloc().expect("a free frame");
    assert!(pool.take_back_rx(desc(0)).is_none());
    drop(packet);
    assert_quarantined(&pool, Census { free: 3, ..Census::default() });
    assert_eq!(frames_left(&pool), [1, 2, 3]);
}

#[test]
fn a_frame_that_comes_back_over_the_other_ring_is_quarantined() {
    let lent_to_rx = pool();
    lent_to_rx.lend_free_to_rx().expect("a free frame");
    assert!(!lent_to_rx.take_back_tx(desc(0)));
    let lent_to_tx = pool();
    lent_to_tx.alloc().expect("a free frame").lend(LentTo::Tx).expect("it is the user's");
    assert!(lent_to_tx.take_back_rx(desc(0)).is_none());
    for pool in [lent_to_rx, lent_to_tx] {
        assert_quarantined(&pool, Census { free: 3, ..Census::default() });
        pool.reclaim_lent();
        assert_quarantined(&pool, Census { free: 3, ..Census::default() });
    }
}

#[test]
fn a_quarantined_frame_stays_so_and_each_return_counts() {
    let pool = pool();
    pool.lend_free_to_rx().expect("a free frame");
    assert!(!pool.take_back_tx(desc(0)));
    assert!(pool.take_back_rx(desc(0)).is_none());
    assert_eq!((pool.violations(), pool.census().quarantined), (2, 1));
}

#[test]
fn a_frame_that_comes_back_twice_is_taken_once() {
    let pool = pool();
    let lent = pool.alloc().expect("a free frame").lend(LentTo::Tx).expect("it is the user's");
    assert!(pool.take_back_tx(lent));
    assert!(!pool.take_back_tx(lent), "the second time it is free");
    assert_quarantined(&pool, Census { free: 3, ..Census::default() });
}

#[test]
fn an_address_outside_the_pool_is_counted_and_no_frame_is_lost() {
    for addr in [4 * 2048, 4 * 2048 + 256, u64::MAX] {
        let pool = pool();
        assert!(pool.take_back_rx(Desc { addr, len: 0 }).is_none());
        assert!(!pool.take_back_tx(Desc { addr, len: 0 }));
        assert_eq!((pool.violations(), pool.census().free), (2, 4), "{addr}");
    }
}

#[test]
fn received_data_that_reaches_beyond_its_frame_quarantines_it() {
    let pool = pool();
    pool.lend_free_to_rx().expect("a free frame");
    assert!(pool.take_back_rx(Desc { addr: 256, len: 2048 - 255 }).is_none());
    assert_quarantined(&pool, Census { free: 3, ..Census::default() });
}

#[test]
fn received_data_that_ends_with_its_frame_is_taken() {
    let pool = pool();
    pool.lend_free_to_rx().expect("a free frame");
    let packet = pool.take_back_rx(Desc { addr: 256, len: 2048 - 256 }).expect("it fits");
    assert_eq!((packet.data_offset(), packet.data().len()), (256, 2048 - 256));
}

#[test]
fn closing_frees_what_the_kernel_holds_and_nothing_else() {
    let pool = pool();
    pool.lend_free_to_rx().expect("a free frame");
    pool.alloc().expect("a free frame").lend(LentTo::Tx).expect("it is the user's");
    let _held = pool.alloc().expect("a free frame");
    pool.reclaim_lent();
    assert_eq!(pool.census(), Census { free: 3, user: 1, capacity: 4, ..Census::default() });
}
