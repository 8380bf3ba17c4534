//! The receive handler: what is done with each packet from the stack.

use std::net::IpAddr;

use netdext_abi::{Kind, Parsed, parse};
use tracing::{Level, debug, enabled, info};

use super::log::{Line, LineLimit};
use super::outcome::{Handled, Outcome, Outcomes, Unsent};
use super::shared::Access;
use netdext::dispatch::Timestamp;
use netdext::driver::{Cx, PortId};
use netdext::packet::Packet;
use netdext::proto::{DisplayMac, Local, MacAddr, Refusal, arp, echo, link_source, ndp};
use netdext::queue::RejectReason;

/// One instance's half of the receive path: its addresses, its counts, its log lines.
#[derive(Debug)]
pub(super) struct Receiver {
    pub(super) local: Local,
    pub(super) outcomes: Outcomes,
    answer: bool,
    lines: LineLimit,
}

impl Receiver {
    /// A receiver that answers requests for its addresses, or leaves them unanswered.
    pub(super) fn new(answer: bool) -> Self {
        Self { local: Local::default(), outcomes: Outcomes::default(), answer, lines: LineLimit::default() }
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
        let outcome = match &parsed {
            Ok(parsed) => self.dispatch(cx, packet, parsed, access).unwrap_or_else(Outcome::Refused),
            Err(malformed) => Outcome::Malformed(*malformed),
        };
        self.outcomes.count(outcome);
    }

    fn dispatch(
        &self,
        cx: &mut Cx<'_>,
        packet: Packet,
        parsed: &Parsed,
        access: &mut Access<'_>,
    ) -> Result<Outcome, Refusal> {
        match parsed.kind {
            Kind::Echo4Request => self.echo_request(cx, packet, parsed, access, Handled::Echo4Answered),
            Kind::Echo6Request => self.echo_request(cx, packet, parsed, access, Handled::Echo6Answered),
            Kind::Echo4Reply | Kind::Echo6Reply => self.echo_reply(cx, &packet, parsed, access),
            Kind::ArpRequest => self.arp_request(cx, packet, parsed, access),
            Kind::ArpReply => self.arp_reply(cx, &packet, parsed, access),
            Kind::NeighborSolicitation => self.solicitation(cx, packet, parsed, access),
            Kind::NeighborAdvertisement => self.advertisement(cx, &packet, parsed, access),
            Kind::Other if parsed.fragment => Err(Refusal::Fragment),
            Kind::Other => Ok(Outcome::Handled(Handled::RecycledOther)),
        }
    }

    fn echo_request(
        &self,
        cx: &mut Cx<'_>,
        mut packet: Packet,
        parsed: &Parsed,
        access: &mut Access<'_>,
        answered: Handled,
    ) -> Result<Outcome, Refusal> {
        if !self.answer {
            return Ok(Outcome::Handled(Handled::RecycledRequest));
        }
        let requester = echo::source(packet.data(), parsed);
        let requester_mac = link_source(packet.data());
        let len = echo::answer(packet.data_mut(), parsed, &self.local, cx.now)?;
        self.learn_target(cx, parsed, access, requester, requester_mac);
        Ok(submit(cx, packet, len, answered))
    }

    fn echo_reply(
        &self,
        cx: &Cx<'_>,
        packet: &Packet,
        parsed: &Parsed,
        access: &mut Access<'_>,
    ) -> Result<Outcome, Refusal> {
        let reply = echo::read_reply(packet.data(), parsed, &self.local)?;
        // The kernel's timestamp leaves out how long the packet waited for this driver.
        let at = packet.rx_timestamp_ns().map_or(cx.now, Timestamp::from_nanos);
        let matched = access.state().injector.as_mut().and_then(|injector| injector.reply(&reply, at));
        Ok(Outcome::Handled(matched.unwrap_or(Handled::RecycledEchoReply)))
    }

    fn arp_request(
        &self,
        cx: &mut Cx<'_>,
        mut packet: Packet,
        parsed: &Parsed,
        access: &mut Access<'_>,
    ) -> Result<Outcome, Refusal> {
        let request = arp::read(packet.data(), parsed, &self.local)?;
        let is_probe = request.sender.is_unspecified();
        if !is_probe {
            // RFC 826: the sender is merged first, whoever is asked for.
            hear(cx, parsed, access, request.sender.into(), request.sender_mac);
        }
        if !self.answer {
            return Ok(Outcome::Handled(Handled::RecycledRequest));
        }
        let len = arp::answer(packet.data_mut(), parsed, &request, &self.local)?;
        if !is_probe {
            self.learn_target(cx, parsed, access, request.sender.into(), request.sender_mac);
        }
        Ok(submit(cx, packet, len, Handled::ArpAnswered))
    }

