//! Who answers echo requests: netdext in each of its ways, the kernel, and its peers.

use anyhow::Context;
use netdext_host::link::netns;
use netdext_host::xdp::peer_napi::PeerNapi;

use super::process::{Netdext, Process, cpu_ns};
use super::testpmd::{self, Testpmd};
use super::thread::apart;
use super::wire::{ANSWERER_IFACE, ASKER, ASKER_IFACE, Wire, WireConfig, index};

/// Who answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// The kernel's own stack.
    Kernel,
    /// netdext inside the kernel, `--answer`.
    Answer,
    /// An XDP program that turns each echo request into its reply, without rules and without counters.
    MinimalEcho,
    /// netdext's driver over the rings, with this `--wait`.
    Driver(&'static str),
    /// dpdk-testpmd over net_af_xdp.
    Testpmd,
}

impl Subject {
    /// Those whose round trips are measured and that are flooded, in the order of the tables.
    pub const IN_ORDER: [Self; 7] = [
        Self::Kernel,
        Self::Answer,
        Self::MinimalEcho,
        Self::Driver("spin"),
        Self::Driver("adaptive"),
        Self::Driver("poll"),
        Self::Testpmd,
    ];

    /// The name in the report.
    pub fn name(self) -> String {
        match self {
            Self::Kernel => "kernel".to_owned(),
            Self::Answer => "netdext --answer".to_owned(),
            Self::MinimalEcho => "minimal XDP_TX echo".to_owned(),
            Self::Driver(wait) => format!("netdext driver, {wait}"),
            Self::Testpmd => "dpdk-testpmd icmpecho".to_owned(),
        }
    }

    /// Whether it sends echo requests of its own when it is told to.
    pub const fn has_injector(self) -> bool {
        matches!(self, Self::Answer | Self::Driver(_))
    }

    /// Why it can't be measured here, if it can't.
    pub fn missing(self) -> Option<&'static str> {
        if self == Self::Testpmd { testpmd::missing() } else { None }
    }

    /// The wire that it needs. `flood`: it is to be flooded with live frames.
    pub fn wire(self, flood: bool) -> anyhow::Result<Wire> {
        let kernel_answers = self == Self::Kernel;
        Wire::new(WireConfig {
            kernel_answers,
            gro: kernel_answers && flood,
            flooded: flood,
            ..WireConfig::default()
        })
    }

    /// Starts it on the wire. `injector` is how many echo requests a second netdext sends of its own, 0 for none.
    ///
    /// # Errors
    /// It does not get ready.
    pub fn start(self, wire: &Wire, netdext: &Netdext, injector: u32) -> anyhow::Result<Running> {
        let injecting = match injector {
            0 => "--no-injector".to_owned(),
            rate => {
                // A tick is at least 10 us apart from the next.
                let batch = if rate >= 100_000 { 4 } else { 1 };
                format!("--first 10ms --rate {rate}/s --batch {batch} --target {ASKER}")
            }
        };
        let answers_in_xdp = matches!(self, Self::Answer | Self::MinimalEcho);
        let napi = (answers_in_xdp && !wire.flooded).then(|| wake_asker(wire)).transpose()?;
        let run = |flags: &str| netdext.run(wire.answerer(), ANSWERER_IFACE, flags).map(Program::Netdext);
        let program = match self {
            Self::Kernel => Program::None,
            Self::Answer => run(&format!("--answer {injecting}"))?,
            Self::MinimalEcho => run("--driver reflect --engine xdp --frames echo")?,
            Self::Driver(wait) => run(&format!("--wait {wait} {injecting}"))?,
            Self::Testpmd => Program::Testpmd(Testpmd::start(wire, "icmpecho", &[])?),
        };
        Ok(Running { program, _napi: napi })
    }
}

#[derive(Debug)]
enum Program {
    None,
    Netdext(Process),
    Testpmd(Testpmd),
}

/// Someone who answers, until this is dropped.
#[derive(Debug)]
pub struct Running {
    program: Program,
    _napi: Option<PeerNapi>,
}

impl Running {
    /// Processor time that its process has used, in ns; 0 for the kernel, which has none.
    ///
    /// # Errors
    /// It has ended.
    pub fn cpu_ns(&self) -> anyhow::Result<u64> {
        match &self.program {
            Program::None => Ok(0),
            Program::Netdext(process) => cpu_ns(process.id()),
            Program::Testpmd(testpmd) => cpu_ns(testpmd.id()),
        }
    }

    /// Stops it.
    ///
    /// # Errors
    /// It failed, or does not stop.
    pub fn stop(self) -> anyhow::Result<()> {
        match self.program {
            Program::None => Ok(()),
            Program::Netdext(process) => process.stop().map(drop),
            Program::Testpmd(testpmd) => testpmd.stop().map(drop),
        }
    }
}

/// [`wake`] of who asks.
///
/// # Errors
/// As for [`wake`].
pub fn wake_asker(wire: &Wire) -> anyhow::Result<PeerNapi> {
    wake(wire.asker(), ASKER_IFACE)
}

/// Puts a program that passes every frame at an interface: a veth is woken for what an XDP program sends only if it
/// has a program too. A flood has one there anyway, and so has netdext's `--answer` where both ends are in one namespace.
///
/// # Errors
/// It can't be attached.
pub fn wake(namespace: &str, iface: &str) -> anyhow::Result<PeerNapi> {
    let attached = apart(|| {
        netns::enter(namespace)?;
        Ok(PeerNapi::attach(iface, index(namespace, iface)?)?)
    });
    attached.with_context(|| format!("put a program that passes every frame on {iface}"))
}
