//! What a driver measures and shows: counters, gauges, distributions.
//!
//! A metric has a name, and its unit is the name's ending, as everywhere in the JSON output: `_ns`, `_bytes`, `_pps`,
//! and none for a count. The name is given once; `netdext stats`, `top`, the JSON and the metrics for Prometheus follow
//! from it.
//!
//! ```
//! use netdext::metrics::{Histogram, Metrics};
//!
//! let mut sizes = Histogram::new();
//! sizes.record(60);
//! let metrics = Metrics::default().gauge("peers", 2).histogram("sizes_bytes", &sizes);
//! assert_eq!(metrics.iter().map(|(name, _)| name).collect::<Vec<_>>(), ["peers", "sizes_bytes"]);
//! ```

use serde::{Deserialize, Serialize};

/// What a value counts, as the end of its name says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unit {
    /// Things: no ending.
    Count,
    /// Nanoseconds: `_ns`.
    Nanoseconds,
    /// Bytes: `_bytes`.
    Bytes,
    /// Packets a second: `_pps`.
    PacketsPerSecond,
}

impl Unit {
    /// The unit of a metric of this name, and the name without its ending.
    pub fn of(name: &str) -> (Self, &str) {
        let units = [("_ns", Self::Nanoseconds), ("_bytes", Self::Bytes), ("_pps", Self::PacketsPerSecond)];
        let found = units.into_iter().find_map(|(ending, unit)| Some((unit, name.strip_suffix(ending)?)));
        found.unwrap_or((Self::Count, name))
    }
}

/// The largest value that is told apart: a minute in ns.
const LARGEST: u64 = 60_000_000_000;

/// The distribution of values from 0 on, exact to three digits, or to as many as are asked for.
///
/// Values above 60,000,000,000, a minute in ns, count as that, so that recording never allocates. With three digits it
/// takes some 200 KiB, with two some 30 KiB, which are copied at every look at the counts.
#[derive(Clone, Debug)]
pub struct Histogram {
    // Wrapped, so that hdrhistogram is nobody's interface.
    values: hdrhistogram::Histogram<u64>,
}

impl Default for Histogram {
    fn default() -> Self {
        Self::new()
    }
}

impl Histogram {
    /// An empty one with three significant digits.
    pub fn new() -> Self {
        Self::with_digits(3)
    }

    /// An empty one with so many significant digits, of which there are 1 to 5: each takes ten times the memory of the
    /// one before.
    pub fn with_digits(digits: u8) -> Self {
        let values = hdrhistogram::Histogram::new_with_bounds(1, LARGEST, digits.clamp(1, 5))
            .unwrap_or_else(|error| unreachable!("bounds that a histogram can have: {error}"));
        Self { values }
    }

    /// Adds a value.
    pub fn record(&mut self, value: u64) {
        self.record_n(value, 1);
    }

    /// Adds a value so many times.
    pub fn record_n(&mut self, value: u64, times: u64) {
        self.values.saturating_record_n(value, times);
    }

    /// How many values there are.
    pub fn len(&self) -> u64 {
        self.values.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// The value that `quantile`, from 0 to 1, of all are not above; 0 without values.
    pub fn at(&self, quantile: f64) -> u64 {
        self.values.value_at_quantile(quantile)
    }

    /// The largest value; 0 without values.
    pub fn max(&self) -> u64 {
        self.values.max()
    }

    /// The smallest value; 0 without values.
    pub fn min(&self) -> u64 {
        if self.is_empty() { 0 } else { self.values.min() }
    }

    /// Adds the values of another one.
    pub fn merge(&mut self, other: &Self) {
        // All have the same bounds, so nothing can be out of range.
        let _ = self.values.add(&other.values);
    }
}

/// A distribution in the JSON output, in the unit of its name; all 0 if nothing was recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Percentiles {
    /// How many values were recorded.
    pub count: u64,
    /// The smallest.
    pub min: u64,
    /// The median.
    pub p50: u64,
    /// 99 of 100 are not above.
    pub p99: u64,
    /// 999 of 1000 are not above.
    pub p999: u64,
    /// The largest.
    pub max: u64,
}

impl From<&Histogram> for Percentiles {
    fn from(values: &Histogram) -> Self {
        Self {
            count: values.len(),
            min: values.min(),
            p50: values.at(0.5),
            p99: values.at(0.99),
            p999: values.at(0.999),
            max: values.max(),
        }
    }
}

