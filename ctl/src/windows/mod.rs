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
pub mod watch;
mod wide;

use std::io;

/// The error of a function that returns its number, of which 0 is none.
fn checked(code: u32) -> io::Result<()> {
    if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(code.cast_signed())) }
}

/// The error of a function that returns whether it did something.
fn done(did: i32) -> io::Result<()> {
    if did == 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
