//! `netdext ping`: a probe over the rings.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use netdext::proto::Local;
use netdext_daemon::spec::InterfaceAddress;
use netdext_drivers::ping::{
    KnownMac, NextHop, Ping, PingConfig, PingEvent, PingResults, Reply, ReplyKind, RoundTrip,
};
use netdext_host::link::{Device, Lab, LabConfig, Netlink, Route, netns};
use netdext_host::privilege;
use netdext_host::stats::SCHEMA_VERSION;
use netdext_host::supervisor::{EndReason, RunConfig, Supervisor};
use netdext_host::worker::WaitStrategy;
use netdext_host::xdp::steering::ownable;
use serde::Serialize;
use tokio::sync::mpsc;

use crate::driver_args::default_addresses;
use crate::kernel::RiskArgs;
use crate::output::{print_json, say};
use crate::units;
use netdext_host::signals::Signals;

#[derive(clap::Args)]
pub struct Args {
    /// Who is to answer: on the link, or behind a gateway that the kernel has a route over
    #[arg(value_name = "TARGET")]
    target: IpAddr,
    /// The interface to send through
    #[arg(long)]
    iface: String,
    /// Requests to send; without it, until SIGINT, SIGTERM or SIGHUP
    #[arg(short = 'c', long, value_name = "N", value_parser = netdext::units::count::<u64>)]
    count: Option<u64>,
    /// From one request to the next: 10us to 24h
    #[arg(short = 'i', long, value_name = "TIME", default_value = "1s", value_parser = netdext::units::interval)]
    interval: Duration,
    /// Bytes of ICMP payload: 24 to the MTU less 28 (IPv4) or 48 (IPv6)
    #[arg(short = 's', long, value_name = "BYTES", default_value_t = 56, value_parser = units::payload)]
    size: usize,
    /// How long to wait for each reply
    #[arg(short = 'W', long, value_name = "TIME", default_value = "1s", value_parser = units::timeout)]
    timeout: Duration,
    /// An address for the probe with its prefix length; can be repeated. It must be free: the kernel's own addresses
    /// are refused, because the kernel would no longer get the ARP and echo replies for them. Default for a target
    /// in one of these networks, if the interface has no address of the kernel in it: 198.18.0.1/24, 2001:2::1/64
    #[arg(long, value_name = "ADDR/LEN")]
    addr: Vec<InterfaceAddress>,
    /// The gateway to the target, instead of what the kernel's routes say
    #[arg(long, value_name = "ADDR")]
    gateway: Option<IpAddr>,
    /// How a worker waits when there is nothing to do
    #[arg(long, default_value = "adaptive", value_parser = ["spin", "adaptive", "poll"])]
    wait: String,
    /// Print the summary only
    #[arg(short = 'q', long)]
    quiet: bool,
    /// Enter this network namespace first
    #[arg(long, value_name = "NAME")]
    netns: Option<String>,
    /// If the interface is missing, make a veth pair of that name, and remove it at the end
    #[arg(long)]
    lab: bool,
    /// Print each reply, and the summary, as one JSON object a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    risk: RiskArgs,
}

/// Runs the command.
pub fn run(args: &Args) -> anyhow::Result<()> {
    privilege::require_for_run(args.netns.is_some())?;
    args.risk.require_rings()?;
    // Before the runtime: a namespace belongs to a thread, and threads inherit it.
    if let Some(name) = &args.netns {
        netns::enter(name)?;
    }
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    runtime.block_on(async {
        let signals = Signals::watch()?;
        let lab = match LabConfig::for_driver(&args.iface) {
            Some(config) if args.lab => Lab::ensure(&LabConfig { queues: 1, ..config }).await?,
            _ => None,
        };
        let result = foreground(args, signals).await;
        match lab {
            // What failed first is what the user needs to know.
            Some(lab) => result.and(lab.down().await.map_err(Into::into)),
            None => result,
        }
    })
}

