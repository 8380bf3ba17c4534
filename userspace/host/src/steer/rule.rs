//! One steering rule: what it says, whether that makes sense, and its form in the maps.

use std::net::IpAddr;

use netdext_abi::{
    Address,
    parse::{ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6},
    rules::{
        ACTION_ANSWER, ACTION_DRIVER, ACTION_DROP, ACTION_KERNEL, Entry, KEY_WORDS, Key, Ports, Side,
        VLAN_NONE, Winner,
    },
};
use thiserror::Error;

pub(super) const ICMP: u8 = 1;
pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
pub(super) const ICMPV6: u8 = 58;
/// The highest VLAN number; 4095 is reserved (802.1Q).
const VLAN_MAX: u16 = 4094;
/// Smaller numbers in the place of an EtherType are lengths (802.3).
const ETHERTYPE_MIN: u16 = 0x0600;

/// Why a text or a combination is no rule.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RuleError {
    /// It begins with something else than an action.
    #[error(
        "a rule begins with driver, answer, kernel, drop or all, not with {found:?}; \
         for example `drop:proto=udp,dport=53`"
    )]
    Action {
        /// What it begins with.
        found: String,
    },
    /// A word isn't `key=value`, or there is no such key.
    #[error(
        "{word:?} is no match of a rule: use proto=, src=, dst=, sport=, dport=, vlan=, ethertype= or priority=; \
         for example `driver:dst=198.18.0.0/24`"
    )]
    Word {
        /// The word.
        word: String,
    },
    /// The value doesn't fit its key.
    #[error("{key}={value}: {expected}")]
    Value {
        /// The key.
        key: &'static str,
        /// What was given.
        value: String,
        /// What it should be, with an example.
        expected: &'static str,
    },
    /// A key comes twice.
    #[error("{key}= is given twice; use two rules")]
    Twice {
        /// The key.
        key: &'static str,
    },
    /// Two parts exclude each other: no frame could match.
    #[error("{what}; for example `{example}`")]
    Contradiction {
        /// What is wrong.
        what: &'static str,
        /// A rule that is like it and right.
        example: &'static str,
    },
}

/// What happens to a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// It goes to the driver.
    Driver,
    /// It is answered in the XDP program if it asks for an owned address; otherwise the rule doesn't match.
    Answer,
    /// It passes to the kernel.
    Kernel,
    /// It is dropped.
    Drop,
}

impl Action {
    /// Its number in the maps.
    const fn number(self) -> u32 {
        match self {
            Self::Driver => ACTION_DRIVER,
            Self::Answer => ACTION_ANSWER,
            Self::Kernel => ACTION_KERNEL,
            Self::Drop => ACTION_DROP,
        }
    }
}

/// Addresses that begin alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Prefix {
    address: IpAddr,
    len: u8,
}

impl Prefix {
    /// The addresses that share the first `len` bits with `address`; `None` when there are not so many bits, or when
    /// later ones are set.
    #[must_use]
    pub fn new(address: IpAddr, len: u8) -> Option<Self> {
        let (bits, width) = match address {
            IpAddr::V4(v4) => (u128::from(v4.to_bits()) << 96, 32),
            IpAddr::V6(v6) => (v6.to_bits(), 128),
        };
        let rest = bits.checked_shl(u32::from(len)).unwrap_or(0);
        (len <= width && rest == 0).then_some(Self { address, len })
    }

    /// The first of the addresses.
    #[must_use]
    pub const fn address(&self) -> IpAddr {
        self.address
    }

    /// Bits that are alike.
    #[expect(clippy::len_without_is_empty, reason = "the length of a prefix, not of a collection")]
    #[must_use]
    pub const fn len(&self) -> u8 {
        self.len
    }

    /// Whether it is of IPv4.
    #[must_use]
    pub const fn is_v4(&self) -> bool {
        self.address.is_ipv4()
    }

    /// Words of a [`Key`]: the bits that count, and what they are.
    fn words(self) -> ([u64; 2], [u64; 2]) {
        let ones = u128::MAX.checked_shl(128 - u32::from(self.len)).unwrap_or(0);
        let (mask, value) = match self.address {
            IpAddr::V4(v4) => {
                let [a, b, c, d, ..] = ones.to_be_bytes();
                (Address::V4([a, b, c, d]), Address::V4(v4.octets()))
            }
            IpAddr::V6(v6) => (Address::V6(ones.to_be_bytes()), Address::V6(v6.octets())),
        };
        (Key::address_words(mask), Key::address_words(value))
    }
}

/// Ports from one to another, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    /// The ports from `first` to `last`; `None` when that is backwards.
    #[must_use]
    pub const fn new(first: u16, last: u16) -> Option<Self> {
        if first <= last { Some(Self { first, last }) } else { None }
    }

    /// The lowest.
    #[must_use]
    pub const fn first(&self) -> u16 {
        self.first
    }

    /// The highest.
    #[must_use]
    pub const fn last(&self) -> u16 {
        self.last
    }

    const fn ports(self) -> Ports {
        Ports { first: self.first, more: self.last - self.first }
    }
}

