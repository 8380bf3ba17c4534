//! What a guest has said, line by line.

use serde::Serialize;

use crate::test::Tally;

/// What the guest's own lines begin with.
const MARK: &str = "@@ ";

/// What one test program has come to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ProgramResult {
    /// Its name.
    pub name: String,
    /// Its counts.
    #[serde(flatten)]
    pub tally: Tally,
    /// How long it took, by the guest's clock.
    pub seconds: u64,
    /// Tests that failed, and what else went wrong.
    pub failures: Vec<String>,
    /// Tests that failed and then, once more by themselves, passed.
    pub unsteady: Vec<String>,
    /// Tests that can't run there, and why.
    pub skips: Vec<String>,
    /// Lines of the kernel's log that tell of a fault of it.
    pub kernel_faults: Vec<String>,
    /// The verifier's figures by the kernel's series, as the test program `verifier` has them.
    #[serde(skip)]
    pub verifier: serde_json::Map<String, serde_json::Value>,
}

/// What a line has brought to its end.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    Nothing,
    /// The guest has booted.
    Ready,
    /// The test program has started, or its failed tests have, once more.
    Started(String),
    /// The test program has ended.
    Ended(ProgramResult),
    /// All of the plan has been run.
    Done,
}

/// Reads the lines of a guest.
#[derive(Default)]
pub struct Reader {
    running: Option<ProgramResult>,
    /// There has been a `test result:` of it.
    counted: bool,
    panic: Option<String>,
}

impl Reader {
    /// Takes in the next line.
    pub fn line(&mut self, line: &str) -> Step {
        if let Some(said) = line.strip_prefix(MARK) {
            return self.guest_line(said);
        }
        if self.panic.is_none() && line.contains("Kernel panic") {
            self.panic = Some(without_time(line).to_owned());
        }
        let Some(running) = &mut self.running else { return Step::Nothing };
        if let Some(figures) = line.strip_prefix("verifier: {") {
            if let Ok(serde_json::Value::Object(figures)) = serde_json::from_str(&format!("{{{figures}")) {
                running.verifier.extend(figures);
            }
        } else if line.starts_with("test result: ") {
            running.tally.count(line);
            self.counted = true;
        } else if let Some(test) =
            line.strip_prefix("test ").and_then(|rest| rest.strip_suffix(" ... FAILED"))
        {
            running.failures.push(test.to_owned());
        } else if let Some(logged) = line.strip_prefix("kernel: ") {
            let fault =
                ["WARNING: ", "BUG: ", "Oops: "].iter().any(|begin| without_time(logged).starts_with(begin));
            running.kernel_faults.extend(fault.then(|| without_time(logged).to_owned()));
        }
        Step::Nothing
    }

    fn guest_line(&mut self, said: &str) -> Step {
        let (word, rest) = said.split_once(' ').unwrap_or((said, ""));
        match (word, &mut self.running) {
            ("ready", _) => Step::Ready,
            ("done", _) => Step::Done,
            ("start", _) => {
                self.running = Some(ProgramResult { name: rest.to_owned(), ..ProgramResult::default() });
                self.counted = false;
                Step::Started(rest.to_owned())
            }
            ("again", Some(running)) => {
                running.unsteady = std::mem::take(&mut running.failures);
                running.tally.failed = 0;
                self.counted = false;
                Step::Started(rest.to_owned())
            }
            ("skip", Some(running)) => {
                running.skips.push(rest.to_owned());
                Step::Nothing
            }
            ("left", Some(running)) => {
                running.failures.push(format!("left behind: {rest}"));
                running.tally.failed += 1;
                Step::Nothing
            }
            ("end", Some(_)) => self.end(rest),
            _ => Step::Nothing,
        }
    }

    /// `NAME STATUS SECONDS`.
    fn end(&mut self, said: &str) -> Step {
        let Some(mut result) = self.running.take() else { return Step::Nothing };
        let mut words = said.split_whitespace().skip(1);
        let status = words.next().unwrap_or_default();
        result.unsteady.retain(|test| !result.failures.contains(test));
        result.seconds = words.next().and_then(|seconds| seconds.parse().ok()).unwrap_or_default();
        result.tally.skip(result.skips.len() as u64);
        if !self.counted || (status != "0" && result.tally.failed == 0) {
            let why = match status {
                // By the signal of `timeout`.
                "124" | "137" | "143" => "it did not end in time".to_owned(),
                _ => format!("it ended with status {status} and without a result"),
            };
            result.failures.push(why);
            result.tally.failed += 1;
        }
        Step::Ended(result)
    }

    /// What a guest that ended before it was done has died of, as far as it said so, and the program that was running.
    pub fn died(self) -> (Option<String>, Option<String>) {
        (self.panic, self.running.map(|running| running.name))
    }
}

