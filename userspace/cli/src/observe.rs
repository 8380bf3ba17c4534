//! Where the counts come from that `netdext stats` and `netdext top` show.

use std::time::Duration;

use netdext_daemon::control::list::ListEntry;
use netdext_daemon::control::protocol::{Request, Selector};
use netdext_daemon::control::{Client, ClientError, RuntimeDir};
use netdext_host::stats::PortStats;

/// How long a netdext has for an answer: one that hangs is not to hide the others for long.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// The counts of one driver, and which driver it is.
pub struct Observed {
    /// Tells this driver from every other, also of one on an interface of the same name in another namespace.
    pub key: String,
    /// Its counts.
    pub stats: PortStats,
}

/// What was seen at one look.
#[derive(Default)]
pub struct Look {
    /// The drivers that were heard of.
    pub drivers: Vec<Observed>,
    /// Why some were not, or nobody was. Those that were there before may still be.
    pub problem: Option<anyhow::Error>,
}

/// Something that can be asked for the counts of every driver that is to be shown, again and again: what went
/// away may have come back.
pub trait StatsSource {
    /// The counts now.
    fn poll(&mut self) -> Look;
}

/// Every netdext that listens in the runtime directory.
pub struct ControlSource {
    selector: Selector,
}

impl ControlSource {
    /// The drivers that match.
    pub fn new(selector: Selector) -> Self {
        Self { selector }
    }

    /// Adds the counts of the drivers of one process that match. One that was named and does not run says why.
    fn ask(&self, client: &mut Client, drivers: &mut Vec<Observed>) -> Result<(), ClientError> {
        client.set_timeout(ANSWER_WITHIN);
        for entry in client.request::<Vec<ListEntry>>(&Request::List {})? {
            let named = self.selector != Selector::default();
            if (entry.active || named) && entry.is_meant_by(&self.selector) {
                let stats: PortStats = client.request(&Request::Stats { driver: entry.selector() })?;
                for stats in meant(&self.selector, stats) {
                    let key = format!("{} {entry} {}", client.path().display(), stats.iface);
                    drivers.push(Observed { key, stats });
                }
            }
        }
        Ok(())
    }
}

/// The interfaces of a driver that the selector means: the one that it names, or all.
fn meant(selector: &Selector, stats: PortStats) -> impl Iterator<Item = PortStats> {
    let fits = |stats: &PortStats| selector.iface.as_ref().is_none_or(|iface| *iface == stats.iface);
    stats.into_ports().into_iter().filter(fits)
}

impl StatsSource for ControlSource {
    fn poll(&mut self) -> Look {
        let mut look = Look::default();
        match Client::all(&RuntimeDir::from_env()) {
            Ok(clients) => {
                let (mut answered, mut gone) = (false, None);
                for mut client in clients {
                    match self.ask(&mut client, &mut look.drivers) {
                        Ok(()) => answered = true,
                        Err(error) if error.is_gone() => gone = Some(error),
                        Err(error) => look.problem = Some(error.into()),
                    }
                }
                // Who ended meanwhile is missed only where there is nobody else.
                if !answered && look.problem.is_none() {
                    look.problem = gone.map(Into::into);
                }
            }
            Err(error) => look.problem = Some(error.into()),
        }
        if look.drivers.is_empty() && look.problem.is_none() && self.selector != Selector::default() {
            look.problem = Some(ClientError::NotFound { selector: self.selector.clone() }.into());
        }
        look
    }
}

#[cfg(test)]
mod tests {
    use netdext_host::xdp::steering::ProgramCounters;

    use super::*;

    #[test]
    fn of_several_interfaces_the_one_that_is_named_is_shown_and_all_without_a_name() {
        let port = |iface| PortStats::collect(iface, "forward", ProgramCounters::default(), &[]);
        let mut stats = port("a");
        stats.other_ports = vec![port("b"), port("c")];
        let shown =
            |selector: &Selector| meant(selector, stats.clone()).map(|stats| stats.iface).collect::<Vec<_>>();
        assert_eq!(shown(&Selector { iface: Some("b".to_owned()), ..Selector::default() }), ["b"]);
        assert_eq!(shown(&Selector { iface: Some("a".to_owned()), ..Selector::default() }), ["a"]);
        assert_eq!(shown(&Selector::default()), ["a", "b", "c"]);
    }
}
