//! A folder that is watched.

use std::io;
use std::path::Path;

use windows_sys::Win32::Foundation::{HANDLE, INVALID_HANDLE_VALUE, WAIT_OBJECT_0};
use windows_sys::Win32::Storage::FileSystem::{
    FILE_NOTIFY_CHANGE_FILE_NAME, FILE_NOTIFY_CHANGE_LAST_WRITE, FindCloseChangeNotification,
    FindFirstChangeNotificationW, FindNextChangeNotification,
};
use windows_sys::Win32::System::Threading::{INFINITE, WaitForSingleObject};

use super::wide::wide;

/// Changes of a folder: of names in it, and of what its files hold.
pub struct Watch(HANDLE);

// SAFETY: a handle, which any thread may wait for; one has it at a time.
unsafe impl Send for Watch {}

impl Watch {
    /// Watches `folder` from here on.
    ///
    /// # Errors
    ///
    /// What Windows says.
    pub fn of(folder: &Path) -> io::Result<Self> {
        let folder = wide(folder);
        let what = FILE_NOTIFY_CHANGE_FILE_NAME | FILE_NOTIFY_CHANGE_LAST_WRITE;
        // SAFETY: the path ends with a NUL.
        let handle = unsafe { FindFirstChangeNotificationW(folder.as_ptr(), 0, what) };
        if handle == INVALID_HANDLE_VALUE {
            return Err(io::Error::last_os_error());
        }
        Ok(Self(handle))
    }

    /// Waits for a change, or several.
    ///
    /// # Errors
    ///
    /// What Windows says.
    pub fn wait(&mut self) -> io::Result<()> {
        // SAFETY: the handle is open.
        if unsafe { WaitForSingleObject(self.0, INFINITE) } != WAIT_OBJECT_0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the handle is open, and was waited for.
        super::done(unsafe { FindNextChangeNotification(self.0) })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // SAFETY: opened here, and closed once.
        unsafe { FindCloseChangeNotification(self.0) };
    }
}
