//! One per-CPU counter for each way a frame can be judged.

macro_rules! counters {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)+) => {
        /// Index into the `COUNTERS` map.
        ///
        /// The verdict adds one to exactly one counter for each frame, up to [`Counter::LAST_VERDICT`]: their sum is
        /// the number of frames seen. What follows is said in addition about frames already counted.
        #[repr(u32)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Counter {
            $($(#[$doc])* $variant,)+
        }

        impl Counter {
            /// Every counter, in the order of the map.
            pub const ALL: [Self; COUNTER_COUNT] = [$(Self::$variant,)+];
        }

        /// Names of the counters by index, snake_case, as they appear in JSON.
        pub const COUNTER_NAMES: [&str; COUNTER_COUNT] = [$($name,)+];
        /// Number of counters.
        pub const COUNTER_COUNT: usize = [$($name,)+].len();
    };
}

counters! {
    /// ARP request for an owned address, to the driver.
    DriverArpRequest = "driver_arp_request",
    /// ARP reply addressed to an owned address, to the driver.
    DriverArpReply = "driver_arp_reply",
    /// Neighbour solicitation for an owned address, to the driver.
    DriverNeighborSolicitation = "driver_neighbor_solicitation",
    /// Neighbour advertisement addressed to an owned address, to the driver.
    DriverNeighborAdvertisement = "driver_neighbor_advertisement",
    /// ICMP echo request to an owned address, to the driver.
    DriverEcho4Request = "driver_echo4_request",
    /// ICMP echo reply to an owned address, to the driver.
    DriverEcho4Reply = "driver_echo4_reply",
    /// ICMPv6 echo request to an owned address, to the driver.
    DriverEcho6Request = "driver_echo6_request",
    /// ICMPv6 echo reply to an owned address, to the driver.
    DriverEcho6Reply = "driver_echo6_reply",
    /// Any frame while everything is steered to the driver.
    DriverSteerAll = "driver_steer_all",
    /// Matches a rule that steers to the driver.
    RuleDriver = "rule_driver",
    /// Matches a rule that passes to the kernel.
    RuleKernel = "rule_kernel",
    /// Matches a rule that drops.
    RuleDrop = "rule_drop",
    /// ARP request for an owned address, answered here.
    AnsweredArp = "answered_arp",
    /// Neighbour solicitation for an owned address, answered here.
    AnsweredNeighborSolicitation = "answered_neighbor_solicitation",
    /// ICMP echo request to an owned address, answered here.
    AnsweredEcho4 = "answered_echo4",
    /// ICMPv6 echo request to an owned address, answered here.
    AnsweredEcho6 = "answered_echo6",
    /// A request that would be answered here, from a source that has had its share of answers: dropped.
    AnswerRateLimited = "answer_rate_limited",
    /// Well-formed, but of no kind that a driver takes.
    KernelOther = "kernel_other",
    /// Of a kind that a driver takes, but for an address that isn't owned.
    KernelNotOwned = "kernel_not_owned",
    /// To another station's MAC address.
    KernelForeignMac = "kernel_foreign_mac",
    /// Echo or neighbour advertisement sent to a link-layer group (RFC 1122, 3.3.6).
    KernelGroupMac = "kernel_group_mac",
    /// A fragment: the driver can't reassemble and mustn't answer piecemeal.
    KernelFragment = "kernel_fragment",
    /// Another of the programs could not be called: passed to the kernel.
    KernelNoPolicy = "kernel_no_policy",
    /// Shorter than an Ethernet header.
    TruncatedEthernet = "malformed_truncated_ethernet",
    /// Ends inside a VLAN tag.
    TruncatedVlan = "malformed_truncated_vlan",
    /// Ends inside an ARP message.
    TruncatedArp = "malformed_truncated_arp",
    /// ARP for Ethernet and IPv4 whose address lengths say otherwise.
    BadArpLengths = "malformed_bad_arp_lengths",
    /// Ends inside the fixed IPv4 header.
    TruncatedIpv4 = "malformed_truncated_ipv4",
    /// The version in an IPv4 header isn't 4.
    BadIpv4Version = "malformed_bad_ipv4_version",
    /// IPv4 header length below five words.
    BadIpv4HeaderLength = "malformed_bad_ipv4_header_length",
    /// IPv4 total length shorter than the header itself.
    Ipv4LengthTooShort = "malformed_ipv4_length_too_short",
    /// IPv4 total length beyond the end of the frame.
    Ipv4LengthBeyondFrame = "malformed_ipv4_length_beyond_frame",
    /// Ends inside the fixed IPv6 header.
    TruncatedIpv6 = "malformed_truncated_ipv6",
    /// The version in an IPv6 header isn't 6.
    BadIpv6Version = "malformed_bad_ipv6_version",
    /// IPv6 payload length beyond the end of the frame.
    Ipv6LengthBeyondFrame = "malformed_ipv6_length_beyond_frame",
    /// The datagram ends inside an IPv6 extension header.
    TruncatedExtension = "malformed_truncated_ipv6_extension",
    /// More IPv6 extension headers than are followed.
    ExtensionChainTooLong = "malformed_ipv6_extension_chain_too_long",
    /// The datagram ends inside an ICMP header.
    TruncatedIcmp4 = "malformed_truncated_icmp4",
    /// The datagram ends inside an ICMPv6 or neighbour discovery header.
    TruncatedIcmp6 = "malformed_truncated_icmp6",
    /// The datagram ends beyond byte 65,535 of the frame.
    DatagramTooLong = "malformed_datagram_too_long",
    /// Meant for the driver, but the queue has no socket: passed to the kernel instead.
    NoSocket = "driver_no_socket",
    /// Redirected without a timestamp: the device has no room for metadata.
    NoTimestamp = "driver_no_timestamp",
}

