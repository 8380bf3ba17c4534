//! What is known of an interface, as typed facts.

use std::net::IpAddr;

use futures_util::{StreamExt, TryStreamExt};
use rtnetlink::RouteMessageBuilder;
use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage, RouteType};

use super::netlink::{DeviceError, Netlink, failed, link_name};
use crate::xdp::attachment::XdpAttachment;

/// Where the other end of a veth or netkit pair is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerLocation {
    /// In the namespace of the query; its index is valid here.
    SameNamespace,
    /// In another one, where its index belongs; the kernel's id for that namespace, if it has given one.
    Other {
        /// `IFLA_LINK_NETNSID`, as in `ip netns list-id`.
        id: Option<i32>,
    },
}

/// The other end of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The interface index in the namespace of `location`.
    pub index: u32,
    /// The namespace that `index` belongs to.
    pub location: PeerLocation,
}

/// Where the number of active queues was learnt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueSource {
    /// The channels of ethtool netlink: exact.
    Channels,
    /// The directories of /sys/class/net/NAME/queues, checked to be of this very interface: exact.
    Sysfs,
    /// `IFLA_NUM_RX_QUEUES` and `IFLA_NUM_TX_QUEUES`: what was allocated, an upper bound.
    Allocated,
}

/// The queues in use of an interface, out of those that it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ActiveQueues {
    /// Active receive queues.
    pub rx: u32,
    /// Active transmit queues.
    pub tx: u32,
    /// Where the counts come from.
    pub source: QueueSource,
}

impl ActiveQueues {
    /// How many queues an AF_XDP socket can be bound to for both directions: 0 to this, exclusive.
    ///
    /// The kernel itself refuses only an id beyond the larger count (net/xdp/xsk_buff_pool.c); a socket on a
    /// queue of one direction would not work in the other.
    pub fn usable(&self) -> u32 {
        self.rx.min(self.tx)
    }
}

/// The facts of one interface at the time of the query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// The interface name.
    pub name: String,
    /// The interface index, valid in the namespace of the query.
    pub index: u32,
    /// The Ethernet address; all zero for a device that has none of 6 bytes.
    pub mac: [u8; 6],
    /// The MTU in bytes, without the link header.
    pub mtu: u32,
    /// Administratively up (`IFF_UP`).
    pub up: bool,
    /// The link is there (`IFLA_CARRIER`).
    pub carrier: bool,
    /// The kind of a virtual device, for example `veth`; `None` for hardware and the loopback.
    pub kind: Option<String>,
    /// The alias (`ifalias`), empty if there is none.
    pub alias: String,
    /// The other end of a veth or netkit pair.
    pub peer: Option<Peer>,
    /// The queues in use.
    pub active_queues: ActiveQueues,
    /// The kernel's addresses of the interface and their prefix lengths, IPv4 before IPv6.
    pub addresses: Vec<(IpAddr, u8)>,
    /// The XDP program attached, if there is one.
    pub xdp: Option<XdpAttachment>,
    /// Whether an IPv4 or IPv6 default route of any table leaves through the interface.
    pub is_default_route: bool,
}

impl Device {
    /// Looks up the interface `name` in the network namespace of the calling thread.
    ///
    /// # Errors
    /// [`DeviceError::NotFound`] with the names that exist; [`DeviceError::BadName`]; the kernel refused.
    pub async fn query(name: &str) -> Result<Device, DeviceError> {
        Self::query_with(&Netlink::open()?, name).await
    }

    /// The same over a socket that is open already.
    ///
    /// # Errors
    /// As [`Device::query`].
    pub async fn query_with(netlink: &Netlink, name: &str) -> Result<Device, DeviceError> {
        let message = netlink.link(name).await?;
        Self::from_message(netlink, &message).await
    }

    async fn from_message(netlink: &Netlink, message: &LinkMessage) -> Result<Device, DeviceError> {
        let index = message.header.index;
        let link = LinkFacts::from(message);
        let name = link_name(message);
        Ok(Device {
            index,
            mac: link.mac,
            mtu: link.mtu,
            up: message.header.flags.contains(LinkFlags::Up),
            carrier: link.carrier,
            peer: link.peer(),
            active_queues: active_queues(&name, index, &link).await,
            addresses: netlink.addresses(index).await?,
            xdp: link.xdp,
            is_default_route: carries_default_route(netlink, index).await?,
            alias: link.alias,
            kind: link.kind,
            name,
        })
    }

