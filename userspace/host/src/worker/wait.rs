use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How a worker waits when there is nothing to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WaitStrategy {
    /// Never sleeps: the lowest latency, for one core.
    Spin,
    /// Keeps looking for a while after the last frame, then sleeps until something happens or a timer is nearly
    /// due.
    #[default]
    Adaptive,
    /// Sleeps at once: the least CPU time.
    Poll,
}

impl WaitStrategy {
    /// How long to keep looking after the last work before sleeping; `None` means for ever.
    pub(crate) const fn spin_for(self) -> Option<Duration> {
        match self {
            Self::Spin => None,
            // About what a wakeup from ppoll costs here: waiting longer than the thing avoided is waste.
            Self::Adaptive => Some(Duration::from_micros(50)),
            Self::Poll => Some(Duration::ZERO),
        }
    }

    /// How long before a timer is due to stop sleeping, and look until then.
    pub(crate) const fn awake_before(self) -> Duration {
        match self {
            Self::Spin | Self::Poll => Duration::ZERO,
            Self::Adaptive => Duration::from_micros(60),
        }
    }

    /// The name as the command line has it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Spin => "spin",
            Self::Adaptive => "adaptive",
            Self::Poll => "poll",
        }
    }
}

impl fmt::Display for WaitStrategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A word that names no wait strategy.
#[derive(Debug, thiserror::Error)]
#[error("'{0}' is no wait strategy: spin, adaptive or poll")]
pub struct UnknownWaitStrategy(String);

impl FromStr for WaitStrategy {
    type Err = UnknownWaitStrategy;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        [Self::Spin, Self::Adaptive, Self::Poll]
            .into_iter()
            .find(|strategy| strategy.name() == word)
            .ok_or_else(|| UnknownWaitStrategy(word.to_owned()))
    }
}
