//! Named network namespaces, compatible with `ip netns`.
//!
//! A namespace belongs to a thread, and a new thread takes over the one of its creator. So a process has to
//! enter its namespace first of all: before a runtime, a worker or any other thread exists, and before the
//! first netlink socket. `/proc/sys/net` follows the thread; `/sys/class/net` does not: it shows the
//! namespace of whoever mounted it.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use rustix::mount::{MountPropagationFlags, UnmountFlags};
use rustix::thread::{LinkNameSpaceType, UnshareFlags};

use super::device::alias;
use super::lab;
use super::netlink::{DeviceError, Netlink, blocking};

/// Where the names are, as `ip netns` has it (ip-netns(8)).
const DIRECTORY: &str = "/run/netns";
/// The loopback is the first interface of every namespace (net/core/dev.c).
const LOOPBACK_INDEX: u32 = 1;
/// The alias of the loopback of a namespace that was made here and kept; [`remove_kept`] goes by it. It is what marks
/// the pair in it, too.
const KEPT_ALIAS: &str = lab::DRIVER_ALIAS;

/// A namespace that could not be made, entered or removed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetnsError {
    /// Not a single path component.
    #[error("{name:?} is not a namespace name: it takes 1 to 255 bytes without '/', and is not '.' or '..'")]
    BadName {
        /// The name that was given.
        name: String,
    },
    /// A system call failed.
    #[error("{operation} {}: {source}{}", path.display(), hint(source))]
    Io {
        /// What was tried on `path`.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The loopback of a new namespace could not be set up.
    #[error("set up the loopback of namespace {name}: {source}")]
    Loopback {
        /// The namespace.
        name: String,
        /// Why it failed.
        source: DeviceError,
    },
    /// A netlink request failed.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

fn hint(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::PermissionDenied => " (it takes CAP_SYS_ADMIN: run it by sudo)",
        io::ErrorKind::InvalidInput => " (a file left behind is no namespace; `ip netns delete` removes it)",
        _ => "",
    }
}

impl NetnsError {
    /// Whether the reason is a missing capability.
    pub fn is_permission(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied)
    }
}

/// Keeps a named namespace that was made here; dropping it removes the name. The namespace itself goes when
/// the last process and the last socket in it are gone.
#[derive(Debug)]
#[must_use = "dropping the guard removes the namespace that was made"]
pub struct NamespaceGuard {
    name: String,
    made: bool,
}

impl NamespaceGuard {
    /// The name under /run/netns.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Leaves the namespace in place. One that was made here is marked, so that [`remove_kept`] knows it. The calling
    /// thread has to be in it.
    ///
    /// # Errors
    /// It can't be marked; then it is removed.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub async fn keep(mut self) -> Result<(), NetnsError> {
        if self.made {
            Netlink::open()?.set_alias(LOOPBACK_INDEX, KEPT_ALIAS).await?;
            self.made = false;
        }
        Ok(())
    }

    /// Whether it was made here, and so will be removed.
    pub fn made(&self) -> bool {
        self.made
    }
}

impl Drop for NamespaceGuard {
    fn drop(&mut self) {
        if self.made
            && let Err(error) = remove(&self.name)
        {
            tracing::warn!(%error, "the namespace stays behind");
        }
    }
}

/// Moves the calling thread into the namespace `name`; threads that it starts from now on are in it too.
///
/// # Errors
/// The name is bad, there is no such namespace, or it may not be entered.
pub fn enter(name: &str) -> Result<(), NetnsError> {
    let path = path_of(name)?;
    let file = File::open(&path).map_err(|e| io_error("open the namespace", &path, e))?;
    rustix::thread::move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
        .map_err(|e| io_error("enter the namespace", &path, e.into()))
}

/// Like [`enter`], but makes the namespace if it is missing, with its loopback up.
///
/// # Errors
/// As [`enter`], or it can't be made.
pub fn enter_or_create(name: &str) -> Result<NamespaceGuard, NetnsError> {
    let guard = create_if_missing(name)?;
    enter(name)?;
    Ok(guard)
}

/// Makes the namespace `name`, with its loopback up, if it is missing; the calling thread stays where it is.
///
/// # Errors
/// The name is bad, or the namespace can't be made.
pub fn create_if_missing(name: &str) -> Result<NamespaceGuard, NetnsError> {
    let path = path_of(name)?;
    prepare_directory()?;
    match OpenOptions::new().read(true).write(true).create_new(true).mode(0o0).open(&path) {
        Ok(_) => {}
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            return Ok(NamespaceGuard { name: name.to_owned(), made: false });
        }
        Err(e) => return Err(io_error("create", &path, e)),
    }
    // From here on the file is ours, so that a failure removes it.
    let guard = NamespaceGuard { name: name.to_owned(), made: true };
    blocking(async || populate(name, &path).await)??;
    Ok(guard)
}

