//! What machine it was.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use super::program;

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
    /// The commit of the sources that the executable lies in, with `-dirty` when they differ from it.
    pub commit: Option<String>,
    /// Versions of the programs that took part.
    pub versions: BTreeMap<String, String>,
}

impl Machine {
    /// Looks at this machine. `netdext` is the executable under measurement.
    pub fn look(netdext: &Path) -> Self {
        let cpuinfo = read("/proc/cpuinfo").unwrap_or_default();
        let meminfo = read("/proc/meminfo").unwrap_or_default();
        let kilobytes =
            field(&meminfo, "MemTotal").and_then(|text| text.split(' ').next()?.parse::<u64>().ok());
        let load = read("/proc/loadavg").and_then(|text| text.split(' ').next()?.parse().ok());
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
            commit: commit_of(netdext),
            versions: versions(),
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

/// An executable in no work tree was installed, and nobody knows of what.
fn commit_of(executable: &Path) -> Option<String> {
    let folder = executable.parent()?.to_str()?;
    line_of("git", &["-C", folder, "describe", "--always", "--dirty", "--abbrev=12"], "")
}

/// netdext's, and those of the programs that are there.
fn versions() -> BTreeMap<String, String> {
    let others: [(&str, &[&str], &str); 4] = [
        ("ping", &["-V"], ""),
        ("fping", &["--version"], "Version"),
        // It tells its version when it is asked to, and ends when it is asked for help.
        ("dpdk-testpmd", &["-v", "-h"], "RTE Version"),
        ("xdp-bench", &["--version"], ""),
    ];
    let others = others.into_iter().filter_map(|(name, arguments, sign)| {
        let line = line_of(name, arguments, sign)?;
        let version = line.rsplit(": ").next().unwrap_or(&line).trim_matches('\'');
        Some((name.to_owned(), version.to_owned()))
    });
    others.chain([("netdext".to_owned(), env!("CARGO_PKG_VERSION").to_owned())]).collect()
}

/// The first line with `sign` in it that a program writes, if it is there and does not fail.
fn line_of(program: &str, arguments: &[&str], sign: &str) -> Option<String> {
    let mut command = Command::new(program::find(program)?);
    let output = command.args(arguments).stdin(Stdio::null()).output().ok()?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let line = lines.find(|line| line.contains(sign))?;
    output.status.success().then(|| line.to_owned())
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
    fn a_version_is_the_line_with_its_sign_and_that_of_who_fails_is_none() {
        assert_eq!(line_of("echo", &["Usage\nRTE Version: 'x'"], "RTE").as_deref(), Some("RTE Version: 'x'"));
        assert_eq!(line_of("echo", &["Usage"], "RTE"), None);
        assert_eq!(line_of("sh", &["-c", "echo Usage; exit 1"], ""), None);
    }

    #[test]
    fn this_machine_has_a_kernel_and_memory() {
        let machine = Machine::look(Path::new("/bin/sh"));
        assert!(!machine.kernel.trim().is_empty() && machine.memory_bytes > 0 && machine.cores > 0);
        assert!(machine.versions.contains_key("netdext") && machine.commit.is_none(), "{machine:?}");
    }
}
