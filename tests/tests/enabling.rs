//! Whatever enables a driver, what it asks at once is answered to it, and no frame is lost on the way.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use netdext::driver::{Cx, Driver, DriverError, DriverFactory, DriverStats, PortId, PowerState};
use netdext::packet::PacketBatch;
use netdext_host::supervisor::{RunConfig, Supervisor};
use netdext_tests::wire::{DRIVER_IFACE, DRIVER_V4, HOST_V4};
use netdext_tests::{Wire, patiently, require};

/// How often each switch is tried.
const TIMES: u64 = 5;

/// Replies that reached the driver.
type Replies = Arc<AtomicU64>;

/// Asks for the host's MAC address whenever it is enabled.
struct Asker(Replies);

impl Driver for Asker {
    fn name(&self) -> &'static str {
        "asker"
    }

    fn set_interface_enable(
        &mut self,
        cx: &mut Cx<'_>,
        _port: PortId,
        enable: bool,
    ) -> Result<(), DriverError> {
        if enable {
            let mut packet = cx.pool.alloc().expect("a free frame");
            let mac = cx.device(PortId::FIRST).mac;
            let target = HOST_V4.parse::<std::net::Ipv4Addr>().unwrap().octets();
            let own = DRIVER_V4.parse::<std::net::Ipv4Addr>().unwrap().octets();
            let request: &[&[u8]] =
                &[&[0xff; 6], &mac, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1], &mac, &own, &[0; 6], &target, &[0; 18]];
            let request = request.concat();
            packet.set_data_len(request.len()).expect("it fits");
            packet.data_mut().copy_from_slice(&request);
            cx.tx(PortId::FIRST).submit(packet).expect("the ring is empty");
        }
        Ok(())
    }

    fn rx_packets(&mut self, _cx: &mut Cx<'_>, _port: PortId, batch: &mut PacketBatch) {
        let replies = batch.iter().filter(|packet| packet.data()[12..22] == [8, 6, 0, 1, 8, 0, 6, 4, 0, 2]);
        self.0.fetch_add(replies.count() as u64, Ordering::Relaxed);
    }

    fn stats(&self) -> DriverStats {
        DriverStats::default()
    }
}

fn asker(replies: &Replies) -> DriverFactory {
    let replies = Arc::clone(replies);
    DriverFactory::new("asker", move |_queue| Box::new(Asker(Arc::clone(&replies))))
}

/// Lets the supervisor follow the link until so many replies have come.
async fn follow_until(supervisor: &mut Supervisor, replies: &Replies, wanted: u64) {
    let enough = async {
        while replies.load(Ordering::Relaxed) < wanted {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::select! {
        reason = supervisor.run() => panic!("{reason:?}"),
        outcome = tokio::time::timeout(patiently(Duration::from_secs(10)), enough) => {
            let count = replies.load(Ordering::Relaxed);
            assert!(outcome.is_ok(), "{count} replies reached the driver, not {wanted}");
        }
    }
}

#[test]
fn what_a_driver_asks_as_soon_as_it_is_enabled_is_answered_to_it_whoever_enabled_it() {
    require!("ethtool");
    let wire = Wire::new("enabling");
    let replies = Replies::default();
    let config = RunConfig {
        addresses: vec![(DRIVER_V4.parse().unwrap(), 24)],
        ..RunConfig::new(DRIVER_IFACE, asker(&replies))
    };
    let report = wire.driver.block_on(async || {
        let mut supervisor = Supervisor::start(&config).await.expect("it starts");
        follow_until(&mut supervisor, &replies, 1).await;
        for time in 0..TIMES {
            let before = 1 + 3 * time;
            supervisor.set_enabled(false).await.expect("it is disabled");
            supervisor.set_enabled(true).await.expect("it is enabled");
            follow_until(&mut supervisor, &replies, before + 1).await;

            supervisor.set_power(PowerState::Off).await.expect("it powers off");
            supervisor.set_power(PowerState::On).await.expect("it powers on");
            follow_until(&mut supervisor, &replies, before + 2).await;

            wire.driver.ip(&["link", "set", "dev", DRIVER_IFACE, "down"]);
            wire.driver.ip(&["link", "set", "dev", DRIVER_IFACE, "up"]);
            follow_until(&mut supervisor, &replies, before + 3).await;
        }
        supervisor.stop().await
    });
    assert_eq!(replies.load(Ordering::Relaxed), 1 + 3 * TIMES);
    assert!(report.is_whole(), "{report:?}");
    assert_eq!((report.stats.drops["interface_disabled"], report.stats.accounting.residue), (0, 0));
    wire.assert_no_xdp();
}
