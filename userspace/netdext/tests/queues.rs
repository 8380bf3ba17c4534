//! The four queues of a port over the simulated wire.

use std::time::Duration;

use netdext::packet::{FrameSize, Packet, PacketBatch, PacketPool, PoolConfig};
use netdext::port::sim::{End, Faults, SimConfig, Wire};
use netdext::port::{Port, RingSizes};
use netdext::queue::{QueueError, RejectReason};
use rustix::io::Errno;

const RINGS: RingSizes = RingSizes { rx: 4, tx: 16 };

fn config() -> SimConfig {
    SimConfig { rings: RINGS, frames: RINGS.frames(), ..SimConfig::default() }
}

fn pair(config: &SimConfig) -> (Port, Port, Wire) {
    Wire::pair(config, 1).expect("there are frames")
}

/// A packet of 60 bytes that carries `number`.
fn packet(port: &Port, number: u8) -> Packet {
    let mut packet = port.pool.alloc().expect("a free frame");
    packet.set_data_len(60).expect("60 bytes fit");
    packet.data_mut().fill(number);
    packet
}

fn submit(port: &mut Port, count: u8) {
    for number in 0..count {
        let packet = packet(port, number);
        port.tx_submission.submit(packet).expect("there is room");
    }
}

/// The first byte of each packet received.
fn received(port: &mut Port) -> Vec<u8> {
    let mut batch = PacketBatch::with_capacity(64);
    port.rx_completion.dequeue(&mut batch);
    std::iter::from_fn(|| batch.pop()).map(|packet| packet.data()[0]).collect()
}

fn receive_one(port: &mut Port) -> Packet {
    let mut batch = PacketBatch::with_capacity(1);
    assert_eq!(port.rx_completion.dequeue(&mut batch), 1);
    batch.pop().expect("one packet")
}

#[test]
fn a_flush_wakes_the_kernel_for_what_it_left_even_with_no_new_frames() {
    let (mut a, _b, mut wire) = pair(&config());
    submit(&mut a, 1);
    wire.set_faults(Faults { wake_error: Some(Errno::BUSY), ..Faults::default() });
    a.tx_submission.flush().expect("EBUSY passes");
    assert_eq!(wire.step(8).sent, 0, "nobody woke the kernel");

    wire.set_faults(Faults::default());
    let flushed = a.tx_submission.flush().expect("no error any more");
    assert_eq!((flushed.published, flushed.wakeups), (0, 1));
    assert_eq!(wire.step(8).sent, 1);

    let flushed = a.tx_submission.flush().expect("nothing to do");
    assert_eq!(flushed.wakeups, 0, "the ring is empty");
}

#[test]
fn a_kernel_that_does_not_ask_for_it_is_not_woken() {
    let (mut a, _b, mut wire) = pair(&SimConfig { need_wakeup: false, ..config() });
    submit(&mut a, 3);
    assert_eq!(a.tx_submission.flush().expect("no system call").wakeups, 0);
    assert_eq!(a.tx_submission.wakeups(), 0);
    assert_eq!(wire.step(8).sent, 3);
}

#[test]
fn nothing_is_sent_before_the_flush() {
    let (mut a, _b, mut wire) = pair(&SimConfig { need_wakeup: false, ..config() });
    submit(&mut a, 3);
    assert_eq!((a.tx_submission.staged(), a.tx_submission.level()), (3, 0));
    assert_eq!(wire.step(8).sent, 0);
    assert_eq!(a.tx_submission.flush().expect("no system call").published, 3);
    assert_eq!((a.tx_submission.staged(), a.tx_submission.level()), (0, 3));
}

#[test]
fn eagain_with_progress_is_tried_again_until_the_ring_is_empty() {
    let (mut a, _b, mut wire) = pair(&config());
    wire.set_faults(Faults { wake_batch: Some(4), ..Faults::default() });
    submit(&mut a, 10);
    let flushed = a.tx_submission.flush().expect("EAGAIN passes");
    assert_eq!((flushed.published, flushed.wakeups), (10, 3), "4, 4 and 2 frames");
    assert_eq!(a.tx_submission.level(), 0);
    assert_eq!(a.tx_submission.errnos().iter().collect::<Vec<_>>(), [(Errno::AGAIN.raw_os_error(), 2)]);
}

