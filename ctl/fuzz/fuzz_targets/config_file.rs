//! See `ctl_fuzz::config_file`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| ctl_fuzz::config_file(input));
