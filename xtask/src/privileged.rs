//! What the privileged tests need around them: a deadline, and a look at what they leave behind.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::shell;

/// Longest run of one test program, its build included.
const DEADLINE: Duration = Duration::from_secs(15 * 60);
/// What the names of the test harness's namespaces begin with; the id of the process that made it follows.
const NAMESPACE_PREFIX: &str = "nxt-";

/// How a program ended.
pub struct End {
    /// With exit status 0.
    pub success: bool,
    /// The exit status, or the deadline.
    pub description: String,
}

/// Runs a command and hands over the lines of its standard output; kills it when it takes too long.
///
/// # Errors
/// It can't be started or waited for.
pub fn run_with_deadline(command: &mut Command, mut on_line: impl FnMut(&str)) -> anyhow::Result<End> {
    let describe = shell::printable(command);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {describe}"))?;
    let stdout = child.stdout.take().context("the child has no standard output")?;
    let (sender, lines) = mpsc::channel();
    // Not joined: a grandchild that outlives the child can keep the pipe open.
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).split(b'\n').map_while(Result::ok) {
            if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                break;
            }
        }
    });
    let deadline = Instant::now() + DEADLINE;
    loop {
        match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => on_line(&line),
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                child.kill().with_context(|| format!("kill {describe}"))?;
                child.wait().with_context(|| format!("wait for {describe}"))?;
                let description = format!("not done after {} s", DEADLINE.as_secs());
                return Ok(End { success: false, description });
            }
        }
    }
    let status = child.wait().with_context(|| format!("wait for {describe}"))?;
    Ok(End { success: status.success(), description: status.to_string() })
}

/// Things that a test could leave behind, each as a line to print.
#[derive(Default)]
pub struct Leftovers {
    found: BTreeSet<String>,
}

impl Leftovers {
    /// Looks for namespaces whose test process is gone, for processes of these very programs, and at the links
    /// of the root namespace with their XDP programs.
    ///
    /// # Errors
    /// `ip` is missing or fails.
    pub fn look(programs: &[&Path]) -> anyhow::Result<Self> {
        let mut found: BTreeSet<String> = orphaned_namespaces().collect();
        found.extend(programs.iter().flat_map(|program| processes(program)));
        found.extend(root_links()?);
        Ok(Self { found })
    }

    /// What is there now and was not there then.
    pub fn since(&self, before: &Leftovers) -> Vec<String> {
        self.found.difference(&before.found).cloned().collect()
    }
}

fn orphaned_namespaces() -> impl Iterator<Item = String> {
    let entries = std::fs::read_dir("/run/netns").into_iter().flatten().flatten();
    entries.filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let owner = owner_of(&name)?;
        let alive = Path::new("/proc").join(owner.to_string()).exists();
        (!alive).then(|| format!("network namespace {name}"))
    })
}

/// The process id in the name of a namespace of the test harness.
fn owner_of(namespace: &str) -> Option<u32> {
    namespace.strip_prefix(NAMESPACE_PREFIX)?.split('-').next()?.parse().ok()
}

fn processes(netdext: &Path) -> impl Iterator<Item = String> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(move |entry| {
        let id: u32 = entry.file_name().to_str()?.parse().ok()?;
        let command_line = std::fs::read(entry.path().join("cmdline")).ok()?;
        let program = command_line.split(|byte| *byte == 0).next()?;
        (program == netdext.as_os_str().as_encoded_bytes()).then(|| format!("netdext, process {id}"))
    })
}

fn root_links() -> anyhow::Result<BTreeSet<String>> {
    let ip = shell::find_program("ip").context("there is no `ip` to look at the links with")?;
    let output = Command::new(ip).args(["-json", "link", "show"]).output().context("start ip")?;
    if !output.status.success() {
        bail!("`ip -json link show` failed: {}", output.status);
    }
    let links: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).context("read the links")?;
    Ok(links.iter().flat_map(describe_link).collect())
}

fn describe_link(link: &serde_json::Value) -> Vec<String> {
    let name = link["ifname"].as_str().unwrap_or("without a name");
    let mut lines = vec![format!("interface {name} in the root namespace")];
    if let Some(program) = link["xdp"]["prog"]["id"].as_u64() {
        lines.push(format!("XDP program {program} on {name}"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_namespaces_of_the_harness_have_an_owner() {
        assert_eq!(owner_of("nxt-4711-3"), Some(4711));
        assert_eq!(owner_of("nxt-"), None);
        assert_eq!(owner_of("lab"), None);
        assert_eq!(owner_of("nxt-x-1"), None);
    }

    #[test]
    fn what_was_there_before_is_not_left_behind() {
        let set = |names: &[&str]| Leftovers { found: names.iter().map(|n| (*n).to_owned()).collect() };
        assert_eq!(set(&["a", "b"]).since(&set(&["a", "c"])), ["b"]);
    }

    #[test]
    fn a_process_is_found_by_the_program_it_runs() {
        let sleep = shell::find_program("sleep").unwrap();
        let mut child = Command::new(&sleep).arg("30").spawn().unwrap();
        let expected = format!("netdext, process {}", child.id());
        // The command line is that of the parent until the child has called execve.
        let deadline = Instant::now() + Duration::from_secs(5);
        while !processes(&sleep).any(|line| line == expected) {
            assert!(Instant::now() < deadline, "{expected} not seen");
            std::thread::yield_now();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!processes(&sleep).any(|line| line == expected));
    }

    #[test]
    fn an_xdp_program_in_the_root_namespace_is_seen() {
        let link = serde_json::json!({"ifname": "eth0", "xdp": {"mode": 1, "prog": {"id": 7}}});
        assert_eq!(describe_link(&link), ["interface eth0 in the root namespace", "XDP program 7 on eth0"]);
    }
}
