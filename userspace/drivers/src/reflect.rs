//! The reflector: sends every frame that is steered to it back, with the two MAC addresses swapped.

use netdext::driver::{Cx, DeviceInfo, Driver, DriverError, DriverFactory, DriverStats, PortId};
use netdext::packet::{Packet, PacketBatch};
use netdext::proto::MacAddr;

#[cfg(feature = "cli")]
pub use self::options::Options;

const NAME: &str = "reflect";
const MAC_LEN: usize = size_of::<MacAddr>();
/// In the first byte of a MAC address: it is a group's.
const GROUP: u8 = 1;

/// Makes reflectors.
pub fn factory() -> DriverFactory {
    DriverFactory::new(NAME, |_queue| Box::new(Reflect::default()))
}

/// A reflector.
#[derive(Debug, Default)]
pub struct Reflect {
    mac: MacAddr,
    reflected: u64,
    group_source: u64,
    not_sent: u64,
}

impl Reflect {
    fn turn_round(&mut self, cx: &mut Cx<'_>, port: PortId, mut packet: Packet) {
        // A frame of an Ethernet device has a header, so both addresses are there.
        let (destination, rest) = packet.data_mut().split_at_mut(MAC_LEN);
        let source = &mut rest[..MAC_LEN];
        // No station can be answered at a group's address (IEEE 802, 8.2.2), and none may send from one.
        if source[0] & GROUP != 0 {
            self.group_source += 1;
            return;
        }
        destination.swap_with_slice(source);
        if source[0] & GROUP != 0 {
            source.copy_from_slice(&self.mac);
        }
        match cx.tx(port).submit(packet) {
            Ok(()) => self.reflected += 1,
            Err(_rejected) => self.not_sent += 1,
        }
    }
}

impl Driver for Reflect {
    fn name(&self) -> &'static str {
        NAME
    }

    fn init(&mut self, devices: &[DeviceInfo]) -> Result<(), DriverError> {
        self.mac = devices[0].mac;
        Ok(())
    }

    fn rx_packets(&mut self, cx: &mut Cx<'_>, port: PortId, batch: &mut PacketBatch) {
        while let Some(packet) = batch.pop() {
            self.turn_round(cx, port, packet);
        }
    }

    fn stats(&self) -> DriverStats {
        DriverStats {
            counters: vec![("reflected", self.reflected)],
            drops: vec![("group_source", self.group_source), ("reflection_not_sent", self.not_sent)],
            ..DriverStats::default()
        }
    }
}

#[cfg(feature = "cli")]
mod options {
    use netdext::driver::DriverFactory;
    use netdext::registry::{DriverType, OptionsError};
    use netdext::units;
    use serde::{Deserialize, Serialize};

    use super::{NAME, Reflect, factory};
    use crate::generate::FrameKind;

    /// The options of the reflector.
    #[derive(Clone, Copy, Debug, Default, PartialEq, clap::Args, Serialize, Deserialize)]
    #[group(skip)]
    #[serde(default, deny_unknown_fields)]
    pub struct Options {
        /// What is sent back: with `udp` every frame; with `echo`, which needs `--engine xdp`, IPv4 echo requests, as
        /// replies, by the least program that does it, and all else is the kernel's
        #[arg(long, value_name = "KIND", default_value = "udp")]
        #[serde(with = "units::text")]
        pub frames: FrameKind,
    }

    impl DriverType for Reflect {
        const NAME: &'static str = NAME;
        const ABOUT: &'static str =
            "Sends every frame that is steered to it back, with its MAC addresses swapped";
        type Options = Options;

        fn factory(options: Options) -> Result<DriverFactory, OptionsError> {
            match options.frames {
                FrameKind::Udp => Ok(factory()),
                FrameKind::Echo => Err(OptionsError::new(
                    "--driver reflect --frames echo is for --engine xdp: give that too, or leave --frames out",
                )),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Bench, OUR_MAC, frame};

    const PEER: MacAddr = [2, 0, 0, 0, 0, 2];

    #[test]
    fn a_frame_comes_back_with_its_addresses_swapped_and_nothing_else_changed() {
        let mut bench = Bench::new(factory().build(0));
        for len in [60, 61, 1514] {
            let sent = frame(OUR_MAC, PEER, len);
            let back = bench.exchange(&sent);
            assert_eq!(back, [frame(PEER, OUR_MAC, len)]);
        }
        assert_eq!(bench.finish().snapshot.driver.counters, [("reflected", 3)]);
    }

    #[test]
    fn a_frame_to_a_group_comes_back_from_the_port_itself() {
        let mut bench = Bench::new(factory().build(0));
        let back = bench.exchange(&frame([0xff; 6], PEER, 60));
        assert_eq!(back, [frame(PEER, OUR_MAC, 60)]);
        bench.finish();
    }

    #[test]
    fn a_frame_from_a_group_is_dropped_and_counted() {
        let mut bench = Bench::new(factory().build(0));
        assert!(bench.exchange(&frame(OUR_MAC, [3, 0, 0, 0, 0, 2], 60)).is_empty());
        let stats = bench.finish().snapshot.driver;
        assert_eq!(stats.drops, [("group_source", 1), ("reflection_not_sent", 0)]);
    }

    #[test]
    fn frames_beyond_the_room_of_the_tx_ring_are_counted_as_not_sent() {
        let mut bench = Bench::new(factory().build(0));
        bench.stall();
        for _ in 0..500 {
            bench.offer(&frame(OUR_MAC, PEER, 60));
            bench.turn();
        }
        let stats = bench.finish().snapshot.driver;
        let total = stats.counters[0].1 + stats.drops[1].1;
        assert!(stats.drops[1].1 > 0, "{stats:?}");
        assert_eq!(total, 500);
    }
}
