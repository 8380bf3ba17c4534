//! What is printed: for people, or as JSON lines (docs/json.md).

use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::Duration;

use netdext::link::attachment::XdpHook;
use netdext::stats::{PortStats, SCHEMA_VERSION};
use netdext::supervisor::{RunConfig, RunInfo, RunReport};
use serde::Serialize;

/// Prints a line. Unlike `println!` it does not panic when nobody reads any more: the driver goes on.
macro_rules! say {
    ($($format:tt)*) => {{
        use std::io::Write as _;
        let mut stdout = std::io::stdout().lock();
        let _ = writeln!(stdout, $($format)*).and_then(|()| stdout.flush());
    }};
}

/// An error with its causes, on one line. A cause that the text before it already ends with is not said twice.
pub fn one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain() {
        let cause = cause.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
        if line.ends_with(&cause) {
            continue;
        }
        if !line.is_empty() {
            line.push_str(": ");
        }
        line.push_str(&cause);
    }
    line
}

/// That the driver is ready: the first line.
#[derive(Serialize)]
pub struct Ready<'a> {
    event: &'static str,
    schema: u32,
    iface: &'a str,
    driver: &'static str,
    mode: XdpHook,
    zero_copy: bool,
    queues: Vec<u32>,
    addresses: Vec<String>,
    enabled: bool,
    netns: Option<&'a str>,
    start_ns: u64,
    #[serde(skip)]
    native_refused: Option<&'a str>,
}

impl<'a> Ready<'a> {
    pub fn new(config: &'a RunConfig, info: &'a RunInfo, netns: Option<&'a str>, start: Duration) -> Self {
        Self {
            event: "ready",
            schema: SCHEMA_VERSION,
            iface: &info.device.name,
            driver: config.driver.name(),
            mode: info.attached.mode,
            zero_copy: info.queues.iter().all(|(_, socket)| socket.zero_copy),
            queues: info.queues.iter().map(|(queue, _)| *queue).collect(),
            addresses: config
                .addresses
                .iter()
                .map(|(address, length)| format!("{address}/{length}"))
                .collect(),
            enabled: info.enabled,
            netns,
            start_ns: start.as_nanos() as u64,
            native_refused: info.attached.native_refused.as_deref(),
        }
    }

    /// Prints it. `injector` is interval, batch and targets.
    pub fn print(&self, json: bool, injector: Option<(Duration, usize, &[IpAddr])>) {
        if json {
            print_json(self);
            return;
        }
        if let Some(reason) = self.native_refused {
            eprintln!("netdext: {} refuses native mode ({reason}); using skb mode", self.iface);
        }
        let copy = if self.zero_copy { "zero-copy" } else { "copy" };
        let queues = self.queues.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
        let mut line = format!(
            "ready: {} on {}, {} mode, {copy}, queue {queues}, addresses {}",
            self.driver,
            self.iface,
            self.mode,
            self.addresses.join(", ")
        );
        if let Some(first) = self.addresses.first().and_then(|address| address.split('/').next()) {
            let enter = self.netns.map(|name| format!("ip netns exec {name} ")).unwrap_or_default();
            let _ = write!(line, "; try: {enter}ping {first}");
        }
        say!("{line}");
        if let Some((interval, batch, targets)) = injector {
            let whom = match targets {
                [] => "the first neighbour heard".to_owned(),
                targets => targets.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(", "),
            };
            say!("injecting {batch} echo requests every {} to {whom}", humantime::format_duration(interval));
        }
        if !self.enabled {
            say!(
                "{} is down: the driver starts when it is set up (ip link set {} up)",
                self.iface,
                self.iface
            );
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

/// Prints the counts at the end.
pub fn print_summary(report: &RunReport, run: Duration, json: bool) {
    let stats = &report.stats;
    if json {
        print_json(&Summary {
            event: "summary",
            whole: report.is_whole(),
            run_ns: run.as_nanos() as u64,
            stats,
        });
        return;
    }
    let sum = |count: fn(&netdext::stats::QueueStats) -> u64| stats.queues.iter().map(count).sum::<u64>();
    say!("summary: {} on {}, {:.1} s", stats.driver, stats.iface, run.as_secs_f64());
    say!(
        "  received  {} frames, {} bytes; sent {} frames, {} bytes",
        sum(|q| q.rx_packets),
        sum(|q| q.rx_bytes),
        sum(|q| q.tx_packets),
        sum(|q| q.tx_bytes)
    );
    let answers = stats.verdicts.answers();
    print_named("answered", answers.iter().map(|(name, count)| (name, count)));
    print_named("handled", stats.counters.iter());
    print_named("dropped", stats.drops.iter());
    print_named("events", stats.events.iter());
    let accounting = &stats.accounting;
    say!(
        "  frames    offered {} = delivered {} + lost {} + residue {}",
        accounting.offered,
        accounting.delivered,
        accounting.lost,
        accounting.residue
    );
    if let Some(injector) = &stats.injector {
        say!(
            "  injector  sent {} = replies {} + lost {} + residue {}; late {}, duplicate {}, out of order {}",
            injector.sent,
            injector.replies,
            injector.lost,
            injector.residue,
            injector.late,
            injector.duplicates,
            injector.out_of_order
        );
        let us = |ns: u64| ns as f64 / 1000.0;
        let rtt = &injector.rtt_ns;
        if rtt.count > 0 {
            say!(
                "  RTT       p50 {:.1} us, p99 {:.1} us, p99.9 {:.1} us, max {:.1} us",
                us(rtt.p50),
                us(rtt.p99),
                us(rtt.p999),
                us(rtt.max)
            );
        }
    }
    let whole = if report.is_whole() { "none missing" } else { "FRAMES ARE MISSING" };
    say!("  pool      {}: {whole}", stats.census);
}

/// One line of named counts, without those that are zero; nothing if all are.
fn print_named<'a>(title: &str, counts: impl Iterator<Item = (&'a &'static str, &'a u64)>) {
    let counts: Vec<_> =
        counts.filter(|(_, count)| **count > 0).map(|(name, count)| format!("{name} {count}")).collect();
    if !counts.is_empty() {
        say!("  {title:9} {}", counts.join(", "));
    }
}

fn print_json<T: Serialize>(object: &T) {
    match serde_json::to_string(object) {
        Ok(line) => say!("{line}"),
        // Only a map with keys that are no strings cannot be written, and there is none.
        Err(error) => eprintln!("netdext: cannot write JSON: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_joined_on_one_line_and_said_once() {
        let error = anyhow::anyhow!("no\nroom").context("open x: no room").context("start");
        assert_eq!(one_line(&error), "start: open x: no room");
        let error = anyhow::anyhow!("no room").context("open x");
        assert_eq!(one_line(&error), "open x: no room");
    }
}
