//! The lab: a veth pair to try a driver on, made and removed as a whole.
//!
//! ```text
//!   netdext holds            the kernel's stack holds
//!   veth0  <=================>  veth1
//!   no kernel addresses         198.18.0.2/24, 2001:2::2/64
//!   driver: 198.18.0.1, 2001:2::1
//! ```
//!
//! The addresses are of the ranges for benchmarks, RFC 2544 (198.18.0.0/15) and RFC 5180 (2001:2::/48).

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;

use rtnetlink::packet_route::link::{InfoData, InfoVeth, LinkAttribute};
use rtnetlink::{LinkMessageBuilder, LinkUnspec, LinkVeth};
use rustix::thread::LinkNameSpaceType;

use super::device::Device;
use super::netlink::{DeviceError, MAX_ALIAS, Netlink, blocking, check_name, failed};
use super::offload::{self, OffloadError};

/// The alias of a driver end made here; [`Lab::remove`] goes by it.
pub const DRIVER_ALIAS: &str = "netdext:lab";
/// What the alias of a host end begins with; the bundle ID of the driver follows.
pub const HOST_ALIAS_PREFIX: &str = "netdext:";
/// The bundle ID in the host end's alias unless another one is given.
pub const DEFAULT_BUNDLE_ID: &str = "org.netdext.sample";
/// Most queues of a pair made here.
pub const MAX_QUEUES: u32 = 64;

/// How the pair is to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabConfig {
    /// The end for the driver.
    pub driver_iface: String,
    /// The end for the kernel's stack.
    pub host_iface: String,
    /// Queues of each end, all active, 1 to [`MAX_QUEUES`]. The stack spreads its flows over all of them.
    pub queues: u32,
    /// MTU of both ends in bytes.
    pub mtu: u32,
    /// What the driver answers for; the kernel does not get these.
    pub driver_addresses: Vec<(IpAddr, u8)>,
    /// The kernel's addresses on the host end.
    pub host_addresses: Vec<(IpAddr, u8)>,
    /// The bundle ID in the host end's alias.
    pub bundle_id: String,
}

impl Default for LabConfig {
    fn default() -> Self {
        let v4 = |last| (IpAddr::V4(Ipv4Addr::new(198, 18, 0, last)), 24);
        let v6 = |last| (IpAddr::V6(Ipv6Addr::new(0x2001, 2, 0, 0, 0, 0, 0, last)), 64);
        Self {
            driver_iface: "veth0".to_owned(),
            host_iface: "veth1".to_owned(),
            queues: 4,
            mtu: 1500,
            driver_addresses: vec![v4(1), v6(1)],
            host_addresses: vec![v4(2), v6(2)],
            bundle_id: DEFAULT_BUNDLE_ID.to_owned(),
        }
    }
}

impl LabConfig {
    /// The defaults for the driver end `name`: the host end is the next number. `None` unless the name is
    /// `veth` and a number, so that a mistyped name of something else doesn't make a pair.
    pub fn for_driver(name: &str) -> Option<Self> {
        let digits = name.strip_prefix("veth")?;
        let number: u32 = digits.parse().ok().filter(|n: &u32| n.to_string() == digits)?;
        let host_iface = format!("veth{}", number.checked_add(1)?);
        check_name(&host_iface).ok()?;
        Some(Self { driver_iface: name.to_owned(), host_iface, ..Self::default() })
    }

    fn host_alias(&self) -> String {
        format!("{HOST_ALIAS_PREFIX}{}", self.bundle_id)
    }

    fn check(&self) -> Result<(), LabError> {
        let (driver, host) = (&self.driver_iface, &self.host_iface);
        check_name(driver)?;
        check_name(host)?;
        if driver == host {
            return Err(LabError::Config(format!("both ends are called {driver}")));
        }
        if !(1..=MAX_QUEUES).contains(&self.queues) {
            return Err(LabError::Config(format!("{} queues: it takes 1 to {MAX_QUEUES}", self.queues)));
        }
        let alias = self.host_alias();
        if alias.len() > MAX_ALIAS || alias.contains(char::is_control) {
            return Err(LabError::Config(format!("{:?} does not fit into an alias", self.bundle_id)));
        }
        Ok(())
    }
}

