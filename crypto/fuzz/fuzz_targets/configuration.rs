//! SET requests, as bytes, against the model of one page.
#![no_main]
libfuzzer_sys::fuzz_target!(|input: &[u8]| crypto_fuzz::configuration::run(input));
