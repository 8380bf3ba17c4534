//! Steering rules as the program sees them, and how a frame meets them.
//!
//! ```text
//!   frame --> Key --+--> longest prefix of the destination --+
//!                   +--> longest prefix of the source -------+--> the highest rank --> action
//!                   '--> Table: general rules by rank -------'
//! ```
//! A rule that says nothing but one prefix lies in a trie, whose values already are the winners among the prefix and all
//! that contain it; a million of them cost one walk. Every other rule is an [`Entry`] of a [`Table`], which is scanned in
//! the order of rank. Tables are never changed while a frame may read one: user space writes another, and switches by
//! [`Config::table`](crate::Config::table), one byte.
//!
//! Reading order is part of the contract: first the number of the table, then the destination's trie, then the source's.
//! User space lets frames that are on their way end before it changes something that is read later than what it changed
//! before. So every frame sees the rules as they were at one moment.

use crate::{
    parse::{Address, Link, Malformed, Parsed, code, link_header, parse_behind},
    plain::plain_key,
    reader::Reader,
};

/// Rules in a [`Table`].
pub const TABLE_RULES: usize = 128;
/// Tables that user space writes in turn.
pub const TABLES: u32 = 16;
/// Rules whose hits can be counted.
pub const HIT_SLOTS: u32 = 16_384;
/// A rule whose hits aren't counted.
pub const NO_SLOT: u32 = u32::MAX;

/// The frame is redirected to the driver.
pub const ACTION_DRIVER: u32 = 1;
/// The frame is answered if it asks for an owned address; otherwise the rule doesn't match.
pub const ACTION_ANSWER: u32 = 2;
/// The frame passes to the kernel.
pub const ACTION_KERNEL: u32 = 3;
/// The frame is dropped.
pub const ACTION_DROP: u32 = 4;

/// A rule that a frame matches.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Winner {
    /// Of two rules that match, the one of the higher rank decides. 0 is no rule.
    pub rank: u64,
    /// Index in the map of hits, or [`NO_SLOT`].
    pub slot: u32,
    /// `ACTION_*`.
    pub action: u32,
}

impl Winner {
    /// No rule.
    pub const NONE: Self = Self { rank: 0, slot: NO_SLOT, action: 0 };

    /// Whether it is a rule.
    #[inline(always)]
    #[must_use]
    pub const fn is_some(&self) -> bool {
        self.rank != 0
    }

    /// The bytes in a map.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; size_of::<Self>()] {
        let mut bytes = [0; size_of::<Self>()];
        bytes[..8].copy_from_slice(&self.rank.to_ne_bytes());
        bytes[8..12].copy_from_slice(&self.slot.to_ne_bytes());
        bytes[12..].copy_from_slice(&self.action.to_ne_bytes());
        bytes
    }

    /// The one of the higher rank.
    #[inline(always)]
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        if other.rank > self.rank { other } else { self }
    }
}

/// A trie's value: who wins among all rules whose prefix contains the address.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Winners {
    /// Among all.
    pub any: Winner,
    /// Among those that don't answer: what counts for a frame that can't be answered.
    pub unanswering: Winner,
}

impl Winners {
    /// No rule.
    pub const NONE: Self = Self { any: Winner::NONE, unanswering: Winner::NONE };

    /// These and one more.
    #[must_use]
    pub const fn with(self, rule: Winner) -> Self {
        let unanswering =
            if rule.action == ACTION_ANSWER { self.unanswering } else { self.unanswering.or(rule) };
        Self { any: self.any.or(rule), unanswering }
    }

    /// The winners of two tries.
    #[inline(always)]
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        Self { any: self.any.or(other.any), unanswering: self.unanswering.or(other.unanswering) }
    }

    /// The same, and the verifier knows nothing of them.
    #[inline(always)]
    #[must_use]
    pub fn blurred<R: Reader + ?Sized>(self, frame: &R, noise: u64) -> Self {
        let blurred = |rule: Winner| {
            let rest = frame.blurred(u64::from(rule.slot) | u64::from(rule.action) << 32, noise);
            Winner { rank: frame.blurred(rule.rank, noise), slot: rest as u32, action: (rest >> 32) as u32 }
        };
        Self { any: blurred(self.any), unanswering: blurred(self.unanswering) }
    }

    /// The bytes of a trie's value.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; size_of::<Self>()] {
        let mut bytes = [0; size_of::<Self>()];
        bytes[..16].copy_from_slice(&self.any.to_bytes());
        bytes[16..].copy_from_slice(&self.unanswering.to_bytes());
        bytes
    }
}

