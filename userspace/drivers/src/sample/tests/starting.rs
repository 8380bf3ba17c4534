use std::net::IpAddr;

use super::{both_targets, device, injecting, targets4};
use crate::sample::{SampleConfig, TargetStats, factory};
use netdext::dispatch::Worker;
use netdext::driver::{DeviceInfo, DriverError, PortId, PowerState};
use netdext::port::sim::{SimConfig, Wire};
use serde_json::Value;

fn init(config: SampleConfig, device: &DeviceInfo) -> Result<(), DriverError> {
    factory(config, 1).unwrap().build(0).init(std::slice::from_ref(device))
}

#[test]
fn a_target_on_no_network_of_ours_is_refused_with_what_to_do() {
    let error = init(injecting(&["203.0.113.1".parse().unwrap()], |_| {}), &device()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "driver sample: init failed: the target 203.0.113.1 is no neighbour of sim0 (198.18.0.1/24, 2001:2::1/64): \
         give a target on the same network, or add an address on the target's with --addr"
    );
    for target in ["198.18.0.1", "198.18.0.255", "224.0.0.1", "fe80::1", "ff02::1"] {
        assert!(init(injecting(&[target.parse().unwrap()], |_| {}), &device()).is_err(), "{target}");
    }
    let nowhere = DeviceInfo { addresses: Vec::new(), ..device() };
    assert!(init(injecting(&targets4(), |_| {}), &nowhere).unwrap_err().to_string().contains("no address"));
}

#[test]
fn a_payload_longer_than_the_mtu_is_refused() {
    assert!(init(injecting(&targets4(), |c| c.payload_len = 1472), &device()).is_ok());
    assert!(init(injecting(&targets4(), |c| c.payload_len = 1473), &device()).is_err());
    assert!(init(injecting(&both_targets(), |c| c.payload_len = 1452), &device()).is_ok());
    let error = init(injecting(&both_targets(), |c| c.payload_len = 1453), &device()).unwrap_err();
    assert!(error.to_string().contains("1453 bytes does not fit the MTU of 1500: 1452"), "{error}");
}

#[test]
fn no_timer_is_armed_before_enabling_and_after_disabling() {
    let (port, _other, wire) = Wire::pair(&SimConfig::default(), 1).unwrap();
    let driver = factory(injecting(&targets4(), |_| {}), 1).unwrap().build(0);
    let mut worker = Worker::start(driver, port, device(), 64, wire.now()).unwrap();
    worker.set_power(wire.now(), PowerState::On).unwrap();
    for enable in [true, false, true] {
        worker.set_interface_enable(wire.now(), PortId::FIRST, enable).unwrap();
        assert_eq!(worker.next_deadline().is_some(), enable);
    }
}

#[test]
fn without_a_target_it_is_the_pairs_other_end_that_is_on_a_network_of_ours() {
    let [v6, elsewhere, ours, v4] =
        ["2001:2::2", "203.0.113.2", "198.18.0.1", "198.18.0.2"].map(|text| text.parse::<IpAddr>().unwrap());
    for (peer, given, expected) in [
        (&[v6, elsewhere, ours, v4][..], &[][..], &[v4][..]),
        (&[v6, elsewhere], &[], &[v6]),
        (&[elsewhere, ours], &[], &[]),
        (&[], &[], &[]),
        (&[v4], &[v6], &[v6]),
    ] {
        let peer_addresses = peer.iter().map(|address| (*address, 24)).collect();
        let driver = factory(injecting(given, |_| {}), 1).unwrap().build(0);
        let (port, _peer, wire) = Wire::pair(&SimConfig::default(), 1).unwrap();
        let device = DeviceInfo { peer_addresses, ..device() };
        let mut worker = Worker::start(driver, port, device, 64, wire.now()).unwrap();
        let targets = worker.control(wire.now(), "inject_targets", &Value::Null).unwrap().unwrap();
        let targets: Vec<TargetStats> = serde_json::from_value(targets).unwrap();
        let targets: Vec<_> = targets.iter().map(|target| target.target).collect();
        assert_eq!(targets, expected, "{peer:?}");
    }
}
