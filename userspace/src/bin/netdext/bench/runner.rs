//! Rounds: every subject of a case is measured once before the first is measured again, so that what the machine
//! does meanwhile falls on all of them alike.

use std::collections::BTreeMap;
use std::time::Duration;

use super::interrupt;
use super::schema::{Better, Case, Outcome, Unit};
use super::spread::{Spread, quantile};

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Less of everything.
    pub quick: bool,
    /// Samples of each figure.
    pub rounds: usize,
    /// How long one sample takes, its preparation not included.
    pub time: Duration,
}

impl Plan {
    /// `--quick` or not.
    pub const fn new(quick: bool) -> Self {
        if quick {
            Self { quick, rounds: 3, time: Duration::from_millis(300) }
        } else {
            Self { quick, rounds: 5, time: Duration::from_millis(1000) }
        }
    }
}

/// What one measurement gave.
#[derive(Debug, Default)]
pub struct Sample {
    /// One for each case of the group; `None` where it has none.
    pub figures: Vec<Option<f64>>,
    /// Round-trip times, for the curve.
    pub times_ns: Vec<u64>,
}

impl Sample {
    /// Of figures alone.
    pub fn of(figures: &[f64]) -> Self {
        Self { figures: figures.iter().copied().map(Some).collect(), times_ns: Vec::new() }
    }
}

/// What a case is about.
#[derive(Clone, Copy, Debug)]
pub struct Head {
    pub id: &'static str,
    pub title: &'static str,
    pub unit: Unit,
    pub better: Better,
}

type Measure<'a> = Box<dyn FnMut() -> anyhow::Result<Sample> + 'a>;

/// One subject with one set of parameters.
pub struct Entry<'a> {
    subject: String,
    parameters: BTreeMap<String, String>,
    /// Or why it can't be measured here.
    measure: Result<Measure<'a>, String>,
}

impl<'a> Entry<'a> {
    /// One that can be measured.
    pub fn new(subject: &str, measure: impl FnMut() -> anyhow::Result<Sample> + 'a) -> Self {
        Self { subject: subject.to_owned(), parameters: BTreeMap::new(), measure: Ok(Box::new(measure)) }
    }

    /// One that can't be, and why.
    pub fn missing(subject: &str, why: impl Into<String>) -> Self {
        Self { subject: subject.to_owned(), parameters: BTreeMap::new(), measure: Err(why.into()) }
    }

    /// With a parameter.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl ToString) -> Self {
        self.parameters.insert(name.to_owned(), value.to_string());
        self
    }
}

/// Measures the entries of a group of cases, one figure of each sample for each case.
///
/// # Errors
/// A signal has come. What goes wrong with an entry is in its results.
pub fn run(plan: &Plan, heads: &[Head], entries: Vec<Entry<'_>>) -> anyhow::Result<Vec<Case>> {
    let mut measured: Vec<Measured<'_>> =
        entries.into_iter().map(|entry| Measured { entry, samples: Vec::new(), failed: None }).collect();
    for round in 0..plan.rounds {
        for subject in &mut measured {
            interrupt::check()?;
            subject.measure(heads[0].id, round);
        }
    }
    interrupt::check()?;
    let case = |(index, head): (usize, &Head)| Case {
        id: head.id.to_owned(),
        title: head.title.to_owned(),
        unit: head.unit,
        better: head.better,
        results: measured.iter().filter_map(|subject| subject.outcome(index)).collect(),
    };
    Ok(heads.iter().enumerate().map(case).collect())
}

struct Measured<'a> {
    entry: Entry<'a>,
    samples: Vec<Sample>,
    failed: Option<String>,
}

