//! Each check over facts made here: what it says of the good case, and of what it is for.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::{
    AttachedProgram, EndFacts, Facts, Finding, PeerView, ProgramTrial, RingSlots, Severity, SystemFacts,
    diagnose,
};
use crate::kernel::{Feature, KernelFeatures, Release, Support};
use crate::link::offload::UNFINISHED_FRAMES;
use crate::link::xdp_features::XdpFeatures;
use crate::link::{ActiveQueues, Device, Peer, PeerLocation, QueueSource};
use crate::privilege::Cap;
use crate::xdp::attachment::{ForeignProgram, XdpHook};

fn end(name: &str, index: u32) -> EndFacts {
    let device = Device {
        name: name.to_owned(),
        index,
        mac: [2, 0, 0, 0, 0, index as u8],
        mtu: 1500,
        up: true,
        carrier: true,
        kind: Some("veth".to_owned()),
        alias: String::new(),
        peer: Some(Peer { index: 3 - index, location: PeerLocation::SameNamespace }),
        active_queues: ActiveQueues { rx: 1, tx: 1, source: QueueSource::Channels },
        addresses: Vec::new(),
        xdp: None,
        is_default_route: false,
    };
    EndFacts {
        device,
        features: Some(BTreeSet::from(["rx-gro".to_owned()])),
        xdp: Some(XdpFeatures(XdpFeatures::BASIC | XdpFeatures::REDIRECT)),
        gro_flush_timeout_ns: Some(0),
        defer_hard_irqs: Some(0),
        threaded: Some(true),
        rp_filter: Some(0),
    }
}

/// A machine and a pair without a fault.
fn sound() -> Facts {
    let system = SystemFacts {
        release: Release::new("6.18.1"),
        features: Some(KernelFeatures::given(&[])),
        missing: Vec::new(),
        btf: true,
        memlock_bytes: Some(8 << 20),
        ipc_lock: true,
        cpus: 1,
        busy_poll_us: Some((0, 0)),
        jit: Some(true),
        program: ProgramTrial::Loaded,
    };
    let peer = PeerView::Here(Box::new(end("veth1", 2)));
    Facts {
        system,
        end: end("veth0", 1),
        peer,
        attached: None,
        possible_queues: Some((16, 16)),
        rx_ring: None,
    }
}

fn peer(facts: &mut Facts) -> &mut EndFacts {
    match &mut facts.peer {
        PeerView::Here(peer) => peer,
        other => panic!("{other:?}"),
    }
}

fn features(names: &[&str]) -> Option<BTreeSet<String>> {
    Some(names.iter().map(|&name| name.to_owned()).collect())
}

/// The finding of a check after a change of the sound facts; that of no other check may be worse than before.
fn after(check: &str, change: impl FnOnce(&mut Facts)) -> Finding {
    let mut facts = sound();
    change(&mut facts);
    let findings = diagnose(&facts);
    let others: Vec<_> = findings.iter().filter(|f| f.check != check && f.severity != Severity::Ok).collect();
    assert!(others.is_empty(), "{others:?}");
    findings.into_iter().find(|finding| finding.check == check).unwrap_or_else(|| panic!("no {check}"))
}

/// Severity and fix of the finding of a check.
fn verdict(check: &str, change: impl FnOnce(&mut Facts)) -> (Severity, Option<String>) {
    let finding = after(check, change);
    (finding.severity, finding.fix)
}

fn fix(command: &str) -> Option<String> {
    Some(command.to_owned())
}

#[test]
fn a_sound_pair_has_no_finding_above_ok_and_every_check_is_named_once() {
    let findings = diagnose(&sound());
    assert!(findings.iter().all(|finding| finding.severity == Severity::Ok), "{findings:#?}");
    let names: BTreeSet<_> = findings.iter().map(|finding| finding.check).collect();
    assert_eq!(names.len(), findings.len());
    assert!(findings.iter().all(|f| f.fix.is_none() && f.remedy.is_none() && !f.is_bad()));
}

