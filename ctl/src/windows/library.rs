//! Libraries of System32 that are loaded when they are asked for.

use std::ffi::CStr;
use std::io;
use std::ptr::null_mut;

use windows_sys::Win32::Foundation::{FARPROC, FreeLibrary, HMODULE};
use windows_sys::Win32::System::LibraryLoader::{
    GetProcAddress, LOAD_LIBRARY_SEARCH_SYSTEM32, LoadLibraryExW,
};

use super::wide::wide;

/// A library, until it is dropped; so long its functions may be called.
pub(super) struct Library(HMODULE);

impl Library {
    pub(super) fn of(name: &str) -> io::Result<Self> {
        let name = wide(name);
        // SAFETY: the name ends with a NUL; from System32 alone.
        let library =
            unsafe { LoadLibraryExW(name.as_ptr(), null_mut(), LOAD_LIBRARY_SEARCH_SYSTEM32) };
        if library.is_null() { Err(io::Error::last_os_error()) } else { Ok(Self(library)) }
    }

    /// The function of this name, if it has one.
    pub(super) fn function(&self, name: &CStr) -> FARPROC {
        // SAFETY: the library is loaded, and the name ends with a NUL.
        unsafe { GetProcAddress(self.0, name.as_ptr().cast()) }
    }
}

impl Drop for Library {
    fn drop(&mut self) {
        // SAFETY: loaded here, and nothing of it is used any more.
        unsafe { FreeLibrary(self.0) };
    }
}
