//! `cargo xtask bench`: netdext beside the kernel's stack and its peers, in one run on one machine.

mod cases;
mod compare;
mod facts;
mod html;
mod interrupt;
mod plot;
mod prober;
mod process;
mod runner;
mod schema;
mod spread;
mod subject;
mod table;
mod wire;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

use anyhow::{Context, bail};

use self::cases::Bench;
use self::facts::Machine;
use self::process::Netdext;
use self::runner::Plan;
use self::schema::{Report, SCHEMA_VERSION};
use crate::{setup, shell};

/// Arguments of `cargo xtask bench`.
#[derive(clap::Args)]
pub struct Args {
    /// Less of everything: done in two minutes, with more noise
    #[arg(long)]
    quick: bool,
    /// Where report.json and report.html go [default: target/bench]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Also print what has changed since this earlier report.json, beyond the noise
    #[arg(long, value_name = "OLD.json")]
    compare: Option<PathBuf>,
    /// The netdext to measure, already built; set when this command starts itself again as root
    #[arg(long, hide = true)]
    netdext: Option<PathBuf>,
}

/// Runs the command: builds netdext in release, becomes root, measures, writes the report.
///
/// # Errors
/// Something can't be set up, a signal came, or the report can't be written. What goes wrong with a single case is in
/// the report.
pub fn run(args: Args) -> anyhow::Result<()> {
    // Read first: a wrong name should not be found out after a quarter of an hour.
    let old = args.compare.as_deref().map(read_report).transpose()?;
    let netdext = match &args.netdext {
        Some(netdext) => netdext.clone(),
        None => build()?,
    };
    let out = match &args.out {
        Some(out) => out.clone(),
        None => target_of(&netdext)?.join("bench"),
    };
    if !shell::is_root() {
        return as_root(&args, &netdext, &out);
    }
    fs::create_dir_all(&out).with_context(|| format!("create {}", out.display()))?;
    let report = measure(args.quick, &netdext)?;
    print!("{}", table::render(&report));
    let json = out.join("report.json");
    let text = serde_json::to_string_pretty(&report).context("write the report as JSON")? + "\n";
    fs::write(&json, text).with_context(|| format!("write {}", json.display()))?;
    let page = out.join("report.html");
    fs::write(&page, html::render(&report)?).with_context(|| format!("write {}", page.display()))?;
    println!("wrote {} and {}", json.display(), page.display());
    if let Some(old) = old {
        print!("{}", compare::render(&old, &report));
    }
    Ok(())
}

fn measure(quick: bool, netdext: &Path) -> anyhow::Result<Report> {
    for program in ["ip", "ethtool"] {
        if shell::find_program(program).is_none() {
            bail!("no {program}: run `cargo xtask setup --tests`");
        }
    }
    interrupt::watch()?;
    wire::remove_orphans();
    let began = Instant::now();
    let started = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let machine = Machine::look();
    let netdext = Netdext::new(netdext)?;
    let bench = Bench { netdext: &netdext, plan: Plan::new(quick) };
    let cases = cases::run_all(&bench)?;
    Ok(Report {
        schema: SCHEMA_VERSION,
        quick,
        started_s: started.as_secs(),
        took_ns: began.elapsed().as_nanos() as u64,
        rounds: bench.plan.rounds,
        machine,
        changes: cases::changes(),
        cases,
    })
}

fn build() -> anyhow::Result<PathBuf> {
    setup::ensure(setup::Purpose::Build)?;
    let built = shell::build(&["--release", "--package", "netdext", "--bin", "netdext"])?;
    Ok(built.into_iter().next().context("cargo built no executable")?.executable)
}

/// The target directory that holds `target/release/netdext`.
fn target_of(netdext: &Path) -> anyhow::Result<&Path> {
    netdext.parent().and_then(Path::parent).with_context(|| format!("{} is in no folder", netdext.display()))
}

/// Runs this command again as root, with what was built as the user.
fn as_root(args: &Args, netdext: &Path, out: &Path) -> anyhow::Result<()> {
    let this = std::env::current_exe().context("find this program")?;
    let mut command = shell::as_root(this, &["PATH", "RUST_LOG"])?;
    command.arg("bench").arg("--netdext").arg(netdext).arg("--out").arg(out);
    if args.quick {
        command.arg("--quick");
    }
    if let Some(old) = &args.compare {
        command.arg("--compare").arg(old);
    }
    shell::succeed(&mut command)
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
