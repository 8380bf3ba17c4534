//! The metrics of a driver in the JSON output.

use std::collections::BTreeMap;
use std::fmt;

use netdext::metrics::{Metric, Metrics, Percentiles};
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Name;

/// The names that the counts of every driver have: a group of such a name would hide them.
const TAKEN: [&str; 23] = [
    "accounting",
    "census",
    "counters",
    "driver",
    "drops",
    "event",
    "events",
    "iface",
    "latency_ns",
    "link",
    "losses",
    "metrics",
    "other_ports",
    "queues",
    "run_ns",
    "schema",
    "state",
    "timers",
    "tx_accounting",
    "uptime_ns",
    "verdicts",
    "violations",
    "whole",
];

/// A metric: its value, or its distribution. Which of the two numbers it is gets lost in the JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum MetricReport {
    /// Goes up only.
    Counter(u64),
    /// Goes up and down.
    Gauge(i64),
    /// A distribution.
    Histogram(Percentiles),
}

/// Metrics by name, in the order in which the driver gives them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MetricsReport(Vec<(Name, MetricReport)>);

impl MetricsReport {
    /// Each name with its metric.
    pub fn iter(&self) -> impl Iterator<Item = (&str, MetricReport)> + '_ {
        self.0.iter().map(|(name, metric)| (name.as_ref(), *metric))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The metric of that name.
    pub fn get(&self, name: &str) -> Option<MetricReport> {
        self.iter().find(|(known, _)| *known == name).map(|(_, metric)| metric)
    }

    /// The value of that name, if it is a number.
    pub fn number(&self, name: &str) -> Option<i64> {
        match self.get(name)? {
            MetricReport::Counter(count) => i64::try_from(count).ok(),
            MetricReport::Gauge(value) => Some(value),
            MetricReport::Histogram(_) => None,
        }
    }

    /// The distribution of that name.
    pub fn histogram(&self, name: &str) -> Option<Percentiles> {
        match self.get(name)? {
            MetricReport::Histogram(values) => Some(values),
            MetricReport::Counter(_) | MetricReport::Gauge(_) => None,
        }
    }
}

impl From<&Metrics> for MetricsReport {
    fn from(metrics: &Metrics) -> Self {
        let report = |metric: &Metric| match metric {
            Metric::Counter(count) => Some(MetricReport::Counter(*count)),
            Metric::Gauge(value) | Metric::Maximum(value) => Some(MetricReport::Gauge(*value)),
            Metric::Histogram(values) => Some(MetricReport::Histogram(values.into())),
            // Of a newer netdext, which would have been built with this.
            _ => None,
        };
        Self(metrics.iter().filter_map(|(name, metric)| Some((name.into(), report(metric)?))).collect())
    }
}

impl Serialize for MetricsReport {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

impl<'de> Deserialize<'de> for MetricsReport {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;

        impl<'de> Visitor<'de> for Entries {
            type Value = MetricsReport;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("metrics by name")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<MetricsReport, A::Error> {
                let mut entries = Vec::new();
                while let Some((name, metric)) = map.next_entry::<String, _>()? {
                    entries.push((name.into(), metric));
                }
                Ok(MetricsReport(entries))
            }
        }

        deserializer.deserialize_map(Entries)
    }
}

/// The groups of a driver. One that would hide what every driver has gets another name.
pub(super) fn groups(groups: &[(&'static str, Metrics)]) -> BTreeMap<Name, MetricsReport> {
    let free = |name: &'static str| -> Name {
        if TAKEN.contains(&name) { format!("driver_{name}").into() } else { name.into() }
    };
    groups.iter().map(|(name, metrics)| (free(name), metrics.into())).collect()
}

/// Reads the groups among what else there is: what a newer netdext adds may have another shape.
pub(super) fn read_groups<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<Name, MetricsReport>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Entry {
        Group(MetricsReport),
        Other(IgnoredAny),
    }
    let all = BTreeMap::<String, Entry>::deserialize(deserializer)?;
    let group = |(name, entry): (String, Entry)| match entry {
        Entry::Group(metrics) => Some((name.into(), metrics)),
        Entry::Other(IgnoredAny) => None,
    };
    Ok(all.into_iter().filter_map(group).collect())
}

#[cfg(test)]
mod tests {
    use netdext::metrics::Metrics;

    use super::*;
    use crate::stats::PortStats;
    use crate::xdp::steering::ProgramCounters;

    #[test]
    fn a_group_hides_nothing_that_every_driver_has() {
        let stats = PortStats::collect("veth0", "sample", ProgramCounters::default(), &[]);
        let json = serde_json::to_value(&stats).unwrap();
        for name in json.as_object().unwrap().keys() {
            assert!(TAKEN.contains(&name.as_str()), "{name} can be hidden");
        }
        let metrics = Metrics::default().counter("sent", 1);
        let groups = groups(&[("census", metrics.clone()), ("injector", metrics)]);
        assert_eq!(groups.keys().map(AsRef::as_ref).collect::<Vec<_>>(), ["driver_census", "injector"]);
    }

    #[test]
    fn what_is_no_group_is_passed_over() {
        let stats = PortStats::collect("veth0", "sample", ProgramCounters::default(), &[]);
        let mut json = serde_json::to_value(&stats).unwrap();
        json["mood"] = "good".into();
        json["injector"] = serde_json::json!({"sent": 3, "rate": -2});
        let read: PortStats = serde_json::from_value(json).unwrap();
        assert_eq!(read.groups.len(), 1);
        assert_eq!(read.groups["injector"].number("rate"), Some(-2));
        let text = serde_json::to_string(&read)
            .unwrap()
            .replace(r#"{"rate":-2,"sent":3}"#, r#"{"sent":3,"rate":-2}"#);
        let read: PortStats = serde_json::from_str(&text).unwrap();
        assert_eq!(
            read.groups["injector"].iter().map(|(name, _)| name).collect::<Vec<_>>(),
            ["sent", "rate"]
        );
    }
}
