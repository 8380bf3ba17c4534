//! How many captures of a driver are running.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

/// The captures of one driver that are running, by number; who owns the driver hears when one ends.
#[derive(Debug, Default)]
pub(crate) struct OpenCaptures {
    count: AtomicUsize,
    changed: Notify,
}

impl OpenCaptures {
    /// One more, until the returned value is dropped.
    pub(super) fn open(self: &Arc<Self>) -> OpenCapture {
        self.count.fetch_add(1, Ordering::Relaxed);
        OpenCapture { all: Arc::clone(self) }
    }

    /// Whether there is one.
    pub(crate) fn any(&self) -> bool {
        self.count.load(Ordering::Relaxed) != 0
    }

    /// Becomes ready when one has ended since it last did.
    pub(crate) fn changed(&self) -> Notified<'_> {
        self.changed.notified()
    }
}

/// A running capture; dropping it says that it has ended.
#[derive(Debug)]
pub(super) struct OpenCapture {
    all: Arc<OpenCaptures>,
}

impl Drop for OpenCapture {
    fn drop(&mut self) {
        self.all.count.fetch_sub(1, Ordering::Relaxed);
        // Keeps a permit where nobody waits at the moment.
        self.all.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_owner_hears_of_the_end_also_where_it_did_not_wait_for_it() {
        let all = Arc::<OpenCaptures>::default();
        let (one, two) = (all.open(), all.open());
        drop(one);
        all.changed().await;
        assert!(all.any());
        drop(two);
        all.changed().await;
        assert!(!all.any());
    }
}
