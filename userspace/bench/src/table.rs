//! The report for a terminal.

use std::fmt::Write as _;

use super::schema::{Aim, Bound, Case, Outcome, Report};

/// The whole report as text.
pub fn render(report: &Report) -> String {
    let machine = &report.machine;
    let mut text = String::new();
    let _ = writeln!(
        text,
        "\n{}, {} processors, Linux {}, load {}; {} rounds, {:.0} s",
        machine.cpu,
        machine.cores,
        machine.kernel,
        machine.load_average,
        report.rounds,
        report.took_ns as f64 / 1e9
    );
    for case in &report.cases {
        text.push_str(&render_case(case));
    }
    text.push_str(&render_aims(report));
    let _ = writeln!(text, "\nchanged for this, and undone:");
    for change in &report.changes {
        let _ = writeln!(text, "  {change}");
    }
    text
}

fn render_case(case: &Case) -> String {
    let mut text = format!("\n{} [{}]\n", case.title, case.id);
    let width = case.results.iter().map(|result| result.key().len()).max().unwrap_or(0);
    for result in &case.results {
        let _ = writeln!(text, "  {:width$}  {}", result.key(), figures(case, result));
    }
    text
}

fn render_aims(report: &Report) -> String {
    let mut text = "\nwhat was aimed for, and what this run gave:\n".to_owned();
    let width = report.aims.iter().map(|aim| aim.name.len()).max().unwrap_or(0);
    for aim in &report.aims {
        let _ = writeln!(text, "  {:width$}  {:>18}  {}", aim.name, aimed(aim), given(aim));
    }
    text
}

/// The aim with its bound.
pub fn aimed(aim: &Aim) -> String {
    let bound = match aim.bound {
        Bound::AtLeast => "at least",
        Bound::AtMost => "at most",
    };
    format!("{bound} {}", aim.unit.show(aim.aim))
}

/// The figure with whether it is what was aimed for, or why there is none.
pub fn given(aim: &Aim) -> String {
    match (aim.figure, &aim.not_measured) {
        (Some(figure), _) => {
            let reached = if aim.reached == Some(true) { "reached" } else { "NOT reached" };
            format!("{:>12}  {reached}", aim.unit.show(figure))
        }
        (None, Some(why)) => format!("not measured: {why}"),
        (None, None) => "not measured".to_owned(),
    }
}

/// Median and spread, or why there is none.
pub fn figures(case: &Case, result: &Outcome) -> String {
    match (&result.measured, &result.not_available, &result.failed) {
        (Some(spread), ..) => {
            let show = |value| case.unit.show(value);
            format!(
                "{:>12}  (from {} to {}, middle half {} to {})",
                show(spread.median),
                show(spread.min),
                show(spread.max),
                show(spread.q1),
                show(spread.q3)
            )
        }
        (None, Some(why), _) => format!("not available: {why}"),
        (None, None, Some(why)) => format!("FAILED: {why}"),
        (None, None, None) => "nothing measured".to_owned(),
    }
}

#[cfg(test)]
pub mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use super::*;
    use crate::aims;
    use crate::facts::Machine;
    use crate::schema::{Better, Outcome, Unit};
    use crate::spread::Spread;

    pub fn outcome(subject: &str, samples: &[f64]) -> Outcome {
        Outcome {
            subject: subject.to_owned(),
            parameters: BTreeMap::new(),
            measured: Spread::of(samples.to_vec()),
            not_available: samples.is_empty().then(|| "no <such> thing".to_owned()),
            failed: None,
            curve: samples.iter().enumerate().map(|(n, ns)| (n as f64 / 10.0, *ns)).collect(),
        }
    }

    pub fn report(results: Vec<Outcome>) -> Report {
        let case = Case {
            id: "echo_rate".into(),
            title: "Echo".into(),
            unit: Unit::Pps,
            better: Better::Higher,
            results,
        };
        Report {
            schema: 1,
            quick: true,
            started_s: 0,
            took_ns: 1,
            rounds: 3,
            machine: Machine::look(Path::new("/bin/sh")),
            changes: vec!["a change".into()],
            aims: aims::look(std::slice::from_ref(&case)),
            cases: vec![case],
        }
    }

    #[test]
    fn a_figure_has_its_spread_and_what_is_missing_its_reason() {
        let text = render(&report(vec![outcome("kernel", &[1e6, 2e6, 3e6]), outcome("peer", &[])]));
        assert!(
            text.contains("kernel     2.00 Mpps  (from 1.00 Mpps to 3.00 Mpps, middle half 1.50 Mpps"),
            "{text}"
        );
        assert!(text.contains("peer    not available: no <such> thing"), "{text}");
        assert!(text.contains("a change"));
    }

    #[test]
    fn an_aim_has_its_figure_or_why_there_is_none() {
        let text = render(&report(vec![
            outcome("kernel", &[1e6]),
            outcome("netdext --answer", &[8e6]),
            outcome("netdext driver, spin", &[1.5e6]),
        ]));
        let line = |name: &str| text.lines().find(|line| line.contains(name)).expect(name).trim().to_owned();
        let answer = line("echo rate, --answer / kernel");
        assert!(answer.ends_with("at least 7.00 x        8.00 x  reached"), "{answer}");
        assert!(line("echo rate, spin / kernel").ends_with("1.50 x  NOT reached"), "{text}");
        assert!(
            line("resident memory").contains("not measured: memory of netdext driver, adaptive"),
            "{text}"
        );
    }
}
