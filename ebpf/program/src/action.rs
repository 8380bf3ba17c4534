//! What is done with a frame: counted, then handed to the AF_XDP socket of its queue, to the kernel, back to its sender, or
//! to nobody.

use aya_ebpf::{
    bindings::xdp_action,
    helpers::{bpf_ktime_get_ns, bpf_xdp_adjust_meta},
    programs::XdpContext,
};
use netdext_abi::{
    Counter, Decision, PortView as _, RX_META_LEN, RX_META_MAGIC, Reply, RxMeta, Verdict, maps::LOG_PLACE,
};

use crate::{
    answer::{Outcome, answer},
    maps::{COUNTERS, LOG_FRAMES, LOGGED, PROGRAMS, Port, XSKS},
};

/// What is done with a frame.
#[derive(Clone, Copy)]
#[repr(u32)]
pub enum Action {
    Redirect = 0,
    Pass = 1,
    Transmit = 2,
    Drop = 3,
}

impl Action {
    /// The action of a number that came by way of a map.
    #[inline(always)]
    pub const fn of_number(number: u32) -> Self {
        match number {
            0 => Self::Redirect,
            2 => Self::Transmit,
            3 => Self::Drop,
            _ => Self::Pass,
        }
    }
}

/// Does what was decided. The program ends with what this returns.
#[inline(always)]
pub fn carry_out(ctx: &XdpContext, decision: Decision) -> u32 {
    let Decision { action, reason } = decision;
    match action {
        Verdict::Answer(reply) => send_back(ctx, &reply),
        Verdict::Driver => act(ctx, Action::Redirect, reason),
        Verdict::Kernel => act(ctx, Action::Pass, reason),
        Verdict::Drop => act(ctx, Action::Drop, reason),
    }
}

/// Passes a frame to the kernel because a program that should be called is not there.
#[inline(always)]
pub fn pass_without_policy(ctx: &XdpContext) -> u32 {
    act(ctx, Action::Pass, Counter::KernelNoPolicy)
}

#[inline(always)]
fn send_back(ctx: &XdpContext, reply: &Reply) -> u32 {
    match answer(ctx, reply) {
        Outcome::Answered => act(ctx, Action::Transmit, reply.answered()),
        Outcome::Limited => act(ctx, Action::Drop, Counter::AnswerRateLimited),
        Outcome::NoRoom => act(ctx, Action::Redirect, reply.left_to_driver()),
    }
}

#[inline(always)]
fn act(ctx: &XdpContext, action: Action, reason: Counter) -> u32 {
    let nth = count(reason);
    if LOG_FRAMES.load() != 0 {
        // By another program: here the verifier would follow each way that led to a decision through it.
        if let Some(logged) = LOGGED.get_ptr_mut(0) {
            // SAFETY: the pointer is to this CPU's element, and the other program, which reads it, comes next on this CPU.
            unsafe { *logged = [action as u32, reason as u32] };
            // SAFETY: no value that would have to be dropped is lost when the call doesn't return.
            unsafe { PROGRAMS.tail_call(ctx, LOG_PLACE) };
        }
        // Still here: there is no such program.
    }
    finish(ctx, action, reason, nth)
}

/// The last step of all.
#[inline(always)]
pub fn finish(ctx: &XdpContext, action: Action, reason: Counter, nth: u64) -> u32 {
    match action {
        Action::Redirect => to_driver(ctx, reason, nth),
        Action::Pass => xdp_action::XDP_PASS,
        Action::Transmit => xdp_action::XDP_TX,
        Action::Drop => xdp_action::XDP_DROP,
    }
}

#[inline(always)]
fn to_driver(ctx: &XdpContext, reason: Counter, nth: u64) -> u32 {
    // The lower bits of the flags are what the helper returns when the queue has no socket.
    match XSKS.redirect(ctx.rx_queue_index(), u64::from(xdp_action::XDP_PASS)) {
        Ok(redirected) => {
            if Port.config().stamps(reason, nth) {
                stamp(ctx);
            }
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

/// Adds one, and returns how many there are on this CPU now.
#[inline(always)]
fn count(counter: Counter) -> u64 {
    // Every counter is there.
    let Some(value) = COUNTERS.get_ptr_mut(counter.index()) else { return 0 };
    // SAFETY: the pointer is to this CPU's slot, and XDP programs aren't interrupted by others on the same CPU.
    unsafe {
        *value += 1;
        *value
    }
}
