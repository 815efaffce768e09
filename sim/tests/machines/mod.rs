//! What scenarios share: where the driver is, and a pair of machines to begin with.
//!
//! A scenario needs the driver that `scripts/build.sh` makes. `PENSTOCK_DRIVER` names another file. Without one a scenario
//! is skipped by name, so that plain `cargo test` works where nothing has been built for Windows; `scripts/test.sh` sets
//! `PENSTOCK_DRIVER_REQUIRED`, and then it fails.

#![allow(dead_code, reason = "each scenario uses its part")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use sim::host::memory::pair::Pair;
use sim::nt::machine::Options;
use sim::verifier::schedule::{Mode, World};

/// The driver file, or `None` if there is none and none is required.
///
/// # Panics
///
/// If there is none although one is required.
#[must_use]
pub fn driver() -> Option<PathBuf> {
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/driver/penstock.sys");
    let path = std::env::var_os("PENSTOCK_DRIVER").map_or(built, PathBuf::from);
    if path.is_file() {
        return Some(path);
    }
    let required = std::env::var_os("PENSTOCK_DRIVER_REQUIRED").is_some();
    assert!(!required, "no driver at {}: run scripts/build.sh", path.display());
    eprintln!("skipped: no driver at {} (scripts/build.sh builds it)", path.display());
    None
}

/// Runs `scenario` on virtual time from `seed`; skipped without a driver.
pub fn on_virtual_time(seed: u64, scenario: impl FnOnce(&Arc<World>, &Path)) {
    let Some(driver) = driver() else { return };
    let world = World::new(Mode::Virtual { seed });
    let _main = world.enter("main");
    scenario(&world, &driver);
}

/// Runs `scenario` with two joined machines under the verifier, then takes them down: nothing may be left behind and
/// neither machine may have stopped.
///
/// # Panics
///
/// With the stop report or the list of what was left behind.
pub fn with_pair(seed: u64, scenario: impl FnOnce(&Pair)) {
    on_virtual_time(seed, |world, driver| {
        let options = Options { cpus: 2, verified: true, ..Options::default() };
        let pair = Pair::boot(world, &options, driver)
            .unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        scenario(&pair);
        let leaks = pair.shut_down().unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        let left: Vec<String> =
            leaks.iter().map(|leak| format!("{}: {}", leak.kind, leak.detail)).collect();
        assert!(left.is_empty(), "seed {seed}: left behind:\n{}", left.join("\n"));
    });
}
