//! Names of maps, programs and globals, and the plain values they hold.
//!
//! Values cross between the kernel and user space as bytes: `repr(C)`, integers only, no padding.

use crate::counter::Counter;

/// The name, in the object, of the XDP program that is attached: plain frames where there are no rules.
pub const PROGRAM: &str = "netdext";
/// The XDP program of the default policy, for any frame, with answering. It goes on where the others can't.
pub const POLICY_PROGRAM: &str = "netdext_policy";
/// The XDP program that asks the steering rules.
pub const RULES_PROGRAM: &str = "netdext_rules";
/// The XDP program that logs what the others have decided, and carries it out.
pub const LOG_PROGRAM: &str = "netdext_log";
/// All of them; the kernel's verifier follows every path through a program, and one of all four would have too many.
pub const PROGRAM_NAMES: [&str; 4] = [PROGRAM, POLICY_PROGRAM, RULES_PROGRAM, LOG_PROGRAM];
/// Program array: where the programs call each other.
pub const PROGRAMS: &str = "PROGRAMS";
/// The place of [`POLICY_PROGRAM`] in [`PROGRAMS`].
pub const POLICY_PLACE: u32 = 0;
/// The place of [`RULES_PROGRAM`] in [`PROGRAMS`].
pub const RULES_PLACE: u32 = 1;
/// The place of [`LOG_PROGRAM`] in [`PROGRAMS`].
pub const LOG_PLACE: u32 = 2;
/// Per-CPU array of one [`Undecided`](crate::verdict::Undecided): what the rules tell the policy.
pub const UNDECIDED: &str = "UNDECIDED";
/// Per-CPU array of two `u32`: what the other programs tell the one that logs, action and
/// [`Counter`].
pub const LOGGED: &str = "LOGGED";
/// XSKMAP: rx queue -> AF_XDP socket.
pub const XSKS: &str = "XSKS";
/// Array of one [`Config`].
pub const CONFIG: &str = "CONFIG";
/// Hash: IPv4 address, in network order -> [`OWNED`], [`BROADCAST`] or both.
pub const OWNED_V4: &str = "OWNED_V4";
/// Hash: owned IPv6 address, in network order -> [`OWNED`].
pub const OWNED_V6: &str = "OWNED_V6";
/// Array of [`NEAR_SLOTS`](crate::near::NEAR_SLOTS) [`Near`](crate::near::Near)s: what there is of [`OWNED_V4`], at hand.
pub const NEAR_V4: &str = "NEAR_V4";
/// Per-CPU array of `u64`, indexed by [`Counter`].
pub const COUNTERS: &str = "COUNTERS";
/// Array of [`TABLES`](crate::rules::TABLES) [`Table`](crate::rules::Table)s; [`Config::table`] says which one counts.
pub const RULES: &str = "RULES";
/// LPM trie: IPv4 prefix of destinations -> [`Winners`](crate::rules::Winners).
pub const DESTINATION_V4: &str = "DESTINATION_V4";
/// LPM trie: IPv4 prefix of sources -> [`Winners`](crate::rules::Winners).
pub const SOURCE_V4: &str = "SOURCE_V4";
/// LPM trie: IPv6 prefix of destinations -> [`Winners`](crate::rules::Winners).
pub const DESTINATION_V6: &str = "DESTINATION_V6";
/// LPM trie: IPv6 prefix of sources -> [`Winners`](crate::rules::Winners).
pub const SOURCE_V6: &str = "SOURCE_V6";
/// Per-CPU array of `u64`: frames that a rule decided about, by [`Winner::slot`](crate::rules::Winner::slot).
pub const RULE_HITS: &str = "RULE_HITS";
/// Array of one `u64`: the ns between two answers to one source, 0 for no limit.
pub const ANSWER_INTERVAL: &str = "ANSWER_INTERVAL";
/// LRU hash: source of requests, as [`Reply::source`](crate::answer::Reply::source) has it -> state of
/// [`admit`](crate::answer::admit).
pub const ANSWER_SOURCES: &str = "ANSWER_SOURCES";
/// Read-only `u8` set before loading: non-zero compiles the log records of steering decisions in.
pub const LOG_FRAMES: &str = "LOG_FRAMES";
/// Every map that the object must have; a loader and the object check go by this list.
pub const MAP_NAMES: [&str; 17] = [
    PROGRAMS,
    UNDECIDED,
    LOGGED,
    XSKS,
    CONFIG,
    OWNED_V4,
    OWNED_V6,
    NEAR_V4,
    ANSWER_INTERVAL,
    ANSWER_SOURCES,
    COUNTERS,
    RULES,
    DESTINATION_V4,
    SOURCE_V4,
    DESTINATION_V6,
    SOURCE_V6,
    RULE_HITS,
];

/// The port owns the address.
pub const OWNED: u32 = 1;
/// The address is the broadcast address of a network that the port has an address on.
pub const BROADCAST: u32 = 2;

/// Sockets that `XSKS` holds unless the loader sizes it for the device.
pub const DEFAULT_QUEUES: u32 = 64;
/// Addresses of one family that a port can own unless the loader asks for more.
pub const DEFAULT_ADDRESSES: u32 = 16_384;
/// Sources whose answers are counted against the limit; beyond that the one not heard for longest is forgotten.
pub const LIMITED_SOURCES: u32 = 16_384;

/// Prefixes in each of the four tries unless the loader asks for another number. They take memory only when used.
pub const DEFAULT_PREFIXES: u32 = 1 << 20;

