//! Steering rules on the command line: a rule, or `@FILE` with one a line.

use std::path::PathBuf;
use std::str::FromStr;

use netdext_host::steer::{Rule, RuleError, RuleFileError, read_rules};

/// What follows `--steer`.
#[derive(Clone)]
pub enum RuleArg {
    Rule(Box<Rule>),
    File(PathBuf),
}

impl FromStr for RuleArg {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        match text.strip_prefix('@') {
            Some(path) => Ok(Self::File(path.into())),
            None => text.parse().map(|rule| Self::Rule(Box::new(rule))),
        }
    }
}

/// The rules in the order in which they were given.
pub fn rules(args: &[RuleArg]) -> Result<Vec<Rule>, RuleFileError> {
    let mut rules = Vec::new();
    for arg in args {
        match arg {
            RuleArg::Rule(rule) => rules.push(**rule),
            RuleArg::File(path) => rules.extend(read_rules(path)?.iter().map(|at| at.rule)),
        }
    }
    Ok(rules)
}