/// Why the pair was not made, or not removed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LabError {
    /// A value of [`LabConfig`] is out of its range.
    #[error("the lab can't be made: {0}")]
    Config(String),
    /// The driver end is there already.
    #[error("{name} exists already; `netdext lab down` removes a pair that netdext made")]
    DriverExists {
        /// The driver end.
        name: String,
    },
    /// The name for the host end is taken, while the driver end is missing.
    #[error(
        "{host} exists, but {driver} does not: remove {host} (`ip link delete {host}`) or take another --iface"
    )]
    HostExists {
        /// The host end.
        host: String,
        /// The driver end.
        driver: String,
    },
    /// The interface was not made by netdext.
    #[error("{name} was not made by netdext (its alias is {alias:?}, not {DRIVER_ALIAS:?}): it stays")]
    NotOurs {
        /// The driver end.
        name: String,
        /// Its alias.
        alias: String,
    },
    /// The namespace of the pair can't be held.
    #[error("open the network namespace of this thread: {0}")]
    Namespace(std::io::Error),
    /// A netlink request failed.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// An offload of the host end could not be switched off.
    #[error(transparent)]
    Offload(#[from] OffloadError),
}

/// What there is of the pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabStatus {
    /// The driver end, if it exists.
    pub driver: Option<Device>,
    /// The host end, if it exists.
    pub host: Option<Device>,
    /// Whether netdext made the pair.
    pub ours: bool,
}

/// A pair that was made here. Dropping it removes the pair, and nothing else.
#[derive(Debug)]
#[must_use = "dropping the lab removes its interfaces"]
pub struct Lab {
    config: LabConfig,
    driver_index: u32,
    /// The namespace that `driver_index` belongs to.
    namespace: File,
    remove_on_drop: bool,
}

