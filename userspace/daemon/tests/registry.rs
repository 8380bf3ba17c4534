//! The registry: it keeps what it was told across processes, or says why it did not and keeps what was.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, symlink};
use std::process::Command;

use netdext_daemon::control::protocol::{ErrorCode, ErrorObject, Identity, Selector};
use netdext_daemon::registry::{Installed, Registry, RegistryError, SCHEMA_VERSION, StateDir};
use netdext_daemon::spec::DriverSpec;
use netdext_host::worker::WaitStrategy;
use netdext_host::xdp::program::XdpMode;
use proptest::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;

fn identity(team: &str, bundle: &str) -> Identity {
    Identity {
        team_id: team.to_owned(),
        bundle_id: bundle.to_owned(),
        version: "1.0/1".to_owned(),
        name: "Sample \"driver\" ä".to_owned(),
    }
}

fn spec(iface: &str) -> DriverSpec {
    DriverSpec {
        iface: iface.to_owned(),
        other_ifaces: Vec::new(),
        driver: "sample".to_owned(),
        options: json!({ "interval_ns": 100_000, "targets": ["198.18.0.2"] }),
        addresses: vec!["198.18.0.1/24".parse().unwrap(), "2001:2::1/64".parse().unwrap()],
        mode: XdpMode::Auto,
        wait: WaitStrategy::Adaptive,
        queues: Some(2),
        steer: vec!["answer:proto=icmp".to_owned()],
        answer: true,
        answer_limit: None,
        yes: false,
        replace: false,
        lab: true,
    }
}

fn selector(team: Option<&str>, bundle: Option<&str>, iface: Option<&str>) -> Selector {
    let own = |text: Option<&str>| text.map(str::to_owned);
    Selector { team_id: own(team), bundle_id: own(bundle), iface: own(iface) }
}

fn new_dir() -> (TempDir, StateDir) {
    let temp = tempfile::tempdir().unwrap();
    let dir = StateDir::at(temp.path().join("lib/netdext"));
    (temp, dir)
}

/// A directory with two installed drivers, and what its file has.
fn installed() -> (TempDir, StateDir, Vec<u8>) {
    let (temp, dir) = new_dir();
    let mut registry = Registry::open(&dir).unwrap();
    registry.install(identity("A123456789", "org.netdext.sample"), spec("veth0")).unwrap();
    registry.install(identity("B123456789", "org.netdext.sample"), spec("veth2")).unwrap();
    let bytes = fs::read(dir.file()).unwrap();
    (temp, dir, bytes)
}

#[test]
fn what_was_installed_is_there_in_the_next_life() {
    let (_temp, dir) = new_dir();
    let mut registry = Registry::open(&dir).unwrap();
    assert!(registry.drivers().is_empty() && !dir.file().exists());
    let added = registry.install(identity("A123456789", "org.netdext.sample"), spec("veth0")).unwrap();
    assert!(added.enabled && added.powered);
    assert_eq!(added.rules, added.spec.steer);
    let veth0 = selector(None, None, Some("veth0"));
    registry.update(&veth0, |driver| (driver.enabled, driver.rules) = (false, Vec::new())).unwrap();
    let before = registry.drivers().to_vec();
    drop(registry);
    assert_eq!(fs::metadata(dir.file()).unwrap().mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(dir.path()).unwrap().mode() & 0o777, 0o700);

    let mut registry = Registry::open(&dir).unwrap();
    assert_eq!(registry.drivers(), before);
    assert!(!registry.find(&veth0).unwrap().enabled);
    assert_eq!(registry.uninstall(&veth0).unwrap(), before[0]);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "after the last driver nothing is left");
    drop(registry);
    assert_eq!(Registry::read(&dir).unwrap(), []);
}

