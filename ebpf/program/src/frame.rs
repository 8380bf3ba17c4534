//! The bytes of the frame that the program runs for.

use core::{arch::asm, ptr};

use aya_ebpf::{helpers::bpf_csum_diff, programs::XdpContext};
use netdext_abi::{Reader, Writer, checksum::OFFSET_BOUND};

/// The frame, as far as the program may touch it. What moves the frame's ends makes it invalid.
pub struct Frame {
    start: usize,
    end: usize,
}

impl Frame {
    /// The frame as it is now.
    #[inline(always)]
    pub fn of(ctx: &XdpContext) -> Self {
        let mut ctx = ctx.ctx;
        // The compiler must forget that it may have read the ends before: with pointers read anew, the verifier starts
        // from nothing too. Not `pure`, or two of these would be one.
        // SAFETY: a register is moved to itself.
        unsafe { asm!("{0} = {0}", inout(reg) ctx, options(nomem, nostack, preserves_flags)) };
        let ctx = XdpContext::new(ctx);
        Self { start: ctx.data(), end: ctx.data_end() }
    }

    /// Its length in bytes.
    #[inline(always)]
    pub fn len(&self) -> usize {
        self.end - self.start
    }

    /// Where `len` bytes from `offset` on are, if they are all inside.
    #[inline(always)]
    fn at(&self, offset: usize, len: usize) -> Option<usize> {
        // The compiler must forget where the pointer came from. Otherwise it leaves out comparisons that follow from
        // earlier ones, or compares one register and loads through another, and the verifier, which doesn't see such
        // connections, refuses the load.
        let at = forget(self.start + offset);
        (at + len <= self.end).then_some(at)
    }
}

/// The same number; the compiler knows nothing of it.
#[inline(always)]
pub fn forget(mut number: usize) -> usize {
    // A bare comment would do, but leaves line info that the kernel rejects.
    // SAFETY: a register is moved to itself.
    unsafe { asm!("{0} = {0}", inout(reg) number, options(pure, nomem, nostack, preserves_flags)) };
    number
}

/// Makes the end of one branch another than that of its neighbour.
#[inline(always)]
pub fn keep_apart() {
    // SAFETY: a register is set that nobody reads.
    unsafe { asm!("{0} = 0", out(reg) _, options(nomem, nostack, preserves_flags)) };
}

/// Four bytes of a packet. They aren't aligned, and the compiler would take them one by one.
#[inline(always)]
fn word(at: usize) -> u64 {
    let word: u64;
    // SAFETY: the callers have compared `at + 4` with the end of the frame; if they hadn't, the verifier would refuse
    // the program, as it would on a processor without unaligned loads.
    unsafe { asm!("{0} = *(u32 *)({1} + 0)", out(reg) word, in(reg) at, options(pure, readonly, nostack)) };
    word
}

impl Reader for Frame {
    #[inline(always)]
    fn contains(&self, end: usize) -> bool {
        self.start + end <= self.end
    }

    #[inline(always)]
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        let at = self.at(offset, N)?;
        // SAFETY: `at .. at + N` lies between data and data_end, which the kernel guarantees to be readable while
        // the program runs; the verifier has proved the comparison. A byte array needs no alignment.
        Some(unsafe { *(at as *const [u8; N]) })
    }

    #[inline(always)]
    fn sum<const N: usize>(&self, offset: usize) -> Option<u64> {
        let at = self.at(offset, N)?;
        if N > 16 {
            // SAFETY: `at .. at + N` lies inside the frame, as above. The helper reads only what `to` points to.
            let sum = unsafe { bpf_csum_diff(ptr::null_mut(), 0, at as *mut u32, N as u32, 0) };
            // It fails only for lengths that aren't multiples of four or, before Linux 6.13, above 512.
            return u64::try_from(sum).ok();
        }
        // No loop: LLVM would put in terms of its bounds what the verifier has to see step by step.
        let mut sum = word(at);
        if N >= 8 {
            sum += word(at + 4);
        }
        if N == 16 {
            sum += word(at + 8) + word(at + 12);
        }
        Some(sum)
    }

    #[inline(always)]
    #[expect(clippy::disallowed_methods, reason = "the one place for lengths in the kernel")]
    fn number(&self, bytes: [u8; 2]) -> usize {
        let mut number = usize::from(u16::from_be_bytes(bytes));
        // The compiler would leave out a plain `&`, which changes nothing.
        // SAFETY: a register is changed, and then is what it was.
        unsafe { asm!("{0} &= 0xffff", inout(reg) number, options(pure, nomem, nostack, preserves_flags)) };
        number
    }

    #[inline(always)]
    fn bounded(&self, mut number: usize) -> usize {
        // SAFETY: a register is changed.
        unsafe {
            asm!(
                "{0} &= {mask}",
                inout(reg) number,
                mask = const OFFSET_BOUND - 1,
                options(pure, nomem, nostack)
            );
        };
        number
    }

    #[inline(always)]
    fn blurred(&self, mut number: u64, noise: u64) -> u64 {
        // Not `pure`, or it could be moved to behind what must not know the number.
        // SAFETY: a register is changed, twice, and then is what it was.
        unsafe {
            asm!(
                "{0} ^= {1}",
                "{0} ^= {1}",
                inout(reg) number,
                in(reg) noise,
                options(nomem, nostack)
            );
        };
        number
    }
}

impl Writer for Frame {
    #[inline(always)]
    fn write<const N: usize>(&mut self, offset: usize, bytes: [u8; N]) -> Option<()> {
        let at = self.at(offset, N)?;
        // SAFETY: as in `read`; an XDP program may write to its frame, and nothing else does while it runs.
        unsafe { *(at as *mut [u8; N]) = bytes };
        Some(())
    }
}
