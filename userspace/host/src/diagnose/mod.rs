//! What stands in the way of a driver on an interface: checks over facts, each a finding with its remedy.
//!
//! ```text
//!   Facts::gather (asks the kernel) --> diagnose (pure) --> Finding: check, severity, what, why, fix
//!                                                              '-- remedy: a Change that can be taken back
//! ```

mod device;
mod facts;
mod offloads;
mod peer;
mod system;
#[cfg(test)]
mod tests;

use std::fmt;

use serde::Serialize;

pub use self::facts::{AttachedProgram, EndFacts, Facts, PeerView, ProgramTrial, RingSlots, SystemFacts};
use crate::link::tuning::Change;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// As it should be.
    Ok,
    /// Good to know; a driver works.
    Note,
    /// A driver works, and something gets lost, late or wrong.
    Warning,
    /// A driver does not start, or does not work.
    Problem,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Problem => "problem",
        })
    }
}

/// What one check found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The name of the check; it stays the same.
    pub check: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// The interface, or `system`.
    pub subject: String,
    /// What was found.
    pub finding: String,
    /// Why it matters.
    pub why: &'static str,
    /// The command that mends it, where there is one.
    pub fix: Option<String>,
    /// The same, as a change that can be made now and taken back later.
    #[serde(skip)]
    pub remedy: Option<Change>,
}

impl Finding {
    fn new(
        check: &'static str,
        severity: Severity,
        subject: &str,
        finding: impl Into<String>,
        why: &'static str,
    ) -> Self {
        let (subject, finding) = (subject.to_owned(), finding.into());
        Self { check, severity, subject, finding, why, fix: None, remedy: None }
    }

    /// With a command for the user.
    fn fix(mut self, command: impl Into<String>) -> Self {
        self.fix = Some(command.into());
        self
    }

    /// With a change that can be made and taken back.
    fn remedy(mut self, change: Change) -> Self {
        self.fix = Some(change.command());
        self.remedy = Some(change);
        self
    }

    /// Whether the exit status should tell.
    pub fn is_bad(&self) -> bool {
        self.severity >= Severity::Warning
    }
}

/// Makes every check; findings come in a fixed order, the system's before the interface's before its peer's.
pub fn diagnose(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    system::check(&facts.system, &facts.end, &mut findings);
    device::check(facts, &mut findings);
    offloads::check_own(&facts.end, &mut findings);
    peer::check(facts, &mut findings);
    findings
}
