//! The XDP programs: judge a frame, count it, and hand it to the AF_XDP socket of its queue, to the kernel, or back to its
//! sender as an answer.
//!
//! ```text
//!   frame --> netdext --+-- no rules: default policy -------------> driver, kernel, sender
//!                       |                 ^
//!                       '-- tail call     | UNDECIDED, tail call
//!                                v        |
//!                           netdext_rules +-- decided ------------> driver, kernel, nobody
//! ```
//! There are two because the verifier follows every path: those through the rules times those through the default policy
//! would be more than it takes. Without rules, the common case, only the first one runs.
//!
//! What to do with a frame is decided by `netdext_abi::verdict`, the same code that user space and the tests use; here
//! are only the maps and the glue to the kernel.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod answer;
mod frame;

use answer::{Outcome, answer};
use aya_ebpf::{
    Global,
    bindings::{BPF_F_NO_PREALLOC, xdp_action},
    helpers::{bpf_ktime_get_ns, bpf_xdp_adjust_meta},
    macros::{map, xdp},
    maps::{
        Array, HashMap, PerCpuArray, ProgramArray, XskMap,
        lpm_trie::{Key as TrieKey, LpmTrie},
    },
    programs::XdpContext,
};
use aya_log_ebpf::info;
use frame::{Frame, forget};
use netdext_abi::{
    Config, Counter, Decision, PortView, RX_META_LEN, RX_META_MAGIC, Reply, RxMeta, Verdict,
    counter::{COUNTER_COUNT, PADDED_NAME_LEN, PADDED_NAMES},
    maps::{DEFAULT_ADDRESSES, DEFAULT_PREFIXES, DEFAULT_QUEUES, POLICY_PLACE, RULES_PLACE},
    near::{NEAR_SLOTS, Near, near_slot},
    rules::{HIT_SLOTS, Side, TABLES, Table, Tries, Winners},
    verdict::{First, Undecided, at_once, by_rules},
};

#[map]
static XSKS: XskMap = XskMap::with_max_entries(DEFAULT_QUEUES, 0);
#[map]
static CONFIG: Array<Config> = Array::with_max_entries(1, 0);
// Without preallocation: room for many addresses costs only the buckets, and a removed element isn't reused while read.
#[map]
static OWNED_V4: HashMap<[u8; 4], u32> = HashMap::with_max_entries(DEFAULT_ADDRESSES, BPF_F_NO_PREALLOC);
#[map]
static OWNED_V6: HashMap<[u8; 16], u32> = HashMap::with_max_entries(DEFAULT_ADDRESSES, BPF_F_NO_PREALLOC);
#[map]
static NEAR_V4: Array<Near> = Array::with_max_entries(NEAR_SLOTS, 0);
#[map]
static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(COUNTER_COUNT as u32, 0);
#[map]
static RULES: Array<Table> = Array::with_max_entries(TABLES, 0);
#[map]
static DESTINATION_V4: LpmTrie<[u8; 4], Winners> = LpmTrie::with_max_entries(DEFAULT_PREFIXES, 0);
#[map]
static SOURCE_V4: LpmTrie<[u8; 4], Winners> = LpmTrie::with_max_entries(DEFAULT_PREFIXES, 0);
#[map]
static DESTINATION_V6: LpmTrie<[u32; 4], Winners> = LpmTrie::with_max_entries(DEFAULT_PREFIXES, 0);
#[map]
static SOURCE_V6: LpmTrie<[u32; 4], Winners> = LpmTrie::with_max_entries(DEFAULT_PREFIXES, 0);
#[map]
static RULE_HITS: PerCpuArray<u64> = PerCpuArray::with_max_entries(HIT_SLOTS, 0);
#[map]
static PROGRAMS: ProgramArray = ProgramArray::with_max_entries(2, 0);
#[map]
static UNDECIDED: PerCpuArray<Undecided> = PerCpuArray::with_max_entries(1, 0);

/// Set by the loader. The map behind it is frozen before the program is loaded, so the verifier knows the value and
/// removes what it makes unreachable.
#[unsafe(no_mangle)]
static LOG_FRAMES: Global<u8> = Global::new(0);

/// Unmangled, because a mangled name depends on where the sources lie on the building machine.
#[unsafe(no_mangle)]
static REASONS: [[u8; PADDED_NAME_LEN]; COUNTER_COUNT] = PADDED_NAMES;

/// The kernel takes the licence from here; `bpf_ktime_get_ns` was for GPL-compatible programs only before Linux 5.8.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// The port as the maps know it.
struct Port;

impl PortView for Port {
    #[inline(always)]
    fn config(&self) -> Config {
        // The only element of an array is always there.
        CONFIG.get(0).copied().unwrap_or_default()
    }

