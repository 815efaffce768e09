//! Penstock and boringtun over a bad wire.
#![no_main]
libfuzzer_sys::fuzz_target!(|input: &[u8]| crypto_others::tunnels::run(input));
