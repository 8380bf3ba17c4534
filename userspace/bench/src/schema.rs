//! report.json, as docs/bench.md describes it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::facts::Machine;
use super::spread::Spread;

/// Version of the schema; it changes when a name or a unit does.
pub const SCHEMA_VERSION: u32 = 1;

/// One run of the benchmark.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// [`SCHEMA_VERSION`].
    pub schema: u32,
    /// Whether it was a `--quick` one.
    pub quick: bool,
    /// When it began, in seconds since 1970.
    pub started_s: u64,
    /// How long it took.
    pub took_ns: u64,
    /// Samples of each figure at the most, taken in turn with those of the others.
    pub rounds: usize,
    /// Where it ran.
    pub machine: Machine,
    /// What was changed of the system for it, and undone.
    pub changes: Vec<String>,
    /// What was aimed for; reports of before there were aims have none.
    #[serde(default)]
    pub aims: Vec<Aim>,
    /// What was measured.
    pub cases: Vec<Case>,
}

/// A figure, or a ratio of two, that is to reach a bound.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Aim {
    /// What it is about: `echo rate, spin / kernel`.
    pub name: String,
    /// Of the figure and the aim.
    pub unit: Unit,
    /// On which side of the aim the figure should be.
    pub bound: Bound,
    /// What is aimed for.
    pub aim: f64,
    /// What was measured, of medians; exactly one of this and `not_measured` is there.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub figure: Option<f64>,
    /// Whether the figure is on the right side; there if the figure is.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reached: Option<bool>,
    /// Why there is no figure.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub not_measured: Option<String>,
}

/// A side of an aim; the aim itself is on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// The figure or more.
    AtLeast,
    /// The figure or less.
    AtMost,
}

/// One question, with the answers of several subjects.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Case {
    /// For programs: `echo_rate`.
    pub id: String,
    /// For people.
    pub title: String,
    /// Of the figures.
    pub unit: Unit,
    /// Which figures are good.
    pub better: Better,
    /// The answers.
    pub results: Vec<Outcome>,
}

/// A unit; its name in JSON says it in base units.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Frames a second.
    Pps,
    /// Nanoseconds.
    Ns,
    /// Bytes.
    Bytes,
    /// Hundredths.
    Percent,
    /// One figure by another; of aims only.
    Ratio,
}

/// Whether more is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Better {
    /// More is better.
    Higher,
    /// Less is better.
    Lower,
}

/// The answer of one subject, with one set of parameters.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Outcome {
    /// Who: `kernel`, `driver spin`, `dpdk-testpmd icmpecho`.
    pub subject: String,
    /// What else was set, by name.
    pub parameters: BTreeMap<String, String>,
    /// The figures; exactly one of this, `not_available` and `failed` is there.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub measured: Option<Spread>,
    /// Why it can't be measured here.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub not_available: Option<String>,
    /// What went wrong when it was tried.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub failed: Option<String>,
    /// Round-trip times over all rounds: pairs of quantile and ns.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub curve: Vec<(f64, f64)>,
}

impl Outcome {
    /// What tells it from the other results of its case.
    pub fn key(&self) -> String {
        name_of(&self.subject, &self.parameters)
    }
}

/// A subject with its parameters, for people.
pub fn name_of(subject: &str, parameters: &BTreeMap<String, String>) -> String {
    let parameters: Vec<_> = parameters.iter().map(|(name, value)| format!(", {name} {value}")).collect();
    format!("{subject}{}", parameters.concat())
}

impl Unit {
    /// A figure for people, in the unit that suits its size.
    pub fn show(self, value: f64) -> String {
        match self {
            Self::Pps if value >= 1e6 => format!("{:.2} Mpps", value / 1e6),
            Self::Pps => format!("{:.1} kpps", value / 1e3),
            Self::Ns if value >= 1e6 => format!("{:.1} ms", value / 1e6),
            Self::Ns if value.abs() >= 1e3 => format!("{:.2} us", value / 1e3),
            Self::Ns => format!("{value:.0} ns"),
            Self::Bytes => format!("{:.1} MiB", value / f64::from(1 << 20)),
            Self::Percent => format!("{value:.2} %"),
            Self::Ratio => format!("{value:.2} x"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_shown_in_units_that_suit_them() {
        let shown = [
            (Unit::Pps, 2.5e6, "2.50 Mpps"),
            (Unit::Pps, 320_000.0, "320.0 kpps"),
            (Unit::Ns, 4_500.0, "4.50 us"),
            (Unit::Ns, 160e6, "160.0 ms"),
            (Unit::Ns, 13.0, "13 ns"),
            (Unit::Bytes, 28_311_552.0, "27.0 MiB"),
            (Unit::Percent, 0.13, "0.13 %"),
            (Unit::Ratio, 1.6, "1.60 x"),
        ];
        for (unit, value, text) in shown {
            assert_eq!(unit.show(value), text);
        }
    }

    #[test]
    fn the_key_names_subject_and_parameters() {
        let mut outcome = Outcome {
            subject: "driver spin".into(),
            parameters: BTreeMap::new(),
            measured: None,
            not_available: None,
            failed: None,
            curve: Vec::new(),
        };
        assert_eq!(outcome.key(), "driver spin");
        outcome.parameters.insert("injector".into(), "10000/s".into());
        assert_eq!(outcome.key(), "driver spin, injector 10000/s");
    }
}
