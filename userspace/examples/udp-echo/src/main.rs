//! netdext with the driver `udp-echo` beside those that come with it.

use std::process::ExitCode;

use udp_echo::UdpEcho;

fn main() -> ExitCode {
    netdext_cli::main(netdext_cli::builtin().with::<UdpEcho>())
}