/// A line of the kernel without its time in brackets.
fn without_time(line: &str) -> &str {
    let rest = line.strip_prefix('[').and_then(|rest| rest.split_once("] "));
    rest.map_or(line, |(_, rest)| rest).trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(lines: &str) -> (Reader, Vec<Step>) {
        let mut reader = Reader::default();
        let steps =
            lines.lines().map(|line| reader.line(line)).filter(|step| *step != Step::Nothing).collect();
        (reader, steps)
    }

    fn only_result(lines: &str) -> ProgramResult {
        let result = read(lines).1.into_iter().find_map(|step| match step {
            Step::Ended(result) => Some(result),
            _ => None,
        });
        result.unwrap()
    }

    #[test]
    fn a_program_is_counted_from_its_start_to_its_end() {
        let (_, steps) = read(
            "booting\n@@ ready 6.1.0 7\n@@ start lab\ntest a ... ok\n\
             test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured\n@@ skip b: no program x\n@@ end lab 0 12\n@@ done",
        );
        let result = ProgramResult {
            name: "lab".to_owned(),
            tally: Tally { passed: 2, failed: 0, skipped: 2 },
            seconds: 12,
            skips: vec!["b: no program x".to_owned()],
            ..ProgramResult::default()
        };
        assert_eq!(steps, [Step::Ready, Step::Started("lab".to_owned()), Step::Ended(result), Step::Done]);
    }

    #[test]
    fn the_figures_of_the_verifier_are_kept() {
        let result = only_result(
            "@@ start verifier\nverifier: netdext: 7 instructions\nverifier: {\"6.1\":{\"netdext\":[7,1]}}\n\
             test result: ok. 1 passed\n@@ end verifier 0 12",
        );
        assert_eq!(serde_json::Value::Object(result.verifier)["6.1"]["netdext"][0], 7);
    }

    #[test]
    fn failures_are_named() {
        let result = only_result(
            "@@ start lab\ntest a_test ... FAILED\ntest other ... ok\n\
             test result: FAILED. 1 passed; 1 failed; 0 ignored\n@@ end lab 101 3",
        );
        assert_eq!(result.failures, ["a_test"]);
        assert_eq!(result.tally, Tally { passed: 1, failed: 1, skipped: 0 });
    }

    #[test]
    fn a_test_that_fails_has_one_more_try_and_is_named() {
        let first = "@@ start lab\ntest a ... FAILED\ntest b ... FAILED\ntest result: FAILED. 5 passed; 2 failed; 0 ignored\n\
                     @@ again lab\ntest a ... ok\n";
        let passed = only_result(&format!(
            "{first}test b ... ok\ntest result: ok. 2 passed; 0 failed; 0 ignored\n@@ end lab 0 9"
        ));
        assert_eq!((passed.tally, passed.failures.len()), (Tally { passed: 7, failed: 0, skipped: 0 }, 0));
        assert_eq!(passed.unsteady, ["a", "b"]);
        let failed = only_result(&format!(
            "{first}test b ... FAILED\ntest result: FAILED. 1 passed; 1 failed; 0 ignored\n@@ end lab 101 9"
        ));
        assert_eq!(failed.tally, Tally { passed: 6, failed: 1, skipped: 0 });
        assert_eq!((failed.unsteady, failed.failures), (vec!["a".to_owned()], vec!["b".to_owned()]));
        let hung = only_result(&format!("{first}@@ end lab 124 9"));
        assert_eq!((hung.tally.failed, hung.failures), (1, vec!["it did not end in time".to_owned()]));
    }

    #[test]
    fn a_program_without_a_result_has_failed() {
        let result = only_result("@@ start lab\ntest a ... ok\n@@ end lab 0 3");
        assert_eq!(result.failures, ["it ended with status 0 and without a result"]);
        let result = only_result("@@ start lab\n@@ end lab 143 300");
        assert_eq!((result.failures, result.tally.failed), (vec!["it did not end in time".to_owned()], 1));
    }

    #[test]
    fn what_is_left_behind_is_a_failure() {
        let result = only_result(
            "@@ start lab\ntest result: ok. 3 passed; 0 failed; 0 ignored\n\
             @@ left network namespace nxt-5-1\n@@ end lab 0 12",
        );
        assert_eq!(result.failures, ["left behind: network namespace nxt-5-1"]);
        assert_eq!(result.tally, Tally { passed: 3, failed: 1, skipped: 0 });
    }

    #[test]
    fn faults_in_the_log_of_the_kernel_are_kept() {
        let result = only_result(
            "@@ start lab\nkernel: [   12.345678] WARNING: CPU: 0 PID: 9 at net/xdp/xsk.c:1\n\
             kernel: [   12.4] veth0: link up\ntest result: ok. 1 passed\n@@ end lab 0 1",
        );
        assert_eq!(result.kernel_faults, ["WARNING: CPU: 0 PID: 9 at net/xdp/xsk.c:1"]);
        assert_eq!(result.tally.failed, 0);
    }

    #[test]
    fn a_panic_is_told_with_the_program_that_ran() {
        let (reader, _) =
            read("@@ start lab\n[   20.1] Kernel panic - not syncing: Fatal exception\n[ 20.2] more");
        let panic = "Kernel panic - not syncing: Fatal exception".to_owned();
        assert_eq!(reader.died(), (Some(panic), Some("lab".to_owned())));
        assert_eq!(read("@@ ready\n").0.died(), (None, None));
    }
}
