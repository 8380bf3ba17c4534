//! What has changed between two reports, beyond the noise of either.

use std::fmt::Write as _;

use super::schema::{Better, Case, Outcome, Report};

/// Changes of the median below this share are not worth a line, however sure they are.
const LEAST: f64 = 0.03;

/// The changes, for a terminal.
pub fn render(old: &Report, new: &Report) -> String {
    let mut text = String::from("\nchanges beyond the noise, old to new:\n");
    if old.machine.cpu != new.machine.cpu || old.machine.kernel != new.machine.kernel {
        text.push_str("  the reports are of two machines or kernels: figures do not compare, ratios may\n");
    }
    if old.quick != new.quick {
        text.push_str("  one of the reports is a quick one\n");
    }
    let mut changes = 0;
    for case in &new.cases {
        let Some(before) = old.cases.iter().find(|before| before.id == case.id) else { continue };
        for result in &case.results {
            let Some(was) = before.results.iter().find(|was| was.key() == result.key()) else { continue };
            if let Some(change) = change(case, was, result) {
                changes += 1;
                let _ = writeln!(text, "  {}: {}: {change}", case.id, result.key());
            }
        }
    }
    if changes == 0 {
        text.push_str("  none\n");
    }
    text
}

fn change(case: &Case, was: &Outcome, is: &Outcome) -> Option<String> {
    let (old, new) = match (&was.measured, &is.measured) {
        (Some(old), Some(new)) => (old, new),
        (Some(_), None) => {
            let why = is.failed.as_ref().or(is.not_available.as_ref());
            return Some(format!("not measured any more: {}", why.map_or("no reason", String::as_str)));
        }
        (None, Some(new)) => return Some(format!("measured now: {}", case.unit.show(new.median))),
        (None, None) => return None,
    };
    if !new.differs_from(old, LEAST) {
        return None;
    }
    let better = (new.median > old.median) == (case.better == Better::Higher);
    Some(format!(
        "{} to {}, {:+.0} %, {}",
        case.unit.show(old.median),
        case.unit.show(new.median),
        100.0 * (new.median / old.median - 1.0),
        if better { "better" } else { "worse" }
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::tests::{outcome, report};

    #[test]
    fn only_what_is_beyond_the_noise_is_said_and_which_way() {
        let old =
            report(vec![outcome("a", &[1e6, 1.1e6]), outcome("b", &[1e6, 1.1e6]), outcome("c", &[1.0])]);
        let new =
            report(vec![outcome("a", &[2e6, 2.2e6]), outcome("b", &[1.05e6, 1.2e6]), outcome("c", &[])]);
        let text = render(&old, &new);
        assert!(text.contains("echo_rate: a: 1.05 Mpps to 2.10 Mpps, +100 %, better"), "{text}");
        assert!(!text.contains(": b:"), "{text}");
        assert!(text.contains("c: not measured any more: no <such> thing"), "{text}");
        assert!(render(&new, &old).contains("-50 %, worse"));
        assert!(render(&old, &old).contains("none"));
    }
}
