//! What machine it was.

use std::collections::BTreeMap;
use std::fs;
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use crate::shell;

/// Facts that figures depend on.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Machine {
    /// The processor's name.
    pub cpu: String,
    /// Processors that this process may use.
    pub cores: usize,
    /// Release and version of the kernel.
    pub kernel: String,
    /// Main memory.
    pub memory_bytes: u64,
    /// The frequency governor of the first processor, where there is one.
    pub governor: Option<String>,
    /// The hypervisor, by the name that the kernel has for it.
    pub hypervisor: Option<String>,
    /// Processes that wanted to run, over the minute before.
    pub load_average: f64,
    /// The commit of the sources, with `-dirty` when they differ from it.
    pub commit: Option<String>,
    /// Versions of the programs that took part.
    pub versions: BTreeMap<String, String>,
}

impl Machine {
    /// Looks at this machine.
    pub fn look() -> Self {
        let cpuinfo = read("/proc/cpuinfo").unwrap_or_default();
        let meminfo = read("/proc/meminfo").unwrap_or_default();
        let kilobytes =
            field(&meminfo, "MemTotal").and_then(|text| text.split(' ').next()?.parse::<u64>().ok());
        let load = read("/proc/loadavg").and_then(|text| text.split(' ').next()?.parse().ok());
        let versions = [
            ("rustc", &["rustc", "--version"][..]),
            ("ping", &["ping", "-V"]),
            ("fping", &["fping", "--version"]),
            ("dpdk-testpmd", &["dpdk-testpmd", "--version"]),
            ("xdpsock", &["xdpsock", "--version"]),
            ("xdp-bench", &["xdp-bench", "--version"]),
        ];
        let versions =
            versions.into_iter().filter_map(|(name, words)| Some((name.to_owned(), first_line(words)?)));
        Self {
            cpu: field(&cpuinfo, "model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
            cores: std::thread::available_parallelism().map_or(1, Into::into),
            kernel: format!(
                "{} {}",
                read("/proc/sys/kernel/osrelease").unwrap_or_default(),
                read("/proc/sys/kernel/version").unwrap_or_default()
            ),
            memory_bytes: kilobytes.unwrap_or(0) * 1024,
            governor: read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
            hypervisor: read("/sys/hypervisor/type").or_else(|| {
                cpuinfo.contains(" hypervisor").then(|| "yes (the processor says so)".to_owned())
            }),
            load_average: load.unwrap_or(0.0),
            commit: first_line(&["git", "describe", "--always", "--dirty", "--abbrev=12"]),
            versions: versions.collect(),
        }
    }
}

fn read(path: &str) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

/// The value of the first line `name : value`.
fn field(text: &str, name: &str) -> Option<String> {
    let mut lines = text.lines().filter_map(|line| line.split_once(':'));
    lines.find(|(key, _)| key.trim() == name).map(|(_, value)| value.trim().to_owned())
}

/// What a program says first, if it is there and has something to say.
fn first_line(words: &[&str]) -> Option<String> {
    let (program, arguments) = words.split_first()?;
    let mut command = Command::new(shell::find_program(program)?);
    let output = command.args(arguments).stdin(Stdio::null()).output().ok()?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    text.lines().map(str::trim).find(|line| !line.is_empty()).map(ToOwned::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let text = "model\t\t: 1\nmodel name\t: A processor: fast\nMemTotal:  16 kB\n";
        assert_eq!(field(text, "model name").as_deref(), Some("A processor: fast"));
        assert_eq!(field(text, "MemTotal").as_deref(), Some("16 kB"));
        assert_eq!(field(text, "name"), None);
    }

    #[test]
    fn this_machine_has_a_kernel_and_memory() {
        let machine = Machine::look();
        assert!(!machine.kernel.trim().is_empty() && machine.memory_bytes > 0 && machine.cores > 0);
    }
}
