//! What became of each received frame, counted once, and what happened besides.

use netdext::named;

named! {
    /// What became of a received frame.
    pub(super) enum Outcome {
        /// Sent to the port that its destination is behind.
        Forwarded = "forwarded",
        /// Sent to at least one other port, because it is to a group, or nobody knows where its destination is.
        Flooded = "flooded",
        /// It ends within its Ethernet header or VLAN tags.
        Malformed = "malformed",
        /// From an address that no station has: a group's, or all zeros.
        BadSource = "bad_source",
        /// To an address that bridges do not forward (IEEE 802.1D, 7.12.6).
        Reserved = "reserved",
        /// Its destination is behind the port that it came in by.
        SamePort = "same_port",
        /// Its source was heard on another port just now.
        Loop = "loop",
        /// Its source has had its share of floods, in a network that may have a loop.
        Storm = "storm",
        /// No other port is enabled.
        NoOtherPort = "no_other_port",
        /// Longer than the MTU of the port that it would leave by.
        TooLong = "too_long",
        /// The tx ring of the port that it would leave by was full.
        TxFull = "tx_full",
    }
}

named! {
    /// What happened besides.
    pub(super) enum Event {
        /// A station became known.
        Learned = "learned",
        /// A station is behind another port now.
        Moved = "moved",
        /// A station was not heard for so long that it was forgotten.
        Aged = "aged",
        /// A frame came from a station that the table has no room for.
        NoRoom = "no_room",
        /// A frame was copied, to be sent to one more port.
        Copies = "copies",
        /// A flooded frame did not leave by one of the ports: the MTU, a full ring, or no free frame for the copy.
        CopiesNotSent = "copies_not_sent",
    }
}

/// How often each of them occurred.
#[derive(Debug)]
pub(super) struct Counts {
    outcomes: [u64; Outcome::ALL.len()],
    events: [u64; Event::ALL.len()],
}

impl Default for Counts {
    fn default() -> Self {
        Self { outcomes: [0; Outcome::ALL.len()], events: [0; Event::ALL.len()] }
    }
}

impl Counts {
    pub(super) fn count(&mut self, outcome: Outcome) {
        self.outcomes[outcome as usize] += 1;
    }

    pub(super) fn happened(&mut self, event: Event, times: usize) {
        self.events[event as usize] += times as u64;
    }

    /// Frames that went on.
    pub(super) fn counters(&self) -> Vec<(&'static str, u64)> {
        self.outcomes(|outcome| outcome <= Outcome::Flooded as usize)
    }

    /// Frames that did not.
    pub(super) fn drops(&self) -> Vec<(&'static str, u64)> {
        self.outcomes(|outcome| outcome > Outcome::Flooded as usize)
    }

    fn outcomes(&self, which: impl Fn(usize) -> bool) -> Vec<(&'static str, u64)> {
        let all = Outcome::ALL.iter().filter(|&&outcome| which(outcome as usize));
        all.map(|&outcome| (outcome.name(), self.outcomes[outcome as usize])).collect()
    }

    pub(super) fn events(&self) -> Vec<(&'static str, u64)> {
        Event::ALL.iter().map(|&event| (event.name(), self.events[event as usize])).collect()
    }
}
