//! The end of the line: a panic stops the machine, and says where.
//!
//! There is nothing to unwind into in a kernel, and a driver that loops leaves no dump. The stop
//! code is our pool tag; its parameters are what a debugger needs to print the place:
//! `da poi(parameter 1)`. The data path has no panics: where it finds that its own memory is not what
//! it left, it stops by [`impossible`], which has a code of its own. Any IRQL, any thread.

use core::panic::PanicInfo;

use wdk_sys::ntddk::KeBugCheckEx;

/// The stop code of a panic: `Pnst`, read as letters.
pub const CODE: u32 = u32::from_be_bytes(*b"Pnst");

/// Stops the machine with the place of the panic: file name, its length, line, column.
///
/// The driver crate's `#[panic_handler]` is a call of this.
///
/// # IRQL
///
/// Any.
///
/// Source: <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-kebugcheckex>
pub fn panic(info: &PanicInfo<'_>) -> ! {
    let (file, line, column) =
        info.location().map_or(("", 0, 0), |at| (at.file(), at.line(), at.column()));
    stop(CODE, [file.as_ptr() as u64, file.len() as u64, u64::from(line), u64::from(column)])
}

/// What cannot be, as long as all memory is what the loader and we left it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Impossible {
    /// A receive buffer whose number its pool does not have: to go on would be to write to somebody else's memory.
    ReceiveBuffer = 1,
    /// A function of NetAdapterCx that the loader did not bind.
    NotBound = 2,
}

/// The stop code of [`impossible`]: `PnsI`, read as letters.
pub const IMPOSSIBLE: u32 = u32::from_be_bytes(*b"PnsI");

/// Stops the machine because of what cannot be, which is parameter 1.
///
/// # IRQL
///
/// Any.
///
/// Source: <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-kebugcheckex>
#[cold]
#[inline(never)]
pub fn impossible(what: Impossible) -> ! {
    stop(IMPOSSIBLE, [what as u64, 0, 0, 0])
}

fn stop(code: u32, [first, second, third, fourth]: [u64; 4]) -> ! {
    // SAFETY: callable at any level from any thread; the parameters are only shown.
    unsafe { KeBugCheckEx(code, first, second, third, fourth) };
    // KeBugCheckEx does not return, which its declaration does not say.
    loop {
        core::hint::spin_loop();
    }
}
