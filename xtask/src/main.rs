//! The project commands.

mod build_ebpf;
mod check_ebpf;

use clap::Parser;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "The project's own commands")]
enum Command {
    /// Build the XDP program and write ebpf/object
    BuildEbpf(build_ebpf::Args),
    /// Check that ebpf/object is what its sources say
    CheckEbpf(check_ebpf::Args),
}

fn main() -> anyhow::Result<()> {
    match Command::parse() {
        Command::BuildEbpf(args) => build_ebpf::run(args),
        Command::CheckEbpf(args) => check_ebpf::run(args),
    }
}
