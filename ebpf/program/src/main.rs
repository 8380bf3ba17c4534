//! The XDP programs: judge a frame, count it, and hand it to the AF_XDP socket of its queue, to the kernel, or back to its
//! sender as an answer.
//!
//! ```text
//!   frame --> netdext --+-- no rules, plain frame --------> driver, kernel, sender
//!                       |-- no rules, any other frame --.
//!                       |                               v
//!                       |                        netdext_policy --> driver, kernel, sender
//!                       '-- rules --.                   ^
//!                                   v                   | UNDECIDED, not a plain frame
//!                             netdext_rules ------------+----> driver, kernel, nobody, sender
//! ```
//! Each arrow to another program is a tail call. There are several because the verifier follows every path through one:
//! those through the rules times those through the default policy would be more than it takes, and the program that most
//! frames need no more of than a few loads should be small. With `LOG_FRAMES` all of them end in `netdext_log`, which logs
//! what was decided and does it.
//!
//! What to do with a frame is decided by `netdext_abi::verdict`, the same code that user space and the tests use; here
//! are only the maps and the glue to the kernel.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod action;
mod answer;
mod frame;
mod log;
mod maps;

use action::{carry_out, pass_without_policy};
use aya_ebpf::{macros::xdp, programs::XdpContext};
use frame::{Frame, forget, keep_apart};
use maps::{PROGRAMS, Port, UNDECIDED};
use netdext_abi::{
    PortView as _,
    maps::{POLICY_PLACE, RULES_PLACE},
    plain::plain,
    verdict::{AtOnce, First, Undecided, at_once, by_rules},
};

/// The kernel takes the licence from here; `bpf_ktime_get_ns` was for GPL-compatible programs only before Linux 5.8.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// The program that is attached.
#[xdp]
#[inline(always)]
fn netdext(ctx: XdpContext) -> u32 {
    match at_once(&Port) {
        AtOnce::Policy(config) => match plain(&Frame::of(&ctx), &Port, &config) {
            Some(decision) => return carry_out(&ctx, decision),
            // SAFETY: no value that would have to be dropped is lost when the call doesn't return.
            None => unsafe { PROGRAMS.tail_call(&ctx, POLICY_PLACE) },
        },
        AtOnce::Decided(decision) => return carry_out(&ctx, decision),
        AtOnce::Rules => {
            // SAFETY: as above.
            unsafe { PROGRAMS.tail_call(&ctx, RULES_PLACE) };
            // The compiler would make one call of both, and the kernel has a direct jump only for a call that always goes
            // to the same place; any other one costs as much as judging a frame.
            keep_apart();
        }
    }
    // Still here: there is no such program.
    pass_without_policy(&ctx)
}

/// The default policy for any frame, and for one that the rules have not decided about.
#[xdp]
#[inline(always)]
fn netdext_policy(ctx: XdpContext) -> u32 {
    // The only element of an array is always there.
    let Some(told) = UNDECIDED.get_ptr_mut(0) else { return pass_without_policy(&ctx) };
    // SAFETY: the pointer is to this CPU's element, and XDP programs aren't interrupted by others on the same CPU.
    if !unsafe { (*told).is_waiting() } {
        // By way of the map, like what the rules leave, so that the verifier follows what comes next only once.
        // SAFETY: as above.
        unsafe { *told = Undecided::without_rules(Port.config()) };
    }
    // Read anew: the verifier would go on once for each thing that it has learnt of it.
    let told = forget(told as usize) as *mut Undecided;
    // SAFETY: as above.
    let undecided = unsafe { *told };
    // SAFETY: as above.
    unsafe { (*told).taken() };
    carry_out(&ctx, undecided.judge(&Frame::of(&ctx), &Port))
}

/// The steering rules.
#[xdp]
#[inline(always)]
fn netdext_rules(ctx: XdpContext) -> u32 {
    let decision = match by_rules(&Frame::of(&ctx), &Port) {
        First::Decided(decision) => decision,
        First::Undecided(undecided) => match undecided.plain(&Frame::of(&ctx), &Port) {
            Some(decision) => decision,
            None => {
                ask_policy(&ctx, undecided);
                // Still here: there is no such program.
                undecided.unjudged(&Port)
            }
        },
    };
    carry_out(&ctx, decision)
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

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // Nothing here can panic; the verifier would refuse this loop.
    loop {}
}
