//! What a running injector of echo requests can be told, and what it says of each of its targets.

use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Something to tell a driver's injector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InjectCommand {
    /// Send again, the first batch at once. Nothing changes if it sends already.
    Start,
    /// Send nothing more; replies still outstanding are waited for.
    Stop,
    /// Change what it sends. Either all of it applies or none.
    Set(InjectSettings),
}

/// A change of what an injector sends; what is `None` stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InjectSettings {
    /// From one batch to the next.
    pub interval: Option<Duration>,
    /// Echo requests in a batch.
    pub batch: Option<usize>,
    /// Bytes of ICMP payload.
    pub payload_len: Option<usize>,
    /// Whom to send to, in turn, each once even if named twice; an empty list means to learn it. A target that
    /// was one before keeps its counts.
    pub targets: Option<Vec<IpAddr>>,
}

/// The counts of one target, in the shape of the JSON output. `sent == replies + lost + in_flight` at any time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetStats {
    /// Its address.
    pub target: IpAddr,
    /// Requests sent to it.
    pub sent: u64,
    /// Of those, answered in time.
    pub replies: u64,
    /// Of those, not answered in time.
    pub lost: u64,
    /// Of those, still waiting.
    pub in_flight: u64,
    /// Replies after the time limit.
    pub late: u64,
    /// Round-trip times of the replies in time.
    pub rtt_ns: RttSummary,
}

/// Round-trip times in ns; all 0 if there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RttSummary {
    /// The shortest.
    pub min: u64,
    /// The arithmetic mean, rounded down.
    pub mean: u64,
    /// The longest.
    pub max: u64,
}
