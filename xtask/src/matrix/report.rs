//! What the run has come to: a table for people and a file for programs.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::Serialize;

use crate::matrix::archive::Archive;
use crate::matrix::guest::Outcome;
use crate::matrix::kernels::{Expectation, Kernel, Resolved};
use crate::matrix::plan::{self, Program};
use crate::matrix::results::ProgramResult;
use crate::test::Tally;

/// All that was run.
#[derive(Serialize)]
pub struct Report {
    /// By kernel, in the order of the matrix.
    pub kernels: Vec<KernelReport>,
}

/// What was run on one kernel.
#[derive(Serialize)]
pub struct KernelReport {
    kernel: String,
    package_version: String,
    /// The guests that have shared it out among them.
    pub guests: Vec<GuestReport>,
}

/// What was run in one guest.
#[derive(Serialize)]
pub struct GuestReport {
    log: PathBuf,
    seconds: u64,
    programs: Vec<ProgramResult>,
    /// Test programs that were not reached.
    not_run: Vec<String>,
    /// Why the guest did not come to its end.
    trouble: Option<String>,
    #[serde(skip)]
    last_lines: Vec<String>,
}

impl GuestReport {
    /// Of the guest in which these programs were to run.
    pub fn new(programs: &[Program], outcome: Outcome, log: &Path) -> Self {
        let ran = |program: &&Program| outcome.programs.iter().any(|result| result.name == program.name);
        let not_run = programs.iter().filter(|program| !ran(program));
        let not_run = not_run.map(|program| program.name.to_owned()).collect();
        let (trouble, last_lines) = match outcome.trouble {
            Some(trouble) => (Some(trouble.what), trouble.last_lines),
            None => (None, Vec::new()),
        };
        Self {
            log: log.to_owned(),
            seconds: outcome.took.as_secs(),
            programs: outcome.programs,
            not_run,
            trouble,
            last_lines,
        }
    }

    /// What has been counted; a guest that did not come to its end is one more failure.
    fn tally(&self) -> Tally {
        let mut tally = Tally { failed: u64::from(self.trouble.is_some()), ..Tally::default() };
        self.programs.iter().for_each(|result| tally.add(result.tally));
        tally
    }

    /// Says why a guest did not come to its end, with its last lines.
    pub fn print_trouble(&self, name: &str) {
        let Some(trouble) = &self.trouble else { return };
        let last: String = self.last_lines.iter().map(|line| format!("    | {line}\n")).collect();
        println!("{last}FAILED: Linux {name}: {trouble}; its log is {}", self.log.display());
    }

    /// Every failure, with where to read about it.
    fn failures(&self) -> impl Iterator<Item = String> {
        let of_programs = self
            .programs
            .iter()
            .flat_map(|result| result.failures.iter().map(|failure| format!("{}: {failure}", result.name)));
        of_programs.chain(self.trouble.clone()).map(|what| format!("{what}; {}", self.log.display()))
    }
}

/// Says what a test program has come to, as soon as it has.
pub fn print_result(guest: &str, result: &ProgramResult) {
    let (Tally { passed, failed, skipped }, name) = (result.tally, &result.name);
    println!(
        "Linux {guest}: {name}: {passed} passed, {failed} failed, {skipped} skipped, {} s",
        result.seconds
    );
    for failure in &result.failures {
        println!("FAILED: Linux {guest}: {name}: {failure}");
    }
    for test in &result.unsteady {
        println!("UNSTEADY: Linux {guest}: {name}: {test} failed, and passed by itself");
    }
    for fault in &result.kernel_faults {
        println!("Linux {guest}: {name}: the kernel says {fault}");
    }
}

impl Report {
    /// What has been counted.
    pub fn total(&self) -> Tally {
        let mut total = Tally::default();
        self.kernels.iter().for_each(|kernel| total.add(kernel.tally()));
        total
    }

    /// Writes it as JSON.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn write(&self, file: &Path) -> anyhow::Result<()> {
        let text = serde_json::to_string_pretty(self)? + "\n";
        fs::write(file, text).with_context(|| format!("write {}", file.display()))
    }

    /// Writes what the verifiers have said of the programs, in the form of `userspace/host/object/verifier.json`; nothing, if none was
    /// asked.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn write_verifier(&self, file: &Path) -> anyhow::Result<()> {
        let guests = self.kernels.iter().flat_map(|kernel| &kernel.guests);
        let results = guests.flat_map(|guest| &guest.programs);
        let figures: BTreeMap<_, _> = results.flat_map(|result| &result.verifier).collect();
        if figures.is_empty() {
            return Ok(());
        }
        let text = serde_json::to_string_pretty(&figures)? + "\n";
        fs::write(file, text).with_context(|| format!("write {}", file.display()))
    }

    /// Prints the table, and as the last line the count.
    pub fn print(&self) {
        println!();
        print!("{}", self.table());
        for kernel in &self.kernels {
            for failure in kernel.guests.iter().flat_map(GuestReport::failures) {
                println!("FAILED: Linux {}: {failure}", kernel.kernel);
            }
        }
        let skips: BTreeSet<_> =
            self.kernels.iter().flat_map(KernelReport::results).flat_map(|result| &result.skips).collect();
        for skip in skips {
            println!("SKIP: {skip}");
        }
        let Tally { passed, failed, skipped } = self.total();
        println!("{passed} passed, {failed} failed, {skipped} skipped");
    }

    fn table(&self) -> String {
        let mut names: Vec<&str> = Vec::new();
        for kernel in &self.kernels {
            let not_run = kernel.guests.iter().flat_map(|guest| &guest.not_run);
            let all = kernel.results().map(|result| &result.name).chain(not_run);
            for name in all {
                if !names.contains(&name.as_str()) {
                    names.push(name);
                }
            }
        }
        let mut rows = vec![vec!["passed/failed/skipped, seconds".to_owned()]];
        rows.extend(names.iter().map(|name| vec![(*name).to_owned()]));
        rows.push(vec!["in all".to_owned()]);
        for kernel in &self.kernels {
            rows[0].push(kernel.kernel.clone());
            for (row, name) in rows[1..].iter_mut().zip(&names) {
                row.push(kernel.cell(name));
            }
            let last = rows.len() - 1;
            rows[last].push(cell(kernel.tally(), kernel.seconds()));
        }
        aligned(&rows)
    }
}

