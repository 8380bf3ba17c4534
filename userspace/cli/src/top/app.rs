//! What `netdext top` knows, and how keys and counts change it. No terminal, no clock.

use std::collections::VecDeque;
use std::time::Duration;

use crate::view::Rates;
use netdext_host::stats::PortStats;
use ratatui::crossterm::event::{Event as TerminalEvent, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use crate::observe::Observed;

/// Packet rates kept for the curve: more than the widest terminals have columns.
const HISTORY: usize = 512;

/// What can happen.
pub enum Event {
    /// A key, or another size.
    Terminal(TerminalEvent),
    /// The terminal cannot be read any more.
    TerminalGone,
    /// The counts that were asked for, with the time since the program began.
    Counts {
        taken: Duration,
        drivers: Vec<Observed>,
        /// Why there are not more.
        problem: Option<String>,
    },
    /// SIGTERM, SIGINT or SIGHUP.
    Stop,
}

/// Whether to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    Draw,
    Quit,
}

/// One driver as it is shown.
pub struct Shown {
    key: String,
    taken: Duration,
    /// Its counts at the last look.
    pub stats: PortStats,
    /// From the look before to the last one; none after the first.
    pub rates: Option<Rates>,
    /// Packets per second, received and sent together, the newest last.
    pub history: VecDeque<u64>,
}

impl Shown {
    fn new(taken: Duration, observed: Observed) -> Self {
        let Observed { key, stats } = observed;
        Self { key, taken, stats, rates: None, history: VecDeque::new() }
    }

    fn look_again(&mut self, taken: Duration, stats: PortStats) {
        self.rates = Rates::between(&self.stats, &stats, taken.saturating_sub(self.taken));
        if let Some(rates) = &self.rates {
            self.history.push_back((rates.total.rx_pps + rates.total.tx_pps).round() as u64);
            if self.history.len() > HISTORY {
                self.history.pop_front();
            }
        }
        self.stats = stats;
        self.taken = taken;
    }
}

/// All that the screen is drawn from.
pub struct App {
    /// The drivers, in the order in which the source names them.
    pub drivers: Vec<Shown>,
    /// Which of them is on the screen.
    pub selected: usize,
    /// The first queue on the screen.
    pub first_queue: usize,
    /// Whether new counts are left alone.
    pub paused: bool,
    /// Why there were no counts at the last look.
    pub problem: Option<String>,
    /// Whether a look has ended.
    pub looked: bool,
    /// From one look to the next.
    pub interval: Duration,
}

impl App {
    /// Nothing is known yet.
    pub fn new(interval: Duration) -> Self {
        Self {
            drivers: Vec::new(),
            selected: 0,
            first_queue: 0,
            paused: false,
            problem: None,
            looked: false,
            interval,
        }
    }

    /// The driver on the screen.
    pub fn shown(&self) -> Option<&Shown> {
        self.drivers.get(self.selected)
    }

    /// Takes in what happened.
    pub fn update(&mut self, event: Event) -> Next {
        match event {
            Event::Stop | Event::TerminalGone => return Next::Quit,
            Event::Terminal(TerminalEvent::Key(key)) if key.kind != KeyEventKind::Release => {
                return self.key(key);
            }
            Event::Terminal(_) => {}
            // Rates at the end of a pause are those of the whole pause.
            Event::Counts { .. } if self.paused => {}
            Event::Counts { taken, drivers, problem } => self.counts(taken, drivers, problem),
        }
        Next::Draw
    }

    fn key(&mut self, key: KeyEvent) -> Next {
        let queues = self.shown().map_or(0, |shown| shown.stats.queues.len());
        match key.code {
            KeyCode::Char('q') | KeyCode::Esc => return Next::Quit,
            // In raw mode this is a key and no signal.
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return Next::Quit,
            KeyCode::Char('p' | ' ') => self.paused = !self.paused,
            KeyCode::Right | KeyCode::Tab => self.select(1),
            KeyCode::Left | KeyCode::BackTab => self.select(self.drivers.len().saturating_sub(1)),
            KeyCode::Down => self.first_queue = (self.first_queue + 1).min(queues.saturating_sub(1)),
            KeyCode::Up => self.first_queue = self.first_queue.saturating_sub(1),
            _ => {}
        }
        Next::Draw
    }

    /// Moves the selection on by so many drivers, round and round.
    fn select(&mut self, by: usize) {
        if !self.drivers.is_empty() {
            self.selected = (self.selected + by) % self.drivers.len();
            self.first_queue = 0;
        }
    }

