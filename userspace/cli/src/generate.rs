//! The flags of the traffic drivers (sink, reflect, generate), and their engine inside the kernel.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::ValueEnum;
use netdext::driver::DriverFactory;
use netdext_abi::generate as abi;
use netdext_drivers::generate::{
    Endpoints, FCS_LEN, FrameKind, GenerateConfig, Rate, SizeMix, Template, UnknownFrameKind,
};
use netdext_host::link::traffic::{Flood, Role, Tallies, Traffic, template_of_mac};
use netdext_host::link::{Device, LinkCounters};
use netdext_host::stats::SCHEMA_VERSION;
use serde::Serialize;
use tokio::sync::Notify;

use crate::output::complain;
use crate::{output, units};

/// Frames a second unless `--rate` says otherwise.
const DEFAULT_RATE: f64 = 1000.0;
/// Replies to the last frames may take so long.
pub const LAST_REPLIES: Duration = Duration::from_millis(100);

#[derive(clap::Args)]
#[command(next_help_heading = "Traffic (--driver sink, reflect, generate)")]
pub struct TrafficArgs {
    /// Where the frames are handled: `ring` by the driver in user space over the AF_XDP rings, `xdp` inside the
    /// kernel, as fast as it goes. With `xdp` it is every frame of the interface, in native mode; --steer, --answer,
    /// --queues, --capture, --metrics, --log-frames and --tune are for `ring`
    #[arg(long, value_enum, default_value = "ring")]
    pub engine: Engine,
    /// Sizes of generated frames in bytes, FCS included, with their weights: 64 or 64:7,594:4,1518:1
    #[arg(long, value_name = "MIX", default_value = "64", value_parser = size_mix)]
    size: SizeMix,
    /// Over how many flows (UDP source ports, echo identifiers) generated frames are spread
    #[arg(long, value_name = "N", default_value_t = 1)]
    flows: u32,
    /// The MAC address to send generated frames to
    #[arg(long, value_name = "MAC", value_parser = units::mac)]
    dst_mac: Option<[u8; 6]>,
    /// What is generated: `udp` datagrams to the discard port, or `echo` requests. With `--driver reflect --engine xdp`,
    /// `echo` is what is sent back: IPv4 echo requests, as replies, by the least program that does it; all else is the
    /// kernel's
    #[arg(long, value_name = "KIND", default_value = "udp", value_parser = frame_kind)]
    frames: FrameKind,
    /// Stop after so many generated frames
    #[arg(long, value_name = "N")]
    count: Option<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Engine {
    /// Over the rings, by the driver
    Ring,
    /// Inside the kernel
    Xdp,
}

fn size_mix(text: &str) -> Result<SizeMix, String> {
    text.parse().map_err(|error: netdext_drivers::generate::GenerateConfigError| error.to_string())
}

fn frame_kind(text: &str) -> Result<FrameKind, String> {
    text.parse().map_err(|error: UnknownFrameKind| error.to_string())
}

impl TrafficArgs {
    /// What to generate. `Err` is a usage error.
    fn config(&self, rate: Option<f64>, targets: &[IpAddr]) -> Result<GenerateConfig, String> {
        let [target] = *targets else {
            return Err("--driver generate needs one --target: the IP address to send to".to_owned());
        };
        let Some(destination_mac) = self.dst_mac else {
            return Err(
                "--driver generate needs --dst-mac: the MAC address of the target, or of the router to it, \
                        for example --dst-mac 02:00:00:00:00:02"
                    .to_owned(),
            );
        };
        let rate = match (self.engine, rate) {
            (_, Some(f64::INFINITY)) | (Engine::Xdp, None) => Rate::Max,
            (Engine::Ring, rate) => Rate::PerSecond(rate.unwrap_or(DEFAULT_RATE)),
            (Engine::Xdp, Some(_)) => {
                return Err("--engine xdp can't be paced: leave --rate out, or use --engine ring".to_owned());
            }
        };
        let config = GenerateConfig {
            frames: self.frames,
            target,
            destination_mac,
            sizes: self.size.clone(),
            flows: self.flows,
            rate,
            count: self.count,
        };
        config.check().map_err(|error| error.to_string())?;
        if self.engine == Engine::Xdp && config.sizes.sizes().len() > 1 {
            return Err(
                "--engine xdp sends frames of one size: give --size one, or use --engine ring".to_owned()
            );
        }
        Ok(config)
    }

    /// The generator over the rings. `Err` is a usage error.
    pub fn factory(&self, rate: Option<f64>, targets: &[IpAddr]) -> Result<DriverFactory, String> {
        netdext_drivers::generate::factory(self.config(rate, targets)?).map_err(|error| error.to_string())
    }

