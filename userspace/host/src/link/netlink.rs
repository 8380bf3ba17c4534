//! One rtnetlink socket and the settings that netdext makes through it.

use std::io;
use std::net::IpAddr;

use futures_util::TryStreamExt;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use rtnetlink::packet_route::link::{AfSpecInet6, AfSpecUnspec, In6AddrGenMode, LinkAttribute, LinkMessage};
use rtnetlink::{Handle, LinkMessageBuilder, LinkUnspec};

/// Longest interface name in bytes: `IFNAMSIZ` (linux/if.h) less the terminating zero.
pub const MAX_IFACE_NAME: usize = 15;
/// Longest interface alias in bytes: `IFALIASZ` (linux/if.h) less the terminating zero.
pub const MAX_ALIAS: usize = 255;

/// What can go wrong when a device is looked at or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// No interface of that name in this network namespace.
    #[error("no interface {name} here; there are {}", present.join(", "))]
    NotFound {
        /// The name that was asked for.
        name: String,
        /// The interfaces of this namespace.
        present: Vec<String>,
    },
    /// The name can't belong to any interface.
    #[error(
        "{name:?} is not an interface name: it takes 1 to {MAX_IFACE_NAME} bytes without '/', ':' or spaces"
    )]
    BadName {
        /// The name that was asked for.
        name: String,
    },
    /// The kernel refused a request, or the netlink socket failed.
    #[error("{operation}: {source}")]
    Netlink {
        /// The request with its parameters, for example `set the MTU of interface 7 to 9000`.
        operation: String,
        /// The errno of the kernel.
        source: io::Error,
    },
}

impl DeviceError {
    /// Whether the reason is that the device, or the address asked for, is not there (any more).
    pub fn is_gone(&self) -> bool {
        match self {
            Self::NotFound { .. } => true,
            Self::BadName { .. } => false,
            Self::Netlink { source, .. } => {
                source.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error())
            }
        }
    }
}

/// Checks an interface name the way the kernel does (`dev_valid_name` in net/core/dev.c).
///
/// # Errors
/// [`DeviceError::BadName`].
pub fn check_name(name: &str) -> Result<(), DeviceError> {
    let bad_byte = |b: u8| b == b'/' || b == b':' || b == 0 || b.is_ascii_whitespace() || b == 0x0b;
    let bad = name.is_empty()
        || name.len() > MAX_IFACE_NAME
        || name == "."
        || name == ".."
        || name.bytes().any(bad_byte);
    if bad { Err(DeviceError::BadName { name: name.to_owned() }) } else { Ok(()) }
}

/// An rtnetlink socket in the network namespace of the thread that opened it.
///
/// Interfaces are named by index in every method here: a name can be given to another device in the meantime.
#[derive(Clone, Debug)]
pub struct Netlink {
    route: Handle,
}