impl Measured<'_> {
    fn measure(&mut self, case: &str, round: usize) {
        let Ok(measure) = &mut self.entry.measure else { return };
        if self.failed.is_some() {
            return;
        }
        let parameters: Vec<_> = self.entry.parameters.values().map(String::as_str).collect();
        eprintln!("  {case}, round {}: {} {}", round + 1, self.entry.subject, parameters.join(" "));
        match measure() {
            Ok(sample) => self.samples.push(sample),
            // One that failed once is not asked again: its figures would be of other rounds than the others'.
            Err(error) => self.failed = Some(format!("{error:#}")),
        }
    }

    /// The result for the case of this index; `None` if the subject has no such figure.
    fn outcome(&self, index: usize) -> Option<Outcome> {
        let Entry { subject, parameters, measure } = &self.entry;
        let figures: Vec<f64> =
            self.samples.iter().filter_map(|sample| sample.figures.get(index).copied().flatten()).collect();
        let missing = measure.as_ref().err().cloned();
        let measured = if self.failed.is_some() { None } else { Spread::of(figures) };
        if measured.is_none() && missing.is_none() && self.failed.is_none() {
            return None;
        }
        Some(Outcome {
            subject: subject.clone(),
            parameters: parameters.clone(),
            measured,
            not_available: missing,
            failed: self.failed.clone(),
            curve: if index == 0 { curve(&self.samples) } else { Vec::new() },
        })
    }
}

/// Quantiles of the round-trip times of all rounds, the closer the further up.
fn curve(samples: &[Sample]) -> Vec<(f64, f64)> {
    let mut times: Vec<f64> =
        samples.iter().flat_map(|sample| &sample.times_ns).map(|&ns| ns as f64).collect();
    if times.is_empty() {
        return Vec::new();
    }
    times.sort_by(f64::total_cmp);
    // From 0 to four nines in steps of a tenth of one.
    (0..=40)
        .map(|step| 1.0 - 10_f64.powf(f64::from(step) / -10.0))
        .map(|q| (q, quantile(&times, q)))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    const PLAN: Plan = Plan { quick: true, rounds: 2, time: Duration::ZERO };
    const HEADS: [Head; 2] = [
        Head { id: "a", title: "A", unit: Unit::Pps, better: Better::Higher },
        Head { id: "b", title: "B", unit: Unit::Ns, better: Better::Lower },
    ];

    #[test]
    fn subjects_take_turns_and_each_figure_goes_to_its_case() {
        let order = RefCell::new(Vec::new());
        let entry = |name: &'static str, base: f64| {
            let order = &order;
            Entry::new(name, move || {
                order.borrow_mut().push(name);
                Ok(Sample::of(&[base, base * 10.0]))
            })
        };
        let cases = run(&PLAN, &HEADS, vec![entry("x", 1.0).with("size", 64), entry("y", 2.0)]).unwrap();
        assert_eq!(*order.borrow(), ["x", "y", "x", "y"]);
        assert_eq!(cases[1].results[0].key(), "x, size 64");
        assert_eq!(cases[1].results[1].measured.as_ref().unwrap().samples, [20.0, 20.0]);
    }

    #[test]
    fn what_fails_or_is_missing_has_a_reason_and_no_figure() {
        let mut asked = 0;
        let failing = Entry::new("x", || {
            asked += 1;
            anyhow::bail!("no luck")
        });
        let cases = run(&PLAN, &HEADS, vec![failing, Entry::missing("y", "not there")]).unwrap();
        let [failed, missing] = &cases[0].results[..] else { panic!() };
        assert_eq!((failed.failed.as_deref(), &failed.measured), (Some("no luck"), &None));
        assert_eq!(missing.not_available.as_deref(), Some("not there"));
        drop(cases);
        assert_eq!(asked, 1);
    }

    #[test]
    fn a_figure_that_a_subject_does_not_have_is_left_out() {
        let entry =
            Entry::new("x", || Ok(Sample { figures: vec![Some(1.0), None], times_ns: vec![5, 1, 3] }));
        let cases = run(&PLAN, &HEADS, vec![entry]).unwrap();
        assert!(cases[1].results.is_empty());
        let curve = &cases[0].results[0].curve;
        assert_eq!((curve[0], curve.len()), ((0.0, 1.0), 41));
        assert!(curve.is_sorted_by(|a, b| a.1 <= b.1));
    }
}
