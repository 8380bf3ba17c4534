//! netdext as a process under test.

use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::{Namespace, wait_until};

/// Longest time from start to the ready line.
const READY_WITHIN: Duration = Duration::from_secs(10);
/// Longest time from the signal to the end.
const STOPPED_WITHIN: Duration = Duration::from_secs(10);

type Lines = Arc<Mutex<Vec<String>>>;

/// The netdext binary: `NETDEXT_BIN`, else the one that cargo puts above the test's own directory.
///
/// # Panics
/// There is none: `cargo xtask test` builds it.
pub fn binary() -> PathBuf {
    let binary = std::env::var_os("NETDEXT_BIN").map(PathBuf::from).unwrap_or_else(|| {
        let test = std::env::current_exe().expect("the test knows its own path");
        test.parent().and_then(|deps| deps.parent()).expect("target/PROFILE/deps").join("netdext")
    });
    assert!(binary.is_file(), "no {}: run the tests through `cargo xtask test`", binary.display());
    binary
}

/// The binary of the example crate, netdext with the driver `udp-echo`: `NETDEXT_EXAMPLE_BIN`, else the one beside
/// [`binary`].
///
/// # Panics
/// There is none: `cargo xtask test` builds it.
pub fn example() -> PathBuf {
    let named = std::env::var_os("NETDEXT_EXAMPLE_BIN").map(PathBuf::from);
    let example = named.unwrap_or_else(|| binary().with_file_name("udp-echo"));
    assert!(example.is_file(), "no {}: run the tests through `cargo xtask test`", example.display());
    example
}

/// A running netdext; dropping it kills it.
#[derive(Debug)]
pub struct Netdext {
    child: Child,
    started: Instant,
    stdout: Lines,
    stderr: Lines,
    readers: Vec<JoinHandle<()>>,
}

/// How netdext ended.
#[derive(Debug)]
pub struct Finished {
    /// Its exit status.
    pub status: ExitStatus,
    /// The summary, `{"event":"summary",...}`, if it wrote one.
    pub summary: Option<Value>,
    /// All lines of its standard output.
    pub stdout: Vec<String>,
    /// All that it wrote to its standard error.
    pub stderr: String,
    /// From the signal, or the call of [`Netdext::wait`], to the end.
    pub took: Duration,
}

impl Netdext {
    /// Starts `netdext run --json --netns NAMESPACE --iface IFACE ARGUMENTS`.
    ///
    /// # Panics
    /// It can't be started.
    pub fn run(namespace: &Namespace, iface: &str, arguments: &[&str]) -> Self {
        let mut command = Command::new(binary());
        command.args(["run", "--json", "--netns", namespace.name(), "--iface", iface]).args(arguments);
        Self::start(&mut command)
    }

    /// Starts a command of netdext, whatever it is.
    ///
    /// # Panics
    /// It can't be started.
    pub fn start(command: &mut Command) -> Self {
        let started = Instant::now();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?} can't be started: {error}"));
        let (stdout, out_reader) = collect(child.stdout.take().expect("stdout is piped"));
        let (stderr, err_reader) = collect(child.stderr.take().expect("stderr is piped"));
        Self { child, started, stdout, stderr, readers: vec![out_reader, err_reader] }
    }

    /// Waits for the line `{"event":"ready",...}` and returns it with the time since the start.
    ///
    /// # Panics
    /// It does not come in time, or netdext ends before; the message has what it wrote.
    #[track_caller]
    pub fn ready(&mut self) -> (Value, Duration) {
        let ready = self.event("ready", READY_WITHIN);
        (ready, self.started.elapsed())
    }

    /// Waits for the first line with this `event`.
    ///
    /// # Panics
    /// It does not come in time, or netdext ends before; the message has what it wrote.
    #[track_caller]
    pub fn event(&mut self, event: &str, timeout: Duration) -> Value {
        self.find(event, timeout, |lines| find_event(lines, event))
    }

    /// Waits for the first line that begins so.
    ///
    /// # Panics
    /// It does not come in time, or netdext ends before; the message has what it wrote.
    #[track_caller]
    pub fn line(&mut self, begin: &str, timeout: Duration) -> String {
        self.find(begin, timeout, |lines| lines.iter().find(|line| line.starts_with(begin)).cloned())
    }

    #[track_caller]
    fn find<T>(&mut self, what: &str, timeout: Duration, find: impl Fn(&[String]) -> Option<T>) -> T {
        let found = wait_until(&format!("netdext says {what:?}"), timeout, || {
            // Asked before the lines are looked at: what it wrote last must not be missed.
            let ended = self.child.try_wait().expect("netdext can be waited for");
            if ended.is_some() {
                self.join_readers();
            }
            let found = find(&lock(&self.stdout));
            if found.is_some() || ended.is_some() { Some((found, ended)) } else { None }
        });
        match found {
            (Some(found), _) => found,
            (None, ended) => panic!(
                "netdext ended ({ended:?}) before {what:?}\n{}\n{}",
                lock(&self.stdout).join("\n"),
                lock(&self.stderr).join("\n")
            ),
        }
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The lines that it has written to its standard output until now.
    pub fn stdout(&self) -> Vec<String> {
        lock(&self.stdout).clone()
    }

    /// What it has written to its standard error until now.
    pub fn stderr(&self) -> String {
        lock(&self.stderr).join("\n")
    }

    /// Sends a signal.
    ///
    /// # Panics
    /// The process is gone.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("netdext is there to be signalled");
    }

    /// Stops it by SIGINT.
    ///
    /// # Panics
    /// It does not end in time.
    pub fn stop(self) -> Finished {
        self.signal(Signal::INT);
        self.wait()
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// It does not end in time.
    pub fn wait(mut self) -> Finished {
        let since = Instant::now();
        let status = wait_until("netdext ends", STOPPED_WITHIN, || {
            self.child.try_wait().expect("netdext can be waited for")
        });
        let took = since.elapsed();
        self.join_readers();
        let stdout = std::mem::take(&mut *lock(&self.stdout));
        let stderr = self.stderr();
        Finished { status, summary: find_event(&stdout, "summary"), stdout, stderr, took }
    }

    fn join_readers(&mut self) {
        for reader in self.readers.drain(..) {
            reader.join().expect("the reader does not panic");
        }
    }
}