    #[inline(always)]
    fn v4(&self, address: [u8; 4]) -> u32 {
        // Every slot is there.
        if let Some(uses) = NEAR_V4.get(near_slot(address)).and_then(|near| near.uses(address)) {
            return uses;
        }
        // SAFETY: elements are written whole, and stay readable until the program returns.
        OWNED_V4.get_ptr(address).map_or(0, |uses| unsafe { *uses })
    }

    #[inline(always)]
    fn owns_v6(&self, address: [u8; 16]) -> bool {
        OWNED_V6.get_ptr(address).is_some()
    }

    type Tries = Prefixes;

    #[inline(always)]
    fn rules(&self, table: u8) -> Option<(&Table, &Prefixes)> {
        Some((RULES.get(u32::from(table.checked_sub(1)?))?, &Prefixes))
    }

    #[inline(always)]
    fn hit(&self, slot: u32) {
        // A rule without a slot has a number that no element has.
        if let Some(value) = RULE_HITS.get_ptr_mut(slot) {
            // SAFETY: as in `count`.
            unsafe { *value += 1 };
        }
    }
}

/// The rules by prefix alone.
struct Prefixes;

impl Tries for Prefixes {
    #[inline(always)]
    fn longest_v4(&self, side: Side, address: [u8; 4]) -> Option<&Winners> {
        let key = TrieKey::new(32, address);
        match side {
            Side::Destination => DESTINATION_V4.get(&key),
            Side::Source => SOURCE_V4.get(&key),
        }
    }

    #[inline(always)]
    fn longest_v6(&self, side: Side, address: [u8; 16]) -> Option<&Winners> {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = address;
        // One by one: the key lies on the stack, 4 bytes behind a multiple of eight, and the stack is the one place where
        // the verifier wants eight bytes to be aligned.
        let words = [[a, b, c, d], [e, f, g, h], [i, j, k, l], [m, n, o, p]];
        let key = TrieKey::new(128, words.map(|word| forget(u32::from_ne_bytes(word) as usize) as u32));
        match side {
            Side::Destination => DESTINATION_V6.get(&key),
            Side::Source => SOURCE_V6.get(&key),
        }
    }
}

/// What is done with a frame.
#[derive(Clone, Copy)]
enum Action {
    Redirect,
    Pass,
    Transmit,
    Drop,
}

/// The default policy, for a frame that no rule decides about.
#[xdp]
#[inline(always)]
fn netdext(ctx: XdpContext) -> u32 {
    let (action, reason) = by_policy(&ctx);
    carry_out(&ctx, action, reason)
}

/// The steering rules.
#[xdp]
#[inline(always)]
fn netdext_rules(ctx: XdpContext) -> u32 {
    let decision = match by_rules(&Frame::of(&ctx), &Port) {
        First::Decided(decision) => decision,
        First::Undecided(undecided) => {
            ask_policy(&ctx, undecided);
            // Still here: there is no such program.
            undecided.unjudged(&Port)
        }
    };
    let (action, reason) = by_decision(decision);
    carry_out(&ctx, action, reason)
}

#[inline(always)]
fn by_policy(ctx: &XdpContext) -> (Action, Counter) {
    // The only element of an array is always there.
    let Some(told) = UNDECIDED.get_ptr_mut(0) else { return (Action::Pass, Counter::KernelNoPolicy) };
    // SAFETY: the pointer is to this CPU's element, and XDP programs aren't interrupted by others on the same CPU.
    if !unsafe { (*told).is_waiting() } {
        match at_once(&Port) {
            // By way of the map, like what the rules leave, so that the verifier follows what comes next only once.
            // SAFETY: as above.
            Some(First::Undecided(undecided)) => unsafe { *told = undecided },
            Some(First::Decided(decision)) => return by_decision(decision),
            None => {
                // SAFETY: no value that would have to be dropped is lost when the call doesn't return.
                unsafe { PROGRAMS.tail_call(ctx, RULES_PLACE) };
                // Still here: there is no such program.
                return (Action::Pass, Counter::KernelNoPolicy);
            }
        }
    }
    // SAFETY: as above.
    if let Some(reply) = unsafe { (*told).quick(&Frame::of(ctx), &Port) } {
        // SAFETY: as above.
        unsafe { (*told).taken() };
        return send_back(ctx, &reply);
    }
    // Read anew: the verifier would go on once for each thing that it has learnt of it.
    let told = forget(told as usize) as *mut Undecided;
    // SAFETY: as above.
    let undecided = unsafe { *told };
    // SAFETY: as above.
    unsafe { (*told).taken() };
    match undecided.judge(&Frame::of(ctx), &Port) {
        Decision { action: Verdict::Answer(reply), .. } => send_back(ctx, &reply),
        decision => by_decision(decision),
    }
}