impl KernelReport {
    /// Of a kernel of which nothing has been run yet.
    pub fn new(resolved: &Resolved, archive: &Archive) -> Self {
        Self {
            kernel: resolved.version.to_string(),
            package_version: resolved.cached(archive).unwrap_or_default(),
            guests: Vec::new(),
        }
    }

    fn results(&self) -> impl Iterator<Item = &ProgramResult> {
        self.guests.iter().flat_map(|guest| &guest.programs)
    }

    fn tally(&self) -> Tally {
        let mut tally = Tally::default();
        self.guests.iter().for_each(|guest| tally.add(guest.tally()));
        tally
    }

    /// What its guests have taken together.
    fn seconds(&self) -> u64 {
        self.guests.iter().map(|guest| guest.seconds).sum()
    }

    fn cell(&self, name: &str) -> String {
        match self.results().find(|result| result.name == name) {
            Some(result) => cell(result.tally, result.seconds),
            None if self.guests.iter().any(|guest| guest.not_run.iter().any(|not_run| not_run == name)) => {
                "not reached".to_owned()
            }
            None => "-".to_owned(),
        }
    }
}

fn cell(Tally { passed, failed, skipped }: Tally, seconds: u64) -> String {
    format!("{passed}/{failed}/{skipped} {seconds}")
}

/// Rows in columns as wide as what is in them.
fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width =
        |column: usize| rows.iter().filter_map(|row| row.get(column)).map(String::len).max().unwrap_or(0);
    let widths: Vec<_> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cells: Vec<_> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        text += cells.join("  ").trim_end();
        text.push('\n');
    }
    text
}

/// Prints the kernels, and what is run on them.
pub fn list(kernels: &[Kernel], resolved: &[Resolved], archive: &Archive) {
    let mut rows = vec![["kernel", "version", "package", "what is run"].map(str::to_owned).to_vec()];
    for (kernel, resolved) in kernels.iter().zip(resolved) {
        let what = match kernel.expectation {
            Expectation::Works => "everything",
            Expectation::Refuses("panics") => "the refusal of a kernel that panics",
            Expectation::Refuses(_) => "the refusal of a kernel that is too old",
        };
        let cached = resolved.cached(archive).unwrap_or_else(|| "not fetched".to_owned());
        rows.push(vec![kernel.wanted.clone(), resolved.version.to_string(), cached, what.to_owned()]);
    }
    print!("{}", aligned(&rows));
    println!("\nnot run in a guest:");
    let left_out: Vec<_> =
        plan::LEFT_OUT.map(|(name, why)| vec![format!("  {name}"), why.to_owned()]).to_vec();
    print!("{}", aligned(&left_out));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(
        kernel: &str,
        results: &[(&str, u64, u64)],
        not_run: &[&str],
        trouble: Option<&str>,
    ) -> KernelReport {
        let result = |&(name, passed, failed): &(&str, u64, u64)| ProgramResult {
            name: name.to_owned(),
            tally: Tally { passed, failed, skipped: 0 },
            seconds: 7,
            ..ProgramResult::default()
        };
        let guest = GuestReport {
            log: "x.log".into(),
            seconds: 20,
            programs: results.iter().map(result).collect(),
            not_run: not_run.iter().map(|name| (*name).to_owned()).collect(),
            trouble: trouble.map(str::to_owned),
            last_lines: Vec::new(),
        };
        KernelReport { kernel: kernel.to_owned(), package_version: "1-1".to_owned(), guests: vec![guest] }
    }

    #[test]
    fn the_table_has_a_column_for_each_kernel_and_a_row_for_each_program() {
        let kernels = vec![
            report("6.1.0-47", &[("lab", 3, 0)], &["ping"], Some("Kernel panic")),
            report("7.3.4+deb13", &[("lab", 2, 1), ("ping", 12, 0)], &[], None),
        ];
        let report = Report { kernels };
        let expected = "\
passed/failed/skipped, seconds  6.1.0-47     7.3.4+deb13
lab                             3/0/0 7      2/1/0 7
ping                            not reached  12/0/0 7
in all                          3/1/0 20     14/1/0 20
";
        assert_eq!(report.table(), expected);
        assert_eq!(report.total(), Tally { passed: 17, failed: 2, skipped: 0 });
    }

    #[test]
    fn the_file_has_what_programs_ask_for() {
        let kernel = report("6.1.0-47", &[("lab", 3, 0)], &["ping"], Some("Kernel panic"));
        let value = serde_json::to_value(Report { kernels: vec![kernel] }).unwrap();
        let kernel = &value["kernels"][0];
        assert_eq!(kernel["kernel"], "6.1.0-47");
        let guest = &kernel["guests"][0];
        assert_eq!(guest["trouble"], "Kernel panic");
        assert_eq!(guest["not_run"][0], "ping");
        assert_eq!(
            (&guest["programs"][0]["name"], &guest["programs"][0]["passed"]),
            (&"lab".into(), &3.into())
        );
    }
}