/// A value, and how those of the instances of a driver become one.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Metric {
    /// Goes up only; those of the instances are added.
    Counter(u64),
    /// Goes up and down; those of the instances are added.
    Gauge(i64),
    /// Goes up and down; of those of the instances the largest counts.
    Maximum(i64),
    /// A distribution; those of the instances are put together.
    Histogram(Histogram),
}

impl Metric {
    fn merge(&mut self, other: &Self) {
        match (self, other) {
            (Self::Counter(mine), Self::Counter(theirs)) => *mine += theirs,
            (Self::Gauge(mine), Self::Gauge(theirs)) => *mine += theirs,
            (Self::Maximum(mine), Self::Maximum(theirs)) => *mine = (*mine).max(*theirs),
            (Self::Histogram(mine), Self::Histogram(theirs)) => mine.merge(theirs),
            // Instances of one driver give a name to one kind.
            _ => {}
        }
    }
}

/// Metrics by name, in the order in which they are to be shown.
#[derive(Clone, Debug, Default)]
pub struct Metrics(Vec<(&'static str, Metric)>);

impl Metrics {
    /// Adds a counter.
    #[must_use]
    pub fn counter(self, name: &'static str, value: u64) -> Self {
        self.with(name, Metric::Counter(value))
    }

    /// Adds a gauge.
    #[must_use]
    pub fn gauge(self, name: &'static str, value: i64) -> Self {
        self.with(name, Metric::Gauge(value))
    }

    /// Adds a distribution.
    #[must_use]
    pub fn histogram(self, name: &'static str, values: &Histogram) -> Self {
        self.with(name, Metric::Histogram(values.clone()))
    }

    /// Adds a metric.
    #[must_use]
    pub fn with(mut self, name: &'static str, metric: Metric) -> Self {
        self.0.push((name, metric));
        self
    }

    /// The metric of that name.
    pub fn get(&self, name: &str) -> Option<&Metric> {
        self.0.iter().find(|(known, _)| *known == name).map(|(_, metric)| metric)
    }

    /// Each name with its metric.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &Metric)> + '_ {
        self.0.iter().map(|(name, metric)| (*name, metric))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds those of another instance.
    pub fn merge(&mut self, other: &Self) {
        for (name, metric) in &other.0 {
            match self.0.iter_mut().find(|(known, _)| known == name) {
                Some((_, mine)) => mine.merge(metric),
                None => self.0.push((name, metric.clone())),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_name_is_its_unit() {
        assert_eq!(Unit::of("rtt_ns"), (Unit::Nanoseconds, "rtt"));
        assert_eq!(Unit::of("sizes_bytes"), (Unit::Bytes, "sizes"));
        assert_eq!(Unit::of("rate_pps"), (Unit::PacketsPerSecond, "rate"));
        assert_eq!(Unit::of("lessons"), (Unit::Count, "lessons"));
    }

    #[test]
    fn an_empty_distribution_is_all_zero_and_a_value_beyond_the_largest_counts_as_that() {
        let mut values = Histogram::new();
        assert_eq!(Percentiles::from(&values), Percentiles::default());
        values.record(0);
        values.record_n(u64::MAX, 2);
        let Percentiles { count, min, max, .. } = Percentiles::from(&values);
        assert_eq!((count, min), (3, 0));
        assert!((LARGEST..LARGEST / 1000 * 1001).contains(&max), "{max}");
    }

    #[test]
    fn metrics_of_instances_become_one_each_by_its_kind() {
        let (mut one, mut other) = (Histogram::new(), Histogram::new());
        one.record(1);
        other.record(5);
        let mut sum = Metrics::default()
            .counter("sent", 1)
            .gauge("waiting", -1)
            .with("longest_ns", Metric::Maximum(7))
            .histogram("rtt_ns", &one);
        sum.merge(
            &Metrics::default()
                .counter("sent", 2)
                .gauge("waiting", 3)
                .with("longest_ns", Metric::Maximum(5))
                .histogram("rtt_ns", &other)
                .counter("only_here", 4),
        );
        assert!(matches!(sum.get("sent"), Some(Metric::Counter(3))));
        assert!(matches!(sum.get("waiting"), Some(Metric::Gauge(2))));
        assert!(matches!(sum.get("longest_ns"), Some(Metric::Maximum(7))));
        let Some(Metric::Histogram(both)) = sum.get("rtt_ns") else { panic!("{sum:?}") };
        assert_eq!((both.len(), both.min(), both.max()), (2, 1, 5));
        assert!(matches!(sum.get("only_here"), Some(Metric::Counter(4))));
    }
}
