//! Where control sockets are, and by which names.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Where sockets are unless `NETDEXT_RUNTIME_DIR` says otherwise.
const DEFAULT: &str = "/run/netdext";
/// The daemon's socket.
const DAEMON_SOCKET: &str = "control.sock";

/// How long to wait for another process that is binding or removing a socket.
const LOCK_DEADLINE: Duration = Duration::from_secs(2);
/// How often to try meanwhile.
const LOCK_RETRY: Duration = Duration::from_millis(5);

/// The directory of control sockets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuntimeDir {
    path: PathBuf,
}

/// Whose socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SocketName {
    /// The daemon: there is one in a directory.
    Daemon,
    /// The `netdext run` of that process.
    Run(u32),
}

/// Why the runtime directory cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RuntimeDirError {
    /// It cannot be made or read.
    #[error("cannot {action} the runtime directory {}: {source}; run it by sudo, or set NETDEXT_RUNTIME_DIR", .path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The directory.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// Something else has its name.
    #[error("the runtime directory {} is no directory: move it away, or set NETDEXT_RUNTIME_DIR", .path.display())]
    NotADirectory {
        /// Its path.
        path: PathBuf,
    },
    /// Others could put sockets of their own there.
    #[error("the runtime directory {0} can be written by others (mode {mode:04o}): `chmod go-w {0}`", .path.display())]
    WritableByOthers {
        /// The directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Another process holds the directory's lock.
    #[error("another netdext has kept {} locked for {LOCK_DEADLINE:?}: try again, or find it with `fuser -v`", .path.display())]
    Locked {
        /// The directory.
        path: PathBuf,
    },
}

impl RuntimeDirError {
    /// Whether it is for want of permission.
    pub fn is_permission(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied)
    }
}

impl RuntimeDir {
    /// `NETDEXT_RUNTIME_DIR`, or `/run/netdext`.
    pub fn from_env() -> Self {
        Self::at(
            std::env::var_os("NETDEXT_RUNTIME_DIR").filter(|path| !path.is_empty()).unwrap_or(DEFAULT.into()),
        )
    }

    /// A directory of that path.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of a socket.
    pub fn socket(&self, name: SocketName) -> PathBuf {
        match name {
            SocketName::Daemon => self.path.join(DAEMON_SOCKET),
            SocketName::Run(pid) => self.path.join(format!("run-{pid}.sock")),
        }
    }

    /// The sockets that are there, the daemon's first, then by process. Some may be stale.
    ///
    /// # Errors
    ///
    /// The directory exists and cannot be read.
    pub fn sockets(&self) -> Result<Vec<SocketName>, RuntimeDirError> {
        let entries = match fs::read_dir(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.and_then(Iterator::collect::<io::Result<Vec<_>>>),
        };
        let entries = entries.map_err(|source| self.io("read", source))?;
        let mut names: Vec<_> = entries.iter().filter_map(|entry| parse_name(&entry.file_name())).collect();
        names.sort_unstable();
        Ok(names)
    }

    /// Makes the directory if it is missing, and locks it.
    pub(super) fn lock_or_create(&self) -> Result<DirLock, RuntimeDirError> {
        let deadline = Instant::now() + LOCK_DEADLINE;
        let mut created = false;
        loop {
            match self.lock(deadline)? {
                Some(mut lock) => {
                    lock.created = created;
                    return Ok(lock);
                }
                None => {
                    let mut builder = DirBuilder::new();
                    builder.recursive(true).mode(0o700);
                    builder.create(&self.path).map_err(|source| self.create_error(source))?;
                    created = true;
                }
            }
            if Instant::now() >= deadline {
                return Err(RuntimeDirError::Locked { path: self.path.clone() });
            }
        }
    }

