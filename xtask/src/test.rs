//! `cargo xtask test`: every test, and a count that hides nothing.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;
use serde::Serialize;

use crate::privileged::{self, Leftovers};
use crate::setup;
use crate::shell::{self, Built};

/// Arguments of `cargo xtask test`.
#[derive(clap::Args)]
pub struct Args {
    /// A test that can't run here fails instead of being skipped
    #[arg(long)]
    no_skip: bool,
    /// Only the tests whose names contain one of these
    filters: Vec<String>,
}

/// What has been counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// Tests that ran and passed.
    pub passed: u64,
    /// Tests that failed, and test programs that ended abnormally.
    pub failed: u64,
    /// Tests that did not run.
    pub skipped: u64,
}

impl Tally {
    /// Adds what a line such as `test result: ok. 20 passed; 0 failed; 1 ignored; ...` says.
    pub fn count(&mut self, line: &str) {
        let Some(counts) = line.strip_prefix("test result: ") else { return };
        let number_before = |word: &str| -> u64 {
            let before = counts.split(word).next().filter(|before| before.len() < counts.len());
            let number = before.and_then(|before| before.split_whitespace().last());
            number.and_then(|number| number.parse().ok()).unwrap_or(0)
        };
        self.passed += number_before(" passed");
        self.failed += number_before(" failed");
        self.skipped += number_before(" ignored");
    }

    /// Adds another count.
    pub fn add(&mut self, other: Tally) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }

    /// A test that skips itself returns like one that passed: moves those to where they belong.
    pub fn skip(&mut self, tests: u64) {
        self.passed = self.passed.saturating_sub(tests);
        self.skipped += tests;
    }
}

/// The directory of the package whose tests need root.
pub const PRIVILEGED: &str = "tests";
/// How many of those run at a time: each has processes of its own, and deadlines.
const PRIVILEGED_THREADS: &str = "2";

/// Runs the command; the last line that it prints is the count.
///
/// # Errors
/// A test failed, or with `--no-skip` was skipped; something was left behind; a build failed.
pub fn run(args: Args) -> anyhow::Result<()> {
    setup::ensure(setup::Purpose::Tests)?;
    // All at once: a dependency is compiled once for each set of features, and those depend on what is built
    // together.
    let built = shell::build(&["--workspace", "--all-targets"])?;
    let netdext = built.iter().find(|built| built.name == "netdext" && !built.is_test);
    let netdext = &netdext.context("cargo built no executable called netdext")?.executable;
    let (privileged, ordinary): (Vec<_>, Vec<_>) =
        built.iter().filter(|built| built.is_test).partition(|built| built.package.ends_with(PRIVILEGED));
    let example = example(netdext)?;
    let (example_tests, example): (Vec<_>, Vec<_>) = example.iter().partition(|built| built.is_test);
    let example = &example.first().context("cargo built no executable of the example")?.executable;
    let session = Session { args, netdext, example, skip_log: SkipLog::create(netdext)? };

    let mut tally = Tally::default();
    for test in ordinary.into_iter().chain(example_tests) {
        tally.add(session.run(test, Command::new(&test.executable), "")?);
    }
    tally.add(session.documentation()?);
    let before = Leftovers::look(&[netdext, example])?;
    for test in privileged {
        let mut command = root_or_user(&test.executable)?;
        command.args(["--test-threads", PRIVILEGED_THREADS]);
        tally.add(session.run(test, command, " (as root)")?);
    }
    session.finish(tally, &Leftovers::look(&[netdext, example])?.since(&before))
}

/// The manifest of the example, a workspace of its own.
const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../userspace/examples/udp-echo/Cargo.toml");

/// Builds the example: its tests as its author runs them, without netdext's command line, and its program, whose
/// dependencies are for the most part what has been built for netdext.
fn example(netdext: &Path) -> anyhow::Result<Vec<Built>> {
    let target = netdext.ancestors().nth(2).context("netdext is in TARGET/PROFILE")?.to_string_lossy();
    let place = ["--manifest-path", EXAMPLE, "--target-dir", &target];
    let mut built = shell::build(&[&place[..], &["--tests", "--no-default-features"]].concat())?;
    built.extend(shell::build(&[&place[..], &["--bins"]].concat())?);
    Ok(built)
}

/// The variables that sudo has to let through to a privileged test.
const ROOT_ENVIRONMENT: [&str; 7] = [
    "NETDEXT_BIN",
    "NETDEXT_EXAMPLE_BIN",
    "NETDEXT_SKIP_LOG",
    "NETDEXT_NO_SKIP",
    "CARGO_MANIFEST_DIR",
    "RUST_LOG",
    "RUST_BACKTRACE",
];