#[test]
fn kernels_are_told_apart() {
    for (release, severity) in [
        ("6.1.0-41-amd64", Severity::Ok),
        ("6.16.2", Severity::Ok),
        ("6.16.12+deb13-cloud-amd64", Severity::Problem),
        ("6.17.0-8-generic", Severity::Problem),
        ("6.17.13+deb13-amd64", Severity::Ok),
        ("6.18.44-x", Severity::Ok),
        ("unreadable", Severity::Note),
    ] {
        let finding = after("kernel", |facts| facts.system.release = Release::new(release));
        assert_eq!(finding.severity, severity, "{release}");
        assert!(finding.finding.contains(release), "{finding:?}");
    }
    let panics = after("kernel", |facts| facts.system.release = Release::new("6.17.3"));
    assert!(panics.finding.contains("can panic as soon as an AF_XDP socket sends"), "{panics:?}");
    assert!(panics.why.contains("--risk-kernel-panic"), "{panics:?}");
}

#[test]
fn features_are_findings_worse_the_more_depends_on_them() {
    let lacks = |feature: Feature| {
        let finding = after(feature.name(), |facts| {
            facts.system.features = Some(KernelFeatures::given(&[(feature, Support::Missing)]));
        });
        assert!(finding.finding.contains(feature.since()) && !finding.why.is_empty(), "{finding:?}");
        finding.severity
    };
    for feature in [Feature::AfXdp, Feature::NeedWakeup, Feature::BpfLink, Feature::BpfMemory] {
        assert_eq!(lacks(feature), Severity::Problem, "{feature:?}");
    }
    for feature in [Feature::LiveFrames, Feature::TxBudget, Feature::MultiBuffer] {
        assert_eq!(lacks(feature), Severity::Note, "{feature:?}");
    }
    let unknown = [(Feature::BpfLink, Support::Unknown(rustix::io::Errno::PERM))];
    let finding = after("bpf_link", |facts| facts.system.features = Some(KernelFeatures::given(&unknown)));
    assert_eq!(finding.severity, Severity::Note);
}

#[test]
fn what_the_process_lacks_is_a_problem() {
    let finding = after("capabilities", |facts| facts.system.missing = vec![Cap::NetRaw, Cap::Bpf]);
    assert_eq!(
        (finding.severity, finding.finding.as_str()),
        (Severity::Problem, "missing: CAP_NET_RAW, CAP_BPF")
    );
    let refused = ProgramTrial::Refused("too complex".to_owned());
    let finding = after("program", |facts| facts.system.program = refused);
    assert!(finding.severity == Severity::Problem && finding.finding.contains("too complex"), "{finding:?}");
    let untried = after("program", |facts| facts.system.program = ProgramTrial::NotTried);
    assert_eq!(untried.severity, Severity::Note);
    let mut facts = sound();
    facts.system.features = None;
    let findings = diagnose(&facts);
    assert!(findings.iter().any(|f| f.check == "features" && f.severity == Severity::Note), "{findings:?}");
}

#[test]
fn the_limit_of_locked_memory_counts_without_the_capability() {
    let limit = |bytes| {
        verdict("memlock", |facts| {
            facts.system.ipc_lock = false;
            facts.system.memlock_bytes = bytes;
        })
    };
    assert_eq!(limit(None).0, Severity::Ok);
    assert_eq!(limit(Some(1 << 40)).0, Severity::Ok);
    let (severity, fix) = limit(Some(65_536));
    assert_eq!(severity, Severity::Problem);
    assert!(fix.unwrap().starts_with("ulimit -l "));
}

#[test]
fn settings_of_the_whole_machine() {
    assert_eq!(verdict("btf", |f| f.system.btf = false), (Severity::Note, None));
    let jit = verdict("bpf_jit", |f| f.system.jit = Some(false));
    assert_eq!(jit, (Severity::Warning, fix("sysctl -w net.core.bpf_jit_enable=1")));
    let (severity, command) = verdict("busy_poll", |f| f.system.busy_poll_us = Some((0, 50)));
    assert!(severity == Severity::Note && command.unwrap().contains("net.core.busy_read=0"));
}

#[test]
fn a_link_that_is_down_is_named_with_the_end_that_is() {
    let down = verdict("link", |f| f.end.device.up = false);
    assert_eq!(down, (Severity::Warning, fix("ip link set veth0 up")));
    let other_end = verdict("link", |f| {
        f.end.device.carrier = false;
        peer(f).device.up = false;
    });
    assert_eq!(other_end, (Severity::Warning, fix("ip link set veth1 up")));
    assert_eq!(verdict("link", |f| f.end.device.mac = [0; 6]), (Severity::Problem, None));
}

