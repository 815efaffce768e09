//! The driver's package: put into Windows' driver store and taken out of it, and which version is there.
//!
//! The functions are looked for when they are asked for: they bring much along that no other command needs.
//!
//! Source: <https://learn.microsoft.com/windows/win32/api/newdev/nf-newdev-diinstalldriverw>, and `DiUninstallDriverW` beside it.

use std::io;
use std::path::Path;
use std::ptr::null_mut;

use windows_sys::Win32::Foundation::HWND;
use windows_sys::Win32::Storage::FileSystem::{
    GetFileVersionInfoSizeW, GetFileVersionInfoW, VS_FIXEDFILEINFO, VerQueryValueW,
};
use windows_sys::core::{BOOL, PCWSTR};

use super::library::Library;
use super::wide::wide;
use crate::service::driver_package::Version;

/// `DiInstallDriverW` and `DiUninstallDriverW`.
type OfInf = unsafe extern "system" fn(HWND, PCWSTR, u32, *mut BOOL) -> BOOL;

/// What VS_FIXEDFILEINFO begins with.
const SIGNATURE: u32 = 0xFEEF_04BD;

/// Installs the package of an INF, and gives it to the devices that it is for; whether Windows is to be started anew.
///
/// # Errors
///
/// What Windows says.
pub fn install(inf: &Path) -> io::Result<bool> {
    of_inf(c"DiInstallDriverW", inf)
}

/// Takes the package of an INF away from the devices that have it, and out of the store; whether Windows is to be started anew.
///
/// # Errors
///
/// What Windows says.
pub fn remove(inf: &Path) -> io::Result<bool> {
    of_inf(c"DiUninstallDriverW", inf)
}

fn of_inf(name: &std::ffi::CStr, inf: &Path) -> io::Result<bool> {
    let library = Library::of("newdev.dll")?;
    let function = library.function(name).ok_or_else(io::Error::last_os_error)?;
    // SAFETY: both functions of these names have this signature.
    let function: OfInf = unsafe { std::mem::transmute(function) };
    let (inf, mut restart) = (wide(inf), 0);
    // SAFETY: no window; the path ends with a NUL; no flags; a place for the answer.
    super::done(unsafe { function(null_mut(), inf.as_ptr(), 0, &raw mut restart) })?;
    Ok(restart != 0)
}

/// The version that a file says it is.
///
/// # Errors
///
/// What Windows says; `InvalidData` if it says none.
pub fn version_of(file: &Path) -> io::Result<Version> {
    let file = wide(file);
    let mut handle = 0;
    // SAFETY: the path ends with a NUL; a place for a number that nobody uses.
    let len = unsafe { GetFileVersionInfoSizeW(file.as_ptr(), &raw mut handle) };
    if len == 0 {
        return Err(io::Error::last_os_error());
    }
    let mut block = vec![0_u64; (len as usize).div_ceil(size_of::<u64>())];
    // SAFETY: the path ends with a NUL; the block has this length.
    super::done(unsafe { GetFileVersionInfoW(file.as_ptr(), 0, len, block.as_mut_ptr().cast()) })?;
    let (root, mut fixed, mut fixed_len) = (wide("\\"), null_mut(), 0);
    // SAFETY: the block was just written; the path in it ends with a NUL; places for where it is, and how long.
    super::done(unsafe {
        VerQueryValueW(block.as_ptr().cast(), root.as_ptr(), &raw mut fixed, &raw mut fixed_len)
    })?;
    if fixed.is_null() || (fixed_len as usize) < size_of::<VS_FIXEDFILEINFO>() {
        return Err(io::ErrorKind::InvalidData.into());
    }
    // SAFETY: it is in the block, which is still there, and long enough.
    let fixed = unsafe { fixed.cast::<VS_FIXEDFILEINFO>().read_unaligned() };
    if fixed.dwSignature != SIGNATURE {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let halves = |word: u32| [(word >> 16) as u16, word as u16];
    let ([major, minor], [patch, build]) =
        (halves(fixed.dwFileVersionMS), halves(fixed.dwFileVersionLS));
    Ok(Version([major, minor, patch, build]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_says_its_version_and_what_is_none_does_not() {
        let system = Path::new(r"C:\windows\system32");
        let Version(numbers) = version_of(&system.join("kernel32.dll")).unwrap();
        assert!(numbers[0] > 0, "{numbers:?}");
        assert!(version_of(&system.join("drivers/etc/hosts")).is_err());
        assert!(version_of(&system.join("none.dll")).is_err());
    }

    #[test]
    fn what_windows_does_not_have_is_said() {
        assert!(Library::of("penstock-nonsense.dll").is_err());
        assert!(of_inf(c"DiNonsenseW", Path::new(r"C:\none.inf")).is_err());
    }
}
