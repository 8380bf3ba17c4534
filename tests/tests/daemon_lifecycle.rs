//! Drivers that are installed: seen, switched, started again, removed.

use std::time::Duration;

use netdext_tests::daemon::names_in;
use netdext_tests::{Site, require, wait_until};
use rustix::process::Signal;
use serde_json::{Value, json};

const INSTALL: &str = "install --lab --iface veth0 --no-injector --yes";
const BUNDLE: &str = "org.netdext.sample";

fn alias(site: &Site, iface: &str) -> Value {
    site.namespace.link(iface).expect("the interface is there")["ifalias"].clone()
}

fn answers(site: &Site) -> bool {
    let ping = site.namespace.command("ping").args(["-q", "-c", "1", "-W", "1", "198.18.0.1"]).output();
    ping.expect("ping can be started").status.success()
}

fn version() -> String {
    format!("{}/1", env!("CARGO_PKG_VERSION"))
}

#[test]
fn an_installed_driver_is_listed_switched_and_removed_without_a_trace() {
    require!("ping");
    let site = Site::new("daemon, lifecycle");
    let daemon = site.daemon();
    assert_eq!(site.ok("list"), "0 extension(s)");
    let said = site.ok(INSTALL);
    assert_eq!(said, format!("installed: NETDEXT000 {BUNDLE} on veth0 [activated enabled]"));

    let table = |stars: &str, state: &str| {
        format!(
            "1 extension(s)\n--- org.netdext.driver_extension\n\
             enabled    active    teamID    bundleID (version)    name    [state]\n\
             {stars}    NETDEXT000    {BUNDLE} ({})    {BUNDLE}    [{state}]",
            version()
        )
    };
    assert_eq!(site.ok("list"), table("*    *", "activated enabled"));
    let entry = json!({"team_id": "NETDEXT000", "bundle_id": BUNDLE, "version": version(), "name": BUNDLE,
        "enabled": true, "active": true, "state": "activated enabled", "iface": "veth0"});
    assert_eq!(site.list(), [entry]);
    assert_eq!(alias(&site, "veth1"), format!("netdext:{BUNDLE}"));
    assert_eq!(site.namespace.xdp_programs("veth0").len(), 1);
    assert!(answers(&site));

    // In words, in the list, and on the wire.
    for (command, stars, state, answered) in [
        ("disable", "     *", "activated disabled", false),
        ("enable", "*    *", "activated enabled", true),
        ("power off", "*    *", "activated powered off", false),
        ("power on", "*    *", "activated enabled", true),
    ] {
        let said = site.ok(&format!("{command} NETDEXT000 {BUNDLE}"));
        assert!(said.ends_with(&format!("NETDEXT000 {BUNDLE} on veth0 [{state}]")), "{said}");
        assert_eq!(site.ok("list"), table(stars, state));
        assert_eq!(answers(&site), answered, "{command}");
    }

    let said = site.ok(&format!("uninstall NETDEXT000 {BUNDLE}"));
    assert_eq!(said, format!("uninstalled: NETDEXT000 {BUNDLE} on veth0"));
    assert_eq!(site.ok("list"), "0 extension(s)");
    site.assert_no_links();
    assert_eq!(names_in(&site.runtime_dir()), ["control.sock"]);
    assert_eq!(names_in(&site.state_dir()), [""; 0]);
    daemon.signal(Signal::TERM);
    let ended = daemon.wait();
    assert!(ended.status.success() && ended.stderr.is_empty(), "{ended:#?}");
    assert_eq!(names_in(&site.runtime_dir()), [""; 0]);
}

/// The entries below one in the tree, the entry first.
fn flat(entry: &Value) -> Vec<&Value> {
    let children = entry["children"].as_array().into_iter().flatten();
    std::iter::once(entry).chain(children.flat_map(flat)).collect()
}

