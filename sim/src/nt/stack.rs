//! Driver stacks: of kernel size, between guard pages, filled so that their use can be seen.

use crate::loader::pe;

/// Bytes of a kernel stack on x64.
pub const KERNEL_STACK: usize = 24 << 10;
/// What the stack is filled with, to see how far it was used.
pub(crate) const STACK_FILL: u8 = 0xA5;
/// Room above the first frame: the gate reads seven stack arguments there.
const STACK_HEAD: usize = 0x100;

/// A driver stack between two guard pages.
pub(crate) struct Stack {
    low: usize,
}

impl Stack {
    pub(crate) fn new() -> std::io::Result<Self> {
        let base = pe::map_anonymous(None, KERNEL_STACK + 2 * 4096)?;
        pe::protect(base, 4096, libc::PROT_NONE)?;
        pe::protect(base + 4096 + KERNEL_STACK, 4096, libc::PROT_NONE)?;
        let stack = Self { low: base + 4096 };
        // SAFETY: freshly mapped and writable between the guard pages.
        unsafe { std::ptr::write_bytes(stack.low as *mut u8, STACK_FILL, KERNEL_STACK) };
        Ok(stack)
    }

    pub(crate) fn bounds(&self) -> (usize, usize) {
        (self.low, self.low + KERNEL_STACK)
    }

    pub(crate) fn top(&self) -> u64 {
        (self.low + KERNEL_STACK - STACK_HEAD) as u64
    }
}

/// Bytes from the low end on that nobody has written.
pub(crate) fn untouched(bytes: &[u8]) -> usize {
    const WHOLE: [u8; 256] = [STACK_FILL; 256];
    let blocks = bytes.chunks_exact(WHOLE.len()).take_while(|block| **block == WHOLE).count();
    let whole = blocks * WHOLE.len();
    whole + bytes[whole..].iter().take_while(|byte| **byte == STACK_FILL).count()
}

impl Drop for Stack {
    fn drop(&mut self) {
        pe::unmap(self.low - 4096, KERNEL_STACK + 2 * 4096);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_byte_that_was_written_is_found() {
        for at in [0, 1, 255, 256, 257, 511, 999] {
            let mut bytes = [STACK_FILL; 1000];
            bytes[at] = 0;
            bytes[999] = 1;
            assert_eq!(untouched(&bytes), at);
        }
        assert_eq!(untouched(&[STACK_FILL; 1000]), 1000);
    }
}
