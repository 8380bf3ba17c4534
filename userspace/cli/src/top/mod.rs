//! `netdext top`: the counts of running drivers on the whole terminal.
//!
//! ```text
//!   terminal --+
//!   source ----+--> one queue of events --> App --> screen
//!   signals ---+
//! ```
//! Each of the three has a thread of its own, so that neither a source that does not answer nor a terminal
//! without a key keeps the others from being heard. They end with the process.

mod app;
mod screen;
#[cfg(test)]
mod testing;

use std::io::IsTerminal;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use ratatui::DefaultTerminal;
use ratatui::crossterm::event;
use tokio::signal::unix::{SignalKind, signal};

use self::app::{App, Event, Next};
use netdext::error::one_line;

use crate::observe::{ControlSource, Look, StatsSource};
use crate::select::DriverChoice;
use crate::units;

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    driver: DriverChoice,
    /// From one look at the counts to the next: 100ms to 1h
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = units::watch_interval)]
    interval: Duration,
}

/// Runs the command.
pub fn run(args: &Args) -> anyhow::Result<()> {
    if !std::io::stdout().is_terminal() {
        bail!("`netdext top` needs a terminal on standard output; `netdext stats --watch` does not");
    }
    let source = ControlSource::new(args.driver.selector());
    let (sender, events) = channel();
    // Before the terminal is changed: a signal must find someone who changes it back.
    spawn("signals", watch_signals(sender.clone())?)?;
    spawn("counts", look_again_and_again(source, args.interval, sender.clone()))?;
    let mut terminal = ratatui::try_init().context("set up the terminal")?;
    spawn("keys", read_terminal(sender))?;
    let result = show(&mut terminal, &events, args.interval);
    let restored = ratatui::try_restore().context("restore the terminal");
    result.and(restored)
}

fn show(terminal: &mut DefaultTerminal, events: &Receiver<Event>, interval: Duration) -> anyhow::Result<()> {
    let mut app = App::new(interval);
    loop {
        terminal.draw(|frame| screen::draw(&app, frame)).context("draw on the terminal")?;
        // The threads hold the other end as long as they live, and end only after an event that ends this loop.
        let Ok(event) = events.recv() else { return Ok(()) };
        if app.update(event) == Next::Quit {
            return Ok(());
        }
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> anyhow::Result<()> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(work)
        .with_context(|| format!("start thread {name}"))?;
    Ok(())
}

/// Watches from now on; the returned work waits for the first signal.
fn watch_signals(events: Sender<Event>) -> anyhow::Result<impl FnOnce() + Send> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_io().build().context("start the runtime")?;
    let watch = |kind| {
        let _entered = runtime.enter();
        signal(kind).context("watch for signals")
    };
    let (mut terminate, mut interrupt, mut hangup) =
        (watch(SignalKind::terminate())?, watch(SignalKind::interrupt())?, watch(SignalKind::hangup())?);
    Ok(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
                _ = hangup.recv() => {}
            }
        });
        let _ = events.send(Event::Stop);
    })
}

/// Asks the source until nobody listens.
fn look_again_and_again(
    mut source: impl StatsSource + Send + 'static,
    interval: Duration,
    events: Sender<Event>,
) -> impl FnOnce() + Send {
    move || {
        let begun = Instant::now();
        loop {
            let due = Instant::now() + interval;
            let Look { drivers, problem } = source.poll();
            let problem = problem.map(|error| one_line(error.as_ref()));
            if events.send(Event::Counts { taken: begun.elapsed(), drivers, problem }).is_err() {
                return;
            }
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
        }
    }
}

fn read_terminal(events: Sender<Event>) -> impl FnOnce() + Send {
    move || {
        loop {
            let event = event::read().map_or(Event::TerminalGone, Event::Terminal);
            let last = matches!(event, Event::TerminalGone);
            if events.send(event).is_err() || last {
                return;
            }
        }
    }
}