/// Removes the namespace `name`, in which the calling thread has to be, if [`NamespaceGuard::keep`] left it and
/// nothing but its loopback is in it. Says whether it did.
///
/// # Errors
/// The kernel refused.
///
/// # Panics
/// Outside of a tokio runtime.
pub async fn remove_kept(name: &str) -> Result<bool, NetnsError> {
    let netlink = Netlink::open()?;
    let loopback = netlink.link_by_index(LOOPBACK_INDEX).await?;
    let kept = loopback.is_some_and(|loopback| alias(&loopback) == KEPT_ALIAS);
    if !kept || netlink.interface_names().await?.len() > 1 {
        return Ok(false);
    }
    remove(name)?;
    Ok(true)
}

/// Runs on a thread of its own, which ends up in the new namespace.
async fn populate(name: &str, path: &Path) -> Result<(), NetnsError> {
    #[expect(deprecated, reason = "its replacement is unsafe for CLONE_FILES alone, which is not used")]
    rustix::thread::unshare(UnshareFlags::NEWNET)
        .map_err(|e| io_error("make a network namespace for", path, e.into()))?;
    rustix::mount::mount_bind("/proc/thread-self/ns/net", path)
        .map_err(|e| io_error("mount the namespace on", path, e.into()))?;
    let set_up = async { Netlink::open()?.set_up(LOOPBACK_INDEX, true).await };
    set_up.await.map_err(|source| NetnsError::Loopback { name: name.to_owned(), source })
}

/// Removes the name; the namespace goes with its last user.
fn remove(name: &str) -> Result<(), NetnsError> {
    let path = path_of(name)?;
    match rustix::mount::unmount(&path, UnmountFlags::DETACH) {
        // Not a mount point: a file of a namespace that was never populated.
        Ok(()) | Err(rustix::io::Errno::INVAL) => {}
        Err(e) => return Err(io_error("unmount", &path, e.into())),
    }
    std::fs::remove_file(&path).map_err(|e| io_error("remove", &path, e))
}

/// Makes /run/netns a shared mount point as `ip netns add` does, so that names show in every mount namespace.
fn prepare_directory() -> Result<(), NetnsError> {
    let directory = Path::new(DIRECTORY);
    DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(directory)
        .map_err(|e| io_error("create", directory, e))?;
    // The lock that iproute2 takes: two at once would mount the directory over itself twice.
    let lock = File::open(directory).map_err(|e| io_error("open", directory, e))?;
    rustix::fs::flock(&lock, FlockOperation::LockExclusive)
        .map_err(|e| io_error("lock", directory, e.into()))?;
    let share = MountPropagationFlags::SHARED | MountPropagationFlags::REC;
    match rustix::mount::mount_change(directory, share) {
        Err(rustix::io::Errno::INVAL) => {
            rustix::mount::mount_bind_recursive(directory, directory)
                .map_err(|e| io_error("bind", directory, e.into()))?;
            rustix::mount::mount_change(directory, share)
        }
        result => result,
    }
    .map_err(|e| io_error("share the mount of", directory, e.into()))
}

fn path_of(name: &str) -> Result<PathBuf, NetnsError> {
    let bad = name.is_empty()
        || name.len() > 255
        || name == "."
        || name == ".."
        || name.bytes().any(|b| b == b'/' || b == 0);
    if bad {
        return Err(NetnsError::BadName { name: name.to_owned() });
    }
    Ok(Path::new(DIRECTORY).join(name))
}

fn io_error(operation: &'static str, path: &Path, source: io::Error) -> NetnsError {
    NetnsError::Io { operation, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_would_leave_the_directory_are_refused() {
        for bad in ["", ".", "..", "a/b", "/etc", "../x", "a\0b", &"x".repeat(256)] {
            assert!(matches!(enter(bad), Err(NetnsError::BadName { .. })), "{bad:?}");
            assert!(matches!(create_if_missing(bad), Err(NetnsError::BadName { .. })), "{bad:?}");
        }
    }

    #[test]
    fn entering_a_namespace_that_does_not_exist_says_which() {
        let error = enter("nxt-nothing").unwrap_err();
        assert!(error.to_string().starts_with("open the namespace /run/netns/nxt-nothing: "), "{error}");
    }
}