/// 64-bit words of [`Key::words`].
pub const KEY_WORDS: usize = 5;

/// The tag number of a frame without a VLAN tag, which no tag can have.
pub const VLAN_NONE: u16 = 0x1000;
/// In the place of the tag number when the tag couldn't be read.
const VLAN_UNREAD: u16 = 0xffff;

/// What rules look at in a frame.
///
/// The first word holds EtherType, VLAN number, protocol and marks, 16 bits each from the lowest on; two words the
/// destination, two the source: the address bytes as they lie in the frame, zeros behind those of IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// What is compared under a mask.
    pub words: [u64; KEY_WORDS],
    /// Source port; 0 unless marked by [`Key::PORTS`].
    pub source_port: u16,
    /// Destination port; 0 unless marked by [`Key::PORTS`].
    pub destination_port: u16,
}

impl Key {
    /// Mark: IPv4 whose header is in order.
    pub const V4: u16 = 1;
    /// Mark: IPv6 whose headers are in order.
    pub const V6: u16 = 2;
    /// Mark: TCP or UDP ports are known; not so in a fragment.
    pub const PORTS: u16 = 4;
    /// Added to the protocol's number, so that no protocol isn't number 0.
    pub const HAS_PROTOCOL: u16 = 0x100;

    /// The first word.
    #[inline(always)]
    #[must_use]
    pub const fn first_word(ethertype: u16, vlan: u16, protocol: u16, marks: u16) -> u64 {
        ethertype as u64 | (vlan as u64) << 16 | (protocol as u64) << 32 | (marks as u64) << 48
    }

    /// The two words of an address.
    #[inline(always)]
    #[must_use]
    pub const fn address_words(address: Address) -> [u64; 2] {
        match address {
            Address::None => [0; 2],
            Address::V4([a, b, c, d]) => [u64::from_ne_bytes([a, b, c, d, 0, 0, 0, 0]), 0],
            Address::V6([a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]) => {
                [u64::from_ne_bytes([a, b, c, d, e, f, g, h]), u64::from_ne_bytes([i, j, k, l, m, n, o, p])]
            }
        }
    }

    /// What is to be seen of a frame that was read as `link` and `parsed`. Of a malformed one only the link header is.
    #[inline(always)]
    #[must_use]
    pub fn of<R: Reader + ?Sized>(
        frame: &R,
        link: &Result<Link, Malformed>,
        parsed: &Result<Parsed, Malformed>,
    ) -> Self {
        let (ethertype, vlan) = match link {
            Ok(link) => (link.ethertype, if link.vlan_tags == 0 { VLAN_NONE } else { link.vlan }),
            Err(_) => (0, VLAN_UNREAD),
        };
        let mut key = Self { words: [0; KEY_WORDS], source_port: 0, destination_port: 0 };
        let (mut protocol, mut marks) = (0, 0);
        if let Ok(parsed) = parsed
            && !matches!(parsed.source, Address::None)
        {
            marks |= if matches!(parsed.source, Address::V4(_)) { Self::V4 } else { Self::V6 };
            protocol = Self::HAS_PROTOCOL | u16::from(parsed.protocol);
            [key.words[1], key.words[2]] = Self::address_words(parsed.destination);
            [key.words[3], key.words[4]] = Self::address_words(parsed.source);
            if parsed.ports != 0
                && let Some([a, b, c, d]) = frame.read(frame.bounded(usize::from(parsed.ports)))
            {
                marks |= Self::PORTS;
                key.source_port = code([a, b]);
                key.destination_port = code([c, d]);
            }
        }
        key.words[0] = Self::first_word(ethertype, vlan, protocol, marks);
        key
    }

    /// What is to be seen of a frame, whatever it is.
    #[inline(always)]
    #[must_use]
    pub fn whole<R: Reader + ?Sized>(frame: &R) -> Self {
        let link = link_header(frame);
        let parsed = match &link {
            Ok(link) => parse_behind(frame, link),
            Err(malformed) => Err(*malformed),
        };
        Self::of(frame, &link, &parsed)
    }

