//! What the service manager is told: ready, alive, stopping (sd_notify(3)).
//!
//! Without one, that is without `NOTIFY_SOCKET` in the environment, as in a container or a shell, nothing
//! is sent. A message that cannot be sent is logged: the service manager draws its own conclusions, and
//! drivers go on.

use std::time::Duration;

use sd_notify::NotifyState;

/// The service manager that started this process, if one did.
#[derive(Clone, Copy, Debug)]
pub struct ServiceManager {
    watchdog: Option<Duration>,
}

impl ServiceManager {
    /// What the environment says: `NOTIFY_SOCKET`, and `WATCHDOG_USEC` with `WATCHDOG_PID`.
    pub fn from_env() -> Self {
        Self { watchdog: sd_notify::watchdog_enabled() }
    }

    /// How often [`alive`](Self::alive) is to be called: half of what the watchdog allows. `None` if there is
    /// no watchdog.
    pub fn alive_interval(&self) -> Option<Duration> {
        self.watchdog.map(|limit| limit / 2)
    }

    /// Start-up is done. Until then units that come after this one wait.
    pub fn ready(&self, status: &str) {
        send("that it is ready", &[NotifyState::Ready, NotifyState::Status(&one_line(status))]);
    }

    /// A line for `systemctl status`.
    pub fn status(&self, status: &str) {
        send("its status", &[NotifyState::Status(&one_line(status))]);
    }

    /// The main loop still turns. The watchdog restarts a process that does not say so in time.
    pub fn alive(&self) {
        if self.watchdog.is_some() {
            send("that it is alive", &[NotifyState::Watchdog]);
        }
    }

    /// The end has begun, on purpose.
    pub fn stopping(&self) {
        send("that it stops", &[NotifyState::Stopping]);
    }
}

/// A message is lines of `NAME=VALUE`: a second line would be another message.
fn one_line(status: &str) -> String {
    status.replace(['\n', '\r'], " ")
}

fn send(what: &str, message: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(message) {
        tracing::warn!(%error, "cannot tell the service manager {what}");
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;
    use std::process::Command;

    use super::*;

    /// The environment belongs to the process, so this test starts itself anew with another one.
    #[test]
    fn a_service_manager_hears_what_it_is_told_and_without_one_nothing_happens() {
        const CHILD: &str = "NETDEXT_TEST_OF_NOTIFY";
        if std::env::var_os(CHILD).is_some() {
            let manager = ServiceManager::from_env();
            manager.ready("2 drivers\non veth0");
            if let Some(interval) = manager.alive_interval() {
                assert_eq!(interval, Duration::from_secs(15));
            }
            manager.alive();
            manager.status("1 driver");
            manager.stopping();
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify.sock");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        let this = std::thread::current().name().unwrap().to_owned();
        let run = |environment: &[(&str, &str)]| {
            let mut child = Command::new(std::env::current_exe().unwrap());
            child.args(["--exact", &this, "--nocapture"]).env(CHILD, "1");
            child.env_remove("NOTIFY_SOCKET").env_remove("WATCHDOG_USEC").env_remove("WATCHDOG_PID");
            let output = child.envs(environment.iter().copied()).output().unwrap();
            assert!(output.status.success(), "{output:?}");
            let mut messages = Vec::new();
            let mut buffer = [0; 1024];
            while let Ok(length) = socket.recv(&mut buffer) {
                messages.push(String::from_utf8_lossy(&buffer[..length]).into_owned());
            }
            messages
        };
        let path = path.to_str().unwrap();
        let ready = "READY=1\nSTATUS=2 drivers on veth0\n";
        assert_eq!(
            run(&[("NOTIFY_SOCKET", path), ("WATCHDOG_USEC", "30000000")]),
            [ready, "WATCHDOG=1\n", "STATUS=1 driver\n", "STOPPING=1\n"]
        );
        assert_eq!(run(&[("NOTIFY_SOCKET", path)]), [ready, "STATUS=1 driver\n", "STOPPING=1\n"]);
        assert_eq!(run(&[]), [""; 0]);
        // Nobody there any more: said in the log, and no failure.
        assert_eq!(run(&[("NOTIFY_SOCKET", "/nonexistent/notify.sock")]), [""; 0]);
    }
}
