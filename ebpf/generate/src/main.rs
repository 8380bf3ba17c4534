//! The XDP programs of `--engine xdp`: traffic made, dropped and sent back without leaving the kernel.
//!
//! * `generate` is run by BPF_PROG_TEST_RUN over live frames. It writes the headers anew every time, because a frame
//!   comes round again with what its receiver has left in it.
//! * `replies` sits on the generator's own interface: counts what comes back, and drops it.
//! * `discard` and `reflect` are the sink and the reflector.
#![no_std]
#![no_main]

use core::{ffi::c_void, mem::MaybeUninit};

use aya_ebpf::{
    bindings::xdp_action,
    helpers::{bpf_xdp_load_bytes, bpf_xdp_store_bytes},
    macros::{map, xdp},
    maps::{Array, PerCpuArray},
    programs::XdpContext,
};
use netdext_abi::generate::{FLOW_BASE, STAMP_LEN, TEMPLATE_LEN, Tallied, Tally, Template};

#[map]
static TEMPLATE: Array<Template> = Array::with_max_entries(1, 0);
#[map]
static NEXT: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);
#[map]
static TALLIES: PerCpuArray<Tally> = PerCpuArray::with_max_entries(Tallied::ALL.len() as u32, 0);

/// The kernel takes the licence from here.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

const ETHERNET_LEN: usize = 14;
/// Where the UDP header or the ICMP message begins.
const L4_V4: usize = ETHERNET_LEN + 20;
const L4_V6: usize = ETHERNET_LEN + 40;
const L4_LEN: usize = 8;
/// Of the sequence number within the stamp.
const SEQUENCE_AT: usize = STAMP_LEN - 8;

const ICMP4: u8 = 1;
const ICMP6: u8 = 58;
const ECHO4_REPLY: u8 = 0;
const ECHO6_REPLY: u8 = 129;
/// In the first byte of a MAC address: it is a group's.
const GROUP: u8 = 1;

/// The headers on the stack; aligned, so that they are copied a word at a time.
#[repr(C, align(8))]
struct Headers([u8; TEMPLATE_LEN]);

#[xdp]
fn generate(ctx: XdpContext) -> u32 {
    let Some(template) = TEMPLATE.get(0) else { return xdp_action::XDP_ABORTED };
    if template.flags & Template::STOPPED != 0 {
        return xdp_action::XDP_DROP;
    }
    let sequence = take_number();
    // The loader gives at least one flow; the compiler can't know.
    let flow = FLOW_BASE + sequence.checked_rem(u64::from(template.flows)).unwrap_or(0) as u16;
    let mut headers = Headers(template.bytes);
    let udp = template.flags & Template::UDP != 0;
    let stored = if template.flags & Template::IPV6 != 0 {
        fill_in::<L4_V6>(&mut headers, template.sum, flow, sequence, udp);
        store::<{ L4_V6 + L4_LEN + STAMP_LEN }>(&ctx, &headers)
    } else {
        fill_in::<L4_V4>(&mut headers, template.sum, flow, sequence, udp);
        store::<{ L4_V4 + L4_LEN + STAMP_LEN }>(&ctx, &headers)
    };
    if !stored {
        tally(&ctx, Tallied::TooShort);
        return xdp_action::XDP_DROP;
    }
    tally(&ctx, Tallied::Generated);
    xdp_action::XDP_TX
}

/// Flow, sequence number and checksum of a frame whose UDP header or ICMP message begins at `L4`.
#[inline(always)]
fn fill_in<const L4: usize>(headers: &mut Headers, sum: u64, flow: u16, sequence: u64, udp: bool) {
    let bytes = &mut headers.0;
    let flow = flow.to_be_bytes();
    let [a, b, c, d, e, f, g, h] = sequence.to_be_bytes();
    let stamp = L4 + L4_LEN + SEQUENCE_AT;
    bytes[stamp..stamp + 8].copy_from_slice(&[a, b, c, d, e, f, g, h]);
    let mut sum = sum
        + u64::from(u16::from_ne_bytes(flow))
        + u64::from(u32::from_ne_bytes([a, b, c, d]))
        + u64::from(u32::from_ne_bytes([e, f, g, h]));
    if udp {
        bytes[L4..L4 + 2].copy_from_slice(&flow);
        // A sum of zero is sent as its other form: zero means that there is none (RFC 768).
        let checksum = match !fold(sum) {
            0 => u16::MAX,
            checksum => checksum,
        };
        bytes[L4 + 6..L4 + 8].copy_from_slice(&checksum.to_ne_bytes());
    } else {
        bytes[L4 + 4..L4 + 6].copy_from_slice(&flow);
        bytes[L4 + 6..L4 + 8].copy_from_slice(&[g, h]);
        sum += u64::from(u16::from_ne_bytes([g, h]));
        bytes[L4 + 2..L4 + 4].copy_from_slice(&(!fold(sum)).to_ne_bytes());
    }
}

