//! The XDP programs of `--engine xdp`: traffic made, dropped and sent back without leaving the kernel.
//!
//! * `generate` is run by BPF_PROG_TEST_RUN over live frames. It writes the headers anew every time, because a frame
//!   comes round again with what its receiver has left in it.
//! * `replies` sits on the generator's own interface: counts what comes back, and drops it.
//! * `discard` and `reflect` are the sink and the reflector.
//! * `echo` answers echo requests with as little as it takes, for comparison.
//! * `redirect` hands every frame to an AF_XDP socket with as little as it takes, for comparison.
//! * `to_device` sends every frame out of another interface, for comparison.
//! * `pass` makes a veth poll what an XDP program at its other end sends.
#![no_std]
#![no_main]

use aya_ebpf::{
    bindings::xdp_action,
    macros::{map, xdp},
    maps::{Array, DevMap, PerCpuArray, XskMap},
    programs::XdpContext,
};
use netdext_abi::checksum::{fold, updated};
use netdext_abi::generate::{FLOW_BASE, STAMP_LEN, TEMPLATE_LEN, Tallied, Tally, Template};

#[map]
static TEMPLATE: Array<Template> = Array::with_max_entries(1, 0);
#[map]
static NEXT: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);
#[map]
static SOCKETS: XskMap = XskMap::with_max_entries(1, 0);
#[map]
static DEVICES: DevMap = DevMap::with_max_entries(1, 0);
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
const ECHO4_REQUEST: u8 = 8;
const ECHO6_REPLY: u8 = 129;
/// In the first byte of a MAC address: it is a group's.
const GROUP: u8 = 1;

#[xdp]
fn generate(ctx: XdpContext) -> u32 {
    let Some(template) = TEMPLATE.get(0) else { return xdp_action::XDP_ABORTED };
    if template.flags & Template::STOPPED != 0 {
        return xdp_action::XDP_DROP;
    }
    let sequence = take_number();
    // The loader gives at least one flow; the compiler can't know.
    let flow = FLOW_BASE + sequence.checked_rem(u64::from(template.flows)).unwrap_or(0) as u16;
    let udp = template.flags & Template::UDP != 0;
    let written = if template.flags & Template::IPV6 != 0 {
        write::<L4_V6, { L4_V6 + L4_LEN + STAMP_LEN }>(&ctx, template, flow, sequence, udp)
    } else {
        write::<L4_V4, { L4_V4 + L4_LEN + STAMP_LEN }>(&ctx, template, flow, sequence, udp)
    };
    if written.is_none() {
        tally(&ctx, Tallied::TooShort);
        return xdp_action::XDP_DROP;
    }
    tally(&ctx, Tallied::Generated);
    xdp_action::XDP_TX
}

/// Writes the headers and the stamp, `LEN` bytes, to the front of the frame, if they fit.
#[inline(always)]
fn write<const L4: usize, const LEN: usize>(
    ctx: &XdpContext,
    template: &Template,
    flow: u16,
    sequence: u64,
    udp: bool,
) -> Option<()> {
    const { assert!(LEN <= TEMPLATE_LEN) };
    let frame = front::<LEN>(ctx)?;
    copy(frame, &template.bytes);
    fill_in::<L4, LEN>(frame, template.sum, flow, sequence, udp);
    Some(())
}

/// Copies the first `LEN` bytes, an even number. A memcpy of bytes would be one of single bytes on this target.
#[inline(always)]
fn copy<const LEN: usize>(to: &mut [u8; LEN], from: &[u8; TEMPLATE_LEN]) {
    const { assert!(LEN.is_multiple_of(2)) };
    let words = LEN / 8;
    for at in 0..words {
        to[at * 8..at * 8 + 8].copy_from_slice(&array::<8>(from, at * 8));
    }
    for at in 0..(LEN % 8) / 2 {
        let at = words * 8 + at * 2;
        to[at..at + 2].copy_from_slice(&array::<2>(from, at));
    }
}

