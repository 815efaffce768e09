//! Whether Windows trusts who signed a file.
//!
//! Source: <https://learn.microsoft.com/windows/win32/api/wintrust/nf-wintrust-winverifytrust>.

use std::ffi::c_void;
use std::io;
use std::path::Path;

use windows_sys::Win32::Foundation::{HWND, INVALID_HANDLE_VALUE};
use windows_sys::Win32::Security::WinTrust::{
    WINTRUST_ACTION_GENERIC_VERIFY_V2, WINTRUST_DATA, WINTRUST_DATA_0, WINTRUST_FILE_INFO,
    WTD_CACHE_ONLY_URL_RETRIEVAL, WTD_CHOICE_FILE, WTD_REVOKE_NONE, WTD_UI_NONE,
};
use windows_sys::core::GUID;

use super::library::Library;
use super::wide::wide;

/// WinVerifyTrust.
type Verify = unsafe extern "system" fn(HWND, *mut GUID, *mut c_void) -> i32;

/// What Windows says of the signature in a file; asks nobody by the network, and shows nothing.
///
/// # Errors
///
/// Windows does not trust it: what it says of that. A file that cannot be read is one.
pub fn verify(path: &Path) -> io::Result<()> {
    let library = Library::of("wintrust.dll")?;
    let function = library.function(c"WinVerifyTrust").ok_or(io::ErrorKind::Unsupported)?;
    // SAFETY: the function of this name has this signature.
    let verify =
        unsafe { std::mem::transmute::<unsafe extern "system" fn() -> isize, Verify>(function) };
    let path = wide(path);
    let mut file = WINTRUST_FILE_INFO {
        cbStruct: size_of::<WINTRUST_FILE_INFO>() as u32,
        pcwszFilePath: path.as_ptr(),
        ..Default::default()
    };
    let mut data = WINTRUST_DATA {
        cbStruct: size_of::<WINTRUST_DATA>() as u32,
        dwUIChoice: WTD_UI_NONE,
        fdwRevocationChecks: WTD_REVOKE_NONE,
        dwUnionChoice: WTD_CHOICE_FILE,
        Anonymous: WINTRUST_DATA_0 { pFile: &raw mut file },
        dwProvFlags: WTD_CACHE_ONLY_URL_RETRIEVAL,
        ..Default::default()
    };
    let mut action = WINTRUST_ACTION_GENERIC_VERIFY_V2;
    // SAFETY: nobody is shown anything; the structures are whole, and live as long as the call.
    let told = unsafe { verify(INVALID_HANDLE_VALUE, &raw mut action, (&raw mut data).cast()) };
    super::checked(told.cast_unsigned())
}