    /// Locks the directory, so that sockets are looked at and changed by one process at a time; `None` if it
    /// is not there. The lock is on the directory itself: no lock file is left.
    pub(super) fn lock(&self, deadline: Instant) -> Result<Option<DirLock>, RuntimeDirError> {
        let dir = match File::open(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            dir => dir.map_err(|source| self.io("open", source))?,
        };
        let facts = dir.metadata().map_err(|source| self.io("look at", source))?;
        if !facts.is_dir() {
            return Err(RuntimeDirError::NotADirectory { path: self.path.clone() });
        }
        if facts.mode() & 0o022 != 0 {
            let mode = facts.mode() & 0o7777;
            return Err(RuntimeDirError::WritableByOthers { path: self.path.clone(), mode });
        }
        loop {
            match dir.try_lock() {
                Ok(()) => break,
                Err(TryLockError::Error(source)) => return Err(self.io("lock", source)),
                Err(TryLockError::WouldBlock) if Instant::now() >= deadline => {
                    return Err(RuntimeDirError::Locked { path: self.path.clone() });
                }
                Err(TryLockError::WouldBlock) => std::thread::sleep(LOCK_RETRY),
            }
        }
        // Who held the lock may have removed the directory: then what is locked here is nobody's.
        let same =
            fs::metadata(&self.path).is_ok_and(|now| (now.dev(), now.ino()) == (facts.dev(), facts.ino()));
        Ok(same.then_some(DirLock { _dir: dir, created: false }))
    }

    fn create_error(&self, source: io::Error) -> RuntimeDirError {
        match source.kind() {
            io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory => {
                RuntimeDirError::NotADirectory { path: self.path.clone() }
            }
            _ => self.io("make", source),
        }
    }

    fn io(&self, action: &'static str, source: io::Error) -> RuntimeDirError {
        RuntimeDirError::Io { action, path: self.path.clone(), source }
    }
}

/// The lock of a runtime directory, held until it is dropped.
#[derive(Debug)]
pub(super) struct DirLock {
    _dir: File,
    /// Whether the directory was made on the way.
    pub(super) created: bool,
}

/// The socket of that file name; `None` if the file is no control socket.
fn parse_name(name: &OsStr) -> Option<SocketName> {
    let name = name.to_str()?;
    if name == DAEMON_SOCKET {
        return Some(SocketName::Daemon);
    }
    let pid = name.strip_prefix("run-")?.strip_suffix(".sock")?.parse().ok()?;
    Some(SocketName::Run(pid))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_daemons_socket_comes_first_and_other_files_are_no_sockets() {
        let temp = tempfile::tempdir().unwrap();
        for name in ["run-20.sock", "control.sock", "run-3.sock", "run-x.sock", "run-4.sock.old", "notes"] {
            File::create(temp.path().join(name)).unwrap();
        }
        let found = RuntimeDir::at(temp.path()).sockets().unwrap();
        assert_eq!(found, [SocketName::Daemon, SocketName::Run(3), SocketName::Run(20)]);
    }

    #[test]
    fn a_missing_directory_has_no_sockets() {
        let temp = tempfile::tempdir().unwrap();
        assert_eq!(RuntimeDir::at(temp.path().join("none")).sockets().unwrap(), []);
    }

    #[test]
    fn the_directory_is_made_for_its_owner_alone() {
        let temp = tempfile::tempdir().unwrap();
        let dir = RuntimeDir::at(temp.path().join("a/b"));
        assert!(dir.lock_or_create().unwrap().created);
        assert_eq!(fs::metadata(dir.path()).unwrap().mode() & 0o777, 0o700);
        assert!(!dir.lock_or_create().unwrap().created);
    }

    #[test]
    fn the_lock_is_held_by_one_at_a_time() {
        let temp = tempfile::tempdir().unwrap();
        let dir = RuntimeDir::at(temp.path());
        let first = dir.lock_or_create().unwrap();
        assert!(matches!(dir.lock(Instant::now()), Err(RuntimeDirError::Locked { .. })));
        drop(first);
        assert!(dir.lock(Instant::now()).unwrap().is_some());
    }

    #[test]
    fn a_directory_that_others_can_write_or_that_is_none_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let temp = tempfile::tempdir().unwrap();
        let open = temp.path().join("open");
        fs::create_dir(&open).unwrap();
        fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
        let error = RuntimeDir::at(&open).lock_or_create().unwrap_err();
        assert!(matches!(error, RuntimeDirError::WritableByOthers { mode: 0o777, .. }), "{error}");
        let file = temp.path().join("file");
        File::create(&file).unwrap();
        for path in [file.clone(), file.join("below")] {
            let error = RuntimeDir::at(path).lock_or_create().unwrap_err();
            assert_eq!(error.to_string().lines().count(), 1);
        }
    }
}
