//! What the kernel counts of a link besides its sockets.

use futures_util::TryStreamExt;
use rtnetlink::packet_core::DefaultNla;
use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage};
use serde::{Deserialize, Serialize};

use super::device::{Peer, PeerLocation};
use super::netlink::{DeviceError, Netlink, failed};

/// `IFLA_TARGET_NETNSID` of linux/if_link.h: the namespace that a request is about.
const IFLA_TARGET_NETNSID: u16 = 46;

/// Counts of a link (`struct rtnl_link_stats64` of linux/if_link.h), in frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkCounters {
    /// Received by the device.
    pub rx_packets: u64,
    /// Sent by the device.
    pub tx_packets: u64,
    /// Received and dropped. A veth counts here what its XDP program could not redirect, so also what the
    /// sockets count as lost.
    pub rx_dropped: u64,
    /// To be sent, and dropped. A veth counts here what its peer's queue of 256 frames had no room for.
    pub tx_dropped: u64,
    /// Received with an error.
    pub rx_errors: u64,
    /// Not sent because of an error.
    pub tx_errors: u64,
}

impl LinkCounters {
    fn of(message: &LinkMessage) -> Self {
        let stats = message.attributes.iter().find_map(|attribute| match attribute {
            LinkAttribute::Stats64(stats) => Some(stats),
            _ => None,
        });
        stats.map_or_else(Self::default, |stats| Self {
            rx_packets: stats.rx_packets,
            tx_packets: stats.tx_packets,
            rx_dropped: stats.rx_dropped,
            tx_dropped: stats.tx_dropped,
            rx_errors: stats.rx_errors,
            tx_errors: stats.tx_errors,
        })
    }

    /// Asks the kernel about an interface.
    ///
    /// # Errors
    ///
    /// There is no such interface, or the kernel refused.
    pub async fn query(iface: &str) -> Result<Self, DeviceError> {
        Ok(Self::of(&Netlink::open()?.link(iface).await?))
    }

    /// What was counted since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            rx_packets: self.rx_packets.saturating_sub(earlier.rx_packets),
            tx_packets: self.tx_packets.saturating_sub(earlier.tx_packets),
            rx_dropped: self.rx_dropped.saturating_sub(earlier.rx_dropped),
            tx_dropped: self.tx_dropped.saturating_sub(earlier.tx_dropped),
            rx_errors: self.rx_errors.saturating_sub(earlier.rx_errors),
            tx_errors: self.tx_errors.saturating_sub(earlier.tx_errors),
        }
    }
}

/// The counters of an interface and, of a pair, of the other end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PairCounters {
    /// The interface's own.
    pub device: LinkCounters,
    /// The other end's, where it can be seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<LinkCounters>,
}

impl PairCounters {
    /// What was counted since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            device: self.device.since(&earlier.device),
            peer: self.peer.zip(earlier.peer).map(|(now, then)| now.since(&then)),
        }
    }
}

impl Netlink {
    /// The counters of the interface with this index.
    ///
    /// # Errors
    /// The kernel refused, or there is no such interface.
    pub async fn counters(&self, index: u32) -> Result<LinkCounters, DeviceError> {
        self.counters_in(index, None).await
    }

    /// The counters of an interface and of the other end of its pair; that one is left out where it cannot be
    /// seen: in a namespace that has no id here, or may not be looked into.
    ///
    /// # Errors
    /// As [`counters`](Self::counters), of the interface itself.
    pub async fn pair_counters(&self, index: u32, peer: Option<Peer>) -> Result<PairCounters, DeviceError> {
        let device = self.counters(index).await?;
        let peer = match peer {
            Some(Peer { index, location: PeerLocation::SameNamespace }) => self.counters(index).await.ok(),
            Some(Peer { index, location: PeerLocation::Other { id: Some(id) } }) => {
                self.counters_in(index, Some(id)).await.ok()
            }
            Some(Peer { location: PeerLocation::Other { id: None }, .. }) | None => None,
        };
        Ok(PairCounters { device, peer })
    }

    async fn counters_in(&self, index: u32, namespace: Option<i32>) -> Result<LinkCounters, DeviceError> {
        let mut request = self.route().link().get().match_index(index);
        if let Some(id) = namespace {
            let value = id.to_ne_bytes().to_vec();
            let target = LinkAttribute::Other(DefaultNla::new(IFLA_TARGET_NETNSID, value));
            request.message_mut().attributes.push(target);
        }
        let operation = || format!("read the counters of interface {index}");
        let message = request.execute().try_next().await.map_err(|error| failed(operation(), error))?;
        message.as_ref().map(LinkCounters::of).ok_or_else(|| DeviceError::Netlink {
            operation: operation(),
            source: rustix::io::Errno::NODEV.into(),
        })
    }
}
