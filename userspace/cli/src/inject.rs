//! `netdext inject`: the injector of a running driver, live.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use clap::Subcommand;
use netdext::registry::DriverType;
use netdext_daemon::control::list::ListEntry;
use netdext_daemon::control::protocol::ErrorCode;
use netdext_daemon::control::{Client, ClientError, RuntimeDir};
use netdext_daemon::spec::DriverSpec;
use netdext_drivers::sample::{self, InjectSettings, InjectorConfig, Sample, TargetStats};
use netdext_host::supervisor::Supervisor;
use serde_json::Value;

use crate::output::{print_json, say};
use crate::select::DriverChoice;
use crate::tell::ask;
use crate::units;

/// Targets that are listed one by one when the injector starts; of more, the first and the last.
const LISTED_TARGETS: usize = 8;

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Send echo requests again
    Start(Choice),
    /// Send no echo requests until started again
    Stop(Choice),
    /// Change the interval, the batch, the payload or the targets; what is not given stays
    Set(SetArgs),
    /// Show the targets, each with its counts
    Targets(TargetsArgs),
}

#[derive(clap::Args)]
struct Choice {
    #[command(flatten)]
    driver: DriverChoice,
}

#[derive(clap::Args)]
struct TargetsArgs {
    #[command(flatten)]
    driver: DriverChoice,
    /// Print one JSON object a target
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
#[group(id = "change", required = true, multiple = true, args = ["interval", "rate", "batch", "size", "target", "targets"])]
struct SetArgs {
    #[command(flatten)]
    driver: DriverChoice,
    /// From one batch of echo requests to the next: 10us to 24h
    #[arg(long, value_name = "TIME", value_parser = netdext::units::interval)]
    interval: Option<Duration>,
    /// Echo requests per second, instead of the interval between batches; needs --batch
    #[arg(long, value_name = "N/s", value_parser = netdext::units::rate, conflicts_with = "interval", requires = "batch")]
    rate: Option<f64>,
    /// Echo requests in a batch
    #[arg(long, value_name = "N", value_parser = netdext::units::count::<usize>)]
    batch: Option<usize>,
    /// Bytes of ICMP payload
    #[arg(long, value_name = "BYTES", value_parser = units::payload)]
    size: Option<usize>,
    /// Whom to send to; can be repeated, and takes the place of the targets before
    #[arg(long, value_name = "ADDR")]
    target: Vec<IpAddr>,
    /// A file of further targets, one address a line
    #[arg(long, value_name = "FILE")]
    targets: Option<PathBuf>,
}

/// Runs the command.
pub fn run(args: &Args) -> anyhow::Result<()> {
    match &args.command {
        Command::Start(args) => {
            let (entry, _) = tell(&args.driver, "inject_start", Value::Null)?;
            say!("injecting: {entry}");
        }
        Command::Stop(args) => {
            let (entry, _) = tell(&args.driver, "inject_stop", Value::Null)?;
            say!("not injecting: {entry}");
        }
        Command::Set(args) => {
            let (entry, _) = tell(&args.driver, "inject_set", serde_json::to_value(args.change()?)?)?;
            say!("changed: {entry}");
        }
        Command::Targets(args) => return targets(args),
    }
    Ok(())
}

/// Gives the injector of a driver a command. Returns which driver it was, and its answer.
fn tell(choice: &DriverChoice, name: &str, value: Value) -> anyhow::Result<(ListEntry, Value)> {
    let (mut client, entry) = Client::for_driver(&RuntimeDir::from_env(), &choice.selector())?;
    match ask(&mut client, &entry, name, value) {
        Ok(answer) => Ok((entry, answer)),
        Err(error) => Err(explained(error, &entry)),
    }
}

/// The error, in words of the injector where it is that the driver does not know the command.
fn explained(error: ClientError, entry: &ListEntry) -> anyhow::Error {
    match error {
        ClientError::Refused(refusal) if refusal.code == ErrorCode::NotFound => {
            anyhow!("{entry} has no injector: `netdext inject` is for the sample driver")
        }
        error => error.into(),
    }
}

impl SetArgs {
    fn change(&self) -> anyhow::Result<InjectSettings> {
        let interval = match (self.rate, self.batch) {
            (Some(rate), Some(batch)) => {
                let interval = sample::interval_of(rate, batch);
                Some(interval.unwrap_or_else(|message| units::usage_error(&message)))
            }
            _ => self.interval,
        };
        let mut targets = self.target.clone();
        if let Some(path) = &self.targets {
            let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
            for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
                let Ok(address) = line.trim().parse() else {
                    bail!("{} line {}: {:?} is no address", path.display(), number + 1, line.trim());
                };
                targets.push(address);
            }
            if targets.len() == self.target.len() {
                bail!("{} names no target: it takes one address a line", path.display());
            }
        }
        Ok(InjectSettings {
            interval_ns: interval.map(|interval| interval.as_nanos() as u64),
            batch: self.batch,
            payload_bytes: self.size,
            targets: (!targets.is_empty()).then_some(targets),
        })
    }
}

