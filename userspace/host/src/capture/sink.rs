//! Where a capture goes.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::mpsc::Sender;
use tokio::sync::mpsc::error::TrySendError;

use super::CaptureError;

/// How long the writer waits before it looks again whether a slow reader has room.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// Where a capture goes.
#[derive(Debug)]
pub enum CaptureSink {
    /// A file.
    File(CaptureFile),
    /// Whole pcapng blocks in chunks; the first begins the file. The capture ends when the receiver is gone.
    Channel(Sender<Vec<u8>>),
}

/// A capture file, opened.
#[derive(Debug)]
pub struct CaptureFile {
    path: PathBuf,
    file: File,
    /// Whether what was written can be written over: of a pipe it can't.
    seekable: bool,
    /// Bytes of whole blocks.
    len: u64,
    warned: bool,
    /// Bytes after which the disk is full, in tests.
    #[cfg(test)]
    room: u64,
}

/// What became of a chunk.
/// In the order of their weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Written {
    /// It is on its way.
    Yes,
    /// It could not be written; the next one may be.
    No,
    /// Nobody reads any more.
    Gone,
}

impl CaptureSink {
    /// Makes the file, or opens it. What is in it stays until the capture begins.
    ///
    /// # Errors
    ///
    /// [`CaptureError::Create`].
    pub fn create(path: &Path) -> Result<Self, CaptureError> {
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(path);
        let file = file.map_err(|source| CaptureError::Create { path: path.to_owned(), source })?;
        let seekable = file.metadata().is_ok_and(|metadata| metadata.is_file());
        Ok(Self::File(CaptureFile {
            path: path.to_owned(),
            file,
            seekable,
            len: 0,
            warned: false,
            #[cfg(test)]
            room: u64::MAX,
        }))
    }

    /// Empties a file that was there before.
    pub(super) fn begin(&self) -> Result<(), CaptureError> {
        match self {
            Self::File(CaptureFile { path, file, seekable: true, .. }) => {
                file.set_len(0).map_err(|source| CaptureError::Create { path: path.clone(), source })
            }
            Self::File(_) | Self::Channel(_) => Ok(()),
        }
    }

    /// Writes whole blocks. Waits for a slow disk or reader as long as `go_on` says so.
    pub(super) fn write(&mut self, blocks: &[u8], go_on: impl Fn() -> bool) -> Written {
        match self {
            Self::File(file) => file.append(blocks),
            Self::Channel(sender) => {
                let mut chunk = blocks.to_vec();
                loop {
                    chunk = match sender.try_send(chunk) {
                        Ok(()) => return Written::Yes,
                        Err(TrySendError::Closed(_)) => return Written::Gone,
                        Err(TrySendError::Full(_)) if !go_on() => return Written::No,
                        Err(TrySendError::Full(chunk)) => chunk,
                    };
                    std::thread::sleep(LOOK_AGAIN);
                }
            }
        }
    }

    /// Whether a block written before can be replaced.
    pub(super) fn can_replace(&self) -> bool {
        matches!(self, Self::File(CaptureFile { seekable: true, .. }))
    }

    /// Writes a block over the one of the same length at `offset`, so that it needs no room on the disk.
    pub(super) fn replace(&mut self, offset: u64, block: &[u8]) -> Written {
        let Self::File(file) = self else { return Written::No };
        match file.replace(offset, block) {
            Ok(()) => Written::Yes,
            Err(error) => file.failed(&error),
        }
    }
}

impl CaptureFile {
    #[cfg(test)]
    pub(super) fn with_room(self, room: u64) -> Self {
        Self { room, ..self }
    }

    fn write_all(&mut self, blocks: &[u8]) -> io::Result<()> {
        // Half of it is written, as a disk does that fills up on the way.
        #[cfg(test)]
        if self.len + blocks.len() as u64 > self.room {
            self.file.write_all(&blocks[..blocks.len() / 2])?;
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.file.write_all(blocks)
    }

    fn append(&mut self, blocks: &[u8]) -> Written {
        match self.write_all(blocks) {
            Ok(()) => {
                self.len += blocks.len() as u64;
                Written::Yes
            }
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Written::Gone,
            Err(error) => {
                // Half a block would make what follows unreadable.
                let mended =
                    self.file.set_len(self.len).and_then(|()| self.file.seek(SeekFrom::Start(self.len)));
                let written = self.failed(&error);
                if mended.is_ok() { written } else { Written::Gone }
            }
        }
    }

    fn replace(&mut self, offset: u64, block: &[u8]) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(offset))?;
        let written = self.file.write_all(block);
        self.file.seek(SeekFrom::Start(self.len))?;
        written
    }

    fn failed(&mut self, error: &io::Error) -> Written {
        if !self.warned {
            self.warned = true;
            tracing::warn!(
                "cannot write the capture to {}: {error}; frames that are missing in it are counted, and the \
                 driver goes on",
                self.path.display()
            );
        }
        Written::No
    }
}