#[test]
fn ioreg_shows_interface_driver_queues_pool_and_timers() {
    require!("ping");
    let site = Site::new("daemon, ioreg");
    let _daemon = site.daemon();
    site.ok("install --lab --iface veth0 --yes --interval 1h");
    assert!(answers(&site));
    let tree: Value = serde_json::from_str(&site.ok("ioreg --json")).expect("one tree");
    let entries = flat(&tree);
    let classes: Vec<_> = entries.iter().map(|entry| entry["class"].as_str().expect("a class")).collect();
    assert_eq!(
        classes,
        [
            "EthernetInterface",
            "AfXdpDriver",
            "RxSubmissionQueue",
            "RxCompletionQueue",
            "TxSubmissionQueue",
            "TxCompletionQueue",
            "PacketPool",
            "TimerSource",
            "TimerSource"
        ]
    );
    assert_eq!((&entries[0]["name"], &entries[1]["name"]), (&json!("veth0"), &json!(BUNDLE)));
    let mut ids: Vec<_> = entries.iter().map(|entry| entry["id"].as_u64().expect("a number")).collect();
    ids.dedup();
    assert_eq!(ids.len(), entries.len(), "{ids:?}");
    assert!(entries.iter().all(|entry| entry["matched"] == true && entry["active"] == true), "{tree}");
    // An ARP request and an echo request at the least.
    assert!(entries[3]["properties"]["rx_packets"].as_u64() >= Some(2), "{tree}");
    let pool = &entries[6]["properties"];
    let count = |name: &str| pool[name].as_u64().expect("a count");
    let parts = ["free", "user", "rx_lent", "tx_lent", "quarantined"].map(count);
    assert_eq!(parts.iter().sum::<u64>(), count("capacity"), "{pool}");

    let text = site.ok("ioreg");
    let heads: Vec<_> = text.lines().filter(|line| line.contains("+-o ")).collect();
    assert_eq!(heads.len(), entries.len(), "{text}");
    assert_eq!(heads[0], "+-o veth0  <class EthernetInterface, id 0x100000001, matched, active>");
    assert!(heads[1].starts_with("  +-o org.netdext.sample  <class AfXdpDriver, id 0x100000002, "));
    assert!(heads[2].starts_with("    +-o rx-submission-0  <class RxSubmissionQueue, id "));

    site.ok("disable");
    let tree: Value = serde_json::from_str(&site.ok("ioreg --json")).expect("one tree");
    assert_eq!(flat(&tree)[1]["properties"]["state"], "activated disabled");
}

#[test]
fn an_existing_pair_is_left_as_it_was() {
    require!("ping");
    let site = Site::new("daemon, existing pair");
    site.namespace.ip(&["link", "add", "veth0", "type", "veth", "peer", "name", "veth1"]);
    site.namespace.ip(&["link", "set", "veth1", "alias", "uplink of the lab"]);
    for iface in ["veth0", "veth1"] {
        site.namespace.ip(&["link", "set", iface, "up"]);
    }
    let _daemon = site.daemon();
    site.ok(INSTALL);
    assert_eq!(alias(&site, "veth1"), format!("netdext:{BUNDLE}"));
    site.ok(&format!("uninstall {BUNDLE}"));
    assert_eq!(alias(&site, "veth1"), "uplink of the lab");
    assert_eq!(alias(&site, "veth0"), Value::Null);
    assert_eq!(site.namespace.xdp_programs("veth0"), [0_u64; 0]);
}

#[test]
fn names_must_mean_one_driver() {
    require!();
    let site = Site::new("daemon, names");
    let _daemon = site.daemon();
    site.ok(INSTALL);
    site.ok("install --lab --iface veth8 --no-injector --yes --team-id OTHERTEAM1");
    for command in ["disable", "power off", "uninstall", "inject stop"] {
        let line = site.fails(&format!("{command} {BUNDLE}"));
        let both = line.contains("NETDEXT000") && line.contains("OTHERTEAM1") && line.contains("on veth8");
        assert!(both, "{line}");
        let line = site.fails(&format!("{command} org.nobody.knows"));
        assert!(line.contains("org.nobody.knows") && line.contains("`netdext list` shows what is"), "{line}");
    }
    assert!(site.list().iter().all(|entry| entry["state"] == "activated enabled"), "nothing was switched");
    site.ok(&format!("disable OTHERTEAM1 {BUNDLE}"));
    site.ok("power off --iface veth0");
    let states: Vec<_> = site.list().iter().map(|entry| entry["state"].clone()).collect();
    assert_eq!(states, ["activated powered off", "activated disabled"]);
    site.ok(&format!("uninstall OTHERTEAM1 {BUNDLE}"));
    site.ok(&format!("enable {BUNDLE}"));
    assert_eq!(site.list().len(), 1);
}

