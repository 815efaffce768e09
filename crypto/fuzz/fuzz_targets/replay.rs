//! The receive window against a set.
#![no_main]
libfuzzer_sys::fuzz_target!(|input: &[u8]| crypto_fuzz::replay::run(input));
