//! That whoever started this program wants it to end: Ctrl-C, Ctrl-Break, a window that closes, the end of a session.
//!
//! Source: <https://learn.microsoft.com/windows/console/handlerroutine>.

use std::io;
use std::sync::mpsc::Sender;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use windows_sys::Win32::System::Console::{CTRL_BREAK_EVENT, CTRL_C_EVENT, SetConsoleCtrlHandler};

use crate::tunnel::watch::Signal;

/// Windows ends a program whose window was closed this long after its handler was called.
const CLOSING: Duration = Duration::from_secs(5);

/// Who is told.
static TOLD: Mutex<Option<Sender<Signal>>> = Mutex::new(None);

/// Has `told` be sent [`Signal::Stop`] when this program is to end, instead of its end.
///
/// # Errors
///
/// What Windows says.
pub fn stop(told: Sender<Signal>) -> io::Result<()> {
    *TOLD.lock().unwrap_or_else(PoisonError::into_inner) = Some(told);
    // SAFETY: a function that lives as long as the program.
    super::done(unsafe { SetConsoleCtrlHandler(Some(handle), 1) })
}

unsafe extern "system" fn handle(event: u32) -> i32 {
    if let Some(told) = &*TOLD.lock().unwrap_or_else(PoisonError::into_inner) {
        // Nobody listens any more who is ending already.
        let _ = told.send(Signal::Stop);
    }
    if !matches!(event, CTRL_C_EVENT | CTRL_BREAK_EVENT) {
        // With the return of this the program ends: until then the tunnel goes down.
        std::thread::sleep(CLOSING);
    }
    1
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn ctrl_c_is_told() {
        let (sender, receiver) = mpsc::channel();
        stop(sender).unwrap();
        // SAFETY: takes a number.
        assert_eq!(unsafe { handle(CTRL_C_EVENT) }, 1);
        assert_eq!(receiver.recv(), Ok(Signal::Stop));
    }
}
