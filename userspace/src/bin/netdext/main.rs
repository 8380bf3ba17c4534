//! The command line of netdext.

mod generate;
mod lab;
mod output;
mod run;
mod units;

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use netdext::link::NetnsError;
use netdext::link::program::ProgramError;
use netdext::privilege::PrivilegeError;
use netdext::supervisor::StartError;
use tracing_subscriber::EnvFilter;

/// Something failed; one line on stderr says what.
const FAILED: u8 = 1;
/// A capability is missing, as sysexits(3) has it for EX_NOPERM.
const NOT_PERMITTED: u8 = 77;

#[derive(Parser)]
#[command(name = "netdext", version, about = "User-space Ethernet drivers over AF_XDP")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a driver on an interface in the foreground, until SIGINT or SIGTERM
    Run(Box<run::Args>),
    /// The veth pair to try a driver on
    Lab(lab::Args),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command {
        Command::Run(args) => {
            log_to_stderr(args.log_frames);
            run::run(&args)
        }
        Command::Lab(args) => {
            log_to_stderr(false);
            lab::run(&args)
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("netdext: {}", output::one_line(&error));
            ExitCode::from(exit_status(&error))
        }
    }
}

/// `RUST_LOG` decides what is logged; by default warnings, and what was asked for by a flag.
fn log_to_stderr(log_frames: bool) {
    let default = if log_frames { "warn,netdext::xdp=info" } else { "warn" };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
}

/// The exit status that scripts go by.
fn exit_status(error: &anyhow::Error) -> u8 {
    let not_permitted = error.chain().any(|cause| {
        matches!(cause.downcast_ref(), Some(PrivilegeError::Missing(_)))
            || matches!(cause.downcast_ref(), Some(ProgramError::NotPermitted { .. }))
            || matches!(cause.downcast_ref(), Some(StartError::Program(ProgramError::NotPermitted { .. })))
            || cause.downcast_ref().is_some_and(NetnsError::is_permission)
    });
    if not_permitted { NOT_PERMITTED } else { FAILED }
}
