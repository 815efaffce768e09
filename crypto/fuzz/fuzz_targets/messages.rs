//! Datagrams and inner packets: parsed, and put together again.
#![no_main]
libfuzzer_sys::fuzz_target!(|input: &[u8]| crypto_fuzz::messages::run(input));