async fn foreground(args: &Args, mut signals: Signals) -> anyhow::Result<()> {
    let begun = Instant::now();
    let device = Device::query(&args.iface).await?;
    let addresses = addresses(args, &device)?;
    let (source, next_hop) = way(args, &device, &addresses).await?;
    let (ping, mut events) = Ping::new(
        PingConfig {
            target: args.target,
            source,
            next_hop,
            count: args.count,
            interval: args.interval,
            timeout: args.timeout,
            payload_len: args.size,
        },
        fastrand::u64(..),
    )?;
    let mut supervisor = Supervisor::start(&RunConfig {
        addresses,
        wait: args.wait.parse::<WaitStrategy>()?,
        risk_kernel_panic: args.risk.risk_kernel_panic,
        ..RunConfig::new(&*args.iface, ping.factory())
    })
    .await?;
    let output = Output { args, source };
    output.start(supervisor.info().attached.mode, next_hop);
    if !supervisor.info().enabled {
        supervisor.stop().await;
        bail!("{0} is down: set it up with `ip link set {0} up`", args.iface);
    }
    let mut silent = false;
    let reason = tokio::select! {
        reason = supervisor.run() => reason,
        () = signals.any() => EndReason::Requested,
        () = follow(&output, &mut events, &mut silent) => EndReason::Requested,
    };
    let report = supervisor.stop().await;
    // What came in while it was being stopped.
    while let Ok(event) = events.try_recv() {
        output.event(&event);
    }
    let results = ping.results();
    output.summary(&results, begun.elapsed());
    report.verdict(reason)?;
    let protocol = if next_hop.address.is_ipv4() { "ARP" } else { "neighbour discovery" };
    if silent {
        bail!("{} does not answer {protocol} on {}: is it there?", next_hop.address, args.iface);
    }
    if results.received + results.late == 0 {
        bail!("no reply from {} through {} to {} requests", args.target, args.iface, results.sent);
    }
    Ok(())
}

/// Prints what happens until nothing more does. Sets `silent` if the next hop never answered.
async fn follow(output: &Output<'_>, events: &mut mpsc::Receiver<PingEvent>, silent: &mut bool) {
    while let Some(event) = events.recv().await {
        output.event(&event);
        match event {
            PingEvent::Reply(_) => {}
            PingEvent::NextHopSilent => {
                *silent = true;
                return;
            }
            PingEvent::Finished => return,
        }
    }
    // The driver is gone, which the supervisor notices.
    std::future::pending::<()>().await;
}

/// The addresses of the probe, none of them the kernel's.
fn addresses(args: &Args, device: &Device) -> anyhow::Result<Vec<(IpAddr, u8)>> {
    for InterfaceAddress { address, prefix_len: length } in &args.addr {
        ownable(*address)?;
        if device.addresses.iter().any(|(kernels, _)| kernels == address) {
            bail!(
                "--addr {address}/{length} is the kernel's own address on {}: it would no longer get its ARP and echo \
                 replies; give a free address of that network",
                device.name
            );
        }
    }
    if !args.addr.is_empty() {
        return Ok(args.addr.iter().map(|own| (own.address, own.prefix_len)).collect());
    }
    let defaults = default_addresses().map(|own| (own.address, own.prefix_len));
    let is_free = |address: &IpAddr| !device.addresses.iter().any(|(kernels, _)| kernels == address);
    let fits = defaults.iter().any(|own| Local::new(device.mac, &[*own]).source_for(args.target).is_some());
    let has_kernels = device.addresses.iter().any(|(kernels, length)| {
        Local::new(device.mac, &[(*kernels, *length)]).source_for(args.target).is_some()
    });
    if fits && !has_kernels && defaults.iter().all(|(address, _)| is_free(address)) {
        return Ok(defaults.to_vec());
    }
    let kernels = device
        .addresses
        .iter()
        .find(|(address, _)| address.is_ipv4() == args.target.is_ipv4())
        .map(|(address, length)| {
            format!(", for example a free one beside the kernel's {address}/{length}, which cannot be shared")
        });
    bail!(
        "the probe needs an address of its own on {}: give it with --addr ADDR/LEN{}",
        device.name,
        kernels.unwrap_or_default()
    )
}

/// The address to send from, and the first station on the way.
async fn way(args: &Args, device: &Device, addresses: &[(IpAddr, u8)]) -> anyhow::Result<(IpAddr, NextHop)> {
    let local = Local::new(device.mac, addresses);
    let target = args.target;
    if addresses.iter().any(|(address, _)| *address == target) {
        bail!("{target} is the probe's own address: give another with --addr");
    }
    let netlink = Netlink::open()?;
    let on_link = local.source_for(target).is_some();
    let hop = match args.gateway {
        Some(gateway) => gateway,
        None if on_link => target,
        None => match netlink.route_to(target, device.index).await? {
            Route::Gateway(gateway) => gateway,
            Route::OnLink => target,
            Route::Local => bail!("{target} is this host's own address: nothing goes over {}", device.name),
            Route::None => bail!(
                "no route to {target} through {}: give an address on its network with --addr, or --gateway",
                device.name
            ),
        },
    };
    let family = |(address, _): &&(IpAddr, u8)| address.is_ipv4() == target.is_ipv4();
    let source = local.source_for(hop).or_else(|| addresses.iter().find(family).map(|(address, _)| *address));
    let Some(source) = source else {
        bail!("no address of the probe is of the family of {target}: give one with --addr");
    };
    let mac = match netlink.neighbor(hop, device.index).await? {
        None => KnownMac::Unknown,
        Some(neighbor) if neighbor.fixed => KnownMac::Fixed(neighbor.mac),
        Some(neighbor) => KnownMac::Heard(neighbor.mac),
    };
    Ok((source, NextHop { address: hop, mac }))
}

