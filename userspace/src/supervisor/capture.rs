//! Capturing the frames of a running driver.

use super::Supervisor;
use crate::capture::{self, Capture, CaptureConfig, CaptureError, CaptureSink};
use crate::dispatch::Command;

impl Supervisor {
    /// Captures the frames of every queue from now on, until the returned capture is finished or dropped, or
    /// the driver stops. Several captures can run at a time.
    ///
    /// # Errors
    ///
    /// [`CaptureError`]; nothing is captured then.
    pub fn start_capture(&self, config: &CaptureConfig, sink: CaptureSink) -> Result<Capture, CaptureError> {
        let queues = self.workers.iter().map(|worker| worker.queue);
        let (capture, taps) = capture::start(&self.iface, queues, config, sink)?;
        for (worker, (_, taps)) in self.workers.iter().zip(taps) {
            // A worker that has ended has no frames.
            worker.send(Command::Capture(Box::new(taps)));
        }
        Ok(capture)
    }
}
