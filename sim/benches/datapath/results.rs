//! What samples come to, and where results go.

use std::path::{Path, PathBuf};

/// The repository's folder.
pub fn root() -> PathBuf {
    let here = std::env::current_dir().expect("a working directory");
    let root = here.ancestors().find(|folder| folder.join("docs/performance.md").is_file());
    root.map(Path::to_owned).expect("somewhere in the repository")
}

/// Writes a file of `target/bench`.
pub fn write(name: &str, text: &str) {
    let folder = root().join("target/bench");
    std::fs::create_dir_all(&folder).expect("target/bench can be made");
    std::fs::write(folder.join(name), format!("{text}\n")).expect("target/bench can be written");
}

/// The middle one of samples, of which there are some.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
