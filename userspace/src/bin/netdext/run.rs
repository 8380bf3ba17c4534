//! `netdext run`: a driver on an interface, in the foreground.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::ValueEnum;
use netdext::dispatch::WaitStrategy;
use netdext::driver::DriverFactory;
use netdext::driver::builtin::sample::{InjectorConfig, SampleConfig, SampleFactory};
use netdext::link::program::XdpMode;
use netdext::link::{Device, Lab, LabConfig, netns};
use netdext::port::RingSizes;
use netdext::privilege;
use netdext::steer::Rule;
use netdext::supervisor::{EndReason, QueueSelection, RunConfig, RunReport, Supervisor};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{output, units};

/// The driver's addresses unless others are given: of the ranges for benchmarks, RFC 2544 and RFC 5180.
const DEFAULT_ADDRESSES: [&str; 2] = ["198.18.0.1/24", "2001:2::1/64"];

#[derive(clap::Args)]
pub struct Args {
    /// The interface that the driver takes
    #[arg(long)]
    pub iface: String,
    /// The driver
    #[arg(long, value_enum, default_value = "sample")]
    driver: DriverName,
    /// An address of the driver with its prefix length; can be repeated
    #[arg(long, value_name = "ADDR/LEN", value_parser = units::address, default_values = DEFAULT_ADDRESSES)]
    addr: Vec<(IpAddr, u8)>,
    /// Where the XDP program runs: in the device's driver, or in the kernel's stack
    #[arg(long, value_enum, default_value = "auto")]
    mode: Mode,
    /// How a worker waits when there is nothing to do
    #[arg(long, default_value = "adaptive", value_parser = ["spin", "adaptive", "poll"])]
    wait: String,
    /// How many hardware queues to serve, each by a worker of its own. Frames that arrive on the others stay
    /// with the kernel [default: all]
    #[arg(long, value_name = "N|all", value_parser = queues)]
    queues: Option<QueueSelection>,
    /// A steering rule: driver, answer, kernel or drop, and which frames, as in drop:proto=udp,dport=53; or all
    /// for every frame to the driver. Can be repeated; see docs/steering.md
    #[arg(long, value_name = "RULE")]
    steer: Vec<Rule>,
    /// Answer ARP, neighbour solicitations and echo requests for the addresses inside the XDP program. What it
    /// can't answer still goes to the driver
    #[arg(long)]
    answer: bool,
    /// How many answers of the XDP program each source gets, and as many at once; what it asks beyond that is
    /// dropped. For example 1000/s [default: no limit]
    #[arg(long, value_name = "N/s", value_parser = units::whole_rate, requires = "answer")]
    answer_limit: Option<NonZeroU32>,
    /// From enabling the interface to the first echo requests
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = units::duration)]
    first: Duration,
    /// From one batch of echo requests to the next: 10us to 24h
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = units::interval)]
    interval: Duration,
    /// Echo requests per second, instead of the interval between batches; for example 10000/s
    #[arg(long, value_name = "N/s", value_parser = units::rate, conflicts_with = "interval")]
    rate: Option<f64>,
    /// Echo requests in a batch
    #[arg(long, value_name = "N", default_value_t = 8)]
    batch: usize,
    /// Whom to send echo requests to; can be repeated. Without it the other end of the veth pair, or else
    /// the first neighbour that is heard
    #[arg(long, value_name = "ADDR")]
    target: Vec<IpAddr>,
    /// Send no echo requests
    #[arg(long, conflicts_with_all = ["first", "interval", "rate", "batch", "target"])]
    no_injector: bool,
    /// Stop after this time
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    duration: Option<Duration>,
    /// Enter this network namespace first; it is made if it is missing, and then removed at the end
    #[arg(long, value_name = "NAME")]
    netns: Option<String>,
    /// If the interface is missing, make a veth pair of that name, and remove it at the end
    #[arg(long)]
    lab: bool,
    /// Take another XDP program off the interface
    #[arg(long)]
    replace: bool,
    /// Log every steering decision of the XDP program
    #[arg(long)]
    pub log_frames: bool,
    /// Steer even what cuts the host off, on the interface of the default route
    #[arg(long)]
    yes: bool,
    /// Print what is ready, and the summary, as one JSON object a line
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum DriverName {
    /// Answers ARP, NDP and echo requests, and injects echo requests by timer
    Sample,
}

#[derive(Clone, Copy, ValueEnum)]
enum Mode {
    /// Native, and skb where the device can't
    Auto,
    /// In the device's driver
    Native,
    /// In the kernel's stack
    Skb,
}

fn queues(text: &str) -> Result<QueueSelection, String> {
    match text.parse() {
        _ if text == "all" => Ok(QueueSelection::All),
        Ok(0) | Err(_) => Err("not a number of queues; for example 1, 4 or all".to_owned()),
        Ok(count) => Ok(QueueSelection::First(count)),
    }
}

/// Ends with exit status 2: values that are right each for itself and wrong together.
fn usage_error(message: &str) -> ! {
    clap::Error::raw(clap::error::ErrorKind::ValueValidation, format!("{message}\n")).exit()
}