impl Finished {
    /// The summary of a run that ended with exit status 0.
    ///
    /// # Panics
    /// It did not, or there is no summary; the message has what netdext wrote.
    #[track_caller]
    pub fn expect_summary(&self) -> &Value {
        assert!(self.status.success(), "{self:#?}");
        self.summary.as_ref().unwrap_or_else(|| panic!("no summary: {self:#?}"))
    }

    /// The summary of a run after which nothing is missing: no frame of the pool, none on the way to the driver.
    ///
    /// # Panics
    /// There is no summary, or something is missing; the message has what netdext wrote.
    #[track_caller]
    pub fn expect_whole(&self) -> &Value {
        let summary = self.summary.as_ref().unwrap_or_else(|| panic!("no summary: {self:#?}"));
        assert_eq!(summary["whole"], true, "{self:#?}");
        assert_eq!(summary["accounting"]["residue"], 0, "{self:#?}");
        assert_eq!(summary["violations"], 0, "{self:#?}");
        summary
    }

    /// The one line that a netdext with this exit status has written to its standard error.
    ///
    /// # Panics
    /// The exit status is another, or there are more lines, or none.
    #[track_caller]
    pub fn expect_failure(&self, status: i32) -> &str {
        assert_eq!(self.status.code(), Some(status), "{self:#?}");
        let mut lines = self.stderr.lines();
        let line = lines.next().unwrap_or_else(|| panic!("nothing on stderr: {self:#?}"));
        assert_eq!(lines.next(), None, "more than one line: {self:#?}");
        assert!(line.starts_with("netdext: "), "{self:#?}");
        line
    }
}

impl Drop for Netdext {
    fn drop(&mut self) {
        // It fails only for a process that has been waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn find_event(lines: &[String], event: &str) -> Option<Value> {
    let mut values = lines.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    values.find(|value| value["event"] == event)
}

fn lock(lines: &Lines) -> std::sync::MutexGuard<'_, Vec<String>> {
    lines.lock().unwrap_or_else(PoisonError::into_inner)
}

fn collect(stream: impl Read + Send + 'static) -> (Lines, JoinHandle<()>) {
    let lines = Lines::default();
    let kept = Arc::clone(&lines);
    let reader = std::thread::spawn(move || {
        for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
            lock(&kept).push(String::from_utf8_lossy(&line).into_owned());
        }
    });
    (lines, reader)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Netdext {
        Netdext::start(Command::new("sh").args(["-c", script]))
    }

    #[test]
    fn a_run_is_followed_from_ready_to_summary() {
        let mut process = shell(
            r#"trap 'echo "{\"event\":\"summary\",\"n\":7}"; exit 0' INT
               echo noise; echo '{"event":"ready","iface":"x"}'; while :; do sleep 0.01; done"#,
        );
        assert_eq!(process.ready().0["iface"], "x");
        assert_eq!(process.stop().expect_summary()["n"], 7);
    }

    #[test]
    #[should_panic(expected = "no such interface")]
    fn an_early_end_shows_what_was_written() {
        shell("echo no such interface >&2; exit 1").ready();
    }

    #[test]
    fn dropping_the_guard_ends_the_process() {
        let process = shell("exec sleep 60");
        let directory = PathBuf::from(format!("/proc/{}", process.id()));
        assert!(directory.exists());
        drop(process);
        assert!(!directory.exists());
    }
}