/// Flow, sequence number and checksum of a frame whose UDP header or ICMP message begins at `L4`.
#[inline(always)]
fn fill_in<const L4: usize, const LEN: usize>(
    bytes: &mut [u8; LEN],
    sum: u64,
    flow: u16,
    sequence: u64,
    udp: bool,
) {
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

/// The first `LEN` bytes of the frame, if it is so long.
#[inline(always)]
fn front<const LEN: usize>(ctx: &XdpContext) -> Option<&mut [u8; LEN]> {
    let start = ctx.data();
    if start + LEN > ctx.data_end() {
        return None;
    }
    // SAFETY: `LEN` bytes from data on lie before data_end, as just compared and proved by the verifier, and may be
    // written; nobody else touches the frame while the program runs. No caller holds two of these. Bytes need no alignment.
    Some(unsafe { &mut *(start as *mut [u8; LEN]) })
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
        front::<{ L4_V6 + 1 }>(&ctx).and_then(|frame| came_back_v6(frame, template))
    } else {
        front::<{ L4_V4 + 1 }>(&ctx).and_then(|frame| came_back_v4(frame, template))
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

/// Whether `N` bytes, an even number, of the one at `a` are those of the other at `b`; both lie within. A comparison of
/// slices would be a function that goes from byte to byte.
#[inline(always)]
fn same<const N: usize>(one: &[u8], a: usize, other: &[u8], b: usize) -> bool {
    const { assert!(N.is_multiple_of(2)) };
    let word = |bytes: &[u8], at: usize| u64::from(u32::from_ne_bytes(array(bytes, at)));
    let pair = |bytes: &[u8], at: usize| u64::from(u16::from_ne_bytes(array(bytes, at)));
    let mut differ = 0;
    for at in 0..N / 4 {
        differ |= word(one, a + at * 4) ^ word(other, b + at * 4);
    }
    if N % 4 == 2 {
        differ |= pair(one, a + N - 2) ^ pair(other, b + N - 2);
    }
    differ == 0
}

/// The `N` bytes at `at`, which lie within.
#[inline(always)]
fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&bytes[at..at + N]);
    array
}

#[xdp]
fn discard(ctx: XdpContext) -> u32 {
    tally(&ctx, Tallied::Discarded);
    xdp_action::XDP_DROP
}

#[xdp]
fn reflect(ctx: XdpContext) -> u32 {
    let Some(template) = TEMPLATE.get(0) else { return xdp_action::XDP_PASS };
    let Some(addresses) = front::<12>(&ctx) else { return xdp_action::XDP_PASS };
    let [a, b, c, d, e, f, source @ ..] = *addresses;
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
    *addresses = [a, b, c, d, e, f, g, h, i, j, k, l];
    tally(&ctx, Tallied::Reflected);
    xdp_action::XDP_TX
}

/// The least that answers an echo request; what is none, it leaves to the kernel. Nothing is counted.
#[xdp]
fn echo(ctx: XdpContext) -> u32 {
    let Some(frame) = front::<{ L4_V4 + L4_LEN }>(&ctx) else { return xdp_action::XDP_PASS };
    let request = frame[12..15] == [0x08, 0x00, 0x45] && frame[23] == ICMP4 && frame[L4_V4] == ECHO4_REQUEST;
    if !request {
        return xdp_action::XDP_PASS;
    }
    swap::<6>(frame, 0, 6);
    swap::<4>(frame, 26, 30);
    frame[L4_V4] = ECHO4_REPLY;
    let [high, low] = array(frame, L4_V4 + 2);
    let checksum =
        updated(u16::from_be_bytes([high, low]), u16::from(ECHO4_REQUEST) << 8, u16::from(ECHO4_REPLY) << 8);
    frame[L4_V4 + 2..L4_V4 + 4].copy_from_slice(&checksum.to_be_bytes());
    xdp_action::XDP_TX
}

/// Exchanges `N` bytes at `a` with those at `b`; both lie within.
#[inline(always)]
fn swap<const N: usize>(bytes: &mut [u8], a: usize, b: usize) {
    let (one, other) = (array::<N>(bytes, a), array::<N>(bytes, b));
    bytes[a..a + N].copy_from_slice(&other);
    bytes[b..b + N].copy_from_slice(&one);
}

/// The least that hands a frame to the AF_XDP socket of its queue, to compare with.
#[xdp]
fn redirect(ctx: XdpContext) -> u32 {
    match SOCKETS.redirect(ctx.rx_queue_index(), u64::from(xdp_action::XDP_PASS)) {
        Ok(action) | Err(action) => action,
    }
}

/// The least that sends a frame out of another interface, to compare with.
#[xdp]
fn to_device(_ctx: XdpContext) -> u32 {
    match DEVICES.redirect(0, u64::from(xdp_action::XDP_ABORTED)) {
        Ok(action) | Err(action) => action,
    }
}

/// What it is for is that it is there.
#[xdp]
fn pass(_ctx: XdpContext) -> u32 {
    xdp_action::XDP_PASS
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
