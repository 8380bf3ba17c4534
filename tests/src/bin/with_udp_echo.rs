//! netdext with a driver of its own, as an author in another crate makes it.

use std::process::ExitCode;

use netdext::driver::{Cx, Driver, DriverFactory, DriverStats, PortId, Requirements};
use netdext::packet::{Packet, PacketBatch};
use netdext_cli::registry::{DriverType, OptionsError};
use serde::{Deserialize, Serialize};

/// From the start of a plain frame to the end of its UDP header.
const HEADERS: usize = 14 + 20 + 8;
const UDP: u8 = 17;

/// Sends datagrams to a port back.
struct UdpEcho {
    port: u16,
    echoed: u64,
    ignored: u64,
    not_sent: u64,
}

/// Options of the UDP echo
#[derive(clap::Args, Serialize, Deserialize)]
struct Args {
    /// The UDP port to echo
    #[arg(long, default_value_t = 7)]
    port: u16,
}

impl DriverType for UdpEcho {
    const NAME: &'static str = "udp-echo";
    const ABOUT: &'static str = "Sends datagrams to a UDP port back";
    type Options = Args;

    fn factory(Args { port }: Args) -> Result<DriverFactory, OptionsError> {
        if port == 0 {
            return Err(OptionsError::new("--port 0 is no port: give for example --port 7"));
        }
        let build = move |_queue| -> Box<dyn Driver> {
            Box::new(UdpEcho { port, echoed: 0, ignored: 0, not_sent: 0 })
        };
        let steering = [format!("driver:proto=udp,dport={port}")];
        Ok(DriverFactory::new(Self::NAME, build)
            .requiring(Requirements::default().max_queues(1).steering(steering)))
    }
}

impl UdpEcho {
    /// Makes the answer of a request.
    fn turn_round(&self, packet: &mut Packet) -> Option<()> {
        let headers = packet.data_mut().get_mut(..HEADERS)?;
        if headers[14] != 0x45 || headers[23] != UDP || headers[36..38] != self.port.to_be_bytes() {
            return None;
        }
        // No checksum is different when what it sums up changes places.
        for (from, to, len) in [(0, 6, 6), (26, 30, 4), (34, 36, 2)] {
            let (one, other) = headers.split_at_mut(to);
            one[from..from + len].swap_with_slice(&mut other[..len]);
        }
        Some(())
    }
}

impl Driver for UdpEcho {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn rx_packets(&mut self, cx: &mut Cx<'_>, port: PortId, batch: &mut PacketBatch) {
        while let Some(mut packet) = batch.pop() {
            if self.turn_round(&mut packet).is_none() {
                self.ignored += 1;
            } else if cx.tx(port).submit(packet).is_ok() {
                self.echoed += 1;
            } else {
                self.not_sent += 1;
            }
        }
    }

    fn stats(&self) -> DriverStats {
        DriverStats {
            counters: vec![("echoed", self.echoed), ("ignored", self.ignored)],
            drops: vec![("not_sent", self.not_sent)],
            ..DriverStats::default()
        }
    }
}

fn main() -> ExitCode {
    netdext_cli::main(netdext_cli::builtin().with::<UdpEcho>())
}
