//! What is done with each frame that the probe receives: a station on the link answers for its address, and
//! matches the replies to its requests.

use std::net::IpAddr;

use netdext_abi::{Kind, Parsed, parse};

use super::config::PingConfig;
use super::state::State;
use crate::sample::outcome::{Handled, Outcome, Outcomes, Unsent};
use crate::sample::receive::submit;
use netdext::dispatch::Timestamp;
use netdext::driver::Cx;
use netdext::packet::Packet;
use netdext::proto::{Local, Refusal, arp, echo, ndp};

/// Where the hop limit lies in the IP header.
const TTL4: usize = 8;
const HOP_LIMIT6: usize = 7;

/// One instance's half of the receive path.
#[derive(Debug, Default)]
pub(super) struct Receiver {
    pub(super) local: Local,
    pub(super) outcomes: Outcomes,
}

impl Receiver {
    /// Completes one packet: answers it in place, makes use of it, or returns it to the pool.
    pub(super) fn complete(
        &mut self,
        cx: &mut Cx<'_>,
        packet: Packet,
        config: &PingConfig,
        state: &mut State,
    ) {
        let outcome = match parse(packet.data()) {
            Ok(parsed) => self.dispatch(cx, packet, &parsed, config, state).unwrap_or_else(Outcome::Refused),
            Err(malformed) => Outcome::Malformed(malformed),
        };
        self.outcomes.count(outcome);
    }

    fn dispatch(
        &self,
        cx: &mut Cx<'_>,
        mut packet: Packet,
        parsed: &Parsed,
        config: &PingConfig,
        state: &mut State,
    ) -> Result<Outcome, Refusal> {
        // What is behind a VLAN tag is another network.
        let untagged = parsed.vlan_tags == 0;
        match parsed.kind {
            Kind::Echo4Reply | Kind::Echo6Reply => self.echo_reply(cx, &packet, parsed, config, state),
            Kind::Echo4Request | Kind::Echo6Request => {
                let answered = match parsed.kind {
                    Kind::Echo4Request => Handled::Echo4Answered,
                    _ => Handled::Echo6Answered,
                };
                let len = echo::answer(packet.data_mut(), parsed, &self.local, cx.now)?;
                Ok(submit(cx, packet, len, answered))
            }
            Kind::ArpRequest => {
                let request = arp::read(packet.data(), parsed, &self.local)?;
                if untagged && !request.sender.is_unspecified() {
                    state.neighbors.hear(request.sender.into(), request.sender_mac, cx.now);
                }
                let len = arp::answer(packet.data_mut(), parsed, &request, &self.local)?;
                Ok(submit(cx, packet, len, Handled::ArpAnswered))
            }
            Kind::ArpReply => {
                let said = arp::read(packet.data(), parsed, &self.local)?;
                let solicited = self.local.owns4(said.target.octets());
                let known = untagged
                    && state.neighbors.advertised(
                        said.sender.into(),
                        Some(said.sender_mac),
                        solicited,
                        true,
                        cx.now,
                    );
                Ok(neighbor(known))
            }
            Kind::NeighborSolicitation => {
                let asked = ndp::read_solicitation(packet.data(), parsed, &self.local)?;
                if untagged && !asked.source.is_unspecified() {
                    state.neighbors.hear(asked.source.into(), asked.source_mac, cx.now);
                }
                let len = ndp::Solicitation::answer_len(parsed.link_header_len.into());
                if packet.set_data_len(len).is_err() {
                    return Ok(Outcome::Unsent(Unsent::TxRejected));
                }
                asked.answer(packet.data_mut(), parsed, &self.local);
                Ok(submit(cx, packet, len, Handled::NdpAnswered))
            }
            Kind::NeighborAdvertisement => {
                let said = ndp::read_advertisement(packet.data(), parsed, &self.local)?;
                let target = IpAddr::from(said.target);
                let known = untagged
                    && state.neighbors.advertised(
                        target,
                        said.target_mac,
                        said.solicited,
                        said.overrides,
                        cx.now,
                    );
                Ok(neighbor(known))
            }
            Kind::Other if parsed.fragment => Err(Refusal::Fragment),
            Kind::Other => Ok(Outcome::Handled(Handled::RecycledOther)),
        }
    }

    fn echo_reply(
        &self,
        cx: &Cx<'_>,
        packet: &Packet,
        parsed: &Parsed,
        config: &PingConfig,
        state: &mut State,
    ) -> Result<Outcome, Refusal> {
        let reply = echo::read_reply(packet.data(), parsed, &self.local)?;
        // The kernel's timestamp leaves out how long the packet waited for this driver.
        let at = packet.rx_timestamp_ns().map_or(cx.now, Timestamp::from_nanos);
        let field = if parsed.kind == Kind::Echo4Reply { TTL4 } else { HOP_LIMIT6 };
        let hop_limit = packet.data()[usize::from(parsed.link_header_len) + field];
        let matched = state.reply(config, &reply, hop_limit, at);
        state.tell_if_finished(config);
        Ok(Outcome::Handled(matched.unwrap_or(Handled::RecycledEchoReply)))
    }
}

fn neighbor(known: bool) -> Outcome {
    Outcome::Handled(if known { Handled::NeighborUpdated } else { Handled::RecycledNeighbor })
}
