use rustix::io::Errno;

use super::RING_BATCH;
use crate::packet::{Desc, Lender, Packet, PacketBatch, ReceiveMark};
use crate::port::SubmissionRing;
use crate::tap::Tap;

/// A packet that was not taken: it always comes back.
#[derive(Debug)]
#[must_use = "dropping the rejected packet returns its frame to the pool"]
pub struct Rejected {
    /// The packet, still the caller's.
    pub packet: Packet,
    /// Why it was not taken.
    pub reason: RejectReason,
}

/// Why a packet was not taken for sending.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RejectReason {
    /// The tx ring is full; there is room again when completions have been reaped.
    #[error("the tx ring is full")]
    Full,
    /// The packet was taken from another pool than this port's.
    #[error("the packet belongs to another pool")]
    ForeignPool,
    /// The data is shorter than an Ethernet header, or does not fit behind the canonical headroom.
    #[error("the data is shorter than an Ethernet header or longer than a frame")]
    BadLength,
}

/// What a flush did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flushed {
    /// Frames published to the tx ring.
    pub published: usize,
    /// System calls made to wake the kernel.
    pub wakeups: u32,
}

/// A queue cannot go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QueueError {
    /// sendto(2) on the socket failed in a way that does not pass by itself.
    #[error("cannot wake the kernel for the tx ring ({in_ring} frames in it)")]
    Wake {
        /// Frames that the ring held.
        in_ring: u32,
        /// What sendto(2) returned.
        #[source]
        source: std::io::Error,
    },
}

/// How often each errno was returned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ErrnoCounts(Vec<(i32, u64)>);

impl ErrnoCounts {
    #[cold]
    fn count(&mut self, errno: Errno) {
        let code = errno.raw_os_error();
        match self.0.iter_mut().find(|(known, _)| *known == code) {
            Some((_, count)) => *count += 1,
            None => self.0.push((code, 1)),
        }
    }

    /// Each errno that occurred, with its count.
    pub fn iter(&self) -> impl Iterator<Item = (i32, u64)> + '_ {
        self.0.iter().copied()
    }

    /// Adds the counts of another queue.
    pub fn merge(&mut self, other: &Self) {
        for (code, count) in other.iter() {
            match self.0.iter_mut().find(|(known, _)| *known == code) {
                Some((_, sum)) => *sum += count,
                None => self.0.push((code, count)),
            }
        }
    }
}

/// The shortest frame that the kernel's tx path takes (`ETH_HLEN`).
const ETHERNET_HEADER_LEN: usize = 14;

/// Frames on their way to the kernel to be sent: the tx ring.
///
/// [`submit`](Self::submit) stages; [`flush`](Self::flush) publishes everything staged at once and wakes
/// the kernel if it asks for that.
pub struct TxSubmissionQueue {
    ring: Box<dyn SubmissionRing>,
    lender: Lender,
    staged: Vec<Desc>,
    // Of the staged packets, those that are measured.
    marks: Vec<ReceiveMark>,
    taps: Vec<Tap>,
    // Slots free in the ring when last asked, less those staged since: spares asking for every packet.
    room: u32,
    submitted: u64,
    bytes: u64,
    realigned: u64,
    wakeups: u64,
    errnos: ErrnoCounts,
    rejected_full: bool,
}

impl TxSubmissionQueue {
    pub(crate) fn new(ring: Box<dyn SubmissionRing>, lender: Lender) -> Self {
        let staged = Vec::with_capacity(ring.size() as usize);
        let marks = Vec::with_capacity(ring.size() as usize);
        Self {
            ring,
            lender,
            staged,
            marks,
            taps: Vec::new(),
            room: 0,
            submitted: 0,
            bytes: 0,
            realigned: 0,
            wakeups: 0,
            errnos: ErrnoCounts::default(),
            rejected_full: false,
        }
    }

    /// Stages a packet for sending. From here on its frame belongs to the kernel.
    ///
    /// # Errors
    ///
    /// [`Rejected`] gives the packet back with the reason.
    pub fn submit(&mut self, mut packet: Packet) -> Result<(), Rejected> {
        if self.room() == 0 {
            self.rejected_full = true;
            return Err(Rejected { packet, reason: RejectReason::Full });
        }
        if !self.lender.owns(&packet) {
            return Err(Rejected { packet, reason: RejectReason::ForeignPool });
        }
        let len = packet.data_len();
        match packet.align_for_tx() {
            Some(moved) if len >= ETHERNET_HEADER_LEN => self.realigned += u64::from(moved),
            _ => return Err(Rejected { packet, reason: RejectReason::BadLength }),
        }
        if !self.taps.is_empty() {
            self.taps.retain_mut(|tap| tap.offer(&packet));
        }
        let mark = packet.receive_mark();
        // A frame quarantined meanwhile is not sent, and stays where the census counts it.
        let Some(desc) = self.lender.lend_to_tx(packet) else { return Ok(()) };
        self.staged.push(desc);
        self.marks.extend(mark);
        self.room -= 1;
        self.submitted += 1;
        self.bytes += len as u64;
        Ok(())
    }

