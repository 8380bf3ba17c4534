//! Bounds-checked reads of a frame.

/// Bounds-checked reads; the only way parsing sees a frame.
///
/// There is no `len`: in the kernel the length would be the difference of two packet pointers, which the verifier
/// allows only to holders of `CAP_PERFMON`. Comparing against the end is allowed to all.
pub trait Reader {
    /// Whether the frame has at least `end` bytes.
    fn contains(&self, end: usize) -> bool;

    /// The `N` bytes from `offset` on, or `None` when they aren't all inside the frame.
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]>;
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

impl<R: Reader + ?Sized> Reader for &R {
    #[inline(always)]
    fn contains(&self, end: usize) -> bool {
        (**self).contains(end)
    }

    #[inline(always)]
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        (**self).read(offset)
    }
}
