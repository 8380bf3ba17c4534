//! The machine going to sleep and waking up, as systemd-logind tells it on the system bus.
//!
//! ```text
//!   logind: PrepareForSleep(true)            ... asleep ...   PrepareForSleep(false)
//!   here:   Suspending(lock) -> lock dropped                  Resumed
//! ```
//! A delay lock keeps the machine awake, for logind's `InhibitDelayMaxSec` (5 s) at the most, until what is
//! to be done before sleep has been done.

use std::time::Duration;

use futures_util::StreamExt;
use zbus::Connection;
use zbus::fdo::DBusProxy;
use zbus::names::BusName;
use zbus::zvariant::OwnedFd;

/// How long the bus and logind may take to answer: longer than that, netdext starts without them.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// logind's name on the bus.
const LOGIND: &str = "org.freedesktop.login1";

#[zbus::proxy(
    interface = "org.freedesktop.login1.Manager",
    default_service = "org.freedesktop.login1",
    default_path = "/org/freedesktop/login1",
    gen_blocking = false
)]
trait LoginManager {
    fn inhibit(&self, what: &str, who: &str, why: &str, mode: &str) -> zbus::Result<OwnedFd>;

    #[zbus(signal)]
    fn prepare_for_sleep(&self, start: bool) -> zbus::Result<()>;
}

/// Keeps the machine from going to sleep yet; dropping it lets it.
#[derive(Debug)]
#[must_use = "dropping it lets the machine go to sleep"]
pub struct DelayLock(Option<OwnedFd>);

impl DelayLock {
    /// Whether it holds anything: logind may have refused it, and then the machine sleeps when it likes.
    pub fn is_held(&self) -> bool {
        self.0.is_some()
    }
}

/// What happens to the machine.
#[derive(Debug)]
pub enum SleepEvent {
    /// It goes to sleep as soon as the lock is dropped.
    Suspending(DelayLock),
    /// It is awake again.
    Resumed,
}

/// The events, one after the other.
pub struct SleepEvents {
    manager: LoginManagerProxy<'static>,
    signals: PrepareForSleepStream,
    lock: Option<OwnedFd>,
    /// Whether a lock is to be taken before the next event is waited for.
    wants_lock: bool,
}

/// Watches for sleep, if logind is on the system bus; `None` if there is no bus or no logind, as in a
/// container.
pub async fn watch() -> Option<SleepEvents> {
    let connection = tokio::time::timeout(ANSWER_WITHIN, Connection::system()).await;
    match connection {
        Ok(Ok(connection)) => watch_on(&connection).await,
        Ok(Err(error)) => {
            tracing::debug!(%error, "no system bus: sleep is not watched");
            None
        }
        Err(_) => {
            tracing::debug!("the system bus does not answer: sleep is not watched");
            None
        }
    }
}

/// The same on a bus that is connected already.
pub async fn watch_on(connection: &Connection) -> Option<SleepEvents> {
    match tokio::time::timeout(ANSWER_WITHIN, subscribe(connection)).await {
        Ok(Ok(events)) => events,
        Ok(Err(error)) => {
            tracing::warn!(%error, "logind refuses: sleep is not watched");
            None
        }
        Err(_) => {
            tracing::warn!("logind does not answer: sleep is not watched");
            None
        }
    }
}

async fn subscribe(connection: &Connection) -> zbus::Result<Option<SleepEvents>> {
    let name = BusName::try_from(LOGIND)?;
    if !DBusProxy::new(connection).await?.name_has_owner(name).await? {
        return Ok(None);
    }
    let manager = LoginManagerProxy::new(connection).await?;
    let signals = manager.receive_prepare_for_sleep().await?;
    let mut events = SleepEvents { manager, signals, lock: None, wants_lock: true };
    events.take_lock().await;
    Ok(Some(events))
}

impl SleepEvents {
    /// The next event; `None` when the bus is gone. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<SleepEvent> {
        loop {
            if self.wants_lock {
                self.take_lock().await;
            }
            let signal = self.signals.next().await?;
            let Ok(arguments) = signal.args() else { continue };
            if *arguments.start() {
                return Some(SleepEvent::Suspending(DelayLock(self.lock.take())));
            }
            self.wants_lock = true;
            return Some(SleepEvent::Resumed);
        }
    }

    async fn take_lock(&mut self) {
        let asked = self.manager.inhibit("sleep", "netdext", "drivers are powered off before sleep", "delay");
        let refused = match tokio::time::timeout(ANSWER_WITHIN, asked).await {
            Ok(Ok(lock)) => {
                self.lock = Some(lock);
                None
            }
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some("no answer".to_owned()),
        };
        if let Some(reason) = refused {
            tracing::warn!(reason, "logind gives no delay lock: sleep may come before power off");
        }
        self.wants_lock = false;
    }
}
