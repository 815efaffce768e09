//! Reads what this repository declares of Windows, and what a driver kit says of the same.
//!
//! Our C headers and `nt/src/sys` are written by hand. A wrong offset there is a bug check on
//! somebody's machine, so the tests of this crate read the declarations as text, lay the records out
//! by the rules of the Windows x64 ABI, and compare everything with `nt/tests/abi.json`, which a
//! compiler made from real headers. As text, so that this runs wherever `cargo test` does: no
//! Windows, no clang, no bindings.
//!
//! The parsers know the little C and Rust that is used there, and stop at anything else.

pub mod abi;
pub mod header;
pub mod layout;
pub mod raw;

use std::{fs, path::PathBuf};

/// The text of a file of the workspace.
///
/// # Panics
///
/// When it cannot be read.
#[must_use]
pub fn read(path: &str) -> String {
    let path = workspace().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Where the workspace is.
fn workspace() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../..")
}
