//! What the instances of one run share: replies may arrive on another queue than the one that asked.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::injector::Injector;
use crate::neighbors::{NeighborConfig, Neighbors};
use crate::requests::Identity;

#[derive(Debug)]
pub(super) struct Shared {
    /// Whether one of the instances already leads: it has the timers and reports the shared counts.
    led: AtomicBool,
    /// Whether the injector still looks for a target. Spares the lock for every echo request after that;
    /// `State` is the truth.
    learning: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) neighbors: Neighbors,
    pub(super) injector: Option<Injector>,
    /// For an injector that is made later.
    pub(super) identity: Identity,
}

impl Shared {
    pub(super) fn new(identity: Identity) -> Self {
        let neighbors = Neighbors::new(NeighborConfig::default());
        Self {
            led: AtomicBool::new(false),
            learning: AtomicBool::new(false),
            state: Mutex::new(State { neighbors, injector: None, identity }),
        }
    }

    /// Returns true to the first that asks.
    pub(super) fn take_lead(&self) -> bool {
        !self.led.swap(true, Ordering::Relaxed)
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // Counts stay usable when another instance panicked while it held the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_learning(&self) -> bool {
        self.learning.load(Ordering::Relaxed)
    }

    pub(super) fn set_learning(&self, learning: bool) {
        self.learning.store(learning, Ordering::Relaxed);
    }
}

/// The shared state, locked on first use and until this is dropped: once for a batch, and not at all for a
/// batch without need of it.
pub(super) struct Access<'a> {
    shared: &'a Shared,
    guard: Option<MutexGuard<'a, State>>,
}

impl<'a> Access<'a> {
    pub(super) fn new(shared: &'a Shared) -> Self {
        Self { shared, guard: None }
    }

    pub(super) fn state(&mut self) -> &mut State {
        self.guard.get_or_insert_with(|| self.shared.lock())
    }

    pub(super) fn shared(&self) -> &'a Shared {
        self.shared
    }
}
