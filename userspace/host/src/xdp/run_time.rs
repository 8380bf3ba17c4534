//! How long an XDP program takes for a frame: `BPF_PROG_TEST_RUN`, again and again over the same bytes.
//!
//! What the program writes into the frame stays there for the next time, and the room for metadata is used up after two:
//! a timestamp is not part of what is measured.

use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::time::Duration;

use aya::maps::XskMap;
use aya::programs::{TestRun as _, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfError};
use netdext_abi::generate::{PASS, REDIRECT, SOCKETS};

use super::program::{ProgramError, loader, xdp_mut};
use super::program_error::load_error;
use super::steering::{refused, take};
use super::traffic::OBJECT;

/// The mean of so many runs over one frame. The kernel counts in whole nanoseconds.
pub(crate) fn mean(xdp: &mut Xdp, frame: &[u8], runs: u32) -> Result<Duration, ProgramError> {
    let options = TestRunOptions { data_in: Some(frame), repeat: runs, ..TestRunOptions::new() };
    let outcome = xdp.test_run(options).map_err(|error| ProgramError::TestRun {
        len: frame.len(),
        source: Box::new(EbpfError::ProgramError(error)),
    })?;
    Ok(outcome.duration)
}

/// The two programs that others are compared with: one that passes every frame, and one that redirects every frame.
pub struct Baseline {
    ebpf: Ebpf,
}

impl Baseline {
    /// Loads them. `socket` is an AF_XDP socket with an rx ring.
    ///
    /// # Errors
    ///
    /// As for [`SteeringProgram::load`](super::program::SteeringProgram::load).
    pub fn load(socket: BorrowedFd<'_>) -> Result<Self, ProgramError> {
        let mut ebpf = loader().load(OBJECT).map_err(load_error)?;
        let mut sockets: XskMap<_> = take(&mut ebpf, SOCKETS)?;
        sockets.set(0, socket.as_raw_fd(), 0).map_err(refused("inserting a socket", SOCKETS))?;
        for name in [PASS, REDIRECT] {
            let xdp = xdp_mut(&mut ebpf, name).map_err(load_error)?;
            xdp.load().map_err(|error| load_error(error.into()))?;
        }
        Ok(Self { ebpf })
    }

    /// The mean time of the program that passes.
    ///
    /// # Errors
    ///
    /// [`ProgramError::TestRun`].
    pub fn pass(&mut self, frame: &[u8], runs: u32) -> Result<Duration, ProgramError> {
        mean(xdp_mut(&mut self.ebpf, PASS).map_err(load_error)?, frame, runs)
    }

    /// The mean time of the program that redirects.
    ///
    /// # Errors
    ///
    /// [`ProgramError::TestRun`].
    pub fn redirect(&mut self, frame: &[u8], runs: u32) -> Result<Duration, ProgramError> {
        mean(xdp_mut(&mut self.ebpf, REDIRECT).map_err(load_error)?, frame, runs)
    }
}

impl std::fmt::Debug for Baseline {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { ebpf: _ } = self;
        f.debug_struct("Baseline").finish_non_exhaustive()
    }
}
