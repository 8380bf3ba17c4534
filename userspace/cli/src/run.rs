//! `netdext run`: a driver on an interface, in the foreground.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context;
use netdext::driver::DriverFactory;
use netdext::error::one_line;
use netdext::registry::Registry;
use netdext_daemon::control::single::Single;
use netdext_daemon::control::{Incoming, RuntimeDir, Server, ServerConfig, SocketName};
use netdext_daemon::metrics::{MetricsServer, StatsRequest};
use netdext_daemon::spec::DriverSpec;
use netdext_host::capture::CaptureSink;
use netdext_host::link::{Lab, LabConfig, netns};
use netdext_host::privilege;
use netdext_host::steer::Rule;
use netdext_host::supervisor::{EndReason, QueueSelection, RunConfig, Supervisor};

use tokio::sync::mpsc;

use crate::capture::CaptureArgs;
use crate::driver_args::DriverArgs;
use crate::engine::{Engine, InKernel, LAST_REPLIES, Place};
use crate::{inject, kernel, output, units};
use netdext_host::signals::Signals;

/// Requests of control clients that may wait.
const REQUESTS: usize = 64;

#[derive(clap::Args)]
#[group(skip)]
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
    #[arg(long, value_name = "TIME", value_parser = netdext::units::duration)]
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
    /// Where the driver's frames are handled: `ring` in user space over the AF_XDP rings, `xdp` inside the kernel, as
    /// fast as it goes, for --driver sink, reflect and generate. With `xdp` it is every frame of the interface, in native
    /// mode; --steer, --answer, --queues, --capture, --metrics, --log-frames and --tune are for `ring`
    #[arg(long, value_enum, default_value = "ring")]
    engine: Engine,
}

impl Args {
    /// The flags of the driver.
    pub fn driver(&mut self) -> &mut DriverArgs {
        &mut self.driver
    }
}

/// What is to run.
enum Work {
    InKernel(InKernel),
    OverRings { spec: DriverSpec, rules: Vec<Rule> },
}

/// Runs the command.
pub fn run(args: &Args, types: &Registry) -> anyhow::Result<()> {
    let begun = Instant::now();
    // What ends with a usage error leaves nothing behind: before a namespace or a pair is made.
    let work = match args.engine {
        Engine::Xdp => Work::InKernel(in_kernel(args)),
        // There may be a million rules, which go to the supervisor as they are.
        Engine::Ring => Work::OverRings { spec: args.driver.spec(types, &[]), rules: args.driver.rules()? },
    };
    privilege::require_for_run(args.netns.is_some())?;
    match &work {
        Work::InKernel(traffic) => kernel::require_in_kernel(traffic.generates())?,
        Work::OverRings { .. } => args.driver.risk.require_rings()?,
    }
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    // From here on a signal stops in order, also one that comes while starting.
    let signals = runtime.block_on(async { Signals::watch() })?;
    // Before any other thread and socket: a namespace belongs to a thread, and threads inherit it.
    let namespace = args.netns.as_deref().map(netns::enter_or_create).transpose()?;
    let result = runtime.block_on(async {
        let lab = if args.driver.lab { make_lab(args).await? } else { None };
        let result = match work {
            Work::InKernel(traffic) => inside_kernel(args, &traffic, begun, signals).await,
            Work::OverRings { spec, rules } => {
                let config = spec.resolve(types)?;
                foreground(args, &spec, RunConfig { rules, ..config }, begun, signals).await
            }
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
    let Some(config) = LabConfig::for_driver(args.driver.iface()) else { return Ok(None) };
    let queues = match args.driver.queues {
        None => 1,
        Some(QueueSelection::First(count)) => count,
        Some(QueueSelection::All) => config.queues,
    };
    Ok(Lab::ensure(&LabConfig { queues, ..config }).await?)
}

/// What runs inside the kernel instead of over the rings.
fn in_kernel(args: &Args) -> InKernel {
    let traffic = InKernel::new(&args.driver.driver, &args.driver.options);
    let traffic = traffic.unwrap_or_else(|message| units::usage_error(&message));
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
    traffic
}

async fn inside_kernel(
    args: &Args,
    traffic: &InKernel,
    begun: Instant,
    mut signals: Signals,
) -> anyhow::Result<()> {
    let addresses: Vec<_> =
        args.driver.addresses(true).iter().map(|own| (own.address, own.prefix_len)).collect();
    let DriverArgs { replace, yes, .. } = &args.driver;
    let iface = args.driver.iface();
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

async fn foreground(
    args: &Args,
    spec: &DriverSpec,
    config: RunConfig,
    begun: Instant,
    mut signals: Signals,
) -> anyhow::Result<()> {
    // What can't be had is said before the interface is touched.
    let sink = args.capture.as_deref().map(CaptureSink::create).transpose()?;
    let metrics = match args.metrics {
        Some(address) => Some(MetricsServer::bind(address).await?),
        None => None,
    };
    let mut config = RunConfig {
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
    let mut single = Single::new(config.driver.name(), &spec.iface, &spec.other_ifaces);
    let mut requests = listen();
    let ready = output::Ready::new(&config, supervisor.infos(), args.netns.as_deref(), begun.elapsed());
    ready.print(args.json);
    inject::announce(spec, &supervisor, args.json).await;

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
                Ok(stats) => drop(reply.send(stats.into_ports())),
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
