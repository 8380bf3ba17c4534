//! `netdext daemon` as a process under test, and the commands that are given to it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::process::binary;
use crate::{Finished, Namespace, Netdext, wait_until};

/// Longest time from the start of a daemon to its ready line.
const READY_WITHIN: Duration = Duration::from_secs(20);

/// A namespace with a runtime and a state directory of its own: what a daemon leaves from run to run.
#[derive(Debug)]
pub struct Site {
    /// Where the daemon and its drivers are.
    pub namespace: Namespace,
    program: PathBuf,
    directory: TempDir,
}

impl Site {
    /// A site without a daemon.
    ///
    /// # Panics
    /// It can't be made.
    pub fn new(purpose: &str) -> Self {
        Self::with_program(purpose, binary())
    }

    /// The same where another program than netdext is what is run.
    ///
    /// # Panics
    /// It can't be made.
    pub fn with_program(purpose: &str, program: PathBuf) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        Self { namespace: Namespace::new(purpose), program, directory }
    }

    /// `NETDEXT_RUNTIME_DIR`; the daemon makes it.
    pub fn runtime_dir(&self) -> PathBuf {
        self.directory.path().join("run")
    }

    /// `NETDEXT_STATE_DIR`; the daemon makes it.
    pub fn state_dir(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    /// The daemon's socket.
    pub fn socket(&self) -> PathBuf {
        self.runtime_dir().join("control.sock")
    }

    /// The file of what is installed.
    pub fn state_file(&self) -> PathBuf {
        self.state_dir().join("state.json")
    }

    /// A path for a file of the test's own.
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The program at this site; `words` are split at blanks.
    pub fn command(&self, words: &str) -> Command {
        self.command_of(&self.program, words)
    }

    /// Another program at this site, likewise.
    pub fn command_of(&self, program: &Path, words: &str) -> Command {
        let mut command = self.namespace.command(program.to_str().expect("a plain path"));
        command
            .args(words.split_whitespace())
            .env("NETDEXT_RUNTIME_DIR", self.runtime_dir())
            .env("NETDEXT_STATE_DIR", self.state_dir());
        command
    }

    /// Runs netdext to its end.
    #[track_caller]
    pub fn run(&self, words: &str) -> Finished {
        Netdext::start(&mut self.command(words)).wait()
    }

    /// Runs netdext, and returns the standard output of one that ended with exit status 0.
    ///
    /// # Panics
    /// It did not.
    #[track_caller]
    pub fn ok(&self, words: &str) -> String {
        let finished = self.run(words);
        assert!(finished.status.success(), "{words}: {finished:#?}");
        finished.stdout.join("\n")
    }

    /// Runs netdext, and returns the one line on standard error of one that ended with exit status 1.
    ///
    /// # Panics
    /// It did not.
    #[track_caller]
    pub fn fails(&self, words: &str) -> String {
        let finished = self.run(words);
        assert!(finished.stdout.is_empty(), "{words}: {finished:#?}");
        finished.expect_failure(1).to_owned()
    }

    /// Starts a daemon, and waits until it is ready.
    ///
    /// # Panics
    /// It does not get so far; the message has what it wrote.
    #[track_caller]
    pub fn daemon(&self) -> Netdext {
        self.daemon_with("")
    }

    /// Starts a daemon with further words on its command line, and waits until it is ready.
    ///
    /// # Panics
    /// It does not get so far; the message has what it wrote.
    #[track_caller]
    pub fn daemon_with(&self, words: &str) -> Netdext {
        let mut daemon = Netdext::start(&mut self.command(&format!("daemon {words}")));
        daemon.line("ready: daemon, ", READY_WITHIN);
        daemon
    }

    /// `netdext list --json`.
    ///
    /// # Panics
    /// It fails.
    #[track_caller]
    pub fn list(&self) -> Vec<Value> {
        let lines = self.ok("list --json");
        lines.lines().map(|line| serde_json::from_str(line).expect("an object a line")).collect()
    }

    /// Waits until the only driver is in this state.
    ///
    /// # Panics
    /// It is not in time.
    #[track_caller]
    pub fn wait_for_state(&self, state: &str) -> Value {
        wait_until(&format!("the driver is {state}"), Duration::from_secs(15), || {
            self.list().into_iter().find(|entry| entry["state"] == state)
        })
    }

    /// `netdext stats --json` of the only driver.
    ///
    /// # Panics
    /// It fails.
    #[track_caller]
    pub fn stats(&self) -> Value {
        serde_json::from_str(&self.ok("stats --json org.netdext.sample")).expect("one object")
    }

    /// Asserts that the lab's driver end and host end, and all that netdext put on them, are gone.
    ///
    /// # Panics
    /// Something is left.
    #[track_caller]
    pub fn assert_no_links(&self) {
        let links: Value =
            serde_json::from_str(&self.namespace.ip(&["-json", "link", "show"])).expect("JSON");
        let names: Vec<_> = links.as_array().expect("links").iter().map(|link| &link["ifname"]).collect();
        assert_eq!(names, ["lo"]);
    }
}

/// The names of what a directory holds; none if there is no such directory.
pub fn names_in(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}
