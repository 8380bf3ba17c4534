//! Installed drivers: `netdext install|uninstall|list|ioreg|enable|disable|power`.

use std::io::{BufRead, IsTerminal, Write};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::ValueEnum;
use netdext::driver::PowerState;
use netdext::registry::Registry;
use netdext_daemon::control::ioreg::{self, Entry};
use netdext_daemon::control::list::{ListEntry, ListState, table};
use netdext_daemon::control::protocol::{Identity, Request};
use netdext_daemon::control::{Client, ClientError, RuntimeDir, SocketName};
use netdext_daemon::registry::{Registry as Installed, StateDir};
use netdext_daemon::spec::DriverSpec;

use crate::driver_args::DriverArgs;
use crate::output::{print_json, say};
use crate::select::DriverChoice;

/// The team that stands for a driver unless another is given.
const DEFAULT_TEAM: &str = "NETDEXT000";

/// How long a driver may take to start: a queue that is still busy is tried for seconds.
const INSTALL_TIMEOUT: Duration = Duration::from_secs(60);

#[derive(clap::Args)]
#[group(skip)]
pub struct InstallArgs {
    /// The driver's reverse-DNS name [default: org.netdext. and the driver's name]
    #[arg(long, value_name = "ID")]
    bundle_id: Option<String>,
    /// Who stands for the driver: letters and digits
    #[arg(long, value_name = "ID", default_value = DEFAULT_TEAM)]
    team_id: String,
    /// The driver's name for people [default: the bundle ID]
    #[arg(long)]
    name: Option<String>,
    #[command(flatten)]
    driver: DriverArgs,
    /// Print the installed driver as a JSON object
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
pub struct ChoiceArgs {
    #[command(flatten)]
    pub driver: DriverChoice,
    /// Print the driver as a JSON object
    #[arg(long)]
    pub json: bool,
}

#[derive(clap::Args)]
pub struct ListArgs {
    /// Print one JSON object a driver
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
pub struct PowerArgs {
    /// The power state
    #[arg(value_enum)]
    state: Power,
    #[command(flatten)]
    choice: ChoiceArgs,
}

#[derive(Clone, Copy, ValueEnum)]
enum Power {
    /// Timers run, and frames arrive
    On,
    /// No timers, rings drained, frames stay with the kernel
    Off,
}

impl InstallArgs {
    /// The flags of the driver.
    pub fn driver(&mut self) -> &mut DriverArgs {
        &mut self.driver
    }
}

/// `netdext install`.
pub fn install(args: &InstallArgs, types: &Registry) -> anyhow::Result<()> {
    let spec = args.driver.spec(types, &args.driver.rules()?);
    let bundle_id = args.bundle_id.clone().unwrap_or_else(|| format!("org.netdext.{}", spec.driver));
    let identity = Identity {
        team_id: args.team_id.clone(),
        name: args.name.clone().unwrap_or_else(|| bundle_id.clone()),
        bundle_id,
        version: format!("{}/1", env!("CARGO_PKG_VERSION")),
    };
    args.driver.risk.require_rings_of_daemon()?;
    // A daemon that is not there is said before anything is asked.
    let mut daemon = Client::daemon(&RuntimeDir::from_env())?;
    daemon.set_timeout(INSTALL_TIMEOUT);
    if !args.driver.yes && std::io::stdin().is_terminal() && !confirmed(&identity, &spec)? {
        bail!("not installed: it was not confirmed");
    }
    let entry = daemon.request(&Request::Install { identity, spec: Box::new(spec) })?;
    show(&entry, "installed", args.json);
    Ok(())
}

fn confirmed(identity: &Identity, spec: &DriverSpec) -> anyhow::Result<bool> {
    let question = format!(
        "netdext: {} {} will take frames from {}. Install it? [y/N] ",
        identity.team_id,
        identity.bundle_id,
        spec.ifaces().collect::<Vec<_>>().join(", ")
    );
    let asked = std::io::stderr().write_all(question.as_bytes());
    asked.context("ask on standard error whether to install it (--yes answers)")?;
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line).context("read the answer from standard input")?;
    Ok(matches!(line.trim(), "y" | "Y" | "yes"))
}

/// `netdext uninstall`.
pub fn uninstall(args: &ChoiceArgs) -> anyhow::Result<()> {
    let request = Request::Uninstall { driver: args.driver.selector() };
    let entry: ListEntry = Client::daemon(&RuntimeDir::from_env())?.request(&request)?;
    if args.json {
        print_json(&entry);
    } else {
        say!("uninstalled: {entry}");
    }
    Ok(())
}

/// `netdext enable`.
pub fn enable(args: &ChoiceArgs) -> anyhow::Result<()> {
    switch(args, "enabled", |driver| Request::Enable { driver })
}

/// `netdext disable`.
pub fn disable(args: &ChoiceArgs) -> anyhow::Result<()> {
    switch(args, "disabled", |driver| Request::Disable { driver })
}

/// `netdext power`.
pub fn power(args: &PowerArgs) -> anyhow::Result<()> {
    let (state, done) = match args.state {
        Power::On => (PowerState::On, "powered on"),
        Power::Off => (PowerState::Off, "powered off"),
    };
    switch(&args.choice, done, |driver| Request::Power { driver, state })
}

fn switch(
    args: &ChoiceArgs,
    done: &str,
    request: impl FnOnce(netdext_daemon::control::protocol::Selector) -> Request,
) -> anyhow::Result<()> {
    let (mut client, entry) = Client::for_driver(&RuntimeDir::from_env(), &args.driver.selector())?;
    let entry = client.request(&request(entry.selector()))?;
    show(&entry, done, args.json);
    Ok(())
}

fn show(entry: &ListEntry, done: &str, json: bool) {
    if json {
        print_json(entry);
    } else {
        say!("{done}: {entry} [{}]", entry.state.words());
    }
}

/// `netdext list`: what runs, and without a daemon what one would start.
pub fn list(args: &ListArgs) -> anyhow::Result<()> {
    let mut entries = Vec::new();
    let mut daemon = false;
    let dir = RuntimeDir::from_env();
    match Client::all(&dir) {
        Ok(clients) => {
            for mut client in clients {
                daemon |= client.path() == dir.socket(SocketName::Daemon);
                match client.request::<Vec<ListEntry>>(&Request::List {}) {
                    Ok(listed) => entries.extend(listed),
                    // It has ended meanwhile.
                    Err(error) if error.is_gone() => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Err(ClientError::NoneRunning { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    if !daemon {
        entries.extend(installed()?);
    }
    if args.json {
        entries.iter().for_each(print_json);
    } else {
        say!("{}", table(&entries).trim_end());
    }
    Ok(())
}

/// What the state directory holds, while no daemon runs it.
fn installed() -> anyhow::Result<Vec<ListEntry>> {
    let entry = |installed: netdext_daemon::registry::Installed| {
        let Identity { team_id, bundle_id, version, name } = installed.identity;
        ListEntry {
            team_id,
            bundle_id,
            version,
            name,
            enabled: installed.enabled,
            active: false,
            state: ListState::TerminatedWaitingToStart,
            iface: installed.spec.iface,
            other_ifaces: installed.spec.other_ifaces,
            last_error: None,
        }
    };
    Ok(Installed::read(&StateDir::from_env())?.into_iter().map(entry).collect())
}

/// `netdext ioreg`.
pub fn ioreg(args: &ListArgs) -> anyhow::Result<()> {
    let mut roots: Vec<Entry> = Vec::new();
    for mut client in Client::all(&RuntimeDir::from_env())? {
        match client.request::<Vec<Entry>>(&Request::Ioreg {}) {
            Ok(entries) => roots.extend(entries),
            Err(error) if error.is_gone() => {}
            Err(error) => return Err(error.into()),
        }
    }
    if args.json {
        roots.iter().for_each(print_json);
    } else {
        say!("{}", ioreg::text(&roots).trim_end());
    }
    Ok(())
}
