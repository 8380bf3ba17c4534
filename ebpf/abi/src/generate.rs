//! What the traffic programs (ebpf/generate) and user space share.

/// The program that writes the frames of the live-frames generator.
pub const GENERATE: &str = "generate";
/// The program at the generator's own interface: counts what comes back, and drops it.
pub const REPLIES: &str = "replies";
/// The program that counts and drops every frame.
pub const DISCARD: &str = "discard";
/// The program that sends every frame back with its MAC addresses swapped.
pub const REFLECT: &str = "reflect";
/// The program that answers IPv4 echo requests, and counts nothing.
pub const ECHO: &str = "echo";
/// The program that passes every frame to the kernel.
pub const PASS: &str = "pass";
/// The program that redirects every frame to the socket of its queue.
pub const REDIRECT: &str = "redirect";
/// The program that redirects every frame to the device in [`DEVICES`].
pub const TO_DEVICE: &str = "to_device";
/// Every program of the object.
pub const PROGRAM_NAMES: [&str; 8] = [GENERATE, REPLIES, DISCARD, REFLECT, ECHO, REDIRECT, TO_DEVICE, PASS];

/// Array of one [`Template`].
pub const TEMPLATE: &str = "TEMPLATE";
/// Per-CPU array of `u64`: the number of the next frame, at index 0.
pub const NEXT: &str = "NEXT";
/// Per-CPU array of [`Tally`], indexed by [`Tallied`].
pub const TALLIES: &str = "TALLIES";
/// XSKMAP with room for the socket of queue 0.
pub const SOCKETS: &str = "SOCKETS";
/// DEVMAP of one device.
pub const DEVICES: &str = "DEVICES";
/// Every map of the object.
pub const MAP_NAMES: [&str; 5] = [TEMPLATE, NEXT, TALLIES, SOCKETS, DEVICES];

/// Ethernet, IPv6, UDP or ICMP, and the stamp: the most that differs from one configuration to another.
pub const TEMPLATE_LEN: usize = 80;
/// At the front of the payload of generated frames.
pub const STAMP_MAGIC: [u8; 4] = *b"nxgn";
/// The magic and the sequence number.
pub const STAMP_LEN: usize = STAMP_MAGIC.len() + 8;
/// The number of the first flow: a UDP source port or an echo identifier.
pub const FLOW_BASE: u16 = 1024;

/// The headers and the stamp of a generated frame with flow, sequence number and checksum zero, and how to fill those
/// in. `repr(C)`, integers only, no padding.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Template {
    /// The bytes, from the Ethernet header on.
    pub bytes: [u8; TEMPLATE_LEN],
    /// Sum over what the checksum covers, in the byte order of the machine, not yet folded.
    pub sum: u64,
    /// Number of flows, at least 1.
    pub flows: u32,
    /// [`Template::IPV6`], [`Template::UDP`], [`Template::STOPPED`].
    pub flags: u32,
}

impl Template {
    /// The frames are IPv6; else IPv4.
    pub const IPV6: u32 = 1;
    /// The frames are UDP; else echo requests.
    pub const UDP: u32 = 2;
    /// Nothing is to be sent any more: what is left of a call is dropped, which takes no time.
    pub const STOPPED: u32 = 4;

    /// The bytes of the map's value.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; size_of::<Self>()] {
        let mut bytes = [0; size_of::<Self>()];
        let (headers, rest) = bytes.split_at_mut(TEMPLATE_LEN);
        headers.copy_from_slice(&self.bytes);
        rest[..8].copy_from_slice(&self.sum.to_ne_bytes());
        rest[8..12].copy_from_slice(&self.flows.to_ne_bytes());
        rest[12..].copy_from_slice(&self.flags.to_ne_bytes());
        bytes
    }
}

/// What a frame was counted as.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tallied {
    /// Written by the generator.
    Generated,
    /// Generated for a frame that is too short: never, unless the two sides disagree.
    TooShort,
    /// Echo replies to the generator, dropped.
    Replies,
    /// Other frames for the generator's address, and its own frames sent back by a reflector, dropped.
    Returned,
    /// Frames at the generator's interface that are none of its business, left to the kernel.
    Passed,
    /// Dropped by the sink.
    Discarded,
    /// Sent back by the reflector.
    Reflected,
    /// Sent from a group address: dropped by the reflector.
    GroupSource,
}

impl Tallied {
    /// Every index, in the order of the map.
    pub const ALL: [Self; 8] = [
        Self::Generated,
        Self::TooShort,
        Self::Replies,
        Self::Returned,
        Self::Passed,
        Self::Discarded,
        Self::Reflected,
        Self::GroupSource,
    ];

    /// The name in snake_case, as in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Generated => "generated",
            Self::TooShort => "too_short",
            Self::Replies => "replies",
            Self::Returned => "returned",
            Self::Passed => "passed",
            Self::Discarded => "discarded",
            Self::Reflected => "reflected",
            Self::GroupSource => "group_source",
        }
    }
}

/// Frames and bytes of one kind on one CPU. `repr(C)`, integers only, no padding.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Frames.
    pub frames: u64,
    /// Their bytes, from the Ethernet header on, without FCS.
    pub bytes: u64,
}

impl Tally {
    /// From the map's value.
    #[must_use]
    pub fn from_bytes(bytes: [u8; size_of::<Self>()]) -> Self {
        let [a, b, c, d, e, f, g, h, rest @ ..] = bytes;
        Self { frames: u64::from_ne_bytes([a, b, c, d, e, f, g, h]), bytes: u64::from_ne_bytes(rest) }
    }
}

const _: () = {
    assert!(size_of::<Template>() == TEMPLATE_LEN + 16 && align_of::<Template>() == 8);
    assert!(size_of::<Tally>() == 16);
    assert!(TEMPLATE_LEN >= 14 + 40 + 8 + STAMP_LEN);
};
