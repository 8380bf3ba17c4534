//! The blocks of a pcapng file (draft-ietf-opsawg-pcapng), little-endian, appended to a buffer.
//!
//! pcap-file can write them too, but allocates for every option of every frame, and writes the words of an
//! interface statistics block's time in the wrong order; it serves as the reader in the tests.

use netdext::tap::{Direction, Record};

const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const INTERFACE_DESCRIPTION: u32 = 1;
const INTERFACE_STATISTICS: u32 = 5;
const ENHANCED_PACKET: u32 = 6;

const BYTE_ORDER_MAGIC: u32 = 0x1a2b_3c4d;
const SECTION_LENGTH_UNKNOWN: u64 = u64::MAX;
/// `LINKTYPE_ETHERNET`.
const ETHERNET: u16 = 1;
/// `if_tsresol`: ten to the minus ninth of a second.
const NANOSECONDS: u8 = 9;
/// The first byte of `epb_verdict`: what follows is the return value of an XDP program.
const VERDICT_OF_XDP: u8 = 2;
/// `XDP_REDIRECT` of linux/bpf.h: what the program said of a frame that reached the driver.
const XDP_REDIRECT: u64 = 4;

/// What an interface statistics block says: counts since the capture began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Statistics {
    /// Frames that came by.
    pub seen: u64,
    /// Of those, the ones that the filter takes.
    pub accepted: u64,
    /// Of those, the ones that could not be kept.
    pub dropped: u64,
    /// Of those, the ones that are in the file.
    pub written: u64,
}

/// Begins a file.
pub(super) fn section_header(out: &mut Vec<u8>) {
    block(out, SECTION_HEADER, |out| {
        out.extend(BYTE_ORDER_MAGIC.to_le_bytes());
        out.extend(1_u16.to_le_bytes());
        out.extend(0_u16.to_le_bytes());
        out.extend(SECTION_LENGTH_UNKNOWN.to_le_bytes());
        option(out, 2, std::env::consts::ARCH.as_bytes());
        option(out, 3, b"Linux");
        option(out, 4, concat!("netdext ", env!("CARGO_PKG_VERSION")).as_bytes());
        end_of_options(out);
    });
}

/// Describes an interface of the file; the first is number 0.
pub(super) fn interface_description(out: &mut Vec<u8>, name: &str, snaplen: u32, filter: &str) {
    block(out, INTERFACE_DESCRIPTION, |out| {
        out.extend(ETHERNET.to_le_bytes());
        out.extend(0_u16.to_le_bytes());
        out.extend(snaplen.to_le_bytes());
        option(out, 2, name.as_bytes());
        option(out, 3, b"frames between the AF_XDP rings and the driver");
        option(out, 9, &[NANOSECONDS]);
        if !filter.is_empty() {
            // Not if_filter, whose text would have to be one of libpcap's.
            option(out, 1, format!("captured with --filter '{filter}'").as_bytes());
        }
        end_of_options(out);
    });
}

/// One frame; `at` is ns since 1970.
pub(super) fn enhanced_packet(out: &mut Vec<u8>, at: u64, record: &Record) {
    let Record { at: _, port, queue, direction, original_len, data } = record;
    block(out, ENHANCED_PACKET, |out| {
        out.extend(port.to_le_bytes());
        time(out, at);
        out.extend((data.len() as u32).to_le_bytes());
        out.extend(original_len.to_le_bytes());
        out.extend_from_slice(data);
        pad(out);
        let (flags, comment): (u32, &[u8]) = match direction {
            Direction::In => (1, b"stage rx: from the rx ring to the driver"),
            Direction::Out => (2, b"stage tx: from the driver to the tx ring"),
        };
        option(out, 2, &flags.to_le_bytes());
        option(out, 6, &queue.to_le_bytes());
        if *direction == Direction::In {
            let mut verdict = [VERDICT_OF_XDP; 9];
            verdict[1..].copy_from_slice(&XDP_REDIRECT.to_le_bytes());
            option(out, 7, &verdict);
        }
        option(out, 1, comment);
        end_of_options(out);
    });
}

/// What was counted until `at`, ns since 1970, of all interfaces, at the first. Its length is always the same.
pub(super) fn interface_statistics(out: &mut Vec<u8>, at: u64, began: u64, statistics: &Statistics) {
    let Statistics { seen, accepted, dropped, written } = *statistics;
    block(out, INTERFACE_STATISTICS, |out| {
        out.extend(0_u32.to_le_bytes());
        time(out, at);
        for (code, moment) in [(2, began), (3, at)] {
            let mut words = Vec::with_capacity(8);
            time(&mut words, moment);
            option(out, code, &words);
        }
        for (code, count) in [(4, seen), (5, dropped), (6, accepted), (8, written)] {
            option(out, code, &count.to_le_bytes());
        }
        end_of_options(out);
    });
}

/// A block around its body: type, length, body, length again.
fn block(out: &mut Vec<u8>, kind: u32, body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend(kind.to_le_bytes());
    out.extend([0; 4]);
    body(out);
    let len = (out.len() - start + 4) as u32;
    out[start + 4..start + 8].copy_from_slice(&len.to_le_bytes());
    out.extend(len.to_le_bytes());
}

/// Two words of 32 bits, the upper one first.
fn time(out: &mut Vec<u8>, nanos: u64) {
    out.extend(((nanos >> 32) as u32).to_le_bytes());
    out.extend((nanos as u32).to_le_bytes());
}

fn option(out: &mut Vec<u8>, code: u16, value: &[u8]) {
    out.extend(code.to_le_bytes());
    out.extend((value.len() as u16).to_le_bytes());
    out.extend_from_slice(value);
    pad(out);
}

fn end_of_options(out: &mut Vec<u8>) {
    out.extend([0; 4]);
}

/// Every block begins at a multiple of four bytes within the buffer, so this aligns within the block.
fn pad(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(4), 0);
}
