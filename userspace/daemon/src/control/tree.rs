//! The entries of `netdext ioreg` for one driver: provider interface, driver, queues, pool, timers.

use serde_json::{Value, json};

use super::ioreg::Entry;
use super::list::ListEntry;
use netdext_host::stats::{PortStats, QueueStats};
use netdext_host::supervisor::RunInfo;

/// What is known of a driver.
pub struct Facts {
    /// The number of its provider; those below follow.
    pub id: u64,
    /// Its names and state.
    pub entry: ListEntry,
    /// What was started, if it runs.
    pub info: Option<Box<RunInfo>>,
    /// Its counts, if it runs.
    pub stats: Option<PortStats>,
}

/// The tree of a driver.
pub fn build(facts: &Facts) -> Entry {
    let Facts { id, entry, info, stats } = facts;
    let mut ids = *id..;
    // The range has no end.
    let mut next = || ids.next().unwrap_or_default();
    let mut provider = Entry::new(&*entry.iface, "EthernetInterface", next());
    let mut driver = Entry::new(&*entry.bundle_id, "AfXdpDriver", next());
    (provider.active, driver.active) = (info.is_some(), entry.active);
    (provider.matched, driver.matched) = (info.is_some(), info.is_some());
    driver = driver
        .with("team_id", &*entry.team_id)
        .with("version", &*entry.version)
        .with("name", &*entry.name)
        .with("state", entry.state.words());
    if let Some(error) = &entry.last_error {
        driver = driver.with("last_error", &**error);
    }
    if let Some(info) = info {
        let mac = info.device.mac.map(|byte| format!("{byte:02x}")).join(":");
        provider = provider
            .with("index", info.device.index)
            .with("mac", mac)
            .with("mtu", info.device.mtu)
            .with("kind", info.device.kind.as_deref().unwrap_or("hardware"));
        driver = driver.with("mode", json!(info.attached.mode));
    }
    if let Some(stats) = stats {
        driver = driver
            .with("driver", &*stats.driver)
            .with("counters", counted(&json!(stats.counters)))
            .with("drops", counted(&json!(stats.drops)))
            .with("verdicts", counted(&json!(stats.verdicts)));
        for queue in &stats.queues {
            driver.children.extend(queue_entries(queue, &mut next));
        }
        driver.children.push(
            Entry::new("pool", "PacketPool", next())
                .with("capacity", stats.census.capacity)
                .with("free", stats.census.free)
                .with("user", stats.census.user)
                .with("rx_lent", stats.census.rx_lent)
                .with("tx_lent", stats.census.tx_lent)
                .with("quarantined", stats.census.quarantined),
        );
        for (name, timer) in &stats.timers {
            driver.children.push(
                Entry::new(&**name, "TimerSource", next())
                    .with("fired", timer.fired)
                    .with("late", timer.late)
                    .with("skipped", timer.skipped),
            );
        }
    }
    provider.children.push(driver);
    provider
}

fn queue_entries(queue: &QueueStats, next: &mut impl FnMut() -> u64) -> [Entry; 4] {
    let name = |what: &str| format!("{what}-{}", queue.id);
    [
        Entry::new(name("rx-submission"), "RxSubmissionQueue", next())
            .with("fill_level", queue.fill_level)
            .with("fill_low_water", queue.fill_low_water),
        Entry::new(name("rx-completion"), "RxCompletionQueue", next())
            .with("rx_packets", queue.rx_packets)
            .with("rx_bytes", queue.rx_bytes),
        Entry::new(name("tx-submission"), "TxSubmissionQueue", next())
            .with("tx_packets", queue.tx_packets)
            .with("tx_bytes", queue.tx_bytes)
            .with("tx_wakeups", queue.tx_wakeups),
        Entry::new(name("tx-completion"), "TxCompletionQueue", next())
            .with("tx_in_flight", queue.tx_in_flight),
    ]
}

/// Named counts without those that are zero: there are many.
fn counted(counts: &Value) -> Value {
    let some = |(name, count): (&String, &Value)| (*count != json!(0)).then(|| (name.clone(), count.clone()));
    counts.as_object().map_or(Value::Null, |counts| counts.iter().filter_map(some).collect())
}