    /// The other end of the pair; `None` when there is no other end in this namespace.
    ///
    /// # Errors
    /// The kernel refused.
    pub async fn peer_device(&self) -> Result<Option<Device>, DeviceError> {
        let Some(Peer { index, location: PeerLocation::SameNamespace }) = self.peer else { return Ok(None) };
        let netlink = Netlink::open()?;
        match netlink.link_by_index(index).await? {
            Some(message) => Ok(Some(Self::from_message(&netlink, &message).await?)),
            None => Ok(None),
        }
    }

    /// The addresses of the other end of the pair; none when there is no other end in this namespace.
    ///
    /// # Errors
    /// The kernel refused.
    pub async fn peer_addresses(&self, netlink: &Netlink) -> Result<Vec<(IpAddr, u8)>, DeviceError> {
        match self.peer {
            Some(Peer { index, location: PeerLocation::SameNamespace }) => netlink.addresses(index).await,
            Some(Peer { location: PeerLocation::Other { .. }, .. }) | None => Ok(Vec::new()),
        }
    }
}

/// What one link message says.
#[derive(Default)]
struct LinkFacts {
    mac: [u8; 6],
    mtu: u32,
    carrier: bool,
    kind: Option<String>,
    alias: String,
    link: Option<u32>,
    link_netns: Option<i32>,
    rx_queues: u32,
    tx_queues: u32,
    xdp: Option<XdpAttachment>,
}

impl From<&LinkMessage> for LinkFacts {
    fn from(message: &LinkMessage) -> Self {
        let mut facts = LinkFacts {
            carrier: message.header.flags.contains(LinkFlags::LowerUp),
            rx_queues: 1,
            tx_queues: 1,
            ..LinkFacts::default()
        };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::Address(bytes) => {
                    facts.mac = bytes.as_slice().try_into().unwrap_or_default();
                }
                LinkAttribute::Mtu(mtu) => facts.mtu = *mtu,
                LinkAttribute::Carrier(carrier) => facts.carrier = *carrier != 0,
                LinkAttribute::IfAlias(alias) => facts.alias.clone_from(alias),
                LinkAttribute::Link(index) => facts.link = Some(*index),
                LinkAttribute::LinkNetNsId(id) => facts.link_netns = Some(*id),
                LinkAttribute::NumRxQueues(count) => facts.rx_queues = *count,
                LinkAttribute::NumTxQueues(count) => facts.tx_queues = *count,
                LinkAttribute::LinkInfo(info) => facts.kind = kind(info),
                LinkAttribute::Xdp(xdp) => facts.xdp = XdpAttachment::of(xdp),
                _ => {}
            }
        }
        facts
    }
}

impl LinkFacts {
    /// `IFLA_LINK` names the peer for these two kinds only; for a VLAN, say, it is the lower device.
    fn peer(&self) -> Option<Peer> {
        if !matches!(self.kind.as_deref(), Some("veth" | "netkit")) {
            return None;
        }
        let index = self.link.filter(|index| *index != 0)?;
        let location = match self.link_netns {
            None => PeerLocation::SameNamespace,
            Some(id) => PeerLocation::Other { id: (id >= 0).then_some(id) },
        };
        Some(Peer { index, location })
    }
}

/// The alias in a link message, empty if there is none.
pub(crate) fn alias(message: &LinkMessage) -> String {
    LinkFacts::from(message).alias
}

fn kind(info: &[LinkInfo]) -> Option<String> {
    info.iter().find_map(|info| match info {
        LinkInfo::Kind(InfoKind::Other(kind)) => Some(kind.clone()),
        LinkInfo::Kind(kind) => Some(kind.to_string()),
        _ => None,
    })
}

async fn active_queues(name: &str, index: u32, link: &LinkFacts) -> ActiveQueues {
    if let Some((rx, tx)) = channels(name).await {
        return ActiveQueues { rx, tx, source: QueueSource::Channels };
    }
    if let Some((rx, tx)) = sysfs_queues(name, index, link.mac) {
        return ActiveQueues { rx, tx, source: QueueSource::Sysfs };
    }
    ActiveQueues { rx: link.rx_queues, tx: link.tx_queues, source: QueueSource::Allocated }
}

