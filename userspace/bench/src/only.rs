//! A part of the benchmark: `--only`.

use std::str::FromStr;

use super::runner::{Entry, Group};

/// A case, and of that all subjects or those with these words in their names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Only {
    case: String,
    subject: Option<String>,
}

impl FromStr for Only {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (case, subject) = match text.split_once(':') {
            Some((case, subject)) => (case, Some(subject)),
            None => (text, None),
        };
        if case.is_empty() || subject == Some("") {
            return Err("give a case, or a case and part of a subject, for example echo_rate:spin".to_owned());
        }
        Ok(Self { case: case.to_owned(), subject: subject.map(str::to_owned) })
    }
}

impl Only {
    fn is_about(&self, group: &Group<'_>) -> bool {
        group.heads.iter().any(|head| head.id == self.case)
    }

    fn wants(&self, entry: &Entry<'_>) -> bool {
        self.subject.as_ref().is_none_or(|subject| entry.name().contains(subject))
    }
}

/// Leaves of the groups what is wanted, all of it if nothing is said.
///
/// # Errors
/// What is wanted does not exist: said as a usage error is.
pub fn select<'a>(mut groups: Vec<Group<'a>>, wanted: &[Only]) -> Result<Vec<Group<'a>>, String> {
    if wanted.is_empty() {
        return Ok(groups);
    }
    for only in wanted {
        let mut of_case = groups.iter().filter(|group| only.is_about(group)).peekable();
        if of_case.peek().is_none() {
            let cases: Vec<_> = groups.iter().flat_map(|group| group.heads).map(|head| head.id).collect();
            return Err(format!("--only: there is no case {}; there are {}", only.case, cases.join(", ")));
        }
        if let Some(subject) = &only.subject
            && !of_case.flat_map(|group| &group.entries).any(|entry| only.wants(entry))
        {
            return Err(format!(
                "--only: the case {} has no subject with '{subject}' in its name",
                only.case
            ));
        }
    }
    for group in &mut groups {
        let of_group: Vec<&Only> = wanted.iter().filter(|only| only.is_about(group)).collect();
        group.entries.retain(|entry| of_group.iter().any(|only| only.wants(entry)));
    }
    groups.retain(|group| !group.entries.is_empty());
    Ok(groups)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runner::{Head, Sample};
    use crate::schema::{Better, Unit};

    static ECHO: [Head; 2] = [
        Head { id: "p50", title: "P50", unit: Unit::Ns, better: Better::Lower },
        Head { id: "p99", title: "P99", unit: Unit::Ns, better: Better::Lower },
    ];
    static SENT: [Head; 1] = [Head { id: "tx", title: "Sent", unit: Unit::Pps, better: Better::Higher }];

    fn selected(wanted: &[&str]) -> Result<Vec<String>, String> {
        let entry = |name: &str| Entry::new(name, || Ok(Sample::default()));
        let groups = vec![
            Group {
                heads: &ECHO,
                entries: vec![entry("kernel"), entry("spin"), entry("spin").with("injector", "10/s")],
            },
            Group { heads: &SENT, entries: vec![entry("spin")] },
        ];
        let wanted: Vec<Only> = wanted.iter().map(|text| text.parse().unwrap()).collect();
        let groups = select(groups, &wanted)?;
        let names = |group: Group<'_>| {
            let id = group.heads[0].id;
            group.entries.iter().map(|entry| format!("{id} {}", entry.name())).collect::<Vec<_>>()
        };
        Ok(groups.into_iter().flat_map(names).collect())
    }

    #[test]
    fn all_of_it_a_case_or_some_of_its_subjects() {
        let all = ["p50 kernel", "p50 spin", "p50 spin, injector 10/s", "tx spin"];
        assert_eq!(selected(&[]).unwrap(), all);
        assert_eq!(selected(&["tx"]).unwrap(), all[3..]);
        assert_eq!(selected(&["p99"]).unwrap(), all[..3], "cases that are measured together");
        assert_eq!(selected(&["p50:spin"]).unwrap(), all[1..3]);
        assert_eq!(selected(&["p50:kernel", "p50:injector"]).unwrap(), [all[0], all[2]]);
    }

    #[test]
    fn what_does_not_exist_is_an_error_that_says_what_does() {
        assert_eq!(selected(&["rx"]).unwrap_err(), "--only: there is no case rx; there are p50, p99, tx");
        let error = selected(&["tx:kernel"]).unwrap_err();
        assert_eq!(error, "--only: the case tx has no subject with 'kernel' in its name");
        assert!(":".parse::<Only>().is_err() && "tx:".parse::<Only>().is_err());
    }
}