/// The outer VLAN tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Vlan {
    /// There is none.
    Untagged,
    /// One with this number.
    Tagged(u16),
}

/// What a frame must have; `None` is anything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Match {
    /// The EtherType behind up to two VLAN tags.
    pub ethertype: Option<u16>,
    /// The outer VLAN tag.
    pub vlan: Option<Vlan>,
    /// The protocol of IPv4 or IPv6.
    pub proto: Option<u8>,
    /// The IP source.
    pub src: Option<Prefix>,
    /// The IP destination.
    pub dst: Option<Prefix>,
    /// The TCP or UDP source port.
    pub sport: Option<PortRange>,
    /// The TCP or UDP destination port.
    pub dport: Option<PortRange>,
}

/// A rule that some frame can match.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rule {
    action: Action,
    matching: Match,
    priority: i16,
}

/// Where a rule lies in the maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Trie(Side, Prefix),
    Table,
}

impl Rule {
    /// A rule. An EtherType that a prefix implies is left out.
    ///
    /// # Errors
    ///
    /// [`RuleError::Contradiction`], and [`RuleError::Value`] for a number that no frame has.
    pub fn new(action: Action, matching: Match, priority: i16) -> Result<Self, RuleError> {
        check_numbers(&matching)?;
        check_family(&matching)?;
        check_action(action, &matching)?;
        let implied = matching.src.is_some() || matching.dst.is_some();
        let ethertype = if implied { None } else { matching.ethertype };
        Ok(Self { action, matching: Match { ethertype, ..matching }, priority })
    }

    /// Every frame to the driver: `all`.
    #[must_use]
    pub fn all() -> Self {
        Self { action: Action::Driver, matching: Match::default(), priority: 0 }
    }

    /// What happens to the frames.
    #[must_use]
    pub const fn action(&self) -> Action {
        self.action
    }

    /// Which frames.
    #[must_use]
    pub const fn matching(&self) -> &Match {
        &self.matching
    }

    /// The same with another priority.
    #[must_use]
    pub const fn with_priority(self, priority: i16) -> Self {
        Self { priority, ..self }
    }

    /// Rules of a higher priority come first.
    #[must_use]
    pub const fn priority(&self) -> i16 {
        self.priority
    }

    /// Whether the host loses what it needs to be reached: every frame, or all of ARP, IPv4, IPv6 or TCP. Such a rule
    /// isn't meant for the interface of the default route. A narrower rule can do harm too; that is for the user to
    /// know.
    #[must_use]
    pub fn takes_everything(&self) -> bool {
        let Match { ethertype, vlan, proto, src, dst, sport, dport } = self.matching;
        let narrow_prefix = |prefix: Option<Prefix>| prefix.is_some_and(|prefix| prefix.len > 0);
        let vital = [ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6];
        let narrow = narrow_prefix(src)
            || narrow_prefix(dst)
            || sport.or(dport).is_some()
            || matches!(vlan, Some(Vlan::Tagged(_)))
            || proto.is_some_and(|proto| proto != TCP)
            || ethertype.is_some_and(|ethertype| !vital.contains(&ethertype));
        matches!(self.action, Action::Driver | Action::Drop) && !narrow
    }

    /// Whether it takes every frame to the driver.
    pub(super) fn is_all(&self) -> bool {
        self.action == Action::Driver && self.matching == Match::default()
    }

    /// The rank in the maps: priority, then prefix lengths, then age.
    pub(super) fn rank(&self, id: u32) -> u64 {
        let len = |prefix: Option<Prefix>| prefix.map_or(0, |prefix| u64::from(prefix.len));
        // Both lengths together are 256 at the most: nine bits.
        let lengths = len(self.matching.src) + len(self.matching.dst);
        let priority = (i64::from(self.priority) - i64::from(i16::MIN)) as u64;
        priority << 41 | lengths << 32 | u64::from(u32::MAX - id)
    }

    /// The rule in the maps.
    pub(super) fn winner(&self, id: u32, slot: u32) -> Winner {
        Winner { rank: self.rank(id), slot, action: self.action.number() }
    }

    pub(super) fn place(&self) -> Place {
        let single = |side, prefix| {
            let alone = match side {
                Side::Destination => Match { dst: Some(prefix), ..Match::default() },
                Side::Source => Match { src: Some(prefix), ..Match::default() },
            };
            if self.matching == alone { Place::Trie(side, prefix) } else { Place::Table }
        };
        match (self.matching.src, self.matching.dst) {
            (None, Some(prefix)) => single(Side::Destination, prefix),
            (Some(prefix), None) => single(Side::Source, prefix),
            _ => Place::Table,
        }
    }