impl Counter {
    /// The verdicts that a frame is meant for the driver.
    pub const TO_DRIVER: [Self; 10] = [
        Self::DriverArpRequest,
        Self::DriverArpReply,
        Self::DriverNeighborSolicitation,
        Self::DriverNeighborAdvertisement,
        Self::DriverEcho4Request,
        Self::DriverEcho4Reply,
        Self::DriverEcho6Request,
        Self::DriverEcho6Reply,
        Self::DriverSteerAll,
        Self::RuleDriver,
    ];

    /// Whether a frame that is the driver's for this reason can be an echo reply. A rule doesn't tell.
    #[inline(always)]
    #[must_use]
    pub const fn may_be_echo_reply(self) -> bool {
        matches!(
            self,
            Self::DriverEcho4Reply | Self::DriverEcho6Reply | Self::DriverSteerAll | Self::RuleDriver
        )
    }

    /// The verdicts that a frame was answered without the driver.
    pub const ANSWERED: [Self; 4] =
        [Self::AnsweredArp, Self::AnsweredNeighborSolicitation, Self::AnsweredEcho4, Self::AnsweredEcho6];

    /// The last of the counters of which each frame gets exactly one.
    pub const LAST_VERDICT: Self = Self::DatagramTooLong;

    /// Index in the `COUNTERS` map.
    #[inline(always)]
    #[must_use]
    pub const fn index(self) -> u32 {
        self as u32
    }

    /// Name in snake_case, as in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        COUNTER_NAMES[self as usize]
    }
}

/// Bytes of each of [`PADDED_NAMES`].
pub const PADDED_NAME_LEN: usize = 40;

/// The names padded with spaces to one length: what the kernel's verifier wants of a string chosen by index.
pub const PADDED_NAMES: [[u8; PADDED_NAME_LEN]; COUNTER_COUNT] = {
    let mut padded = [[b' '; PADDED_NAME_LEN]; COUNTER_COUNT];
    let mut counter = 0;
    while counter < COUNTER_COUNT {
        let name = COUNTER_NAMES[counter].as_bytes();
        let mut at = 0;
        while at < name.len() {
            padded[counter][at] = name[at];
            at += 1;
        }
        counter += 1;
    }
    padded
};
