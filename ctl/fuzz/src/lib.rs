//! What the fuzz target runs.

mod config_file;

/// See [`config_file::run`].
pub fn config_file(input: &[u8]) {
    config_file::run(input);
}
