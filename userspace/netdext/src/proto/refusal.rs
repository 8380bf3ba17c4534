crate::named! {
    /// Why a frame that is well-formed is neither answered nor believed.
    pub enum Refusal {
        /// The destination MAC address is another station's.
        ForeignMac = "foreign_mac",
        /// An echo or an advertisement for a single address, sent to a group of stations (RFC 1122, 3.3.6).
        GroupMac = "group_mac",
        /// The source MAC address is a group's, so nobody can be answered there.
        BadSourceMac = "bad_source_mac",
        /// The destination is a multicast or broadcast address: echo requests to those are not answered,
        /// which RFC 1122 (3.2.2.6) leaves open and RFC 4443 (4.2) only recommends, because the answers of
        /// a whole link can be turned against a spoofed source.
        GroupAddress = "group_address",
        /// The destination, or the address asked for, is not one of ours.
        NotOwned = "not_owned",
        /// A piece of a datagram; pieces are not put together and never answered one by one.
        Fragment = "fragment",
        /// The source is no address of a single other host (RFC 1122, 3.2.1.3 and 3.2.2; RFC 4443, 2.4).
        BadSourceAddress = "bad_source_address",
        /// Another station uses one of our addresses (RFC 5227, 2.4; RFC 4862, 5.4).
        AddressConflict = "address_conflict",
        /// The checksum of the IPv4 header is wrong.
        BadIpv4Checksum = "bad_ipv4_checksum",
        /// An IPv4 option contradicts itself.
        BadIpv4Options = "bad_ipv4_options",
        /// A source route. Reversing it, as RFC 1122 (3.2.2.6) has it, would let the sender choose where the
        /// answer goes; it is refused by default everywhere today (RFC 7126, 4.3 and 4.4).
        Ipv4SourceRoute = "ipv4_source_route",
        /// The ICMP checksum is wrong.
        BadIcmp4Checksum = "bad_icmp4_checksum",
        /// The ICMPv6 checksum is wrong.
        BadIcmp6Checksum = "bad_icmp6_checksum",
        /// The code of an echo or of a neighbour discovery message is not 0.
        BadIcmpCode = "bad_icmp_code",
        /// The sender's addresses in an ARP message cannot be those of a host.
        BadArpSender = "bad_arp_sender",
        /// The hop limit of a neighbour discovery message is not 255: it was forwarded (RFC 4861, 7.1).
        NdpHopLimit = "ndp_hop_limit",
        /// The target is a multicast address (RFC 4861, 7.1).
        NdpTarget = "ndp_target",
        /// An option has length 0, is cut short, or is one that this message must not have (RFC 4861, 7.1).
        NdpOptions = "ndp_options",
        /// Source and destination do not go together: a solicitation without source must go to a
        /// solicited-node address, a solicited advertisement must not go to a group (RFC 4861, 7.1).
        NdpDestination = "ndp_destination",
    }
}
