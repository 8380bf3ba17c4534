//! The project's own commands: `cargo xtask COMMAND`.

mod bench;
mod build_ebpf;
mod check_ebpf;
mod matrix;
mod privileged;
mod run;
mod setup;
mod shell;
mod test;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about = "netdext's own commands")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build netdext and run a driver on an interface, as root
    Run(run::Args),
    /// Run every test: unit, documentation and simulated ones as you, the privileged ones as root
    Test(test::Args),
    /// Measure netdext beside the kernel's stack and its peers, and write a report
    Bench(bench::Args),
    /// Run the tests on Debian's kernels, by emulation
    Matrix(matrix::Args),
    /// Install the packages that the build needs
    Setup(setup::Args),
    /// Build the XDP programs and write userspace/host/object
    BuildEbpf(build_ebpf::Args),
    /// Check that userspace/host/object is what its sources say
    CheckEbpf(check_ebpf::Args),
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Run(args) => run::run(args),
        Command::Test(args) => test::run(args),
        Command::Bench(args) => bench::run(args),
        Command::Matrix(args) => matrix::run(args),
        Command::Setup(args) => setup::run(args),
        Command::BuildEbpf(args) => build_ebpf::run(args),
        Command::CheckEbpf(args) => check_ebpf::run(args),
    }
}