    fn arp_reply(
        &self,
        cx: &Cx<'_>,
        packet: &Packet,
        parsed: &Parsed,
        access: &mut Access<'_>,
    ) -> Result<Outcome, Refusal> {
        let reply = arp::read(packet.data(), parsed, &self.local)?;
        // Sent to us it is an answer; sent to everybody it announces a change (RFC 5227, 3).
        let solicited = self.local.owns4(reply.target.octets());
        let (sender, mac) = (IpAddr::from(reply.sender), Some(reply.sender_mac));
        Ok(advertised(cx, parsed, access, sender, mac, solicited, true))
    }

    fn solicitation(
        &self,
        cx: &mut Cx<'_>,
        mut packet: Packet,
        parsed: &Parsed,
        access: &mut Access<'_>,
    ) -> Result<Outcome, Refusal> {
        let solicitation = ndp::read_solicitation(packet.data(), parsed, &self.local)?;
        let is_probe = solicitation.source.is_unspecified();
        if !is_probe {
            hear(cx, parsed, access, solicitation.source.into(), solicitation.source_mac);
        }
        if !self.answer {
            return Ok(Outcome::Handled(Handled::RecycledRequest));
        }
        let len = ndp::Solicitation::answer_len(parsed.link_header_len.into());
        if packet.set_data_len(len).is_err() {
            return Ok(Outcome::Unsent(Unsent::TxRejected));
        }
        solicitation.answer(packet.data_mut(), parsed, &self.local);
        if !is_probe {
            self.learn_target(cx, parsed, access, solicitation.source.into(), solicitation.source_mac);
        }
        Ok(submit(cx, packet, len, Handled::NdpAnswered))
    }

    fn advertisement(
        &self,
        cx: &Cx<'_>,
        packet: &Packet,
        parsed: &Parsed,
        access: &mut Access<'_>,
    ) -> Result<Outcome, Refusal> {
        let said = ndp::read_advertisement(packet.data(), parsed, &self.local)?;
        let target = IpAddr::from(said.target);
        Ok(advertised(cx, parsed, access, target, said.target_mac, said.solicited, said.overrides))
    }

    /// A neighbour spoke to us: it becomes the injector's target, if that still looks for one.
    fn learn_target(
        &self,
        cx: &Cx<'_>,
        parsed: &Parsed,
        access: &mut Access<'_>,
        address: IpAddr,
        mac: MacAddr,
    ) {
        // The injector sends without VLAN tags, so who is behind one would not be reached.
        let shared = access.shared();
        if !shared.is_learning() || parsed.vlan_tags > 0 {
            return;
        }
        let state = access.state();
        let Some(injector) = &mut state.injector else { return };
        if injector.heard(address, &self.local, cx.now) {
            state.neighbors.learn(address, mac, cx.now);
            info!(%address, mac = %DisplayMac(mac), "the injector's target is this neighbour that spoke to us");
        }
        // Another instance may have been faster, or the earlier target may speak again.
        shared.set_learning(injector.looks_for_target());
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

/// Sends the first `len` bytes of the packet.
pub(crate) fn submit(cx: &mut Cx<'_>, mut packet: Packet, len: usize, answered: Handled) -> Outcome {
    if packet.set_data_len(len).is_err() {
        return Outcome::Unsent(Unsent::TxRejected);
    }
    match cx.tx(PortId::FIRST).submit(packet) {
        Ok(()) => Outcome::Handled(answered),
        Err(rejected) if rejected.reason == RejectReason::Full => Outcome::Unsent(Unsent::TxFull),
        Err(_) => Outcome::Unsent(Unsent::TxRejected),
    }
}

/// Merges a MAC address that a neighbour mentioned. What is behind a VLAN tag is another network.
fn hear(cx: &Cx<'_>, parsed: &Parsed, access: &mut Access<'_>, address: IpAddr, mac: MacAddr) {
    if parsed.vlan_tags == 0 {
        access.state().neighbors.hear(address, mac, cx.now);
    }
}

/// Takes note of an answer or an announcement of a neighbour.
fn advertised(
    cx: &Cx<'_>,
    parsed: &Parsed,
    access: &mut Access<'_>,
    address: IpAddr,
    mac: Option<MacAddr>,
    solicited: bool,
    overrides: bool,
) -> Outcome {
    let known = parsed.vlan_tags == 0
        && access.state().neighbors.advertised(address, mac, solicited, overrides, cx.now);
    Outcome::Handled(if known { Handled::NeighborUpdated } else { Handled::RecycledNeighbor })
}
