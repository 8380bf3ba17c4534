//! The log of what the programs decide, a record a frame.

use aya_ebpf::{macros::xdp, programs::XdpContext};
use aya_log_ebpf::info;
use netdext_abi::Counter;

use crate::{
    action::{Action, finish},
    maps::{LOGGED, REASONS},
};

/// Logs what another program has decided, and does it.
#[xdp]
#[inline(always)]
fn netdext_log(ctx: XdpContext) -> u32 {
    // SAFETY: the pointer is to this CPU's element, which the program that called this one has just written.
    let [action, reason] = LOGGED.get_ptr(0).map_or([Action::Pass as u32, 0], |logged| unsafe { *logged });
    let action = Action::of_number(action);
    let to = match action {
        Action::Redirect => "driver",
        Action::Pass => "kernel",
        Action::Transmit => "sender",
        Action::Drop => "nobody",
    };
    if let Some(name) = REASONS.get(reason as usize) {
        // SAFETY: the names are ASCII.
        let name = unsafe { core::str::from_utf8_unchecked(name) };
        info!(&ctx, target: "netdext::xdp", "queue {} to {}: {}", ctx.rx_queue_index(), to, name);
    }
    // Which frames get a timestamp goes by the reason, which is but a number here: with this one all get it that could.
    finish(&ctx, action, Counter::DriverSteerAll, 1)
}
