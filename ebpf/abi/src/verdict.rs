//! Who gets a frame: the driver or the kernel.
//!
//! | Frame, to our MAC address or a group | to the driver when |
//! |---|---|
//! | ARP request, ARP reply | the target protocol address is owned |
//! | neighbour solicitation | the target is owned, and the destination is the target or its solicited-node group |
//! | neighbour advertisement | the destination is owned, to our MAC address |
//! | ICMP or ICMPv6 echo request or reply | the destination is owned, to our MAC address |
//!
//! Steering [`rules`](crate::rules) come first; this is what happens to a frame that none of them matches.
//!
//! All else is the kernel's: frames to other stations (promiscuous mode), fragments, other kinds, and malformed frames,
//! which its own stack drops properly.

use crate::{
    counter::Counter,
    maps::Config,
    parse::{Address, Kind, Malformed, Parsed, link_header, parse_behind},
    reader::Reader,
    rules::{ACTION_DRIVER, ACTION_DROP, Key, Table, Tries, decide},
};

/// Where a frame goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// To the AF_XDP socket of the rx queue; to the kernel when the queue has none.
    Driver,
    /// On to the kernel's stack.
    Kernel,
    /// Nowhere.
    Drop,
}

/// A verdict and the one counter that the frame adds to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Where the frame goes.
    pub action: Verdict,
    /// Why.
    pub reason: Counter,
}

/// What the verdict asks about the port; maps in the kernel, sets on the host.
pub trait PortView {
    /// The port's MAC address and flags.
    fn config(&self) -> Config;
    /// Whether the port owns this IPv4 address.
    fn owns_v4(&self, address: [u8; 4]) -> bool;
    /// Whether the port owns this IPv6 address.
    fn owns_v6(&self, address: [u8; 16]) -> bool;

    /// The tries of rules.
    type Tries: Tries;
    /// The table of rules of this number, which isn't 0, with the tries.
    fn rules(&self, table: u8) -> Option<(&Table, &Self::Tries)>;
    /// Counts a hit of the rule with this slot.
    fn hit(&self, slot: u32);
}

/// Judges one frame: at most one look at the owned addresses, and none when the kind or the MAC address rules it out;
/// and, when there are rules, two at the tries.
#[inline(always)]
pub fn verdict<R: Reader + ?Sized, P: PortView + ?Sized>(frame: &R, port: &P) -> Decision {
    let config = port.config();
    let rules = if config.table() == 0 { None } else { port.rules(config.table()) };
    if config.steers_all() {
        if let Some((table, _)) = rules {
            port.hit(table.entries[0].rule.slot);
        }
        return Decision { action: Verdict::Driver, reason: Counter::DriverSteerAll };
    }
    let station = station(frame, config.mac);
    // Rules may be about frames to other stations too.
    if rules.is_none()
        && let Err(reason) = station
    {
        return Decision { action: Verdict::Kernel, reason };
    }
    let link = link_header(frame);
    let parsed = match &link {
        Ok(link) => parse_behind(frame, link),
        Err(malformed) => Err(*malformed),
    };
    let policy = match station.and_then(|group| judge(&parsed, port, group)) {
        Ok(reason) => Decision { action: Verdict::Driver, reason },
        Err(reason) => Decision { action: Verdict::Kernel, reason },
    };
    let Some((table, tries)) = rules else { return policy };
    let key = Key::of(frame, &link, &parsed, false);
    let rule = decide(table, tries, parsed.as_ref().ok(), &key);
    if !rule.is_some() {
        return policy;
    }
    port.hit(rule.slot);
    match rule.action {
        ACTION_DRIVER => Decision { action: Verdict::Driver, reason: Counter::RuleDriver },
        ACTION_DROP => Decision { action: Verdict::Drop, reason: Counter::RuleDrop },
        _ => Decision { action: Verdict::Kernel, reason: Counter::RuleKernel },
    }
}

/// Whether a frame is to a group; `Err` when it isn't for us.
#[inline(always)]
fn station<R: Reader + ?Sized>(frame: &R, mac: [u8; 6]) -> Result<bool, Counter> {
    let link_destination: [u8; 6] = frame.read(0).ok_or(Counter::TruncatedEthernet)?;
    // The group bit; broadcast is a group too.
    let group = link_destination[0] & 1 != 0;
    if !group && link_destination != mac {
        return Err(Counter::KernelForeignMac);
    }
    Ok(group)
}