#[test]
fn an_errno_that_passes_is_counted_and_tried_once_when_there_is_no_progress() {
    for errno in [Errno::AGAIN, Errno::BUSY, Errno::NOBUFS, Errno::NETDOWN, Errno::INTR] {
        let (mut a, _b, mut wire) = pair(&config());
        wire.set_faults(Faults { wake_error: Some(errno), ..Faults::default() });
        submit(&mut a, 10);
        assert_eq!(a.tx_submission.flush().expect("it passes").wakeups, 1);
        assert_eq!(a.tx_submission.level(), 10, "the frames stay in the ring");
        a.tx_submission.flush().expect("it still passes");
        assert_eq!(a.tx_submission.errnos().iter().collect::<Vec<_>>(), [(errno.raw_os_error(), 2)]);
        assert_eq!(a.tx_submission.wakeups(), 2);
    }
}

#[test]
fn an_errno_that_does_not_pass_is_an_error_and_counted() {
    let (mut a, _b, mut wire) = pair(&config());
    wire.set_faults(Faults { wake_error: Some(Errno::NXIO), ..Faults::default() });
    submit(&mut a, 3);
    let error = a.tx_submission.flush().expect_err("ENXIO stays");
    let QueueError::Wake { in_ring, source } = error else { panic!("{error}") };
    assert_eq!((in_ring, source.raw_os_error()), (3, Some(Errno::NXIO.raw_os_error())));
    assert_eq!(a.tx_submission.errnos().iter().collect::<Vec<_>>(), [(Errno::NXIO.raw_os_error(), 1)]);
    let error = a.tx_submission.kick().expect_err("nor does a kick help");
    let QueueError::Wake { in_ring, .. } = error else { panic!("{error}") };
    assert_eq!(in_ring, 3);
    assert!(a.close().is_whole(), "the frames in the ring are not lost");
}

#[test]
fn a_full_tx_ring_gives_the_packet_back_until_there_is_room() {
    let (mut a, _b, mut wire) = pair(&config());
    submit(&mut a, 16);
    let rejected = a.tx_submission.submit(packet(&a, 77)).expect_err("the ring has 16 slots");
    assert_eq!(rejected.reason, RejectReason::Full);
    assert_eq!(rejected.packet.data(), [77; 60]);

    a.tx_submission.flush().expect("no error");
    assert_eq!(a.tx_submission.room(), 0, "published is not sent");
    wire.step(5);
    assert_eq!(a.tx_submission.room(), 5);
    a.tx_submission.submit(rejected.packet).expect("there is room");
}

#[test]
fn a_batch_stays_with_the_caller_from_the_first_packet_that_does_not_fit() {
    let (mut a, mut b, mut wire) = pair(&config());
    submit(&mut a, 13);
    let mut batch = PacketBatch::with_capacity(8);
    for number in 100..105 {
        batch.push(packet(&a, number)).expect("there is room");
    }
    assert_eq!(a.tx_submission.submit_batch(&mut batch), 3);
    let left: Vec<u8> = std::iter::from_fn(|| batch.pop()).map(|packet| packet.data()[0]).collect();
    assert_eq!(left, [103, 104], "in order");

    a.tx_submission.flush().expect("no error");
    let mut arrived = Vec::new();
    while arrived.len() < 16 {
        b.rx_submission.refill();
        assert!(wire.step(4).any(), "only {arrived:?} arrived");
        arrived.extend(received(&mut b));
    }
    assert_eq!(arrived, [&(0..13).collect::<Vec<u8>>()[..], &[100, 101, 102]].concat());
}

#[test]
fn packets_that_can_never_be_sent_are_dropped_from_a_batch_and_free_again() {
    let (mut a, b, _wire) = pair(&config());
    let mut batch = PacketBatch::with_capacity(8);
    batch.push(packet(&b, 1)).expect("there is room");
    batch.push(a.pool.alloc().expect("a free frame")).expect("there is room");
    batch.push(packet(&a, 2)).expect("there is room");
    assert_eq!(a.tx_submission.submit_batch(&mut batch), 1);
    assert_eq!((a.pool.census().tx_lent, a.pool.census().user, b.pool.census().user), (1, 0, 0));
}