    /// The drivers of this look in its order. Where there was a problem, those that it does not have stay as
    /// they were, after the others.
    fn counts(&mut self, taken: Duration, observed: Vec<Observed>, problem: Option<String>) {
        let selected = self.shown().map(|shown| shown.key.clone());
        let mut before = std::mem::take(&mut self.drivers);
        for observed in observed {
            let known = before.iter().position(|shown| shown.key == observed.key);
            self.drivers.push(match known {
                Some(at) => {
                    let mut shown = before.remove(at);
                    shown.look_again(taken, observed.stats);
                    shown
                }
                None => Shown::new(taken, observed),
            });
        }
        if problem.is_some() {
            self.drivers.append(&mut before);
        }
        self.looked = true;
        self.problem = problem;
        let still = self.drivers.iter().position(|shown| Some(&shown.key) == selected.as_ref());
        if still.is_none() {
            self.first_queue = 0;
        }
        self.selected = still.unwrap_or(0);
        let queues = self.shown().map_or(0, |shown| shown.stats.queues.len());
        self.first_queue = self.first_queue.min(queues.saturating_sub(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::top::testing::{look, no_look, observed, stats};

    fn key(code: KeyCode) -> Event {
        Event::Terminal(TerminalEvent::Key(code.into()))
    }

    fn app(drivers: Vec<Observed>) -> App {
        let mut app = App::new(Duration::from_secs(1));
        app.update(look(Duration::ZERO, drivers));
        app
    }

    #[test]
    fn rates_are_those_between_the_last_two_looks() {
        let mut app = app(vec![observed("a", stats("veth0", 100))]);
        assert!(app.shown().unwrap().rates.is_none());
        app.update(look(Duration::from_secs(2), vec![observed("a", stats("veth0", 500))]));
        let shown = app.shown().unwrap();
        assert_eq!(shown.rates.as_ref().unwrap().total.rx_pps, 200.0);
        // 400 received and 133 sent in two seconds.
        assert_eq!(shown.history, [267]);
    }

    #[test]
    fn during_a_pause_nothing_changes_and_its_end_shows_the_mean() {
        let mut app = app(vec![observed("a", stats("veth0", 0))]);
        app.update(key(KeyCode::Char('p')));
        app.update(look(Duration::from_secs(1), vec![observed("a", stats("veth0", 900))]));
        assert_eq!(app.shown().unwrap().stats.queues[0].rx_packets, 0);
        app.update(key(KeyCode::Char('p')));
        app.update(look(Duration::from_secs(2), vec![observed("a", stats("veth0", 1000))]));
        assert_eq!(app.shown().unwrap().rates.as_ref().unwrap().total.rx_pps, 500.0);
    }

    #[test]
    fn arrows_go_round_the_drivers_and_stay_with_the_one_chosen() {
        let three = || ["a", "b", "c"].map(|name| observed(name, stats(name, 0))).into();
        let mut app = app(three());
        app.update(key(KeyCode::Left));
        assert_eq!(app.shown().unwrap().stats.iface, "c");
        app.update(key(KeyCode::Right));
        app.update(key(KeyCode::Right));
        assert_eq!(app.shown().unwrap().stats.iface, "b");
        let mut two: Vec<_> = three();
        two.remove(0);
        app.update(look(Duration::from_secs(1), two));
        assert_eq!(app.shown().unwrap().stats.iface, "b");
        app.update(look(Duration::from_secs(2), vec![observed("c", stats("c", 0))]));
        assert_eq!(app.shown().unwrap().stats.iface, "c");
        app.update(look(Duration::from_secs(3), vec![]));
        assert!(app.shown().is_none());
        app.update(key(KeyCode::Right));
        assert!(app.shown().is_none());
    }

    #[test]
    fn a_source_that_goes_away_leaves_the_last_counts_and_its_return_clears_the_problem() {
        let mut app = app(vec![observed("a", stats("veth0", 7))]);
        app.update(no_look(Duration::from_secs(1), "gone"));
        assert_eq!(app.problem.as_deref(), Some("gone"));
        assert_eq!(app.shown().unwrap().stats.queues[0].rx_packets, 7);
        app.update(look(Duration::from_secs(2), vec![observed("a", stats("veth0", 9))]));
        assert_eq!(app.problem, None);
        assert_eq!(app.shown().unwrap().rates.as_ref().unwrap().total.rx_pps, 1.0);
    }

    #[test]
    fn the_queues_can_be_scrolled_as_far_as_there_are_some() {
        let mut app = app(vec![observed("a", stats("veth0", 0))]);
        for _ in 0..9 {
            app.update(key(KeyCode::Down));
        }
        assert_eq!(app.first_queue, 1);
        app.update(key(KeyCode::Up));
        app.update(key(KeyCode::Up));
        assert_eq!(app.first_queue, 0);
    }

    #[test]
    fn q_escape_control_c_and_signals_end_it() {
        let control_c = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        for event in [
            key(KeyCode::Char('q')),
            key(KeyCode::Esc),
            Event::Terminal(TerminalEvent::Key(control_c)),
            Event::Stop,
            Event::TerminalGone,
        ] {
            assert_eq!(app(vec![]).update(event), Next::Quit);
        }
        assert_eq!(app(vec![]).update(key(KeyCode::Char('c'))), Next::Draw);
        assert_eq!(app(vec![]).update(Event::Terminal(TerminalEvent::Resize(1, 1))), Next::Draw);
    }

    #[test]
    fn the_history_is_bounded() {
        let mut app = app(vec![observed("a", stats("veth0", 0))]);
        for second in 1..=HISTORY as u64 + 5 {
            let counts = stats("veth0", second * second);
            app.update(look(Duration::from_secs(second), vec![observed("a", counts)]));
        }
        let history = &app.shown().unwrap().history;
        assert_eq!(history.len(), HISTORY);
        assert!(history.back() > history.front());
    }
}
