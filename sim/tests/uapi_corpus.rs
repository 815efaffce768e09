//! Texts that fuzzing found worth keeping, run again by plain `cargo test`; `crypto/fuzz` finds more.
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

#[path = "../../crypto/fuzz/src/uapi.rs"]
mod uapi;

use std::path::Path;

#[test]
fn requests_of_the_corpus() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crypto/fuzz/corpus/uapi");
    let mut count = 0;
    for entry in std::fs::read_dir(&folder).expect("the corpus is in the repository") {
        let path = entry.expect("a readable folder").path();
        println!("{}", path.display());
        uapi::run(&std::fs::read(&path).expect("a readable file"));
        count += 1;
    }
    assert!(count >= 20, "only {count} inputs in {}", folder.display());
}
