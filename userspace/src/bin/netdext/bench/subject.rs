//! Who answers echo requests: netdext in each of its ways, the kernel, and its peers.

use std::process::Command;

use anyhow::Context;

use super::cpus;
use super::process::{Netdext, Process, READY_WITHIN, cpu_ns};
use super::program;
use super::wire::{ANSWERER_IFACE, ASKER, ASKER_IFACE, Wire, WireConfig};

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
    /// Those whose round trips are measured, in the order of the table.
    pub const WITH_ROUND_TRIPS: [Self; 6] = [
        Self::Kernel,
        Self::Answer,
        Self::Driver("spin"),
        Self::Driver("adaptive"),
        Self::Driver("poll"),
        Self::Testpmd,
    ];

    /// Those that are flooded, in the order of the table.
    pub const FLOODED: [Self; 7] = [
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
        (self == Self::Testpmd && program::find("dpdk-testpmd").is_none())
            .then_some("no dpdk-testpmd: apt-get install dpdk-dev librte-net-af-xdp23 librte-mempool-ring23")
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
        let ear = (self == Self::Answer && !wire.flooded).then(|| listen(wire, netdext)).transpose()?;
        let process = match self {
            Self::Kernel => None,
            Self::Answer => {
                Some(netdext.run(wire.answerer(), ANSWERER_IFACE, &format!("--answer {injecting}"))?)
            }
            Self::MinimalEcho => {
                let flags = "--driver reflect --engine xdp --frames echo";
                Some(netdext.run(wire.answerer(), ANSWERER_IFACE, flags)?)
            }
            Self::Driver(wait) => {
                Some(netdext.run(wire.answerer(), ANSWERER_IFACE, &format!("--wait {wait} {injecting}"))?)
            }
            Self::Testpmd => Some(start_testpmd(wire)?),
        };
        Ok(Running { subject: self, process, ear })
    }
}

/// Someone who answers, until this is dropped.
#[derive(Debug)]
pub struct Running {
    subject: Subject,
    process: Option<Process>,
    ear: Option<Process>,
}

impl Running {
    /// Processor time that its process has used, in ns; 0 for the kernel, which has none.
    ///
    /// # Errors
    /// It has ended.
    pub fn cpu_ns(&self) -> anyhow::Result<u64> {
        self.process.as_ref().map_or(Ok(0), |process| cpu_ns(process.id()))
    }

    /// Stops it.
    ///
    /// # Errors
    /// It failed, or does not stop.
    pub fn stop(self) -> anyhow::Result<Vec<String>> {
        if let Some(ear) = self.ear {
            ear.stop()?;
        }
        let Some(mut process) = self.process else { return Ok(Vec::new()) };
        if self.subject == Subject::Testpmd {
            process.say("");
            return process.wait();
        }
        process.stop()
    }
}

/// Starts a netdext at the end of who asks that leaves every frame to the kernel: a veth is woken for what an XDP program
/// sends only if it has a program too. A flood has one there anyway.
///
/// # Errors
/// It does not get ready.
pub fn listen(wire: &Wire, netdext: &Netdext) -> anyhow::Result<Process> {
    netdext.run(wire.asker(), ASKER_IFACE, "--no-injector --addr 203.0.113.1/32")
}

fn start_testpmd(wire: &Wire) -> anyhow::Result<Process> {
    // Its second core, which forwards, is on the last processor, as netdext's worker is.
    let (first, last) = cpus::first_and_last()?;
    let cores = format!("0@{first},1@{last}");
    let program = program::find("dpdk-testpmd").context("no dpdk-testpmd")?;
    // It is ready when it says so, and to a pipe it would say so only at its end.
    let mut command: Command = wire.at_answerer("stdbuf");
    command.arg("--output=L").arg(program);
    command.args(["--lcores", &cores, "--no-huge", "-m", "1024", "--no-pci", "--no-telemetry"]);
    command.args(["--file-prefix", wire.answerer()]);
    command.arg(format!("--vdev=net_af_xdp0,iface={ANSWERER_IFACE}"));
    command.args(["--", "--forward-mode=icmpecho", "--total-num-mbufs=16384", "--nb-cores=1"]);
    let mut process = Process::start(&mut command)?;
    process.wait_for(READY_WITHIN, |line| line.contains("Press enter to exit").then_some(()))?;
    Ok(process)
}
