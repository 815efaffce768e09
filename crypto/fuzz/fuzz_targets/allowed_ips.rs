//! The table of prefixes against a linear scan.
#![no_main]
libfuzzer_sys::fuzz_target!(|input: &[u8]| crypto_fuzz::allowed_ips::run(input));
