//! One peer, with snow's cryptography, before Penstock and before boringtun: the same verdicts.
#![no_main]
libfuzzer_sys::fuzz_target!(|input: &[u8]| crypto_others::verdicts::run(input));
