//! The lab pair: made whole, removed whole, and nothing else touched.

use std::net::IpAddr;
use std::process::Command;
use std::time::Duration;

use netdext_host::link::{Device, Lab, LabConfig, LabError, Netlink, lab};
use netdext_tests::process::binary;
use netdext_tests::{Namespace, PacketSocket, require};
use serde_json::Value;

fn flags(link: &Value) -> Vec<&str> {
    link["flags"].as_array().unwrap().iter().filter_map(Value::as_str).collect()
}

fn addresses(namespace: &Namespace, iface: &str) -> Vec<String> {
    let text = namespace.ip(&["-json", "address", "show", "dev", iface]);
    let links: Value = serde_json::from_str(&text).unwrap();
    let list = links[0]["addr_info"].as_array().cloned().unwrap_or_default();
    list.iter().map(|a| format!("{}/{}", a["local"].as_str().unwrap(), a["prefixlen"])).collect()
}

fn links(namespace: &Namespace) -> Vec<String> {
    let text = namespace.ip(&["-json", "link", "show"]);
    let links: Value = serde_json::from_str(&text).unwrap();
    links.as_array().unwrap().iter().map(|link| link["ifname"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn the_pair_is_up_as_drawn_and_goes_with_the_guard() {
    require!("ethtool");
    let namespace = Namespace::new("lab");
    namespace.block_on(async || {
        let lab = Lab::up(&LabConfig::default()).await.unwrap();
        let driver = namespace.link("veth0").unwrap();
        let host = namespace.link("veth1").unwrap();
        for link in [&driver, &host] {
            let flags = flags(link);
            assert!(flags.contains(&"UP") && flags.contains(&"LOWER_UP"), "{link}");
            assert_eq!((&link["num_rx_queues"], &link["num_tx_queues"]), (&4.into(), &4.into()));
        }
        assert_eq!(driver["ifalias"], "netdext:lab");
        assert_eq!(host["ifalias"], "netdext:org.netdext.sample");
        assert!(addresses(&namespace, "veth0").is_empty());
        let host_addresses = addresses(&namespace, "veth1");
        assert!(host_addresses.contains(&"198.18.0.2/24".to_owned()), "{host_addresses:?}");
        assert!(host_addresses.contains(&"2001:2::2/64".to_owned()), "{host_addresses:?}");
        let tentative = namespace.ip(&["-6", "address", "show", "dev", "veth1", "tentative"]);
        assert!(!tentative.contains("2001:2::2"), "usable at once: {tentative}");
        lab.down().await.unwrap();
    });
    assert_eq!(links(&namespace), ["lo"]);
}

#[test]
fn frames_of_the_host_end_are_finished() {
    require!("ethtool");
    let namespace = Namespace::new("lab");
    namespace.block_on(async || {
        let _lab = Lab::up(&LabConfig::default()).await.unwrap();
        let features = namespace.run("ethtool", &["-k", "veth1"]);
        for feature in
            ["tx-checksumming", "tcp-segmentation-offload", "tx-vlan-offload", "tx-udp-segmentation"]
        {
            let line = features.lines().find(|line| line.trim().starts_with(&format!("{feature}:")));
            let line = line.unwrap_or_else(|| panic!("ethtool knows {feature}"));
            assert!(line.contains(": off"), "{line}");
        }
        // The check has to be able to fail: the other end has them on.
        assert!(namespace.run("ethtool", &["-k", "veth0"]).contains("tcp-segmentation-offload: on"));
    });
}

#[test]
fn the_kernel_says_nothing_at_the_driver_end() {
    require!();
    let namespace = Namespace::new("lab");
    let _lab = namespace.block_on(async || Lab::up(&LabConfig::default()).await).unwrap();
    let mut host = PacketSocket::open(&namespace, "veth1");
    let mut driver = PacketSocket::open(&namespace, "veth0");
    // Duplicate address detection, MLD reports and router solicitations come within a second of "up".
    assert_eq!(host.receive(Duration::from_millis(1500)), None);
    // The check has to be able to fail: the host end, which has a link-local address, does say something.
    assert!(driver.receive(Duration::from_millis(10)).is_some());
}

#[test]
fn a_failure_half_way_leaves_nothing() {
    require!();
    let namespace = Namespace::new("lab");
    let error = namespace.block_on(async || {
        let mut config = LabConfig::default();
        let address: IpAddr = "198.18.0.2".parse().unwrap();
        config.host_addresses.push((address, 33));
        Lab::up(&config).await.unwrap_err()
    });
    assert!(error.to_string().starts_with("add 198.18.0.2/33 to interface"), "{error}");
    assert_eq!(links(&namespace), ["lo"]);
}

#[test]
fn a_pair_dropped_in_another_namespace_is_removed_in_its_own() {
    require!();
    let (home, away) = (Namespace::new("home"), Namespace::new("away"));
    let config = LabConfig::default();
    let lab = home.block_on(async || Lab::up(&config).await).unwrap();
    let stays = away.block_on(async || Lab::up(&config).await).unwrap();
    assert_eq!(home.link("veth0").unwrap()["ifindex"], away.link("veth0").unwrap()["ifindex"]);
    away.block_on(async || drop(lab));
    assert_eq!(links(&home), ["lo"]);
    assert_eq!(links(&away).len(), 3);
    drop(stays);
    assert_eq!(links(&away), ["lo"]);
}

#[test]
fn an_existing_interface_is_used_as_it_is() {
    require!();
    let namespace = Namespace::new("lab");
    namespace.ip(&["link", "add", "veth0", "type", "bridge"]);
    let before = namespace.link("veth0").unwrap();
    namespace.block_on(async || {
        assert!(Lab::ensure(&LabConfig::default()).await.unwrap().is_none());
        let error = Lab::remove("veth0").await.unwrap_err();
        assert!(matches!(error, LabError::NotOurs { .. }), "{error}");
        let status = Lab::status(&LabConfig::default()).await.unwrap();
        assert!(!status.ours && status.driver.is_some() && status.host.is_none());
    });
    assert_eq!(namespace.link("veth0").unwrap(), before);
}

#[test]
fn a_host_end_without_its_driver_end_is_a_clear_error() {
    require!();
    let namespace = Namespace::new("lab");
    namespace.ip(&["link", "add", "veth1", "type", "bridge"]);
    let error = namespace.block_on(async || Lab::up(&LabConfig::default()).await.unwrap_err().to_string());
    assert!(error.starts_with("veth1 exists, but veth0 does not"), "{error}");
    assert_eq!(links(&namespace), ["lo", "veth1"]);
}

#[test]
fn a_pair_that_is_kept_is_found_and_removed_later() {
    require!();
    let namespace = Namespace::new("lab");
    namespace.block_on(async || {
        Lab::up(&LabConfig::default()).await.unwrap().keep();
        let status = Lab::status(&LabConfig::default()).await.unwrap();
        assert!(status.ours);
        assert_eq!(
            status.host.unwrap().alias,
            format!("{}{}", lab::HOST_ALIAS_PREFIX, lab::DEFAULT_BUNDLE_ID)
        );
        Lab::remove("veth0").await.unwrap();
        let status = Lab::status(&LabConfig::default()).await.unwrap();
        assert!(!status.ours && status.driver.is_none() && status.host.is_none());
    });
}

#[test]
fn a_pair_that_somebody_else_removed_goes_down_without_an_error() {
    require!();
    let namespace = Namespace::new("lab");
    namespace.block_on(async || {
        let lab = Lab::up(&LabConfig::default()).await.unwrap();
        namespace.ip(&["link", "delete", "veth1"]);
        lab.down().await.unwrap();
    });
}

#[test]
fn the_driver_end_knows_the_host_end() {
    require!();
    let namespace = Namespace::new("lab");
    namespace.block_on(async || {
        let config = LabConfig { queues: 2, mtu: 3000, ..LabConfig::default() };
        let _lab = Lab::up(&config).await.unwrap();
        let device = Device::query("veth0").await.unwrap();
        assert_eq!((device.mtu, device.active_queues.usable()), (3000, 2));
        let peer = device.peer_addresses(&Netlink::open().unwrap()).await.unwrap();
        for address in &config.host_addresses {
            assert!(peer.contains(address), "{address:?} in {peer:?}");
        }
    });
}

/// Runs `netdext lab WORDS --netns NAMESPACE`, with its standard output written to nowhere.
#[track_caller]
fn unheard(namespace: &Namespace, words: &str) {
    let script = format!("exec {} lab {words} --netns {} >/dev/full", binary().display(), namespace.name());
    let output = Command::new("sh").args(["-c", &script]).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{words}: {output:?}");
}

#[test]
fn the_pair_is_made_and_removed_also_when_that_can_not_be_said() {
    require!();
    let namespace = Namespace::new("lab, unheard");
    unheard(&namespace, "up");
    assert_eq!(links(&namespace).len(), 3);
    unheard(&namespace, "status");
    unheard(&namespace, "down");
    assert_eq!(links(&namespace), ["lo"]);
}

fn heard(namespace: &Namespace, words: &str) -> String {
    let mut command = Command::new(binary());
    command.arg("lab").args(words.split(' ')).args(["--netns", namespace.name()]);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{words}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_namespace_made_for_the_pair_goes_with_the_last_pair_and_no_other_does() {
    require!();
    let made = Namespace::unmade();
    heard(&made, "up");
    heard(&made, "up --iface veth2");
    assert!(!heard(&made, "down").contains("namespace") && made.exists(), "another pair is in it");
    assert!(heard(&made, "down --iface veth2").contains(made.name()));
    assert!(!made.exists());
    let found = Namespace::new("not made by netdext");
    heard(&found, "up");
    heard(&found, "down");
    assert_eq!(links(&found), ["lo"]);
}