    /// What `--engine xdp` is to do. `Err` is a usage error.
    pub fn in_kernel(&self, role: Role, rate: Option<f64>, targets: &[IpAddr]) -> Result<InKernel, String> {
        let generate = match role {
            Role::Generate => Some(self.config(rate, targets)?),
            Role::Discard | Role::Reflect | Role::Echo => None,
        };
        let role = if role == Role::Reflect && self.frames == FrameKind::Echo { Role::Echo } else { role };
        Ok(InKernel { role, generate })
    }
}

/// A traffic driver inside the kernel.
pub struct InKernel {
    role: Role,
    generate: Option<GenerateConfig>,
}

/// Where it runs, and for how long.
pub struct Place<'a> {
    pub iface: &'a str,
    pub addresses: &'a [(IpAddr, u8)],
    pub replace: bool,
    /// Cut the host off, if it comes to that.
    pub yes: bool,
    pub json: bool,
    pub begun: Instant,
}

#[derive(Serialize)]
struct Ready<'a> {
    event: &'static str,
    schema: u32,
    iface: &'a str,
    driver: &'static str,
    engine: &'static str,
    mode: &'static str,
    start_ns: u64,
}

#[derive(Serialize)]
struct Summary<'a> {
    event: &'static str,
    schema: u32,
    iface: &'a str,
    driver: &'static str,
    engine: &'static str,
    run_ns: u64,
    sending_ns: u64,
    tallies: Tallies,
    device: LinkCounters,
}

impl InKernel {
    const fn name(&self) -> &'static str {
        match self.role {
            Role::Generate => "generate",
            Role::Discard => "sink",
            Role::Reflect | Role::Echo => "reflect",
        }
    }

    /// Whether it makes frames.
    pub const fn generates(&self) -> bool {
        self.generate.is_some()
    }

    /// Runs until `end`, or until the count is reached.
    pub async fn run(&self, place: &Place<'_>, end: impl Future<Output = ()>) -> anyhow::Result<()> {
        let device = Device::query(place.iface).await?;
        // As with a steering rule that takes everything.
        anyhow::ensure!(
            place.yes || !device.is_default_route || !self.role.takes_everything(),
            "{} carries the default route: `--driver {} --engine xdp` would cut this host off; add --yes if that is \
             meant",
            device.name,
            self.name()
        );
        let prepared =
            self.generate.as_ref().map(|config| prepare(config, &device, place.addresses)).transpose()?;
        let template =
            prepared.as_ref().map_or_else(|| template_of_mac(device.mac), |(template, _)| *template);
        let mut traffic = Traffic::load(self.role, &template)?;
        traffic.attach(place.iface, device.index, place.replace)?;
        let before = LinkCounters::query(place.iface).await?;
        self.say_ready(place);
        let traffic = Arc::new(traffic);
        let ended = Arc::new(Notify::new());
        let flood = match (prepared, &self.generate) {
            (Some((_, frame)), Some(config)) => {
                let ended = Arc::clone(&ended);
                let flood =
                    Flood::start(Arc::clone(&traffic), device.index, frame, config.count, move || {
                        ended.notify_one();
                    });
                Some(flood.context("start the thread of the flood")?)
            }
            _ => None,
        };
        tokio::select! {
            () = end => {}
            () = ended.notified() => {}
        }
        let sending = flood.map(Flood::stop).transpose();
        tokio::time::sleep(LAST_REPLIES).await;
        let counts = LinkCounters::query(place.iface).await?.since(&before);
        self.say_summary(place, *sending.as_ref().ok().unwrap_or(&None), traffic.tallies()?, counts);
        sending.map(drop).with_context(|| {
            format!("flood {} with live frames (Linux 5.18 or newer, a device that takes them)", place.iface)
        })
    }

    fn say_ready(&self, place: &Place<'_>) {
        let ready = Ready {
            event: "ready",
            schema: SCHEMA_VERSION,
            iface: place.iface,
            driver: self.name(),
            engine: "xdp",
            mode: "native",
            start_ns: place.begun.elapsed().as_nanos() as u64,
        };
        if place.json {
            output::print_json(&ready);
        } else {
            output::print_line(&format!("ready: {} on {}, inside the kernel", ready.driver, ready.iface));
        }
    }

    fn say_summary(
        &self,
        place: &Place<'_>,
        sending: Option<Duration>,
        tallies: Tallies,
        device: LinkCounters,
    ) {
        let sending = sending.unwrap_or_default();
        let run = place.begun.elapsed();
        if place.json {
            output::print_json(&Summary {
                event: "summary",
                schema: SCHEMA_VERSION,
                iface: place.iface,
                driver: self.name(),
                engine: "xdp",
                run_ns: run.as_nanos() as u64,
                sending_ns: sending.as_nanos() as u64,
                tallies,
                device,
            });
        } else {
            output::print_line(&format!(
                "summary: {} on {}, {:.1} s",
                self.name(),
                place.iface,
                run.as_secs_f64()
            ));
            for (name, tally) in tallies.iter() {
                output::print_line(&format!("  {name:12} {} frames, {} bytes", tally.frames, tally.bytes));
            }
            let generated = tallies.get(abi::Tallied::Generated).frames;
            if !sending.is_zero() && generated > 0 {
                output::print_line(&format!(
                    "  rate         {:.0} frames a second over {:.2} s of sending",
                    generated as f64 / sending.as_secs_f64(),
                    sending.as_secs_f64()
                ));
            }
        }
        // A veth whose other end does not poll drops live frames without counting them anywhere.
        let generated = tallies.get(abi::Tallied::Generated).frames;
        let lost = generated.saturating_sub(device.tx_packets);
        if lost > 0 {
            complain!(
                "netdext: {} did not send {lost} of {generated} frames: their receiver is too slow, or, on a veth, its \
                 other end has neither an XDP program nor GRO (`ethtool -K PEER gro on`)",
                place.iface
            );
        }
    }
}

