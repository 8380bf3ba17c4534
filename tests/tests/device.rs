//! The facts of a device, and the settings, against what `ip` and `ethtool` say.

use std::net::IpAddr;

use netdext_host::link::offload;
use netdext_host::link::{Device, DeviceError, Netlink, PeerLocation, QueueSource};
use netdext_tests::wire::{DRIVER_IFACE, HOST_IFACE};
use netdext_tests::{Namespace, Wire, WireConfig, require};

fn query(namespace: &Namespace, iface: &str) -> Device {
    namespace.block_on(async || Device::query(iface).await).unwrap()
}

#[test]
fn the_facts_of_a_veth_are_those_that_ip_shows() {
    require!("ethtool");
    let wire = Wire::with("facts", WireConfig { queues: 2, mtu: 1400 });
    let device = query(&wire.driver, DRIVER_IFACE);
    let link = wire.driver.link(DRIVER_IFACE).unwrap();
    assert_eq!(device.name, DRIVER_IFACE);
    assert_eq!(u64::from(device.index), link["ifindex"].as_u64().unwrap());
    assert_eq!((device.mac, device.mtu), (wire.driver_mac(), 1400));
    assert_eq!((device.up, device.carrier), (true, true));
    assert_eq!((device.kind.as_deref(), device.alias.as_str()), (Some("veth"), ""));
    assert_eq!((device.xdp, device.is_default_route), (None, false));
    assert_eq!(device.addresses, []);
    let peer = device.peer.unwrap();
    assert_eq!(u64::from(peer.index), wire.host.link(HOST_IFACE).unwrap()["ifindex"].as_u64().unwrap());
    assert!(matches!(peer.location, PeerLocation::Other { .. }), "{peer:?}");
    assert_eq!(wire.driver.block_on(async || device.peer_addresses(&Netlink::open()?).await).unwrap(), []);
}

#[test]
fn the_addresses_are_those_of_the_interface_alone() {
    require!("ethtool");
    let wire = Wire::new("addresses");
    let expected: [(IpAddr, u8); 2] =
        [("198.18.0.2".parse().unwrap(), 24), ("2001:2::2".parse().unwrap(), 64)];
    assert_eq!(query(&wire.host, HOST_IFACE).addresses, expected);
}

#[test]
fn carrier_and_up_are_told_apart() {
    require!("ethtool");
    let wire = Wire::new("carrier");
    wire.host.ip(&["link", "set", HOST_IFACE, "down"]);
    let device = query(&wire.driver, DRIVER_IFACE);
    assert_eq!((device.up, device.carrier), (true, false));
    wire.driver.ip(&["link", "set", DRIVER_IFACE, "down"]);
    assert!(!query(&wire.driver, DRIVER_IFACE).up);
}

#[test]
fn queues_that_exist_but_are_not_active_do_not_count() {
    require!("ethtool");
    let wire = Wire::with("queues", WireConfig { queues: 8, mtu: 1500 });
    assert_eq!(query(&wire.driver, DRIVER_IFACE).active_queues.usable(), 8);
    wire.driver.run("ethtool", &["-L", DRIVER_IFACE, "rx", "3", "tx", "2"]);
    let queues = query(&wire.driver, DRIVER_IFACE).active_queues;
    assert_eq!((queues.rx, queues.tx, queues.source), (3, 2, QueueSource::Channels));
    assert_eq!(queues.usable(), 2);
}

#[test]
fn the_queues_in_sysfs_of_another_namespace_are_not_taken_for_ours() {
    require!();
    let namespace = Namespace::new("sysfs");
    // The sysfs of this thread's mount shows the root namespace: a name from there, for another device.
    let names = std::fs::read_dir("/sys/class/net").unwrap().map(|entry| entry.unwrap().file_name());
    let name = names.filter_map(|name| name.into_string().ok()).find(|name| name != "lo");
    let name = name.as_deref().unwrap_or("nxtbridge0");
    // A bridge has no channels to ask for.
    namespace.ip(&["link", "add", name, "numtxqueues", "5", "numrxqueues", "3", "type", "bridge"]);
    let queues = query(&namespace, name).active_queues;
    assert_eq!((queues.rx, queues.tx, queues.source), (3, 5, QueueSource::Allocated));
}