/// Without root and sudo the privileged tests run all the same: they skip themselves, and are counted.
fn root_or_user(program: &Path) -> anyhow::Result<Command> {
    if shell::is_root() || shell::find_program("sudo").is_some() {
        shell::as_root(program, &ROOT_ENVIRONMENT)
    } else {
        Ok(Command::new(program))
    }
}

/// What all the test programs of one run have in common.
struct Session<'a> {
    args: Args,
    netdext: &'a Path,
    example: &'a Path,
    skip_log: SkipLog,
}

impl Session<'_> {
    /// Runs a test program the way cargo does: in the directory of its package.
    fn run(&self, test: &Built, mut command: Command, note: &str) -> anyhow::Result<Tally> {
        let package = test.package.file_name().unwrap_or_default().display();
        println!("     Running {package}: {}{note}", test.name);
        command.args(&self.args.filters).current_dir(&test.package).env("CARGO_MANIFEST_DIR", &test.package);
        count_output(self.environment(&mut command))
    }

    /// The tests in the documentation, those that must not compile among them.
    fn documentation(&self) -> anyhow::Result<Tally> {
        let mut command = shell::cargo();
        command.args(["test", "--workspace", "--doc", "--no-fail-fast", "--"]).args(&self.args.filters);
        count_output(self.environment(&mut command))
    }

    fn environment<'c>(&self, command: &'c mut Command) -> &'c mut Command {
        command.env("NETDEXT_BIN", self.netdext).env("NETDEXT_EXAMPLE_BIN", self.example);
        command.env("NETDEXT_SKIP_LOG", &self.skip_log.path);
        if self.args.no_skip {
            command.env("NETDEXT_NO_SKIP", "1")
        } else {
            command.env_remove("NETDEXT_NO_SKIP")
        }
    }

    /// Prints what was skipped and left behind, and the count as the last line.
    fn finish(&self, mut tally: Tally, left: &[String]) -> anyhow::Result<()> {
        let skips = self.skip_log.read()?;
        tally.skip(skips.len() as u64);
        for skip in &skips {
            println!("SKIP: {skip}");
        }
        for what in left {
            println!("LEFT BEHIND: {what}");
        }
        println!("{} passed, {} failed, {} skipped", tally.passed, tally.failed, tally.skipped);
        if tally.failed > 0 || !left.is_empty() || (self.args.no_skip && tally.skipped > 0) {
            std::process::exit(1);
        }
        Ok(())
    }
}

/// Runs a test program, shows what it prints and counts its results. An end that no result explains, such as
/// a crash or a build that fails, counts as one more failure.
fn count_output(command: &mut Command) -> anyhow::Result<Tally> {
    let mut tally = Tally::default();
    let end = privileged::run_with_deadline(command, |line| {
        println!("{line}");
        tally.count(line);
    })?;
    if !end.success && tally.failed == 0 {
        println!("FAILED: {}: {}", shell::printable(command), end.description);
        tally.failed += 1;
    }
    Ok(tally)
}

/// The file to which every skipped test adds a line. It is beside the built binary, because in /tmp root may
/// not write to a file of another user (fs.protected_regular).
struct SkipLog {
    path: PathBuf,
}

impl SkipLog {
    fn create(netdext: &Path) -> anyhow::Result<Self> {
        let path = netdext.with_file_name("skipped-tests.log");
        std::fs::write(&path, "").with_context(|| format!("create {}", path.display()))?;
        Ok(Self { path })
    }

    fn read(&self) -> anyhow::Result<Vec<String>> {
        let text = std::fs::read_to_string(&self.path);
        let text = text.with_context(|| format!("read {}", self.path.display()))?;
        Ok(text.lines().map(str::to_owned).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_counted_and_other_lines_are_not() {
        let mut tally = Tally::default();
        tally.count(
            "test result: ok. 20 passed; 0 failed; 1 ignored; 0 measured; 3 filtered out; finished in 0.01s",
        );
        tally.count("test result: FAILED. 2 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out");
        tally.count("test the_text_test_result_9_passed ... ok");
        tally.count("9 passed");
        assert_eq!(tally, Tally { passed: 22, failed: 3, skipped: 1 });
    }

    #[test]
    fn a_test_that_skipped_itself_did_not_pass() {
        let mut tally = Tally { passed: 5, failed: 0, skipped: 1 };
        tally.skip(2);
        assert_eq!(tally, Tally { passed: 3, failed: 0, skipped: 3 });
    }

    #[test]
    fn a_program_that_dies_without_a_result_is_a_failure() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo 'test result: ok. 1 passed; 0 failed; 0 ignored'; kill -9 $$"]);
        assert_eq!(count_output(&mut command).unwrap(), Tally { passed: 1, failed: 1, skipped: 0 });
    }
}