#[test]
fn a_packet_of_another_pool_is_rejected() {
    let (mut a, b, _wire) = pair(&config());
    let rejected = a.tx_submission.submit(packet(&b, 1)).expect_err("it is b's");
    assert_eq!(rejected.reason, RejectReason::ForeignPool);
    assert!(b.pool.owns(&rejected.packet));
    assert_eq!(b.pool.census().user, 1);
}

/// Two ports over one pool, with a wire between them.
fn pair_over_one_pool(frames: u32) -> (Port, Port, Wire) {
    let pool = PacketPool::on_heap(&PoolConfig { frames, frame_size: FrameSize::TwoK }).expect("frames");
    Wire::pair_over([&pool, &pool], &config(), 1).expect("it has two ports")
}

#[test]
fn a_packet_of_another_pool_stays_with_who_submits_it_for_receiving() {
    let (mut a, b, _wire) = pair(&config());
    let mut batch = PacketBatch::with_capacity(4);
    for port in [&b, &a, &b, &a] {
        batch.push(packet(port, 1)).expect("there is room");
    }
    assert_eq!(a.rx_submission.submit(&mut batch), 2);
    assert_eq!((a.lent().rx, a.rx_submission.level()), (2, 2));
    assert!(batch.len() == 2 && batch.iter().all(|packet| b.pool.owns(packet)));
    assert_eq!(a.rx_submission.submit(&mut batch), 0, "nor the second time");
    assert_eq!((b.lent().rx, b.pool.census().user), (0, 2));
}

#[test]
fn a_packet_goes_out_by_any_port_that_shares_its_pool() {
    let (mut a, mut b, mut wire) = pair_over_one_pool(64);
    a.rx_submission.refill();
    b.rx_submission.refill();
    wire.inject(End::A, &[7; 60]);
    wire.settle();
    let packet = receive_one(&mut a);
    b.tx_submission.submit(packet).expect("it is of the same pool");
    b.tx_submission.flush().expect("no error");
    assert_eq!((a.lent().tx, b.lent().tx, b.tx_in_flight()), (0, 1, 1));
    wire.settle();
    assert_eq!(a.tx_completion.reap(64), 0, "it was b that sent it");
    assert_eq!(b.tx_completion.reap(64), 1);
    assert_eq!(received(&mut a), [7]);
    assert_eq!((a.pool.violations(), a.pool.census().is_whole()), (0, true));
}

#[test]
fn a_port_that_closes_leaves_the_other_of_its_pool_what_that_was_lent() {
    let (mut a, mut b, mut wire) = pair_over_one_pool(64);
    a.rx_submission.refill();
    b.rx_submission.refill();
    submit(&mut a, 3);
    submit(&mut b, 2);
    let closed = a.close();
    assert_eq!((closed.lent.rx, closed.lent.tx, closed.before.tx_lent), (8, 3, 5));
    assert_eq!((closed.after.rx_lent, closed.after.tx_lent), (8, 2), "what the other has");
    b.tx_submission.flush().expect("no error");
    wire.inject(End::B, &[9; 60]);
    wire.settle();
    assert_eq!((b.tx_completion.reap(64), received(&mut b)), (2, vec![9]));
    assert_eq!(b.violations(), 0);
    assert!(b.close().is_whole());
}

#[test]
fn what_a_port_had_lent_when_it_was_closed_is_in_nobodys_hands_again() {
    let (mut a, _b, mut wire) = pair(&config());
    let pool = a.pool.clone();
    a.rx_submission.refill();
    submit(&mut a, 3);
    a.tx_submission.flush().expect("no error");
    let lent = a.lent();
    let closed = a.close();
    assert!(closed.is_whole() && closed.after.free == RINGS.frames(), "{closed:?}");

    // As of a socket that somebody else still has a descriptor of.
    let mut held: Vec<_> = std::iter::from_fn(|| pool.alloc()).collect();
    assert_eq!(held.len() as u32, RINGS.frames() - lent.rx - lent.tx);
    for packet in &mut held {
        packet.set_data(0, packet.frame_size()).expect("all of it");
        packet.data_mut().fill(5);
    }
    wire.inject(End::A, &[7; 60]);
    wire.settle();
    assert!(held.iter().all(|packet| packet.data().iter().all(|&byte| byte == 5)));
}

