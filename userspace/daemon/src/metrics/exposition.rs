//! The counts of drivers as OpenMetrics text.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, text};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::metrics::{MetricType, TypedMetric};
use prometheus_client::registry::{self, Registry};

use netdext::metrics::{Percentiles, Unit};
use netdext::packet::Census;
use netdext_host::stats::{LatencyReport, MetricReport, Name, PortStats, QueueStats};

/// The counts of drivers as OpenMetrics text, its end included. docs/observing.md lists the names.
pub fn exposition(drivers: Vec<PortStats>) -> String {
    let mut registry = Registry::default();
    let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
    registry.register("netdext_build", "The netdext that runs", build);
    registry.register_collector(Box::new(Drivers(drivers)));
    let mut out = String::new();
    // Writing to a string does not fail.
    let _ = text::encode(&mut out, &registry);
    out
}

#[derive(Debug)]
struct Drivers(Vec<PortStats>);

/// A label: name and value.
type Label<'a> = (&'static str, &'a str);

/// Values of one driver, each with its further labels.
type Values<V> = Vec<(Vec<(&'static str, String)>, V)>;

/// One value of one driver with its further labels.
struct Series<'a, V> {
    labels: Vec<(&'static str, String)>,
    value: V,
    driver: &'a PortStats,
}

impl Collector for Drivers {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let taken = ["netdext_build", "netdext_build_info"].map(str::to_owned).into();
        let mut out = Out { encoder, drivers: &self.0, taken };
        out.queues()?;
        out.named()?;
        out.pool()?;
        out.link()?;
        out.latency()?;
        out.timers()?;
        out.own()
    }
}

struct Out<'e, 'd> {
    encoder: DescriptorEncoder<'e>,
    drivers: &'d [PortStats],
    /// Every name that stands in the text, those of the samples among them.
    taken: BTreeSet<String>,
}

impl Out<'_, '_> {
    fn queues(&mut self) -> fmt::Result {
        type Count = (&'static str, &'static str, fn(&QueueStats) -> u64);
        const COUNTERS: [Count; 8] = [
            ("netdext_rx_packets", "Frames received over the rx ring", |q| q.rx_packets),
            ("netdext_rx_bytes", "Bytes received over the rx ring", |q| q.rx_bytes),
            ("netdext_tx_packets", "Frames submitted to the tx ring", |q| q.tx_packets),
            ("netdext_tx_bytes", "Bytes submitted to the tx ring", |q| q.tx_bytes),
            ("netdext_fill_low_water", "Times the fill ring was found below a quarter", |q| q.fill_low_water),
            ("netdext_tx_wakeups", "System calls to wake the kernel for the tx ring", |q| q.tx_wakeups),
            ("netdext_tx_realigned", "Packets whose data was moved before sending", |q| q.tx_realigned),
            ("netdext_tx_stuck", "Times completions failed to appear", |q| q.tx_stuck),
        ];
        const GAUGES: [Count; 2] = [
            ("netdext_fill_level", "Frames in the fill ring", |q| u64::from(q.fill_level)),
            ("netdext_tx_in_flight", "Frames submitted and not yet completed", |q| q.tx_in_flight),
        ];
        let per_queue = |count: fn(&QueueStats) -> u64| {
            move |stats: &PortStats| {
                let queues = stats.queues.iter();
                queues.map(|queue| (vec![("queue", queue.id.to_string())], count(queue))).collect()
            }
        };
        for (name, help, count) in COUNTERS {
            self.counter(name, help, per_queue(count))?;
        }
        for (name, help, count) in GAUGES {
            self.gauge(name, help, per_queue(count))?;
        }
        self.counter("netdext_tx_errors", "System calls for the tx ring that failed, by errno", |stats| {
            let errors = stats.queues.iter().flat_map(|queue| {
                queue.tx_errors.iter().map(|(errno, count)| {
                    (vec![("queue", queue.id.to_string()), ("errno", errno.clone())], *count)
                })
            });
            errors.collect()
        })
    }

    fn named(&mut self) -> fmt::Result {
        self.counter("netdext_verdicts", "Frames by the verdict of the XDP program", |stats| {
            let verdicts = stats.verdicts.iter();
            verdicts.map(|(verdict, count)| (vec![("verdict", verdict.name().to_owned())], count)).collect()
        })?;
        self.counter("netdext_handled", "Received frames by what the driver did with them", |stats| {
            by_name("action", stats.counters.iter())
        })?;
        self.counter("netdext_drops", "Frames refused or lost, by cause", |stats| {
            by_name("cause", stats.drops.iter())
        })?;
        self.counter("netdext_losses", "Frames lost outside the driver, by cause", |stats| {
            by_name("cause", stats.losses.iter())
        })?;
        self.counter("netdext_events", "What else the driver counted", |stats| {
            by_name("event", stats.events.iter())
        })?;
        self.counter("netdext_violations", "Descriptors that the kernel returned wrongly", |stats| {
            alone(stats.violations)
        })?;
        self.gauge("netdext_running", "1 if the driver is running, enabled and powered on", |stats| {
            alone(u64::from(stats.state.is_running()))
        })
    }

    fn pool(&mut self) -> fmt::Result {
        self.gauge("netdext_pool_frames", "Frames of the packet pools by owner", |stats| {
            let Census { free, user, rx_lent, tx_lent, quarantined, capacity: _ } = stats.census;
            [
                ("free", free),
                ("user", user),
                ("rx_lent", rx_lent),
                ("tx_lent", tx_lent),
                ("quarantined", quarantined),
            ]
            .map(|(owner, count)| (vec![("owner", owner.to_owned())], u64::from(count)))
            .into()
        })?;
        self.gauge("netdext_residue", "Frames that no count explains", |stats| {
            [("rx", stats.accounting.residue), ("tx", stats.tx_accounting.residue)]
                .map(|(direction, residue)| (vec![("direction", direction.to_owned())], residue))
                .into()
        })
    }

    fn link(&mut self) -> fmt::Result {
        self.counter(
            "netdext_link_dropped",
            "Frames that the kernel counts as dropped by the link",
            |stats| {
                let ends = stats.link.iter().flat_map(|link| {
                    [("device", Some(link.device)), ("peer", link.peer)]
                        .into_iter()
                        .filter_map(|(end, counters)| Some((end, counters?)))
                });
                ends.flat_map(|(end, counters)| {
                    [("rx", counters.rx_dropped), ("tx", counters.tx_dropped)].map(|(direction, count)| {
                        (vec![("end", end.to_owned()), ("direction", direction.to_owned())], count)
                    })
                })
                .collect()
            },
        )
    }

    /// What the drivers measure themselves. Metrics of one name are of one kind and unit: those of another are left out.
    fn own(&mut self) -> fmt::Result {
        let mut families = BTreeMap::<String, Family<'_>>::new();
        for driver in self.drivers {
            let own = (driver.driver.as_ref(), &driver.metrics);
            let groups = driver.groups.iter().map(|(name, metrics)| (name.as_ref(), metrics));
            for (whole, metrics) in std::iter::once(own).chain(groups) {
                for (name, metric) in metrics.iter() {
                    let family = Family::of(whole, name, metric);
                    let (kind, unit) = (family.kind, family.unit);
                    let known =
                        families.entry(exposed(&family.name, family.suffix().as_ref())).or_insert(family);
                    if (known.kind, known.unit) == (kind, unit) {
                        known.values.push((driver, metric));
                    }
                }
            }
        }
        families.into_values().try_for_each(|family| self.family(&family))
    }

    fn family(&mut self, family: &Family<'_>) -> fmt::Result {
        let Family { name, help, unit, kind, values } = family;
        let suffix = family.suffix();
        let scaled = |value: f64| if *unit == Unit::Nanoseconds { value / 1e9 } else { value };
        match kind {
            Kind::Counter if *unit == Unit::Nanoseconds => {
                let series = of_metrics(values, |metric| match metric {
                    MetricReport::Counter(count) => vec![(Vec::new(), scaled(count as f64))],
                    _ => Vec::new(),
                });
                self.encode(name, help, suffix.as_ref(), series, ConstCounter::new)
            }
            Kind::Counter => {
                let series = of_metrics(values, |metric| match metric {
                    MetricReport::Counter(count) => vec![(Vec::new(), count)],
                    _ => Vec::new(),
                });
                self.encode(name, help, suffix.as_ref(), series, ConstCounter::new)
            }
            Kind::Gauge => {
                let series = of_metrics(values, |metric| match metric {
                    MetricReport::Gauge(value) => vec![(Vec::new(), scaled(value as f64))],
                    _ => Vec::new(),
                });
                self.encode(name, help, suffix.as_ref(), series, ConstGauge::new)
            }
            Kind::Histogram => {
                let distribution = |metric| match metric {
                    MetricReport::Histogram(percentiles) => Some(percentiles),
                    _ => None,
                };
                let series = of_metrics(values, |metric| {
                    let found = distribution(metric);
                    let values = found.iter().flat_map(|values| quantiles(values, None));
                    values.map(|(labels, value)| (labels, scaled(value as f64))).collect()
                });
                self.encode(name, help, suffix.as_ref(), series, ConstGauge::new)?;
                let series = of_metrics(values, |metric| {
                    distribution(metric).iter().map(|values| (Vec::new(), values.count)).collect()
                });
                let (name, help) =
                    (format!("{name}_recorded"), format!("How many values of {name} there are"));
                self.encode(&name, &help, None, series, ConstCounter::new)
            }
        }
    }

    /// Writes a family, unless one of its names stands in the text already: a scrape with a name twice is refused as a
    /// whole.
    fn encode<V, M: EncodeMetric + TypedMetric>(
        &mut self,
        name: &str,
        help: &str,
        suffix: Option<&registry::Unit>,
        series: Vec<Series<'_, V>>,
        metric: impl Fn(V) -> M,
    ) -> fmt::Result {
        let full = exposed(name, suffix);
        let samples: &[&str] =
            if matches!(M::TYPE, MetricType::Counter) { &["_total", "_created"] } else { &[] };
        let names: Vec<_> =
            std::iter::once("").chain(samples.iter().copied()).map(|end| format!("{full}{end}")).collect();
        if names.iter().any(|name| self.taken.contains(name)) {
            return Ok(());
        }
        self.taken.extend(names);
        each(self.encoder.encode_descriptor(name, help, suffix, M::TYPE)?, series, metric)
    }

    fn latency(&mut self) -> fmt::Result {
        self.seconds("netdext_latency", "Time that frames take from stage to stage", |stats| {
            stages(stats).flat_map(|(stage, times)| quantiles(&times, Some(("stage", stage)))).collect()
        })?;
        self.counter(
            "netdext_latency_frames",
            "Frames that the times from stage to stage stand for",
            |stats| {
                stages(stats).map(|(stage, times)| (vec![("stage", stage.to_owned())], times.count)).collect()
            },
        )
    }

    fn timers(&mut self) -> fmt::Result {
        type Count = (&'static str, &'static str, fn(&netdext::dispatch::TimerStats) -> u64);
        const COUNTERS: [Count; 3] = [
            ("netdext_timer_fired", "Timer ticks delivered", |t| t.fired),
            ("netdext_timer_late", "Timer ticks delivered late", |t| t.late),
            ("netdext_timer_skipped", "Timer ticks given up", |t| t.skipped),
        ];
        for (name, help, count) in COUNTERS {
            self.counter(name, help, move |stats| {
                let timers = stats.timers.iter();
                timers.map(|(timer, t)| (vec![("timer", timer.to_string())], count(t))).collect()
            })?;
        }
        Ok(())
    }

    fn counter(&mut self, name: &str, help: &str, values: impl Fn(&PortStats) -> Values<u64>) -> fmt::Result {
        let series = all(self.drivers, values);
        self.encode(name, help, None, series, ConstCounter::new)
    }

    fn gauge<V>(&mut self, name: &str, help: &str, values: impl Fn(&PortStats) -> Values<V>) -> fmt::Result
    where
        V: Number,
    {
        let series = all(self.drivers, values);
        self.encode(name, help, None, series, |value| ConstGauge::new(value.into_i64()))
    }

    fn seconds(&mut self, name: &str, help: &str, values: impl Fn(&PortStats) -> Values<u64>) -> fmt::Result {
        let series = all(self.drivers, values);
        let seconds = |nanos| ConstGauge::new(nanos as f64 / 1e9);
        self.encode(name, help, Some(&registry::Unit::Seconds), series, seconds)
    }
}

/// The name of a family with its unit, as it stands in the text.
fn exposed(name: &str, suffix: Option<&registry::Unit>) -> String {
    suffix.map_or_else(|| name.to_owned(), |suffix| format!("{name}_{}", suffix.as_str()))
}

/// Metrics of one name that drivers have themselves.
struct Family<'d> {
    name: String,
    help: String,
    unit: Unit,
    kind: Kind,
    values: Vec<(&'d PortStats, MetricReport)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
}

impl Kind {
    fn of(metric: MetricReport) -> Self {
        match metric {
            MetricReport::Counter(_) => Self::Counter,
            MetricReport::Gauge(_) => Self::Gauge,
            MetricReport::Histogram(_) => Self::Histogram,
        }
    }
}

impl Family<'_> {
    /// An empty one for a metric of `whole`: a driver, or a group of its metrics.
    fn of(whole: &str, name: &str, metric: MetricReport) -> Self {
        let (unit, base) = Unit::of(name);
        let word = |text: &str| text.replace(|c: char| !c.is_ascii_alphanumeric(), "_");
        Self {
            name: format!("netdext_{}_{}", word(whole), word(base)),
            help: format!("{} of {}, as the driver measures it", word(base).replace('_', " "), word(whole)),
            unit,
            kind: Kind::of(metric),
            values: Vec::new(),
        }
    }

    /// The unit that stands at the end of its name.
    fn suffix(&self) -> Option<registry::Unit> {
        match self.unit {
            Unit::Nanoseconds => Some(registry::Unit::Seconds),
            Unit::Bytes => Some(registry::Unit::Bytes),
            Unit::PacketsPerSecond => Some(registry::Unit::Other("pps".to_owned())),
            _ => None,
        }
    }
}