#[test]
fn an_mtu_fits_a_frame_and_that_of_the_other_end() {
    let jumbo = verdict("mtu", |f| f.end.device.mtu = 9000);
    assert_eq!(jumbo, (Severity::Problem, fix("ip link set veth0 mtu 3818")));
    assert_eq!(verdict("mtu", |f| f.end.device.mtu = 3818).0, Severity::Ok);
    let unequal = verdict("mtu", |f| peer(f).device.mtu = 9000);
    assert_eq!(unequal, (Severity::Warning, fix("ip link set veth1 mtu 1500")));
}

#[test]
fn xdp_modes_come_from_the_device() {
    assert_eq!(verdict("xdp_mode", |f| f.end.xdp = None), (Severity::Note, None));
    // Without native XDP also GRO of the interface itself would be found.
    let skb_only = |f: &mut Facts| {
        f.end.xdp = Some(XdpFeatures(0));
        f.end.features = features(&[]);
    };
    assert_eq!(verdict("xdp_mode", skb_only), (Severity::Warning, None));
    let queues = verdict("xdp_mode", |f| {
        skb_only(f);
        peer(f).device.active_queues.tx = 4;
    });
    assert_eq!(queues, (Severity::Warning, fix("ethtool -L veth0 rx 4")));
    let zero_copy = after("xdp_mode", |f| f.end.xdp = Some(XdpFeatures(0xf)));
    assert!(zero_copy.finding.contains("zero-copy"), "{zero_copy:?}");
}

#[test]
fn an_attached_program_is_ours_a_leftover_or_foreign() {
    let attached = |name: &str, mode, held_by_link| {
        let program = ForeignProgram { id: 9, name: Some(name.to_owned()), mode };
        verdict("xdp_program", |f| f.attached = Some(AttachedProgram { program, held_by_link }))
    };
    assert_eq!(attached("netdext", XdpHook::Native, Some(true)), (Severity::Note, None));
    let left = attached("netdext", XdpHook::Native, Some(false));
    assert_eq!(left, (Severity::Problem, fix("ip link set dev veth0 xdpdrv off")));
    let foreign = attached("other", XdpHook::Skb, Some(false));
    assert_eq!(foreign, (Severity::Problem, fix("ip link set dev veth0 xdpgeneric off")));
    assert_eq!(attached("other", XdpHook::Native, Some(true)), (Severity::Problem, None));
}

#[test]
fn queues_are_compared_with_cpus_and_with_each_other() {
    let more = verdict("queues", |f| f.system.cpus = 4).1;
    // Threaded NAPI is on in the sound facts, so more CPUs change nothing else.
    assert_eq!(more, fix("ethtool -L veth0 rx 4 tx 4"));
    let uneven = verdict("queues", |f| f.end.device.active_queues.rx = 3);
    assert_eq!(uneven, (Severity::Warning, fix("ethtool -L veth0 rx 1")));
}

#[test]
fn hardware_with_a_short_receive_ring_is_told_how_to_lengthen_it() {
    let ring = |now, max| {
        verdict("rings", |f| {
            f.end.device.kind = None;
            f.peer = PeerView::NoPair;
            f.rx_ring = Some(RingSlots { now, max });
        })
    };
    assert_eq!(ring(256, 8192), (Severity::Note, fix("ethtool -G veth0 rx 2048")));
    assert_eq!(ring(256, 512), (Severity::Note, fix("ethtool -G veth0 rx 512")));
    assert_eq!(ring(256, 256).0, Severity::Ok);
    assert_eq!(ring(1024, 8192).0, Severity::Ok);
}

#[test]
fn what_a_busy_polling_set_up_left_behind_is_taken_away() {
    let left = |timeout, defer| {
        after("napi_defer", |f| {
            f.end.gro_flush_timeout_ns = Some(timeout);
            f.end.defer_hard_irqs = Some(defer);
        })
    };
    let both = left(200_000, 2);
    assert_eq!(both.severity, Severity::Warning);
    assert_eq!(both.fix, fix("echo 0 > /sys/class/net/veth0/gro_flush_timeout"));
    assert_eq!(
        both.remedy.unwrap().reversed().command(),
        "echo 200000 > /sys/class/net/veth0/gro_flush_timeout"
    );
    let one = left(0, 2);
    assert_eq!(
        (one.severity, one.fix),
        (Severity::Note, fix("echo 0 > /sys/class/net/veth0/napi_defer_hard_irqs"))
    );
}

#[test]
fn the_default_route_is_mentioned() {
    assert_eq!(verdict("default_route", |f| f.end.device.is_default_route = true), (Severity::Note, None));
}

