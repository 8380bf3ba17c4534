//! `netdext completions`: what a shell needs to complete the command line.

use clap_complete::Shell;

use crate::output;

#[derive(clap::Args)]
pub struct Args {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

/// Runs the command: writes the script for `command` to standard output.
pub fn run(args: &Args, mut command: clap::Command) -> anyhow::Result<()> {
    let mut script = Vec::new();
    let program = command.get_name().to_owned();
    clap_complete::generate(args.shell, &mut command, program, &mut script);
    output::write_stdout(&script).map(|_| ())
}
