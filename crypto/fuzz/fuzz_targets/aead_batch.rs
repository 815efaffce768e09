//! Batches made of the input, each packet compared with what the `chacha20poly1305` crate makes of it.
#![no_main]
libfuzzer_sys::fuzz_target!(|input: &[u8]| crypto_fuzz::aead_batch::run(input));
