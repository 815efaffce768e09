//! What nobody outside knows of Windows: each such behaviour both ways, over a short life of two machines.
//!
//! ```text
//!   for each Unknown behaviour, for each answer:  boot ─ handshake ─ pings ─ down, up ─ pings ─ unload
//! ```

use std::collections::BTreeMap;
use std::time::Duration;

use abi::policy::Policy;
use sim::host::memory::pair::Pair;
use sim::nt::Mark;
use sim::nt::machine::Options;

use crate::{assert_clean, driver, on_virtual_time, options};

const PATIENCE: Duration = Duration::from_secs(20);

fn live(options: &Options, seed: u64) {
    on_virtual_time(seed, |world| {
        let pair = Pair::boot(world, options, &driver())
            .unwrap_or_else(|error| panic!("{:?}: {error}", options.choices));
        for round in 0..2 {
            for to in pair.beta.inner() {
                let answer = pair.alpha.endpoint().ping(to, 300, PATIENCE);
                assert!(answer.is_some(), "{:?}, round {round}: {to}", options.choices);
            }
            pair.alpha.set_up(false).unwrap();
            pair.alpha.set_up(true).unwrap();
        }
        for (name, answer) in pair.alpha.computer().machine().choices() {
            let fixed = options.choices.get(name);
            assert!(fixed.is_none_or(|fixed| *fixed == answer), "{name} was drawn, not fixed");
        }
        assert_clean(&pair.shut_down().unwrap_or_else(|error| panic!("{error}")));
    });
}

#[test]
fn either_answer_will_do() {
    let unknown: Vec<_> =
        sim::nt::every_behaviour().filter(|behaviour| behaviour.mark == Mark::Unknown).collect();
    assert!(!unknown.is_empty(), "Windows is known at last");
    for behaviour in unknown {
        for answer in [false, true] {
            let choices = BTreeMap::from([(behaviour.name.to_owned(), answer)]);
            // With everything that is off by default, for some answers are asked for by nobody else.
            let offloads = [Policy::OuterSegmentation, Policy::OuterCoalescing];
            let parameters = offloads.map(|policy| (policy.name().to_owned(), 1)).into();
            let options = Options { choices, parameters, ..options("one") };
            live(&options, 1 + u64::from(answer));
        }
    }
}
