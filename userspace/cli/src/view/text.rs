//! Counts as text, for `netdext stats` and the summary of `netdext run`.

use std::time::Duration;

use super::format::{nanos, si, uptime};
use super::rates::{Rates, not_zero};
use super::table::Table;
use netdext::driver::lifecycle::State;
use netdext::metrics::{Percentiles, Unit};
use netdext_host::stats::{Accounting, MetricReport, MetricsReport, PortStats, QueueStats, TxAccounting};

/// What there is to say when every netdext answers and none has a driver.
pub const NO_DRIVER: &str = "no driver is running: start one with `netdext run` or `netdext install`";

/// A state in lower case, as in the JSON: `powered off` instead of `powered_off`.
pub fn state(state: State) -> &'static str {
    match state {
        State::Created => "created",
        State::Ready => "ready",
        State::PoweredOff => "powered off",
        State::Idle => "idle",
        State::Running => "running",
        State::Asleep => "asleep",
        State::Failed => "failed",
        State::Stopped => "stopped",
    }
}

/// Where the frames for the driver went: `offered 26 = delivered 26 + lost 0 + residue 0`.
pub fn accounting(accounting: &Accounting) -> String {
    let Accounting { offered, delivered, lost, residue, .. } = accounting;
    format!("offered {offered} = delivered {delivered} + lost {lost} + residue {residue}")
}

/// Where the frames that the XDP program judged went.
pub fn judged(accounting: &Accounting) -> String {
    let Accounting { seen, offered, answered, dropped, kernel, .. } = accounting;
    format!("seen {seen} = offered {offered} + answered {answered} + dropped {dropped} + kernel {kernel}")
}

/// Where the frames that the driver sent went.
pub fn sent(accounting: &TxAccounting) -> String {
    let TxAccounting { submitted, completed, in_flight, lost, residue } = accounting;
    format!(
        "submitted {submitted} = completed {completed} + in flight {in_flight} + lost {lost} + residue {residue}"
    )
}

/// The numbers among metrics, each with its unit: `sent 24, sending 1.02 s`.
pub fn numbers(metrics: &MetricsReport) -> String {
    list(metrics.iter().filter_map(|(name, metric)| {
        let (unit, base) = Unit::of(name);
        let number = match metric {
            MetricReport::Counter(value) => value as f64,
            MetricReport::Gauge(value) => value as f64,
            MetricReport::Histogram(_) => return None,
        };
        Some(format!("{base} {}", with_unit(number, unit)))
    }))
}

/// A value in the unit of its name, for people.
pub fn with_unit(value: f64, unit: Unit) -> String {
    match unit {
        Unit::Nanoseconds if value >= 0.0 => nanos(value as u64),
        Unit::Bytes => format!("{value} B"),
        Unit::PacketsPerSecond => format!("{}/s", si(value)),
        _ => value.to_string(),
    }
}

/// The groups of metrics, each with its name; what belongs to none is called `metrics`.
pub fn groups(stats: &PortStats) -> impl Iterator<Item = (&str, &MetricsReport)> {
    let own = (!stats.metrics.is_empty()).then_some(("metrics", &stats.metrics));
    own.into_iter().chain(stats.groups.iter().map(|(name, metrics)| (name.as_ref(), metrics)))
}

/// A distribution with its name and its unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Distribution {
    /// Its name, without the unit.
    pub name: String,
    /// Its unit.
    pub unit: Unit,
    /// Its values.
    pub values: Percentiles,
}

/// The distributions that there are: what the driver measures, and the stages inside.
pub fn distributions(stats: &PortStats) -> Vec<Distribution> {
    let own = groups(stats).flat_map(|(group, metrics)| {
        metrics.iter().filter_map(move |(name, metric)| {
            let MetricReport::Histogram(values) = metric else { return None };
            let (unit, base) = Unit::of(name);
            let group = if group == "metrics" { String::new() } else { format!("{group} ") };
            Some(Distribution { name: format!("{group}{}", base.replace('_', " ")), unit, values })
        })
    });
    let stages = stats.latency_ns.iter().flat_map(|latency| {
        [
            ("XDP to driver", latency.xdp_to_user),
            ("driver to tx", latency.user_to_tx),
            ("tx to done", latency.tx_to_completion),
        ]
    });
    let stages = stages.filter(|(_, values)| values.count > 0).map(|(name, values)| Distribution {
        name: name.to_owned(),
        unit: Unit::Nanoseconds,
        values,
    });
    // Of what the driver measures it is worth knowing that there was nothing yet.
    own.chain(stages).collect()
}

