//! The binary `netdext`.

use std::process::ExitCode;

fn main() -> ExitCode {
    netdext_cli::main(netdext_cli::builtin())
}