#[inline(always)]
fn send_back(ctx: &XdpContext, reply: &Reply) -> (Action, Counter) {
    match answer(ctx, reply) {
        Outcome::Answered => (Action::Transmit, reply.answered()),
        Outcome::Limited => (Action::Drop, Counter::AnswerRateLimited),
        Outcome::NoRoom => (Action::Redirect, reply.left_to_driver()),
    }
}

/// What needs no change of the frame.
#[inline(always)]
fn by_decision(Decision { action, reason }: Decision) -> (Action, Counter) {
    let action = match action {
        Verdict::Driver => Action::Redirect,
        Verdict::Drop => Action::Drop,
        // Only the default policy answers, and not by this.
        Verdict::Kernel | Verdict::Answer(_) => Action::Pass,
    };
    (action, reason)
}

/// Goes on with the default policy. Returns only if it can't be called.
#[inline(always)]
fn ask_policy(ctx: &XdpContext, undecided: Undecided) {
    let Some(told) = UNDECIDED.get_ptr_mut(0) else { return };
    // SAFETY: the pointer is to this CPU's element, and the other program, which reads it, comes next on this CPU.
    unsafe { *told = undecided };
    // SAFETY: no value that would have to be dropped is lost when the call doesn't return.
    unsafe { PROGRAMS.tail_call(ctx, POLICY_PLACE) };
    // SAFETY: as above. It isn't for the next frame.
    unsafe { (*told).taken() };
}

#[inline(always)]
fn carry_out(ctx: &XdpContext, action: Action, reason: Counter) -> u32 {
    count(reason);
    if LOG_FRAMES.load() != 0 {
        log(ctx, action, reason);
    }
    match action {
        Action::Redirect => to_driver(ctx),
        Action::Pass => xdp_action::XDP_PASS,
        Action::Transmit => xdp_action::XDP_TX,
        Action::Drop => xdp_action::XDP_DROP,
    }
}

#[inline(always)]
fn to_driver(ctx: &XdpContext) -> u32 {
    // The lower bits of the flags are what the helper returns when the queue has no socket.
    match XSKS.redirect(ctx.rx_queue_index(), u64::from(xdp_action::XDP_PASS)) {
        Ok(redirected) => {
            stamp(ctx);
            redirected
        }
        Err(passed) => {
            count(Counter::NoSocket);
            passed
        }
    }
}

/// Puts an [`RxMeta`] before the frame. The redirect is carried out only after the program has returned, so the frame
/// may still change here, and one that stays with the kernel is left without metadata, which would hinder GRO.
#[inline(always)]
fn stamp(ctx: &XdpContext) {
    // SAFETY: the context is the one the program was called with.
    let adjusted = unsafe { bpf_xdp_adjust_meta(ctx.ctx, -(RX_META_LEN as i32)) };
    let meta = ctx.metadata();
    if adjusted != 0 || meta + RX_META_LEN > ctx.data() {
        count(Counter::NoTimestamp);
        return;
    }
    // SAFETY: the helper takes no pointer.
    let ktime_ns = unsafe { bpf_ktime_get_ns() };
    // SAFETY: data_meta .. data holds RX_META_LEN writable bytes, as just compared and proved by the verifier; the
    // kernel only moves data_meta by multiples of four, hence unaligned.
    unsafe { (meta as *mut RxMeta).write_unaligned(RxMeta { magic: RX_META_MAGIC, reserved: 0, ktime_ns }) };
}

#[inline(always)]
fn count(counter: Counter) {
    if let Some(value) = COUNTERS.get_ptr_mut(counter.index()) {
        // SAFETY: the pointer is to this CPU's slot, and XDP programs aren't interrupted by others on the same CPU.
        unsafe { *value += 1 };
    }
}

/// One record of aya-log for a decision, formatted in user space.
#[inline(always)]
fn log(ctx: &XdpContext, action: Action, reason: Counter) {
    let to = match action {
        Action::Redirect => "driver",
        Action::Pass => "kernel",
        Action::Transmit => "sender",
        Action::Drop => "nobody",
    };
    let Some(name) = REASONS.get(reason as usize) else { return };
    // SAFETY: the names are ASCII.
    let name = unsafe { core::str::from_utf8_unchecked(name) };
    info!(ctx, target: "netdext::xdp", "queue {} to {}: {}", ctx.rx_queue_index(), to, name);
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // Nothing here can panic; the verifier would refuse this loop.
    loop {}
}