/// Runs the command.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let begun = Instant::now();
    let interval = match args.rate {
        Some(rate) => units::interval_of(rate, args.batch).unwrap_or_else(|message| usage_error(&message)),
        None => args.interval,
    };
    privilege::require_for_run(args.netns.is_some())?;
    // Before the runtime: a namespace belongs to a thread, and threads inherit it.
    let namespace = args.netns.as_deref().map(netns::enter_or_create).transpose()?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    let result = runtime.block_on(async {
        // From here on a signal stops in order, also one that comes while starting.
        let signals = Signals::watch()?;
        let lab = if args.lab { make_lab(args).await? } else { None };
        let result = foreground(args, interval, begun, signals).await;
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
    let Some(config) = LabConfig::for_driver(&args.iface) else { return Ok(None) };
    let queues = match args.queues {
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
    interval: Duration,
    begun: Instant,
    mut signals: Signals,
) -> anyhow::Result<()> {
    let targets = targets(args).await?;
    if args.answer && !args.no_injector && targets.is_empty() {
        tracing::warn!(
            "with --answer the driver sees no requests to learn a target from: name one with --target, or add --no-injector"
        );
    }
    let config = RunConfig {
        iface: args.iface.clone(),
        addresses: args.addr.clone(),
        mode: match args.mode {
            Mode::Auto => XdpMode::Auto,
            Mode::Native => XdpMode::Native,
            Mode::Skb => XdpMode::Skb,
        },
        wait: args.wait.parse::<WaitStrategy>()?,
        queues: args.queues.unwrap_or(QueueSelection::All),
        rules: args.steer.clone(),
        answer: args.answer,
        answer_limit: args.answer_limit,
        cut_off: args.yes,
        replace: args.replace,
        log_frames: args.log_frames,
        rings: RingSizes::default(),
        driver: driver(args, interval, &targets)?,
    };
    let mut supervisor = Supervisor::start(&config).await?;
    let ready = output::Ready::new(&config, supervisor.info(), args.netns.as_deref(), begun.elapsed());
    ready.print(args.json, (!args.no_injector).then_some((interval, args.batch, targets.as_slice())));

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
    verdict(&args.iface, reason, report)
}

/// The given targets, or what the other end of a veth pair has on a network of ours. None means that the
/// driver is to learn one.
async fn targets(args: &Args) -> anyhow::Result<Vec<IpAddr>> {
    if args.no_injector || !args.target.is_empty() {
        return Ok(args.target.clone());
    }
    let host = Device::query(&args.iface).await?.peer_addresses().await?;
    let on_link = |candidate: &IpAddr| {
        args.addr
            .iter()
            .any(|&(address, length)| address != *candidate && same_network(address, *candidate, length))
    };
    // IPv4 before IPv6, as they are listed.
    Ok(host.into_iter().map(|(address, _)| address).find(on_link).into_iter().collect())
}

fn same_network(a: IpAddr, b: IpAddr, prefix_len: u8) -> bool {
    let differing = match (a, b) {
        (IpAddr::V4(a), IpAddr::V4(b)) => u128::from(a.to_bits() ^ b.to_bits()) << 96,
        (IpAddr::V6(a), IpAddr::V6(b)) => a.to_bits() ^ b.to_bits(),
        _ => return false,
    };
    differing.leading_zeros() >= u32::from(prefix_len)
}

fn driver(args: &Args, interval: Duration, targets: &[IpAddr]) -> anyhow::Result<Arc<dyn DriverFactory>> {
    match args.driver {
        DriverName::Sample => {
            let injector = (!args.no_injector).then(|| InjectorConfig {
                first: args.first,
                interval,
                batch: args.batch,
                targets: targets.to_vec(),
                ..InjectorConfig::default()
            });
            let config = SampleConfig { injector, ..SampleConfig::default() };
            Ok(Arc::new(SampleFactory::new(config, fastrand::u64(..))?))
        }
    }
}

/// Whether the end was a good one.
fn verdict(iface: &str, reason: EndReason, mut report: RunReport) -> anyhow::Result<()> {
    match reason {
        EndReason::Requested if report.errors.is_empty() && report.is_whole() => Ok(()),
        EndReason::Requested | EndReason::WorkerFailed { .. } => {
            if let Some((queue, error)) = report.errors.pop() {
                return Err(anyhow::Error::new(error)
                    .context(format!("the driver on queue {queue} of {iface} failed")));
            }
            if let Some(queue) = report.missing.first() {
                bail!(
                    "the driver on queue {queue} of {iface} ended without a report; the log above says why"
                );
            }
            bail!("frames are missing from the pool of {iface}: {}", report.stats.census)
        }
        EndReason::LinkGone => {
            bail!(
                "{iface} is gone: the interface, or the other end of its pair, was deleted; make it again and start anew"
            )
        }
        EndReason::LinkEvents(error) => Err(anyhow::Error::new(error).context(format!("watch {iface}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_compared_by_prefix() {
        let net = |a: &str, b: &str, len| same_network(a.parse().unwrap(), b.parse().unwrap(), len);
        assert!(net("198.18.0.1", "198.18.0.2", 24));
        assert!(!net("198.18.0.1", "198.18.1.2", 24));
        assert!(net("198.18.0.1", "203.0.113.1", 0));
        assert!(!net("198.18.0.1", "198.18.0.2", 32));
        assert!(net("2001:2::1", "2001:2::2", 64));
        assert!(!net("2001:2::1", "2001:2:0:1::2", 64));
        assert!(!net("198.18.0.1", "2001:2::1", 0));
    }

    #[test]
    fn queues_are_a_number_or_all() {
        assert_eq!(queues("all"), Ok(QueueSelection::All));
        assert_eq!(queues("4"), Ok(QueueSelection::First(4)));
        for bad in ["0", "", "-1", "four", "4294967296"] {
            assert!(queues(bad).is_err_and(|message| message.contains("for example")), "{bad:?}");
        }
    }
}
