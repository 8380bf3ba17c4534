//! `netdext daemon`: runs what is installed.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context;
use netdext_daemon::control::{RuntimeDir, Server, ServerConfig, SocketName};
use netdext_daemon::daemon::Daemon;
use netdext_daemon::metrics::MetricsServer;
use netdext_daemon::registry::{Registry, StateDir};
use netdext_daemon::spec::DriverTypes;
use netdext_host::link::netns;
use netdext_host::privilege;
use tokio::sync::mpsc;
use tokio::task::LocalSet;

use crate::kernel::RiskArgs;
use crate::output::say;
use netdext_host::signals::Signals;

/// Requests that may wait for the daemon; the server has as many clients at the most.
const REQUESTS: usize = 64;

#[derive(clap::Args)]
pub struct Args {
    /// Enter this network namespace first; it is made if it is missing, and then removed at the end
    #[arg(long, value_name = "NAME")]
    netns: Option<String>,
    /// Serve metrics of all drivers for Prometheus at http://ADDR:PORT/metrics
    #[arg(long, value_name = "ADDR:PORT")]
    metrics: Option<SocketAddr>,
    #[command(flatten)]
    risk: RiskArgs,
}

/// Runs the command.
pub fn run(args: &Args, types: DriverTypes) -> anyhow::Result<()> {
    privilege::require_for_run(args.netns.is_some())?;
    args.risk.require_rings()?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    // From here on a signal stops in order, also one that comes while starting.
    let mut signals = runtime.block_on(async { Signals::watch() })?;
    let runtime_dir = RuntimeDir::from_env();
    // Before anything is started: of two daemons the second must not touch what the first one runs.
    let socket = runtime_dir.bind(SocketName::Daemon)?;
    let registry = Registry::open(&StateDir::from_env())?;
    // Before any other thread and socket: a namespace belongs to a thread, and threads inherit it.
    let namespace = args.netns.as_deref().map(netns::enter_or_create).transpose()?;
    let result = runtime.block_on(LocalSet::new().run_until(async {
        let path = socket.path().to_owned();
        let server = Server::new(socket, ServerConfig::default()).context("serve the control socket")?;
        let metrics = match args.metrics {
            Some(address) => Some(MetricsServer::bind(address).await?),
            None => None,
        };
        let mut daemon = Daemon::new(registry, Arc::new(types));
        daemon.risk_kernel_panic(args.risk.risk_kernel_panic);
        daemon.start().await;
        let (requests, incoming) = mpsc::channel(REQUESTS);
        let serving = tokio::task::spawn_local(server.serve(requests, std::future::pending()));
        let (installed, running) = daemon.counts();
        say!("ready: daemon, {running} of {installed} driver(s) running, {}", path.display());
        let (scrapes, scraped) = mpsc::channel(1);
        if let Some(server) = metrics {
            tokio::task::spawn_local(server.serve(scrapes));
        }
        daemon.run(incoming, scraped, signals.any()).await;
        // The socket goes last: whoever finds none may start another daemon.
        serving.await.context("serve the control socket")
    }));
    drop(namespace);
    result
}