/// Prints what happens: for people, or as JSON lines (docs/json.md).
struct Output<'a> {
    args: &'a Args,
    source: IpAddr,
}

#[derive(Serialize)]
struct ReplyLine {
    event: &'static str,
    schema: u32,
    sequence: u64,
    source: IpAddr,
    payload_bytes: usize,
    hop_limit: u8,
    rtt_ns: u64,
    late: bool,
    duplicate: bool,
    reordered: bool,
}

#[derive(Serialize)]
struct SummaryLine<'a> {
    event: &'static str,
    schema: u32,
    iface: &'a str,
    target: IpAddr,
    source: IpAddr,
    run_ns: u64,
    sent: u64,
    not_sent: u64,
    received: u64,
    lost: u64,
    late: u64,
    duplicates: u64,
    reordered: u64,
    left_out: u64,
    rtt_ns: Option<RttNs>,
}

#[derive(Serialize)]
struct RttNs {
    min: u64,
    p50: u64,
    p90: u64,
    p99: u64,
    p999: u64,
    max: u64,
}

impl From<RoundTrip> for RttNs {
    fn from(rtt: RoundTrip) -> Self {
        let ns = |time: Duration| time.as_nanos() as u64;
        let RoundTrip { min, p50, p90, p99, p999, max } = rtt;
        Self { min: ns(min), p50: ns(p50), p90: ns(p90), p99: ns(p99), p999: ns(p999), max: ns(max) }
    }
}

/// A time in us, as RTTs on a link are.
fn us(time: Duration) -> String {
    format!("{:.1} us", time.as_nanos() as f64 / 1000.0)
}

impl Output<'_> {
    fn start(&self, mode: netdext_host::xdp::attachment::XdpHook, next_hop: NextHop) {
        if self.args.json {
            return;
        }
        let Args { target, iface, size, .. } = self.args;
        let via = if next_hop.address == *target {
            String::new()
        } else {
            format!(" by way of {}", next_hop.address)
        };
        say!("PING {target} from {} through {iface}{via}, {mode} mode: {size} bytes of payload", self.source);
    }

    fn event(&self, event: &PingEvent) {
        let PingEvent::Reply(reply) = event else { return };
        if self.args.quiet {
            return;
        }
        let Reply { sequence, payload_len, hop_limit, rtt, kind, reordered } = *reply;
        if self.args.json {
            print_json(&ReplyLine {
                event: "reply",
                schema: SCHEMA_VERSION,
                sequence,
                source: self.args.target,
                payload_bytes: payload_len,
                hop_limit,
                rtt_ns: rtt.as_nanos() as u64,
                late: kind == ReplyKind::Late,
                duplicate: kind == ReplyKind::Duplicate,
                reordered,
            });
            return;
        }
        let remark = match kind {
            ReplyKind::Late => " (late)",
            ReplyKind::Duplicate => " (duplicate)",
            ReplyKind::InTime if reordered => " (reordered)",
            ReplyKind::InTime => "",
        };
        // As ping counts: payload and ICMP header.
        let (bytes, target) = (payload_len + 8, self.args.target);
        say!("{bytes} bytes from {target}: seq={sequence} ttl={hop_limit} time={}{remark}", us(rtt));
    }

    fn summary(&self, results: &PingResults, run: Duration) {
        let PingResults { sent, not_sent, received, lost, late, duplicates, reordered, left_out, rtt } =
            *results;
        let Args { target, iface, .. } = self.args;
        if self.args.json {
            print_json(&SummaryLine {
                event: "summary",
                schema: SCHEMA_VERSION,
                iface,
                target: *target,
                source: self.source,
                run_ns: run.as_nanos() as u64,
                sent,
                not_sent,
                received,
                lost,
                late,
                duplicates,
                reordered,
                left_out,
                rtt_ns: rtt.map(Into::into),
            });
            return;
        }
        let percent = if sent == 0 { 0.0 } else { lost as f64 * 100.0 / sent as f64 };
        say!("--- {target} through {iface}, {:.1} s", run.as_secs_f64());
        say!(
            "sent {sent}, received {received}, lost {lost} ({percent:.1} %), late {late}, duplicates {duplicates}, \
             reordered {reordered}"
        );
        if not_sent > 0 {
            say!("not sent {not_sent}: no room in the tx ring, or too many waiting for a reply");
        }
        if left_out > 0 {
            say!("lines left out {left_out}: the terminal is slower than the replies; use -q");
        }
        if let Some(RoundTrip { min, p50, p90, p99, p999, max }) = rtt {
            let [min, p50, p90, p99, p999, max] = [min, p50, p90, p99, p999, max].map(us);
            say!("RTT min {min}, p50 {p50}, p90 {p90}, p99 {p99}, p99.9 {p999}, max {max}");
        }
    }
}