/// Says whom the sample driver's injector sends to, where that is the driver and it has one.
pub async fn announce(spec: &DriverSpec, supervisor: &Supervisor, json: bool) {
    let Some(injector) = injector_of(spec) else { return };
    let targets = supervisor.control("inject_targets", Value::Null).await.unwrap_or_default();
    let targets: Vec<TargetStats> = serde_json::from_value(targets).unwrap_or_default();
    let targets: Vec<_> = targets.iter().map(|target| target.target).collect();
    if spec.answer && targets.is_empty() {
        tracing::warn!(
            "with --answer the driver sees no requests to learn a target from: name one with --target, or add --no-injector"
        );
    }
    if json {
        return;
    }
    let whom = match targets.as_slice() {
        [] => "the first neighbour heard".to_owned(),
        [first, .., last] if targets.len() > LISTED_TARGETS => {
            format!("{} targets, {first} to {last}", targets.len())
        }
        targets => targets.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(", "),
    };
    let interval = humantime::format_duration(injector.interval);
    say!("injecting {} echo requests every {interval} to {whom}", injector.batch);
}

fn injector_of(spec: &DriverSpec) -> Option<InjectorConfig> {
    let is_sample = spec.driver == Sample::NAME;
    let options = is_sample.then(|| serde_json::from_value::<sample::Options>(spec.options.clone()).ok());
    options.flatten()?.injector().ok().flatten()
}

fn targets(args: &TargetsArgs) -> anyhow::Result<()> {
    let (_, targets) = tell(&args.driver, "inject_targets", Value::Null)?;
    let targets: Vec<TargetStats> = serde_json::from_value(targets).context("read the targets")?;
    if args.json {
        targets.iter().for_each(print_json);
        return Ok(());
    }
    say!("{:40} {:>10} {:>10} {:>8} {:>8} {:>12}", "target", "sent", "replies", "lost", "late", "RTT mean");
    for TargetStats { target, sent, replies, lost, late, rtt_ns, .. } in &targets {
        let mean =
            if *replies > 0 { format!("{:.1} us", rtt_ns.mean as f64 / 1000.0) } else { "-".to_owned() };
        say!("{:40} {sent:>10} {replies:>10} {lost:>8} {late:>8} {mean:>12}", target.to_string());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: SetArgs,
    }

    #[test]
    fn targets_come_from_flags_and_a_file_which_must_name_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("targets");
        let change = |text: &str| {
            std::fs::write(&path, text).unwrap();
            let words = ["x", "--target", "198.18.0.2", "--targets", path.to_str().unwrap()];
            Cli::try_parse_from(words).unwrap_or_else(|error| panic!("{error}")).args.change()
        };
        let targets = change("198.18.0.3\n\n 2001:2::2\n").unwrap().targets.unwrap();
        assert_eq!(
            targets.iter().map(IpAddr::to_string).collect::<Vec<_>>(),
            ["198.18.0.2", "198.18.0.3", "2001:2::2"]
        );
        for (text, named) in
            [("", "one address a line"), (" \n\n", "one address a line"), ("\nx\n", "line 2")]
        {
            let error = change(text).unwrap_err().to_string();
            assert!(error.contains(path.to_str().unwrap()) && error.contains(named), "{text:?}: {error}");
        }
    }
}
