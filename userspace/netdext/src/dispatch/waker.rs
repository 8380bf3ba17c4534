//! Waking a worker from another thread.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::{Arc, OnceLock};

/// Wakes the worker of a driver, from any thread: the driver's [`woken`](crate::driver::Driver::woken) is called in the
/// worker's next step. Several wakes before that are one.
///
/// So an async task can exchange data with a driver, which lives on a thread of its own: it puts something into a queue
/// that both have, and wakes.
///
/// ```
/// use std::sync::mpsc::{Receiver, channel};
///
/// use netdext::driver::{Cx, Driver, DriverStats, PortId};
/// use netdext::packet::PacketBatch;
/// use netdext::testing::Bench;
///
/// /// Sends what others put into its queue.
/// struct Outlet(Receiver<Vec<u8>>);
///
/// impl Driver for Outlet {
///     fn name(&self) -> &'static str {
///         "outlet"
///     }
///
///     fn woken(&mut self, cx: &mut Cx<'_>) {
///         for frame in self.0.try_iter() {
///             let mut packet = cx.pool.alloc().expect("a free frame");
///             packet.set_data_len(frame.len()).expect("it fits");
///             packet.data_mut().copy_from_slice(&frame);
///             cx.tx(PortId::FIRST).submit(packet).expect("there is room");
///         }
///     }
///
///     fn rx_packets(&mut self, _cx: &mut Cx<'_>, _port: PortId, _batch: &mut PacketBatch) {}
///
///     fn stats(&self) -> DriverStats {
///         DriverStats::default()
///     }
/// }
///
/// let (queue, outlet) = channel();
/// let mut bench = Bench::new(Box::new(Outlet(outlet)));
/// // A driver gets it from `Cx::waker`.
/// let waker = bench.worker.waker();
/// let another = std::thread::spawn(move || {
///     queue.send(vec![7; 60]).expect("the driver is there");
///     waker.wake();
/// });
/// another.join().expect("it sends");
/// bench.turn();
/// assert_eq!(bench.arrived, [[7; 60]]);
/// ```
#[derive(Clone, Default)]
pub struct Waker(Arc<Shared>);

#[derive(Default)]
struct Shared {
    woken: AtomicBool,
    /// Ends the sleep of the worker's thread, if it has one.
    notify: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

impl Waker {
    /// Wakes the worker. After the worker has ended this does nothing.
    pub fn wake(&self) {
        let already = self.0.woken.swap(true, Ordering::AcqRel);
        // With that in `on_wake`: of the two threads at least one sees what the other has stored.
        fence(Ordering::SeqCst);
        if let (false, Some(notify)) = (already, self.0.notify.get()) {
            notify();
        }
    }

    pub(super) fn on_wake(&self, notify: impl Fn() + Send + Sync + 'static) {
        let _ = self.0.notify.set(Box::new(notify));
        fence(Ordering::SeqCst);
        // What was woken before had nobody to tell.
        if self.0.woken.load(Ordering::Acquire)
            && let Some(notify) = self.0.notify.get()
        {
            notify();
        }
    }

    /// Whether it was woken since this was last asked.
    pub(super) fn take(&self) -> bool {
        // Read first: a step looks at it every time, and writing would take the line from who wakes.
        self.0.woken.load(Ordering::Relaxed) && self.0.woken.swap(false, Ordering::AcqRel)
    }
}

impl fmt::Debug for Waker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waker").field("woken", &self.0.woken).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;

    #[test]
    fn wakes_are_one_until_they_are_taken_and_the_thread_hears_of_those_before_it_listened() {
        let waker = Waker::default();
        waker.wake();
        let heard = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&heard);
        waker.on_wake(move || {
            count.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(heard.load(Ordering::Relaxed), 1);
        let other = waker.clone();
        std::thread::spawn(move || other.wake()).join().unwrap();
        assert_eq!(heard.load(Ordering::Relaxed), 1, "it is awake already");
        assert!(waker.take() && !waker.take());
        waker.wake();
        assert_eq!(heard.load(Ordering::Relaxed), 2);
    }
}
