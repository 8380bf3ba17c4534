//! `--engine xdp`: sink, reflector and generator inside the kernel.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::ValueEnum;
use netdext::registry::DriverType;
use netdext_abi::generate as abi;
use netdext_drivers::generate::{
    self, Endpoints, FCS_LEN, FrameKind, Generate, GenerateConfig, Rate, Template,
};
use netdext_drivers::reflect::Reflect;
use netdext_drivers::sink::Sink;
use netdext_host::link::{Device, LinkCounters};
use netdext_host::stats::SCHEMA_VERSION;
use netdext_host::xdp::traffic::{Flood, Role, Tallies, Traffic, template_of_mac};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::Notify;

use crate::output::{self, complain};

/// Replies to the last frames may take so long.
pub const LAST_REPLIES: Duration = Duration::from_millis(100);

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Engine {
    /// Over the rings, by the driver
    Ring,
    /// Inside the kernel
    Xdp,
}

/// A traffic driver inside the kernel.
pub struct InKernel {
    role: Role,
    generate: Option<GenerateConfig>,
}

fn typed<T: DriverType>(options: &Value) -> Result<T::Options, String> {
    T::Options::deserialize(options).map_err(|error| error.to_string())
}

/// What to generate inside the kernel.
fn flood(options: &generate::Options) -> Result<GenerateConfig, String> {
    if let Some(Rate::PerSecond(_)) = options.rate() {
        return Err("--engine xdp can't be paced: leave --rate out, or use --engine ring".to_owned());
    }
    let config = options.config(Rate::Max).map_err(|error| error.to_string())?;
    if config.sizes.sizes().len() > 1 {
        return Err("--engine xdp sends frames of one size: give --size one, or use --engine ring".to_owned());
    }
    Ok(config)
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
    /// What `--engine xdp` is to do for a driver with these options. `Err` is a usage error.
    pub fn new(driver: &str, options: &Value) -> Result<Self, String> {
        let (role, generate) = match driver {
            Sink::NAME => (Role::Discard, None),
            Reflect::NAME => match typed::<Reflect>(options)?.frames {
                FrameKind::Udp => (Role::Reflect, None),
                FrameKind::Echo => (Role::Echo, None),
            },
            Generate::NAME => (Role::Generate, Some(flood(&typed::<Generate>(options)?)?)),
            _ => return Err("--engine xdp is for --driver sink, reflect and generate".to_owned()),
        };
        Ok(Self { role, generate })
    }

    const fn name(&self) -> &'static str {
        match self.role {
            Role::Generate => Generate::NAME,
            Role::Discard => Sink::NAME,
            Role::Reflect | Role::Echo => Reflect::NAME,
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
    use serde_json::json;

    use super::*;

    fn with(mut options: Value, key: &str, value: Value) -> Value {
        options[key] = value;
        options
    }

    fn generating() -> Value {
        json!({ "target": "198.18.0.2", "dst_mac": "02:00:00:00:00:02" })
    }

    #[test]
    fn the_built_in_traffic_drivers_have_a_role_inside_the_kernel() {
        for (driver, options, role) in [
            ("sink", json!({}), Role::Discard),
            ("reflect", json!({}), Role::Reflect),
            ("reflect", json!({ "frames": "echo" }), Role::Echo),
            ("generate", generating(), Role::Generate),
        ] {
            let traffic = InKernel::new(driver, &options).unwrap();
            assert_eq!((traffic.role, traffic.name()), (role, driver));
        }
        let Err(error) = InKernel::new("sample", &json!({})) else { panic!("it has none") };
        assert!(error.contains("--driver sink"), "{error}");
    }

    #[test]
    fn the_engine_inside_the_kernel_has_no_rate_and_one_size() {
        for rate in [Value::Null, json!("max")] {
            let traffic = InKernel::new("generate", &with(generating(), "rate_pps", rate)).unwrap();
            assert_eq!(traffic.generate.unwrap().rate, Rate::Max);
        }
        for (key, value) in [("rate_pps", json!(5.0)), ("size_bytes", json!("64,65"))] {
            let Err(error) = InKernel::new("generate", &with(generating(), key, value)) else {
                panic!("{key}")
            };
            assert!(error.contains("--engine ring"), "{error}");
        }
        let Err(error) = InKernel::new("generate", &json!({})) else { panic!("it has no target") };
        assert!(error.contains("--target"), "{error}");
    }
}
