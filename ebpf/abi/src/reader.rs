//! Bounds-checked reads of a frame.

/// Bounds-checked reads; the only way parsing sees a frame.
///
/// There is no `len`: parsing asks only whether the frame reaches somewhere, and in the kernel that is one comparison of
/// packet pointers, which the verifier follows; their difference would be a number like any other to it.
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
