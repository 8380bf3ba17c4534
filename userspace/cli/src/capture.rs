//! Captures: the flags, and `netdext capture` of a running driver.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use netdext::tap::Filter;
use netdext_daemon::control::protocol::Request;
use netdext_daemon::control::{Client, RuntimeDir};
use netdext_host::capture::{CaptureConfig, DEFAULT_RING_SIZE, DEFAULT_SNAPLEN, MAX_RING_SIZE};

use crate::output::complain;
use crate::select::DriverChoice;
use netdext_host::signals::Signals;

/// How long the rest of a capture may take after a signal.
const REST_WITHIN: Duration = Duration::from_secs(5);

/// What to capture of each frame, and of which.
#[derive(clap::Args)]
#[group(skip)]
pub struct CaptureArgs {
    /// Capture only these frames: terms joined by `and`, out of `in`, `out`, `queue N`, `proto NAME|N`,
    /// `host ADDR[/LEN]`, `port N`
    #[arg(long, value_name = "FILTER", default_value = "", hide_default_value = true)]
    filter: Filter,
    /// Bytes captured of each frame
    #[arg(long, value_name = "BYTES", default_value_t = DEFAULT_SNAPLEN)]
    snaplen: u32,
    /// Captured frames that may wait to be written, per queue and direction; further ones are counted
    #[arg(
        long,
        value_name = "FRAMES",
        default_value_t = DEFAULT_RING_SIZE,
        value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_RING_SIZE))
    )]
    ring_size: u32,
}

impl CaptureArgs {
    /// The configuration.
    pub fn config(&self) -> CaptureConfig {
        CaptureConfig { filter: self.filter.clone(), snaplen: self.snaplen, ring_size: self.ring_size }
    }
}

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    driver: DriverChoice,
    /// The file to write; without it, standard output
    #[arg(short = 'w', long, value_name = "FILE")]
    write: Option<PathBuf>,
    #[command(flatten)]
    frames: CaptureArgs,
}

/// `netdext capture`: copies what the driver's process sends, until that ends or a signal comes.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let stdout = io::stdout();
    if args.write.is_none() && stdout.is_terminal() {
        bail!("a capture is no text for a terminal: name a file with --write, or pipe it into tshark -r -");
    }
    // Before the capture begins: a signal then ends it in order.
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    let mut signals = runtime.block_on(async { Signals::watch() })?;
    let (client, entry) = Client::for_driver(&RuntimeDir::from_env(), &args.driver.selector())?;
    let CaptureConfig { filter, snaplen, ring_size } = args.frames.config();
    let mut stream = client.capture(&Request::Capture {
        driver: entry.selector(),
        filter: Some(filter.to_string()),
        snaplen: Some(snaplen),
        ring_size: Some(ring_size),
    })?;
    let socket: UnixStream = stream.as_fd().try_clone_to_owned().context("end the capture in order")?.into();
    std::thread::spawn(move || runtime.block_on(end_in_order(&mut signals, &socket)));
    let mut out: Box<dyn Write> = match &args.write {
        Some(path) => Box::new(File::create(path).with_context(|| format!("create {}", path.display()))?),
        None => Box::new(stdout.lock()),
    };
    match io::copy(&mut stream, &mut out).and_then(|_| out.flush()) {
        // Its reader has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.context("write the capture"),
    }
}

/// At a signal, asks for the end; where the rest does not come or cannot be written, ends without it.
async fn end_in_order(signals: &mut Signals, socket: &UnixStream) {
    signals.any().await;
    // It fails only where the other side has closed already, which ends the capture too.
    let _ = socket.shutdown(Shutdown::Write);
    tokio::select! {
        () = signals.any() => {}
        () = tokio::time::sleep(REST_WITHIN) => {}
    }
    complain!("netdext: the capture was cut off: its rest did not come, or could not be written");
    std::process::exit(1);
}
