//! The interface itself.

use netdext_abi::maps::PROGRAM;

use super::Severity::{Note, Ok, Problem, Warning};
use super::{Facts, Finding, PeerView};
use crate::link::tuning::Change;
use crate::link::xdp_features::XdpFeatures;
use crate::xdp::attachment::XdpHook;
use netdext::packet::FrameSize;

/// Bytes of Ethernet header with two VLAN tags, in front of the MTU.
const LINK_HEADER_MAX: usize = 14 + 2 * 4;
/// Slots of the hardware's receive ring below which bursts are lost at rates that AF_XDP is made for.
const FEW_SLOTS: u32 = 1024;
/// What to ask for instead.
const ENOUGH_SLOTS: u32 = 2048;

pub(super) fn check(facts: &Facts, findings: &mut Vec<Finding>) {
    findings.push(link(facts));
    findings.push(mtu(facts));
    findings.push(xdp_mode(facts));
    findings.push(xdp_program(facts));
    findings.push(queues(facts));
    findings.extend(rings(facts));
    findings.push(napi_defer(facts));
    findings.extend(default_route(facts));
}

fn link(facts: &Facts) -> Finding {
    let device = &facts.end.device;
    let name = &device.name;
    let why =
        "a driver is enabled when its interface is up, and has somebody to talk to when the carrier is there";
    let found = |severity, finding| Finding::new("link", severity, name, finding, why);
    if device.mac == [0; 6] {
        return found(Problem, "no Ethernet interface".to_owned());
    }
    if !device.up {
        return found(Warning, "administratively down".to_owned()).fix(format!("ip link set {name} up"));
    }
    if device.carrier {
        return found(Ok, "up, with carrier".to_owned());
    }
    let down = found(Warning, "up, without carrier".to_owned());
    match &facts.peer {
        PeerView::Here(peer) if !peer.device.up => down.fix(format!("ip link set {} up", peer.device.name)),
        _ => down,
    }
}

fn mtu(facts: &Facts) -> Finding {
    let device = &facts.end.device;
    let (name, mtu) = (&device.name, device.mtu);
    let why = "a frame lies in one chunk of the UMEM, and what does not fit is dropped";
    let found = |severity, finding| Finding::new("mtu", severity, name, finding, why);
    let most = FrameSize::FourK.max_data() - LINK_HEADER_MAX;
    if mtu as usize > most {
        return found(Problem, format!("the MTU is {mtu}, and {most} is the largest that fits"))
            .fix(format!("ip link set {name} mtu {most}"));
    }
    match &facts.peer {
        PeerView::Here(peer) if peer.device.mtu > mtu => {
            let (peer, theirs) = (&peer.device.name, peer.device.mtu);
            found(Warning, format!("the MTU is {mtu}, and {theirs} at the other end, {peer}"))
                .fix(format!("ip link set {peer} mtu {mtu}"))
        }
        _ => found(Ok, format!("the MTU of {mtu} fits a frame")),
    }
}

fn xdp_mode(facts: &Facts) -> Finding {
    let why = "in skb mode every frame goes through the stack's buffers first: several times slower";
    let found = |severity, finding| Finding::new("xdp_mode", severity, &facts.end.device.name, finding, why);
    match facts.end.xdp {
        None => {
            found(Note, "the kernel does not say what the device can do with XDP: it is tried at the start")
        }
        Some(xdp) if !xdp.has(XdpFeatures::BASIC | XdpFeatures::REDIRECT) => match too_few_rx_queues(facts) {
            Some(sending) => found(
                Warning,
                "no native XDP: the other end sends on more queues than receive here; only skb mode is left",
            )
            .fix(format!("ethtool -L {} rx {sending}", facts.end.device.name)),
            None => found(Warning, "the device's driver has no native XDP: only skb mode is left"),
        },
        Some(xdp) if xdp.has(XdpFeatures::ZERO_COPY) => found(Ok, "native mode, zero-copy"),
        Some(_) => found(Ok, "native mode, copying"),
    }
}

/// A veth has native XDP only where each tx queue of its peer has an rx queue. Returns how many that takes.
fn too_few_rx_queues(facts: &Facts) -> Option<u32> {
    let PeerView::Here(peer) = &facts.peer else { return None };
    let sending = peer.device.active_queues.tx;
    (sending > facts.end.device.active_queues.rx).then_some(sending)
}

