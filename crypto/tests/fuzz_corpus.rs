//! What fuzzing found worth keeping, run again by plain `cargo test`; `crypto/fuzz` finds more.

#[path = "../fuzz/src/lib.rs"]
mod fuzz;

use std::path::Path;

/// Runs what is in the corpus of `target`, and as much that is drawn.
fn replay(target: &str, run: impl Fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut count = 0;
    for entry in std::fs::read_dir(&folder).expect("the corpus is in the repository") {
        let path = entry.expect("a readable folder").path();
        println!("{}", path.display());
        run(&std::fs::read(&path).expect("a readable file"));
        count += 1;
    }
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
        println!("drawn: {round}");
        run(&input);
    }
    assert!(count >= 20, "only {count} inputs in {}", folder.display());
}

#[test]
fn aead_batches() {
    replay("aead_batch", fuzz::aead_batch::run);
}

#[test]
fn messages() {
    replay("messages", fuzz::messages::run);
}

#[test]
fn tunnels() {
    replay("tunnel", fuzz::tunnel::run);
}

#[test]
fn allowed_ips() {
    replay("allowed_ips", fuzz::allowed_ips::run);
}

#[test]
fn receive_windows() {
    replay("replay", fuzz::replay::run);
}

#[test]
fn configurations() {
    replay("configuration", fuzz::configuration::run);
}
