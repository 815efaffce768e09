//! Two tunnels, a clock, and anybody between them.
#![no_main]
libfuzzer_sys::fuzz_target!(|input: &[u8]| crypto_fuzz::tunnel::run(input));