#[test]
fn the_interface_of_the_default_route_is_known_for_both_families() {
    require!("ethtool");
    let wire = Wire::new("default route");
    let is_default = || query(&wire.host, HOST_IFACE).is_default_route;
    assert!(!is_default());
    wire.host.ip(&["route", "add", "default", "via", "198.18.0.1"]);
    assert!(is_default());
    assert!(!query(&wire.host, "lo").is_default_route);
    wire.host.ip(&["route", "delete", "default"]);
    assert!(!is_default());
    wire.host.ip(&["-6", "route", "add", "default", "via", "2001:2::1"]);
    assert!(is_default());
    wire.host.ip(&["-6", "route", "delete", "default"]);
    wire.host.ip(&[
        "route",
        "add",
        "default",
        "nexthop",
        "via",
        "198.18.0.1",
        "nexthop",
        "via",
        "198.18.0.3",
    ]);
    assert!(is_default(), "of several paths");
}

#[test]
fn a_missing_interface_is_answered_with_those_of_the_namespace() {
    require!("ethtool");
    let wire = Wire::new("missing");
    let error = wire.driver.block_on(async || Device::query("veth9").await).unwrap_err();
    assert!(matches!(error, DeviceError::NotFound { .. }));
    assert_eq!(error.to_string(), "no interface veth9 here; there are lo, veth0");
}

#[test]
fn settings_take_effect_and_can_be_taken_back() {
    require!("ethtool");
    let wire = Wire::new("settings");
    let address: IpAddr = "2001:2::77".parse().unwrap();
    wire.driver.block_on(async || {
        let index = Device::query(DRIVER_IFACE).await.unwrap().index;
        let netlink = Netlink::open().unwrap();
        netlink.set_mtu(index, 2000).await.unwrap();
        netlink.set_alias(index, "netdext:test").await.unwrap();
        netlink.add_address(index, address, 64).await.unwrap();
        netlink.set_up(index, false).await.unwrap();
        let device = Device::query(DRIVER_IFACE).await.unwrap();
        assert_eq!((device.mtu, device.alias.as_str(), device.up), (2000, "netdext:test", false));
        assert_eq!(wire.driver.link(DRIVER_IFACE).unwrap()["ifalias"], "netdext:test");

        netlink.set_alias(index, "").await.unwrap();
        netlink.set_up(index, true).await.unwrap();
        netlink.add_address(index, address, 64).await.unwrap();
        assert_eq!(Device::query(DRIVER_IFACE).await.unwrap().addresses, [(address, 64)]);
        netlink.remove_address(index, address).await.unwrap();
        let device = Device::query(DRIVER_IFACE).await.unwrap();
        assert_eq!((device.alias.as_str(), device.up, device.addresses.len()), ("", true, 0));
        assert!(netlink.remove_address(index, address).await.is_err());
        let error = netlink.set_mtu(index, 1).await.unwrap_err().to_string();
        assert!(error.starts_with(&format!("set the MTU of interface {index} to 1: ")), "{error}");
        assert!(netlink.set_alias(index, &"x".repeat(256)).await.is_err());
    });
}

#[test]
fn offloads_are_switched_off_and_restored() {
    require!("ethtool");
    let wire = Wire::new("offloads");
    let shown = || wire.driver.run("ethtool", &["-k", DRIVER_IFACE]);
    let before = shown();
    wire.driver.block_on(async || {
        let were_on = offload::finish_frames(DRIVER_IFACE).await.unwrap();
        assert!(were_on.contains(&"tx-checksum-ip-generic"), "{were_on:?}");
        assert!(shown().contains("tx-checksumming: off"));
        assert!(
            offload::finish_frames(DRIVER_IFACE).await.unwrap().is_empty(),
            "a second time there is nothing"
        );
        offload::set_features(DRIVER_IFACE, &were_on, true).await.unwrap();
    });
    assert_eq!(shown(), before);
    let error =
        wire.driver.block_on(async || offload::set_features(DRIVER_IFACE, &["tx-nonsense"], true).await);
    assert!(error.unwrap_err().to_string().starts_with("switch on tx-nonsense of veth0: "));
}
