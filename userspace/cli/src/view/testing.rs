//! Counts for the tests of this folder.

use netdext_abi::Counter;

use netdext_host::stats::{PortStats, QueueStats, TxAccounting};
use netdext_host::xdp::steering::ProgramCounters;

/// A driver on two queues that has answered 26 pings and got 24 answers to its own.
pub fn stats() -> PortStats {
    let mut stats = PortStats::collect("veth0", "sample", ProgramCounters::default(), &[]);
    let queue = QueueStats { rx_packets: 25, rx_bytes: 2436, fill_level: 2048, ..QueueStats::default() };
    stats.queues.push(QueueStats { tx_packets: 26, tx_bytes: 2500, ..queue.clone() });
    stats.queues.push(QueueStats { id: 1, rx_packets: 1, rx_bytes: 60, tx_in_flight: 3, ..queue });
    stats.drops.insert("pool_empty".into(), 3);
    stats.counters.insert("echo4_answered".into(), 26);
    stats.census.free = 8000;
    stats.census.rx_lent = 192;
    stats.census.capacity = 8192;
    stats.uptime_ns = Some(72_000_000_000);
    let injector = r#"{"sent": 24, "replies": 24, "residue": 0, "sending_ns": 1020000000,
        "rtt_ns": {"count": 24, "min": 60000, "p50": 81200, "p99": 306700, "p999": 306700, "max": 306700},
        "sizes_bytes": {"count": 2, "min": 60, "p50": 60, "p99": 1500, "p999": 1500, "max": 1500}}"#;
    stats.groups.insert("injector".into(), serde_json::from_str(injector).expect("metrics"));
    with_verdict(&stats, Counter::DriverEcho4Request, 26)
}

/// The same counts, with another count of one verdict, and what follows from it.
pub fn with_verdict(stats: &PortStats, counter: Counter, count: u64) -> PortStats {
    let mut json = serde_json::to_value(&stats.verdicts).expect("counters are JSON");
    json[counter.name()] = count.into();
    let mut stats = stats.clone();
    stats.verdicts = serde_json::from_value(json).expect("they were just written");
    stats.accounting.seen = stats.verdicts.frames();
    stats.accounting.offered = stats.verdicts.redirected();
    stats.accounting.delivered = stats.queues.iter().map(|queue| queue.rx_packets).sum();
    stats.accounting.residue = stats.accounting.offered as i64 - stats.accounting.delivered as i64;
    stats.tx_accounting =
        TxAccounting { submitted: 26, completed: 23, in_flight: 3, ..TxAccounting::default() };
    stats
}