/// All counts of one driver, as lines; with `rates` also what happened per second since the last time.
pub fn lines(stats: &PortStats, rates: Option<&Rates>) -> Vec<String> {
    let up =
        stats.uptime_ns.map(|ns| format!(", up {}", uptime(Duration::from_nanos(ns)))).unwrap_or_default();
    let mut lines = vec![format!("{} on {}: {}{up}", stats.driver, stats.iface, state(stats.state))];
    lines.extend(below(stats, rates, stats.census.is_whole()));
    lines
}

/// All counts of a driver that has ended, as lines. `whole` says whether no frame is missing, also on a queue that left no
/// report.
pub fn summary(stats: &PortStats, run: Duration, whole: bool) -> Vec<String> {
    let mut lines = vec![format!("summary: {} on {}, {:.1} s", stats.driver, stats.iface, run.as_secs_f64())];
    lines.extend(below(stats, None, whole));
    lines
}

fn below(stats: &PortStats, rates: Option<&Rates>, whole: bool) -> Vec<String> {
    let mut lines = queues(stats).lines("  ");
    if let Some(rates) = rates {
        lines.extend(queue_rates(stats, rates).lines("  "));
    }
    lines.push(named("frames", &accounting(&stats.accounting)));
    lines.push(named("", &judged(&stats.accounting)));
    lines.push(named("", &sent(&stats.tx_accounting)));
    lines.push(named(
        "verdicts",
        &counts(stats.verdicts.iter().map(|(counter, count)| (counter.name(), count))),
    ));
    lines.push(named("handled", &counts(stats.counters.iter().map(|(name, count)| (name.as_ref(), *count)))));
    lines.push(named("dropped", &counts(stats.drops.iter().map(|(name, count)| (name.as_ref(), *count)))));
    lines.push(named("lost", &counts(stats.losses.iter().map(|(name, count)| (name.as_ref(), *count)))));
    lines.push(named("events", &counts(stats.events.iter().map(|(name, count)| (name.as_ref(), *count)))));
    if let Some(rates) = rates {
        lines.push(named(
            "drops/s",
            &per_second(rates.drops.iter().map(|(name, rate)| (name.as_ref(), *rate))),
        ));
        lines.push(named("verdicts/s", &per_second(rates.verdicts.iter().copied())));
    }
    for (name, metrics) in groups(stats) {
        lines.push(named(name, &numbers(metrics)));
    }
    let whole = if whole { "none missing" } else { "FRAMES ARE MISSING" };
    lines.push(named("pool", &format!("{}: {whole}", stats.census)));
    if stats.violations > 0 {
        lines.push(named("kernel", &format!("{} descriptors returned wrongly", stats.violations)));
    }
    let distributions = distributions(stats);
    if !distributions.is_empty() {
        lines.extend(distribution_table(&distributions).lines("  "));
    }
    lines
}

fn named(title: &str, text: &str) -> String {
    format!("  {title:10} {text}")
}

/// `name count, name count` of what is not 0.
fn counts<'a>(counts: impl Iterator<Item = (&'a str, u64)>) -> String {
    list(not_zero(counts).map(|(name, count)| format!("{name} {count}")))
}

fn per_second<'a>(rates: impl Iterator<Item = (&'a str, f64)>) -> String {
    list(rates.map(|(name, rate)| format!("{name} {}", si(rate))))
}

fn list(items: impl Iterator<Item = String>) -> String {
    let items: Vec<_> = items.collect();
    if items.is_empty() { "none".to_owned() } else { items.join(", ") }
}

fn queues(stats: &PortStats) -> Table {
    let mut table = Table::new(&[
        "queue",
        "rx packets",
        "rx bytes",
        "tx packets",
        "tx bytes",
        "fill level",
        "tx in flight",
        "tx errors",
    ]);
    let mut row = |name: String, queues: &[QueueStats]| {
        let sum = |count: fn(&QueueStats) -> u64| queues.iter().map(count).sum::<u64>().to_string();
        table.row([
            name,
            sum(|q| q.rx_packets),
            sum(|q| q.rx_bytes),
            sum(|q| q.tx_packets),
            sum(|q| q.tx_bytes),
            sum(|q| q.fill_level.into()),
            sum(|q| q.tx_in_flight),
            sum(|q| q.tx_errors.values().sum()),
        ]);
    };
    for queue in &stats.queues {
        row(queue.id.to_string(), std::slice::from_ref(queue));
    }
    if stats.queues.len() > 1 {
        row("all".to_owned(), &stats.queues);
    }
    table
}

