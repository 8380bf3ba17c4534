//! `netdext bench`: finds and becomes the program that measures, which is a package of its own.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, anyhow};

/// Its name.
const PROGRAM: &str = "netdext-bench";

#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub struct Args {
    /// What netdext-bench takes; `netdext bench --help` shows it
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENT")]
    arguments: Vec<OsString>,
}

/// Runs the command. On success it does not return.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let this = std::env::current_exe().context("find this program")?;
    let path = std::env::var_os("PATH").unwrap_or_default();
    let program = find(&this, &path).with_context(|| {
        format!(
            "{PROGRAM} is neither beside {} nor on PATH: install it, or run `cargo xtask bench`",
            this.display()
        )
    })?;
    let error = Command::new(&program).arg("--netdext").arg(&this).args(&args.arguments).exec();
    Err(anyhow!(error).context(format!("start {}", program.display())))
}

/// The program beside this one, or else the first on PATH.
fn find(this: &Path, path: &std::ffi::OsStr) -> Option<PathBuf> {
    let beside = this.with_file_name(PROGRAM);
    std::iter::once(beside)
        .chain(std::env::split_paths(path).map(|directory| directory.join(PROGRAM)))
        .find(|candidate| candidate.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_beside_this_one_comes_before_those_on_path() {
        let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let this = ours.path().join("netdext");
        let path = std::env::join_paths([Path::new("/nowhere"), theirs.path()]).unwrap();
        assert_eq!(find(&this, &path), None);
        for directory in [&theirs, &ours] {
            std::fs::write(directory.path().join(PROGRAM), "").unwrap();
            assert_eq!(find(&this, &path), Some(directory.path().join(PROGRAM)));
        }
    }
}