impl Lab {
    /// Makes the pair in the namespace of the calling thread and sets both ends up, ready for use.
    ///
    /// # Errors
    /// Either name is taken, or the kernel refused; what was made until then is removed.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub async fn up(config: &LabConfig) -> Result<Self, LabError> {
        config.check()?;
        let netlink = Netlink::open()?;
        let driver_there = exists(&netlink, &config.driver_iface).await?;
        if driver_there {
            return Err(LabError::DriverExists { name: config.driver_iface.clone() });
        }
        if exists(&netlink, &config.host_iface).await? {
            let (host, driver) = (config.host_iface.clone(), config.driver_iface.clone());
            return Err(LabError::HostExists { host, driver });
        }
        let namespace = File::open("/proc/thread-self/ns/net").map_err(LabError::Namespace)?;
        create_pair(&netlink, config).await?;
        let driver_index = netlink.link(&config.driver_iface).await?.header.index;
        // From here on the pair is held by a guard, so that a failure removes it.
        let lab = Self { config: config.clone(), driver_index, namespace, remove_on_drop: true };
        lab.configure(&netlink).await?;
        Ok(lab)
    }

    /// The same, unless the driver end exists: then `None`, and it is used as it is.
    ///
    /// # Errors
    /// As [`Lab::up`].
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub async fn ensure(config: &LabConfig) -> Result<Option<Self>, LabError> {
        match Self::up(config).await {
            Ok(lab) => Ok(Some(lab)),
            Err(LabError::DriverExists { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The settings that the pair was made with.
    pub fn config(&self) -> &LabConfig {
        &self.config
    }

    /// Removes the pair. That somebody else has removed it already is no error.
    ///
    /// # Errors
    /// The kernel refused.
    pub async fn down(mut self) -> Result<(), LabError> {
        self.remove_on_drop = false;
        delete(self.driver_index).await
    }

    /// Leaves the pair in place; [`Lab::remove`] takes it away later.
    pub fn keep(mut self) {
        self.remove_on_drop = false;
    }

    /// Removes a pair that an earlier process made, recognised by the alias of its driver end.
    ///
    /// # Errors
    /// It is not there, it is not ours, or the kernel refused.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub async fn remove(driver_iface: &str) -> Result<(), LabError> {
        let device = Device::query(driver_iface).await?;
        if device.alias != DRIVER_ALIAS {
            return Err(LabError::NotOurs { name: device.name, alias: device.alias });
        }
        delete(device.index).await
    }

    /// What there is of the pair.
    ///
    /// # Errors
    /// The kernel refused.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub async fn status(config: &LabConfig) -> Result<LabStatus, LabError> {
        let netlink = Netlink::open()?;
        let find = async |name| match Device::query_with(&netlink, name).await {
            Ok(device) => Ok(Some(device)),
            Err(DeviceError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        };
        let driver = find(&config.driver_iface).await?;
        let host = find(&config.host_iface).await?;
        let ours = driver.as_ref().is_some_and(|device| device.alias == DRIVER_ALIAS);
        Ok(LabStatus { driver, host, ours })
    }

    async fn configure(&self, netlink: &Netlink) -> Result<(), LabError> {
        let config = &self.config;
        let driver = self.driver_index;
        let host = netlink.link(&config.host_iface).await?.header.index;
        quiet(netlink.disable_ipv6_autoconf(driver).await)?;
        netlink.set_alias(driver, DRIVER_ALIAS).await?;
        netlink.set_alias(host, &config.host_alias()).await?;
        offload::finish_frames(&config.host_iface).await?;
        for (address, prefix_len) in &config.host_addresses {
            netlink.add_address(host, *address, *prefix_len).await?;
        }
        netlink.set_up(driver, true).await?;
        netlink.set_up(host, true).await?;
        Ok(())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if !self.remove_on_drop {
            return;
        }
        // This thread can be in another namespace than the pair.
        let removed = blocking(async || {
            rustix::thread::move_into_link_name_space(
                self.namespace.as_fd(),
                Some(LinkNameSpaceType::Network),
            )
            .map_err(|e| LabError::Namespace(e.into()))?;
            delete(self.driver_index).await
        });
        if let Err(error) = removed.map_err(LabError::from).flatten() {
            tracing::warn!(%error, "the pair stays behind");
        }
    }
}

async fn exists(netlink: &Netlink, name: &str) -> Result<bool, DeviceError> {
    match netlink.link(name).await {
        Ok(_) => Ok(true),
        Err(DeviceError::NotFound { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// A kernel without IPv6 has no address generation to switch off.
fn quiet(result: Result<(), DeviceError>) -> Result<(), DeviceError> {
    match result {
        Err(DeviceError::Netlink { source, .. })
            if source.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error()) =>
        {
            Ok(())
        }
        other => other,
    }
}

/// Both ends in one request, so that there is never half a pair. Queue counts that are given here are active;
/// without them a veth has one active queue, however many it could have (drivers/net/veth.c).
async fn create_pair(netlink: &Netlink, config: &LabConfig) -> Result<(), DeviceError> {
    let shape = [
        LinkAttribute::NumTxQueues(config.queues),
        LinkAttribute::NumRxQueues(config.queues),
        LinkAttribute::Mtu(config.mtu),
    ];
    let mut host = LinkUnspec::new_with_name(&config.host_iface);
    let mut driver = LinkMessageBuilder::<LinkVeth>::new(&config.driver_iface, &config.host_iface);
    for attribute in shape {
        host = host.append_extra_attribute(attribute.clone());
        driver = driver.append_extra_attribute(attribute);
    }
    let driver = driver.set_info_data(InfoData::Veth(InfoVeth::Peer(host.build())));
    let reply = netlink.route().link().add(driver.build()).execute().await;
    reply.map_err(|e| failed(format!("create {} and {}", config.driver_iface, config.host_iface), e))
}

async fn delete(index: u32) -> Result<(), LabError> {
    match Netlink::open()?.delete(index).await {
        Err(error) if error.is_gone() => Ok(()),
        other => Ok(other?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_end_is_the_next_number() {
        let config = LabConfig::for_driver("veth0").unwrap();
        assert_eq!(config, LabConfig::default());
        let config = LabConfig::for_driver("veth41").unwrap();
        assert_eq!((config.driver_iface.as_str(), config.host_iface.as_str()), ("veth41", "veth42"));
    }

    #[test]
    fn a_name_that_is_not_veth_and_a_number_makes_no_pair() {
        for name in ["", "eth0", "veth", "veth-1", "veth0x", "veth00", "veth+1", "veth4294967295", "vetho"] {
            assert_eq!(LabConfig::for_driver(name), None, "{name:?}");
        }
    }

    #[test]
    fn a_configuration_that_can_not_work_is_refused_before_anything_is_made() {
        let refused = |change: fn(&mut LabConfig)| {
            let mut config = LabConfig::default();
            change(&mut config);
            config.check().unwrap_err().to_string()
        };
        assert!(refused(|c| c.host_iface = c.driver_iface.clone()).contains("both ends"));
        assert!(refused(|c| c.queues = 0).contains("0 queues"));
        assert!(refused(|c| c.queues = 65).contains("65 queues"));
        assert!(refused(|c| c.driver_iface = "a/b".to_owned()).contains("not an interface name"));
        assert!(refused(|c| c.bundle_id = "x".repeat(300)).contains("alias"));
    }
}