/// What the program has to know about its port besides the owned addresses.
///
/// Eight aligned bytes: the kernel copies them in one store, so a reader sees the old or the new one, never a mixture.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// The port's MAC address.
    pub mac: [u8; 6],
    /// [`Config::STEER_ALL`], [`Config::ANSWER`], [`Config::PAUSED`] and the three of timestamps in the low byte; the high
    /// byte is [`Config::table`].
    pub flags: u16,
}

impl Config {
    /// Every frame goes to the driver, but what [`Config::ANSWER`] answers.
    pub const STEER_ALL: u16 = 1;
    /// Requests for owned addresses are answered without the driver, where [`reply`](crate::answer::reply) can.
    pub const ANSWER: u16 = 2;
    /// The driver hasn't its frames: rules that ask to answer don't match.
    pub const PAUSED: u16 = 4;
    /// One frame for the driver in [`SAMPLED`] gets a timestamp.
    pub const STAMP_SOME: u16 = 8;
    /// Frames for the driver that are, or may be, echo replies get a timestamp.
    pub const STAMP_REPLIES: u16 = 16;
    /// Every frame for the driver gets a timestamp.
    pub const STAMP_ALL: u16 = 32;

    /// The bytes of the map's value.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; size_of::<Self>()] {
        let [a, b, c, d, e, f] = self.mac;
        let [low, high] = self.flags.to_ne_bytes();
        [a, b, c, d, e, f, low, high]
    }

    /// The number of the table of rules that counts, from 1; 0 when there are no rules. It is a byte of its own, so
    /// however the kernel copies the value, a reader sees the one number or the other.
    #[inline(always)]
    #[must_use]
    pub const fn table(&self) -> u8 {
        (self.flags >> 8) as u8
    }

    /// The same with another table.
    #[inline(always)]
    #[must_use]
    pub const fn with_table(self, table: u8) -> Self {
        Self { mac: self.mac, flags: self.flags & 0xff | (table as u16) << 8 }
    }

    /// Whether [`Config::STEER_ALL`] is set.
    #[inline(always)]
    #[must_use]
    pub const fn steers_all(&self) -> bool {
        self.flags & Self::STEER_ALL != 0
    }

    /// Whether [`Config::PAUSED`] is set.
    #[inline(always)]
    #[must_use]
    pub const fn is_paused(&self) -> bool {
        self.flags & Self::PAUSED != 0
    }

    /// Whether a frame gets a timestamp that is the driver's for this reason, as the `nth` frame on its CPU. Reading the
    /// clock is a large part of what a frame costs, so only frames that somebody measures get one.
    #[inline(always)]
    #[must_use]
    pub const fn stamps(&self, reason: Counter, nth: u64) -> bool {
        let flags = self.flags;
        flags & Self::STAMP_ALL != 0
            || flags & Self::STAMP_REPLIES != 0 && reason.may_be_echo_reply()
            || flags & Self::STAMP_SOME != 0 && nth % SAMPLED == 1
    }

    /// Whether [`Config::ANSWER`] is set.
    #[inline(always)]
    #[must_use]
    pub const fn answers(&self) -> bool {
        self.flags & Self::ANSWER != 0
    }
}

/// How many frames for the driver there are for each that [`Config::STAMP_SOME`] gives a timestamp; the first has one.
pub const SAMPLED: u64 = 16;

/// [`RxMeta::magic`] of a written record: "nxrx".
pub const RX_META_MAGIC: u32 = u32::from_le_bytes(*b"nxrx");
/// Bytes of [`RxMeta`], which end where the frame begins.
pub const RX_META_LEN: usize = size_of::<RxMeta>();

/// The metadata that the program puts immediately before a redirected frame (`bpf_xdp_adjust_meta`).
///
/// A descriptor doesn't say whether there is metadata, so a reader must check the magic, and clear it once read: on a
/// device without room for metadata the bytes are whatever the frame's chunk held before.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RxMeta {
    /// [`RX_META_MAGIC`].
    pub magic: u32,
    /// Zero.
    pub reserved: u32,
    /// `CLOCK_MONOTONIC` when the program saw the frame, in nanoseconds (`bpf_ktime_get_ns`).
    pub ktime_ns: u64,
}

impl RxMeta {
    /// The record in the bytes before a frame, `None` when the magic isn't there.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; RX_META_LEN]) -> Option<Self> {
        let [a, b, c, d, e, f, g, h, time @ ..] = *bytes;
        let meta = Self {
            magic: u32::from_ne_bytes([a, b, c, d]),
            reserved: u32::from_ne_bytes([e, f, g, h]),
            ktime_ns: u64::from_ne_bytes(time),
        };
        (meta.magic == RX_META_MAGIC).then_some(meta)
    }

    /// The bytes of the record, as they stand before a frame.
    #[must_use]
    pub fn to_bytes(self) -> [u8; RX_META_LEN] {
        let mut bytes = [0; RX_META_LEN];
        bytes[..4].copy_from_slice(&self.magic.to_ne_bytes());
        bytes[4..8].copy_from_slice(&self.reserved.to_ne_bytes());
        bytes[8..].copy_from_slice(&self.ktime_ns.to_ne_bytes());
        bytes
    }
}

const _: () = {
    assert!(size_of::<Config>() == 8 && align_of::<Config>() == 8);
    assert!(size_of::<RxMeta>() == 16 && align_of::<RxMeta>() == 8);
    // bpf_xdp_adjust_meta takes multiples of four, up to 32 bytes on every kernel.
    assert!(RX_META_LEN.is_multiple_of(4) && RX_META_LEN <= 32);
};
