//! A driver and an async task exchange the contents of packets: over the simulated wire, on the thread of a worker.

use std::sync::mpsc as queue;
use std::time::Duration;

use netdext::dispatch::{Waker, WorkerError};
use netdext::driver::{Cx, Driver, DriverError, DriverStats, PortId, PowerState};
use netdext::packet::PacketBatch;
use netdext::port::Port;
use netdext::port::sim::{End, SimConfig, Wire};
use netdext::testing::{OUR_MAC, PEER_MAC, device, frame};
use netdext_host::worker::{Command, Recipe, WaitStrategy, WorkerConfig, WorkerEvent, WorkerHandle};
use netdext_host::xsk::XskInfo;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};

/// How long what takes milliseconds may take on a busy machine.
const SOON: Duration = Duration::from_secs(20);
const FRAMES: usize = 3;

/// Hands what it receives to a task, and sends what the task makes of it.
struct Courier {
    waker: Option<oneshot::Sender<Waker>>,
    to_task: mpsc::Sender<Vec<u8>>,
    from_task: queue::Receiver<Vec<u8>>,
    asked: u64,
    not_asked: u64,
    answered: u64,
    not_sent: u64,
}

impl Driver for Courier {
    fn name(&self) -> &'static str {
        "courier"
    }

    fn start(&mut self, cx: &mut Cx<'_>) -> Result<(), DriverError> {
        if let Some(to_task) = self.waker.take() {
            // A task that is gone asks for nothing.
            let _ = to_task.send(cx.waker());
        }
        Ok(())
    }

    fn rx_packets(&mut self, _cx: &mut Cx<'_>, _port: PortId, batch: &mut PacketBatch) {
        while let Some(packet) = batch.pop() {
            // The contents only: the frame belongs to this thread. A worker never waits, so a full queue is a loss.
            match self.to_task.try_send(packet.data().to_vec()) {
                Ok(()) => self.asked += 1,
                Err(_) => self.not_asked += 1,
            }
        }
    }

    fn woken(&mut self, cx: &mut Cx<'_>) {
        for answer in self.from_task.try_iter() {
            self.answered += 1;
            let sent = cx.pool.alloc().is_some_and(|mut packet| {
                let fits = packet.set_data_len(answer.len()).is_ok();
                if fits {
                    packet.data_mut().copy_from_slice(&answer);
                }
                fits && cx.tx(PortId::FIRST).submit(packet).is_ok()
            });
            self.not_sent += u64::from(!sent);
        }
    }

    fn pending(&self) -> u64 {
        self.asked - self.answered
    }

    fn stats(&self) -> DriverStats {
        DriverStats {
            counters: vec![("asked", self.asked)],
            drops: vec![("not_asked", self.not_asked)],
            events: vec![("answered", self.answered), ("not_sent", self.not_sent)],
            ..DriverStats::default()
        }
    }
}

/// The task: what it awaits could as well be a database or another host.
async fn answer(
    waker: oneshot::Receiver<Waker>,
    mut requests: mpsc::Receiver<Vec<u8>>,
    answers: queue::Sender<Vec<u8>>,
) {
    let Ok(waker) = waker.await else { return };
    while let Some(mut frame) = requests.recv().await {
        sleep(Duration::from_millis(2)).await;
        let (destination, rest) = frame.split_at_mut(6);
        destination.swap_with_slice(&mut rest[..6]);
        if answers.send(frame).is_err() {
            return;
        }
        waker.wake();
    }
}

/// The driver with the wire and its other end, which live on its thread: each wake lets the wire move, too.
struct OnWire {
    courier: Courier,
    wire: Wire,
    peer: Port,
    waker: Option<oneshot::Sender<Waker>>,
    submitted: mpsc::UnboundedSender<u64>,
    arrived: mpsc::UnboundedSender<Vec<u8>>,
}

