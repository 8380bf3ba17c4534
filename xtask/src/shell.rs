//! Running other programs, as the user or as root.

use std::ffi::OsStr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, anyhow, bail};
use serde::Deserialize;

use crate::setup;

/// Where administrators' programs are that an ordinary user's PATH often leaves out.
const ADMIN_DIRECTORIES: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// Whether this process is root.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The path of a program on PATH or in one of the administrators' directories.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(ADMIN_DIRECTORIES.map(PathBuf::from))
        .map(|directory| directory.join(name))
        .find(|candidate| candidate.is_file())
}

/// A command as root: the program itself if this process is root, else through sudo, which keeps the
/// environment variables named in `keep`.
///
/// # Errors
/// This process is not root and there is no sudo.
pub fn as_root(program: impl AsRef<OsStr>, keep: &[&str]) -> anyhow::Result<Command> {
    if is_root() {
        return Ok(Command::new(program));
    }
    let Some(sudo) = find_program("sudo") else {
        bail!("{} has to run as root, and there is no sudo: run this as root", program.as_ref().display());
    };
    let mut command = Command::new(sudo);
    if !keep.is_empty() {
        command.arg(format!("--preserve-env={}", keep.join(",")));
    }
    command.arg("--").arg(program);
    Ok(command)
}

/// The cargo that runs this command.
pub fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Fails, naming the command, unless it succeeds.
///
/// # Errors
/// It can't be started, or its exit status is not 0.
pub fn succeed(command: &mut Command) -> anyhow::Result<()> {
    let status = command.status().with_context(|| format!("start {}", printable(command)))?;
    if !status.success() {
        bail!("{} failed: {status}", printable(command));
    }
    Ok(())
}

/// The command as one would type it.
pub fn printable(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

/// An executable that cargo has built.
pub struct Built {
    /// The name of its target: of the test file, the library or the binary.
    pub name: String,
    /// Whether it is a test program.
    pub is_test: bool,
    /// The directory of its package.
    pub package: PathBuf,
    /// Where it is.
    pub executable: PathBuf,
}

/// Builds with `cargo build ARGUMENTS` and returns the executables made, wherever the target directory is.
///
/// # Errors
/// The build fails or what cargo says of it can't be read.
pub fn build(arguments: &[&str]) -> anyhow::Result<Vec<Built>> {
    let mut command = cargo();
    command.arg("build").args(arguments).arg("--message-format=json-render-diagnostics");
    command.stdout(Stdio::piped()).stderr(Stdio::inherit());
    let output = command.output().with_context(|| format!("start {}", printable(&command)))?;
    if !output.status.success() {
        bail!("{} failed: {}", printable(&command), output.status);
    }
    let mut built = Vec::new();
    for line in output.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let message: Message = serde_json::from_slice(line)
            .with_context(|| format!("read what {} says", printable(&command)))?;
        built.extend(message.into_built());
    }
    Ok(built)
}

/// Makes sure that netdext can be built, and builds it in release; with the program that measures it beside it, if asked for.
///
/// # Errors
/// A package is missing, or the build fails.
pub fn build_netdext(with_bench: bool) -> anyhow::Result<PathBuf> {
    setup::ensure(setup::Purpose::Build)?;
    let mut arguments = vec!["--release", "--package", "netdext-cli", "--bin", "netdext"];
    if with_bench {
        arguments.extend(["--package", "netdext-bench", "--bin", "netdext-bench"]);
    }
    let built = build(&arguments)?.into_iter().find(|built| built.name == "netdext");
    Ok(built.context("cargo built no executable called netdext")?.executable)
}

/// The program that users start, and that which `netdext bench` becomes.
pub const NETDEXT_PROGRAMS: [&str; 2] = ["netdext", "netdext-bench"];

/// Puts a command in the place of this process, so that signals, terminal and exit status are its own. Returns only why
/// it can't be started.
pub fn replace_by(command: &mut Command) -> anyhow::Error {
    let error = command.exec();
    anyhow!(error).context(format!("start {}", printable(command)))
}

/// A line of `--message-format=json`: those about an artefact have all of these (cargo's external tools).
#[derive(Deserialize)]
struct Message {
    executable: Option<PathBuf>,
    manifest_path: Option<PathBuf>,
    target: Option<Target>,
    profile: Option<Profile>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
}

#[derive(Deserialize)]
struct Profile {
    test: bool,
}

impl Message {
    fn into_built(self) -> Option<Built> {
        Some(Built {
            executable: self.executable?,
            package: self.manifest_path?.parent()?.to_owned(),
            name: self.target?.name,
            is_test: self.profile?.test,
        })
    }
}

/// Whether a file of this name is in one of the directories.
pub fn in_any(directories: &[&Path], name: &str) -> bool {
    directories.iter().any(|directory| directory.join(name).is_file())
}
