//! Link events, in the order in which things happen and without a loss that matters.

use std::time::Duration;

use netdext_host::link::{Device, DeviceError, LinkEvent, LinkEvents};
use netdext_tests::wire::{DRIVER_IFACE, HOST_IFACE};
use netdext_tests::{Namespace, Wire, patiently, require};

async fn watch(iface: &str) -> LinkEvents {
    let index = Device::query(iface).await.unwrap().index;
    LinkEvents::open(index).await.unwrap()
}

async fn next(events: &mut LinkEvents) -> Option<LinkEvent> {
    let next = tokio::time::timeout(patiently(Duration::from_secs(5)), events.next()).await;
    next.expect("an event comes in time").expect("the kernel answers")
}

#[test]
fn each_change_is_told_once_and_in_order() {
    require!("ethtool");
    let wire = Wire::new("events");
    wire.driver.block_on(async || {
        let mut events = watch(DRIVER_IFACE).await;
        let state = events.state().unwrap();
        assert_eq!((state.up, state.carrier, state.mtu), (true, true, 1500));
        wire.driver.ip(&["link", "set", DRIVER_IFACE, "mtu", "1400"]);
        assert_eq!(next(&mut events).await, Some(LinkEvent::MtuChanged { mtu: 1400 }));
        wire.host.ip(&["link", "set", HOST_IFACE, "down"]);
        assert_eq!(next(&mut events).await, Some(LinkEvent::CarrierDown));
        wire.host.ip(&["link", "set", HOST_IFACE, "up"]);
        assert_eq!(next(&mut events).await, Some(LinkEvent::CarrierUp));
        wire.driver.ip(&["link", "set", DRIVER_IFACE, "down"]);
        assert_eq!(next(&mut events).await, Some(LinkEvent::Down));
        assert_eq!(next(&mut events).await, Some(LinkEvent::CarrierDown));
        // An alias is no event; neither is what happens to another link.
        wire.driver.ip(&["link", "set", DRIVER_IFACE, "alias", "x"]);
        wire.driver.ip(&["link", "set", "lo", "down"]);
        wire.driver.ip(&["link", "set", DRIVER_IFACE, "up"]);
        assert_eq!(next(&mut events).await, Some(LinkEvent::Up));
        assert_eq!(next(&mut events).await, Some(LinkEvent::CarrierUp));
    });
}

#[test]
fn a_link_whose_other_end_vanishes_is_deleted() {
    require!("ethtool");
    let wire = Wire::new("events");
    wire.driver.block_on(async || {
        let mut events = watch(DRIVER_IFACE).await;
        wire.host.ip(&["link", "delete", HOST_IFACE]);
        let mut last = next(&mut events).await;
        while let Some(event) = next(&mut events).await {
            last = Some(event);
        }
        assert_eq!(last, Some(LinkEvent::Deleted));
        assert_eq!(events.state(), None);
    });
}

#[test]
fn a_link_whose_other_ends_namespace_vanishes_is_deleted() {
    require!("ethtool");
    let Wire { driver, host } = Wire::new("events");
    driver.block_on(async || {
        let mut events = watch(DRIVER_IFACE).await;
        drop(host);
        while next(&mut events).await != Some(LinkEvent::Deleted) {}
    });
}

#[test]
fn a_link_that_moves_to_another_namespace_is_deleted_here() {
    require!("ethtool");
    let wire = Wire::new("events");
    let elsewhere = Namespace::new("elsewhere");
    wire.driver.block_on(async || {
        let mut events = watch(DRIVER_IFACE).await;
        wire.driver.ip(&["link", "set", DRIVER_IFACE, "netns", elsewhere.name()]);
        while next(&mut events).await != Some(LinkEvent::Deleted) {}
    });
}

#[test]
fn the_last_state_is_told_after_a_flood_of_notifications() {
    require!("ethtool");
    let wire = Wire::new("events");
    wire.driver.block_on(async || {
        let mut events = watch(DRIVER_IFACE).await;
        // Nothing reads the socket meanwhile: some 2 kB each, far more than its buffer (212,992 bytes).
        let batch: String =
            (0..4000).map(|n| format!("link set {DRIVER_IFACE} mtu {}\n", 1000 + n % 2)).collect();
        let script = format!("{batch}link set {DRIVER_IFACE} mtu 1234\n");
        let path = std::env::temp_dir().join(format!("{}.batch", wire.driver.name()));
        std::fs::write(&path, script).unwrap();
        wire.driver.ip(&["-batch", path.to_str().unwrap()]);
        std::fs::remove_file(&path).unwrap();
        let mut told = 0;
        while next(&mut events).await != Some(LinkEvent::MtuChanged { mtu: 1234 }) {
            told += 1;
        }
        println!("{told} of 4000 changes were told one by one");
        assert!(told < 4000, "notifications were lost, or this proves nothing");
        assert_eq!(events.state().unwrap().mtu, 1234);
    });
}

#[test]
fn a_link_that_is_not_there_can_not_be_watched() {
    require!();
    let namespace = Namespace::new("events");
    let opened = namespace.block_on(async || LinkEvents::open(4711).await.map(|_| ()));
    assert!(matches!(opened, Err(DeviceError::NotFound { .. })), "{opened:?}");
}