#[test]
fn what_cannot_be_installed_leaves_nothing() {
    require!();
    let site = Site::new("daemon, bad installs");
    let line = site.fails(INSTALL);
    assert!(
        line.contains("no netdext daemon is running") && line.contains("start `netdext daemon`"),
        "{line}"
    );
    let _daemon = site.daemon();
    for (words, why) in [
        ("--iface veth0 --bundle-id a..b", "is not valid: a bundle ID is"),
        ("--iface veth0 --team-id not-a-team", "is not valid: a team ID is"),
        ("--iface nothere0", "no interface nothere0 here"),
    ] {
        let line = site.fails(&format!("install --yes {words}"));
        assert!(line.contains(why), "{words}: {line}");
        assert_eq!(site.ok("list"), "0 extension(s)", "{words}");
    }
    for (words, why) in [
        ("--driver nothing", "there is no --driver nothing; there are:"),
        ("--driver generate", "needs one --target"),
        ("--interval 10us --batch 64", "lower the batch"),
        ("--count 5", "--count is an option of --driver generate"),
    ] {
        let finished = site.run(&format!("install --yes --iface veth0 --lab {words}"));
        assert_eq!(finished.status.code(), Some(2), "{words}: {finished:#?}");
        assert!(finished.stderr.contains(why), "{words}: {finished:#?}");
        assert_eq!(site.ok("list"), "0 extension(s)", "{words}");
    }
    site.assert_no_links();
    assert_eq!(names_in(&site.state_dir()), [""; 0]);

    site.ok(INSTALL);
    let line = site.fails(INSTALL);
    assert!(line.contains(&format!("NETDEXT000 {BUNDLE} is installed already")), "{line}");
    let line = site.fails("install --iface veth0 --bundle-id org.netdext.second --yes");
    assert!(line.contains("veth0 has a driver already"), "{line}");
    assert_eq!(site.list().len(), 1);
}

#[test]
fn a_new_daemon_starts_what_was_enabled_and_nothing_else() {
    require!("ping");
    let site = Site::new("daemon, started anew");
    let daemon = site.daemon();
    site.ok(INSTALL);
    site.ok(
        "install --lab --iface veth8 --addr 198.18.8.1/24 --no-injector --yes --bundle-id org.netdext.off",
    );
    site.ok("disable org.netdext.off");
    daemon.signal(Signal::TERM);
    let ended = daemon.wait();
    assert!(ended.status.success() && ended.stderr.is_empty(), "{ended:#?}");
    // It keeps what is installed, and removes what it made.
    site.assert_no_links();
    assert_eq!(names_in(&site.state_dir()), ["state.json"]);
    let states: Vec<_> = site.list().iter().map(|entry| entry["active"].clone()).collect();
    assert_eq!(states, [false, false]);

    let daemon = site.daemon();
    assert!(daemon.stdout()[0].starts_with("ready: daemon, 1 of 2 driver(s) running, "), "{daemon:?}");
    assert!(answers(&site));
    let states: Vec<_> = site.list().iter().map(|entry| entry["state"].clone()).collect();
    assert_eq!(states, ["activated enabled", "activated disabled"]);
    assert!(site.namespace.link("veth8").is_none());
    let line = site.fails("stats org.netdext.off");
    assert!(line.contains("`netdext enable org.netdext.off` starts it"), "{line}");
    site.ok("enable org.netdext.off");
    wait_until("the second driver runs", Duration::from_secs(15), || {
        site.list().iter().all(|entry| entry["state"] == "activated enabled").then_some(())
    });
}

#[test]
fn a_driver_whose_link_goes_is_started_again_when_it_is_back() {
    require!("ping");
    let site = Site::new("daemon, link deleted");
    let make = || {
        site.namespace.ip(&["link", "add", "veth0", "type", "veth", "peer", "name", "veth1"]);
        site.namespace.ip(&["address", "add", "198.18.0.2/24", "dev", "veth1"]);
        for iface in ["veth0", "veth1"] {
            site.namespace.ip(&["link", "set", iface, "up"]);
        }
    };
    make();
    let _daemon = site.daemon();
    site.ok("install --iface veth0 --no-injector --yes");
    assert!(answers(&site));
    site.namespace.ip(&["link", "delete", "veth0"]);
    let failed = site.wait_for_state("terminated waiting to restart");
    assert!(failed["last_error"].as_str().is_some_and(|error| error.contains("veth0")), "{failed}");
    assert!(site.ok("list").contains("\n        last error: "), "{}", site.ok("list"));
    let line = site.fails("stats org.netdext.sample");
    assert!(line.contains("it failed and will be started again"), "{line}");
    make();
    site.wait_for_state("activated enabled");
    assert!(answers(&site));

    // A disabled driver stays off, and says so.
    site.ok("disable");
    site.namespace.ip(&["link", "delete", "veth0"]);
    wait_until("the driver has ended", Duration::from_secs(5), || {
        (site.list()[0]["active"] == false).then_some(())
    });
    assert_eq!(site.list()[0]["state"], "activated disabled");
}
