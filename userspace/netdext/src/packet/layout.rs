//! How a pool is laid out: the sizes, and what does not fit them.

use super::owner::PortNumber;

/// XDP reserves this much room in front of every received frame (`XDP_PACKET_HEADROOM` of linux/bpf.h).
pub(super) const XDP_PACKET_HEADROOM: usize = 256;

/// Bytes in front of the data of a received packet that are a driver's to take: the headroom of XDP without what the XDP
/// program writes there.
pub const HEADROOM: usize = XDP_PACKET_HEADROOM - netdext_abi::RX_META_LEN;

/// The size of a frame. AF_XDP's aligned mode takes powers of two from 2048 bytes to the page size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FrameSize {
    /// 2048 bytes: enough for an MTU of 1500 with two VLAN tags.
    TwoK,
    /// 4096 bytes: one page.
    FourK,
}

impl FrameSize {
    /// The size in bytes.
    pub const fn bytes(self) -> usize {
        match self {
            Self::TwoK => 2048,
            Self::FourK => 4096,
        }
    }

    /// The longest Ethernet frame (without FCS) that fits behind the headroom, in bytes.
    pub const fn max_data(self) -> usize {
        self.bytes() - XDP_PACKET_HEADROOM
    }

    /// The smallest size that has so many bytes, if there is one.
    pub const fn for_bytes(bytes: usize) -> Option<Self> {
        match bytes {
            0..=2048 => Some(Self::TwoK),
            2049..=4096 => Some(Self::FourK),
            _ => None,
        }
    }

    /// The smallest size whose [`max_data`](Self::max_data) holds `frame_len` bytes, if there is one.
    pub const fn for_frame_len(frame_len: usize) -> Option<Self> {
        if frame_len <= Self::TwoK.max_data() {
            Some(Self::TwoK)
        } else if frame_len <= Self::FourK.max_data() {
            Some(Self::FourK)
        } else {
            None
        }
    }
}

/// The shape of a pool.
#[derive(Clone, Copy, Debug)]
pub struct PoolConfig {
    /// How many frames.
    pub frames: u32,
    /// The size of each.
    pub frame_size: FrameSize,
}

impl PoolConfig {
    /// The size of the whole mapping in bytes.
    pub fn bytes(&self) -> usize {
        self.frames as usize * self.frame_size.bytes()
    }
}

/// Why a pool, or a port over it, cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PoolConfigError {
    /// A pool needs at least one frame.
    #[error("a packet pool needs at least one frame")]
    NoFrames,
    /// The frames do not fit the memory.
    #[error("the frames of the packet pool take {needed} bytes, and there are {there}")]
    TooLittleMemory {
        /// Bytes that the frames take.
        needed: usize,
        /// Bytes of memory.
        there: usize,
    },
    /// A pool has had as many ports as it has numbers for.
    #[error("a packet pool has no number for another port after {} of them", PortNumber::COUNT)]
    TooManyPorts,
}

/// An address or a length that does not lie within the frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{len} bytes at offset {offset} do not fit a frame of {frame_size} bytes")]
pub struct OutOfFrame {
    /// The offset asked for, in bytes from the start of the frame.
    pub offset: usize,
    /// The length asked for, in bytes.
    pub len: usize,
    /// The size of the frame in bytes.
    pub frame_size: usize,
}