#[test]
fn names_are_checked_and_taken_once() {
    let (_temp, dir, bytes) = installed();
    let mut registry = Registry::open(&dir).unwrap();
    let mut refused = |team: &str, bundle: &str, iface: &str| {
        let error = registry.install(identity(team, bundle), spec(iface)).unwrap_err();
        assert_eq!(registry.drivers().len(), 2);
        assert_eq!(error.to_string().lines().count(), 1);
        error
    };
    let invalid = refused("A 1", "org.netdext.other", "veth4");
    assert!(matches!(invalid, RegistryError::Invalid(_)), "{invalid}");
    let invalid = refused("A123456789", "org.netdext.other", "../veth4");
    assert!(matches!(invalid, RegistryError::Invalid(_)), "{invalid}");
    let exists = refused("A123456789", "org.netdext.sample", "veth4");
    assert_eq!(ErrorObject::from(&exists).code, ErrorCode::Exists, "{exists}");
    let taken = refused("A123456789", "org.netdext.other", "veth2");
    assert!(
        taken.to_string().contains("veth2 has a driver already, B123456789 org.netdext.sample"),
        "{taken}"
    );
    let veth0 = selector(None, None, Some("veth0"));
    let moved = registry.update(&veth0, |driver| driver.spec.iface = "veth2".to_owned()).unwrap_err();
    assert!(matches!(moved, RegistryError::IfaceTaken { .. }), "{moved}");
    assert_eq!(fs::read(dir.file()).unwrap(), bytes);
}

#[test]
fn a_driver_is_named_by_as_much_as_tells_it_from_the_others() {
    let (_temp, dir, _) = installed();
    let registry = Registry::open(&dir).unwrap();
    let find = |team, bundle, iface| registry.find(&selector(team, bundle, iface));
    assert_eq!(find(Some("B123456789"), None, None).unwrap().spec.iface, "veth2");
    assert_eq!(find(None, Some("org.netdext.sample"), Some("veth0")).unwrap().identity.team_id, "A123456789");
    let ambiguous = find(None, Some("org.netdext.sample"), None).unwrap_err();
    assert!(
        ambiguous.to_string().contains("A123456789 org.netdext.sample on veth0, B123456789"),
        "{ambiguous}"
    );
    assert_eq!(ErrorObject::from(&ambiguous).code, ErrorCode::Ambiguous);
    let none = find(Some("A123456789"), Some("org.netdext.other"), None).unwrap_err();
    assert!(none.to_string().contains("A123456789 org.netdext.other is not installed"), "{none}");
    assert_eq!(ErrorObject::from(&none).code, ErrorCode::NotFound);
}

#[test]
fn one_process_has_it_at_a_time() {
    let (_temp, dir, _) = installed();
    let registry = Registry::open(&dir).unwrap();
    let error = Registry::open(&dir).unwrap_err();
    assert!(matches!(error, RegistryError::InUse { .. }), "{error}");
    assert_eq!(Registry::read(&dir).unwrap(), registry.drivers(), "reading needs no right");
    drop(registry);
    Registry::open(&dir).unwrap();
}

/// Opening fails, and the file is as it was.
fn assert_refused(dir: &StateDir, bytes: &[u8]) -> RegistryError {
    fs::write(dir.file(), bytes).unwrap();
    let error = Registry::open(dir).expect_err(&String::from_utf8_lossy(bytes));
    assert!(Registry::read(dir).is_err());
    assert_eq!(fs::read(dir.file()).unwrap(), bytes);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    let message = error.to_string();
    assert!(message.contains("state.json") && message.lines().count() == 1, "{message}");
    error
}

#[test]
fn a_file_that_is_cut_short_anywhere_is_refused_and_kept() {
    let (_temp, dir, bytes) = installed();
    let whole = Registry::read(&dir).unwrap();
    // Without its last newline it says the same.
    for length in 0..bytes.len() - 1 {
        let error = assert_refused(&dir, &bytes[..length]);
        assert!(matches!(error, RegistryError::Damaged { .. }), "{length}: {error}");
    }
    fs::write(dir.file(), &bytes[..bytes.len() - 1]).unwrap();
    assert_eq!(Registry::open(&dir).unwrap().drivers(), whole);
}

#[test]
fn a_file_that_says_something_else_is_refused_and_kept() {
    let (_temp, dir, bytes) = installed();
    let text = String::from_utf8(bytes).unwrap();
    let changed = |from: &str, to: &str| {
        assert!(text.contains(from), "{from}");
        text.replacen(from, to, 1)
    };
    let table = [
        (changed("\"schema\": 2", "\"schema\": \"1\""), "no schema"),
        (changed("\"schema\": 2", "\"schema\": 0"), "no schema 0"),
        (changed("\"schema\": 2", "\"schema\": 2, \"extra\": 1"), "unknown field `extra`"),
        (changed("\"enabled\": true", "\"enabled\": 1"), "invalid type"),
        (changed("\"enabled\": true", "\"enabled\": true, \"colour\": 1"), "unknown field `colour`"),
        (changed("\"mode\": \"auto\",", ""), "missing field `mode`"),
        (changed("org.netdext.sample", "sample"), "bundle ID \"sample\" is not valid"),
        (changed("B123456789", "A123456789"), "installed already"),
        (changed("veth2", "veth0"), "veth0 has a driver already"),
        ("[]".to_owned(), "no schema"),
        (text.clone() + "{}", "trailing characters"),
    ];
    for (content, reason) in table {
        let error = assert_refused(&dir, content.as_bytes());
        assert!(matches!(error, RegistryError::Damaged { .. }), "{error}");
        assert!(error.to_string().contains(reason), "{error}");
    }
    assert_refused(&dir, b"\xff\xfe");
    let newer = format!("{{\"schema\": {}, \"machines\": {{}}}}", SCHEMA_VERSION + 1);
    let error = assert_refused(&dir, newer.as_bytes());
    assert!(matches!(error, RegistryError::Newer { schema: 3, known: 2, .. }), "{error}");
}

