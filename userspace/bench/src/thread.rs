//! Work on a thread of its own.

/// Does this on a thread of its own, and waits for it: what `work` does to its thread (network namespace, processor) ends
/// with that.
///
/// # Errors
/// Those of `work`.
///
/// # Panics
/// As `work` does.
pub fn apart<T: Send>(work: impl FnOnce() -> anyhow::Result<T> + Send) -> anyhow::Result<T> {
    let done = std::thread::scope(|scope| scope.spawn(work).join());
    done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
