//! Capturing the frames of a running driver.

use super::Supervisor;
use crate::capture::{self, Capture, CaptureConfig, CaptureError, CaptureSink};
use crate::worker::Command;
use netdext::driver::{PortId, RxTimestamps};

impl Supervisor {
    /// Captures the frames of every queue from now on, until the returned capture is finished or dropped, or
    /// the driver stops. Several captures can run at a time.
    ///
    /// # Errors
    ///
    /// [`CaptureError`]; nothing is captured then.
    pub fn start_capture(
        &mut self,
        config: &CaptureConfig,
        sink: CaptureSink,
    ) -> Result<Capture, CaptureError> {
        let queues = self.workers.iter().map(|worker| worker.queue);
        let (capture, taps) = capture::start(&self.iface, queues, config, sink, &self.captures)?;
        self.set_timestamps();
        for (worker, (_, taps)) in self.workers.iter().zip(taps) {
            // A worker that has ended has no frames.
            worker.send(Command::Capture(PortId::FIRST, Box::new(taps)));
        }
        Ok(capture)
    }

    /// Gives every frame a timestamp while there is a capture. A failure is logged only: a frame without one has the
    /// time when the worker saw it.
    pub(super) fn set_timestamps(&mut self) {
        let (of_driver, latency) = self.timestamps;
        let timestamps = if self.captures.any() { RxTimestamps::All } else { of_driver };
        if let Err(error) = self.program.maps_mut().set_timestamps(timestamps, latency) {
            tracing::error!(iface = %self.iface, ?timestamps, "switch the timestamps of the XDP program: {error}");
        }
    }
}
