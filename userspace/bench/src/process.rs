//! Programs under measurement: netdext and its peers, started and stopped.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::interrupt;

/// Longest time from start to being ready, usually.
pub const READY_WITHIN: Duration = Duration::from_secs(10);
/// Longest time from being told to stop to the end.
const STOPPED_WITHIN: Duration = Duration::from_secs(5);
/// How often a wait looks up.
const LOOK: Duration = Duration::from_millis(5);

/// A running program; dropping it kills it.
#[derive(Debug)]
pub struct Process {
    child: Child,
    describe: String,
    stdout: Receiver<String>,
    stderr: Receiver<String>,
}

impl Process {
    /// Starts a command.
    ///
    /// # Errors
    /// It can't be started.
    pub fn start(command: &mut Command) -> anyhow::Result<Self> {
        let describe = name_of(command);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("start {describe}"))?;
        let stdout = lines_of(child.stdout.take().context("no standard output")?);
        let stderr = lines_of(child.stderr.take().context("no standard error")?);
        Ok(Self { child, describe, stdout, stderr })
    }

    /// Waits for a line of its standard output for which `found` has something, for as long as `within`.
    ///
    /// # Errors
    /// It ends before, or the time is up, or a signal has come.
    pub fn wait_for<T>(
        &mut self,
        within: Duration,
        mut found: impl FnMut(&str) -> Option<T>,
    ) -> anyhow::Result<T> {
        let deadline = Instant::now() + within;
        loop {
            interrupt::check()?;
            match self.stdout.recv_timeout(LOOK) {
                Ok(line) => {
                    if let Some(found) = found(&line) {
                        return Ok(found);
                    }
                }
                Err(RecvTimeoutError::Timeout) if Instant::now() < deadline => {}
                Err(RecvTimeoutError::Timeout) => {
                    bail!("{}: not ready after {} s", self.describe, within.as_secs())
                }
                Err(RecvTimeoutError::Disconnected) => bail!("{}", self.last_words()),
            }
        }
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Makes sure that it has not ended.
    ///
    /// # Errors
    /// It has: its last words.
    pub fn expect_running(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait().context("look whether it runs")? {
            None => Ok(()),
            Some(_) => bail!("{}", self.last_words()),
        }
    }

    /// A line to its standard input, and the end of that.
    pub fn say(&mut self, line: &str) {
        if let Some(mut stdin) = self.child.stdin.take() {
            // Who has ended does not listen any more, and says so when it is stopped.
            let _ = writeln!(stdin, "{line}");
        }
    }

    /// Tells it to stop by SIGINT.
    ///
    /// # Errors
    /// As [`Process::wait`].
    pub fn stop(self) -> anyhow::Result<Vec<String>> {
        // It fails only for a process that is gone.
        let _ = kill_process(Pid::from_child(&self.child), Signal::INT);
        self.wait()
    }

    /// Waits for its end and returns what it wrote since it was last listened to.
    ///
    /// # Errors
    /// It fails, or does not end in time.
    pub fn wait(mut self) -> anyhow::Result<Vec<String>> {
        let deadline = Instant::now() + STOPPED_WITHIN;
        let status = loop {
            if let Some(status) = self.child.try_wait().context("wait")? {
                break status;
            }
            if Instant::now() > deadline {
                bail!("{}: did not stop within 5 s", self.describe);
            }
            std::thread::sleep(LOOK);
        };
        if !status.success() {
            bail!("{}", self.last_words());
        }
        Ok(self.stdout.iter().collect())
    }

    /// What it wrote to its standard error, for a message: the line that is marked as the error, or else the last.
    fn last_words(&self) -> String {
        let lines: Vec<String> = std::iter::from_fn(|| self.stderr.recv_timeout(LOOK * 4).ok()).collect();
        let marked = lines.iter().find(|line| line.starts_with("error: "));
        let said = marked.or_else(|| lines.iter().rev().find(|line| !line.trim().is_empty()));
        format!("{}: {}", self.describe, said.map_or("ended without a word", String::as_str))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only for a process that has been waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The program that a command is about, without the namespace and the buffering around it.
fn name_of(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let mut words = words.map(|word| word.to_string_lossy());
    let is_around = |word: &str| {
        ["ip", "netns", "exec", "stdbuf"].contains(&word)
            || word.starts_with("nxb-")
            || word.starts_with("--output")
    };
    let name = words.find(|word| !is_around(word)).unwrap_or_default();
    name.rsplit('/').next().unwrap_or(&name).to_owned()
}

fn lines_of(stream: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    // Ends with the stream; a line that nobody wants is dropped.
    std::thread::spawn(move || {
        for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
            if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                break;
            }
        }
    });
    receiver
}

/// The netdext that is measured.
#[derive(Clone, Debug)]
pub struct Netdext {
    binary: PathBuf,
    risk_kernel_panic: bool,
}

impl Netdext {
    /// The executable to measure, or else the one beside this program, which is to take this risk.
    ///
    /// # Errors
    /// There is none.
    pub fn find(binary: Option<&Path>, risk_kernel_panic: bool) -> anyhow::Result<Self> {
        let binary = match binary {
            Some(binary) => binary.to_owned(),
            None => std::env::current_exe().context("find this program")?.with_file_name("netdext"),
        };
        if !binary.is_file() {
            bail!("there is no netdext to measure at {}: name one with --netdext", binary.display());
        }
        Ok(Self { binary, risk_kernel_panic })
    }

