//! A driver that sends UDP datagrams to a port back.

use std::mem::take;

use netdext::driver::{ControlError, Cx, Driver, DriverFactory, DriverStats, PortId, Requirements};
use netdext::metrics::{Histogram, Metrics};
use netdext::packet::PacketBatch;
use netdext::proto::{Local, parse, udp};
use netdext::registry::{DriverType, OptionsError};
use serde_json::{Value, json};

/// The options of the driver: flags of `run` and `install`, and what the daemon keeps of them.
#[derive(clap::Args, serde::Serialize, serde::Deserialize)]
pub struct Options {
    /// The UDP port to echo
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,
}

/// An instance of the driver: there is one for each queue.
#[derive(Default)]
pub struct UdpEcho {
    port: u16,
    echoed: u64,
    ignored: u64,
    not_sent: u64,
    /// Of all frames that it was given.
    sizes: Histogram,
}

impl DriverType for UdpEcho {
    const NAME: &'static str = "udp-echo";
    const ABOUT: &'static str = "Sends UDP datagrams to a port back";
    type Options = Options;

    fn factory(Options { port }: Options) -> Result<DriverFactory, OptionsError> {
        let needs = Requirements::default().steering([format!("driver:proto=udp,dport={port}")]);
        Ok(DriverFactory::new(Self::NAME, move |_| Box::new(Self { port, ..Self::default() }))
            .requiring(needs))
    }
}

/// Makes the answer of a datagram to our port in its place; `None` for all else.
fn answer(frame: &mut [u8], port: u16, local: &Local) -> Option<()> {
    let parsed = parse(frame).ok()?;
    // Two echoes that answered each other would never end.
    udp::ports(frame, &parsed).filter(|ports| ports.destination == port && ports.source != port)?;
    udp::turn_round(frame, &parsed, local).ok()
}

impl Driver for UdpEcho {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn rx_packets(&mut self, cx: &mut Cx<'_>, port: PortId, batch: &mut PacketBatch) {
        while let Some(mut packet) = batch.pop() {
            self.sizes.record(packet.data_len() as u64);
            if answer(packet.data_mut(), self.port, cx.local(port)).is_none() {
                self.ignored += 1;
            } else if cx.tx(port).submit(packet).is_ok() {
                self.echoed += 1;
            } else {
                self.not_sent += 1;
            }
        }
    }

    // `netdext tell veth0 reset` empties the histogram; the answer is how many values it had.
    fn control(&mut self, _: &mut Cx<'_>, name: &str, _: &Value) -> Result<Option<Value>, ControlError> {
        match name {
            "reset" => Ok(Some(json!(take(&mut self.sizes).len()))),
            _ => Err(ControlError::Unknown { driver: Self::NAME, name: name.to_owned() }),
        }
    }

    fn stats(&self) -> DriverStats {
        DriverStats {
            counters: vec![("echoed", self.echoed), ("ignored", self.ignored)],
            drops: vec![("not_sent", self.not_sent)],
            metrics: Metrics::default().histogram("sizes_bytes", &self.sizes),
            ..DriverStats::default()
        }
    }
}