/// The active receive and transmit channels; `None` where the driver (or the kernel, before 5.6) can't say.
async fn channels(name: &str) -> Option<(u32, u32)> {
    use ethtool::{EthtoolAttr, EthtoolChannelAttr};

    let (connection, mut handle, _) = ethtool::new_connection().ok()?;
    tokio::spawn(connection);
    let mut replies = Box::pin(handle.channel().get(Some(name)).execute().await.ok()?);
    let reply = replies.next().await?.ok()?;
    let (mut rx, mut tx) = (0, 0);
    for attribute in &reply.payload.nlas {
        match attribute {
            EthtoolAttr::Channel(EthtoolChannelAttr::RxCount(count)) => rx += count,
            EthtoolAttr::Channel(EthtoolChannelAttr::TxCount(count)) => tx += count,
            EthtoolAttr::Channel(EthtoolChannelAttr::CombinedCount(count)) => {
                rx += count;
                tx += count;
            }
            _ => {}
        }
    }
    (rx > 0 && tx > 0).then_some((rx, tx))
}

/// Counts the queues in sysfs. A sysfs mount shows the namespace of who mounted it, not of who reads it, so
/// the entry counts only if index and MAC are those of our interface.
fn sysfs_queues(name: &str, index: u32, mac: [u8; 6]) -> Option<(u32, u32)> {
    let directory = std::path::Path::new("/sys/class/net").join(name);
    let read = |file: &str| std::fs::read_to_string(directory.join(file)).ok();
    let expected_mac = mac.map(|byte| format!("{byte:02x}")).join(":");
    if read("ifindex")?.trim() != index.to_string() || read("address")?.trim() != expected_mac {
        return None;
    }
    let (mut rx, mut tx) = (0, 0);
    for entry in std::fs::read_dir(directory.join("queues")).ok()? {
        let entry = entry.ok()?.file_name();
        match entry.to_str()? {
            queue if queue.starts_with("rx-") => rx += 1,
            queue if queue.starts_with("tx-") => tx += 1,
            _ => {}
        }
    }
    (rx > 0 && tx > 0).then_some((rx, tx))
}

async fn carries_default_route(netlink: &Netlink, index: u32) -> Result<bool, DeviceError> {
    let v4 = RouteMessageBuilder::<std::net::Ipv4Addr>::new().build();
    let v6 = RouteMessageBuilder::<std::net::Ipv6Addr>::new().build();
    for filter in [v4, v6] {
        let routes = netlink.route().route().get(filter).execute();
        let found = routes
            .try_any(|route| std::future::ready(is_default_route_through(&route, index)))
            .await
            .map_err(|e| failed("list the routes".to_owned(), e))?;
        if found {
            return Ok(true);
        }
    }
    Ok(false)
}

fn is_default_route_through(route: &RouteMessage, index: u32) -> bool {
    route.header.destination_prefix_length == 0
        && route.header.kind == RouteType::Unicast
        && route.attributes.iter().any(|attribute| match attribute {
            RouteAttribute::Oif(oif) => *oif == index,
            RouteAttribute::MultiPath(hops) => hops.iter().any(|hop| hop.interface_index == index),
            _ => false,
        })
}

#[cfg(test)]
mod tests {
    use super::super::netlink::blocking;
    use super::*;

    #[test]
    fn the_loopback_has_its_well_known_facts() {
        let lo = blocking(async || Device::query("lo").await).unwrap().unwrap();
        assert_eq!((lo.name.as_str(), lo.index, lo.mac), ("lo", 1, [0; 6]));
        assert_eq!((lo.kind, lo.peer, lo.is_default_route), (None, None, false));
        assert_eq!(lo.active_queues.usable(), 1);
    }

    #[test]
    fn only_pairs_have_a_peer() {
        let mut facts = LinkFacts { link: Some(7), ..LinkFacts::default() };
        assert_eq!(facts.peer(), None);
        facts.kind = Some("vlan".to_owned());
        assert_eq!(facts.peer(), None);
        facts.kind = Some("veth".to_owned());
        assert_eq!(facts.peer(), Some(Peer { index: 7, location: PeerLocation::SameNamespace }));
        facts.link_netns = Some(3);
        assert_eq!(facts.peer().unwrap().location, PeerLocation::Other { id: Some(3) });
        facts.link_netns = Some(-1);
        assert_eq!(facts.peer().unwrap().location, PeerLocation::Other { id: None });
        facts.link = Some(0);
        assert_eq!(facts.peer(), None);
    }
}
