//! `penstock.sys` under many orders of events: a short life of two machines, whose CPUs are switched at imports, callbacks and
//! atomics where a seed says so. `scripts/schedules.sh` runs more of them.
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

use std::path::{Path, PathBuf};

use sim::host::memory::trial;
use sim::verifier::explore::Plan;

/// Seeds, from the first on.
const SEEDS: (u64, u64) = (1, 2000);

fn driver() -> PathBuf {
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/driver/penstock.sys");
    let path = std::env::var_os("PENSTOCK_DRIVER").map_or(built, PathBuf::from);
    assert!(path.is_file(), "no driver at {}: run scripts/build.sh first", path.display());
    path
}

#[test]
fn no_order_breaks_it() {
    let jobs = std::thread::available_parallelism().map_or(1, Into::into);
    let sum = trial::many(&driver(), SEEDS, jobs, 1, |_| {});
    if let Some(failed) = sum.failed.first() {
        panic!("{}", trial::shorten(&driver(), failed));
    }
    assert_eq!(sum.runs, SEEDS.1);
    // Each seed has its own rate: some have none at all, most have many.
    assert!(sum.preemptions > 20 * sum.runs, "{} preemptions", sum.preemptions);
}

#[test]
fn a_seed_is_a_run_and_so_is_its_list() {
    for seed in [3, 4, 5] {
        let run = trial::run(&driver(), seed, Plan::of(seed));
        let again = trial::run(&driver(), seed, Plan::of(seed));
        let listed = trial::run(&driver(), seed, Plan::Listed(run.list().into_iter().collect()));
        let none = trial::run(&driver(), seed, Plan::Listed([].into()));
        assert_eq!((run.trace, run.list()), (again.trace, again.list()), "seed {seed}");
        assert_eq!((run.trace, run.list()), (listed.trace, listed.list()), "seed {seed}");
        assert!(none.list().is_empty());
        assert_ne!(run.trace, none.trace, "seed {seed} preempts nobody");
    }
}
