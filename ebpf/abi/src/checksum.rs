//! Arithmetic of the Internet checksum (RFC 1071) and its incremental update (RFC 1624).

use crate::reader::Reader;

/// A one's complement sum folded into 16 bits.
#[inline(always)]
#[must_use]
pub const fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    // Below 2^33 now, so below 2^18, 2^17 and 2^16 after these.
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

/// The checksum after one word of the data changed from `old` to `new` (RFC 1624, equation 3).
#[inline(always)]
#[must_use]
pub const fn updated(checksum: u16, old: u16, new: u16) -> u16 {
    let sum = !checksum as u32 + !old as u32 + new as u32;
    let sum = (sum & 0xffff) + (sum >> 16);
    !((sum & 0xffff) + (sum >> 16)) as u16
}

/// The largest piece that is summed at once: what `bpf_csum_diff` takes on every kernel.
const LARGE: usize = 512;
/// Large pieces at the most, which makes the longest range 4,607 bytes; a frame of the UMEM is shorter than that.
const LARGE_PIECES: usize = 8;
/// Offsets are below this: the verifier wants to see that an offset with a piece behind it is below 65,536.
pub const OFFSET_BOUND: usize = 0x4000;
/// The other sizes. Of each there can be only so many as do not make one of the size before.
const MEDIUM: usize = 64;
const SMALL: usize = 16;

/// The sum over the bytes from `start` to `end` in the machine's order, as if zeros followed up to a multiple of four;
/// `None` when they aren't all in the frame or are too many.
///
/// The loops count down to `end`, and [`Reader::bounded`] hides where each number came from: so the verifier finds the
/// same state behind a loop however often it was run, and follows what comes next once. (The compiler would compare the
/// first length with 448, 384, ... instead of what is left with 64.)
#[inline(always)]
pub fn sum<R: Reader + ?Sized>(frame: &R, start: usize, end: usize) -> Option<u64> {
    if end >= OFFSET_BOUND {
        return None;
    }
    let mut sum = 0;
    let mut rest = frame.bounded(end.checked_sub(start)?);
    for _ in 0..LARGE_PIECES {
        if rest < LARGE {
            break;
        }
        sum += frame.sum::<LARGE>(frame.bounded(end - rest))?;
        rest = frame.bounded(rest - LARGE);
    }
    if rest >= LARGE {
        return None;
    }
    for _ in 1..LARGE / MEDIUM {
        if rest < MEDIUM {
            break;
        }
        sum += frame.sum::<MEDIUM>(frame.bounded(end - rest))?;
        rest = frame.bounded(rest - MEDIUM);
    }
    for _ in 1..MEDIUM / SMALL {
        if rest < SMALL {
            break;
        }
        sum += frame.sum::<SMALL>(frame.bounded(end - rest))?;
        rest = frame.bounded(rest - SMALL);
    }
    // What is left is the sum of different powers of two.
    if rest >= 8 {
        sum += frame.sum::<8>(frame.bounded(end - rest))?;
        rest = frame.bounded(rest - 8);
    }
    if rest >= 4 {
        sum += frame.sum::<4>(frame.bounded(end - rest))?;
        rest = frame.bounded(rest - 4);
    }
    if rest >= 2 {
        sum += u64::from(u16::from_ne_bytes(frame.read(frame.bounded(end - rest))?));
        rest -= 2;
    }
    if rest > 0 {
        let [last] = frame.read(frame.bounded(end - rest))?;
        sum += u64::from(u16::from_ne_bytes([last, 0]));
    }
    Some(sum)
}
