//! `netdext run`: a driver on an interface, in the foreground.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context;
use netdext::driver::DriverFactory;
use netdext::error::one_line;
use netdext_daemon::control::single::Single;
use netdext_daemon::control::{Incoming, RuntimeDir, Server, ServerConfig, SocketName};
use netdext_daemon::metrics::{MetricsServer, StatsRequest};
use netdext_daemon::spec::DriverSpec;
use netdext_host::capture::CaptureSink;
use netdext_host::link::traffic::Role;
use netdext_host::link::{Lab, LabConfig, netns};
use netdext_host::privilege;
use netdext_host::steer::Rule;
use netdext_host::supervisor::{EndReason, QueueSelection, RunConfig, Supervisor};

use tokio::sync::mpsc;

use crate::capture::CaptureArgs;
use crate::driver_args::{DriverArgs, DriverName};
use crate::generate::{Engine, InKernel, LAST_REPLIES, Place, TrafficArgs};
use crate::{kernel, output, units};
use netdext_host::signals::Signals;

/// Requests of control clients that may wait.
const REQUESTS: usize = 64;

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    driver: DriverArgs,
    /// Write every frame that is received or sent to this file, as pcapng. What was in it is replaced once the driver
    /// runs
    #[arg(long, value_name = "FILE")]
    capture: Option<PathBuf>,
    #[command(flatten)]
    frames: CaptureArgs,
    /// Serve metrics for Prometheus at http://ADDR:PORT/metrics
    #[arg(long, value_name = "ADDR:PORT")]
    metrics: Option<SocketAddr>,
    /// Don't measure how long frames take from stage to stage
    #[arg(long)]
    no_latency: bool,
    /// Give the other end of a veth pair a thread for its NAPI: more frames a second, and longer round trips. What was
    /// changed is shown, and taken back at the end
    #[arg(long)]
    tune: bool,
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
    #[command(flatten)]
    traffic: TrafficArgs,
}

