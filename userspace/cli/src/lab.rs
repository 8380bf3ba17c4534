//! `netdext lab`: the veth pair to try a driver on.

use anyhow::{Context, bail};
use clap::Subcommand;
use netdext_host::link::lab::MAX_QUEUES;
use netdext_host::link::netns::NamespaceGuard;
use netdext_host::link::{Device, Lab, LabConfig, netns};
use netdext_host::privilege;

use crate::output::say;
use netdext_host::signals::Signals;

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
    /// The driver's end, vethN; the host's end is the next number
    #[arg(long, global = true, value_name = "IFACE", default_value = "veth0", value_parser = pair)]
    iface: LabConfig,
    /// The network namespace of the pair; `up` makes it if it is missing, and `down` removes it with the pair if `up`
    /// made it and no other interface is left in it
    #[arg(long, global = true, value_name = "NAME")]
    netns: Option<String>,
}

#[derive(Clone, Copy, Subcommand)]
enum Action {
    /// Make the pair
    Up {
        /// Queues of each end
        #[arg(
            long,
            value_name = "N",
            default_value_t = LabConfig::default().queues,
            value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_QUEUES))
        )]
        queues: u32,
    },
    /// Remove a pair that netdext made
    Down,
    /// Say what there is
    Status,
}

/// The pair whose driver's end has this name.
fn pair(iface: &str) -> Result<LabConfig, String> {
    LabConfig::for_driver(iface)
        .ok_or_else(|| "no end of a lab, which is called veth and a number; for example veth0".to_owned())
}

/// Runs the command.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let config = args.iface.clone();
    if !matches!(args.action, Action::Status) {
        privilege::require_for_run(args.netns.is_some())?;
    }
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    // None of the actions takes long: it is brought to its end, or taken back.
    let mut signals = runtime.block_on(async { Signals::watch() })?;
    // Before any other thread and socket: a namespace belongs to a thread, and threads inherit it.
    let namespace = match (&args.netns, args.action) {
        (Some(name), Action::Up { .. }) => Some(netns::enter_or_create(name)?),
        (Some(name), _) => {
            netns::enter(name)?;
            None
        }
        (None, _) => None,
    };
    runtime.block_on(async {
        match args.action {
            Action::Up { queues } => up(&LabConfig { queues, ..config }, namespace, &mut signals).await,
            Action::Down => {
                Lab::remove(&config.driver_iface).await?;
                say!("removed {} and {}", config.driver_iface, config.host_iface);
                if let Some(name) = &args.netns
                    && netns::remove_kept(name).await?
                {
                    say!("removed the namespace {name}");
                }
                Ok(())
            }
            Action::Status => status(&config).await,
        }
    })
}

async fn up(
    config: &LabConfig,
    namespace: Option<NamespaceGuard>,
    signals: &mut Signals,
) -> anyhow::Result<()> {
    let lab = Lab::up(config).await?;
    if signals.came().await {
        lab.down().await?;
        bail!("interrupted: {} and {} are removed again", config.driver_iface, config.host_iface);
    }
    if let Some(namespace) = namespace {
        namespace.keep().await?;
    }
    lab.keep();
    let list = |addresses: &[(std::net::IpAddr, u8)]| {
        addresses.iter().map(|(address, length)| format!("{address}/{length}")).collect::<Vec<_>>().join(", ")
    };
    say!("{}: for a driver with {}", config.driver_iface, list(&config.driver_addresses));
    say!("{}: the host's, with {}", config.host_iface, list(&config.host_addresses));
    Ok(())
}

async fn status(config: &LabConfig) -> anyhow::Result<()> {
    let status = Lab::status(config).await?;
    let line = |name: &str, device: Option<&Device>| match device {
        Some(device) => say!(
            "{name}: {}, {} queue(s), MTU {}, XDP program: {}",
            if device.up { "up" } else { "down" },
            device.active_queues.usable(),
            device.mtu,
            device.xdp.map_or_else(|| "none".to_owned(), |xdp| format!("id {}", xdp.id)),
        ),
        None => say!("{name}: missing"),
    };
    line(&config.driver_iface, status.driver.as_ref());
    line(&config.host_iface, status.host.as_ref());
    if status.driver.is_some() && !status.ours {
        say!("{} was not made by netdext", config.driver_iface);
    }
    Ok(())
}
