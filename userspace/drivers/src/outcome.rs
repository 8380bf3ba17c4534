//! What became of each received frame, counted once.

use netdext_abi::{COUNTER_COUNT, COUNTER_NAMES, Counter, Malformed};

use netdext::named;
use netdext::proto::Refusal;

named! {
    /// A received frame that was made use of, or recycled because there was nothing to do.
    pub(crate) enum Handled {
        /// ICMP echo request answered.
        Echo4Answered = "echo4_answered",
        /// ICMPv6 echo request answered.
        Echo6Answered = "echo6_answered",
        /// ARP request answered.
        ArpAnswered = "arp_answered",
        /// Neighbour solicitation answered.
        NdpAnswered = "ndp_answered",
        /// ARP reply or advertisement about a known neighbour.
        NeighborUpdated = "neighbor_updated",
        /// First reply to a request of the injector, in time.
        EchoReplyMatched = "echo_replies_matched",
        /// First reply to a request of the injector that had been given up.
        EchoReplyLate = "echo_replies_late",
        /// Further reply to a request of the injector.
        EchoReplyDuplicate = "echo_replies_duplicate",
        /// Reply to a request of the injector so old that it is no longer known whether it was answered.
        EchoReplyTooOld = "echo_replies_too_old",
        /// Reply with the injector's stamp that fits no request: altered, forged or from a wrong address.
        EchoReplyMismatched = "echo_replies_mismatched",
        /// Echo reply for somebody else.
        RecycledEchoReply = "recycled_echo_reply",
        /// ARP or neighbour discovery message about a neighbour that we do not deal with.
        RecycledNeighbor = "recycled_neighbor",
        /// Request that the configuration says not to answer.
        RecycledRequest = "recycled_request",
        /// Frame of another kind.
        RecycledOther = "recycled_other",
    }
}

named! {
    /// Why an answer could not be sent.
    pub(crate) enum Unsent {
        /// The tx ring was full.
        TxFull = "tx_full",
        /// The tx queue does not take such a frame.
        TxRejected = "tx_rejected",
    }
}

/// What became of one received frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Handled(Handled),
    Refused(Refusal),
    Unsent(Unsent),
    Malformed(Malformed),
}

/// How often each outcome occurred.
#[derive(Clone, Debug)]
pub(crate) struct Outcomes {
    handled: [u64; Handled::ALL.len()],
    refused: [u64; Refusal::ALL.len()],
    unsent: [u64; Unsent::ALL.len()],
    // Only those of malformed frames are used; they begin at `FIRST_MALFORMED`.
    malformed: [u64; COUNTER_COUNT],
}

/// The first of the counters that stand for a kind of malformed frame; `Counter::LAST_VERDICT` is the last.
const FIRST_MALFORMED: usize = Counter::TruncatedEthernet as usize;
const LAST_MALFORMED: usize = Counter::LAST_VERDICT as usize;

impl Default for Outcomes {
    fn default() -> Self {
        Self {
            handled: [0; Handled::ALL.len()],
            refused: [0; Refusal::ALL.len()],
            unsent: [0; Unsent::ALL.len()],
            malformed: [0; COUNTER_COUNT],
        }
    }
}

impl Outcomes {
    pub(crate) fn count(&mut self, outcome: Outcome) {
        let counter = match outcome {
            Outcome::Handled(handled) => &mut self.handled[handled as usize],
            Outcome::Refused(refusal) => &mut self.refused[refusal as usize],
            Outcome::Unsent(unsent) => &mut self.unsent[unsent as usize],
            Outcome::Malformed(malformed) => &mut self.malformed[malformed.counter() as usize],
        };
        *counter += 1;
    }

    /// Frames that were made use of or recycled.
    pub(crate) fn counters(&self) -> Vec<(&'static str, u64)> {
        Handled::ALL.iter().map(|&handled| (handled.name(), self.handled[handled as usize])).collect()
    }

    /// Frames that were refused, malformed, or whose answer could not be sent.
    pub(crate) fn drops(&self) -> Vec<(&'static str, u64)> {
        let refused = Refusal::ALL.iter().map(|&refusal| (refusal.name(), self.refused[refusal as usize]));
        let unsent = Unsent::ALL.iter().map(|&unsent| (unsent.name(), self.unsent[unsent as usize]));
        let malformed =
            (FIRST_MALFORMED..=LAST_MALFORMED).map(|index| (COUNTER_NAMES[index], self.malformed[index]));
        refused.chain(unsent).chain(malformed).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_outcome_has_a_name_of_its_own() {
        let outcomes = Outcomes::default();
        let names: Vec<_> =
            outcomes.counters().into_iter().chain(outcomes.drops()).map(|(name, _)| name).collect();
        assert_eq!(names.iter().collect::<HashSet<_>>().len(), names.len());
    }

    #[test]
    fn every_kind_of_malformed_frame_is_among_the_drops() {
        let mut outcomes = Outcomes::default();
        for malformed in [Malformed::TruncatedEthernet, Malformed::BadArpLengths, Malformed::DatagramTooLong]
        {
            outcomes.count(Outcome::Malformed(malformed));
            let name = malformed.counter().name();
            assert!(outcomes.drops().contains(&(name, 1)), "{name}");
        }
        assert!(
            COUNTER_NAMES[FIRST_MALFORMED..=LAST_MALFORMED].iter().all(|name| name.starts_with("malformed_"))
        );
        assert!(COUNTER_NAMES[..FIRST_MALFORMED].iter().all(|name| !name.starts_with("malformed_")));
    }
}
