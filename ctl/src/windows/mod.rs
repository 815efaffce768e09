//! What only Windows has, and the one place of `ctl` where its functions are called.
//!
//! Every function here takes and gives plain Rust: nothing outside of this folder is unsafe.

mod access;
pub mod console;
pub mod device;
mod dns;
pub mod dpapi;
pub mod driver_store;
pub mod event;
pub mod event_log;
pub mod files;
mod filter_engine;
mod interpreter;
mod job;
mod library;
pub mod machine;
mod network;
pub mod network_changes;
pub mod pipe;
pub mod pipe_client;
pub mod policy_section;
pub mod process;
pub mod registry;
pub mod seal;
pub mod service_main;
pub mod services;
pub mod signature;
mod software_device;
pub mod token;
pub mod trace_session;
pub mod watch;
mod wide;

use std::io;
use std::os::windows::io::{FromRawHandle, OwnedHandle};

use windows_sys::Win32::Foundation::{HANDLE, INVALID_HANDLE_VALUE};

/// The error of a function that returns its number, of which 0 is none.
fn checked(code: u32) -> io::Result<()> {
    if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(code.cast_signed())) }
}

/// The handle that a function has just opened, or its error.
///
/// # Safety
///
/// Nobody else has it.
unsafe fn owned(handle: HANDLE) -> io::Result<OwnedHandle> {
    if handle.is_null() || handle == INVALID_HANDLE_VALUE {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open, and nobody else's.
    Ok(unsafe { OwnedHandle::from_raw_handle(handle) })
}

/// The error of a function that returns whether it did something.
fn done(did: i32) -> io::Result<()> {
    if did == 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