#[test]
fn merging_and_stripping_are_the_interfaces_own() {
    let lro = verdict("merging", |f| f.end.features = features(&["rx-lro", "rx-gro"]));
    assert_eq!(lro, (Severity::Warning, fix("ethtool -K veth0 rx-lro off")));
    let mut facts = sound();
    facts.end.xdp = Some(XdpFeatures(0));
    facts.end.features = features(&["rx-gro"]);
    let merging = diagnose(&facts).into_iter().find(|f| f.check == "merging").unwrap();
    assert_eq!(merging.fix, fix("ethtool -K veth0 rx-gro off"), "in skb mode GRO comes first");
    let vlan = verdict("vlan", |f| {
        f.end.device.kind = None;
        f.peer = PeerView::NoPair;
        f.end.features = features(&["rx-vlan-hw-parse"]);
    });
    assert_eq!(vlan, (Severity::Warning, fix("ethtool -K veth0 rx-vlan-hw-parse off")));
    let mut facts = sound();
    facts.end.features = features(&["rx-vlan-hw-parse"]);
    assert!(diagnose(&facts).iter().all(|finding| finding.check != "vlan"), "a veth strips nothing");
}

#[test]
fn offloads_of_the_peer_are_sorted_by_what_they_leave_out() {
    for (check, feature) in [
        ("peer_checksum", "tx-checksum-ip-generic"),
        ("peer_segmentation", "tx-tcp6-segmentation"),
        ("peer_segmentation", "tx-gso-list"),
        ("peer_vlan", "tx-vlan-stag-hw-insert"),
    ] {
        let found = verdict(check, |f| peer(f).features = features(&["rx-gro", feature]));
        assert_eq!(found, (Severity::Warning, Some(format!("ethtool -K veth1 {feature} off"))), "{feature}");
    }
    // Every feature that a lab switches off is one of these.
    let mut facts = sound();
    peer(&mut facts).features = features(UNFINISHED_FRAMES);
    let findings = diagnose(&facts);
    let named: usize = findings
        .iter()
        .filter(|f| f.check.starts_with("peer_") && f.is_bad())
        .map(|f| f.fix.as_ref().unwrap().matches(" off").count())
        .sum();
    assert_eq!(named, UNFINISHED_FRAMES.len());
}

#[test]
fn a_peer_without_napi_is_given_gro_and_one_with_it_threads() {
    let napi = after("peer_napi", |f| peer(f).features = features(&[]));
    assert_eq!((napi.severity, napi.fix), (Severity::Note, fix("ethtool -K veth1 rx-gro on")));
    let threaded = |cpus| {
        let mut facts = sound();
        facts.system.cpus = cpus;
        peer(&mut facts).threaded = Some(false);
        diagnose(&facts).into_iter().find(|finding| finding.check == "threaded_napi")
    };
    assert_eq!(threaded(1), None, "no other CPU");
    let found = threaded(2).unwrap();
    assert!(found.why.contains("--tune"), "{}", found.why);
    assert_eq!(found.fix, fix("echo 1 > /sys/class/net/veth1/threaded"));
}

#[test]
fn rp_filter_matters_only_where_the_peer_has_no_address() {
    let strict = verdict("rp_filter", |f| peer(f).rp_filter = Some(1));
    assert_eq!(strict, (Severity::Note, fix("sysctl -w net.ipv4.conf.veth1.rp_filter=2")));
    let mut facts = sound();
    peer(&mut facts).rp_filter = Some(1);
    peer(&mut facts).device.addresses = vec![("198.18.0.2".parse::<IpAddr>().unwrap(), 24)];
    assert!(diagnose(&facts).iter().all(|finding| finding.check != "rp_filter"));
}

#[test]
fn a_peer_elsewhere_is_a_note_and_no_pair_is_none() {
    assert_eq!(verdict("peer", |f| f.peer = PeerView::Elsewhere), (Severity::Note, None));
    let mut facts = sound();
    facts.peer = PeerView::NoPair;
    assert!(diagnose(&facts).iter().all(|finding| !finding.check.starts_with("peer")));
}

#[test]
fn a_finding_is_written_without_its_remedy() {
    let finding = after("peer_napi", |f| peer(f).features = features(&[]));
    let json = serde_json::to_value(&finding);
    assert!(json.is_ok_and(|json| {
        json["severity"] == "note" && json["subject"] == "veth1" && json.get("remedy").is_none()
    }));
}
