//! The text of a rule: `ACTION[:MATCH,MATCH...]`.

use std::{fmt, net::IpAddr, str::FromStr};

use netdext_abi::parse::{ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6};
use serde::{Serialize, Serializer};

use super::rule::{Action, ICMP, ICMPV6, Match, PortRange, Prefix, Rule, RuleError, TCP, UDP, Vlan};

const PROTOCOLS: [(&str, u8); 4] = [("tcp", TCP), ("udp", UDP), ("icmp", ICMP), ("icmpv6", ICMPV6)];
const ETHERTYPES: [(&str, u16); 3] =
    [("arp", ETHERTYPE_ARP), ("ipv4", ETHERTYPE_IPV4), ("ipv6", ETHERTYPE_IPV6)];
const KEYS: [&str; 8] = ["proto", "src", "dst", "sport", "dport", "vlan", "ethertype", "priority"];

const PORTS_EXPECTED: &str = "ports are N or N-M from 0 to 65535, for example dport=8000-8999";
const PREFIX_EXPECTED: &str = "a prefix is an address, or one with a length and zeros behind it, \
                               for example dst=198.18.0.0/24 or src=2001:2::1";

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Driver => "driver",
            Self::Answer => "answer",
            Self::Kernel => "kernel",
            Self::Drop => "drop",
        })
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = if self.is_v4() { 32 } else { 128 };
        write!(f, "{}", self.address())?;
        if self.len() == whole { Ok(()) } else { write!(f, "/{}", self.len()) }
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.first())?;
        if self.first() == self.last() { Ok(()) } else { write!(f, "-{}", self.last()) }
    }
}

impl fmt::Display for Vlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Untagged => f.write_str("none"),
            Self::Tagged(number) => write!(f, "{number}"),
        }
    }
}

/// The one form of a rule, which reads back as the same rule.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Match { ethertype, vlan, proto, src, dst, sport, dport } = *self.matching();
        let named = |names: &[(&str, u16)], number: u16| {
            names.iter().find(|(_, known)| *known == number).map(|(name, _)| (*name).to_owned())
        };
        let protocols = PROTOCOLS.map(|(name, number)| (name, u16::from(number)));
        let parts = [
            ethertype.map(|n| ("ethertype", named(&ETHERTYPES, n).unwrap_or_else(|| format!("{n:#06x}")))),
            vlan.map(|vlan| ("vlan", vlan.to_string())),
            proto.map(|n| ("proto", named(&protocols, n.into()).unwrap_or_else(|| n.to_string()))),
            src.map(|prefix| ("src", prefix.to_string())),
            dst.map(|prefix| ("dst", prefix.to_string())),
            sport.map(|range| ("sport", range.to_string())),
            dport.map(|range| ("dport", range.to_string())),
            (self.priority() != 0).then(|| ("priority", self.priority().to_string())),
        ];
        write!(f, "{}", self.action())?;
        let mut separator = ':';
        for (key, value) in parts.into_iter().flatten() {
            write!(f, "{separator}{key}={value}")?;
            separator = ',';
        }
        Ok(())
    }
}

impl Serialize for Rule {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl FromStr for Rule {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        let text = text.trim();
        let end = text.find([':', ',']).into_iter().chain(text.find(char::is_whitespace)).min();
        let (word, rest) = text.split_at(end.unwrap_or(text.len()));
        let action = match word {
            "driver" | "all" => Action::Driver,
            "answer" => Action::Answer,
            "kernel" => Action::Kernel,
            "drop" => Action::Drop,
            _ => return Err(RuleError::Action { found: word.to_owned() }),
        };
        let (matching, priority) = matches(rest)?;
        if word == "all" && matching != Match::default() {
            return Err(RuleError::Contradiction {
                what: "all is every frame, without a match",
                example: "driver:proto=icmp",
            });
        }
        Self::new(action, matching, priority)
    }
}