#[test]
fn queues_exchanged_between_two_ports_move_only_what_is_their_own() {
    let (mut a, mut b, mut wire) = pair(&config());
    std::mem::swap(&mut a.rx_submission, &mut b.rx_submission);
    std::mem::swap(&mut a.tx_submission, &mut b.tx_submission);
    std::mem::swap(&mut a.pool, &mut b.pool);
    a.rx_submission.refill();
    b.rx_submission.refill();
    let rejected = a.tx_submission.submit(packet(&b, 1)).expect_err("that queue is of the other pool");
    assert_eq!(rejected.reason, RejectReason::ForeignPool);
    drop(rejected);
    submit(&mut a, 3);
    a.tx_submission.flush().expect("no error");
    wire.settle();
    assert_eq!(b.tx_completion.reap(64), 3, "by the port that the queue was made for");
    assert_eq!(received(&mut a), [0, 1, 2]);
    let closed = [a.close(), b.close()];
    assert!(closed.iter().all(|closed| closed.is_whole() && closed.violations == 0), "{closed:?}");
}

#[test]
fn a_frame_shorter_than_an_ethernet_header_is_rejected() {
    let (mut a, _b, _wire) = pair(&config());
    for (len, fits) in [(0, false), (13, false), (14, true)] {
        let mut packet = packet(&a, 1);
        packet.set_data_len(len).expect("it fits the frame");
        let reason = a.tx_submission.submit(packet).err().map(|rejected| rejected.reason);
        assert_eq!(reason, (!fits).then_some(RejectReason::BadLength), "{len} bytes");
    }
}

#[test]
fn data_that_a_descriptor_cannot_express_is_moved_and_counted_or_rejected_when_too_long() {
    let (mut a, mut b, mut wire) = pair(&config());
    b.rx_submission.refill();
    let mut moved = packet(&a, 9);
    moved.prepend(4).expect("there is headroom").fill(8);
    a.tx_submission.submit(moved).expect("it is moved");
    assert_eq!(a.tx_submission.realigned(), 1);
    a.tx_submission.flush().expect("no error");
    wire.settle();
    assert_eq!(receive_one(&mut b).data(), [vec![8; 4], vec![9; 60]].concat());

    let mut long = packet(&a, 1);
    long.set_data(100, a.pool.max_data() + 1).expect("within the frame");
    let rejected = a.tx_submission.submit(long).expect_err("too long behind the headroom");
    assert_eq!(rejected.reason, RejectReason::BadLength);
    assert_eq!((rejected.packet.data_offset(), a.tx_submission.realigned()), (100, 1), "not touched");
}

#[test]
fn a_fill_ring_below_a_quarter_is_counted() {
    let (_a, mut b, mut wire) = pair(&config());
    let mut lose = |b: &mut Port, frames: usize| {
        for _ in 0..frames {
            wire.inject(End::B, &[1; 60]);
            wire.settle();
            received(b);
        }
    };
    assert_eq!(b.rx_submission.refill(), 8);
    assert_eq!(b.rx_submission.low_water_hits(), 0, "the first filling does not count");
    lose(&mut b, 6);
    assert_eq!((b.rx_submission.level(), b.rx_submission.refill()), (2, 6));
    assert_eq!(b.rx_submission.low_water_hits(), 0, "2 of 8 is a quarter");
    lose(&mut b, 7);
    assert_eq!((b.rx_submission.level(), b.rx_submission.refill()), (1, 7));
    assert_eq!(b.rx_submission.low_water_hits(), 1);
}

#[test]
fn an_empty_packet_at_the_end_of_its_frame_can_be_lent_for_receiving() {
    let (_a, mut b, mut wire) = pair(&SimConfig { frames: 1, ..config() });
    let mut packet = packet(&b, 1);
    packet.set_data(packet.frame_size(), 0).expect("within the frame");
    let mut batch = PacketBatch::with_capacity(1);
    batch.push(packet).expect("there is room");
    assert_eq!(b.rx_submission.submit(&mut batch), 1);
    wire.inject(End::B, &[7; 60]);
    wire.settle();
    assert_eq!(receive_one(&mut b).data(), [7; 60]);
}

#[test]
fn stalled_completions_keep_their_frames_lent_until_they_come() {
    let (mut a, _b, mut wire) = pair(&config());
    wire.set_faults(Faults { stall_completions: true, ..Faults::default() });
    submit(&mut a, 3);
    a.tx_submission.flush().expect("no error");
    wire.settle();
    assert_eq!(a.tx_completion.reap(64), 0);
    assert_eq!((a.tx_in_flight(), a.pool.census().tx_lent), (3, 3));

    wire.set_faults(Faults::default());
    wire.settle();
    assert_eq!(a.tx_completion.reap(2), 2, "no more than asked for");
    assert_eq!(a.tx_completion.reap(64), 1);
    assert_eq!((a.tx_in_flight(), a.pool.census().tx_lent), (0, 0));
}

