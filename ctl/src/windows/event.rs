//! Events: what a thread waits for.

use std::io;
use std::ptr::null;
use std::time::Duration;

use windows_sys::Win32::Foundation::{CloseHandle, HANDLE, WAIT_OBJECT_0, WAIT_TIMEOUT};
use windows_sys::Win32::System::Threading::{
    CreateEventW, INFINITE, SetEvent, WaitForMultipleObjects,
};

/// An event that is reset by who has waited for it.
pub struct Event(HANDLE);

// SAFETY: an event's handle is the process's, and any thread may use it.
unsafe impl Send for Event {}
// SAFETY: as above; Windows orders what threads do to it.
unsafe impl Sync for Event {}

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

    /// Sets it.
    ///
    /// # Errors
    ///
    /// What Windows says.
    pub fn set(&self) -> io::Result<()> {
        // SAFETY: the event is open.
        super::done(unsafe { SetEvent(self.0) })
    }

    /// Waits for it, and says whether it was set in time.
    ///
    /// # Errors
    ///
    /// What Windows says.
    pub fn wait(&self, timeout: Duration) -> io::Result<bool> {
        wait_any(&[self], Some(timeout)).map(|which| which.is_some())
    }
}

/// Waits for one of `events`, up to 64, and says which, the first if several are set; nothing if the time has passed.
///
/// # Errors
///
/// What Windows says.
pub fn wait_any(events: &[&Event], timeout: Option<Duration>) -> io::Result<Option<usize>> {
    let handles: Vec<_> = events.iter().map(|event| event.0).collect();
    // The longest time that is none for ever is 49 days.
    let milliseconds = timeout.map_or(INFINITE, |timeout| {
        u32::try_from(timeout.as_millis()).unwrap_or(INFINITE).min(INFINITE - 1)
    });
    let count = u32::try_from(handles.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: as many handles, and each is of an event that is open for as long as this waits.
    match unsafe { WaitForMultipleObjects(count, handles.as_ptr(), 0, milliseconds) } {
        WAIT_TIMEOUT => Ok(None),
        which if which.wrapping_sub(WAIT_OBJECT_0) < count => {
            Ok(Some((which - WAIT_OBJECT_0) as usize))
        }
        _ => Err(io::Error::last_os_error()),
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
    use super::*;

    #[test]
    fn the_event_that_is_set_is_told_once() {
        let (first, second) = (Event::new().unwrap(), Event::new().unwrap());
        second.set().unwrap();
        assert_eq!(wait_any(&[&first, &second], None).unwrap(), Some(1));
        assert_eq!(wait_any(&[&first, &second], Some(Duration::ZERO)).unwrap(), None);
        first.set().unwrap();
        assert!(
            first.wait(Duration::from_secs(10)).unwrap() && !first.wait(Duration::ZERO).unwrap()
        );
    }
}
