//! Where the counts come from that `netdext stats` and `netdext top` show.

use netdext::stats::PortStats;

/// The counts of one driver, and which driver it is.
pub struct Observed {
    /// Tells this driver from every other, also of one on an interface of the same name in another namespace.
    pub key: String,
    /// Its counts.
    pub stats: PortStats,
}

/// Something that can be asked for the counts of every driver that is to be shown, again and again.
pub trait StatsSource {
    /// The counts now. After an error it can be asked again: what went away may have come back.
    ///
    /// # Errors
    ///
    /// Nobody answers, or not as expected; on one line.
    fn poll(&mut self) -> anyhow::Result<Vec<Observed>>;
}

pub struct ControlSource(netdext::control::protocol::Selector);
pub fn source(selector: netdext::control::protocol::Selector) -> ControlSource {
    ControlSource(selector)
}
impl StatsSource for ControlSource {
    fn poll(&mut self) -> anyhow::Result<Vec<Observed>> {
        anyhow::bail!("{:?}", self.0)
    }
}