/// The kernel's template, and a frame to begin with.
fn prepare(
    config: &GenerateConfig,
    device: &Device,
    addresses: &[(IpAddr, u8)],
) -> anyhow::Result<(abi::Template, Vec<u8>)> {
    let source = addresses.iter().map(|(ip, _)| *ip).find(|ip| ip.is_ipv4() == config.target.is_ipv4());
    let source = source.with_context(|| {
        format!("{} has no address of the family of {}: add one with --addr", device.name, config.target)
    })?;
    let size = config.sizes.sizes()[0];
    let longest = device.mtu as usize + netdext_abi::parse::ETHERNET_LEN + FCS_LEN;
    anyhow::ensure!(
        size <= longest,
        "frames of {size} bytes do not fit the MTU of {}, {}: {longest} is the longest",
        device.name,
        device.mtu
    );
    let ends = Endpoints {
        source_mac: device.mac,
        destination_mac: config.destination_mac,
        source,
        target: config.target,
    };
    let template = Template::new(config.frames, &ends, size)?;
    Ok((template.for_kernel(config.flows), template.bytes().to_vec()))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: TrafficArgs,
    }

    const TARGET: [IpAddr; 1] = [IpAddr::V4(std::net::Ipv4Addr::new(198, 18, 0, 2))];

    fn config(words: &[&str], rate: Option<f64>) -> Result<GenerateConfig, String> {
        let words = ["x"].iter().chain(words);
        let cli = Cli::try_parse_from(words).map_err(|error| error.to_string())?;
        cli.args.config(rate, &TARGET)
    }

    #[test]
    fn the_flags_make_a_configuration() {
        let words = [
            "--dst-mac",
            "02:00:00:00:00:02",
            "--size",
            "64:3,1518",
            "--flows",
            "7",
            "--frames",
            "echo",
            "--count",
            "9",
        ];
        let config = config(&words, Some(5.0)).unwrap();
        assert_eq!((config.destination_mac, config.flows), ([2, 0, 0, 0, 0, 2], 7));
        assert_eq!(
            (config.rate, config.frames, config.count),
            (Rate::PerSecond(5.0), FrameKind::Echo, Some(9))
        );
        assert_eq!(config.sizes.sizes(), [64, 1518]);
    }

    #[test]
    fn what_is_missing_or_wrong_is_named_with_an_example_or_a_way_out() {
        let mac = ["--dst-mac", "02:00:00:00:00:02"];
        let with = |more: &[&'static str]| [&mac[..], more].concat();
        for (words, rate, named) in [
            (vec![], None, "--dst-mac 02:"),
            (with(&["--engine", "xdp"]), Some(5.0), "--engine ring"),
            (with(&["--engine", "xdp", "--size", "64,65"]), None, "--engine ring"),
            (with(&["--flows", "0"]), None, "64512"),
            (with(&["--size", "10"]), None, "64 to 9018"),
            (vec!["--dst-mac", "02:00"], None, "02:00:00:00:00:02"),
        ] {
            let error = config(&words, rate).unwrap_err();
            assert!(error.contains(named), "{words:?}: {error}");
        }
    }

    #[test]
    fn the_engine_inside_the_kernel_has_no_rate() {
        let words = ["--dst-mac", "02:00:00:00:00:02", "--engine", "xdp"];
        assert_eq!(config(&words, None).unwrap().rate, Rate::Max);
        assert_eq!(config(&words, Some(f64::INFINITY)).unwrap().rate, Rate::Max);
        assert_eq!(config(&words[..2], None).unwrap().rate, Rate::PerSecond(DEFAULT_RATE));
    }
}
