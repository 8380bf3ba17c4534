//! `netdext run`: a driver on an interface, in the foreground.

use std::time::{Duration, Instant};

use anyhow::Context;
use netdext::link::{Lab, LabConfig, netns};
use netdext::privilege;
use netdext::supervisor::spec::DriverSpec;
use netdext::supervisor::{EndReason, QueueSelection, RunConfig, Supervisor};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::driver_args::DriverArgs;
use crate::{output, units};

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    driver: DriverArgs,
    /// Stop after this time
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    duration: Option<Duration>,
    /// Enter this network namespace first; it is made if it is missing, and then removed at the end
    #[arg(long, value_name = "NAME")]
    netns: Option<String>,
    /// Log every steering decision of the XDP program
    #[arg(long)]
    pub log_frames: bool,
    /// Print what is ready, and the summary, as one JSON object a line
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let begun = Instant::now();
    let spec = args.driver.spec();
    privilege::require_for_run(args.netns.is_some())?;
    // Before the runtime: a namespace belongs to a thread, and threads inherit it.
    let namespace = args.netns.as_deref().map(netns::enter_or_create).transpose()?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    let result = runtime.block_on(async {
        // From here on a signal stops in order, also one that comes while starting.
        let signals = Signals::watch()?;
        let lab = if spec.lab { make_lab(args).await? } else { None };
        let result = foreground(args, &spec, begun, signals).await;
        match lab {
            // What failed first is what the user needs to know.
            Some(lab) => result.and(lab.down().await.map_err(Into::into)),
            None => result,
        }
    });
    drop(namespace);
    result
}

async fn make_lab(args: &Args) -> anyhow::Result<Option<Lab>> {
    let Some(config) = LabConfig::for_driver(&args.driver.iface) else { return Ok(None) };
    let queues = match args.driver.queues {
        None => 1,
        Some(QueueSelection::First(count)) => count,
        Some(QueueSelection::All) => config.queues,
    };
    Ok(Lab::ensure(&LabConfig { queues, ..config }).await?)
}

/// The signals that end a run.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn watch() -> anyhow::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt()).context("watch for SIGINT")?,
            terminate: signal(SignalKind::terminate()).context("watch for SIGTERM")?,
        })
    }

    async fn any(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

async fn foreground(
    args: &Args,
    spec: &DriverSpec,
    begun: Instant,
    mut signals: Signals,
) -> anyhow::Result<()> {
    let targets = spec.targets().await?;
    let config = RunConfig { log_frames: args.log_frames, ..spec.resolve().await? };
    let mut supervisor = Supervisor::start(&config).await?;
    let ready = output::Ready::new(&config, supervisor.info(), args.netns.as_deref(), begun.elapsed());
    ready.print(args.json, spec.injector.as_ref().map(|injector| (injector, targets.as_slice())));

    let end = async {
        match args.duration {
            Some(duration) => tokio::time::sleep(duration).await,
            None => std::future::pending().await,
        }
    };
    let reason = tokio::select! {
        reason = supervisor.run() => reason,
        () = signals.any() => EndReason::Requested,
        () = end => EndReason::Requested,
    };
    let report = supervisor.stop().await;
    output::print_summary(&report, begun.elapsed(), args.json);
    Ok(report.verdict(reason)?)
}
