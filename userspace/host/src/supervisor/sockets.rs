//! The workers' sockets, and whether they are in the XSKMAP.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::thread::{MembarrierCommand, membarrier};

use crate::xdp::steering::{SocketMap, SteeringError};

/// How long to wait for receive polls under way where the kernel cannot say when they are over.
const POLL_GRACE: Duration = Duration::from_millis(50);

/// The socket of each queue, for the XSKMAP. A worker that cannot go on takes its own out by itself, at once: what the
/// supervisor is waiting for meanwhile may take a second.
pub(super) struct Sockets(Arc<Mutex<State>>);

struct State {
    map: SocketMap,
    // Of the workers that have not failed.
    sockets: Vec<(u32, OwnedFd)>,
    claimed: bool,
}

impl Sockets {
    pub(super) fn new(map: SocketMap) -> Self {
        Self(Arc::new(Mutex::new(State { map, sockets: Vec::new(), claimed: false })))
    }

    /// Adds the socket of a worker that was started.
    pub(super) fn add(&self, queue: u32, socket: OwnedFd) {
        lock(&self.0).sockets.push((queue, socket));
    }

    /// Whether the sockets are in the XSKMAP.
    pub(super) fn are_claimed(&self) -> bool {
        lock(&self.0).claimed
    }

    /// Puts every socket into the XSKMAP, or none.
    pub(super) fn claim(&self) -> Result<(), SteeringError> {
        let mut state = lock(&self.0);
        let State { map, sockets, claimed } = &mut *state;
        *claimed = true;
        let inserted = sockets.iter().try_for_each(|(queue, socket)| map.insert(*queue, socket.as_fd()));
        if inserted.is_err() {
            // Why they are not in says more than why one cannot be taken out.
            let _ = state.release();
        }
        inserted
    }

    /// Takes every socket out of the XSKMAP. If one cannot be, they are still claimed.
    pub(super) fn release(&self) -> Result<(), SteeringError> {
        lock(&self.0).release()
    }

    /// What the worker of `queue` is to do when it cannot go on: it takes its socket out. Says whether it was in, so that
    /// what was redirected before may still be on its way to the rx ring.
    pub(super) fn on_failure(&self, queue: u32) -> impl FnOnce() -> bool + Send + use<> {
        // Where the supervisor is gone, so is its program. A worker that hangs must not keep the others' sockets open.
        let state = Arc::downgrade(&self.0);
        move || state.upgrade().is_some_and(|state| lock(&state).give_up(queue))
    }
}

impl State {
    fn release(&mut self) -> Result<(), SteeringError> {
        // Each is tried, whatever becomes of the others.
        let mut removed = Ok(());
        for (queue, _) in &self.sockets {
            removed = removed.and(self.map.remove(*queue));
        }
        removed?;
        self.claimed = false;
        Ok(())
    }

    /// Takes one socket out for good. Says whether it was in.
    fn give_up(&mut self, queue: u32) -> bool {
        self.sockets.retain(|(of, _)| *of != queue);
        if self.claimed
            && let Err(error) = self.map.remove(queue)
        {
            tracing::error!(queue, "the socket of a failed worker stays in the XSKMAP: {error}");
        }
        self.claimed
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    // Nothing that is done while it is held leaves it half done by a panic.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits until every receive poll that was under way has ended. A poll runs with softirqs off, which the
/// kernel's RCU counts as a read-side section since Linux 5.0, and `MEMBARRIER_CMD_GLOBAL` waits for all of
/// those (kernel/sched/membarrier.c).
pub(super) fn wait_for_receive_polls() {
    // With nohz_full the kernel refuses.
    if membarrier(MembarrierCommand::Global).is_err() {
        std::thread::sleep(POLL_GRACE);
    }
}
