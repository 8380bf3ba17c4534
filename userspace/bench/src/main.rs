//! The program behind `netdext bench`: netdext beside the kernel's stack and its peers, in one run on one machine.

mod aims;
mod cases;
mod clock;
mod compare;
mod cpus;
mod facts;
mod html;
mod interrupt;
mod only;
mod output;
mod plan;
mod plot;
mod prober;
mod process;
mod program;
mod runner;
mod schema;
mod spread;
mod subject;
mod table;
mod testpmd;
mod thread;
mod wire;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Instant, SystemTime};

use anyhow::{Context, bail};
use clap::Parser;
use netdext::error::one_line;
use netdext_host::kernel;
use netdext_host::privilege;

use self::cases::Bench;
use self::facts::Machine;
use self::only::Only;
use self::plan::Plan;
use self::process::Netdext;
use self::runner::Group;
use self::schema::{Report, SCHEMA_VERSION};
use crate::output::{complain, say};

/// Something failed; one line on stderr says what.
const FAILED: u8 = 1;
/// A capability is missing, as sysexits(3) has it for EX_NOPERM.
const NOT_PERMITTED: u8 = 77;

/// Measure netdext beside the kernel's stack and its peers, and write a report
#[derive(Parser)]
#[command(name = "netdext-bench", bin_name = "netdext bench", version)]
struct Args {
    /// Less of everything: done within two minutes instead of fifteen, with more noise
    #[arg(long)]
    quick: bool,
    /// Where report.json and report.html go; made if it is missing
    #[arg(long, value_name = "DIR", default_value = "netdext-bench", overrides_with = "out")]
    out: PathBuf,
    /// Also print what has changed since this earlier report.json, beyond the noise
    #[arg(long, value_name = "OLD.json")]
    compare: Option<PathBuf>,
    /// Measure only this case, by its name in the report, or of it the subjects with this text in their names, for
    /// example echo_rate or echo_rate:spin; repeatable
    #[arg(long, value_name = "CASE[:TEXT]")]
    only: Vec<Only>,
    /// Samples of each figure at the most, instead of 5 (3 with --quick); the time for all of it stays the same
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: Option<u16>,
    /// The netdext to measure, instead of the one beside this program
    #[arg(long, value_name = "FILE", overrides_with = "netdext")]
    netdext: Option<PathBuf>,
    /// Measure also on a kernel that can panic as soon as an AF_XDP socket sends: Linux 6.16.8 to 6.17.10, see
    /// docs/kernels.md
    #[arg(long, help_heading = "Risks")]
    risk_kernel_panic: bool,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain!("netdext: {}", one_line(error.as_ref()));
            ExitCode::from(if privilege::is_permission(error.as_ref()) { NOT_PERMITTED } else { FAILED })
        }
    }
}

/// Measures, prints a table, writes the report. What goes wrong with a single case is in the report.
fn run(args: &Args) -> anyhow::Result<()> {
    let netdext = Netdext::find(args.netdext.as_deref(), args.risk_kernel_panic)?;
    let mut plan = Plan::new(args.quick);
    plan.rounds = args.rounds.map_or(plan.rounds, usize::from);
    let bench = Bench { netdext: &netdext, plan };
    let groups = only::select(cases::all(&bench), &args.only);
    let groups = groups.unwrap_or_else(|message| usage_error(&message));
    privilege::require_for_run(true)?;
    kernel::require_rings(args.risk_kernel_panic)?;
    // Before the measuring: neither should be found out after a quarter of an hour.
    let old = args.compare.as_deref().map(read_report).transpose()?;
    fs::create_dir_all(&args.out).with_context(|| format!("create {}", args.out.display()))?;
    let report = measure(&bench, groups, !args.only.is_empty())?;
    let mut text = table::render(&report);
    let json = args.out.join("report.json");
    let object = serde_json::to_string_pretty(&report).context("write the report as JSON")? + "\n";
    fs::write(&json, object).with_context(|| format!("write {}", json.display()))?;
    let page = args.out.join("report.html");
    fs::write(&page, html::render(&report)?).with_context(|| format!("write {}", page.display()))?;
    text += &format!("wrote {} and {}\n", json.display(), page.display());
    if let Some(old) = old {
        text += &compare::render(&old, &report);
    }
    say!("{}", text.trim_end());
    Ok(())
}

/// Ends with exit status 2: a value that names nothing.
fn usage_error(message: &str) -> ! {
    clap::Error::raw(clap::error::ErrorKind::ValueValidation, format!("{message}\n")).exit()
}

fn measure(bench: &Bench<'_>, groups: Vec<Group<'_>>, in_part: bool) -> anyhow::Result<Report> {
    for (name, package) in [("ip", "iproute2"), ("ethtool", "ethtool")] {
        if program::find(name).is_none() {
            bail!("no {name} on PATH, which the benchmark makes its interfaces with: install {package}");
        }
    }
    if cfg!(debug_assertions) {
        complain!("this netdext is a debug build: its figures are not those of a release");
    }
    interrupt::watch()?;
    wire::remove_orphans();
    let began = Instant::now();
    let started = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let machine = Machine::look(bench.netdext.binary());
    let cases = runner::run(&bench.plan, groups)?;
    let mut aims = aims::look(&cases);
    if in_part {
        // The others are not missing: nobody asked for them.
        aims.retain(|aim| aim.figure.is_some());
    }
    Ok(Report {
        schema: SCHEMA_VERSION,
        quick: bench.plan.quick,
        started_s: started.as_secs(),
        took_ns: began.elapsed().as_nanos() as u64,
        rounds: bench.plan.rounds,
        machine,
        changes: cases::changes(),
        aims,
        cases,
    })
}

fn read_report(path: &Path) -> anyhow::Result<Report> {
    let text = fs::read(path).with_context(|| format!("read {}", path.display()))?;
    let schema: Schema = serde_json::from_slice(&text)
        .with_context(|| format!("{} is no report of a benchmark", path.display()))?;
    if schema.schema != SCHEMA_VERSION {
        bail!(
            "{} is of schema {}, and this is {SCHEMA_VERSION}: compare with a report of the same",
            path.display(),
            schema.schema
        );
    }
    serde_json::from_slice(&text).with_context(|| format!("{} is no whole report", path.display()))
}

/// The part of a report that says how to read the rest.
#[derive(serde::Deserialize)]
struct Schema {
    schema: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_netdext_that_the_user_names_takes_the_place_of_the_one_that_starts_the_benchmark() {
        let words = ["netdext-bench", "--netdext", "/usr/bin/netdext", "--quick", "--netdext", "mine"];
        let args = Args::try_parse_from(words).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(args.netdext.as_deref(), Some(Path::new("mine")));
    }
}