/// `Ok` for the driver, `Err` for the kernel.
#[inline(always)]
fn judge<P: PortView + ?Sized>(
    parsed: &Result<Parsed, Malformed>,
    port: &P,
    group: bool,
) -> Result<Counter, Counter> {
    let parsed = parsed.as_ref().map_err(|malformed| malformed.counter())?;
    if parsed.fragment {
        return Err(Counter::KernelFragment);
    }
    let reason = match parsed.kind {
        Kind::ArpRequest => Counter::DriverArpRequest,
        Kind::ArpReply => Counter::DriverArpReply,
        Kind::NeighborSolicitation => Counter::DriverNeighborSolicitation,
        Kind::NeighborAdvertisement => Counter::DriverNeighborAdvertisement,
        Kind::Echo4Request => Counter::DriverEcho4Request,
        Kind::Echo4Reply => Counter::DriverEcho4Reply,
        Kind::Echo6Request => Counter::DriverEcho6Request,
        Kind::Echo6Reply => Counter::DriverEcho6Reply,
        Kind::Other => return Err(Counter::KernelOther),
    };
    // Only requests for an address are sent to a group; an answer or an echo there is nobody's to take.
    if group && !matches!(parsed.kind, Kind::ArpRequest | Kind::ArpReply | Kind::NeighborSolicitation) {
        return Err(Counter::KernelGroupMac);
    }
    if owns(parsed, port) { Ok(reason) } else { Err(Counter::KernelNotOwned) }
}

#[inline(always)]
fn owns<P: PortView + ?Sized>(parsed: &Parsed, port: &P) -> bool {
    match parsed.destination {
        // Multicast, reserved and limited broadcast are never owned (RFC 1112, RFC 1122); a subnet's broadcast
        // address isn't because nobody can add it as the port's own.
        Address::V4(address) => address[0] < 224 && port.owns_v4(address),
        Address::V6(destination) if matches!(parsed.kind, Kind::NeighborSolicitation) => {
            let target = parsed.target;
            (destination == target || destination == solicited_node(target)) && port.owns_v6(target)
        }
        Address::V6(destination) => destination[0] != 0xff && port.owns_v6(destination),
        Address::None => false,
    }
}

/// The solicited-node multicast address of `address` (RFC 4291, 2.7.1).
#[inline(always)]
#[must_use]
pub const fn solicited_node(address: [u8; 16]) -> [u8; 16] {
    [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, address[13], address[14], address[15]]
}

impl Malformed {
    /// The counter of this kind.
    #[inline(always)]
    #[must_use]
    pub const fn counter(self) -> Counter {
        match self {
            Self::TruncatedEthernet => Counter::TruncatedEthernet,
            Self::TruncatedVlan => Counter::TruncatedVlan,
            Self::TruncatedArp => Counter::TruncatedArp,
            Self::BadArpLengths => Counter::BadArpLengths,
            Self::TruncatedIpv4 => Counter::TruncatedIpv4,
            Self::BadIpv4Version => Counter::BadIpv4Version,
            Self::BadIpv4HeaderLength => Counter::BadIpv4HeaderLength,
            Self::Ipv4LengthTooShort => Counter::Ipv4LengthTooShort,
            Self::Ipv4LengthBeyondFrame => Counter::Ipv4LengthBeyondFrame,
            Self::TruncatedIpv6 => Counter::TruncatedIpv6,
            Self::BadIpv6Version => Counter::BadIpv6Version,
            Self::Ipv6LengthBeyondFrame => Counter::Ipv6LengthBeyondFrame,
            Self::TruncatedExtension => Counter::TruncatedExtension,
            Self::ExtensionChainTooLong => Counter::ExtensionChainTooLong,
            Self::TruncatedIcmp4 => Counter::TruncatedIcmp4,
            Self::TruncatedIcmp6 => Counter::TruncatedIcmp6,
            Self::DatagramTooLong => Counter::DatagramTooLong,
        }
    }
}