/// Runs the command.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let begun = Instant::now();
    // What ends with a usage error leaves nothing behind: before a namespace or a pair is made.
    let in_kernel = in_kernel(args);
    let generator = generator(args);
    // There may be a million, which go to the supervisor as they are.
    let rules = args.driver.rules()?;
    let spec = args.driver.spec(&[]);
    privilege::require_for_run(args.netns.is_some())?;
    match &in_kernel {
        Some(traffic) => kernel::require_in_kernel(traffic.generates())?,
        None => args.driver.risk.require_rings()?,
    }
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    // From here on a signal stops in order, also one that comes while starting.
    let signals = runtime.block_on(async { Signals::watch() })?;
    // Before any other thread and socket: a namespace belongs to a thread, and threads inherit it.
    let namespace = args.netns.as_deref().map(netns::enter_or_create).transpose()?;
    let result = runtime.block_on(async {
        let lab = if spec.lab { make_lab(args).await? } else { None };
        let result = match &in_kernel {
            Some(traffic) => inside_kernel(args, traffic, begun, signals).await,
            None => foreground(args, &spec, generator, rules, begun, signals).await,
        };
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

/// What runs inside the kernel instead of over the rings, if that was asked for.
fn in_kernel(args: &Args) -> Option<InKernel> {
    let role = match args.driver.driver {
        _ if args.traffic.engine == Engine::Ring => return None,
        DriverName::Sink => Role::Discard,
        DriverName::Reflect => Role::Reflect,
        DriverName::Generate => Role::Generate,
        DriverName::Sample => units::usage_error("--engine xdp is for --driver sink, reflect and generate"),
    };
    let ours = [
        ("--capture", args.capture.is_some()),
        ("--metrics", args.metrics.is_some()),
        ("--log-frames", args.log_frames),
        ("--tune", args.tune),
    ];
    if let Some((flag, _)) = ours.iter().chain(&args.driver.for_rings()).find(|(_, given)| *given) {
        units::usage_error(&format!(
            "{flag} does nothing with --engine xdp, which takes every frame in native mode, without rings: leave it \
             out, or use --engine ring"
        ));
    }
    let traffic = args.traffic.in_kernel(role, args.driver.rate, &args.driver.target);
    Some(traffic.unwrap_or_else(|message| units::usage_error(&message)))
}

async fn inside_kernel(
    args: &Args,
    traffic: &InKernel,
    begun: Instant,
    mut signals: Signals,
) -> anyhow::Result<()> {
    let addresses: Vec<_> = args.driver.addr.iter().map(|own| (own.address, own.prefix_len)).collect();
    let DriverArgs { iface, replace, yes, .. } = &args.driver;
    let (replace, yes, json) = (*replace, *yes, args.json);
    let place = Place { iface, addresses: &addresses, replace, yes, json, begun };
    let end = async {
        tokio::select! {
            () = signals.any() => {}
            () = after(args.duration) => {}
        }
    };
    traffic.run(&place, end).await
}

/// Waits until the driver has done all that it was to do, and for what comes back of that.
async fn finished(driver: &DriverFactory) {
    driver.finished().await;
    tokio::time::sleep(LAST_REPLIES).await;
}

/// Waits for so long; without a time, for ever.
async fn after(duration: Option<Duration>) {
    match duration {
        Some(duration) => tokio::time::sleep(duration).await,
        None => std::future::pending().await,
    }
}

/// The generator over the rings, if that was asked for.
fn generator(args: &Args) -> Option<DriverFactory> {
    if args.driver.driver != DriverName::Generate || args.traffic.engine != Engine::Ring {
        return None;
    }
    let factory = args.traffic.factory(args.driver.rate, &args.driver.target);
    Some(factory.unwrap_or_else(|message| units::usage_error(&message)))
}

async fn foreground(
    args: &Args,
    spec: &DriverSpec,
    generator: Option<DriverFactory>,
    rules: Vec<Rule>,
    begun: Instant,
    mut signals: Signals,
) -> anyhow::Result<()> {
    // What can't be had is said before the interface is touched.
    let sink = args.capture.as_deref().map(CaptureSink::create).transpose()?;
    let metrics = match args.metrics {
        Some(address) => Some(MetricsServer::bind(address).await?),
        None => None,
    };
    let targets = spec.targets().await?;
    if spec.answer && spec.injector.is_some() && targets.is_empty() {
        tracing::warn!(
            "with --answer the driver sees no requests to learn a target from: name one with --target, or add --no-injector"
        );
    }
    let config = match generator {
        Some(generator) => spec.resolve_with(generator)?,
        None => spec.resolve().await?,
    };
    let mut config = RunConfig {
        rules,
        log_frames: args.log_frames,
        latency: !args.no_latency,
        tune: args.tune,
        risk_kernel_panic: args.driver.risk.risk_kernel_panic,
        ..config
    };
    let mut supervisor = Supervisor::start(&config).await?;
    // The supervisor has its own, which change.
    config.rules = Vec::new();
    let capture = match sink.map(|sink| supervisor.start_capture(&args.frames.config(), sink)).transpose() {
        Ok(capture) => capture,
        Err(error) => {
            supervisor.stop().await;
            return Err(error.into());
        }
    };
    let mut single = Single::new(config.driver.name(), &spec.iface);
    let mut requests = listen();
    let ready = output::Ready::new(&config, supervisor.info(), args.netns.as_deref(), begun.elapsed());
    ready.print(args.json, spec.injector.as_ref().map(|injector| (injector, targets.as_slice())));

    let (scrapes, mut scraped) = mpsc::channel::<StatsRequest>(1);
    if let Some(server) = metrics {
        tokio::spawn(server.serve(scrapes));
    }
    let end = async {
        tokio::select! {
            () = after(args.duration) => {}
            () = finished(&config.driver) => {}
        }
    };
    tokio::pin!(end);
    let reason = loop {
        tokio::select! {
            reason = supervisor.run() => break reason,
            () = signals.any() => break EndReason::Requested,
            () = &mut end => break EndReason::Requested,
            Some(incoming) = requests.recv() => single.serve(&mut supervisor, incoming).await,
            Some(reply) = scraped.recv() => match supervisor.stats().await {
                // Who asked may have stopped waiting.
                Ok(stats) => drop(reply.send(vec![stats])),
                Err(error) => tracing::warn!("no counts for the metrics: {error}"),
            },
        }
    };
    drop(requests);
    let report = supervisor.stop().await;
    output::print_summary(&report, begun.elapsed(), args.json);
    if let Some(capture) = capture {
        output::print_capture(&capture.finish(), args.json);
    }
    Ok(report.verdict(reason)?)
}

/// Serves a control socket. A driver runs as well without one.
fn listen() -> mpsc::Receiver<Incoming> {
    let (sender, receiver) = mpsc::channel(REQUESTS);
    let name = SocketName::Run(std::process::id());
    let server = RuntimeDir::from_env()
        .bind(name)
        .map_err(anyhow::Error::from)
        .and_then(|socket| Ok(Server::new(socket, ServerConfig::default())?));
    match server {
        Ok(server) => {
            tokio::spawn(server.serve(sender, std::future::pending()));
        }
        Err(error) => tracing::warn!("no control socket: {}", one_line(error.as_ref())),
    }
    receiver
}