fn xdp_program(facts: &Facts) -> Finding {
    let name = &facts.end.device.name;
    let found = |severity, finding, why| Finding::new("xdp_program", severity, name, finding, why);
    let Some(attached) = &facts.attached else {
        return found(Ok, "no XDP program is attached".to_owned(), "there is room for one program");
    };
    let program = &attached.program;
    let ours = program.name.as_deref() == Some(PROGRAM);
    let take_off = match program.mode {
        XdpHook::Native => format!("ip link set dev {name} xdpdrv off"),
        XdpHook::Skb => format!("ip link set dev {name} xdpgeneric off"),
        XdpHook::Hardware => format!("ip link set dev {name} xdpoffload off"),
    };
    match (ours, attached.held_by_link) {
        (_, Some(false)) => found(
            Problem,
            format!("another XDP program is attached: {program}"),
            "an interface has room for one program; `netdext run --replace` takes this one off",
        )
        .fix(take_off),
        (true, _) => found(
            Note,
            format!("a netdext is running here: {program}"),
            "an interface has one driver at a time: another start is refused",
        ),
        (false, _) => found(
            Problem,
            format!("another XDP program is attached, and held by a process or a pin: {program}"),
            "an interface has room for one program, and only its holder can take it off: `bpftool link` shows it",
        ),
    }
}

fn queues(facts: &Facts) -> Finding {
    let device = &facts.end.device;
    let (name, active) = (&device.name, device.active_queues);
    let why =
        "each active queue has a socket and a worker; a frame on a queue without one stays with the kernel";
    let found = |severity, finding| Finding::new("queues", severity, name, finding, why);
    let usable = active.usable();
    if active.rx > usable {
        return found(
            Warning,
            format!("{} queues receive and {} send: only {usable} can have a socket", active.rx, active.tx),
        )
        .fix(format!("ethtool -L {name} rx {usable}"));
    }
    let possible = facts.possible_queues.map(|(rx, tx)| rx.min(tx));
    let worth = possible.map_or(0, |possible| possible.min(facts.system.cpus as u32));
    match possible {
        Some(possible) if worth > usable => {
            let finding = format!("{usable} of {possible} queues active, on {} CPUs", facts.system.cpus);
            let channels = if device.kind.is_some() {
                format!("rx {worth} tx {worth}")
            } else {
                format!("combined {worth}")
            };
            found(Note, finding).fix(format!("ethtool -L {name} {channels}"))
        }
        _ => found(Ok, format!("{usable} active")),
    }
}

fn rings(facts: &Facts) -> Option<Finding> {
    let name = &facts.end.device.name;
    if facts.end.device.kind.as_deref() == Some("veth") {
        let why =
            "what does not fit is dropped there and shows in `ethtool -S`, not in the socket's statistics";
        return Some(Finding::new("rings", Ok, name, "a veth's XDP ring holds 256 frames, always", why));
    }
    let ring = facts.rx_ring?;
    let why = "a burst that finds the ring full is lost before anybody sees it";
    if ring.now >= FEW_SLOTS || ring.max <= ring.now {
        return Some(Finding::new(
            "rings",
            Ok,
            name,
            format!("the receive ring has {} slots", ring.now),
            why,
        ));
    }
    let finding = format!("the receive ring has {} slots of {} possible", ring.now, ring.max);
    let more = ring.max.min(ENOUGH_SLOTS);
    Some(Finding::new("rings", Note, name, finding, why).fix(format!("ethtool -G {name} rx {more}")))
}

/// Both are 0 by default; busy polling set-ups write them and often leave them.
fn napi_defer(facts: &Facts) -> Finding {
    let end = &facts.end;
    let (name, index) = (&end.device.name, end.device.index);
    let (timeout, defer) = (end.gro_flush_timeout_ns.unwrap_or(0), end.defer_hard_irqs.unwrap_or(0));
    let why = "interrupts are put off for as long when nobody polls: a queue can seem asleep";
    let finding = format!("gro_flush_timeout {timeout} ns, napi_defer_hard_irqs {defer}");
    if timeout == 0 && defer == 0 {
        return Finding::new("napi_defer", Ok, name, finding, why);
    }
    let (attribute, before) =
        if timeout > 0 { ("gro_flush_timeout", timeout) } else { ("napi_defer_hard_irqs", defer) };
    // It takes both to put off interrupts (napi_complete_done in net/core/dev.c); one alone is a leftover.
    let severity = if timeout > 0 && defer > 0 { Warning } else { Note };
    Finding::new("napi_defer", severity, name, finding, why).remedy(Change::Attribute {
        iface: name.clone(),
        index,
        attribute,
        value: "0".to_owned(),
        before: before.to_string(),
    })
}

fn default_route(facts: &Facts) -> Option<Finding> {
    let device = &facts.end.device;
    let why = "only what is for the driver's addresses is taken from the kernel; `--steer all` would cut this host off, \
               and is refused without --yes";
    device
        .is_default_route
        .then(|| Finding::new("default_route", Note, &device.name, "the default route leaves here", why))
}
