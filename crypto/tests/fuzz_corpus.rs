//! What fuzzing found worth keeping, run again by plain `cargo test`; `crypto/fuzz` finds more.

#[path = "../fuzz/src/aead_batch.rs"]
mod aead_batch;

use std::path::Path;

#[test]
fn aead_batches_of_the_corpus() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/aead_batch");
    let mut count = 0;
    for entry in std::fs::read_dir(&folder).expect("the corpus is in the repository") {
        let path = entry.expect("a readable folder").path();
        println!("{}", path.display());
        aead_batch::run(&std::fs::read(&path).expect("a readable file"));
        count += 1;
    }
    assert!(count >= 20, "only {count} inputs in {}", folder.display());
}

#[test]
fn aead_batches_of_arbitrary_bytes() {
    let mut word = 0x9e37_79b9_7f4a_7c15_u64;
    for round in 0..60 {
        let input: Vec<u8> = (0..40 * round)
            .map(|_| {
                word ^= word >> 12;
                word ^= word << 25;
                word ^= word >> 27;
                (word.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 56) as u8
            })
            .collect();
        aead_batch::run(&input);
    }
}
