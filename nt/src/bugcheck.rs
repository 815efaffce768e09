//! The end of the line: a panic stops the machine, and says where.
//!
//! There is nothing to unwind into in a kernel, and a driver that loops leaves no dump. The stop
//! code is our pool tag; its parameters are what a debugger needs to print the place:
//! `da poi(parameter 1)`. Any IRQL, any thread.

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
    // SAFETY: callable at any level from any thread; the parameters are only shown.
    unsafe {
        KeBugCheckEx(
            CODE,
            file.as_ptr() as u64,
            file.len() as u64,
            u64::from(line),
            u64::from(column),
        );
    }
    // KeBugCheckEx does not return, which its declaration does not say.
    loop {
        core::hint::spin_loop();
    }
}
