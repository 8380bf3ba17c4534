//! Rules from a file: one a line, with `#` comments and blank lines between them.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::{Rule, RuleError};

/// Why a file gives no rules. None of them is used then.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RuleFileError {
    /// The file can't be read.
    #[error("read steering rules from {}: {source}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A line is no rule.
    #[error("{} line {line}: {source}", .path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        source: RuleError,
    },
    /// Two lines say the same.
    #[error("{} line {line}: the rule `{rule}` is in line {first} already", .path.display())]
    Twice {
        /// The file.
        path: PathBuf,
        /// The later line, from 1.
        line: usize,
        /// The earlier line.
        first: usize,
        /// The rule.
        rule: Box<Rule>,
    },
}

/// A rule and where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileRule {
    /// The line, from 1.
    pub line: usize,
    /// The rule.
    pub rule: Rule,
}

/// The rules of a file in their order.
///
/// # Errors
///
/// [`RuleFileError`].
pub fn read_rules(path: &Path) -> Result<Vec<FileRule>, RuleFileError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| RuleFileError::Read { path: path.to_owned(), source })?;
    parse_rules(&text, path)
}

/// The rules of a file's text.
fn parse_rules(text: &str, path: &Path) -> Result<Vec<FileRule>, RuleFileError> {
    let mut rules = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let (text, line) = (line.split('#').next().unwrap_or(line).trim(), index + 1);
        if !text.is_empty() {
            let rule =
                text.parse().map_err(|source| RuleFileError::Line { path: path.to_owned(), line, source })?;
            rules.push(FileRule { line, rule });
        }
    }
    match first_twin(&rules) {
        None => Ok(rules),
        Some((first, later)) => Err(RuleFileError::Twice {
            path: path.to_owned(),
            line: later.line,
            first: first.line,
            rule: Box::new(later.rule),
        }),
    }
}

/// Two equal rules, the ones that are found first when the file is read.
fn first_twin(rules: &[FileRule]) -> Option<(FileRule, FileRule)> {
    // By hash, because a set of all rules would take several times the memory.
    let hasher = RandomState::new();
    let mut order: Vec<(u64, u32)> =
        (0..).zip(rules).map(|(index, at)| (hasher.hash_one(at.rule), index)).collect();
    order.sort_unstable();
    let alike = order.chunk_by(|(a, _), (b, _)| a == b).filter(|alike| alike.len() > 1);
    let pairs = alike.flat_map(|alike| {
        let at = |(_, index): &(u64, u32)| rules[*index as usize];
        (1..alike.len()).filter_map(move |later| {
            let twin = alike[..later].iter().map(at).find(|first| first.rule == at(&alike[later]).rule)?;
            Some((twin, at(&alike[later])))
        })
    });
    pairs.min_by_key(|(_, later)| later.line)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(text: &str) -> String {
        parse_rules(text, Path::new("rules.txt")).unwrap_err().to_string()
    }

    #[test]
    fn each_line_is_a_rule_and_comments_and_blank_lines_are_none() {
        let text = "# blocked\n\ndrop:dst=10.0.0.1\n  \t\r\n drop proto=udp dport=53 # DNS\r\n#drop\nall";
        let rules = parse_rules(text, Path::new("rules.txt")).unwrap();
        let lines: Vec<_> = rules.iter().map(|at| (at.line, at.rule.to_string())).collect();
        let expected = [(3, "drop:dst=10.0.0.1"), (5, "drop:proto=udp,dport=53"), (7, "driver")];
        assert_eq!(lines, expected.map(|(line, rule)| (line, rule.to_owned())));
        assert_eq!(parse_rules("", Path::new("rules.txt")).unwrap(), []);
    }

    #[test]
    fn a_mistake_is_named_by_file_and_line_on_one_line() {
        let wrong = message("drop:dst=10.0.0.1\n# fine\ndrop:dst=10.0.0.1/8\n");
        assert!(wrong.starts_with("rules.txt line 3: dst=10.0.0.1/8: "), "{wrong}");
        assert!(!wrong.contains('\n'), "{wrong}");
        let missing = read_rules(Path::new("/nonexistent/rules.txt")).unwrap_err().to_string();
        assert!(missing.contains("/nonexistent/rules.txt: "), "{missing}");
    }

    #[test]
    fn the_first_rule_that_comes_again_is_named_with_both_its_lines() {
        let rules = "all\nkernel\n\nkernel:priority=1\ndrop:proto=17\ndrop proto=udp\nall\nkernel\n";
        assert_eq!(message(rules), "rules.txt line 6: the rule `drop:proto=udp` is in line 5 already");
        assert_eq!(message("all\nall\nall"), "rules.txt line 2: the rule `driver` is in line 1 already");
    }
}