fn of_metrics<'d, V>(
    values: &[(&'d PortStats, MetricReport)],
    series: impl Fn(MetricReport) -> Values<V>,
) -> Vec<Series<'d, V>> {
    let each = |&(driver, metric): &(&'d PortStats, MetricReport)| {
        series(metric)
            .into_iter()
            .map(move |(labels, value)| Series { labels, value, driver })
            .collect::<Vec<_>>()
    };
    values.iter().flat_map(each).collect()
}

/// What a gauge can be made of here.
trait Number {
    fn into_i64(self) -> i64;
}

impl Number for u64 {
    fn into_i64(self) -> i64 {
        i64::try_from(self).unwrap_or(i64::MAX)
    }
}

impl Number for i64 {
    fn into_i64(self) -> i64 {
        self
    }
}

fn all<'a, V>(drivers: &'a [PortStats], values: impl Fn(&PortStats) -> Values<V>) -> Vec<Series<'a, V>> {
    let series =
        |driver| values(driver).into_iter().map(move |(labels, value)| Series { labels, value, driver });
    drivers.iter().flat_map(series).collect()
}

fn each<V, M: EncodeMetric>(
    mut metric: MetricEncoder<'_>,
    series: Vec<Series<'_, V>>,
    encode: impl Fn(V) -> M,
) -> fmt::Result {
    // A driver can have a name twice, and names that differ only in what no metric's name can have.
    let mut seen = BTreeSet::new();
    for Series { labels, value, driver } in series {
        if !seen.insert((&driver.iface, &driver.driver, labels.clone())) {
            continue;
        }
        let mut all: Vec<Label<'_>> = vec![("iface", &driver.iface), ("driver", &driver.driver)];
        all.extend(labels.iter().map(|(name, value)| (*name, value.as_str())));
        encode(value).encode(metric.encode_family(&all)?)?;
    }
    Ok(())
}

