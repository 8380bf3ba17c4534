//! `cargo xtask run --iface veth0`: set up, build, become root, run.

use std::ffi::OsString;

use crate::shell;

/// Arguments of `cargo xtask run`.
#[derive(clap::Args)]
pub struct Args {
    /// The interface for the driver; a veth pair is made if it is called vethN and missing
    #[arg(long)]
    iface: OsString,
    /// Everything after the interface goes to `netdext run` as it is, for example `--netns lab`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    netdext_arguments: Vec<OsString>,
}

/// Runs the command. On success it does not return: netdext takes the place of this process, so that
/// signals and the terminal are its own.
///
/// # Errors
/// A package is missing, the build fails, or netdext can't be started.
pub fn run(args: Args) -> anyhow::Result<()> {
    let netdext = shell::build_netdext(false)?;
    let mut command = shell::as_root(&netdext, &["RUST_LOG"])?;
    command.args(["run", "--lab", "--iface"]).arg(args.iface).args(args.netdext_arguments);
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
    fn what_follows_the_interface_is_passed_on_untouched() {
        let words =
            ["x", "--iface", "veth0", "--netns", "lab", "--addr=198.18.0.1/24", "--json", "--iface", "b"];
        let args = Cli::try_parse_from(words).map(|cli| cli.args).unwrap();
        assert_eq!(args.iface, "veth0");
        assert_eq!(args.netdext_arguments, words[3..]);
        let args = Cli::try_parse_from(["x", "--iface=veth2"]).map(|cli| cli.args).unwrap();
        assert!(args.netdext_arguments.is_empty());
    }

    #[test]
    fn the_interface_has_to_be_given() {
        assert!(Cli::try_parse_from(["x"]).is_err());
    }
}