impl Netlink {
    /// Opens the socket and starts the task that reads it.
    ///
    /// # Errors
    /// The socket cannot be had.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn open() -> Result<Self, DeviceError> {
        let (connection, route, _) = rtnetlink::new_connection().map_err(|source| DeviceError::Netlink {
            operation: "open an rtnetlink socket".to_owned(),
            source,
        })?;
        tokio::spawn(connection);
        Ok(Self { route })
    }

    /// The rtnetlink handle, for requests that have no method here.
    pub(crate) fn route(&self) -> &Handle {
        &self.route
    }

    /// The link message of the interface `name`.
    pub(crate) async fn link(&self, name: &str) -> Result<LinkMessage, DeviceError> {
        check_name(name)?;
        match self.route.link().get().match_name(name).execute().try_next().await {
            Ok(Some(message)) => Ok(message),
            Ok(None) => Err(self.not_found(name).await?),
            Err(error) => {
                let error = failed(format!("look up interface {name}"), error);
                if error.is_gone() { Err(self.not_found(name).await?) } else { Err(error) }
            }
        }
    }

    /// The link message of the interface with this index; `None` when there is none.
    pub(crate) async fn link_by_index(&self, index: u32) -> Result<Option<LinkMessage>, DeviceError> {
        let reply = self.route.link().get().match_index(index).execute().try_next().await;
        match reply.map_err(|e| failed(format!("look up interface {index}"), e)) {
            Err(error) if error.is_gone() => Ok(None),
            other => other,
        }
    }

    async fn not_found(&self, name: &str) -> Result<DeviceError, DeviceError> {
        Ok(DeviceError::NotFound { name: name.to_owned(), present: self.interface_names().await? })
    }

    /// The names of all interfaces of this namespace, in the order of their indices.
    ///
    /// # Errors
    /// The kernel refused.
    pub async fn interface_names(&self) -> Result<Vec<String>, DeviceError> {
        let links = self.route.link().get().execute().try_collect::<Vec<_>>().await;
        let mut links = links.map_err(|e| failed("list the interfaces".to_owned(), e))?;
        links.sort_by_key(|link| link.header.index);
        Ok(links.iter().map(link_name).collect())
    }

    /// The addresses of an interface with their prefix lengths, IPv4 before IPv6.
    ///
    /// # Errors
    /// The kernel refused.
    pub async fn addresses(&self, index: u32) -> Result<Vec<(IpAddr, u8)>, DeviceError> {
        let messages = self.address_messages(index).await?;
        let mut addresses: Vec<_> = messages
            .iter()
            .filter_map(|message| Some((local_address(message)?, message.header.prefix_len)))
            .collect();
        addresses.sort_by_key(|(address, _)| address.is_ipv6());
        Ok(addresses)
    }

    async fn address_messages(&self, index: u32) -> Result<Vec<AddressMessage>, DeviceError> {
        let request = self.route.address().get().set_link_index_filter(index);
        let messages = request.execute().try_collect::<Vec<_>>().await;
        messages.map_err(|e| failed(format!("list the addresses of interface {index}"), e))
    }

    /// Sets an interface administratively up or down (`IFF_UP`).
    ///
    /// # Errors
    /// The kernel refused.
    pub async fn set_up(&self, index: u32, up: bool) -> Result<(), DeviceError> {
        let message = LinkUnspec::new_with_index(index);
        let message = if up { message.up() } else { message.down() };
        let state = if up { "up" } else { "down" };
        self.change(message, || format!("set interface {index} {state}")).await
    }

    /// Sets the MTU in bytes, without the link header.
    ///
    /// # Errors
    /// The kernel refused, for example because the device's limits don't allow it.
    pub async fn set_mtu(&self, index: u32, mtu: u32) -> Result<(), DeviceError> {
        let message = LinkUnspec::new_with_index(index).mtu(mtu);
        self.change(message, || format!("set the MTU of interface {index} to {mtu}")).await
    }

    /// Sets the alias of an interface, as `ip link` shows it; an empty one removes it.
    ///
    /// # Errors
    /// The kernel refused, or the alias is longer than [`MAX_ALIAS`] bytes.
    pub async fn set_alias(&self, index: u32, alias: &str) -> Result<(), DeviceError> {
        let operation = || format!("set the alias of interface {index} to {alias:?}");
        if alias.len() > MAX_ALIAS {
            let source = io::Error::from(io::ErrorKind::InvalidInput);
            return Err(DeviceError::Netlink { operation: operation(), source });
        }
        self.change(LinkUnspec::new_with_index(index).alias(alias), operation).await
    }

    /// Keeps the kernel from making an IPv6 link-local address when the interface comes up
    /// (`IFLA_INET6_ADDR_GEN_MODE` none). To be called while it is down.
    ///
    /// # Errors
    /// The kernel refused; `EAFNOSUPPORT` when it has no IPv6, which is fine for the caller to ignore.
    pub async fn disable_ipv6_autoconf(&self, index: u32) -> Result<(), DeviceError> {
        let mode = AfSpecInet6::AddrGenMode(In6AddrGenMode::None);
        let spec = LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![mode])]);
        let message = LinkUnspec::new_with_index(index).append_extra_attribute(spec);
        self.change(message, || format!("switch off IPv6 address generation of interface {index}")).await
    }

    /// Adds an address. An IPv6 address is usable at once: no duplicate address detection.
    ///
    /// # Errors
    /// The kernel refused, for example because the interface has it already.
    pub async fn add_address(&self, index: u32, address: IpAddr, prefix_len: u8) -> Result<(), DeviceError> {
        let mut request = self.route.address().add(index, address, prefix_len);
        if address.is_ipv6() {
            let nodad = AddressAttribute::Flags(AddressFlags::Nodad);
            request.message_mut().attributes.push(nodad);
        }
        let reply = request.execute().await;
        reply.map_err(|e| failed(format!("add {address}/{prefix_len} to interface {index}"), e))
    }

    /// Removes an address.
    ///
    /// # Errors
    /// The kernel refused, or the interface does not have it (`EADDRNOTAVAIL`).
    pub async fn remove_address(&self, index: u32, address: IpAddr) -> Result<(), DeviceError> {
        let operation = || format!("remove {address} from interface {index}");
        let messages = self.address_messages(index).await?;
        let Some(message) = messages.into_iter().find(|m| local_address(m) == Some(address)) else {
            let source = rustix::io::Errno::ADDRNOTAVAIL.into();
            return Err(DeviceError::Netlink { operation: operation(), source });
        };
        self.route.address().del(message).execute().await.map_err(|e| failed(operation(), e))
    }

    /// Deletes a virtual interface; the other end of a veth goes with it.
    ///
    /// # Errors
    /// The kernel refused; see [`DeviceError::is_gone`] for one that was not there any more.
    pub async fn delete(&self, index: u32) -> Result<(), DeviceError> {
        let reply = self.route.link().del(index).execute().await;
        reply.map_err(|e| failed(format!("delete interface {index}"), e))
    }

    async fn change(
        &self,
        message: LinkMessageBuilder<LinkUnspec>,
        operation: impl FnOnce() -> String,
    ) -> Result<(), DeviceError> {
        let reply = self.route.link().change(message.build()).execute().await;
        reply.map_err(|e| failed(operation(), e))
    }
}

