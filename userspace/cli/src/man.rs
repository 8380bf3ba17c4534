//! `netdext man`: the manual, made from the same definitions as `--help`.

use std::path::PathBuf;

use anyhow::Context;
use clap_mangen::Man;

use crate::output;

#[derive(clap::Args)]
pub struct Args {
    /// Write a page for netdext and one for each of its commands into this directory, which must exist
    #[arg(value_name = "DIR")]
    directory: Option<PathBuf>,
}

/// Runs the command: without a directory writes the page of netdext itself to standard output.
pub fn run(args: &Args, command: clap::Command) -> anyhow::Result<()> {
    // It has no page of its own to refer to.
    let command = command.disable_help_subcommand(true);
    match &args.directory {
        None => {
            let mut page = Vec::new();
            Man::new(command).render(&mut page).context("make the manual page")?;
            output::write_stdout(&page).map(|_| ())
        }
        Some(directory) => clap_mangen::generate_to(command, directory)
            .with_context(|| format!("write the manual pages to {}", directory.display())),
    }
}
