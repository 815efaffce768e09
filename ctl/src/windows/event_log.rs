//! What is told in the event log.
//!
//! Source: <https://learn.microsoft.com/windows/win32/eventlog/event-sources>.

use std::io;
use std::ptr::{null, null_mut};

use windows_sys::Win32::Foundation::HANDLE;
use windows_sys::Win32::System::EventLog::{
    DeregisterEventSource, EVENTLOG_ERROR_TYPE, EVENTLOG_INFORMATION_TYPE, EVENTLOG_WARNING_TYPE,
    RegisterEventSourceW, ReportEventW,
};

use super::registry::LocalMachine;
use super::wide::wide;
use crate::key::PublicKey;
use crate::policy::engine::Writable;
use crate::policy::{Value, is_told};
use crate::service::events::{Event, Level, SOURCE, shown};

/// Where Windows looks for a source's messages.
const KEY: &str = r"SYSTEM\CurrentControlSet\Services\EventLog\Application\Penstock";

/// Says where the messages are: in this program, whose path is `program`.
///
/// # Errors
///
/// What Windows says.
pub fn register(program: &str) -> io::Result<()> {
    LocalMachine.set(KEY, "EventMessageFile", &Value::Text(program.to_owned()))?;
    let types = EVENTLOG_ERROR_TYPE | EVENTLOG_WARNING_TYPE | EVENTLOG_INFORMATION_TYPE;
    LocalMachine.set(KEY, "TypesSupported", &Value::Dword(types.into()))
}

/// Tells an event with its words, of which none may be a key: what looks like one is not shown. Nobody may listen.
pub fn tell(event: Event, words: &[&str]) {
    report(event, words.iter().map(|word| wide(shown(word))).collect());
}

/// Tells an event with its words, and then a public key.
pub fn tell_key(event: Event, words: &[&str], key: &PublicKey) {
    let words = words.iter().map(|word| wide(shown(word)));
    report(event, words.chain([wide(key.to_string())]).collect());
}

fn report(event: Event, words: Vec<Vec<u16>>) {
    if !is_told(event.level(), &LocalMachine) {
        return;
    }
    let Some(source) = Source::open() else { return };
    let pointers: Vec<_> = words.iter().map(|word| word.as_ptr()).collect();
    let level = match event.level() {
        Level::Information => EVENTLOG_INFORMATION_TYPE,
        Level::Warning => EVENTLOG_WARNING_TYPE,
        Level::Error => EVENTLOG_ERROR_TYPE,
    };
    // SAFETY: the source is open; so many texts, each with its NUL; no account and no data.
    unsafe {
        ReportEventW(
            source.0,
            level,
            0,
            event.id(),
            null_mut(),
            pointers.len() as u16,
            0,
            pointers.as_ptr(),
            null(),
        )
    };
}

struct Source(HANDLE);

impl Source {
    fn open() -> Option<Self> {
        let name = wide(SOURCE);
        // SAFETY: this machine, and a name that ends with a NUL.
        let source = unsafe { RegisterEventSourceW(null(), name.as_ptr()) };
        (!source.is_null()).then_some(Self(source))
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        // SAFETY: opened here, and closed once.
        unsafe { DeregisterEventSource(self.0) };
    }
}
