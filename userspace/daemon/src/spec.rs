//! What a user asked a driver to be, in a form that can be stored and sent.

use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use netdext::registry::Registry as DriverTypes;
use netdext_host::steer::RuleError;
use netdext_host::supervisor::{QueueSelection, RunConfig};
use netdext_host::worker::WaitStrategy;
use netdext_host::xdp::program::XdpMode;

/// A driver to run: the flags of `netdext run` and `netdext install`, as plain data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DriverSpec {
    /// The interface.
    pub iface: String,
    /// Further interfaces, for a driver that takes several.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub other_ifaces: Vec<String>,
    /// The driver's name in the [`DriverTypes`] of the program.
    pub driver: String,
    /// Its options; null stands for `{}`.
    #[serde(default)]
    pub options: Value,
    /// Addresses of the driver.
    pub addresses: Vec<InterfaceAddress>,
    /// The XDP mode.
    pub mode: XdpMode,
    /// How workers wait.
    pub wait: WaitStrategy,
    /// How many queues; `None` is all.
    pub queues: Option<u32>,
    /// Steering rules, as `--steer` takes them.
    pub steer: Vec<String>,
    /// Answer ARP, neighbour solicitations and echo requests inside the XDP program.
    pub answer: bool,
    /// How many of those answers a source gets in a second; `None` is no limit.
    pub answer_limit: Option<NonZeroU32>,
    /// Steer even what cuts the host off.
    pub yes: bool,
    /// Take another XDP program off the interface.
    pub replace: bool,
    /// Make a veth pair of that name where the interface is missing.
    pub lab: bool,
}

/// An address with the length of its prefix, written `198.18.0.1/24`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct InterfaceAddress {
    /// The address.
    pub address: IpAddr,
    /// Bits of the network's part.
    pub prefix_len: u8,
}

/// The text is no address with a prefix length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an address with a prefix length; for example 198.18.0.1/24 or 2001:2::1/64")]
pub struct NotAnAddress;

impl FromStr for InterfaceAddress {
    type Err = NotAnAddress;

    fn from_str(text: &str) -> Result<Self, NotAnAddress> {
        let (address, length) = text.split_once('/').ok_or(NotAnAddress)?;
        let address: IpAddr = address.parse().map_err(|_| NotAnAddress)?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let prefix_len = length.parse().ok().filter(|length| *length <= most).ok_or(NotAnAddress)?;
        Ok(Self { address, prefix_len })
    }
}

impl fmt::Display for InterfaceAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix_len)
    }
}

impl From<InterfaceAddress> for String {
    fn from(address: InterfaceAddress) -> Self {
        address.to_string()
    }
}

impl TryFrom<String> for InterfaceAddress {
    type Error = NotAnAddress;

    fn try_from(text: String) -> Result<Self, NotAnAddress> {
        text.parse()
    }
}

/// Why a [`DriverSpec`] cannot be run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpecError {
    /// There is no such driver, or it refuses its options.
    #[error(transparent)]
    Driver(#[from] netdext::registry::RegistryError),
    /// A steering rule.
    #[error("the steering rule {text:?}")]
    Rule {
        /// The rule's text.
        text: String,
        /// What is wrong with it.
        source: RuleError,
    },
}

impl DriverSpec {
    /// Every interface, the first one first.
    pub fn ifaces(&self) -> impl Iterator<Item = &str> + '_ {
        std::iter::once(&self.iface).chain(&self.other_ifaces).map(String::as_str)
    }

    /// What to run.
    ///
    /// # Errors
    ///
    /// [`SpecError`].
    pub fn resolve(&self, types: &DriverTypes) -> Result<RunConfig, SpecError> {
        let driver = types.factory(&self.driver, &self.options)?;
        let parse =
            |text: &String| text.parse().map_err(|source| SpecError::Rule { text: text.clone(), source });
        Ok(RunConfig {
            addresses: self.addresses.iter().map(|a| (a.address, a.prefix_len)).collect(),
            mode: self.mode,
            wait: self.wait,
            queues: self.queues.map_or(QueueSelection::All, QueueSelection::First),
            rules: self.steer.iter().map(parse).collect::<Result<_, _>>()?,
            answer: self.answer,
            answer_limit: self.answer_limit,
            cut_off: self.yes,
            replace: self.replace,
            other_ifaces: self.other_ifaces.clone(),
            ..RunConfig::new(&*self.iface, driver)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_written_as_they_are_read() {
        for text in ["198.18.0.1/24", "0.0.0.0/0", "2001:2::1/64", "::1/128"] {
            assert_eq!(text.parse::<InterfaceAddress>().unwrap().to_string(), text);
        }
        for bad in ["198.18.0.1", "198.18.0.1/33", "2001:2::1/129", "x/1", "198.18.0.1/", "/24", ""] {
            assert_eq!(bad.parse::<InterfaceAddress>(), Err(NotAnAddress), "{bad:?}");
        }
    }
}
