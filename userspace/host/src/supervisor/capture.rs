//! Capturing the frames of a running driver.

use super::Supervisor;
use crate::capture::{self, Capture, CaptureConfig, CaptureError, CaptureSink};
use crate::worker::Command;

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
        let ports: Vec<_> = self.ports.iter().map(|port| port.iface.as_str()).collect();
        let queues: Vec<_> = self.workers.iter().map(|worker| worker.queue).collect();
        let (capture, taps) = capture::start(&ports, &queues, config, sink, &self.captures)?;
        self.set_timestamps();
        for (port, taps) in self.ports.iter().zip(taps) {
            for (worker, taps) in self.workers.iter().zip(taps) {
                // A worker that has ended has no frames.
                worker.send(Command::Capture(port.id, Box::new(taps)));
            }
        }
        Ok(capture)
    }

    pub(super) fn set_timestamps(&mut self) {
        let captured = self.captures.any();
        self.ports.iter_mut().for_each(|port| port.set_timestamps(captured));
    }
}
