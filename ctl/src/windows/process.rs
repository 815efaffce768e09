//! The process itself: where it looks for what it loads.

use windows_sys::Win32::System::LibraryLoader::{
    LOAD_LIBRARY_SEARCH_SYSTEM32, SetDefaultDllDirectories,
};

/// From here on libraries are loaded from System32 alone: not from the folder of the program, and not from the one it was started in.
///
/// # Errors
///
/// What Windows says; nothing may be loaded then.
pub fn load_from_system_only() -> std::io::Result<()> {
    // SAFETY: takes a number.
    super::done(unsafe { SetDefaultDllDirectories(LOAD_LIBRARY_SEARCH_SYSTEM32) })
}
