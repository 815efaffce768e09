//! The AEAD's part: that it cannot panic, how much stack it takes, and that it wipes all of it.

use crate::code::{Code, is_crate};

/// What a batch uses at most below whoever calls it, its return address included.
const BOUND: usize = 4096;
/// The machine code that wipes has the length of what it wipes in its name.
const CLEARERS: [&str; 3] = ["wipe::after128", "wipe::after256", "wipe::after512"];

/// Where batches begin, whatever the compiler inlined into its callers.
fn roots(code: &Code) -> Vec<u32> {
    ["crypto::aead::batch::seal_all<", "crypto::aead::batch::open_all<", "crypto::aead::seal"]
        .iter()
        .flat_map(|name| code.named(name))
        .collect()
}

#[test]
fn no_batch_reaches_a_panic() {
    let code = Code::read();
    let reached = code.reach(&roots(&code), is_crate);
    let way = |at: u32| code.way(&reached, at);
    for at in reached.keys() {
        let name = code.name(*at);
        assert!(!name.contains("panic") && !name.contains("_failed"), "{:?}", way(*at));
        assert!(!code.0[at].is_open, "calls through a pointer: {:?}", way(*at));
    }
    for part in
        ["chacha512::wide_pass", "poly52::full_chunks", "vector256::pass", "engines::ifma_open_one"]
    {
        assert!(reached.keys().any(|at| code.name(*at).contains(part)), "{part} was not looked at");
    }
}

#[test]
fn a_batch_takes_at_most_four_kibibytes_of_stack_and_wipes_all_of_it() {
    let code = Code::read();
    for root in roots(&code) {
        let depth = code.depth(root, &|_| false);
        println!("{depth:5} {}", code.name(root));
        assert!(depth <= BOUND, "{}: {depth} bytes", code.name(root));
    }
    let groups: Vec<usize> = (code.named("batch::seal_all<").iter())
        .chain(&code.named("batch::open_all<"))
        .map(|at| code.depth(*at, &is_crate))
        .collect();
    let alone = |name: &str| name.contains("_group<");
    let few: Vec<usize> = (code.named("batch::seal_all<").iter())
        .chain(&code.named("batch::open_all<"))
        .map(|at| code.depth(*at, &alone))
        .collect();
    for name in CLEARERS {
        for at in code.named(name) {
            let frame = 8 + code.0[&at].frame;
            let mut wiped: Vec<usize> = (code.0[&at].calls.iter())
                .filter(|to| code.name(**to).contains("wipe::stack"))
                .map(|to| frame + 8 + code.0[to].frame)
                .collect();
            wiped.sort_unstable();
            println!("{name}: {wiped:?}, groups {groups:?}, alone {few:?}");
            assert_eq!(wiped.len(), 2, "{name}");
            assert!(
                few.iter().all(|depth| *depth <= wiped[0]),
                "alone goes deeper than {name} wipes"
            );
            assert!(
                groups.iter().all(|depth| *depth <= wiped[1]),
                "a group goes deeper than {name} wipes"
            );
        }
    }
}