fn queue_rates(stats: &PortStats, rates: &Rates) -> Table {
    let mut table = Table::new(&["queue", "rx packet/s", "rx bit/s", "tx packet/s", "tx bit/s"]);
    let each = stats.queues.iter().map(|queue| queue.id.to_string()).zip(&rates.queues);
    let total = (stats.queues.len() > 1).then(|| ("all".to_owned(), &rates.total));
    for (name, rates) in each.chain(total) {
        table.row([name, si(rates.rx_pps), si(rates.rx_bps), si(rates.tx_pps), si(rates.tx_bps)]);
    }
    table
}

fn distribution_table(distributions: &[Distribution]) -> Table {
    let mut table = Table::new(&["distribution", "count", "min", "p50", "p99", "p99.9", "max"]);
    for Distribution { name, unit, values } in distributions {
        let Percentiles { count, min, p50, p99, p999, max } = *values;
        let shown = |value| if count > 0 { with_unit(value as f64, *unit) } else { "-".to_owned() };
        let values = [min, p50, p99, p999, max].map(shown);
        table.row([name.clone(), count.to_string()].into_iter().chain(values));
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::testing::stats;

    #[test]
    fn the_counts_of_a_driver_are_a_table_and_a_line_for_each_kind() {
        assert_eq!(
            lines(&stats(), None).join("\n"),
            "\
sample on veth0: running, up 00:01:12
  queue  rx packets  rx bytes  tx packets  tx bytes  fill level  tx in flight  tx errors
  0              25      2436          26      2500        2048             0          0
  1               1        60           0         0        2048             3          0
  all            26      2496          26      2500        4096             3          0
  frames     offered 26 = delivered 26 + lost 0 + residue 0
             seen 26 = offered 26 + answered 0 + dropped 0 + kernel 0
             submitted 26 = completed 23 + in flight 3 + lost 0 + residue 0
  verdicts   driver_echo4_request 26
  handled    echo4_answered 26
  dropped    pool_empty 3
  lost       none
  events     none
  injector   sent 24, replies 24, residue 0, sending 1.02 s
  pool       free 8000 + user 0 + rx lent 192 + tx lent 0 + quarantined 0 of 8192: none missing
  distribution    count      min      p50     p99   p99.9     max
  injector rtt       24  60.0 us  81.2 us  307 us  307 us  307 us
  injector sizes      2     60 B     60 B  1500 B  1500 B  1500 B"
        );
    }

    #[test]
    fn rates_are_a_second_table_and_lines_of_their_own() {
        let before = stats();
        let mut after = stats();
        after.queues[0].rx_packets += 3000;
        *after.drops.get_mut("pool_empty").unwrap() += 8;
        let rates = Rates::between(&before, &after, Duration::from_secs(2)).unwrap();
        let text = lines(&after, Some(&rates)).join("\n");
        assert!(text.contains("  queue  rx packet/s  rx bit/s  tx packet/s  tx bit/s\n"), "{text}");
        assert!(text.contains("\n  0            1.50k         0            0         0\n"), "{text}");
        assert!(text.contains("\n  drops/s    pool_empty 4\n"), "{text}");
        assert!(text.contains("\n  verdicts/s none\n"), "{text}");
    }

    #[test]
    fn a_pool_with_a_frame_too_few_says_so() {
        let mut stats = stats();
        stats.census.free -= 1;
        stats.violations = 2;
        let text = lines(&stats, None).join("\n");
        assert!(text.contains("8192: FRAMES ARE MISSING"), "{text}");
        assert!(text.contains("kernel     2 descriptors returned wrongly"), "{text}");
    }

    #[test]
    fn a_summary_has_the_same_lines_and_knows_of_missing_frames() {
        let mut stats = stats();
        let generator = r#"{"sent": 2000, "sending_ns": 500000000, "rate_pps": 4000,
            "pacing_error_ns": {"count": 2000, "min": 0, "p50": 7000, "p99": 7000, "p999": 7000, "max": 7000}}"#;
        stats.groups.insert("generator".into(), serde_json::from_str(generator).expect("metrics"));
        let text = summary(&stats, Duration::from_millis(12_340), false);
        assert_eq!(text[0], "summary: sample on veth0, 12.3 s");
        let below = text[1..].join("\n");
        assert_eq!(below, lines(&stats, None)[1..].join("\n").replace("none missing", "FRAMES ARE MISSING"));
        assert!(below.contains("  generator  sent 2000, sending 500 ms, rate 4.00k/s\n"), "{below}");
        assert!(below.contains("  generator pacing error   2000     0 ns  7.00 us"), "{below}");
    }

    #[test]
    fn a_state_reads_as_in_the_json() {
        for one in [State::Created, State::PoweredOff, State::Running, State::Asleep, State::Stopped] {
            let json = serde_json::to_value(one).unwrap();
            assert_eq!(json.as_str().unwrap().replace('_', " "), state(one));
        }
    }
}