/// A state file of the first version, with a driver of each kind that it could have.
fn first_version() -> Value {
    let driver = |bundle: &str, iface: &str, driver: &str, injector: Value| {
        json!({
            "identity": identity("A123456789", bundle),
            "enabled": true,
            "powered": true,
            "spec": {
                "iface": iface,
                "driver": driver,
                "addresses": ["198.18.0.1/24"],
                "mode": "auto",
                "wait": "adaptive",
                "queues": null,
                "steer": [],
                "answer": false,
                "answer_limit": null,
                "yes": false,
                "replace": false,
                "lab": true,
                "injector": injector,
            },
            "rules": [],
            "made_link": false,
        })
    };
    let injector = json!({
        "first_ns": 2_000_000_000, "interval_ns": 100_000, "batch": 4, "payload_bytes": 100, "targets": ["198.18.0.2"],
    });
    let drivers = [
        driver("org.netdext.sample", "veth0", "sample", injector),
        driver("org.netdext.quiet", "veth2", "sample", Value::Null),
        driver("org.netdext.sink", "veth4", "sink", Value::Null),
    ];
    json!({ "schema": 1, "drivers": drivers })
}

#[test]
fn a_file_of_the_first_version_is_read_and_written_as_the_present_one() {
    let (_temp, dir, _) = installed();
    let old = first_version();
    fs::write(dir.file(), old.to_string()).unwrap();
    let mut registry = Registry::open(&dir).unwrap();
    let types = netdext_drivers::builtin();
    for installed in registry.drivers() {
        installed.spec.resolve(&types).unwrap_or_else(|error| panic!("{error}"));
    }
    let mut options: Vec<_> = registry.drivers().iter().map(|driver| driver.spec.options.clone()).collect();
    assert_eq!(options[0], old["drivers"][0]["spec"]["injector"]);
    assert_eq!(options.split_off(1), [json!({ "no_injector": true }), json!({})]);

    registry.update(&selector(None, None, Some("veth0")), |driver| driver.enabled = false).unwrap();
    let written: Value = serde_json::from_slice(&fs::read(dir.file()).unwrap()).unwrap();
    assert_eq!(written["schema"], SCHEMA_VERSION);
    let spec = &written["drivers"][0]["spec"];
    assert_eq!(spec["options"], old["drivers"][0]["spec"]["injector"]);
    assert!(spec.get("injector").is_none(), "{spec}");
    let before = registry.drivers().to_vec();
    drop(registry);
    assert_eq!(Registry::open(&dir).unwrap().drivers(), before);
}

