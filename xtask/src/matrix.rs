//! `cargo xtask matrix`: netdext's tests on Debian's kernels, in qemu by software emulation.
//!
//! Nothing is installed but what `cargo xtask setup --matrix` lists: the kernels are fetched as packages and unpacked
//! under `target/matrix`, where all else is as well.

mod archive;
mod boot;
mod cpio;
mod guest;
mod image;
mod kernels;
mod plan;
mod report;
mod results;
mod version;
mod work;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};
use sha2::{Digest as _, Sha256};

use archive::Archive;
pub use archive::KEYRING;
use kernels::{Index, Kernel};
use report::Report;
use work::Work;

use crate::setup;
use crate::shell;

/// Arguments of `cargo xtask matrix`.
#[derive(clap::Args)]
pub struct Args {
    /// Only this kernel: a series (6.12), a version (6.12.117) or `newest`; may be given several times
    #[arg(long, value_name = "SERIES_OR_VERSION", conflicts_with_all = ["load", "turn"])]
    kernel: Vec<String>,
    /// Only say which kernels there are and what is run on them
    #[arg(long)]
    list: bool,
    /// Only the load test: the programs through the verifier, and the verdict table
    #[arg(long, conflicts_with = "turn")]
    load: bool,
    /// All of one kernel, whose turn it is by the number of commits
    #[arg(long)]
    turn: bool,
    /// Ask Debian's archive for newer kernels, instead of taking those of the last time
    #[arg(long)]
    update: bool,
    /// Only the test programs of these names, or the tests whose names contain one of these
    filters: Vec<String>,
}

/// Runs the command; the last line that it prints is the count.
///
/// # Errors
/// Something needed is missing or can't be fetched or built. A test that fails is no error: it ends the process with
/// exit status 1.
pub fn run(args: Args) -> anyhow::Result<()> {
    if std::env::consts::ARCH != "x86_64" {
        bail!("the kernels of the matrix are for x86_64, and so have the test programs to be");
    }
    setup::ensure(setup::Purpose::Matrix)?;
    let directory = directory()?;
    let archive = Archive::new(&directory)?;
    let index = Index::load(&directory.join("kernels.json"), &archive, args.update)?;
    let kernels = kernels(&args)?;
    let resolved: Vec<_> =
        kernels.iter().map(|kernel| index.resolve(&kernel.wanted)).collect::<anyhow::Result<_>>()?;
    if args.list {
        report::list(&kernels, &resolved, &archive);
        return Ok(());
    }
    let built = shell::build(&["--workspace", "--all-targets"])?;
    let work = Work::new(&directory, &built, args.load, &args.filters)?;
    let report = Report { kernels: work.run(&kernels, &resolved, &archive)? };
    report.write(&directory.join("report.json"))?;
    report.write_verifier(&directory.join("verifier.json"))?;
    report.print();
    if report.total().failed > 0 {
        std::process::exit(1);
    }
    Ok(())
}

/// `target/matrix`, wherever cargo's target directory is.
fn directory() -> anyhow::Result<PathBuf> {
    let mut command = shell::cargo();
    let metadata = output_of(command.args(["metadata", "--format-version", "1", "--no-deps", "--offline"]))?;
    let metadata: serde_json::Value = serde_json::from_str(&metadata).context("read cargo's metadata")?;
    let target = metadata["target_directory"].as_str().context("cargo has a target directory")?;
    Ok(Path::new(target).join("matrix"))
}

fn kernels(args: &Args) -> anyhow::Result<Vec<Kernel>> {
    if !args.kernel.is_empty() {
        return Ok(args.kernel.iter().map(|wanted| kernels::named(wanted)).collect());
    }
    if args.load {
        return Ok(kernels::to_load());
    }
    if args.turn {
        let commits = output_of(Command::new("git").args(["rev-list", "--count", "HEAD"]))?;
        return Ok(vec![kernels::in_turn(commits.trim().parse().context("git counts commits")?)]);
    }
    Ok(kernels::all())
}

/// What a program has written; what it has complained of only if it fails.
///
/// # Errors
/// It can't be started, or its exit status is not 0.
fn output_of(command: &mut Command) -> anyhow::Result<String> {
    let output = command.output().with_context(|| format!("start {}", shell::printable(command)))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{} failed: {}\n{}", shell::printable(command), output.status, said.trim_end());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A name for what something was made of.
fn hash(parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
