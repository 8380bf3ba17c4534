//! Binding sockets: what is in the way, and who wins.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Barrier;

use netdext_daemon::control::{BindError, RuntimeDir, SocketName};

fn dir_in(temp: &tempfile::TempDir) -> RuntimeDir {
    RuntimeDir::at(temp.path().join("run"))
}

fn make_stale(path: &Path) {
    drop(UnixListener::bind(path).unwrap());
    assert!(path.exists());
}

#[test]
fn the_socket_is_its_owners_alone_and_goes_with_its_guard() {
    let temp = tempfile::tempdir().unwrap();
    let dir = dir_in(&temp);
    let socket = dir.bind(SocketName::Run(12)).unwrap();
    assert_eq!(socket.path(), dir.path().join("run-12.sock"));
    assert_eq!(fs::metadata(socket.path()).unwrap().mode() & 0o777, 0o600);
    drop(socket);
    assert!(!dir.path().exists(), "the directory was made for the socket");
}

#[test]
fn a_directory_that_was_there_stays() {
    let temp = tempfile::tempdir().unwrap();
    let dir = RuntimeDir::at(temp.path());
    drop(dir.bind(SocketName::Daemon).unwrap());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn a_stale_socket_is_replaced() {
    let temp = tempfile::tempdir().unwrap();
    let dir = RuntimeDir::at(temp.path());
    make_stale(&dir.socket(SocketName::Daemon));
    let socket = dir.bind(SocketName::Daemon).unwrap();
    assert_eq!(dir.sockets().unwrap(), [SocketName::Daemon]);
    drop(socket);
}

#[test]
fn the_second_daemon_is_told_who_the_first_is() {
    let temp = tempfile::tempdir().unwrap();
    let dir = dir_in(&temp);
    let first = dir.bind(SocketName::Daemon).unwrap();
    let error = dir.bind(SocketName::Daemon).unwrap_err();
    let me = std::process::id();
    assert!(matches!(error, BindError::InUse { pid: Some(pid), .. } if pid == me), "{error}");
    assert!(error.to_string().contains(&format!("process {me}")), "{error}");
    // And a `netdext run` beside it is no second daemon.
    dir.bind(SocketName::Run(me)).unwrap();
    drop(first);
}

#[test]
fn of_many_that_start_at_once_one_wins() {
    const STARTERS: usize = 8;
    let temp = tempfile::tempdir().unwrap();
    for round in 0..20 {
        let dir = RuntimeDir::at(temp.path().join(round.to_string()));
        if round % 2 == 0 {
            fs::create_dir(dir.path()).unwrap();
            make_stale(&dir.socket(SocketName::Daemon));
        }
        let barrier = Barrier::new(STARTERS);
        let bind = || {
            barrier.wait();
            dir.bind(SocketName::Daemon)
        };
        let results: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..STARTERS).map(|_| scope.spawn(bind)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let winners = results.iter().filter(|result| result.is_ok()).count();
        assert_eq!(winners, 1, "round {round}");
        let refused = |error: &BindError| matches!(error, BindError::InUse { .. });
        assert!(results.iter().filter_map(|result| result.as_ref().err()).all(refused), "{results:?}");
    }
}

#[test]
fn a_guard_removes_only_its_own_socket() {
    let temp = tempfile::tempdir().unwrap();
    let dir = RuntimeDir::at(temp.path());
    let socket = dir.bind(SocketName::Daemon).unwrap();
    let path = socket.path().to_owned();
    // Beside each other for a moment, so that the new one cannot have the inode of the old one.
    let _other = UnixListener::bind(temp.path().join("other")).unwrap();
    fs::rename(temp.path().join("other"), &path).unwrap();
    drop(socket);
    assert!(path.exists());
}

#[test]
fn what_is_no_socket_is_left_as_it_is() {
    let temp = tempfile::tempdir().unwrap();
    let dir = RuntimeDir::at(temp.path());
    let path = dir.socket(SocketName::Daemon);
    File::create(&path).unwrap();
    let error = dir.bind(SocketName::Daemon).unwrap_err();
    assert!(matches!(error, BindError::NotASocket { .. }), "{error}");
    fs::remove_file(&path).unwrap();
    symlink("/nowhere", &path).unwrap();
    let error = dir.bind(SocketName::Daemon).unwrap_err();
    assert!(matches!(error, BindError::NotASocket { .. }), "{error}");
    assert!(fs::symlink_metadata(&path).is_ok());
}

#[test]
fn a_directory_that_cannot_be_made_or_is_too_long_is_one_line() {
    let error = RuntimeDir::at("/proc/netdext").bind(SocketName::Daemon).unwrap_err();
    assert!(error.to_string().contains("/proc/netdext"), "{error}");
    assert_eq!(error.to_string().lines().count(), 1);

    let temp = tempfile::tempdir().unwrap();
    let long = RuntimeDir::at(temp.path().join("x".repeat(100)));
    let error = long.bind(SocketName::Daemon).unwrap_err();
    assert!(matches!(error, BindError::PathTooLong { .. }), "{error}");
    assert!(!long.path().exists(), "nothing was made");
}
