//! Sends an answer back: limit, length, bytes. What to answer is decided by `netdext_abi::answer`.

use aya_ebpf::{
    helpers::{bpf_ktime_get_ns, bpf_xdp_adjust_tail},
    macros::map,
    maps::{Array, LruHashMap},
    programs::XdpContext,
};
use netdext_abi::{Reply, answer::admit, maps::LIMITED_SOURCES};

use crate::frame::Frame;

#[map]
static ANSWER_INTERVAL: Array<u64> = Array::with_max_entries(1, 0);
#[map]
static ANSWER_SOURCES: LruHashMap<[u64; 2], u64> = LruHashMap::with_max_entries(LIMITED_SOURCES, 0);

/// What became of a request.
pub enum Outcome {
    /// The frame is the reply now.
    Answered,
    /// The source is over its limit.
    Limited,
    /// The device has no room for the reply behind the request, which is as it was.
    NoRoom,
}

/// Turns the request into its reply.
#[inline(always)]
pub fn answer(ctx: &XdpContext, reply: &Reply) -> Outcome {
    if is_over_limit(ctx, reply) {
        return Outcome::Limited;
    }
    let len = Frame::of(ctx).len();
    if len != reply.len() {
        let delta = reply.len() as i32 - len as i32;
        // SAFETY: the context is the one that the program was called with, and no `Frame` of before is used again.
        if unsafe { bpf_xdp_adjust_tail(ctx.ctx, delta) } != 0 {
            return Outcome::NoRoom;
        }
    }
    match reply.write(&mut Frame::of(ctx)) {
        Some(()) => Outcome::Answered,
        // Not after its length was set; the verifier wants to see what happens.
        None => Outcome::NoRoom,
    }
}

#[inline(always)]
fn is_over_limit(ctx: &XdpContext, reply: &Reply) -> bool {
    // The only element of an array is always there.
    let interval = ANSWER_INTERVAL.get(0).copied().unwrap_or_default();
    if interval == 0 {
        return false;
    }
    let Some(source) = reply.source(&Frame::of(ctx)) else { return false };
    // SAFETY: the helper takes no pointer.
    let now = unsafe { bpf_ktime_get_ns() };
    match ANSWER_SOURCES.get_ptr_mut(source) {
        Some(due) => {
            // SAFETY: an element of the map, which stays readable and writable until the program returns. Another CPU
            // may do the same at once: then one of their answers isn't counted.
            match admit(unsafe { *due }, now, interval) {
                // SAFETY: as above; one aligned word.
                Some(next) => unsafe { *due = next },
                None => return true,
            }
            false
        }
        None => {
            // A map that can take no more sources at this moment limits nobody.
            let _ = admit(0, now, interval).map(|next| ANSWER_SOURCES.insert(source, next, 0));
            false
        }
    }
}
