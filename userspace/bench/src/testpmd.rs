//! dpdk-testpmd over net_af_xdp: a peer that sends, receives, reflects and answers over the same kind of rings.

use std::process::Command;

use anyhow::Context;

use super::cpus;
use super::process::{Process, READY_WITHIN};
use super::program;
use super::wire::{ANSWERER_IFACE, FORWARDER_IFACES, Wire, within};

/// Why it can't be measured here, if it can't.
pub fn missing() -> Option<&'static str> {
    program::find("dpdk-testpmd")
        .is_none()
        .then_some("no dpdk-testpmd: apt-get install dpdk-dev librte-net-af-xdp23 librte-mempool-ring23")
}

/// A running one.
#[derive(Debug)]
pub struct Testpmd {
    process: Process,
}

impl Testpmd {
    /// Starts it at the end of who answers, in this mode and with these further arguments.
    ///
    /// # Errors
    /// It does not get ready.
    pub fn start(wire: &Wire, mode: &str, more: &[&str]) -> anyhow::Result<Self> {
        Self::start_on(wire.answerer(), &[ANSWERER_IFACE], mode, more)
    }

    /// Starts it between the interfaces of the forwarder: what one receives it sends out of the other.
    ///
    /// # Errors
    /// It does not get ready.
    pub fn start_forwarding(wire: &Wire) -> anyhow::Result<Self> {
        Self::start_on(wire.forwarder(), &FORWARDER_IFACES, "io", &[])
    }

    fn start_on(namespace: &str, ifaces: &[&str], mode: &str, more: &[&str]) -> anyhow::Result<Self> {
        // Its second core, which forwards, is on the last processor, as netdext's worker is.
        let (first, last) = cpus::first_and_last()?;
        let cores = format!("0@{first},1@{last}");
        let program = program::find("dpdk-testpmd").context("no dpdk-testpmd")?;
        // It is ready when it says so, and to a pipe it would say so only at its end.
        let mut command: Command = within(namespace, "stdbuf");
        command.arg("--output=L").arg(program);
        command.args(["--lcores", &cores, "--no-huge", "-m", "1024", "--no-pci", "--no-telemetry"]);
        command.args(["--file-prefix", namespace]);
        for (number, iface) in ifaces.iter().enumerate() {
            command.arg(format!("--vdev=net_af_xdp{number},iface={iface}"));
        }
        command.args(["--", "--total-num-mbufs=16384", "--nb-cores=1"]);
        command.arg(format!("--forward-mode={mode}")).args(more);
        let mut process = Process::start(&mut command)?;
        process.wait_for(READY_WITHIN, |line| line.contains("Press enter to exit").then_some(()))?;
        Ok(Self { process })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Stops it and returns its last lines.
    ///
    /// # Errors
    /// It failed, or does not stop.
    pub fn stop(mut self) -> anyhow::Result<Vec<String>> {
        self.process.say("");
        self.process.wait()
    }
}

/// The frames that it received, from its last lines.
///
/// # Errors
/// It did not say.
pub fn received(lines: &[String]) -> anyhow::Result<f64> {
    lines.iter().find_map(|line| rx_packets(line)).context("dpdk-testpmd printed no count of received frames")
}

/// The count in a line `RX-packets: 123   RX-dropped: 4   RX-total: 127`.
fn rx_packets(line: &str) -> Option<f64> {
    line.trim_start().strip_prefix("RX-packets:")?.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_is_read_from_the_last_lines() {
        let lines = [
            "  ---------------------- Forward statistics for port 0  ----------------------",
            "  RX-packets: 3562388        RX-dropped: 17619         RX-total: 3580007",
            "  TX-packets: 0              TX-dropped: 0             TX-total: 0",
        ]
        .map(str::to_owned);
        assert_eq!(received(&lines).unwrap(), 3_562_388.0);
        assert!(received(&lines[2..]).is_err());
    }
}