/// A one's complement sum in 16 bits.
#[inline(always)]
fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + ((sum >> 16) & 0xffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

/// Writes the first `LEN` bytes of the headers to the front of the frame. Says whether they fit.
#[inline(always)]
fn store<const LEN: usize>(ctx: &XdpContext, headers: &Headers) -> bool {
    const { assert!(LEN <= TEMPLATE_LEN) };
    let from = headers.0.as_ptr().cast_mut().cast::<c_void>();
    // SAFETY: the context is the one the program was called with; `LEN` bytes are readable at `from`, and the helper
    // only reads them. It checks the frame's length itself.
    unsafe { bpf_xdp_store_bytes(ctx.ctx, 0, from, LEN as u32) == 0 }
}

/// The first `LEN` bytes of the frame, if it is so long.
#[inline(always)]
fn load<const LEN: usize>(ctx: &XdpContext) -> Option<[u8; LEN]> {
    // Not zeroed: that would be a loop over the bytes.
    let mut bytes = MaybeUninit::<[u8; LEN]>::uninit();
    // SAFETY: as in `store`; the helper writes `LEN` bytes, which are there.
    let loaded = unsafe { bpf_xdp_load_bytes(ctx.ctx, 0, bytes.as_mut_ptr().cast::<c_void>(), LEN as u32) };
    if loaded != 0 {
        return None;
    }
    // SAFETY: the helper has written all of it.
    Some(unsafe { bytes.assume_init() })
}

/// The number of the next frame of this CPU.
#[inline(always)]
fn take_number() -> u64 {
    let Some(next) = NEXT.get_ptr_mut(0) else { return 0 };
    // SAFETY: the pointer is to this CPU's slot, and XDP programs aren't interrupted by others on the same CPU.
    unsafe {
        let number = *next;
        *next = number + 1;
        number
    }
}

#[xdp]
fn replies(ctx: XdpContext) -> u32 {
    let Some(template) = TEMPLATE.get(0) else { return xdp_action::XDP_PASS };
    let came_back = if template.flags & Template::IPV6 != 0 {
        load::<{ L4_V6 + 1 }>(&ctx).and_then(|frame| came_back_v6(&frame, template))
    } else {
        load::<{ L4_V4 + 1 }>(&ctx).and_then(|frame| came_back_v4(&frame, template))
    };
    match came_back {
        Some(what) => {
            tally(&ctx, what);
            xdp_action::XDP_DROP
        }
        None => {
            tally(&ctx, Tallied::Passed);
            xdp_action::XDP_PASS
        }
    }
}

#[inline(always)]
fn came_back_v4(frame: &[u8; L4_V4 + 1], template: &Template) -> Option<Tallied> {
    if !same::<6>(frame, 0, &template.bytes, 6) || !same::<2>(frame, 12, &template.bytes, 12) {
        return None;
    }
    // A reflector leaves the IP addresses as they were.
    if same::<8>(frame, 26, &template.bytes, 26) {
        return Some(Tallied::Returned);
    }
    if !same::<4>(frame, 30, &template.bytes, 26) {
        return None;
    }
    let reply = frame[14] == 0x45 && frame[23] == ICMP4 && frame[L4_V4] == ECHO4_REPLY;
    Some(if reply { Tallied::Replies } else { Tallied::Returned })
}

#[inline(always)]
fn came_back_v6(frame: &[u8; L4_V6 + 1], template: &Template) -> Option<Tallied> {
    if !same::<6>(frame, 0, &template.bytes, 6) || !same::<2>(frame, 12, &template.bytes, 12) {
        return None;
    }
    if same::<32>(frame, 22, &template.bytes, 22) {
        return Some(Tallied::Returned);
    }
    if !same::<16>(frame, 38, &template.bytes, 22) {
        return None;
    }
    let reply = frame[20] == ICMP6 && frame[L4_V6] == ECHO6_REPLY;
    // Neighbour discovery is the kernel's.
    if frame[20] == ICMP6 && (133..=137).contains(&frame[L4_V6]) {
        return None;
    }
    Some(if reply { Tallied::Replies } else { Tallied::Returned })
}

/// Whether `N` bytes of the one at `a` are those of the other at `b`; both lie within.
#[inline(always)]
fn same<const N: usize>(one: &[u8], a: usize, other: &[u8], b: usize) -> bool {
    let mut differ = 0;
    let mut place = 0;
    while place < N {
        differ |= one[a + place] ^ other[b + place];
        place += 1;
    }
    differ == 0
}

#[xdp]
fn discard(ctx: XdpContext) -> u32 {
    tally(&ctx, Tallied::Discarded);
    xdp_action::XDP_DROP
}

#[xdp]
fn reflect(ctx: XdpContext) -> u32 {
    let start = ctx.data();
    let Some(template) = TEMPLATE.get(0) else { return xdp_action::XDP_PASS };
    if start + 2 * 6 > ctx.data_end() {
        return xdp_action::XDP_PASS;
    }
    let addresses = start as *mut [u8; 12];
    // SAFETY: 12 bytes from data on lie before data_end, as just compared and proved by the verifier.
    let [a, b, c, d, e, f, source @ ..] = unsafe { *addresses };
    let mut destination = [a, b, c, d, e, f];
    if source[0] & GROUP != 0 {
        tally(&ctx, Tallied::GroupSource);
        return xdp_action::XDP_DROP;
    }
    if destination[0] & GROUP != 0 {
        // Where the template has the port's own address.
        let [_, _, _, _, _, _, a, b, c, d, e, f, ..] = template.bytes;
        destination = [a, b, c, d, e, f];
    }
    let ([a, b, c, d, e, f], [g, h, i, j, k, l]) = (source, destination);
    // SAFETY: as above.
    unsafe { *addresses = [a, b, c, d, e, f, g, h, i, j, k, l] };
    tally(&ctx, Tallied::Reflected);
    xdp_action::XDP_TX
}

#[inline(always)]
fn tally(ctx: &XdpContext, what: Tallied) {
    if let Some(tally) = TALLIES.get_ptr_mut(what as u32) {
        // SAFETY: as in `take_number`.
        unsafe {
            (*tally).frames += 1;
            (*tally).bytes += (ctx.data_end() - ctx.data()) as u64;
        }
    }
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // Nothing here can panic; the verifier would refuse this loop.
    loop {}
}