#[test]
fn what_a_killed_process_left_half_written_does_no_harm() {
    let (temp, dir, _) = installed();
    let elsewhere = temp.path().join("elsewhere");
    File::create(&elsewhere).unwrap();
    symlink(&elsewhere, dir.path().join(".state.json.next")).unwrap();
    let mut registry = Registry::open(&dir).unwrap();
    registry.install(identity("C1", "org.netdext.sample"), spec("veth4")).unwrap();
    assert_eq!(Registry::read(&dir).unwrap(), registry.drivers());
    assert_eq!(fs::metadata(elsewhere).unwrap().len(), 0);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn a_directory_that_cannot_be_made_is_one_line() {
    let error = Registry::open(&StateDir::at("/proc/netdext")).unwrap_err();
    assert!(error.to_string().contains("/proc/netdext"), "{error}");
    assert_eq!(error.to_string().lines().count(), 1);
}

/// Names the directory when this program is started again as a process that can write little.
const LIMITED: &str = "NETDEXT_TEST_LIMITED_STATE";

/// What the limited process does: its part of the next test.
#[test]
fn limited_process() {
    let Some(dir) = std::env::var_os(LIMITED) else { return };
    let mut registry = Registry::open(&StateDir::at(dir)).unwrap();
    let before = registry.drivers().to_vec();
    let error = registry.install(identity("C1", "org.netdext.sample"), spec("veth4")).unwrap_err();
    assert!(matches!(error, RegistryError::Io { .. }), "{error}");
    assert!(error.to_string().ends_with("the state is as it was"), "{error}");
    assert_eq!(registry.drivers(), before);
}

#[test]
fn a_state_that_cannot_be_written_whole_leaves_the_old_one() {
    let (_temp, dir, bytes) = installed();
    // A limit of the file size stands in for a full disk: a write ends early and the next one fails. The
    // shell sets it, because the signal that goes with it has to be ignored from the start.
    let limited = Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 1; exec \"$0\" --exact limited_process --nocapture"])
        .arg(std::env::current_exe().unwrap())
        .env(LIMITED, dir.path())
        .output()
        .unwrap();
    assert!(limited.status.success(), "{}", String::from_utf8_lossy(&limited.stderr));
    assert!(String::from_utf8_lossy(&limited.stdout).contains("1 passed"), "it ran");
    assert!(bytes.len() > 512, "the limit is below what has to be written");
    assert_eq!(fs::read(dir.file()).unwrap(), bytes);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no part of the new one is left");
}

#[derive(Clone, Debug)]
enum Operation {
    Install { team: u8, bundle: u8, iface: u8 },
    Uninstall { team: u8, bundle: u8 },
    Enable { iface: u8, on: bool },
    Reopen,
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        4 => (0..3u8, 0..2u8, 0..4u8).prop_map(|(team, bundle, iface)| Operation::Install { team, bundle, iface }),
        2 => (0..3u8, 0..2u8).prop_map(|(team, bundle)| Operation::Uninstall { team, bundle }),
        2 => (0..4u8, any::<bool>()).prop_map(|(iface, on)| Operation::Enable { iface, on }),
        1 => Just(Operation::Reopen),
    ]
}

/// What the model knows of a driver: team, bundle, interface, and whether it is enabled.
type Row = (u8, u8, u8, bool);

fn row(driver: &Installed) -> Row {
    let digit = |text: &str| text.bytes().last().unwrap() - b'0';
    (
        digit(&driver.identity.team_id),
        digit(&driver.identity.bundle_id),
        digit(&driver.spec.iface),
        driver.enabled,
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_registry_does_what_a_list_would(operations in proptest::collection::vec(operation(), 1..40)) {
        let (_temp, dir) = new_dir();
        let mut registry = Registry::open(&dir).unwrap();
        let mut model: Vec<Row> = Vec::new();
        for operation in operations {
            match operation {
                Operation::Install { team, bundle, iface } => {
                    let free = model.iter().all(|row| (row.0, row.1) != (team, bundle) && row.2 != iface);
                    let names = identity(&format!("T{team}"), &format!("org.netdext.d{bundle}"));
                    let done = registry.install(names, spec(&format!("veth{iface}"))).is_ok();
                    prop_assert_eq!(done, free);
                    if free {
                        model.push((team, bundle, iface, true));
                    }
                }
                Operation::Uninstall { team, bundle } => {
                    let at = model.iter().position(|row| (row.0, row.1) == (team, bundle));
                    let (team, bundle) = (format!("T{team}"), format!("org.netdext.d{bundle}"));
                    let removed = registry.uninstall(&selector(Some(&team), Some(&bundle), None)).ok();
                    prop_assert_eq!(removed.as_ref().map(row), at.map(|at| model.remove(at)));
                }
                Operation::Enable { iface, on } => {
                    let wanted = selector(None, None, Some(&format!("veth{iface}")));
                    let done = registry.update(&wanted, |driver| driver.enabled = on).is_ok();
                    let found = model.iter_mut().find(|row| row.2 == iface);
                    prop_assert_eq!(done, found.is_some());
                    if let Some(row) = found {
                        row.3 = on;
                    }
                }
                Operation::Reopen => {
                    drop(registry);
                    registry = Registry::open(&dir).unwrap();
                }
            }
            prop_assert_eq!(registry.drivers().iter().map(row).collect::<Vec<_>>(), model.clone());
            prop_assert_eq!(&Registry::read(&dir).unwrap(), registry.drivers());
        }
    }
}
