//! Texts that are compared with what a file of this folder says; PENSTOCK_BLESS=1 writes the file anew.

use std::fs;
use std::path::{Path, PathBuf};

/// A file of `ctl/tests`.
pub(crate) fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(name)
}

/// Stops if `text` is not what the file `name` says; one that is not there says nothing.
pub(crate) fn expect(name: &str, text: &str) {
    let path = file(name);
    if std::env::var("PENSTOCK_BLESS").is_ok() {
        if text.is_empty() {
            let _ = fs::remove_file(&path);
        } else {
            fs::write(&path, text).unwrap();
        }
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    assert!(text == expected, "{name} does not say:\n{text}\nbut:\n{expected}");
}
