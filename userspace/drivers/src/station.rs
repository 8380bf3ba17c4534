//! A station on the link: what a driver with addresses of its own does with each frame that it receives. It
//! answers requests in place, keeps the table of neighbours, and leaves to the driver what its own requests have
//! brought.

use std::net::IpAddr;

use netdext_abi::{Kind, Malformed, Parsed};

use crate::neighbors::Neighbors;
use crate::outcome::{Handled, Outcome, Outcomes, Unsent};
use netdext::dispatch::Timestamp;
use netdext::driver::{Cx, PortId};
use netdext::packet::Packet;
use netdext::proto::echo::EchoReply;
use netdext::proto::{Local, MacAddr, Refusal, arp, echo, link_source, ndp};
use netdext::queue::RejectReason;

/// The driver's half of a station.
pub(super) trait Station {
    /// The table of neighbours.
    fn neighbors(&mut self) -> &mut Neighbors;

    /// An echo reply with this hop limit arrived at `at`. `None` if it answers a request of somebody else.
    fn reply(&mut self, reply: &EchoReply<'_>, hop_limit: u8, at: Timestamp) -> Option<Handled>;

    /// A neighbour without VLAN tags asked something of us, which is being answered.
    fn asked(&mut self, _cx: &Cx<'_>, _local: &Local, _address: IpAddr, _mac: MacAddr) {}
}

/// One instance's half: its addresses and its counts.
#[derive(Debug)]
pub(super) struct Responder {
    pub(super) local: Local,
    pub(super) outcomes: Outcomes,
    answer: bool,
}

impl Responder {
    /// A responder that answers requests for its addresses, or leaves them unanswered.
    pub(super) fn new(answer: bool) -> Self {
        Self { local: Local::default(), outcomes: Outcomes::default(), answer }
    }

    /// Completes one packet: answers it in place, makes use of it, or returns it to the pool.
    pub(super) fn complete(
        &mut self,
        cx: &mut Cx<'_>,
        packet: Packet,
        parsed: &Result<Parsed, Malformed>,
        station: &mut impl Station,
    ) {
        let outcome = match parsed {
            Ok(parsed) => self.dispatch(cx, packet, parsed, station).unwrap_or_else(Outcome::Refused),
            Err(malformed) => Outcome::Malformed(*malformed),
        };
        self.outcomes.count(outcome);
    }

    fn dispatch(
        &self,
        cx: &mut Cx<'_>,
        packet: Packet,
        parsed: &Parsed,
        station: &mut impl Station,
    ) -> Result<Outcome, Refusal> {
        match parsed.kind {
            Kind::Echo4Request => self.echo_request(cx, packet, parsed, station, Handled::Echo4Answered),
            Kind::Echo6Request => self.echo_request(cx, packet, parsed, station, Handled::Echo6Answered),
            Kind::Echo4Reply | Kind::Echo6Reply => {
                let reply = echo::read_reply(packet.data(), parsed, &self.local)?;
                // The kernel's timestamp leaves out how long the packet waited for this driver.
                let at = packet.rx_timestamp_ns().map_or(cx.now, Timestamp::from_nanos);
                let matched = station.reply(&reply, parsed.hop_limit, at);
                Ok(Outcome::Handled(matched.unwrap_or(Handled::RecycledEchoReply)))
            }
            Kind::ArpRequest => self.arp_request(cx, packet, parsed, station),
            Kind::ArpReply => {
                let said = arp::read(packet.data(), parsed, &self.local)?;
                // Sent to us it is an answer; sent to everybody it announces a change (RFC 5227, 3).
                let solicited = self.local.owns4(said.target.octets());
                let said = (said.sender.into(), Some(said.sender_mac), solicited, true);
                Ok(advertised(cx, parsed, station, said))
            }
            Kind::NeighborSolicitation => self.solicitation(cx, packet, parsed, station),
            Kind::NeighborAdvertisement => {
                let said = ndp::read_advertisement(packet.data(), parsed, &self.local)?;
                let said = (said.target.into(), said.target_mac, said.solicited, said.overrides);
                Ok(advertised(cx, parsed, station, said))
            }
            Kind::Other if parsed.fragment => Err(Refusal::Fragment),
            Kind::Other => Ok(Outcome::Handled(Handled::RecycledOther)),
        }
    }

    fn echo_request(
        &self,
        cx: &mut Cx<'_>,
        mut packet: Packet,
        parsed: &Parsed,
        station: &mut impl Station,
        answered: Handled,
    ) -> Result<Outcome, Refusal> {
        if !self.answer {
            return Ok(Outcome::Handled(Handled::RecycledRequest));
        }
        let requester = echo::source(packet.data(), parsed);
        let requester_mac = link_source(packet.data());
        let len = echo::answer(packet.data_mut(), parsed, &self.local, cx.now)?;
        self.asked(cx, parsed, station, requester, requester_mac);
        Ok(submit(cx, packet, len, answered))
    }

    fn arp_request(
        &self,
        cx: &mut Cx<'_>,
        mut packet: Packet,
        parsed: &Parsed,
        station: &mut impl Station,
    ) -> Result<Outcome, Refusal> {
        let request = arp::read(packet.data(), parsed, &self.local)?;
        // RFC 826: the sender is merged first, whoever is asked for.
        hear(cx, parsed, station, request.sender.into(), request.sender_mac);
        if !self.answer {
            return Ok(Outcome::Handled(Handled::RecycledRequest));
        }
        let len = arp::answer(packet.data_mut(), parsed, &request, &self.local)?;
        self.asked(cx, parsed, station, request.sender.into(), request.sender_mac);
        Ok(submit(cx, packet, len, Handled::ArpAnswered))
    }

    fn solicitation(
        &self,
        cx: &mut Cx<'_>,
        mut packet: Packet,
        parsed: &Parsed,
        station: &mut impl Station,
    ) -> Result<Outcome, Refusal> {
        let asked = ndp::read_solicitation(packet.data(), parsed, &self.local)?;
        hear(cx, parsed, station, asked.source.into(), asked.source_mac);
        if !self.answer {
            return Ok(Outcome::Handled(Handled::RecycledRequest));
        }
        let len = ndp::Solicitation::answer_len(parsed.link_header_len.into());
        if packet.set_data_len(len).is_err() {
            return Ok(Outcome::Unsent(Unsent::TxRejected));
        }
        asked.answer(packet.data_mut(), parsed, &self.local);
        self.asked(cx, parsed, station, asked.source.into(), asked.source_mac);
        Ok(submit(cx, packet, len, Handled::NdpAnswered))
    }

    fn asked(&self, cx: &Cx<'_>, parsed: &Parsed, station: &mut impl Station, address: IpAddr, mac: MacAddr) {
        if is_neighbor(parsed, address) {
            station.asked(cx, &self.local, address, mac);
        }
    }
}

/// Whether it is a neighbour that speaks: one who checks whether an address is free has none yet, and what is
/// behind a VLAN tag is another network.
fn is_neighbor(parsed: &Parsed, address: IpAddr) -> bool {
    parsed.vlan_tags == 0 && !address.is_unspecified()
}

/// Merges a MAC address that a neighbour mentioned.
fn hear(cx: &Cx<'_>, parsed: &Parsed, station: &mut impl Station, address: IpAddr, mac: MacAddr) {
    if is_neighbor(parsed, address) {
        station.neighbors().hear(address, mac, cx.now);
    }
}

/// Takes note of an answer or an announcement of a neighbour: its address, its MAC address, whether we asked for
/// it, and whether it replaces what is known.
fn advertised(
    cx: &Cx<'_>,
    parsed: &Parsed,
    station: &mut impl Station,
    (address, mac, solicited, overrides): (IpAddr, Option<MacAddr>, bool, bool),
) -> Outcome {
    let known = is_neighbor(parsed, address)
        && station.neighbors().advertised(address, mac, solicited, overrides, cx.now);
    Outcome::Handled(if known { Handled::NeighborUpdated } else { Handled::RecycledNeighbor })
}

/// Sends the first `len` bytes of the packet.
fn submit(cx: &mut Cx<'_>, mut packet: Packet, len: usize, answered: Handled) -> Outcome {
    if packet.set_data_len(len).is_err() {
        return Outcome::Unsent(Unsent::TxRejected);
    }
    match cx.tx(PortId::FIRST).submit(packet) {
        Ok(()) => Outcome::Handled(answered),
        Err(rejected) if rejected.reason == RejectReason::Full => Outcome::Unsent(Unsent::TxFull),
        Err(_) => Outcome::Unsent(Unsent::TxRejected),
    }
}
