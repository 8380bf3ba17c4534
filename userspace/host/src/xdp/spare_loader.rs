//! A loader of BPF objects that is made once and used twice.
//!
//! aya reads the kernel's type information whenever a loader is made, also for one that is to do without it, which takes
//! some ten milliseconds. So the loader that the kernel is probed with is kept for the program that is loaded next.

use std::sync::{Mutex, PoisonError};

use aya::EbpfLoader;

static SPARE: Mutex<Option<EbpfLoader<'static>>> = Mutex::new(None);

/// The spare loader if there is one, or else a new one.
pub(crate) fn take<'a>() -> EbpfLoader<'a> {
    let spare = SPARE.lock().unwrap_or_else(PoisonError::into_inner).take();
    spare.unwrap_or_default()
}

/// Keeps a loader for the next who needs one. It must not have been told anything that is not for all.
pub(crate) fn keep(loader: EbpfLoader<'static>) {
    *SPARE.lock().unwrap_or_else(PoisonError::into_inner) = Some(loader);
}
