//! Counts for the tests of this folder.

use std::time::Duration;

use netdext_host::stats::{PortStats, QueueStats};
use netdext_host::xdp::steering::ProgramCounters;

use super::app::Event;
use crate::observe::Observed;

/// A driver on two queues; the first has received so many frames of 64 bytes, the second has sent a third of them.
pub fn stats(iface: &str, received: u64) -> PortStats {
    let mut stats = PortStats::collect(iface, "sample", ProgramCounters::default(), &[]);
    stats.queues.push(QueueStats {
        rx_packets: received,
        rx_bytes: 64 * received,
        fill_level: 2048,
        ..QueueStats::default()
    });
    stats.queues.push(QueueStats {
        id: 1,
        tx_packets: received / 3,
        tx_bytes: 64 * (received / 3),
        tx_in_flight: 5,
        ..QueueStats::default()
    });
    stats.verdicts =
        serde_json::from_value(serde_json::json!({ "driver_echo4_request": received, "kernel_other": 7 }))
            .expect("counters are an object");
    stats.drops.insert("pool_empty".into(), received / 100);
    stats.accounting.offered = received;
    stats.accounting.delivered = received;
    stats.census.free = 8000;
    stats.census.rx_lent = 192;
    stats.census.capacity = 8192;
    stats.uptime_ns = Some(62_000_000_000);
    let injector = r#"{"sent": 10, "replies": 9, "lost": 1,
        "rtt_ns": {"count": 9, "min": 60000, "p50": 81200, "p99": 306700, "p999": 1204000, "max": 2000000}}"#;
    stats.groups.insert("injector".into(), serde_json::from_str(injector).expect("metrics"));
    stats
}

/// Counts and whose they are.
pub fn observed(key: &str, stats: PortStats) -> Observed {
    Observed { key: key.to_owned(), stats }
}

/// A look at these drivers.
pub fn look(taken: Duration, drivers: Vec<Observed>) -> Event {
    Event::Counts { taken, drivers, problem: None }
}

/// A look that saw nothing, and why.
pub fn no_look(taken: Duration, problem: &str) -> Event {
    Event::Counts { taken, drivers: Vec::new(), problem: Some(problem.to_owned()) }
}
