//! The other end of a pair.

use super::Severity::{Note, Ok};
use super::{EndFacts, Facts, Finding, PeerView, offloads};
use crate::link::threaded::{Ends, commands, decide};
use crate::link::tuning::Change;

/// `rp_filter` that drops what comes in where the way back does not go out.
const STRICT: u8 = 1;

pub(super) fn check(facts: &Facts, findings: &mut Vec<Finding>) {
    match &facts.peer {
        PeerView::NoPair => {}
        PeerView::Elsewhere => {
            let why = "its offloads decide whether frames arrive complete, and its NAPI whether answers arrive at all; \
                       run `netdext doctor` on it there, and look at what it says of checksums";
            let finding = "the other end of the pair is in another network namespace, and was not looked at";
            findings.push(Finding::new("peer", Note, &facts.end.device.name, finding, why));
        }
        PeerView::Here(peer) => {
            offloads::check_peer(peer, findings);
            findings.push(napi(peer));
            findings.extend(threaded(&facts.end, peer, facts.system.cpus));
            findings.extend(rp_filter(peer));
        }
    }
}

/// A veth receives by NAPI only with an XDP program or GRO.
fn has_napi(peer: &EndFacts) -> bool {
    peer.device.xdp.is_some() || peer.has("rx-gro")
}

fn napi(peer: &EndFacts) -> Finding {
    let name = &peer.device.name;
    let why = "what XDP transmits or redirects to it, such as answers made inside the XDP program, is dropped without a \
               trace; what a driver sends over its rings arrives";
    if has_napi(peer) || peer.device.kind.as_deref() != Some("veth") {
        return Finding::new("peer_napi", Ok, name, "frames that XDP sends to it are received", why);
    }
    let change = Change::Features { iface: name.clone(), features: vec!["rx-gro".to_owned()], on: true };
    Finding::new("peer_napi", Note, name, "no NAPI: neither GRO nor an XDP program is on", why).remedy(change)
}

fn threaded(end: &EndFacts, peer: &EndFacts, cpus: usize) -> Option<Finding> {
    let ends = Ends {
        device: &end.device,
        features: end.features.as_ref(),
        peer: &peer.device,
        peer_features: peer.features.as_ref(),
        peer_threaded: peer.threaded,
    };
    let changes = decide(cpus, &ends).ok()?;
    let why = "with NAPI in a thread of its own on another CPU, a driver can send up to twice as many frames a second; \
               a round trip takes longer. `netdext run --tune` does it while the driver runs";
    let finding = "its NAPI runs on the sender's CPU";
    Some(Finding::new("threaded_napi", Note, &peer.device.name, finding, why).fix(commands(&changes)))
}

/// With an address of its own the driver's network is routed over the interface, and the filter lets it in.
fn rp_filter(peer: &EndFacts) -> Option<Finding> {
    let device = &peer.device;
    if peer.rp_filter != Some(STRICT) || device.addresses.iter().any(|(address, _)| address.is_ipv4()) {
        return None;
    }
    let name = &device.name;
    let why = "the kernel drops IPv4 packets from addresses that it does not route over this interface, and it has none";
    let finding = "rp_filter is strict, and the interface has no IPv4 address";
    let fix = format!("sysctl -w net.ipv4.conf.{name}.rp_filter=2");
    Some(Finding::new("rp_filter", Note, name, finding, why).fix(fix))
}
