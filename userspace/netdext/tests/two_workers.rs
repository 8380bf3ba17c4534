//! Two workers over one bad wire: what they count repeats from the seed.
//!
//! `NETDEXT_SEED` repeats a run.

use std::time::Duration;

use netdext::dispatch::{Fired, TimerId, Worker};
use netdext::driver::{Cx, Driver, DriverError, DriverStats, PortId, PowerState};
use netdext::packet::PacketBatch;
use netdext::port::sim::{Faults, SimConfig, Wire};
use netdext::testing::device;

const MS: Duration = Duration::from_millis(1);

/// Sends what it receives back, and a new frame per tick.
#[derive(Default)]
struct Player {
    timer: Option<TimerId>,
    number: u64,
}

impl Driver for Player {
    fn name(&self) -> &'static str {
        "player"
    }

    fn start(&mut self, cx: &mut Cx<'_>) -> Result<(), DriverError> {
        self.timer = Some(cx.timers.create("serve"));
        Ok(())
    }

    fn set_interface_enable(
        &mut self,
        cx: &mut Cx<'_>,
        _port: PortId,
        enable: bool,
    ) -> Result<(), DriverError> {
        let timer = self.timer.expect("made in start");
        if enable {
            cx.timers.arm_periodic(timer, cx.now + MS, 5 * MS);
        } else {
            cx.timers.cancel(timer);
        }
        Ok(())
    }

    fn rx_packets(&mut self, cx: &mut Cx<'_>, _port: PortId, batch: &mut PacketBatch) {
        cx.tx(PortId::FIRST).submit_batch(batch);
    }

    fn timer(&mut self, cx: &mut Cx<'_>, _fired: Fired) {
        let Some(mut packet) = cx.pool.alloc() else { return };
        self.number += 1;
        packet.set_data_len(60).expect("60 bytes fit");
        packet.data_mut().fill(self.number as u8);
        let _ = cx.tx(PortId::FIRST).submit(packet);
    }

    fn stats(&self) -> DriverStats {
        DriverStats { events: vec![("served", self.number)], ..DriverStats::default() }
    }
}

/// Two players over a bad wire; returns everything that was counted.
fn play(seed: u64, steps: usize) -> String {
    let (a, b, mut wire) =
        Wire::pair(&SimConfig { latency: MS, ..SimConfig::default() }, seed).expect("frames");
    let mut workers = [a, b].map(|port| {
        let mut worker =
            Worker::start(Box::<Player>::default(), port, device(0, 1), 32, wire.now()).expect("starts");
        worker.set_power(wire.now(), PowerState::On).expect("it powers on");
        worker.set_interface_enable(wire.now(), PortId::FIRST, true).expect("it is enabled");
        worker
    });
    let faults = Faults {
        drop: 0.02,
        duplicate: 0.01,
        reorder: 0.05,
        delayed: 0.05,
        delay: 3 * MS,
        bad_address: 0.001,
        ..Faults::default()
    };
    for step in 0..steps {
        let stall_completions = step % 1000 < 150;
        wire.set_faults(Faults { stall_completions, ..faults });
        wire.advance(MS);
        wire.step(16);
        let now = wire.now();
        for worker in &mut workers {
            worker.step(now, 64).expect("the faults pass");
        }
    }
    let reports = workers.map(|worker| worker.finish(wire.now(), None));
    for report in &reports {
        assert!(report.ports[0].census.is_whole(), "{:?}", report.ports[0].census);
        assert!(report.ports[0].snapshot.rx_packets > steps as u64 / 20, "{:?}", report.ports[0].snapshot);
    }
    format!("{reports:?}")
}

#[test]
fn ten_thousand_steps_of_two_workers_over_a_bad_wire_repeat_from_the_seed() {
    let seed = std::env::var("NETDEXT_SEED")
        .map_or_else(|_| fastrand::u64(..), |seed| seed.parse().expect("NETDEXT_SEED is a number"));
    println!("NETDEXT_SEED={seed}");
    let steps = if cfg!(miri) { 300 } else { 10_000 };
    let first = play(seed, steps);
    assert_eq!(first, play(seed, steps), "the same seed, another outcome");
    assert_ne!(first, play(seed.wrapping_add(1), steps), "the seed has no effect");
}
