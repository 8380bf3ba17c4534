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

/// The trees of a driver, one for each interface. What the interfaces share is in that of the first.
pub fn build(facts: &Facts) -> Vec<Entry> {
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
        driver.children.extend(stats.queues.iter().flat_map(|queue| queue_entries(queue, &mut next)));
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
    let mut trees = vec![provider];
    for iface in &entry.other_ifaces {
        let mut provider = Entry::new(&**iface, "EthernetInterface", next());
        let mut driver = Entry::new(&*entry.bundle_id, "AfXdpDriver", next());
        (provider.active, driver.active) = (info.is_some(), entry.active);
        (provider.matched, driver.matched) = (info.is_some(), info.is_some());
        let mut others = stats.iter().flat_map(|stats| &stats.other_ports);
        if let Some(stats) = others.find(|port| port.iface == *iface) {
            driver = driver
                .with("drops", counted(&json!(stats.drops)))
                .with("verdicts", counted(&json!(stats.verdicts)));
            driver.children.extend(stats.queues.iter().flat_map(|queue| queue_entries(queue, &mut next)));
        }
        provider.children.push(driver);
        trees.push(provider);
    }
    trees
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

#[cfg(test)]
mod tests {
    use netdext_host::xdp::steering::ProgramCounters;

    use super::super::list::ListState;
    use super::*;

    fn port(iface: &str) -> PortStats {
        let mut stats = PortStats::collect(iface, "forward", ProgramCounters::default(), &[]);
        stats.queues = vec![QueueStats::default()];
        stats
    }

    #[test]
    fn each_interface_has_a_tree_with_its_queues_and_the_first_has_the_pool() {
        let entry = ListEntry {
            team_id: "A".to_owned(),
            bundle_id: "org.netdext.forward".to_owned(),
            version: "1".to_owned(),
            name: "forward".to_owned(),
            enabled: true,
            active: true,
            state: ListState::ActivatedEnabled,
            iface: "a".to_owned(),
            other_ifaces: vec!["b".to_owned(), "c".to_owned()],
            last_error: None,
        };
        let mut stats = port("a");
        stats.other_ports = vec![port("b"), port("c")];
        let trees = build(&Facts { id: 1, entry: entry.clone(), info: None, stats: Some(stats) });
        assert_eq!(trees.iter().map(|tree| &*tree.name).collect::<Vec<_>>(), ["a", "b", "c"]);
        let below = |tree: &Entry, class: &str| {
            tree.children[0].children.iter().filter(|entry| entry.class == class).count()
        };
        let counts = |class| trees.iter().map(|tree| below(tree, class)).collect::<Vec<_>>();
        assert_eq!(counts("RxSubmissionQueue"), [1, 1, 1]);
        assert_eq!(counts("PacketPool"), [1, 0, 0]);
        let mut ids: Vec<_> = trees.iter().map(|tree| tree.id).collect();
        ids.dedup();
        assert_eq!(ids.len(), 3);
        let waiting = build(&Facts { id: 1, entry, info: None, stats: None });
        assert_eq!(waiting.iter().map(|tree| tree.children.len()).collect::<Vec<_>>(), [1, 1, 1]);
    }
}
