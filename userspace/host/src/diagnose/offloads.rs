//! Offloads of the interface, and those of its peer that leave frames unfinished.

use super::Severity::{Ok, Warning};
use super::{EndFacts, Finding};
use crate::link::offload::UNFINISHED_FRAMES;
use crate::link::tuning::Change;
use crate::link::xdp_features::XdpFeatures;

/// What an unfinished frame lacks.
const KINDS: [(&str, &str, &str); 3] = [
    (
        "peer_checksum",
        "checksums are left to hardware that a veth does not have",
        "ping works, and TCP and UDP arrive at the driver with wrong checksums",
    ),
    (
        "peer_segmentation",
        "segmentation is left to hardware that a veth does not have",
        "frames larger than a chunk of the UMEM arrive, and are dropped",
    ),
    (
        "peer_vlan",
        "VLAN tags travel beside the frame",
        "the XDP program does not see them, and takes tagged frames for untagged ones",
    ),
];

/// Which of [`KINDS`] a feature is.
fn kind(feature: &str) -> usize {
    if feature.contains("checksum") {
        0
    } else if feature.contains("vlan") {
        2
    } else {
        1
    }
}

fn off(end: &EndFacts, features: Vec<String>) -> Change {
    Change::Features { iface: end.device.name.clone(), features, on: false }
}

pub(super) fn check_own(end: &EndFacts, findings: &mut Vec<Finding>) {
    let name = &end.device.name;
    if end.features.is_none() {
        return;
    }
    let active = |wanted: &[&str]| -> Vec<String> {
        wanted.iter().filter(|feature| end.has(feature)).map(|&feature| feature.to_owned()).collect()
    };
    let native = end.xdp.is_none_or(|xdp| xdp.has(XdpFeatures::BASIC));
    // In skb mode the program sees frames after GRO.
    let merging = active(if native { &["rx-lro", "rx-gro-hw"] } else { &["rx-lro", "rx-gro-hw", "rx-gro"] });
    let why = "received frames are merged to larger ones than a chunk of the UMEM holds, or XDP is refused";
    findings.push(if merging.is_empty() {
        Finding::new("merging", Ok, name, "received frames are not merged before the XDP program", why)
    } else {
        let finding = format!("received frames are merged: {} is on", merging.join(", "));
        Finding::new("merging", Warning, name, finding, why).remedy(off(end, merging))
    });
    // A veth passes on what its peer does, which is checked there.
    let stripping = active(&["rx-vlan-hw-parse", "rx-vlan-stag-hw-parse"]);
    if !stripping.is_empty() && end.device.kind.as_deref() != Some("veth") {
        let why = "the device takes the tag off: the XDP program takes tagged frames for untagged ones";
        let finding = format!("VLAN tags are stripped: {} is on", stripping.join(", "));
        findings.push(Finding::new("vlan", Warning, name, finding, why).remedy(off(end, stripping)));
    }
}

/// The peer's features by what they leave unfinished.
pub(super) fn check_peer(peer: &EndFacts, findings: &mut Vec<Finding>) {
    let name = &peer.device.name;
    if peer.features.is_none() {
        return;
    }
    for (place, (check, finding, why)) in KINDS.into_iter().enumerate() {
        let on: Vec<_> = UNFINISHED_FRAMES
            .iter()
            .filter(|feature| kind(feature) == place && peer.has(feature))
            .map(|&feature| feature.to_owned())
            .collect();
        findings.push(if on.is_empty() {
            Finding::new(check, Ok, name, "frames are sent complete", why)
        } else {
            Finding::new(check, Warning, name, finding, why).remedy(off(peer, on))
        });
    }
}
