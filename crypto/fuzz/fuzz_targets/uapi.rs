//! Requests as `wg` writes them, and as nobody does.
#![no_main]
#[path = "../src/uapi.rs"]
mod uapi;
libfuzzer_sys::fuzz_target!(|input: &[u8]| uapi::run(input));
