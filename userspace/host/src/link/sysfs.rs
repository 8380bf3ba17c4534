//! /sys/class/net of the network namespace of the calling thread.
//!
//! A sysfs mount shows the namespace of whoever mounted it: after entering another one, /sys still has the old
//! interfaces. So a mount of our own is made, attached nowhere, and gone with its descriptor.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;

use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

use super::netlink::check_name;

/// The attributes of the interfaces of one network namespace.
#[derive(Debug)]
pub struct NetSysfs {
    root: PathBuf,
    /// Keeps `root` there.
    _mount: Option<OwnedFd>,
}

impl NetSysfs {
    /// That of the calling thread's namespace; without `CAP_SYS_ADMIN`, or in a container that may not mount, /sys
    /// as it is. Every access checks that it finds the interface that is meant.
    pub fn open() -> Self {
        match detached_mount() {
            Ok(mount) => {
                let root = PathBuf::from(format!("/proc/self/fd/{}", mount.as_raw_fd()));
                Self { root, _mount: Some(mount) }
            }
            Err(_) => Self { root: PathBuf::from("/sys"), _mount: None },
        }
    }

    /// The value of an attribute such as `threaded`, without the newline.
    ///
    /// # Errors
    /// There is no such attribute or interface, or another one has its name here.
    pub fn read(&self, iface: &str, index: u32, attribute: &str) -> io::Result<String> {
        let path = self.path(iface, index)?.join(attribute);
        Ok(std::fs::read_to_string(path)?.trim_end().to_owned())
    }

    /// Changes an attribute.
    ///
    /// # Errors
    /// As [`read`](Self::read), or the kernel refuses the value.
    pub fn write(&self, iface: &str, index: u32, attribute: &str, value: &str) -> io::Result<()> {
        std::fs::write(self.path(iface, index)?.join(attribute), value)
    }

    fn path(&self, iface: &str, index: u32) -> io::Result<PathBuf> {
        check_name(iface).map_err(io::Error::other)?;
        let path = self.root.join("class/net").join(iface);
        let found = std::fs::read_to_string(path.join("ifindex"))?;
        if found.trim_end() == index.to_string() {
            return Ok(path);
        }
        Err(io::Error::new(
            io::ErrorKind::NotFound,
            format!("/sys is of another network namespace: its {iface} is interface {}", found.trim_end()),
        ))
    }
}

fn detached_mount() -> rustix::io::Result<OwnedFd> {
    let context = fsopen("sysfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&context)?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_has_its_type_and_another_index_is_refused() {
        let sysfs = NetSysfs::open();
        // ARPHRD_LOOPBACK of linux/if_arp.h
        assert_eq!(sysfs.read("lo", 1, "type").unwrap(), "772");
        let error = sysfs.read("lo", 99, "type").unwrap_err();
        assert!(error.to_string().contains("another network namespace"), "{error}");
        assert!(sysfs.read("../lo", 1, "type").is_err());
    }
}
