//! Events: what a thread waits for.

use std::io;
use std::ptr::null;
use std::time::Duration;

use windows_sys::Win32::Foundation::{CloseHandle, HANDLE, WAIT_OBJECT_0, WAIT_TIMEOUT};
use windows_sys::Win32::System::Threading::{CreateEventW, INFINITE, WaitForSingleObject};

/// An event that is reset by who has waited for it.
pub struct Event(HANDLE);

impl Event {
    /// One that is not set.
    ///
    /// # Errors
    ///
    /// What Windows says.
    pub fn new() -> io::Result<Self> {
        // SAFETY: the usual security, and no name.
        let handle = unsafe { CreateEventW(null(), 0, 0, null()) };
        if handle.is_null() { Err(io::Error::last_os_error()) } else { Ok(Self(handle)) }
    }

    pub(super) fn handle(&self) -> HANDLE {
        self.0
    }

    /// Waits for it, and says whether it was set in time. The longest time is 49 days.
    ///
    /// # Errors
    ///
    /// What Windows says.
    pub fn wait(&self, timeout: Duration) -> io::Result<bool> {
        let milliseconds = u32::try_from(timeout.as_millis()).unwrap_or(INFINITE).min(INFINITE - 1);
        // SAFETY: the event is open.
        match unsafe { WaitForSingleObject(self.0, milliseconds) } {
            WAIT_OBJECT_0 => Ok(true),
            WAIT_TIMEOUT => Ok(false),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: opened by `new`, and closed once.
        unsafe { CloseHandle(self.0) };
    }
}

#[cfg(test)]
mod tests {
    use windows_sys::Win32::System::Threading::SetEvent;

    use super::*;

    #[test]
    fn the_event_that_is_set_is_told_once() {
        let (first, second) = (Event::new().unwrap(), Event::new().unwrap());
        // SAFETY: the event is open.
        let set = |event: &Event| assert_ne!(unsafe { SetEvent(event.0) }, 0);
        set(&second);
        assert!(!first.wait(Duration::ZERO).unwrap() && second.wait(Duration::MAX).unwrap());
        assert!(!first.wait(Duration::ZERO).unwrap() && !second.wait(Duration::ZERO).unwrap());
        set(&first);
        assert!(
            first.wait(Duration::from_secs(10)).unwrap() && !first.wait(Duration::ZERO).unwrap()
        );
    }
}
