use std::sync::Arc;
use std::thread;

use fastrand::Rng;
use smoltcp::wire::ArpOperation;

use super::{SECOND, check_report, count, device, injecting, running, targets4};
use crate::requests::{Identity, InjectorStats};
use crate::sample::shared::Shared;
use crate::sample::{factory, sharing};
use netdext::dispatch::Worker;
use netdext::driver::{DeviceInfo, DriverFactory, PortId};
use netdext::packet::PacketBatch;
use netdext::port::Port;
use netdext::port::sim::{End, SimConfig, Wire};
use netdext::proto::Local;
use netdext::proto::testing::{OUR_MAC, OUR4, PEER_MAC, PEER4, arp_message, arp_request, respond};

/// One queue of the driver, with its own wire.
struct Queue {
    worker: Worker,
    other: Port,
    wire: Wire,
}

impl Queue {
    fn new(factory: &DriverFactory, queue: u32) -> Self {
        let (ours, other, wire) = Wire::pair(&SimConfig::default(), 1).unwrap();
        let device = DeviceInfo { queue, queues: 2, ..device() };
        Self { worker: running(factory, ours, device, wire.now()), other, wire }
    }

    /// Serves the queue until it is at rest; returns what it sent.
    fn settle(&mut self) -> Vec<Vec<u8>> {
        let mut batch = PacketBatch::with_capacity(64);
        let mut sent = Vec::new();
        for _ in 0..10 {
            self.worker.step(self.wire.now(), 64).unwrap();
            self.other.rx_submission.refill();
            self.wire.settle();
            self.other.rx_completion.dequeue(&mut batch);
            while let Some(packet) = batch.pop() {
                sent.push(packet.data().to_vec());
            }
        }
        sent
    }
}

#[test]
fn a_reply_on_another_queue_matches_and_every_count_is_reported_once() {
    let factory = factory(injecting(&targets4(), |_| {}), 1).unwrap();
    let mut queues = [Queue::new(&factory, 0), Queue::new(&factory, 1)];
    queues.iter_mut().for_each(|queue| drop(queue.settle()));

    // Everything that the peer sends arrives on the second queue.
    let arp_reply = arp_message(ArpOperation::Reply, (PEER_MAC, PEER4), (OUR_MAC, OUR4));
    queues[1].wire.inject(End::A, &arp_reply);
    let mut sent = [0, 0];
    for tick in 0..2 {
        for _ in 0..10 * (1 + 4 * tick) {
            for (index, place) in [(0, 0), (1, 1)] {
                queues[index].wire.advance(SECOND / 10);
                let frames = queues[index].settle();
                sent[place] += frames.len();
                for frame in frames {
                    let peer = Local::new(PEER_MAC, &[(PEER4.into(), 24)]);
                    let reply = respond(&frame, &peer).unwrap().unwrap();
                    queues[1].wire.inject(End::A, &reply);
                }
            }
        }
    }
    queues[1].settle();
    assert_eq!(sent, [16, 0], "only one instance has the timer");

    let mut merged = netdext::driver::DriverStats::default();
    for Queue { mut worker, other, wire } in queues {
        worker.set_interface_enable(wire.now(), PortId::FIRST, false).unwrap();
        let report = worker.finish(wire.now(), None);
        assert!(report.ports[0].census.is_whole());
        merged.merge(&report.ports[0].snapshot.driver);
        drop(other);
    }
    let injector = InjectorStats::of(&merged).unwrap();
    assert_eq!((injector.sent, injector.replies, injector.lost), (16, 16, 0));
    assert_eq!(injector.rtt_ns.len(), 16);
    assert_eq!(count(&merged, "echo_replies_matched"), 16);
    assert_eq!(count(&merged, "neighbor_requests_sent"), 1);
}

#[test]
fn instances_are_built_on_their_own_threads_and_exactly_one_of_them_reports_the_injector() {
    let factory = factory(injecting(&targets4(), |_| {}), 1).unwrap();
    let reports: Vec<_> = (0..4)
        .map(|queue| {
            let factory = factory.clone();
            thread::spawn(move || {
                let (ours, _other, wire) = Wire::pair(&SimConfig::default(), 1).unwrap();
                let device = DeviceInfo { queue, queues: 4, ..device() };
                let mut worker = running(&factory, ours, device, wire.now());
                worker.set_interface_enable(wire.now(), PortId::FIRST, false).unwrap();
                let report = worker.finish(wire.now(), None);
                check_report(&report);
                InjectorStats::of(&report.ports[0].snapshot.driver).is_some()
            })
        })
        .collect();
    let reporting = reports.into_iter().map(|thread| thread.join().unwrap()).filter(|&has| has).count();
    assert_eq!(reporting, 1);
}

#[test]
fn once_the_target_is_learnt_no_instance_looks_for_one() {
    let shared = Arc::new(Shared::new(Identity::new(&mut Rng::with_seed(1))));
    let factory = sharing(injecting(&[], |_| {}), Arc::clone(&shared));
    let mut queues = [Queue::new(&factory, 0), Queue::new(&factory, 1)];
    assert!(shared.is_learning());
    queues[1].settle();
    queues[1].wire.inject(End::A, &arp_request(PEER4, OUR4));
    queues[1].settle();
    assert!(!shared.is_learning());
    queues[0].wire.advance(SECOND);
    assert_eq!(queues[0].settle().len(), 8 + 1, "the requests, and one to confirm the MAC address");
}
