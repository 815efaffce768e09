//! What the fuzz targets run.

mod config_file;
mod text_protocol;

/// See [`config_file::run`].
pub fn config_file(input: &[u8]) {
    config_file::run(input);
}

/// See [`text_protocol::run`].
pub fn text_protocol(input: &[u8]) {
    text_protocol::run(input);
}
