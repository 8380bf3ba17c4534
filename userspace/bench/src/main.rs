//! `netdext bench`: netdext beside the kernel's stack and its peers, in one run on one machine.

mod aims;
mod cases;
mod clock;
mod compare;
mod cpus;
mod facts;
mod html;
mod interrupt;
mod only;
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
use std::time::{Instant, SystemTime};

use anyhow::{Context, bail};
use netdext::privilege;

use self::cases::Bench;
use self::facts::Machine;
use self::only::Only;
use self::plan::Plan;
use self::process::Netdext;
use self::runner::Group;
use self::schema::{Report, SCHEMA_VERSION};
use crate::kernel::RiskArgs;
use crate::output::{complain, say};
use crate::units;

#[derive(clap::Args)]
pub struct Args {
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
    #[command(flatten)]
    risk: RiskArgs,
}

/// Runs the command: measures this executable, prints a table, writes the report. What goes wrong with a single case is
/// in the report.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let netdext = Netdext::this(args.risk)?;
    let mut plan = Plan::new(args.quick);
    plan.rounds = args.rounds.map_or(plan.rounds, usize::from);
    let bench = Bench { netdext: &netdext, plan };
    let groups = only::select(cases::all(&bench), &args.only);
    let groups = groups.unwrap_or_else(|message| units::usage_error(&message));
    privilege::require_for_run(true)?;
    args.risk.require_rings()?;
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
