//! The alias that shows in `ip link` which interface belongs to a driver.

use super::lab::HOST_ALIAS_PREFIX;
use super::{Device, DeviceError, Netlink, Peer, PeerLocation};

/// An alias that was set here, and what was there before.
#[derive(Debug)]
#[must_use = "the alias stays until it is restored"]
pub struct DriverAlias {
    index: u32,
    alias: String,
    before: String,
}

impl DriverAlias {
    /// Marks the interface that the system sees of a driver: the other end of a pair in this namespace, else
    /// the driver's own interface. One that netdext left behind counts as no alias.
    ///
    /// # Errors
    ///
    /// The kernel refused, or the bundle ID is too long for an alias.
    pub async fn set(device: &Device, bundle_id: &str) -> Result<Self, DeviceError> {
        let netlink = Netlink::open()?;
        let (index, before) = match device.peer {
            Some(Peer { index, location: PeerLocation::SameNamespace }) => {
                (index, alias_of(&netlink, index).await?.unwrap_or_default())
            }
            _ => (device.index, device.alias.clone()),
        };
        let before = if before.starts_with(HOST_ALIAS_PREFIX) { String::new() } else { before };
        let alias = format!("{HOST_ALIAS_PREFIX}{bundle_id}");
        netlink.set_alias(index, &alias).await?;
        Ok(Self { index, alias, before })
    }

    /// Puts back what was there before, unless somebody else has changed it since or the interface is gone.
    ///
    /// # Errors
    ///
    /// The kernel refused.
    pub async fn restore(self) -> Result<(), DeviceError> {
        let netlink = Netlink::open()?;
        if alias_of(&netlink, self.index).await?.is_some_and(|alias| alias == self.alias) {
            netlink.set_alias(self.index, &self.before).await?;
        }
        Ok(())
    }
}

/// `None` when there is no such interface.
async fn alias_of(netlink: &Netlink, index: u32) -> Result<Option<String>, DeviceError> {
    Ok(netlink.link_by_index(index).await?.map(|message| super::device::alias(&message)))
}