fn alone<V>(value: V) -> Values<V> {
    vec![(Vec::new(), value)]
}

fn by_name<'a>(label: &'static str, counts: impl Iterator<Item = (&'a Name, &'a u64)>) -> Values<u64> {
    counts.map(|(name, count)| (vec![(label, name.to_string())], *count)).collect()
}

fn stages(stats: &PortStats) -> impl Iterator<Item = (&'static str, Percentiles)> {
    stats.latency_ns.iter().flat_map(|latency| {
        let LatencyReport { xdp_to_user, user_to_tx, tx_to_completion } = *latency;
        [("xdp_to_user", xdp_to_user), ("user_to_tx", user_to_tx), ("tx_to_completion", tx_to_completion)]
    })
}

/// The percentiles as values with a label; none if nothing was recorded.
fn quantiles(times: &Percentiles, label: Option<Label<'_>>) -> Values<u64> {
    let Percentiles { count, min, p50, p99, p999, max } = *times;
    if count == 0 {
        return Vec::new();
    }
    [("0", min), ("0.5", p50), ("0.99", p99), ("0.999", p999), ("1", max)]
        .map(|(quantile, time)| {
            let mut labels: Vec<_> = label.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
            labels.push(("quantile", quantile.to_owned()));
            (labels, time)
        })
        .into()
}