    /// Stages packets from `from` until it is empty or the ring is full. What the ring cannot take stays
    /// in `from`; what it never could (see [`RejectReason`]) is dropped, which frees it. Returns how many
    /// were staged.
    pub fn submit_batch(&mut self, from: &mut PacketBatch) -> usize {
        let before = self.staged.len();
        while let Some(packet) = from.pop() {
            if let Err(Rejected { packet, reason: RejectReason::Full }) = self.submit(packet) {
                from.unpop(packet);
                break;
            }
        }
        self.staged.len() - before
    }

    /// How many more packets can be staged.
    pub fn room(&mut self) -> usize {
        if self.room == 0 {
            self.room = self.ring.room() - self.staged.len() as u32;
        }
        self.room as usize
    }

    /// Publishes what is staged and wakes the kernel, if it asks for that, until it has taken everything
    /// or does not get further. Also wakes it for what it left in the ring the last time.
    ///
    /// # Errors
    ///
    /// [`QueueError::Wake`] for an errno that does not pass by itself. EAGAIN, EBUSY, ENOBUFS and
    /// ENETDOWN do: they are counted, the frames stay in the ring, and the next flush tries again.
    pub fn flush(&mut self) -> Result<Flushed, QueueError> {
        let published = self.staged.len();
        if published > 0 {
            for batch in self.staged.chunks(RING_BATCH) {
                self.ring.produce(batch);
            }
            self.staged.clear();
            self.marks.clear();
        }
        let mut wakeups = 0;
        let mut left = self.ring.size() - self.ring.room();
        // In copy mode one sendto handles 32 descriptors and then returns EAGAIN (TX_BATCH_SIZE of
        // net/xdp/xsk.c): go on as long as the ring gets emptier.
        while left > 0 && self.ring.needs_wakeup() {
            wakeups += 1;
            let woken = self.ring.wake();
            let rest = self.ring.size() - self.ring.room();
            match woken {
                Ok(()) => break,
                Err(errno) => self.sort_errno(errno, rest)?,
            }
            if rest >= left {
                break;
            }
            left = rest;
        }
        self.wakeups += u64::from(wakeups);
        Ok(Flushed { published, wakeups })
    }

    /// Wakes the kernel although it does not ask for it: the way out when it forgot to.
    ///
    /// # Errors
    ///
    /// As for [`flush`](Self::flush).
    pub fn kick(&mut self) -> Result<(), QueueError> {
        self.wakeups += 1;
        match self.ring.wake() {
            Ok(()) => Ok(()),
            Err(errno) => {
                let in_ring = self.level();
                self.sort_errno(errno, in_ring)
            }
        }
    }

    /// Takes the marks of the staged packets that are measured.
    pub(crate) fn drain_marks(&mut self) -> impl Iterator<Item = ReceiveMark> + '_ {
        self.marks.drain(..)
    }

    /// Shows what is submitted from now on to `tap` too.
    pub(crate) fn add_tap(&mut self, tap: Tap) {
        self.taps.push(tap);
    }

    /// Whether a packet was rejected because the ring was full, since this was last asked.
    pub(crate) fn take_rejected_full(&mut self) -> bool {
        std::mem::take(&mut self.rejected_full)
    }

    #[cold]
    fn sort_errno(&mut self, errno: Errno, in_ring: u32) -> Result<(), QueueError> {
        self.errnos.count(errno);
        match errno {
            Errno::AGAIN | Errno::BUSY | Errno::NOBUFS | Errno::NETDOWN | Errno::INTR => Ok(()),
            _ => Err(QueueError::Wake { in_ring, source: errno.into() }),
        }
    }

    /// Frames that are published and not yet taken by the kernel.
    pub fn level(&mut self) -> u32 {
        self.ring.size() - self.ring.room()
    }

    /// Frames that wait for a [`flush`](Self::flush).
    pub fn staged(&self) -> usize {
        self.staged.len()
    }

    /// Frames submitted so far.
    pub fn submitted(&self) -> u64 {
        self.submitted
    }

    /// Bytes submitted so far, Ethernet headers included.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Packets whose data had to be moved because a descriptor could not express where it was.
    pub fn realigned(&self) -> u64 {
        self.realigned
    }

    /// System calls made to wake the kernel.
    pub fn wakeups(&self) -> u64 {
        self.wakeups
    }

    /// What the system calls that wake the kernel returned, by errno.
    pub fn errnos(&self) -> &ErrnoCounts {
        &self.errnos
    }
}