impl Driver for OnWire {
    fn name(&self) -> &'static str {
        self.courier.name()
    }

    fn start(&mut self, cx: &mut Cx<'_>) -> Result<(), DriverError> {
        self.peer.rx_submission.refill();
        let tell = self.waker.take().expect("it is started once");
        tell.send(cx.waker()).expect("the test listens");
        self.courier.start(cx)
    }

    fn set_interface_enable(&mut self, _: &mut Cx<'_>, _: PortId, enable: bool) -> Result<(), DriverError> {
        for number in (0..FRAMES).filter(|_| enable) {
            self.wire.inject(End::A, &frame(OUR_MAC, PEER_MAC, 60 + number));
        }
        self.wire.settle();
        Ok(())
    }

    fn rx_packets(&mut self, cx: &mut Cx<'_>, port: PortId, batch: &mut PacketBatch) {
        self.courier.rx_packets(cx, port, batch);
    }

    fn woken(&mut self, cx: &mut Cx<'_>) {
        self.wire.settle();
        let mut batch = PacketBatch::with_capacity(8);
        self.peer.rx_completion.dequeue(&mut batch);
        while let Some(packet) = batch.pop() {
            let _ = self.arrived.send(packet.data().to_vec());
        }
        self.courier.woken(cx);
        let _ = self.submitted.send(self.courier.answered);
    }

    fn pending(&self) -> u64 {
        self.courier.pending()
    }

    fn stats(&self) -> DriverStats {
        self.courier.stats()
    }
}

async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(SOON, what).await.expect("it happens at once")
}

async fn ask(handle: &WorkerHandle, command: impl FnOnce(Answer) -> Command) {
    let (sender, answer) = oneshot::channel();
    handle.send(command(sender));
    soon(answer).await.expect("it answers").expect("it is done");
}

type Answer = oneshot::Sender<Result<(), WorkerError>>;

#[tokio::test]
async fn a_task_answers_what_a_driver_on_a_sleeping_thread_has_received() {
    let (to_task, requests) = mpsc::channel(64);
    let (answers, from_task) = queue::channel();
    let (tell_task, told) = oneshot::channel();
    let task = tokio::spawn(answer(told, requests, answers));
    let (tell_us, waker) = oneshot::channel();
    let (submitted, mut submissions) = mpsc::unbounded_channel();
    let (arrived, mut arrivals) = mpsc::unbounded_channel();
    let recipe: Recipe = Box::new(move || {
        let (port, peer, wire) = Wire::pair(&SimConfig::default(), 1).expect("there are frames");
        let info = XskInfo { zero_copy: false, tx_budget: None, huge_pages: false, busy_retries: 0 };
        let waker = Some(tell_task);
        let courier = Courier { waker, to_task, from_task, asked: 0, not_asked: 0, answered: 0, not_sent: 0 };
        let waker = Some(tell_us);
        Ok((vec![(port, info)], Box::new(OnWire { courier, wire, peer, waker, submitted, arrived })))
    });
    // It sleeps until it is woken: there is no timer, and a simulated port has nothing to poll.
    let config = WorkerConfig { wait: WaitStrategy::Poll, batch: 32, cpu: None, latency: false };
    let (events, mut ended) = mpsc::unbounded_channel();
    let handle = WorkerHandle::spawn(config, vec![device(0, 1)], recipe, Box::new(|| ()), events);
    let handle = handle.expect("a thread");
    ask(&handle, |reply| Command::SetPower(PowerState::On, reply)).await;
    ask(&handle, |reply| Command::SetInterfaceEnable(PortId::FIRST, true, reply)).await;

    while soon(submissions.recv()).await.expect("the driver is there") < FRAMES as u64 {}
    // What was submitted last leaves after the callback, and the wire moves with the next wake.
    soon(waker).await.expect("the driver is started").wake();
    for number in 0..FRAMES {
        let expected = frame(PEER_MAC, OUR_MAC, 60 + number);
        assert_eq!(soon(arrivals.recv()).await, Some(expected), "turned round by the task");
    }
    drop(handle);
    let Some(WorkerEvent::Ended { report: Some(report), .. }) = soon(ended.recv()).await else {
        panic!("it leaves no report");
    };
    let port = &report.ports[0];
    assert!(report.error.is_none() && port.census.is_whole(), "{report:?}");
    assert_eq!(port.snapshot.driver.counters, [("asked", FRAMES as u64)]);
    soon(task).await.expect("it ends with the driver");
}
