//! The command line of netdext, for the drivers of a registry.
//!
//! A program with a driver of its own beside those that come with netdext:
//!
//! ```no_run
//! use std::process::ExitCode;
//!
//! fn main() -> ExitCode {
//!     // With a driver type: netdext_cli::builtin().with::<UdpEcho>()
//!     netdext_cli::main(netdext_cli::builtin())
//! }
//! ```

mod bench;
mod capture;
mod command_line;
mod completions;
mod daemon;
mod doctor;
mod driver_args;
mod engine;
mod inject;
mod kernel;
mod lab;
mod lifecycle;
mod man;
mod observe;
mod output;
mod ping;
mod rule_args;
mod run;
mod select;
mod stats;
mod steer;
mod tell;
mod top;
mod units;
mod view;

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use netdext::error::one_line;
pub use netdext::registry::{self, Registry};
use netdext_daemon::control::{BindError, ClientError, RuntimeDirError};
use netdext_daemon::registry::RegistryError;
pub use netdext_drivers::builtin;
use netdext_host::privilege;
use tracing_subscriber::EnvFilter;

use crate::driver_args::DriverArgs;
use crate::output::complain;

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
    /// Run a driver on an interface in the foreground, until SIGINT, SIGTERM or SIGHUP
    Run(Box<run::Args>),
    /// Run the drivers that are installed, until SIGINT, SIGTERM or SIGHUP
    Daemon(daemon::Args),
    /// Install a driver in the daemon, and start it
    Install(lifecycle::InstallArgs),
    /// Stop an installed driver, and remove all that it made
    Uninstall(lifecycle::ChoiceArgs),
    /// List the drivers
    List(lifecycle::ListArgs),
    /// Show the drivers as a tree: interface, driver, queues, pool, timers
    Ioreg(lifecycle::ListArgs),
    /// Let a driver have its frames again
    Enable(lifecycle::ChoiceArgs),
    /// Leave a driver's frames to the kernel
    Disable(lifecycle::ChoiceArgs),
    /// Power a driver on or off
    Power(lifecycle::PowerArgs),
    /// Say what stands in the way of a driver on an interface, why, and what to do
    Doctor(doctor::Args),
    /// Send echo requests over the rings, and measure the replies
    Ping(ping::Args),
    /// The veth pair to try a driver on
    Lab(lab::Args),
    /// Start, stop or change the injector of a running driver
    Inject(inject::Args),
    /// Give a running driver a command of its own, and print its answer
    Tell(tell::Args),
    /// List, add or delete the steering rules of a running driver
    Steer(steer::Args),
    /// Replace the XDP program of a running driver by a fresh one, without a gap
    Reload(lifecycle::ChoiceArgs),
    /// Write the frames of a running driver as pcapng, until SIGINT, SIGTERM or SIGHUP
    Capture(capture::Args),
    /// The counts of running drivers
    Stats(stats::Args),
    /// The counts of running drivers with rates, on the whole terminal
    Top(top::Args),
    /// Measure netdext beside the kernel's stack and its peers, and write a report
    Bench(bench::Args),
    /// Completions for a shell, to standard output
    Completions(completions::Args),
    /// The manual, to standard output or into a directory
    Man(man::Args),
}

impl Command {
    /// The flags of the driver, for a command that has any.
    fn driver(&mut self) -> Option<&mut DriverArgs> {
        match self {
            Self::Run(args) => Some(args.driver()),
            Self::Install(args) => Some(args.driver()),
            _ => None,
        }
    }
}

/// Runs the command that the process was given, and returns its exit status.
/// `--driver` takes the names of the driver types, whose options are flags of `run` and `install`; the first is the default.
pub fn main(types: Registry) -> ExitCode {
    let cli = command_line::parse(&types, std::env::args_os()).unwrap_or_else(|error| error.exit());
    // A log would be written across the screen of `top`.
    if !matches!(cli.command, Command::Top(_)) {
        log_to_stderr(matches!(&cli.command, Command::Run(args) if args.log_frames));
    }
    let result = match &cli.command {
        Command::Run(args) => run::run(args, &types),
        Command::Daemon(args) => daemon::run(args, types),
        Command::Install(args) => lifecycle::install(args, &types),
        Command::Uninstall(args) => lifecycle::uninstall(args),
        Command::List(args) => lifecycle::list(args),
        Command::Ioreg(args) => lifecycle::ioreg(args),
        Command::Enable(args) => lifecycle::enable(args),
        Command::Disable(args) => lifecycle::disable(args),
        Command::Power(args) => lifecycle::power(args),
        Command::Doctor(args) => doctor::run(args),
        Command::Ping(args) => ping::run(args),
        Command::Lab(args) => lab::run(args),
        Command::Inject(args) => inject::run(args),
        Command::Tell(args) => tell::run(args),
        Command::Steer(args) => steer::run(args),
        Command::Reload(args) => steer::reload(args),
        Command::Capture(args) => capture::run(args),
        Command::Stats(args) => stats::run(args),
        Command::Top(args) => top::run(args),
        Command::Bench(args) => bench::run(args),
        Command::Completions(args) => completions::run(args, command_line::described(&types, &program())),
        Command::Man(args) => man::run(args, command_line::described(&types, &program())),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain!("netdext: {}", one_line(error.as_ref()));
            ExitCode::from(exit_status(&error))
        }
    }
}

/// What this program is called: an author's has a name of its own.
fn program() -> String {
    let path = std::env::args_os().next().map(PathBuf::from);
    let name = path.as_deref().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
    name.unwrap_or_else(|| "netdext".to_owned())
}

/// `RUST_LOG` decides what is logged; by default warnings, and what was asked for by a flag.
fn log_to_stderr(log_frames: bool) {
    // Closing a netlink socket before its last message has come is no trouble, but netlink_proto warns of it.
    let default =
        if log_frames { "warn,netlink_proto=error,netdext::xdp=info" } else { "warn,netlink_proto=error" };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // Where the log can't be written, that can't be said either; it would panic.
        .log_internal_errors(false)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
}

/// The exit status that scripts go by.
fn exit_status(error: &anyhow::Error) -> u8 {
    let not_permitted = privilege::is_permission(error.as_ref())
        || error.chain().any(|cause| {
            cause.downcast_ref().is_some_and(ClientError::is_permission)
                || cause.downcast_ref().is_some_and(BindError::is_permission)
                || cause.downcast_ref().is_some_and(RuntimeDirError::is_permission)
                || cause.downcast_ref().is_some_and(RegistryError::is_permission)
        });
    if not_permitted { NOT_PERMITTED } else { FAILED }
}
