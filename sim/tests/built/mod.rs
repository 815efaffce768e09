//! What Cargo builds before a test, beside it.

use std::path::PathBuf;

/// `penstock-sim`. (Cargo's own name for where it is has a hyphen in it, which the shell script around the compiler does not
/// pass on.)
pub(crate) fn penstock_sim() -> PathBuf {
    let test = std::env::current_exe().expect("this test's file");
    test.ancestors().nth(2).expect("target/PROFILE/deps").join("penstock-sim")
}
