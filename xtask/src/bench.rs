//! `cargo xtask bench`: build in release, become root, `netdext bench`.

use std::ffi::OsString;
use std::path::Path;

use anyhow::Context;

use crate::shell;

/// Arguments of `cargo xtask bench`.
#[derive(clap::Args)]
pub struct Args {
    /// Everything goes to `netdext bench` as it is, for example `--quick`; the report is in target/bench unless `--out`
    /// says otherwise
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENT")]
    netdext_arguments: Vec<OsString>,
}

/// Runs the command. On success it does not return: netdext takes the place of this process, so that signals and the
/// exit status are its own.
///
/// # Errors
/// A package is missing, the build fails, or netdext can't be started.
pub fn run(args: Args) -> anyhow::Result<()> {
    let netdext = shell::build_netdext(true)?;
    // It is `target/release/netdext`, wherever the target directory is.
    let target = netdext.parent().and_then(Path::parent);
    let target = target.with_context(|| format!("{} is in no folder", netdext.display()))?;
    let mut command = shell::as_root(&netdext, &["PATH", "RUST_LOG"])?;
    // A second `--out`, of the arguments, takes the place of this one.
    command.args(["bench", "--out"]).arg(target.join("bench")).args(args.netdext_arguments);
    Err(shell::replace_by(&mut command))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn arguments_are_passed_on_untouched() {
        let words = ["x", "--quick", "--out", "a b", "--compare=old.json"];
        let args = Cli::try_parse_from(words).map(|cli| cli.args).unwrap();
        assert_eq!(args.netdext_arguments, words[1..]);
        assert!(Cli::try_parse_from(["x"]).unwrap().args.netdext_arguments.is_empty());
    }
}
