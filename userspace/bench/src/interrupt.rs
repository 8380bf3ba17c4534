//! Ctrl-C: noticed by whoever waits, so that everything made is removed on the way out.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use netdext_host::signals::Signals;

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// How often a wait looks up.
const LOOK: Duration = Duration::from_millis(20);

/// Notices SIGINT, SIGTERM and SIGHUP from now on.
///
/// # Errors
/// The system refuses a thread or a signal handler.
pub fn watch() -> anyhow::Result<()> {
    let (sender, ready) = std::sync::mpsc::channel();
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
            let Ok(runtime) = runtime else { return };
            runtime.block_on(async {
                let Ok(mut signals) = Signals::watch() else { return };
                if sender.send(()).is_err() {
                    return;
                }
                signals.any().await;
                INTERRUPTED.store(true, Ordering::Relaxed);
            });
        })
        .context("start the thread that watches for signals")?;
    // Its end without a word is a handler that was refused.
    ready.recv().context("watch for signals")
}

/// Whether a signal has come.
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// Fails once a signal has come.
///
/// # Errors
/// A signal has come.
pub fn check() -> anyhow::Result<()> {
    if interrupted() {
        bail!("interrupted; everything that was made is removed");
    }
    Ok(())
}

/// Sleeps, unless a signal comes.
///
/// # Errors
/// A signal has come.
pub fn sleep(time: Duration) -> anyhow::Result<()> {
    let until = Instant::now() + time;
    loop {
        check()?;
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(LOOK));
    }
}
