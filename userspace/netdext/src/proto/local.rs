use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::MacAddr;

/// The addresses of a port: what it answers for, and whom it can reach directly.
#[derive(Clone, Debug, Default)]
pub struct Local {
    mac: MacAddr,
    // Sorted, for binary search.
    v4: Vec<u32>,
    v6: Vec<u128>,
    // The broadcast addresses of our IPv4 networks, sorted.
    broadcasts: Vec<u32>,
    addresses: Vec<(IpAddr, u8)>,
}

impl Local {
    /// The port with this MAC address and these addresses, each with the length of its prefix. A prefix
    /// longer than the address counts as the whole address.
    pub fn new(mac: MacAddr, addresses: &[(IpAddr, u8)]) -> Self {
        let mut local = Self { mac, addresses: addresses.to_vec(), ..Self::default() };
        for &(address, prefix) in addresses {
            match address {
                IpAddr::V4(address) => {
                    local.v4.push(address.to_bits());
                    local.broadcasts.extend(broadcast(address, prefix).map(Ipv4Addr::to_bits));
                }
                IpAddr::V6(address) => local.v6.push(address.to_bits()),
            }
        }
        local.v4.sort_unstable();
        local.v6.sort_unstable();
        local.broadcasts.sort_unstable();
        local
    }

    /// The MAC address.
    pub fn mac(&self) -> MacAddr {
        self.mac
    }

    /// Whether this IPv4 address is one of ours.
    pub fn owns4(&self, address: [u8; 4]) -> bool {
        self.v4.binary_search(&u32::from_be_bytes(address)).is_ok()
    }

    /// Whether this IPv6 address is one of ours.
    pub fn owns6(&self, address: [u8; 16]) -> bool {
        self.v6.binary_search(&u128::from_be_bytes(address)).is_ok()
    }

    /// Whether this IPv4 address reaches many: multicast, limited broadcast, or that of a network of ours.
    pub fn is_group4(&self, address: [u8; 4]) -> bool {
        let bits = u32::from_be_bytes(address);
        (224..240).contains(&address[0]) || bits == u32::MAX || self.broadcasts.binary_search(&bits).is_ok()
    }

    /// Whether this IPv4 address can be that of a single other host: not "this network", loopback,
    /// multicast, reserved or broadcast (RFC 1122, 3.2.1.3), and not ours.
    pub fn is_peer4(&self, address: [u8; 4]) -> bool {
        !matches!(address[0], 0 | 127 | 224..) && !self.is_group4(address) && !self.owns4(address)
    }

    /// Whether this IPv6 address can be that of a single other host: not unspecified, loopback or
    /// multicast (RFC 4291, 2.5 and 2.7), and not ours.
    pub fn is_peer6(&self, address: [u8; 16]) -> bool {
        address[0] != 0xff && u128::from_be_bytes(address) > 1 && !self.owns6(address)
    }

    /// Our address on the network that `target` is on, the one with the longest prefix; `None` when
    /// `target` is on none of our networks or cannot be a single other host.
    pub fn source_for(&self, target: IpAddr) -> Option<IpAddr> {
        let is_peer = match target {
            IpAddr::V4(target) => self.is_peer4(target.octets()),
            IpAddr::V6(target) => self.is_peer6(target.octets()),
        };
        let on_link = |address: IpAddr, prefix: u8| match (address, target) {
            (IpAddr::V4(ours), IpAddr::V4(target)) => {
                (ours.to_bits() ^ target.to_bits()) & mask4(prefix) == 0
            }
            (IpAddr::V6(ours), IpAddr::V6(target)) => {
                (ours.to_bits() ^ target.to_bits()) & mask6(prefix) == 0
            }
            _ => false,
        };
        self.addresses
            .iter()
            .filter(|&&(address, prefix)| is_peer && on_link(address, prefix))
            .max_by_key(|&&(_, prefix)| prefix)
            .map(|&(address, _)| address)
    }
}

/// The broadcast address of the network that `address` is on. A network of one or two hosts has none (RFC 3021).
pub fn broadcast(address: Ipv4Addr, prefix: u8) -> Option<Ipv4Addr> {
    (prefix < 31).then(|| Ipv4Addr::from_bits(address.to_bits() | !mask4(prefix)))
}

fn mask4(prefix: u8) -> u32 {
    u32::MAX.checked_shl(Ipv4Addr::BITS.saturating_sub(prefix.into())).unwrap_or(0)
}

fn mask6(prefix: u8) -> u128 {
    u128::MAX.checked_shl(Ipv6Addr::BITS.saturating_sub(prefix.into())).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local(addresses: &[(&str, u8)]) -> Local {
        let addresses: Vec<_> = addresses.iter().map(|&(ip, prefix)| (ip.parse().unwrap(), prefix)).collect();
        Local::new([2, 0, 0, 0, 0, 1], &addresses)
    }

    fn octets4(address: &str) -> [u8; 4] {
        address.parse::<Ipv4Addr>().unwrap().octets()
    }

    #[test]
    fn only_a_single_other_host_is_a_peer() {
        let local = local(&[("198.18.0.1", 24), ("2001:2::1", 64)]);
        for bad in [
            "0.0.0.0",
            "0.1.2.3",
            "127.0.0.1",
            "224.0.0.1",
            "239.1.2.3",
            "240.0.0.1",
            "255.255.255.255",
            "198.18.0.255",
            "198.18.0.1",
        ] {
            assert!(!local.is_peer4(octets4(bad)), "{bad}");
        }
        for good in ["198.18.0.2", "198.18.1.255", "10.0.0.1", "223.255.255.254"] {
            assert!(local.is_peer4(octets4(good)), "{good}");
        }
        for (address, expected) in
            [("::", false), ("::1", false), ("ff02::1", false), ("2001:2::1", false), ("fe80::1", true)]
        {
            assert_eq!(local.is_peer6(address.parse::<Ipv6Addr>().unwrap().octets()), expected, "{address}");
        }
    }

    #[test]
    fn a_point_to_point_network_has_no_broadcast_address() {
        let local = local(&[("198.18.0.0", 31)]);
        assert!(local.is_peer4(octets4("198.18.0.1")));
    }

    #[test]
    fn the_source_is_the_address_with_the_longest_matching_prefix() {
        let local = local(&[("198.18.0.1", 15), ("198.18.0.65", 26), ("2001:2::1", 64), ("2001:2::99", 0)]);
        for (target, expected) in [
            ("198.18.0.66", Some("198.18.0.65")),
            ("198.18.1.1", Some("198.18.0.1")),
            ("198.20.0.1", None),
            ("198.18.0.65", None),
            ("198.18.0.127", None),
            ("2001:2::2", Some("2001:2::1")),
            ("2001:3::2", Some("2001:2::99")),
            ("ff02::1", None),
        ] {
            let expected: Option<IpAddr> = expected.map(|ip| ip.parse().unwrap());
            assert_eq!(local.source_for(target.parse().unwrap()), expected, "{target}");
        }
    }

    #[test]
    fn an_impossible_prefix_length_is_taken_for_the_whole_address() {
        let local = local(&[("198.18.0.1", 200), ("2001:2::1", 200)]);
        assert_eq!(local.source_for("198.18.0.2".parse().unwrap()), None);
        assert_eq!(local.source_for("2001:2::2".parse().unwrap()), None);
    }
}
