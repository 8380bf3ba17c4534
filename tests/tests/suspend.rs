//! Sleep, as a logind on a bus of the test's own announces it.

use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use netdext_daemon::daemon::suspend::{SleepEvent, SleepEvents, watch_on};
use netdext_tests::{patiently, require, wait_until};
use tokio::time::timeout;
use zbus::zvariant::OwnedFd;
use zbus::{Connection, connection, fdo, interface};

const PATH: &str = "/org/freedesktop/login1";
const INTERFACE: &str = "org.freedesktop.login1.Manager";
const WITHIN: Duration = Duration::from_secs(10);

/// A bus of its own; dropping it ends the daemon.
struct Bus {
    daemon: Child,
    address: String,
    _directory: tempfile::TempDir,
}

impl Bus {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let config = directory.path().join("bus.conf");
        let text = format!(
            r#"<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
                "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
               <busconfig>
                 <type>session</type>
                 <listen>unix:path={}/bus</listen>
                 <policy context="default">
                   <allow send_destination="*"/> <allow receive_sender="*"/> <allow own="*"/>
                 </policy>
               </busconfig>"#,
            directory.path().display()
        );
        std::fs::write(&config, text).unwrap();
        let mut command = Command::new("dbus-daemon");
        command.args(["--nofork", "--nopidfile", "--nosyslog", "--print-address"]);
        command.arg(format!("--config-file={}", config.display()));
        let mut daemon = command.stdout(Stdio::piped()).spawn().expect("dbus-daemon can be started");
        let mut address = String::new();
        let stdout = daemon.stdout.take().expect("stdout is piped");
        BufReader::new(stdout).read_line(&mut address).expect("dbus-daemon says where it listens");
        Self { daemon, address: address.trim().to_owned(), _directory: directory }
    }

    async fn connect(&self) -> Connection {
        connection::Builder::address(self.address.as_str()).unwrap().build().await.expect("the bus is there")
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

/// The locks that were given, with what was asked for: the holder's end closed is a lock returned.
type Locks = Arc<Mutex<Vec<([String; 4], UnixStream)>>>;

struct Logind {
    locks: Locks,
    refuses: bool,
}

#[interface(name = "org.freedesktop.login1.Manager")]
impl Logind {
    fn inhibit(&self, what: String, who: String, why: String, mode: String) -> fdo::Result<OwnedFd> {
        if self.refuses {
            return Err(fdo::Error::AccessDenied("no locks today".to_owned()));
        }
        let (ours, theirs) = UnixStream::pair().map_err(|error| fdo::Error::IOError(error.to_string()))?;
        self.locks.lock().unwrap().push(([what, who, why, mode], ours));
        Ok(std::os::fd::OwnedFd::from(theirs).into())
    }
}

/// Takes logind's name on the bus.
async fn logind(bus: &Bus, refuses: bool) -> (Connection, Locks) {
    let locks = Locks::default();
    let connection = bus.connect().await;
    connection.object_server().at(PATH, Logind { locks: Arc::clone(&locks), refuses }).await.unwrap();
    connection.request_name("org.freedesktop.login1").await.unwrap();
    (connection, locks)
}

async fn announce(logind: &Connection, start: bool) {
    let nobody_else: Option<&str> = None;
    logind.emit_signal(nobody_else, PATH, INTERFACE, "PrepareForSleep", &start).await.unwrap();
}

async fn next(events: &mut SleepEvents) -> SleepEvent {
    timeout(patiently(WITHIN), events.next()).await.expect("an event in time").expect("the bus is there")
}

/// Whether the other end of the lock is still open.
fn is_held(locks: &Locks, lock: usize) -> bool {
    let mut locks = locks.lock().unwrap();
    let stream = &mut locks[lock].1;
    stream.set_nonblocking(true).unwrap();
    matches!(stream.read(&mut [0]), Err(error) if error.kind() == ErrorKind::WouldBlock)
}

fn run(test: impl AsyncFnOnce()) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(test());
}

#[test]
fn sleep_waits_for_the_lock_and_a_new_one_is_taken_after_it() {
    require!("dbus-daemon");
    run(async || {
        let bus = Bus::start();
        let (logind, locks) = logind(&bus, false).await;
        let mut events = watch_on(&bus.connect().await).await.expect("logind is on the bus");
        let asked = locks.lock().unwrap()[0].0.clone();
        assert_eq!([&asked[0], &asked[1], &asked[3]], ["sleep", "netdext", "delay"]);
        for night in 0..2 {
            announce(&logind, true).await;
            let SleepEvent::Suspending(lock) = next(&mut events).await else { panic!("no sleep") };
            assert!(lock.is_held() && is_held(&locks, night));
            drop(lock);
            wait_until("the lock is returned", WITHIN, || (!is_held(&locks, night)).then_some(()));
            announce(&logind, false).await;
            assert!(matches!(next(&mut events).await, SleepEvent::Resumed));
            // The new lock is taken while the next event is awaited; giving up on that loses nothing.
            assert!(timeout(Duration::from_millis(300), events.next()).await.is_err());
            assert_eq!(locks.lock().unwrap().len(), night + 2);
            assert!(is_held(&locks, night + 1));
        }
    });
}

#[test]
fn without_a_lock_sleep_is_still_told() {
    require!("dbus-daemon");
    run(async || {
        let bus = Bus::start();
        let (logind, _) = logind(&bus, true).await;
        let mut events = watch_on(&bus.connect().await).await.expect("logind is on the bus");
        announce(&logind, true).await;
        let SleepEvent::Suspending(lock) = next(&mut events).await else { panic!("no sleep") };
        assert!(!lock.is_held());
    });
}

#[test]
fn a_bus_without_logind_and_a_bus_that_goes_away_are_no_trouble() {
    require!("dbus-daemon");
    run(async || {
        let bus = Bus::start();
        assert!(watch_on(&bus.connect().await).await.is_none());
        let (_logind, _locks) = logind(&bus, false).await;
        let mut events = watch_on(&bus.connect().await).await.expect("logind is on the bus");
        drop(bus);
        assert!(timeout(patiently(WITHIN), events.next()).await.expect("in time").is_none());
    });
}
