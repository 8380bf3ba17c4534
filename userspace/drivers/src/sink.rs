//! The sink: counts every frame that is steered to it, and drops it.

use netdext::driver::{Cx, Driver, DriverFactory, DriverStats, PortId};
use netdext::packet::PacketBatch;

const NAME: &str = "sink";

/// Makes sinks.
pub fn factory() -> DriverFactory {
    DriverFactory::new(NAME, |_queue| Box::new(Sink::default()))
}

/// A sink.
#[derive(Debug, Default)]
pub struct Sink {
    discarded: u64,
}

#[cfg(feature = "cli")]
impl netdext::registry::DriverType for Sink {
    const NAME: &'static str = NAME;
    const ABOUT: &'static str = "Counts every frame that is steered to it, and drops it";
    type Options = netdext::registry::NoOptions;

    fn factory(_options: Self::Options) -> Result<DriverFactory, netdext::registry::OptionsError> {
        Ok(factory())
    }
}

impl Driver for Sink {
    fn name(&self) -> &'static str {
        NAME
    }

    fn rx_packets(&mut self, _cx: &mut Cx<'_>, _port: PortId, batch: &mut PacketBatch) {
        self.discarded += batch.len() as u64;
        batch.clear();
    }

    fn stats(&self) -> DriverStats {
        DriverStats { counters: vec![("discarded", self.discarded)], ..DriverStats::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Bench, frame};

    #[test]
    fn every_frame_is_counted_and_its_memory_comes_back() {
        let mut bench = Bench::new(factory().build(0));
        for n in 0..200 {
            bench.exchange(&frame([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2], 60 + n % 7));
        }
        assert!(bench.arrived.is_empty(), "a sink sends nothing");
        let report = bench.finish();
        assert_eq!(report.snapshot.driver.counters, [("discarded", 200)]);
        assert_eq!(report.snapshot.rx_packets, 200);
    }
}
