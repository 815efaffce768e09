//! Reads and writes of addresses that came from the driver.
//!
//! An import gets pointers. A wrong one must become a stop that names the import, never a crash of the simulator, so nothing
//! dereferences them: bytes go through one assembly routine whose faults the handler in `trap.rs` turns into an error.
//!
//! The functions are safe to call although a wild address could name the simulator's own memory: the driver lives in the same
//! address space and could do the same itself. What is guaranteed is that a fault is an error.

use std::arch::global_asm;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64};

/// The address that could not be read or written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault(pub usize);

unsafe extern "C" {
    /// Copies `count` bytes; returns how many are left (0: all done).
    fn probe_copy(to: *mut u8, from: *const u8, count: usize) -> usize;
    fn probe_copy_end();
    fn probe_failed();
}

// After a fault RCX is the number of bytes left, to a word. Most copies are a few bytes, for which `rep movsb` takes longer
// to begin than they take.
global_asm!(
    r#"
.globl probe_copy
.type probe_copy,@function
probe_copy:
  mov rcx, rdx
  cmp rcx, 128
  ja 4f
2:
  cmp rcx, 8
  jb 3f
  mov rax, [rsi]
  mov [rdi], rax
  add rsi, 8
  add rdi, 8
  sub rcx, 8
  jmp 2b
3:
  test rcx, rcx
  jz 5f
  mov al, [rsi]
  mov [rdi], al
  inc rsi
  inc rdi
  dec rcx
  jmp 3b
4:
  rep movsb
5:
.globl probe_copy_end
probe_copy_end:
.globl probe_failed
probe_failed:
  mov rax, rcx
  ret
"#
);

/// Where execution goes on after a fault at `rip`, if that is inside the probing copy.
pub(crate) fn recovery(rip: usize) -> Option<usize> {
    let inside = probe_copy as *const () as usize..probe_copy_end as *const () as usize;
    inside.contains(&rip).then_some(probe_failed as *const () as usize)
}

/// Types that are any bytes of their size.
///
/// # Safety
///
/// Every bit pattern is a value, and there is no padding.
pub unsafe trait Plain: Copy + Default {}

macro_rules! plain {
    ($($type:ty)*) => { $(
        // SAFETY: integers have no padding and no invalid bit patterns.
        unsafe impl Plain for $type {}
    )* };
}
plain!(u8 u16 u32 u64 usize i8 i16 i32 i64);

// SAFETY: nothing lies between the elements, each of which is any bytes.
unsafe impl<T: Plain, const N: usize> Plain for [T; N] where [T; N]: Default {}

/// Reads a value at `address`, aligned or not.
///
/// # Errors
///
/// [`Fault`] if some byte of it is not readable.
pub fn read<T: Plain>(address: usize) -> Result<T, Fault> {
    let mut value = T::default();
    copy(std::ptr::from_mut(&mut value).expose_provenance(), address, size_of::<T>())
        .map_err(|_| Fault(address))?;
    Ok(value)
}

/// Writes a value at `address`, aligned or not.
///
/// # Errors
///
/// [`Fault`] if some byte of it is not writable.
pub fn write<T: Plain>(address: usize, value: T) -> Result<(), Fault> {
    copy(address, std::ptr::from_ref(&value).expose_provenance(), size_of::<T>())
}

/// Copies `count` bytes, either side of which may be the driver's.
///
/// # Errors
///
/// [`Fault`] with the destination address where it stopped.
pub fn copy(to: usize, from: usize, count: usize) -> Result<(), Fault> {
    let (target, source) =
        (std::ptr::with_exposed_provenance_mut(to), std::ptr::with_exposed_provenance(from));
    // SAFETY: the routine touches only the two ranges, faults come back as a count, and see the module about wild addresses.
    match unsafe { probe_copy(target, source, count) } {
        0 => Ok(()),
        left => Err(Fault(to + count - left)),
    }
}

