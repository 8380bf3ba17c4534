//! Bounds-checked reads and writes: the only way parsing and answering see a frame.

/// The bytes of one frame.
///
/// There is no `len`: parsing asks only whether the frame reaches somewhere, and in the kernel that is one comparison of
/// packet pointers, which the verifier follows; their difference would be a number like any other to it.
pub trait Reader {
    /// Whether the frame has at least `end` bytes.
    fn contains(&self, end: usize) -> bool;

    /// The `N` bytes from `offset` on, or `None` when they aren't all inside the frame.
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]>;

    /// The sum of the `N` bytes from `offset` on, taken as 32-bit words in the machine's order: right after folding to
    /// 16 bits, whatever it is before. `N` is a multiple of four. `None` as [`read`](Self::read).
    #[inline(always)]
    fn sum<const N: usize>(&self, offset: usize) -> Option<u64> {
        let bytes: [u8; N] = self.read(offset)?;
        Some(bytes.as_chunks().0.iter().map(|word| u64::from(u32::from_ne_bytes(*word))).sum())
    }

    /// A 16-bit number of the frame, which is big-endian there. Every one that becomes a length or an offset comes by here:
    /// before Linux 6.18 the verifier forgets what it knows of a number whose bytes are swapped, and lets only a bounded
    /// one be added to a packet pointer.
    #[inline(always)]
    #[expect(clippy::disallowed_methods, reason = "the one place for lengths")]
    fn number(&self, bytes: [u8; 2]) -> usize {
        usize::from(u16::from_be_bytes(bytes))
    }

    /// The same number, which must be below [`OFFSET_BOUND`](crate::checksum::OFFSET_BOUND). In the kernel, compiler and verifier don't see where it comes from,
    /// and the verifier sees its bound.
    #[inline(always)]
    fn bounded(&self, number: usize) -> usize {
        number
    }

    /// The same number. In the kernel neither compiler nor verifier sees that; `noise` is a number that the verifier knows
    /// nothing about.
    #[inline(always)]
    fn blurred(&self, number: u64, noise: u64) -> u64 {
        let _ = noise;
        number
    }
}

/// The bytes of one frame that may be changed. Its length stays.
pub trait Writer: Reader {
    /// Writes `bytes` at `offset`; `None`, and nothing is written, when they don't all lie inside the frame.
    fn write<const N: usize>(&mut self, offset: usize, bytes: [u8; N]) -> Option<()>;
}

impl Reader for [u8] {
    #[inline]
    fn contains(&self, end: usize) -> bool {
        end <= self.len()
    }

    #[inline]
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.get(offset..)?.first_chunk().copied()
    }
}

impl Writer for [u8] {
    #[inline]
    fn write<const N: usize>(&mut self, offset: usize, bytes: [u8; N]) -> Option<()> {
        *self.get_mut(offset..)?.first_chunk_mut()? = bytes;
        Some(())
    }
}

impl<R: Reader + ?Sized> Reader for &R {
    #[inline(always)]
    fn contains(&self, end: usize) -> bool {
        (**self).contains(end)
    }

    #[inline(always)]
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        (**self).read(offset)
    }

    #[inline(always)]
    fn sum<const N: usize>(&self, offset: usize) -> Option<u64> {
        (**self).sum::<N>(offset)
    }

    #[inline(always)]
    fn number(&self, bytes: [u8; 2]) -> usize {
        (**self).number(bytes)
    }

    #[inline(always)]
    fn bounded(&self, number: usize) -> usize {
        (**self).bounded(number)
    }

    #[inline(always)]
    fn blurred(&self, number: u64, noise: u64) -> u64 {
        (**self).blurred(number, noise)
    }
}
