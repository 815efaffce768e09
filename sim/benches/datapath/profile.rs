//! A profile: whose time it is, and which functions take it.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::pair::Pair;
use super::sample::{self, Names, Owner};

/// How long the timed parts of one profile are sampled, and what is not timed with them.
const TIME: Duration = Duration::from_millis(2500);

/// Samples by function.
pub(super) struct Profile {
    functions: HashMap<(Owner, String), usize>,
    total: usize,
}

/// Samples the timed parts of `body`, again and again.
pub(super) fn take(names: &Names, pair: &Pair, mut body: impl FnMut()) -> Profile {
    let seen = sample::during(|| {
        let begun = Instant::now();
        while begun.elapsed() < TIME {
            body();
        }
    });
    let mut functions = HashMap::new();
    for (address, count) in seen {
        *functions.entry(names.of(pair, address)).or_default() += count;
    }
    let total = functions.values().sum::<usize>().max(1);
    Profile { functions, total }
}

impl Profile {
    /// Shares of the AEAD, of the rest of the driver, and of everything else.
    pub(super) fn shares(&self) -> [f64; 3] {
        [Owner::Aead, Owner::Driver, Owner::Simulator].map(|owner| {
            let own = self.functions.iter().filter(|((of, _), _)| *of == owner);
            own.map(|(_, count)| *count as f64).sum::<f64>() / self.total as f64
        })
    }

    /// The `most` functions of the driver that take longest, and a few of the simulator's, of a whole of `ns`.
    pub(super) fn print(&self, name: &str, ns: f64, most: usize) {
        println!("\n{name}: {ns:.0} ns per packet, {} samples", self.total);
        let mut functions: Vec<_> = self.functions.iter().collect();
        functions.sort_by_key(|(name, count)| (std::cmp::Reverse(**count), (*name).clone()));
        for (whose, most) in [(true, most), (false, most / 3)] {
            let own =
                functions.iter().filter(|((owner, _), _)| (*owner != Owner::Simulator) == whose);
            for ((owner, function), count) in own.take(most) {
                let share = **count as f64 / self.total as f64;
                println!("  {:7.1} ns {:5.1} %  {owner:?}: {function}", share * ns, share * 100.0);
            }
        }
    }
}
