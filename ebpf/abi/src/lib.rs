//! What the XDP program and user space share.
//!
//! The crate has no dependency and no `std`: the same source is compiled for `bpfel-unknown-none` into the kernel
//! program and for the host into the library, the drivers and the tests, so the two can't disagree about a frame.
//!
//! * [`generate`]: what the traffic programs are told, and what they count.
//! * [`maps`]: names of maps and globals, their keys and values, the receive metadata.
//! * [`answer`]: requests turned into replies in place.
//! * [`checksum`]: the Internet checksum.
//! * [`counter`]: one per-CPU counter for each way a frame can be judged.
//! * [`reader`]: bounds-checked reads and writes, the only way parsing and answering see a frame.
//! * [`parse`](mod@parse): Ethernet, VLAN, ARP, IPv4, IPv6, ICMP, ICMPv6, neighbour discovery.
//! * [`plain`](mod@plain): the frames that there are most of, judged sooner.
//! * [`rules`]: steering rules as they lie in the maps, and how a frame meets them.
//! * [`verdict`](mod@verdict): who gets a frame: the driver, the kernel, or its sender as an answer.
#![no_std]
#![forbid(unsafe_code)]

pub mod answer;
pub mod checksum;
pub mod counter;
pub mod generate;
pub mod maps;
pub mod near;
pub mod parse;
pub mod plain;
pub mod reader;
pub mod rules;
pub mod verdict;

pub use answer::{Question, Reply};
pub use counter::{COUNTER_COUNT, COUNTER_NAMES, Counter};
pub use maps::{Config, RX_META_LEN, RX_META_MAGIC, RxMeta};
pub use parse::{Address, Kind, Malformed, Parsed, parse};
pub use reader::{Reader, Writer};
pub use verdict::{Decision, PortView, Verdict, verdict};