#[test]
fn a_frame_that_is_quarantined_while_it_is_sent_is_no_longer_waited_for() {
    let (mut a, _b, mut wire) = pair(&config());
    submit(&mut a, 16);
    a.tx_submission.flush().expect("no error");
    wire.set_faults(Faults { stall_completions: true, bad_address: 1.0, ..Faults::default() });
    for _ in 0..10 {
        a.rx_submission.refill();
        wire.inject(End::A, &[1; 60]);
        wire.settle();
        received(&mut a);
    }
    let quarantined = a.tx_quarantined();
    assert!(quarantined > 0 && a.tx_in_flight() == 16 - quarantined, "{:?}", a.pool);

    wire.set_faults(Faults::default());
    wire.settle();
    assert_eq!((a.tx_completion.reap(64), a.tx_in_flight()), (16, 0));
}

#[test]
fn frames_that_find_the_rx_ring_full_are_counted() {
    let (_a, mut b, mut wire) = pair(&config());
    b.rx_submission.refill();
    for number in 0..6 {
        wire.inject(End::B, &[number; 60]);
    }
    assert_eq!(wire.settle().lost, 2);
    let statistics = b.statistics().expect("the simulated port has them");
    assert_eq!((statistics.rx_ring_full, statistics.rx_lost()), (2, 2));
    assert_eq!(received(&mut b), [0, 1, 2, 3], "the first ones are kept");
}

#[test]
fn frames_that_find_the_fill_ring_empty_are_counted() {
    let (_a, mut b, mut wire) = pair(&config());
    wire.inject(End::B, &[1; 60]);
    assert_eq!(wire.settle().lost, 1);
    let statistics = b.statistics().expect("the simulated port has them");
    assert_eq!((statistics.rx_fill_ring_empty_descs, statistics.rx_lost()), (1, 1));
    b.rx_submission.refill();
    wire.inject(End::B, &[2; 60]);
    wire.settle();
    assert_eq!(received(&mut b), [2]);
}

#[test]
fn a_timestamp_is_there_when_the_program_wrote_one_and_a_stale_one_is_never_taken_for_it() {
    // One frame, so that every packet is received into the same place.
    let (_a, mut b, mut wire) = pair(&SimConfig { frames: 1, ..config() });
    let mut receive = |timestamps: bool| {
        b.rx_submission.refill();
        wire.set_timestamps(timestamps);
        wire.advance(Duration::from_millis(1));
        wire.inject(End::B, &[1; 60]);
        wire.settle();
        (receive_one(&mut b).rx_timestamp_ns(), wire.now().as_nanos())
    };
    let (first, now) = receive(true);
    assert_eq!(first, Some(now));
    assert_eq!(receive(false).0, None, "the first one's is still in the frame");
    let (third, now) = receive(true);
    assert_eq!(third, Some(now));
}

#[test]
fn a_packet_that_is_allocated_has_no_timestamp_from_before() {
    let (_a, mut b, mut wire) = pair(&SimConfig { frames: 1, ..config() });
    b.rx_submission.refill();
    wire.inject(End::B, &[1; 60]);
    wire.settle();
    assert!(receive_one(&mut b).rx_timestamp_ns().is_some());
    assert_eq!(packet(&b, 1).rx_timestamp_ns(), None);
}

#[test]
fn a_packet_may_outlive_its_port_and_is_counted_as_missing() {
    let (a, _b, wire) = pair(&SimConfig { frame_size: FrameSize::FourK, ..config() });
    let pool = a.pool.clone();
    let mut packet = packet(&a, 5);
    let closed = a.close();
    drop(wire);
    assert!(!closed.is_whole(), "{closed:?}");
    assert_eq!((closed.after.user, closed.after.free), (1, RINGS.frames() - 1));
    packet.data_mut()[0] = 6;
    assert_eq!(packet.data()[..2], [6, 5]);
    drop(packet);
    assert_eq!(pool.available(), pool.capacity());
}
