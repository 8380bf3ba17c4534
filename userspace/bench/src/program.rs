//! Other people's programs, found and run.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, bail};

/// Where administrators' programs are that an ordinary user's PATH often leaves out.
const ADMIN_DIRECTORIES: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// The path of a program on PATH or in one of the administrators' directories.
pub fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(ADMIN_DIRECTORIES.map(PathBuf::from))
        .map(|directory| directory.join(name))
        .find(|candidate| candidate.is_file())
}

/// Runs a command to its end and returns what it wrote to its standard output.
///
/// # Errors
/// It can't be started, or it fails: its words are in the error.
pub fn output_of(command: &mut Command) -> anyhow::Result<String> {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let line = words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ");
    let output = command.output().with_context(|| format!("start `{line}`"))?;
    if !output.status.success() {
        bail!("`{line}` failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_fails_is_quoted_with_what_was_asked() {
        assert_eq!(output_of(Command::new("echo").args(["a", "b"])).unwrap(), "a b\n");
        let error = output_of(Command::new("sh").args(["-c", "echo no >&2; exit 1"])).unwrap_err();
        assert_eq!(error.to_string(), "`sh -c echo no >&2; exit 1` failed: no");
        assert!(find("sh").is_some() && find("no-such-program").is_none());
    }
}