/// Runs a netlink conversation to its end on a thread of its own, which it may also move to another namespace: the caller
/// may be inside a runtime or not, and a new thread is in its creator's network namespace.
///
/// # Errors
/// There is no thread or runtime to be had.
pub(crate) fn blocking<T: Send>(conversation: impl AsyncFnOnce() -> T + Send) -> Result<T, DeviceError> {
    let run = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        Ok(runtime.block_on(conversation()))
    };
    let outcome = std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("netdext-netlink".into()).spawn_scoped(scope, run)?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    outcome
        .map_err(|source| DeviceError::Netlink { operation: "start a thread for netlink".to_owned(), source })
}

/// The name in a link message; every link has one.
pub(crate) fn link_name(message: &LinkMessage) -> String {
    let name = message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.clone()),
        _ => None,
    });
    name.unwrap_or_else(|| format!("#{}", message.header.index))
}

/// The interface's own address: `IFA_LOCAL` where there is one (on a point-to-point link `IFA_ADDRESS` is
/// the other side), else `IFA_ADDRESS`.
fn local_address(message: &AddressMessage) -> Option<IpAddr> {
    let find = |wanted: fn(&AddressAttribute) -> Option<IpAddr>| message.attributes.iter().find_map(wanted);
    let local = find(|a| if let AddressAttribute::Local(address) = a { Some(*address) } else { None });
    local.or_else(|| find(|a| if let AddressAttribute::Address(address) = a { Some(*address) } else { None }))
}

/// Turns an error of rtnetlink into ours, keeping the errno.
pub(crate) fn failed(operation: String, error: rtnetlink::Error) -> DeviceError {
    let source = match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other),
    };
    DeviceError::Netlink { operation, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_the_kernel_would_refuse_are_refused_here() {
        for bad in ["", ".", "..", "a/b", "a b", "a:1", "a\tb", "abcdefghijklmnop", "a\0b"] {
            assert!(matches!(check_name(bad), Err(DeviceError::BadName { .. })), "{bad:?}");
        }
        for good in ["lo", "veth0", "enp0s31f6", "abcdefghijklmno", "br-1.100", "ü"] {
            assert!(check_name(good).is_ok(), "{good:?}");
        }
    }

    #[test]
    fn a_missing_interface_is_reported_with_those_that_exist() {
        let error = blocking(async || Netlink::open()?.link("nxt-nothing").await).unwrap().unwrap_err();
        assert!(error.is_gone());
        let text = error.to_string();
        assert!(text.starts_with("no interface nxt-nothing here; there are "), "{text}");
        assert!(text.contains("lo"), "{text}");
    }
}
