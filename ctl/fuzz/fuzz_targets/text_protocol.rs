//! See `ctl_fuzz::text_protocol`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| ctl_fuzz::text_protocol(input));
