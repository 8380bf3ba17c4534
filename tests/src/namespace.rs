//! Network namespaces that go away with the test.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::Value;

use crate::patiently;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A network namespace made for one test; dropping it removes it.
///
/// Its name is `nxt-PID-NUMBER`: `cargo xtask test` looks for those whose process is gone.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes a namespace with its loopback up. `purpose` is for the one who reads the output of a failure.
    ///
    /// # Panics
    /// `ip` fails.
    pub fn new(purpose: &str) -> Self {
        let namespace = Self::unmade();
        println!("{}: {purpose}", namespace.name);
        ip(&["netns", "add", &namespace.name]);
        namespace.ip(&["link", "set", "lo", "up"]);
        namespace
    }

    /// A name that no namespace has yet; if one of it is there in the end, it is removed all the same.
    pub fn unmade() -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Self { name: format!("nxt-{}-{number}", std::process::id()) }
    }

    /// The name under /run/netns.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether there is a namespace of this name, as `ip netns` has it.
    ///
    /// # Panics
    /// `ip` fails.
    pub fn exists(&self) -> bool {
        let list = ip(&["netns", "list"]);
        list.lines().any(|line| line.split_whitespace().next() == Some(&self.name))
    }

    /// A command that runs in this namespace.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]);
        command
    }

    /// Runs a program in this namespace and returns what it wrote to its standard output.
    ///
    /// # Panics
    /// Its exit status is not 0.
    #[track_caller]
    pub fn run(&self, program: &str, arguments: &[&str]) -> String {
        expect_success(self.command(program).args(arguments))
    }

    /// Runs `ip` on this namespace, without a process in it.
    ///
    /// # Panics
    /// Its exit status is not 0.
    #[track_caller]
    pub fn ip(&self, arguments: &[&str]) -> String {
        expect_success(Command::new("ip").args(["-netns", &self.name]).args(arguments))
    }

    /// What `ip -json -details link show IFACE` says; `None` if there is no such interface.
    ///
    /// # Panics
    /// `ip` writes no JSON.
    pub fn link(&self, iface: &str) -> Option<Value> {
        let mut command = Command::new("ip");
        command.args(["-netns", &self.name, "-json", "-details", "link", "show", "dev", iface]);
        let output = output_of(&mut command);
        if !output.status.success() {
            return None;
        }
        let mut links: Value = serde_json::from_slice(&output.stdout).expect("ip writes JSON");
        Some(links[0].take())
    }

    /// What the kernel in this namespace has counted of ICMP over IPv4, by its name in /proc/net/snmp, such as `InEchos`.
    ///
    /// # Panics
    /// It counts no such thing.
    pub fn icmp_count(&self, name: &str) -> u64 {
        let table = self.run("cat", &["/proc/net/snmp"]);
        let mut lines = table.lines().filter_map(|line| line.strip_prefix("Icmp: "));
        let (names, values) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
        let mut pairs = names.split(' ').zip(values.split(' '));
        let count = pairs.find(|(known, _)| *known == name).and_then(|(_, count)| count.parse().ok());
        count.unwrap_or_else(|| panic!("no count {name} in {table}"))
    }

    /// Frames that an interface was to send, and that the kernel dropped instead: on a veth, those that the ring of the
    /// other end had no room for.
    ///
    /// # Panics
    /// There is no such interface.
    pub fn dropped_in_sending(&self, iface: &str) -> u64 {
        let text = self.ip(&["-json", "-s", "link", "show", "dev", iface]);
        let link: Value = serde_json::from_str(&text).expect("ip writes JSON");
        link[0]["stats64"]["tx"]["dropped"].as_u64().expect("ip counts drops")
    }

    /// The ids of the XDP programs on an interface; none if it is gone.
    pub fn xdp_programs(&self, iface: &str) -> Vec<u64> {
        let Some(link) = self.link(iface) else { return Vec::new() };
        let attached = link["xdp"]["attached"].as_array().cloned().unwrap_or_default();
        let single = link["xdp"]["prog"].clone();
        let programs = attached.iter().map(|one| &one["prog"]).chain([&single]);
        let mut ids: Vec<u64> = programs.filter_map(|program| program["id"].as_u64()).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// Runs `work` on a thread in this namespace. A socket made there stays in it wherever it is used.
    ///
    /// # Panics
    /// The namespace can't be entered, or `work` panics.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let in_namespace = || {
            netdext_host::link::netns::enter(&self.name).expect("the namespace can be entered");
            work()
        };
        let result = std::thread::scope(|scope| scope.spawn(in_namespace).join());
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Asks the HTTP server at `address` in this namespace for a path, and returns the head and the body of its answer.
    ///
    /// # Panics
    /// There is no server, or it does not answer.
    #[track_caller]
    pub fn http(&self, address: &str, path: &str) -> (String, String) {
        let answer = self.enter(|| {
            let mut stream = TcpStream::connect(address)?;
            stream.set_read_timeout(Some(patiently(Duration::from_secs(10))))?;
            write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            io::Result::Ok(answer)
        });
        let answer = answer.expect("the server answers");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
        (head.to_owned(), body.to_owned())
    }

    /// Runs an asynchronous `work` to its end on a thread in this namespace, on a runtime of its own.
    ///
    /// # Panics
    /// As [`Namespace::enter`].
    pub fn block_on<T: Send>(&self, work: impl AsyncFnOnce() -> T + Send) -> T {
        self.enter(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime can be made").block_on(work())
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if self.exists() {
            ip(&["netns", "delete", &self.name]);
        }
    }
}

#[track_caller]
fn ip(arguments: &[&str]) -> String {
    expect_success(Command::new("ip").args(arguments))
}

#[track_caller]
fn output_of(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|error| panic!("{command:?} can't be started: {error}"))
}

#[track_caller]
fn expect_success(command: &mut Command) -> String {
    let output = output_of(command);
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{command:?} failed: {}\n{stdout}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    stdout
}
