//! Batches made of the input, each packet compared with what the `chacha20poly1305` crate makes of it.
#![no_main]
#[path = "../src/aead_batch.rs"]
mod aead_batch;
libfuzzer_sys::fuzz_target!(|input: &[u8]| aead_batch::run(input));