    /// Whether a mark is set.
    #[inline(always)]
    const fn is(&self, mark: u16) -> bool {
        self.words[0] & Self::first_word(0, 0, 0, mark) != 0
    }

    #[inline(always)]
    const fn address(&self, side: Side) -> [u64; 2] {
        match side {
            Side::Destination => [self.words[1], self.words[2]],
            Side::Source => [self.words[3], self.words[4]],
        }
    }

    #[inline(always)]
    const fn v4(&self, side: Side) -> [u8; 4] {
        let [a, b, c, d, ..] = self.address(side)[0].to_ne_bytes();
        [a, b, c, d]
    }

    #[inline(always)]
    const fn v6(&self, side: Side) -> [u8; 16] {
        let [first, second] = self.address(side);
        let [a, b, c, d, e, f, g, h] = first.to_ne_bytes();
        let [i, j, k, l, m, n, o, p] = second.to_ne_bytes();
        [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
    }

    /// The same, and the verifier knows nothing of it.
    #[inline(always)]
    fn blurred<R: Reader + ?Sized>(self, frame: &R, noise: u64) -> Self {
        let [a, b, c, d, e] = self.words;
        let ports =
            frame.blurred(u64::from(self.source_port) << 16 | u64::from(self.destination_port), noise);
        let words = [
            frame.blurred(a, noise),
            frame.blurred(b, noise),
            frame.blurred(c, noise),
            frame.blurred(d, noise),
            frame.blurred(e, noise),
        ];
        Self { words, source_port: (ports >> 16) as u16, destination_port: ports as u16 }
    }
}

/// The port numbers that a rule takes: `first` and the `more` after it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ports {
    /// The lowest.
    pub first: u16,
    /// How many come after it.
    pub more: u16,
}

impl Ports {
    /// Every port.
    pub const ALL: Self = Self { first: 0, more: u16::MAX };

    /// 1 when `port` is outside, else 0. Without a branch: the verifier follows each path through a table.
    #[inline(always)]
    const fn misses(self, port: u16) -> u64 {
        let above = port.wrapping_sub(self.first) as u64;
        (self.more as u64).wrapping_sub(above) >> 63
    }
}

/// A general rule.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// The rule.
    pub rule: Winner,
    /// The bits of [`Key::words`] that count.
    pub mask: [u64; KEY_WORDS],
    /// What they must be.
    pub value: [u64; KEY_WORDS],
    /// Source ports; compared always, so a rule about ports also asks for [`Key::PORTS`].
    pub source_ports: Ports,
    /// Destination ports.
    pub destination_ports: Ports,
}

impl Entry {
    /// The bytes in a map.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; size_of::<Self>()] {
        let mut bytes = [0; size_of::<Self>()];
        bytes[..16].copy_from_slice(&self.rule.to_bytes());
        let words = bytes[16..].chunks_exact_mut(8).zip(self.mask.iter().chain(&self.value));
        words.for_each(|(to, word)| to.copy_from_slice(&word.to_ne_bytes()));
        let (source, destination) = (self.source_ports, self.destination_ports);
        let ports = [source.first, source.more, destination.first, destination.more];
        let at = 16 + 16 * KEY_WORDS;
        bytes[at..]
            .chunks_exact_mut(2)
            .zip(ports)
            .for_each(|(to, port)| to.copy_from_slice(&port.to_ne_bytes()));
        bytes
    }

    /// Whether a frame matches.
    #[inline(always)]
    #[must_use]
    pub const fn matches(&self, key: &Key) -> bool {
        let mut differs = self.source_ports.misses(key.source_port);
        differs |= self.destination_ports.misses(key.destination_port);
        let mut word = 0;
        while word < KEY_WORDS {
            differs |= (key.words[word] ^ self.value[word]) & self.mask[word];
            word += 1;
        }
        differs == 0
    }
}

/// General rules in the order of rank, the highest first, and which tries there is something in.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Table {
    /// Entries in use.
    pub count: u32,
    /// [`Table::DESTINATION_V4`] and so on.
    pub flags: u32,
    /// The rules.
    pub entries: [Entry; TABLE_RULES],
}