fn matches(rest: &str) -> Result<(Match, i16), RuleError> {
    let mut matching = Match::default();
    let mut priority = None;
    for word in words(rest) {
        let unknown = || RuleError::Word { word: word.to_owned() };
        let (key, value) = word.split_once('=').ok_or_else(unknown)?;
        let key = *KEYS.iter().find(|known| **known == key).ok_or_else(unknown)?;
        let fits = match key {
            "proto" => set(&mut matching.proto, key, protocol(value))?,
            "src" => set(&mut matching.src, key, prefix(value))?,
            "dst" => set(&mut matching.dst, key, prefix(value))?,
            "sport" => set(&mut matching.sport, key, ports(value))?,
            "dport" => set(&mut matching.dport, key, ports(value))?,
            "vlan" => set(&mut matching.vlan, key, vlan(value))?,
            "ethertype" => set(&mut matching.ethertype, key, ethertype(value))?,
            _ => set(&mut priority, key, value.parse().ok())?,
        };
        if !fits {
            return Err(RuleError::Value { key, value: value.to_owned(), expected: expected(key) });
        }
    }
    Ok((matching, priority.unwrap_or(0)))
}

/// The words between separators. A colon is one only before a key, because IPv6 addresses have colons of their own.
fn words(rest: &str) -> Vec<&str> {
    let mut words = Vec::new();
    // The one that ends the action.
    let rest = rest.strip_prefix(':').unwrap_or(rest);
    for mut word in rest.split(|c: char| c == ',' || c.is_whitespace()) {
        let before_key = |word: &str| {
            let colons = word.match_indices(':').map(|(at, _)| at);
            let key = |at: &usize| word[at + 1..].split_once('=').is_some_and(|(key, _)| KEYS.contains(&key));
            colons.into_iter().find(key)
        };
        while let Some(at) = before_key(word) {
            words.push(&word[..at]);
            word = &word[at + 1..];
        }
        words.push(word);
    }
    words.retain(|word| !word.is_empty());
    words
}

/// Whether there is a value; it is kept.
fn set<T>(part: &mut Option<T>, key: &'static str, value: Option<T>) -> Result<bool, RuleError> {
    if part.is_some() {
        return Err(RuleError::Twice { key });
    }
    *part = value;
    Ok(part.is_some())
}

fn expected(key: &str) -> &'static str {
    match key {
        "proto" => "a protocol is tcp, udp, icmp, icmpv6 or a number from 0 to 255, for example proto=47",
        "src" | "dst" => PREFIX_EXPECTED,
        "sport" | "dport" => PORTS_EXPECTED,
        "vlan" => "a VLAN is 0 to 4094 or none, for example vlan=100",
        "ethertype" => "an EtherType is arp, ipv4, ipv6 or 0x0600 to 0xffff, for example ethertype=0x88cc",
        _ => "a priority is a number from -32768 to 32767, for example priority=10",
    }
}

fn protocol(value: &str) -> Option<u8> {
    let named = PROTOCOLS.iter().find(|(name, _)| *name == value).map(|(_, number)| *number);
    named.or_else(|| value.parse().ok())
}

fn ethertype(value: &str) -> Option<u16> {
    let named = ETHERTYPES.iter().find(|(name, _)| *name == value).map(|(_, number)| *number);
    named.or_else(|| u16::from_str_radix(value.strip_prefix("0x")?, 16).ok())
}

fn vlan(value: &str) -> Option<Vlan> {
    if value == "none" { Some(Vlan::Untagged) } else { value.parse().ok().map(Vlan::Tagged) }
}

fn ports(value: &str) -> Option<PortRange> {
    let (first, last) = value.split_once('-').unwrap_or((value, value));
    PortRange::new(first.parse().ok()?, last.parse().ok()?)
}

fn prefix(value: &str) -> Option<Prefix> {
    let (address, len) = match value.split_once('/') {
        Some((address, len)) => (address.parse::<IpAddr>().ok()?, len.parse().ok()?),
        None => {
            let address = value.parse::<IpAddr>().ok()?;
            (address, if address.is_ipv4() { 32 } else { 128 })
        }
    };
    Prefix::new(address, len)
}