/// Reads `count` bytes at `address`.
///
/// # Errors
///
/// [`Fault`] if some byte is not readable; or `count` exceeds 256 MiB, which no caller here means.
pub fn bytes(address: usize, count: usize) -> Result<Vec<u8>, Fault> {
    if count > 256 << 20 {
        return Err(Fault(address));
    }
    let mut out = vec![0; count];
    copy(out.as_mut_ptr().expose_provenance(), address, count).map_err(|_| Fault(address))?;
    Ok(out)
}

/// Writes `data` at `address`.
///
/// # Errors
///
/// [`Fault`] if some byte is not writable.
pub fn write_bytes(address: usize, data: &[u8]) -> Result<(), Fault> {
    copy(address, data.as_ptr().expose_provenance(), data.len())
}

/// Fills `count` bytes at `address`.
///
/// # Errors
///
/// [`Fault`] if some byte is not writable.
pub fn fill(address: usize, value: u8, count: usize) -> Result<(), Fault> {
    let chunk = [value; 4096];
    let mut done = 0;
    while done < count {
        let step = chunk.len().min(count - done);
        write_bytes(address + done, &chunk[..step])?;
        done += step;
    }
    Ok(())
}

/// Reads a string of bytes up to its NUL, at most `limit` bytes.
///
/// # Errors
///
/// [`Fault`] if a byte before the NUL is not readable.
pub fn c_string(address: usize, limit: usize) -> Result<Vec<u8>, Fault> {
    let mut out = Vec::new();
    while out.len() < limit {
        match read::<u8>(address + out.len())? {
            0 => break,
            byte => out.push(byte),
        }
    }
    Ok(out)
}

/// Reads a `UNICODE_STRING` (structure at `address`), lossily.
///
/// # Errors
///
/// [`Fault`] if the structure or its buffer is not readable.
pub fn unicode_string(address: usize) -> Result<String, Fault> {
    let length = usize::from(read::<u16>(address)?);
    let units = bytes(read::<usize>(address + 8)?, length & !1)?;
    let units: Vec<u16> =
        units.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
    Ok(String::from_utf16_lossy(&units))
}

macro_rules! atomic {
    ($($(#[$doc:meta])* $name:ident: $atomic:ty, $plain:ty;)*) => { $(
        $(#[$doc])*
        ///
        /// # Errors
        ///
        /// [`Fault`] if it is not mapped, or misaligned.
        pub fn $name<'m>(address: usize) -> Result<&'m $atomic, Fault> {
            if !address.is_multiple_of(size_of::<$plain>()) {
                return Err(Fault(address));
            }
            read::<$plain>(address)?;
            // SAFETY: just read, so mapped, and aligned. That it stays mapped for the short while the caller uses it is the
            // driver's duty towards NT as well; if it does not, the access faults and the run ends with a report.
            Ok(unsafe { &*std::ptr::with_exposed_provenance::<$atomic>(address) })
        }
    )* };
}
atomic! {
    /// A byte of the driver's that both sides change.
    atomic_u8: AtomicU8, u8;
    /// A double word of the driver's that both sides change.
    atomic_u32: AtomicU32, u32;
    /// A quad word of the driver's that both sides change.
    atomic_u64: AtomicU64, u64;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_address_is_an_error() {
        crate::loader::trap::install();
        assert!(read::<u64>(16).is_err());
        assert!(write(8, 1_u32).is_err());
        assert!(c_string(4096 - 8, 64).is_err());
        let from: Vec<u8> = (0..=255).collect();
        for count in (0..40).chain(120..140) {
            let mut to = vec![0; 256];
            let at = |slice: &[u8]| slice.as_ptr().expose_provenance();
            assert_eq!(copy(to.as_mut_ptr().expose_provenance() + 1, at(&from), count), Ok(()));
            assert_eq!((to[0], &to[1..=count], to[count + 1]), (0, &from[..count], 0));
            // The first bytes are there, then nothing.
            assert_eq!(copy(16, at(&from), count).is_err(), count > 0);
        }
        let mut own = 7_u64;
        assert_eq!(read::<u64>(std::ptr::from_mut(&mut own).expose_provenance()), Ok(7));
    }
}