impl Table {
    /// There are rules by IPv4 destination alone.
    pub const DESTINATION_V4: u32 = 1;
    /// There are rules by IPv4 source alone.
    pub const SOURCE_V4: u32 = 2;
    /// There are rules by IPv6 destination alone.
    pub const DESTINATION_V6: u32 = 4;
    /// There are rules by IPv6 source alone.
    pub const SOURCE_V6: u32 = 8;

    /// Writes the bytes of a map's value. Entries beyond the count may keep what was there.
    pub fn write_to(&self, bytes: &mut [u8; size_of::<Self>()]) {
        bytes[..4].copy_from_slice(&self.count.to_ne_bytes());
        bytes[4..8].copy_from_slice(&self.flags.to_ne_bytes());
        let slots = bytes[8..].chunks_exact_mut(size_of::<Entry>());
        slots
            .zip(&self.entries[..self.count as usize])
            .for_each(|(to, entry)| to.copy_from_slice(&entry.to_bytes()));
    }

    /// Whether a flag is set.
    #[inline(always)]
    #[must_use]
    pub const fn has(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }
}

impl Default for Table {
    fn default() -> Self {
        Self { count: 0, flags: 0, entries: [Entry::default(); TABLE_RULES] }
    }
}

/// Whether a prefix is that of the destination or of the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Side {
    /// The destination address.
    Destination,
    /// The source address.
    Source,
}

/// The tries; maps in the kernel, anything on the host.
pub trait Tries {
    /// The winners at the longest prefix that contains the address.
    fn longest_v4(&self, side: Side, address: [u8; 4]) -> Option<&Winners>;
    /// The winners at the longest prefix that contains the address.
    fn longest_v6(&self, side: Side, address: [u8; 16]) -> Option<&Winners>;
}

/// The first rule that a frame matches, and the first of those that don't answer.
#[inline(always)]
pub fn decide<R: Reader + ?Sized, T: Tries + ?Sized>(frame: &R, table: &Table, tries: &T) -> Winners {
    let key = plain_key(frame).unwrap_or_else(|| Key::whole(frame));
    // The verifier follows every way of reading a frame. From here on they all look alike to it, or it would follow each
    // through the tries and the whole table.
    let noise = table.entries[0].rule.rank;
    let key = key.blurred(frame, noise);
    // Destination before source: see the module.
    let found =
        prefixes(table, tries, Side::Destination, &key).or(prefixes(table, tries, Side::Source, &key));
    let found = scan(table, &key, found.blurred(frame, noise));
    // Nor is it to be remembered which entry was the last.
    found.blurred(frame, noise)
}

/// The winners of one trie.
#[inline(always)]
fn prefixes<T: Tries + ?Sized>(table: &Table, tries: &T, side: Side, key: &Key) -> Winners {
    let found = if table.has(v4_flag(side)) && key.is(Key::V4) {
        tries.longest_v4(side, key.v4(side))
    } else if table.has(v6_flag(side)) && key.is(Key::V6) {
        tries.longest_v6(side, key.v6(side))
    } else {
        None
    };
    found.copied().unwrap_or(Winners::NONE)
}

/// Goes through the table until no rule that is left has a higher rank than what was found.
#[inline(always)]
fn scan(table: &Table, key: &Key, found: Winners) -> Winners {
    let mut found = found;
    let count = table.count as usize;
    for (index, entry) in table.entries.iter().enumerate() {
        if index >= count || entry.rule.rank < found.unanswering.rank {
            break;
        }
        if entry.matches(key) {
            found.any = found.any.or(entry.rule);
            if entry.rule.action != ACTION_ANSWER {
                found.unanswering = entry.rule;
                break;
            }
        }
    }
    found
}

#[inline(always)]
const fn v4_flag(side: Side) -> u32 {
    match side {
        Side::Destination => Table::DESTINATION_V4,
        Side::Source => Table::SOURCE_V4,
    }
}

#[inline(always)]
const fn v6_flag(side: Side) -> u32 {
    match side {
        Side::Destination => Table::DESTINATION_V6,
        Side::Source => Table::SOURCE_V6,
    }
}

const _: () = {
    assert!(size_of::<Winner>() == 16 && size_of::<Winners>() == 32);
    assert!(size_of::<Entry>() == 16 + 16 * KEY_WORDS + 8);
    assert!(size_of::<Table>() == 8 + TABLE_RULES * size_of::<Entry>());
    // The number of a table, counted from 1, is one byte.
    assert!(TABLES < 256);
};
