//! Sessions of event tracing: which events are wanted, and where they go.

use std::path::PathBuf;

#[cfg(not(windows))]
pub use crate::linux::trace_session::{start, stop};
#[cfg(windows)]
pub use crate::windows::trace_session::{start, stop};

/// A session that wants the driver's events.
#[derive(Clone, Debug)]
pub struct Session {
    /// Its name, of which there is one session at a time.
    pub name: String,
    /// Its file, by its whole path.
    pub file: PathBuf,
    /// Up to this level.
    pub level: u8,
    /// About any of these.
    pub keywords: u64,
    /// How large the file may become. The simulated machine has a limit of its own.
    pub max_mib: u32,
}

/// What is known of a session that has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Its file.
    pub file: String,
    /// Events it had no room for.
    pub lost: u64,
}

/// Why a session is not started, or not stopped: what to do, for a person.
pub type Why = String;

/// What a session says that runs already.
pub(crate) fn runs(name: &str) -> Why {
    format!(
        "a session of that name runs: stop it (penstock trace stop --name {name}), or give another name (--name)"
    )
}

/// What is said where none runs.
pub(crate) const NONE: &str = "no session of that name runs";
