//! `netdext stats`: the counts of running drivers, once or again and again.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::view::{Rates, text};
use anyhow::bail;
use netdext::error::one_line;
use netdext_host::stats::PortStats;

use crate::observe::{ControlSource, Look, Observed, StatsSource};
use crate::output::{self, Reader, complain};
use crate::select::DriverChoice;
use crate::units;

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    driver: DriverChoice,
    /// Print the counts as one JSON object a line
    #[arg(long)]
    json: bool,
    /// Print them again and again, with rates, until interrupted: every second, or every TIME
    #[arg(
        long,
        value_name = "TIME",
        num_args = 0..=1,
        default_missing_value = "1s",
        value_parser = units::watch_interval
    )]
    watch: Option<Duration>,
}

/// Runs the command.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let mut source = ControlSource::new(args.driver.selector());
    let mut printer = Printer { json: args.json, before: HashMap::new() };
    let Some(interval) = args.watch else {
        let Look { drivers, problem } = source.poll();
        printer.print(Instant::now(), &drivers)?;
        return match problem {
            Some(problem) => Err(problem),
            None if drivers.is_empty() => bail!("{}", text::NO_DRIVER),
            None => Ok(()),
        };
    };
    let mut due = Instant::now();
    let mut known_problem = None;
    loop {
        let Look { drivers, problem } = source.poll();
        if printer.print(Instant::now(), &drivers)? == Reader::Gone {
            return Ok(());
        }
        let problem = match problem {
            // What was never there is not waited for.
            Some(problem) if printer.before.is_empty() => return Err(problem),
            problem => problem.map(|problem| one_line(problem.as_ref())),
        };
        // Said once, not at every look.
        if problem != known_problem {
            match &problem {
                Some(problem) => complain!("netdext: trying again: {problem}"),
                None => complain!("netdext: there again"),
            }
            known_problem = problem;
        }
        due = (due + interval).max(Instant::now());
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }
}

struct Printer {
    json: bool,
    /// The last counts of each driver, for the rates.
    before: HashMap<String, (Instant, PortStats)>,
}

impl Printer {
    fn print(&mut self, now: Instant, observed: &[Observed]) -> anyhow::Result<Reader> {
        let mut text = String::new();
        for Observed { key, stats } in observed {
            if self.json {
                text.push_str(&serde_json::to_string(stats)?);
                text.push('\n');
            } else {
                let before = self.before.get(key);
                let rates = before.and_then(|(then, before)| Rates::between(before, stats, now - *then));
                for line in text::lines(stats, rates.as_ref()) {
                    text.push_str(&line);
                    text.push('\n');
                }
            }
            self.before.insert(key.clone(), (now, stats.clone()));
        }
        output::write_stdout(text.as_bytes())
    }
}
