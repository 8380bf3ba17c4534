//! What the kernel knows of the way to an address: its route, and its neighbour's MAC address.

use std::io;
use std::net::IpAddr;

use futures_util::TryStreamExt;
use rtnetlink::RouteMessageBuilder;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType, RouteVia};
use rustix::io::Errno;

use super::netlink::{DeviceError, Netlink, failed};

/// The way to an address out of one interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// Straight to the address: it is on the link.
    OnLink,
    /// Over a gateway.
    Gateway(IpAddr),
    /// The address is one of this host's own.
    Local,
    /// None: no route, or one that forbids it.
    None,
}

/// A MAC address out of the kernel's table of neighbours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbor {
    /// The MAC address.
    pub mac: [u8; 6],
    /// Set by hand, or of a link without resolution: it does not change and is not asked for.
    pub fixed: bool,
}

impl Netlink {
    /// How the kernel would send to `target` out of the interface `index`.
    ///
    /// For IPv4 the kernel takes an address without a route for one on the link when it is told the interface.
    ///
    /// # Errors
    /// The kernel refused.
    pub async fn route_to(&self, target: IpAddr, index: u32) -> Result<Route, DeviceError> {
        let request = match target {
            IpAddr::V4(target) => RouteMessageBuilder::<std::net::Ipv4Addr>::new()
                .destination_prefix(target, 32)
                .output_interface(index)
                .build(),
            IpAddr::V6(target) => RouteMessageBuilder::<std::net::Ipv6Addr>::new()
                .destination_prefix(target, 128)
                .output_interface(index)
                .build(),
        };
        let reply = Box::pin(self.route().route().get(request).execute()).try_next().await;
        match reply.map_err(|e| failed(format!("look up the route to {target} by interface {index}"), e)) {
            Ok(Some(message)) => Ok(way(&message, index)),
            Ok(None) => Ok(Route::None),
            Err(DeviceError::Netlink { source, .. }) if is_no_route(&source) => Ok(Route::None),
            Err(error) => Err(error),
        }
    }

    /// What the kernel's table of neighbours has of `address` on the interface `index`; `None` also for one that
    /// is being asked for, or that did not answer.
    ///
    /// # Errors
    /// The kernel refused.
    pub async fn neighbor(&self, address: IpAddr, index: u32) -> Result<Option<Neighbor>, DeviceError> {
        let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let entries = self.route().neighbours().get().set_address_family(family).execute();
        let entries: Vec<_> =
            Box::pin(entries).try_collect().await.map_err(|e| failed("list the neighbours".to_owned(), e))?;
        Ok(entries.iter().find_map(|entry| known(entry, address, index)))
    }
}

fn is_no_route(error: &io::Error) -> bool {
    let none = [Errno::NETUNREACH, Errno::HOSTUNREACH, Errno::ACCESS, Errno::INVAL];
    none.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

fn way(message: &RouteMessage, index: u32) -> Route {
    match message.header.kind {
        RouteType::Local => return Route::Local,
        RouteType::Unicast => {}
        _ => return Route::None,
    }
    let mut route = Route::OnLink;
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Gateway(RouteAddress::Inet(gateway))
            | RouteAttribute::Via(RouteVia::Inet(gateway)) => route = Route::Gateway((*gateway).into()),
            RouteAttribute::Gateway(RouteAddress::Inet6(gateway))
            | RouteAttribute::Via(RouteVia::Inet6(gateway)) => route = Route::Gateway((*gateway).into()),
            RouteAttribute::Oif(oif) if *oif != index => return Route::None,
            _ => {}
        }
    }
    route
}

fn known(entry: &NeighbourMessage, address: IpAddr, index: u32) -> Option<Neighbor> {
    let fixed = match entry.header.state {
        NeighbourState::Permanent | NeighbourState::Noarp => true,
        NeighbourState::Reachable | NeighbourState::Stale | NeighbourState::Delay | NeighbourState::Probe => {
            false
        }
        _ => return None,
    };
    let is_address = |attribute: &NeighbourAttribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(found)) => address == IpAddr::V4(*found),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(found)) => address == IpAddr::V6(*found),
        _ => false,
    };
    if entry.header.ifindex != index || !entry.attributes.iter().any(is_address) {
        return None;
    }
    let mac = entry.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::LinkLayerAddress(bytes) => <[u8; 6]>::try_from(bytes.as_slice()).ok(),
        _ => None,
    })?;
    Some(Neighbor { mac, fixed })
}

#[cfg(test)]
mod tests {
    use super::super::netlink::blocking;
    use super::*;

    const INDEX: u32 = 7;

    fn route(kind: RouteType, attributes: Vec<RouteAttribute>) -> RouteMessage {
        let mut message = RouteMessage::default();
        message.header.kind = kind;
        message.attributes = attributes;
        message
    }

    #[test]
    fn a_route_is_on_link_over_a_gateway_ours_or_none() {
        let gateway = "198.18.0.2".parse().unwrap();
        let over = RouteAttribute::Gateway(RouteAddress::Inet(gateway));
        let out = RouteAttribute::Oif(INDEX);
        for (kind, attributes, expected) in [
            (RouteType::Unicast, vec![out.clone()], Route::OnLink),
            (RouteType::Unicast, vec![out.clone(), over.clone()], Route::Gateway(gateway.into())),
            (RouteType::Local, vec![out.clone()], Route::Local),
            (RouteType::BlackHole, vec![out], Route::None),
            (RouteType::Unicast, vec![over, RouteAttribute::Oif(8)], Route::None),
        ] {
            assert_eq!(way(&route(kind, attributes), INDEX), expected, "{kind:?}");
        }
    }

    #[test]
    fn only_a_neighbour_whose_address_is_known_counts() {
        let address: IpAddr = "2001:2::2".parse().unwrap();
        let entry = |state, index, mac: &[u8]| {
            let mut message = NeighbourMessage::default();
            message.header.state = state;
            message.header.ifindex = index;
            message.attributes = vec![
                NeighbourAttribute::Destination(NeighbourAddress::Inet6("2001:2::2".parse().unwrap())),
                NeighbourAttribute::LinkLayerAddress(mac.to_vec()),
            ];
            known(&message, address, INDEX)
        };
        let mac = [2, 0, 0, 0, 0, 2];
        assert_eq!(entry(NeighbourState::Stale, INDEX, &mac), Some(Neighbor { mac, fixed: false }));
        assert_eq!(entry(NeighbourState::Permanent, INDEX, &mac), Some(Neighbor { mac, fixed: true }));
        assert_eq!(entry(NeighbourState::Failed, INDEX, &mac), None);
        assert_eq!(entry(NeighbourState::Stale, INDEX + 1, &mac), None);
        assert_eq!(entry(NeighbourState::Stale, INDEX, &mac[..5]), None);
    }

    #[test]
    fn the_loopback_address_is_this_hosts() {
        blocking(async || {
            let netlink = Netlink::open().unwrap();
            assert_eq!(netlink.route_to("127.0.0.1".parse().unwrap(), 1).await.unwrap(), Route::Local);
            assert_eq!(netlink.neighbor("127.0.0.1".parse().unwrap(), 1).await.unwrap(), None);
        })
        .unwrap();
    }
}
