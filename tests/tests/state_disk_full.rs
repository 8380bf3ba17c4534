//! The registry on a disk that is full.

use std::io::ErrorKind;
use std::process::Command;

use netdext_daemon::control::protocol::{Identity, Selector};
use netdext_daemon::registry::{Registry, RegistryError, StateDir};
use netdext_daemon::spec::DriverSpec;
use netdext_host::worker::WaitStrategy;
use netdext_host::xdp::program::XdpMode;

/// Names the directory when this program is started again with a small disk mounted there.
const SMALL_DISK: &str = "NETDEXT_TEST_SMALL_DISK";

fn identity(number: usize) -> Identity {
    Identity {
        team_id: "A123456789".to_owned(),
        bundle_id: format!("org.netdext.sample{number}"),
        version: "1.0/1".to_owned(),
        name: "sample".to_owned(),
    }
}

fn spec(number: usize) -> DriverSpec {
    DriverSpec {
        iface: format!("veth{number}"),
        other_ifaces: Vec::new(),
        driver: "sample".to_owned(),
        options: serde_json::Value::Null,
        addresses: vec!["198.18.0.1/24".parse().expect("an address")],
        mode: XdpMode::Auto,
        wait: WaitStrategy::Adaptive,
        queues: None,
        steer: Vec::new(),
        answer: false,
        answer_limit: None,
        yes: false,
        replace: false,
        lab: false,
    }
}

/// What the process on the small disk does: its part of the next test.
#[test]
fn process_on_a_small_disk() {
    let Some(dir) = std::env::var_os(SMALL_DISK) else { return };
    let dir = StateDir::at(dir);
    let mut registry = Registry::open(&dir).unwrap();
    let failed = (0..1000).find_map(|number| registry.install(identity(number), spec(number)).err());
    let error = failed.expect("a thousand drivers do not fit");
    assert!(
        matches!(&error, RegistryError::Io { source, .. } if source.kind() == ErrorKind::StorageFull),
        "{error}"
    );
    let before = registry.drivers().to_vec();
    assert!(!before.is_empty(), "some did fit");
    assert_eq!(Registry::read(&dir).unwrap(), before);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "no part of the new state is left");

    // There is room again once less is to be written.
    for driver in &before[1..] {
        let iface = Some(driver.spec.iface.clone());
        if let Err(error) = registry.uninstall(&Selector { iface, ..Selector::default() }) {
            panic!("{error}");
        }
    }
    assert_eq!(Registry::read(&dir).unwrap(), before[..1]);
}

#[test]
fn a_full_disk_leaves_the_old_state_and_says_so() {
    netdext_tests::require!("unshare", "mount");
    let temp = tempfile::tempdir().unwrap();
    // In a mount namespace of its own, which goes with the process.
    let mount =
        "mount -t tmpfs -o size=16k,mode=0700 tmpfs \"$1\" && exec \"$0\" --exact process_on_a_small_disk";
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", mount])
        .args([std::env::current_exe().unwrap().as_os_str(), temp.path().as_os_str()])
        .env(SMALL_DISK, temp.path())
        .output()
        .unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{stdout}{}", String::from_utf8_lossy(&output.stderr));
    assert!(stdout.contains("1 passed"), "it ran: {stdout}");
}
