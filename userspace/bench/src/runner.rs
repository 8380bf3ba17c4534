//! Rounds: every subject of every case is measured once before the first is measured again, so that what the machine
//! does meanwhile falls on all of them alike.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::interrupt;
use super::plan::Plan;
use super::schema::{Better, Case, Outcome, Unit, name_of};
use super::spread::{Spread, quantile};
use crate::output::complain;

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
    /// The subject's name.
    #[cfg(test)]
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// The parameters by name.
    #[cfg(test)]
    pub fn parameters(&self) -> &BTreeMap<String, String> {
        &self.parameters
    }

    /// Subject and parameters, as [`Outcome::key`].
    pub fn name(&self) -> String {
        name_of(&self.subject, &self.parameters)
    }

    /// One that can be measured.
    pub fn new(subject: &str, measure: impl FnMut() -> anyhow::Result<Sample> + 'a) -> Self {
        Self { subject: subject.to_owned(), parameters: BTreeMap::new(), measure: Ok(Box::new(measure)) }
    }

    /// One that can't be, and why.
    pub fn missing(subject: &str, why: impl Into<String>) -> Self {
        Self { subject: subject.to_owned(), parameters: BTreeMap::new(), measure: Err(why.into()) }
    }

    /// One that can be measured unless something is missing for it, and what that is.
    pub fn unless(
        missing: Option<impl Into<String>>,
        subject: &str,
        measure: impl FnMut() -> anyhow::Result<Sample> + 'a,
    ) -> Self {
        missing.map_or_else(|| Self::new(subject, measure), |why| Self::missing(subject, why))
    }

    /// With a parameter.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl ToString) -> Self {
        self.parameters.insert(name.to_owned(), value.to_string());
        self
    }
}

/// Cases that are measured together: an entry gives one figure for each of them.
pub struct Group<'a> {
    /// The cases.
    pub heads: &'static [Head],
    /// Who is measured, in turn.
    pub entries: Vec<Entry<'a>>,
}

/// Measures every group, by the plan.
///
/// # Errors
/// A signal has come. What goes wrong with an entry is in its results.
pub fn run(plan: &Plan, groups: Vec<Group<'_>>) -> anyhow::Result<Vec<Case>> {
    let began = Instant::now();
    let mut groups: Vec<MeasuredGroup<'_>> = groups.into_iter().map(MeasuredGroup::new).collect();
    for round in 0..plan.rounds {
        for group in &mut groups {
            if plan.has_time_for(round, began.elapsed(), group.took) {
                group.measure(round)?;
            } else {
                complain!("  {}, round {}: left out, there is no time", group.heads[0].id, round + 1);
            }
        }
    }
    Ok(groups.iter().flat_map(MeasuredGroup::cases).collect())
}

struct MeasuredGroup<'a> {
    heads: &'static [Head],
    subjects: Vec<Measured<'a>>,
    /// Its last round.
    took: Duration,
}

impl<'a> MeasuredGroup<'a> {
    fn new(Group { heads, entries }: Group<'a>) -> Self {
        let subject = |entry| Measured { entry, samples: Vec::new(), failed: None };
        Self { heads, subjects: entries.into_iter().map(subject).collect(), took: Duration::ZERO }
    }

    fn measure(&mut self, round: usize) -> anyhow::Result<()> {
        let began = Instant::now();
        for subject in &mut self.subjects {
            interrupt::check()?;
            subject.measure(self.heads[0].id, round);
        }
        self.took = began.elapsed();
        interrupt::check()
    }

    fn cases(&self) -> impl Iterator<Item = Case> {
        self.heads.iter().enumerate().map(|(index, head)| Case {
            id: head.id.to_owned(),
            title: head.title.to_owned(),
            unit: head.unit,
            better: head.better,
            results: self.subjects.iter().filter_map(|subject| subject.outcome(index)).collect(),
        })
    }
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
        complain!("  {case}, round {}: {} {}", round + 1, self.entry.subject, parameters.join(" "));
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

    const PLAN: Plan = Plan { rounds: 2, ..Plan::new(true) };
    static HEADS: [Head; 2] = [
        Head { id: "a", title: "A", unit: Unit::Pps, better: Better::Higher },
        Head { id: "b", title: "B", unit: Unit::Ns, better: Better::Lower },
    ];

    fn measure(entries: Vec<Entry<'_>>) -> Vec<Case> {
        run(&PLAN, vec![Group { heads: &HEADS, entries }]).unwrap()
    }

    #[test]
    fn groups_take_turns_too() {
        let order = RefCell::new(Vec::new());
        let group = |name: &'static str| {
            let order = &order;
            let entry = Entry::new(name, move || {
                order.borrow_mut().push(name);
                Ok(Sample::of(&[1.0, 1.0]))
            });
            Group { heads: &HEADS, entries: vec![entry] }
        };
        run(&PLAN, vec![group("x"), group("y")]).unwrap();
        assert_eq!(*order.borrow(), ["x", "y", "x", "y"]);
    }

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
        let cases = measure(vec![entry("x", 1.0).with("size", 64), entry("y", 2.0)]);
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
        let cases = measure(vec![failing, Entry::missing("y", "not there")]);
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
        let cases = measure(vec![entry]);
        assert!(cases[1].results.is_empty());
        let curve = &cases[0].results[0].curve;
        assert_eq!((curve[0], curve.len()), ((0.0, 1.0), 41));
        assert!(curve.is_sorted_by(|a, b| a.1 <= b.1));
    }
}
