//! What is printed: for people, or as JSON lines (docs/json.md).

use std::fmt::Write as _;
use std::time::Duration;

use crate::view::text;
use anyhow::Context;
use netdext_host::capture::CaptureReport;
use netdext_host::link::threaded::Tuning;
use netdext_host::stats::{PortStats, SCHEMA_VERSION};
use netdext_host::supervisor::{RunConfig, RunInfo, RunReport};
use netdext_host::xdp::attachment::XdpHook;
use serde::Serialize;

/// Prints a line. Unlike `println!` it does not panic when nobody reads any more: the driver goes on.
macro_rules! say {
    ($($format:tt)*) => {{
        use std::io::Write as _;
        let mut stdout = std::io::stdout().lock();
        let _ = writeln!(stdout, $($format)*).and_then(|()| stdout.flush());
    }};
}
pub(crate) use say;

/// Prints a line to standard error. Unlike `eprintln!` it does not panic when that can't be written: the exit status
/// still says what became of the command.
macro_rules! complain {
    ($($format:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr().lock(), $($format)*);
    }};
}
pub(crate) use complain;

/// What `--tune` did: the command that was carried out, or why there was none.
#[derive(Serialize)]
struct Tuned {
    command: Option<String>,
    left: Option<String>,
}

impl From<&Tuning> for Tuned {
    fn from(tuning: &Tuning) -> Self {
        match tuning {
            Tuning::Changed(_) => Self { command: Some(tuning.to_string()), left: None },
            Tuning::Left(why) => Self { command: None, left: Some(why.to_string()) },
        }
    }
}

/// That the driver is ready: the first line.
#[derive(Serialize)]
pub struct Ready<'a> {
    event: &'static str,
    schema: u32,
    iface: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    other_ifaces: Vec<&'a str>,
    driver: &'static str,
    mode: XdpHook,
    zero_copy: bool,
    queues: Vec<u32>,
    addresses: Vec<String>,
    enabled: bool,
    netns: Option<&'a str>,
    start_ns: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    tuned: Option<Tuned>,
    /// What is said of each interface alone, to people.
    #[serde(skip)]
    ports: Vec<&'a RunInfo>,
}

impl<'a> Ready<'a> {
    /// Of a driver on these interfaces, the first one first.
    pub fn new(
        config: &'a RunConfig,
        infos: impl Iterator<Item = &'a RunInfo>,
        netns: Option<&'a str>,
        start: Duration,
    ) -> Self {
        let ports: Vec<_> = infos.collect();
        let info = ports[0];
        Self {
            event: "ready",
            schema: SCHEMA_VERSION,
            iface: &info.device.name,
            other_ifaces: config.other_ifaces.iter().map(String::as_str).collect(),
            driver: config.driver.name(),
            mode: info.attached.mode,
            zero_copy: ports.iter().flat_map(|port| &port.queues).all(|(_, socket)| socket.zero_copy),
            queues: info.queues.iter().map(|(queue, _)| *queue).collect(),
            addresses: config
                .addresses
                .iter()
                .map(|(address, length)| format!("{address}/{length}"))
                .collect(),
            enabled: ports.iter().all(|port| port.enabled),
            netns,
            start_ns: start.as_nanos() as u64,
            tuned: info.tuning.as_ref().map(Tuned::from),
            ports,
        }
    }

    /// Prints it.
    pub fn print(&self, json: bool) {
        if json {
            print_json(self);
            return;
        }
        for port in &self.ports {
            if let Some(reason) = &port.attached.native_refused {
                complain!("netdext: {} refuses native mode ({reason}); using skb mode", port.device.name);
            }
        }
        let copy = if self.zero_copy { "zero-copy" } else { "copy" };
        let queues = self.queues.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
        let ifaces: Vec<_> = std::iter::once(&self.iface).chain(&self.other_ifaces).copied().collect();
        let addresses = if self.addresses.is_empty() { "none".to_owned() } else { self.addresses.join(", ") };
        let mut line = format!(
            "ready: {} on {}, {} mode, {copy}, queue {queues}, addresses {addresses}",
            self.driver,
            ifaces.join(", "),
            self.mode,
        );
        if let Some(first) = self.addresses.first().and_then(|address| address.split('/').next()) {
            let enter = self.netns.map(|name| format!("ip netns exec {name} ")).unwrap_or_default();
            let _ = write!(line, "; try: {enter}ping {first}");
        }
        say!("{line}");
        for port in &self.ports {
            match &port.tuning {
                Some(tuning @ Tuning::Changed(_)) => say!("tuned: {tuning}; taken back at the end"),
                Some(Tuning::Left(why)) => say!("not tuned: {why}"),
                None => {}
            }
            if !port.enabled {
                let name = &port.device.name;
                say!("{name} is down: the driver starts there when it is set up (ip link set {name} up)");
            }
        }
    }
}

#[derive(Serialize)]
struct Summary<'a> {
    event: &'static str,
    whole: bool,
    run_ns: u64,
    #[serde(flatten)]
    stats: &'a PortStats,
}

/// Prints the counts at the end, of each interface.
pub fn print_summary(report: &RunReport, run: Duration, json: bool) {
    let whole = report.is_whole();
    for stats in report.stats.clone().into_ports() {
        if json {
            let run_ns = run.as_nanos() as u64;
            print_json(&Summary { event: "summary", whole, run_ns, stats: &stats });
            continue;
        }
        for line in text::summary(&stats, run, whole) {
            say!("{line}");
        }
    }
}

/// Prints what a capture counted.
pub fn print_capture(report: &CaptureReport, json: bool) {
    #[derive(Serialize)]
    struct Captured<'a> {
        event: &'static str,
        schema: u32,
        #[serde(flatten)]
        report: &'a CaptureReport,
    }
    if json {
        print_json(&Captured { event: "capture", schema: SCHEMA_VERSION, report });
        return;
    }
    let CaptureReport { seen, accepted, written, dropped, ended } = report;
    let late = if *ended { "" } else { "; still being written" };
    say!("capture: {seen} frames seen, {accepted} wanted = {written} written + {dropped} dropped{late}");
}

/// Prints a line.
pub fn print_line(line: &str) {
    say!("{line}");
}

/// Prints an object on a line.
pub fn print_json<T: Serialize>(object: &T) {
    match serde_json::to_string(object) {
        Ok(line) => say!("{line}"),
        // Only a map with keys that are no strings cannot be written, and there is none.
        Err(error) => complain!("netdext: cannot write JSON: {error}"),
    }
}

/// Whether somebody reads what is written to standard output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader {
    There,
    /// It closed its end, as `head` does.
    Gone,
}

/// Writes to standard output.
///
/// # Errors
///
/// It cannot be written, for another reason than that its reader is gone.
pub fn write_stdout(text: &[u8]) -> anyhow::Result<Reader> {
    use std::io::Write as _;
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(Reader::There),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(Reader::Gone),
        Err(error) => Err(error).context("write to standard output"),
    }
}
