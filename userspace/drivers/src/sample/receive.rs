//! The receive handler: what is done with each packet from the stack.

use std::net::IpAddr;

use netdext_abi::parse;
use tracing::{Level, debug, enabled, info};

use super::log::{Line, LineLimit};
use super::shared::Access;
use crate::neighbors::Neighbors;
use crate::outcome::Handled;
use crate::station::{Responder, Station};
use netdext::dispatch::Timestamp;
use netdext::driver::{Cx, PortId};
use netdext::packet::Packet;
use netdext::proto::echo::EchoReply;
use netdext::proto::{DisplayMac, Local, MacAddr};

/// One instance's half of the receive path.
#[derive(Debug)]
pub(super) struct Receiver {
    pub(super) responder: Responder,
    lines: LineLimit,
}

impl Receiver {
    /// A receiver that answers requests for its addresses, or leaves them unanswered.
    pub(super) fn new(answer: bool) -> Self {
        Self { responder: Responder::new(answer), lines: LineLimit::default() }
    }

    /// Completes one packet: answers it in place, makes use of it, or returns it to the pool.
    pub(super) fn complete(&mut self, cx: &mut Cx<'_>, mut packet: Packet, access: &mut Access<'_>) {
        let parsed = parse(packet.data());
        if let Ok(parsed) = &parsed {
            // Cannot fail: the link header was found within the data.
            let _ = packet.set_link_header_len(parsed.link_header_len.into());
        }
        if enabled!(Level::DEBUG) {
            self.log(cx, &packet);
        }
        self.responder.complete(cx, packet, &parsed, access);
    }

    /// Logs where the packet lies, as far as the line limit allows.
    #[cold]
    fn log(&mut self, cx: &Cx<'_>, packet: &Packet) {
        match self.lines.ask(cx.now) {
            Line::LeaveOut => return,
            Line::WriteAfter(left_out) => debug!(left_out, "packets not logged"),
            Line::Write => {}
        }
        debug!(
            queue = cx.device(PortId::FIRST).queue,
            address = ?packet.data().as_ptr(),
            data_offset = packet.data_offset(),
            data_len = packet.data_len(),
            link_header_len = packet.link_header_len(),
            "packet from the stack"
        );
    }

    /// Says how many packets were left out of the log since that was last said.
    pub(super) fn finish_log(&mut self) {
        let left_out = self.lines.take_left_out();
        if left_out > 0 {
            debug!(left_out, "packets not logged");
        }
    }
}

impl Station for Access<'_> {
    fn neighbors(&mut self) -> &mut Neighbors {
        &mut self.state().neighbors
    }

    fn reply(&mut self, reply: &EchoReply<'_>, _hop_limit: u8, at: Timestamp) -> Option<Handled> {
        self.state().injector.as_mut().and_then(|injector| injector.reply(reply, at))
    }

    /// It becomes the injector's target, if that still looks for one. The injector sends without VLAN tags, so who
    /// is behind one would not be reached.
    fn asked(&mut self, cx: &Cx<'_>, local: &Local, address: IpAddr, mac: MacAddr) {
        let shared = self.shared();
        if !shared.is_learning() {
            return;
        }
        let state = self.state();
        let Some(injector) = &mut state.injector else { return };
        if injector.heard(address, local, cx.now) {
            state.neighbors.learn(address, mac, cx.now);
            info!(%address, mac = %DisplayMac(mac), "the injector's target is this neighbour that spoke to us");
        }
        // Another instance may have been faster, or the earlier target may speak again.
        shared.set_learning(injector.looks_for_target());
    }
}
