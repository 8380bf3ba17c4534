//! Frames sent on from one interface to another: how soon, and how many.
//!
//! The round trips come first, and teach a bridge where the stations are: the flood is to one that it knows.

use anyhow::Context;
use netdext_host::link::netns;
use netdext_host::xdp::to_device::ToDevice;

use super::Bench;
use super::echo::sorted;
use super::traffic::drops_of;
use crate::prober::probe;
use crate::process::{Netdext, Process};
use crate::program::output_of;
use crate::runner::{Entry, Group, Head, Sample};
use crate::schema::{Better, Unit};
use crate::spread::quantile;
use crate::subject::{wake, wake_asker};
use crate::testpmd::{self, Testpmd};
use crate::thread::apart;
use crate::wire::{ANSWERER_IFACE, FORWARDER_IFACES, Wire, WireConfig, index, ip, within};

static FORWARDED: [Head; 3] = [
    Head {
        id: "forward",
        title: "Frames of 64 bytes sent on by another interface, flood",
        unit: Unit::Pps,
        better: Better::Higher,
    },
    Head {
        id: "forward_rtt_p50",
        title: "Echo round trip through a forwarder, median",
        unit: Unit::Ns,
        better: Better::Lower,
    },
    Head {
        id: "forward_rtt_p99",
        title: "Echo round trip through a forwarder, p99",
        unit: Unit::Ns,
        better: Better::Lower,
    },
];

/// Who forwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Forwarder {
    /// The kernel's bridge, both interfaces being ports of it.
    Bridge,
    /// An XDP program on each interface that redirects every frame to the other one, and knows no stations.
    XdpRedirect,
    /// netdext's driver, with this `--wait`.
    Driver(&'static str),
    /// dpdk-testpmd over net_af_xdp, which knows no stations either.
    Testpmd,
}

/// In the order of the table.
const ALL: [Forwarder; 5] = [
    Forwarder::Bridge,
    Forwarder::XdpRedirect,
    Forwarder::Driver("spin"),
    Forwarder::Driver("adaptive"),
    Forwarder::Testpmd,
];

impl Forwarder {
    /// The name in the report.
    fn name(self) -> String {
        match self {
            Self::Bridge => "the kernel's bridge".to_owned(),
            Self::XdpRedirect => "inside the kernel (XDP_REDIRECT)".to_owned(),
            Self::Driver(wait) => format!("netdext forward, {wait}"),
            Self::Testpmd => "dpdk-testpmd io".to_owned(),
        }
    }

    fn start(self, wire: &Wire, netdext: &Netdext) -> anyhow::Result<Running> {
        let namespace = wire.forwarder();
        let [first, second] = FORWARDER_IFACES;
        Ok(match self {
            Self::Bridge => {
                ip(&format!("-n {namespace} link add br0 type bridge"))?;
                ip(&format!("-n {namespace} link set dev br0 addrgenmode none"))?;
                for iface in FORWARDER_IFACES {
                    ip(&format!("-n {namespace} link set dev {iface} master br0"))?;
                }
                ip(&format!("-n {namespace} link set dev br0 up"))?;
                Running::Kernel
            }
            Self::XdpRedirect => {
                let attached = apart(|| {
                    netns::enter(namespace)?;
                    let (one, other) = (index(namespace, first)?, index(namespace, second)?);
                    Ok([ToDevice::attach(first, one, other)?, ToDevice::attach(second, other, one)?])
                });
                Running::Xdp(attached.context("put a program that redirects on each interface")?)
            }
            Self::Driver(wait) => {
                let flags = format!("--iface {second} --driver forward --wait {wait}");
                Running::Netdext(netdext.run(namespace, first, &flags)?)
            }
            Self::Testpmd => Running::Testpmd(Testpmd::start_forwarding(wire)?),
        })
    }
}

/// A forwarder; it ends when this is dropped, or with the wire.
#[derive(Debug)]
enum Running {
    Kernel,
    Xdp([ToDevice; 2]),
    Netdext(Process),
    Testpmd(Testpmd),
}

impl Running {
    fn stop(self) -> anyhow::Result<()> {
        match self {
            Self::Kernel => Ok(()),
            Self::Xdp(programs) => {
                drop(programs);
                Ok(())
            }
            Self::Netdext(process) => process.stop().map(drop),
            Self::Testpmd(testpmd) => testpmd.stop().map(drop),
        }
    }
}

/// Round trips through a forwarder, and frames a second that a flood brings to its other end.
pub fn through<'a>(bench: &'a Bench<'a>) -> Group<'a> {
    let entry = |forwarder: Forwarder| {
        let missing = if forwarder == Forwarder::Testpmd { testpmd::missing() } else { None };
        Entry::unless(missing, &forwarder.name(), move || measure(bench, forwarder))
    };
    Group { heads: &FORWARDED, entries: ALL.into_iter().map(entry).collect() }
}

fn measure(bench: &Bench<'_>, forwarder: Forwarder) -> anyhow::Result<Sample> {
    let wire = Wire::new(WireConfig { kernel_answers: true, forwarded: true, ..WireConfig::default() })?;
    let running = forwarder.start(&wire, bench.netdext)?;
    let woken = if forwarder == Forwarder::XdpRedirect {
        Some([wake_asker(&wire)?, wake(wire.answerer(), ANSWERER_IFACE)?])
    } else {
        None
    };
    let trips = sorted(&probe(&wire, |prober| prober.round_trips(bench.plan.time))?)?;
    // The flood has programs of its own at both ends.
    drop(woken);
    if forwarder == Forwarder::Bridge {
        // A veth takes live frames only with that or with an XDP program.
        output_of(within(wire.forwarder(), "ethtool").args(["-K", FORWARDER_IFACES[0], "gro", "on"]))?;
    }
    let sink = bench.netdext.run(wire.answerer(), ANSWERER_IFACE, "--driver sink --engine xdp")?;
    let rate = drops_of(bench, &wire, sink, "")?;
    running.stop()?;
    Ok(Sample::of(&[rate, quantile(&trips, 0.5), quantile(&trips, 0.99)]))
}
