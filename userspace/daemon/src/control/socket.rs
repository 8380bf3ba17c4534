//! Binding a control socket, and removing it again.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::socket::{getsockopt, sockopt};
use rustix::fs::{Mode, fchmod};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::runtime_dir::{RuntimeDir, RuntimeDirError, SocketName};

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 128;
/// Bytes of a socket's path, without the 0 at its end (unix(7)).
const PATH_MAX: usize = 107;
/// How long to ask whether someone listens, and to wait for the lock when removing.
const PROBE_DEADLINE: Duration = Duration::from_secs(1);

/// A bound control socket. Dropping it removes its file, if that is still this socket, and the directory if
/// it was made for it and is empty.
#[derive(Debug)]
pub struct ControlSocket {
    dir: RuntimeDir,
    path: PathBuf,
    listener: UnixListener,
    /// Device and inode of the file.
    file: (u64, u64),
    made_dir: bool,
}

/// Why a control socket could not be bound.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// The runtime directory.
    #[error(transparent)]
    Dir(#[from] RuntimeDirError),
    /// Another process serves it.
    #[error("{} is served by {}: stop that one first, or set NETDEXT_RUNTIME_DIR", .path.display(), process(*.pid))]
    InUse {
        /// The socket.
        path: PathBuf,
        /// The other process; `None` if it is outside this PID namespace.
        pid: Option<u32>,
    },
    /// Something that is no socket has its name.
    #[error("{} is in the way and is no socket: move it away", .path.display())]
    NotASocket {
        /// Its path.
        path: PathBuf,
    },
    /// The path does not fit a socket address.
    #[error("the path {} has {} bytes, and a socket's has {PATH_MAX} at the most: set NETDEXT_RUNTIME_DIR to a shorter one", .path.display(), .path.as_os_str().len())]
    PathTooLong {
        /// The path.
        path: PathBuf,
    },
    /// The system said no.
    #[error("cannot {action} {}: {source}; run it by sudo, or set NETDEXT_RUNTIME_DIR", .path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The socket.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

impl BindError {
    /// Whether it is for want of permission.
    pub fn is_permission(&self) -> bool {
        match self {
            Self::Dir(error) => error.is_permission(),
            Self::Io { source, .. } => source.kind() == io::ErrorKind::PermissionDenied,
            Self::InUse { .. } | Self::NotASocket { .. } | Self::PathTooLong { .. } => false,
        }
    }
}

fn process(pid: Option<u32>) -> String {
    pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
}

impl RuntimeDir {
    /// Binds a socket of mode 0600. A stale one, whose process is gone, is replaced; of two that do so at
    /// once one wins.
    ///
    /// # Errors
    ///
    /// [`BindError`]; what is in the way is left as it is.
    pub fn bind(&self, name: SocketName) -> Result<ControlSocket, BindError> {
        let path = self.socket(name);
        if path.as_os_str().len() > PATH_MAX {
            return Err(BindError::PathTooLong { path });
        }
        let lock = self.lock_or_create()?;
        let bound = clear_the_way(&path).and_then(|()| listen(&path));
        let (listener, file) = match bound {
            Ok(bound) => bound,
            Err(error) => {
                if lock.created {
                    // Nothing is in it: it goes as it came.
                    let _ = fs::remove_dir(self.path());
                }
                return Err(error);
            }
        };
        Ok(ControlSocket { dir: self.clone(), path, listener, file, made_dir: lock.created })
    }
}

/// Removes a stale socket, and refuses anything else.
fn clear_the_way(path: &Path) -> Result<(), BindError> {
    let io = |action, source| BindError::Io { action, path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(io("look at", source)),
        Ok(facts) if !facts.file_type().is_socket() => {
            return Err(BindError::NotASocket { path: path.to_owned() });
        }
        Ok(_) => {}
    }
    match connect(path, PROBE_DEADLINE) {
        Ok(stream) => Err(BindError::InUse { path: path.to_owned(), pid: peer(&stream).0 }),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(|source| io("remove the stale socket", source))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        // Its queue of connections is full: someone holds it.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            Err(BindError::InUse { path: path.to_owned(), pid: None })
        }
        Err(source) => Err(io("connect to", source)),
    }
}

fn listen(path: &Path) -> Result<(UnixListener, (u64, u64)), BindError> {
    let io = |action, source| BindError::Io { action, path: path.to_owned(), source };
    let errno = |action| move |errno: rustix::io::Errno| io(action, errno.into());
    let socket = new_socket().map_err(errno("make a socket for"))?;
    // The file takes the socket's mode, so that there is no moment when others may connect.
    fchmod(&socket, Mode::RUSR | Mode::WUSR).map_err(errno("set the mode of"))?;
    let address = SocketAddrUnix::new(path).map_err(errno("name"))?;
    rustix::net::bind(&socket, &address).map_err(errno("bind"))?;
    let file = fs::symlink_metadata(path).map_err(|source| io("look at", source))?;
    rustix::net::listen(&socket, BACKLOG).map_err(errno("listen on"))?;
    Ok((UnixListener::from(socket), (file.dev(), file.ino())))
}

/// Connects, and waits for room in the listener's queue so long at the most; no room in time is
/// [`io::ErrorKind::WouldBlock`].
pub(super) fn connect(path: &Path, timeout: Duration) -> io::Result<UnixStream> {
    let socket = new_socket()?;
    set_socket_timeout(&socket, Timeout::Send, Some(timeout))?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    set_socket_timeout(&socket, Timeout::Send, None)?;
    Ok(UnixStream::from(socket))
}

fn new_socket() -> rustix::io::Result<rustix::fd::OwnedFd> {
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
}

/// The process at the other end, if it can be named here, and its user.
pub(super) fn peer(stream: &impl std::os::fd::AsFd) -> (Option<u32>, Option<u32>) {
    match getsockopt(stream, sockopt::PeerCredentials) {
        Ok(peer) => (u32::try_from(peer.pid()).ok().filter(|pid| *pid != 0), Some(peer.uid())),
        Err(_) => (None, None),
    }
}

impl ControlSocket {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The listening socket.
    pub(super) fn listener(&self) -> &UnixListener {
        &self.listener
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        let Self { dir, path, listener: _, file, made_dir } = self;
        // The listener is still open here: no other process can take the socket for stale and replace it.
        if fs::symlink_metadata(&*path).is_ok_and(|now| (now.dev(), now.ino()) == *file) {
            let _ = fs::remove_file(&*path);
        }
        if *made_dir && let Ok(Some(_lock)) = dir.lock(Instant::now() + PROBE_DEADLINE) {
            let _ = fs::remove_dir(dir.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_that_accepts_nobody_counts_as_alive() {
        let temp = tempfile::tempdir().unwrap();
        let dir = RuntimeDir::at(temp.path());
        let path = dir.socket(SocketName::Daemon);
        let socket = new_socket().unwrap();
        rustix::net::bind(&socket, &SocketAddrUnix::new(&path).unwrap()).unwrap();
        rustix::net::listen(&socket, 0).unwrap();
        let waiting = connect(&path, Duration::from_millis(20)).unwrap();
        let error = connect(&path, Duration::from_millis(20)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        assert!(matches!(dir.bind(SocketName::Daemon), Err(BindError::InUse { pid: None, .. })));
        drop(waiting);
    }
}