    /// The entry of a table.
    pub(super) fn entry(&self, winner: Winner) -> Entry {
        let Match { ethertype, vlan, proto, src, dst, sport, dport } = self.matching;
        let mut marks = 0;
        if sport.or(dport).is_some() {
            marks |= Key::PORTS;
        }
        if let Some(prefix) = src.or(dst) {
            marks |= if prefix.is_v4() { Key::V4 } else { Key::V6 };
        }
        let vlan = vlan.map(|vlan| match vlan {
            Vlan::Untagged => VLAN_NONE,
            Vlan::Tagged(number) => number,
        });
        let proto = proto.map(|proto| Key::HAS_PROTOCOL | u16::from(proto));
        let all = |part: Option<u16>| if part.is_some() { u16::MAX } else { 0 };
        let mut mask = [0; KEY_WORDS];
        let mut value = [0; KEY_WORDS];
        mask[0] = Key::first_word(all(ethertype), all(vlan), all(proto), marks);
        value[0] = Key::first_word(ethertype.unwrap_or(0), vlan.unwrap_or(0), proto.unwrap_or(0), marks);
        for (at, prefix) in [(1, dst), (3, src)] {
            if let Some((bits, address)) = prefix.map(Prefix::words) {
                mask[at..at + 2].copy_from_slice(&bits);
                value[at..at + 2].copy_from_slice(&address);
            }
        }
        let ports = |range: Option<PortRange>| range.map_or(Ports::ALL, PortRange::ports);
        Entry { rule: winner, mask, value, source_ports: ports(sport), destination_ports: ports(dport) }
    }
}

fn check_numbers(matching: &Match) -> Result<(), RuleError> {
    if let Some(Vlan::Tagged(number)) = matching.vlan
        && number > VLAN_MAX
    {
        let expected = "a VLAN is 0 to 4094 or none, for example vlan=100";
        return Err(RuleError::Value { key: "vlan", value: number.to_string(), expected });
    }
    if let Some(ethertype) = matching.ethertype
        && ethertype < ETHERTYPE_MIN
    {
        let expected = "an EtherType is arp, ipv4, ipv6 or 0x0600 to 0xffff, for example ethertype=0x88cc";
        return Err(RuleError::Value { key: "ethertype", value: format!("{ethertype:#06x}"), expected });
    }
    Ok(())
}

fn contradiction<T>(what: &'static str, example: &'static str) -> Result<T, RuleError> {
    Err(RuleError::Contradiction { what, example })
}

/// IPv4 or IPv6, as far as the parts say so, must be the same everywhere.
fn check_family(matching: &Match) -> Result<(), RuleError> {
    let Match { ethertype, proto, src, dst, sport, dport, .. } = *matching;
    if sport.or(dport).is_some() && !matches!(proto, Some(TCP | UDP)) {
        return contradiction("sport and dport need proto=tcp or proto=udp", "drop:proto=udp,dport=53");
    }
    let is_ip = proto.is_some() || src.or(dst).is_some();
    if is_ip && ethertype.is_some_and(|ethertype| !matches!(ethertype, ETHERTYPE_IPV4 | ETHERTYPE_IPV6)) {
        return contradiction(
            "proto, src and dst are parts of IPv4 and IPv6, not of another EtherType",
            "driver:ethertype=ipv4,proto=icmp",
        );
    }
    let stated = ethertype.and_then(|ethertype| match ethertype {
        ETHERTYPE_IPV4 => Some(true),
        ETHERTYPE_IPV6 => Some(false),
        _ => None,
    });
    let mut families =
        [stated, src.map(|prefix| prefix.is_v4()), dst.map(|prefix| prefix.is_v4())].into_iter().flatten();
    let Some(v4) = families.next() else { return Ok(()) };
    if families.any(|other| other != v4) {
        return contradiction(
            "src, dst and ethertype must all be of IPv4 or all of IPv6",
            "kernel:src=2001:2::/64,dst=2001:2::1",
        );
    }
    match proto {
        Some(ICMPV6) if v4 => {
            contradiction("icmpv6 is no protocol of IPv4", "drop:proto=icmp,dst=198.18.0.1")
        }
        Some(ICMP) if !v4 => contradiction("icmp is no protocol of IPv6", "drop:proto=icmpv6,dst=2001:2::1"),
        _ => Ok(()),
    }
}

fn check_action(action: Action, matching: &Match) -> Result<(), RuleError> {
    let asked = matches!(matching.proto, None | Some(ICMP | ICMPV6))
        && matching
            .ethertype
            .is_none_or(|ethertype| matches!(ethertype, ETHERTYPE_ARP | ETHERTYPE_IPV4 | ETHERTYPE_IPV6));
    if action == Action::Answer && !asked {
        return contradiction(
            "answer is for ARP, neighbour solicitations and echo requests",
            "answer:proto=icmp,src=198.18.0.0/24",
        );
    }
    Ok(())
}