    /// Where it is.
    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// `netdext run --json` in a namespace, on an interface, not yet started. The arguments have no blanks in them.
    pub fn command(&self, namespace: &str, iface: &str, arguments: &str) -> Command {
        let mut command = Command::new(&self.binary);
        command.args(["run", "--json", "--netns", namespace, "--iface", iface]);
        if self.risk_kernel_panic {
            command.arg("--risk-kernel-panic");
        }
        command.args(arguments.split(' ').filter(|word| !word.is_empty()));
        command
    }

    /// The same, started and ready.
    ///
    /// # Errors
    /// It does not get ready.
    pub fn run(&self, namespace: &str, iface: &str, arguments: &str) -> anyhow::Result<Process> {
        self.run_within(READY_WITHIN, namespace, iface, arguments)
    }

    /// The same, for one that may take so long to get ready.
    ///
    /// # Errors
    /// It does not get ready.
    pub fn run_within(
        &self,
        within: Duration,
        namespace: &str,
        iface: &str,
        arguments: &str,
    ) -> anyhow::Result<Process> {
        let mut process = Process::start(&mut self.command(namespace, iface, arguments))?;
        process.wait_for(within, |line| event(line, "ready"))?;
        Ok(process)
    }
}

/// The object on a line, if it is of this event.
fn event(line: &str, name: &str) -> Option<Value> {
    let value: Value = serde_json::from_str(line).ok()?;
    (value["event"] == name).then_some(value)
}

/// The summary among the last lines of a netdext.
///
/// # Errors
/// There is none.
pub fn summary(lines: &[String]) -> anyhow::Result<Value> {
    lines.iter().find_map(|line| event(line, "summary")).context("netdext wrote no summary")
}

/// A number in a summary, by its path, for example `/injector/rtt_ns/p50`.
///
/// # Errors
/// There is none.
pub fn number(summary: &Value, path: &str) -> anyhow::Result<f64> {
    summary
        .pointer(path)
        .and_then(Value::as_f64)
        .with_context(|| format!("the summary of netdext has no {path}"))
}

/// Nanoseconds of processor time that the threads of a process have used.
///
/// # Errors
/// The process is gone.
pub fn cpu_ns(id: u32) -> anyhow::Result<u64> {
    let directory = format!("/proc/{id}/task");
    let mut sum = 0;
    for task in std::fs::read_dir(&directory).with_context(|| format!("read {directory}"))? {
        // A thread may end meanwhile.
        let Ok(text) = std::fs::read_to_string(task?.path().join("schedstat")) else { continue };
        sum += text.split(' ').next().and_then(|ns| ns.parse::<u64>().ok()).unwrap_or(0);
    }
    Ok(sum)
}

/// Bytes of memory that a process has resident.
///
/// # Errors
/// The process is gone.
pub fn resident_bytes(id: u32) -> anyhow::Result<u64> {
    let path = format!("/proc/{id}/status");
    let text = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|rest| rest.trim().split(' ').next()?.parse::<u64>().ok());
    Ok(kilobytes.context("no VmRSS")? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Process {
        Process::start(Command::new("sh").args(["-c", script])).unwrap()
    }

    #[test]
    fn a_process_is_listened_to_and_stopped() {
        let script = r#"trap 'echo "{\"event\":\"summary\",\"n\":{\"m\":7}}"; exit 0' INT
            echo '{"event":"ready"}'; while :; do sleep 0.01; done"#;
        let mut process = shell(script);
        process.wait_for(READY_WITHIN, |line| event(line, "ready")).unwrap();
        assert!(cpu_ns(process.id()).unwrap() > 0 && resident_bytes(process.id()).unwrap() > 0);
        let summary = summary(&process.stop().unwrap()).unwrap();
        assert_eq!(number(&summary, "/n/m").unwrap(), 7.0);
        assert!(number(&summary, "/n/x").is_err());
    }

    #[test]
    fn who_fails_is_quoted() {
        let mut process = shell("echo no such interface >&2; exit 1");
        let error = process.wait_for(READY_WITHIN, |line| event(line, "ready")).unwrap_err().to_string();
        assert_eq!(error, "sh: no such interface");
        let error = shell("echo a; echo 'error: b' >&2; echo try --help >&2; exit 2").wait().unwrap_err();
        assert_eq!(error.to_string(), "sh: error: b");
        let error = shell("echo bad >&2; exit 3").wait().unwrap_err().to_string();
        assert!(error.ends_with(": bad"), "{error}");
    }

    #[test]
    fn one_that_should_run_and_has_ended_is_quoted() {
        let mut process = shell("read wait; echo no such symbol >&2");
        process.expect_running().unwrap();
        process.say("");
        let ended = (0..200).find_map(|_| {
            std::thread::sleep(LOOK);
            process.expect_running().err()
        });
        assert_eq!(ended.expect("it ends").to_string(), "sh: no such symbol");
    }

    #[test]
    fn a_process_is_called_by_its_program() {
        let mut command = Command::new("ip");
        command.args([
            "netns",
            "exec",
            "nxb-1-2-b",
            "stdbuf",
            "--output=L",
            "/usr/bin/dpdk-testpmd",
            "-l",
            "0",
        ]);
        assert_eq!(name_of(&command), "dpdk-testpmd");
        assert_eq!(name_of(&Command::new("/a/netdext")), "netdext");
    }
}
