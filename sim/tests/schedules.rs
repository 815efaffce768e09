//! `penstock.sys` under many orders of events: a short life of two machines, whose CPUs are switched at imports, callbacks and
//! atomics where a seed says so. `scripts/schedules.sh` runs more of them.
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

use std::path::{Path, PathBuf};
use std::process::Command;

use sim::host::memory::trial;
use sim::verifier::explore::Plan;

mod built;

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
    let (first, count) = SEEDS;
    let (first, count) = (first.to_string(), count.to_string());
    let mut all = Command::new(built::penstock_sim());
    all.args(["schedules", "--seed", &first, "--count", &count, "--driver"]).arg(driver());
    let ended = all.output().expect("penstock-sim");
    let told = String::from_utf8_lossy(&ended.stdout);
    assert!(ended.status.success(), "{told}{}", String::from_utf8_lossy(&ended.stderr));
    // A line of each process: `N schedules from seed S, P preemptions, ...`.
    let sum = |before: &str| -> u64 {
        let number =
            |line: &str| line.split_once(before)?.0.rsplit(' ').next()?.parse::<u64>().ok();
        told.lines().filter_map(number).sum()
    };
    let (runs, preemptions) = (sum(" schedules from"), sum(" preemptions,"));
    assert_eq!(runs, SEEDS.1, "{told}");
    // Each seed has its own rate: some have none at all, most have many.
    assert!(preemptions > 20 * runs, "{told}");
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
