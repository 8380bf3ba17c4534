//! What a user asked a driver to be, in a form that can be stored and sent.

use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use netdext::driver::DriverFactory;
use netdext_drivers::sample::{self, InjectorConfig, SampleConfig, SampleConfigError};
use netdext_drivers::{reflect, sink};
use netdext_host::link::program::XdpMode;
use netdext_host::link::{Device, DeviceError, Netlink};
use netdext_host::steer::{Rule, RuleError};
use netdext_host::supervisor::{QueueSelection, RunConfig};
use netdext_host::worker::WaitStrategy;

/// A driver to run: the flags of `netdext run` and `netdext install`, as plain data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DriverSpec {
    /// The interface.
    pub iface: String,
    /// The driver's name: one of [`DRIVERS`].
    pub driver: String,
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
    /// The echo request injector; `None` sends nothing.
    pub injector: Option<InjectorSpec>,
}

/// The injector of a [`DriverSpec`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InjectorSpec {
    /// From enabling to the first batch, in ns.
    pub first_ns: u64,
    /// From one batch to the next, in ns.
    pub interval_ns: u64,
    /// Echo requests in a batch.
    pub batch: usize,
    /// Bytes of ICMP payload.
    pub payload_bytes: usize,
    /// Whom to send to; empty means the other end of a veth pair, or the first neighbour heard.
    pub targets: Vec<IpAddr>,
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

impl InterfaceAddress {
    /// Whether `other` is another station of this network.
    pub fn reaches(&self, other: IpAddr) -> bool {
        let differing = match (self.address, other) {
            (IpAddr::V4(a), IpAddr::V4(b)) => u128::from(a.to_bits() ^ b.to_bits()) << 96,
            (IpAddr::V6(a), IpAddr::V6(b)) => a.to_bits() ^ b.to_bits(),
            _ => return false,
        };
        differing != 0 && differing.leading_zeros() >= u32::from(self.prefix_len)
    }
}

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
pub enum SpecError {
    /// There is no such driver.
    #[error("there is no driver {name} to be installed; there are: {known}", known = DRIVERS.join(", "))]
    UnknownDriver {
        /// The name given.
        name: String,
    },
    /// A steering rule.
    #[error("the steering rule {text:?}")]
    Rule {
        /// The rule's text.
        text: String,
        /// What is wrong with it.
        source: RuleError,
    },
    /// The driver refuses its configuration.
    #[error(transparent)]
    Sample(#[from] SampleConfigError),
    /// The interface cannot be asked for its peer.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

/// The names of the drivers that need nothing but a [`DriverSpec`].
pub const DRIVERS: [&str; 3] = ["sample", "sink", "reflect"];

impl DriverSpec {
    /// Checks what can be checked without the interface.
    ///
    /// # Errors
    ///
    /// [`SpecError`], save for [`SpecError::Device`].
    pub fn check(&self) -> Result<(), SpecError> {
        self.factory(&[])?;
        self.rules()?;
        Ok(())
    }

    fn rules(&self) -> Result<Vec<Rule>, SpecError> {
        let parse =
            |text: &String| text.parse().map_err(|source| SpecError::Rule { text: text.clone(), source });
        self.steer.iter().map(parse).collect()
    }

    /// What to run, with the injector's targets looked up.
    ///
    /// # Errors
    ///
    /// [`SpecError`].
    pub async fn resolve(&self) -> Result<RunConfig, SpecError> {
        self.factory(&[])?;
        let rules = self.rules()?;
        let targets = self.targets().await?;
        Ok(self.config(self.factory(&targets)?, rules))
    }

    /// What to run, with a driver of the caller's.
    ///
    /// # Errors
    ///
    /// [`SpecError::Rule`].
    pub fn resolve_with(&self, driver: DriverFactory) -> Result<RunConfig, SpecError> {
        Ok(self.config(driver, self.rules()?))
    }

    fn config(&self, driver: DriverFactory, rules: Vec<Rule>) -> RunConfig {
        RunConfig {
            addresses: self.addresses.iter().map(|a| (a.address, a.prefix_len)).collect(),
            mode: self.mode,
            wait: self.wait,
            queues: self.queues.map_or(QueueSelection::All, QueueSelection::First),
            rules,
            answer: self.answer,
            answer_limit: self.answer_limit,
            cut_off: self.yes,
            replace: self.replace,
            ..RunConfig::new(&*self.iface, driver)
        }
    }

    /// The given targets, or what the other end of a veth pair has on a network of ours. None means that the
    /// driver is to learn one.
    ///
    /// # Errors
    ///
    /// The interface or its peer cannot be asked.
    pub async fn targets(&self) -> Result<Vec<IpAddr>, DeviceError> {
        match &self.injector {
            None => Ok(Vec::new()),
            Some(injector) if !injector.targets.is_empty() => Ok(injector.targets.clone()),
            Some(_) => {
                let host = Device::query(&self.iface).await?.peer_addresses(&Netlink::open()?).await?;
                let on_link = |candidate: &IpAddr| self.addresses.iter().any(|own| own.reaches(*candidate));
                // IPv4 before IPv6, as they are listed.
                Ok(host.into_iter().map(|(address, _)| address).find(on_link).into_iter().collect())
            }
        }
    }

    fn factory(&self, targets: &[IpAddr]) -> Result<DriverFactory, SpecError> {
        match self.driver.as_str() {
            "sample" => {
                let injector = self.injector.as_ref().map(|injector| InjectorConfig {
                    first: Duration::from_nanos(injector.first_ns),
                    interval: Duration::from_nanos(injector.interval_ns),
                    batch: injector.batch,
                    payload_len: injector.payload_bytes,
                    targets: targets.to_vec(),
                    ..InjectorConfig::default()
                });
                let config = SampleConfig { injector, ..SampleConfig::default() };
                Ok(sample::factory(config, fastrand::u64(..))?)
            }
            "sink" => Ok(sink::factory()),
            "reflect" => Ok(reflect::factory()),
            name => Err(SpecError::UnknownDriver { name: name.to_owned() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_stations_of_a_network_are_within_reach() {
        let reaches =
            |own: &str, other: &str| own.parse::<InterfaceAddress>().unwrap().reaches(other.parse().unwrap());
        assert!(reaches("198.18.0.1/24", "198.18.0.2"));
        assert!(!reaches("198.18.0.1/24", "198.18.1.2"));
        assert!(reaches("198.18.0.1/0", "203.0.113.1"));
        assert!(!reaches("198.18.0.1/32", "198.18.0.2"));
        assert!(!reaches("198.18.0.1/24", "198.18.0.1"), "itself");
        assert!(reaches("2001:2::1/64", "2001:2::2"));
        assert!(!reaches("2001:2::1/64", "2001:2:0:1::2"));
        assert!(!reaches("198.18.0.1/0", "2001:2::1"));
    }

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
