//! Which CPUs seal and open for others, on machines of every kind: groups, nodes, unlike cores, and what policy says of them.
//!
//! ```text
//!   group 0: 64 places, of which run  0  1 ..  5      group 1: 0 .. 63        policy: base, max, node, class, exceptions
//!                        index        0  1     2               3    4   ──►   threads and DPCs on these, and no others
//! ```
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::time::Duration;

use abi::policy::{Policy, SCALING_EXCLUDE};
use abi::statistics::Counter;
use sim::host::memory::pair::{Pair, Station};
use sim::nt::machine::Options;
use sim::nt::topology::{Place, Topology};
use sim::nt::{dpc, ke};

use crate::machines::accounting::Ledger;
use crate::machines::{self, with_pair_of};

const BURST: u16 = 300;

fn place(group: u16, number: u8, node: u16, class: u8) -> Place {
    Place { group, number, node, class }
}

/// Six CPUs: three run of each of two groups of 64, each a node.
fn two_groups() -> Topology {
    let places = [(0, 0), (0, 1), (0, 63), (1, 0), (1, 31), (1, 63)];
    Topology::of(&places.map(|(group, number)| place(group, number, group, 0)))
}

/// Two fast CPUs among four slow ones and two in between.
fn unlike() -> Topology {
    let classes = [0, 2, 0, 1, 2, 0, 1, 0];
    let places = classes.iter().zip(0..).map(|(class, number)| place(0, number, 0, *class));
    Topology::of(&places.collect::<Vec<_>>())
}

/// One node that has CPUs of two groups, and one that has none of its own that run.
fn a_node_of_two_groups() -> Topology {
    Topology::of(&[place(0, 0, 0, 0), place(0, 1, 2, 0), place(1, 0, 2, 0), place(1, 1, 0, 0)])
}

/// Machines like that, by sockets, with these values and this list.
fn machines(topology: Topology, values: &[(Policy, u32)], list: &str) -> Options {
    let values = [values, &[(Policy::FastPath, 0), (Policy::SendEngine, 0)]].concat();
    let mut options = machines::with_policies(&values);
    options.topology = Some(topology);
    if !list.is_empty() {
        options.texts.insert(SCALING_EXCLUDE.to_owned(), list.to_owned());
    }
    options
}

/// The CPUs that an end's driver has threads on, by index, after traffic: and no others were dealt anything.
fn set_of(station: &Station) -> Vec<u32> {
    let machine = station.computer().machine();
    let set = ke::bound(machine);
    for (cpu, count) in dpc::urgent(machine) {
        assert!(set.contains(&cpu), "{count} DPCs for CPU {cpu}, which is none of {set:?}");
    }
    set
}

/// What alpha's log says of policy.
fn said(pair: &Pair) -> Vec<String> {
    let lines = pair.alpha.computer().machine().prints();
    let of = |line: &String| line.find("policy ").map(|at| line[at..].trim_end().to_owned());
    lines.iter().filter_map(of).collect()
}

/// A burst one way, of which all arrives in order; returns how many chunks its sender dealt.
fn burst(pair: &Pair) -> u64 {
    for number in 0..BURST {
        let mut data = vec![0x3C; 1000];
        data[..2].copy_from_slice(&number.to_be_bytes());
        assert!(pair.alpha.endpoint().send_datagram(pair.beta.inner()[0], data), "{number}");
    }
    let next = || pair.beta.endpoint().take_datagram(Duration::from_millis(200));
    let numbers =
        std::iter::from_fn(next).map(|(_, data)| u16::from_be_bytes(*data.first_chunk().unwrap()));
    assert!(numbers.eq(0..BURST));
    Ledger::of(&pair.alpha).counter(Counter::ChunksDealt)
}

/// With that machine and policy the set is this, work is dealt to all of it, and nothing is complained of.
#[track_caller]
fn is(topology: &Topology, values: &[(Policy, u32)], list: &str, expected: &[u32]) {
    with_pair_of(7, &machines(topology.clone(), values, list), |pair| {
        machines::ping(&pair.alpha, &pair.beta);
        let dealt = burst(pair);
        assert_eq!(dealt > 0, expected.len() > 1, "{values:?} {list:?}: {dealt} chunks dealt");
        for station in [&pair.alpha, &pair.beta] {
            assert_eq!(set_of(station), expected, "{values:?} {list:?}");
        }
        assert_eq!(said(pair), [""; 0], "{values:?} {list:?}");
        let urgent = dpc::urgent(pair.alpha.computer().machine());
        assert_eq!(urgent.len() > 1, expected.len() > 1, "{values:?} {list:?}: {urgent:?}");
    });
}

#[test]
fn a_set_spans_groups_of_which_few_cpus_run() {
    let topology = two_groups();
    is(&topology, &[], "", &[0, 1, 2, 3, 4, 5]);
    is(&topology, &[(Policy::ScalingBase, 2), (Policy::ScalingMax, 3)], "", &[2, 3, 4]);
}

#[test]
fn a_set_keeps_to_its_node() {
    let topology = two_groups();
    is(&topology, &[(Policy::ScalingNode, 1)], "", &[3, 4, 5]);
    is(&topology, &[(Policy::ScalingNode, 0), (Policy::ScalingBase, 1)], "", &[1, 2]);
    is(&a_node_of_two_groups(), &[(Policy::ScalingNode, 2)], "", &[1, 2]);
}

#[test]
fn the_fastest_come_first_unless_policy_says_otherwise() {
    let topology = unlike();
    is(&topology, &[(Policy::ScalingMax, 2)], "", &[1, 4]);
    is(&topology, &[(Policy::ScalingMax, 3)], "", &[1, 3, 4]);
    is(&topology, &[(Policy::ScalingClass, 1)], "", &[1, 4]);
    is(&topology, &[(Policy::ScalingClass, 2), (Policy::ScalingMax, 3)], "", &[0, 1, 2]);
    is(&topology, &[(Policy::ScalingClass, 1), (Policy::ScalingBase, 2)], "", &[4]);
}

#[test]
fn exceptions_are_kept_to_by_index_and_by_group() {
    let topology = two_groups();
    is(&topology, &[], "0", &[1, 2, 3, 4, 5]);
    is(&topology, &[], "0:63, 1:0-31", &[0, 1, 5]);
    is(&topology, &[], " 0-1 ,5, 900", &[2, 3, 4]);
    is(&topology, &[(Policy::ScalingNode, 1)], "3", &[4, 5]);
    is(&topology, &[(Policy::ScalingMax, 1)], "0-2", &[3]);
}

/// Values, a list, the set, and what the log says.
type Row<'a> = (&'a [(Policy, u32)], &'a str, &'a [u32], &'a [&'a str]);

#[test]
fn what_cannot_be_is_said_once_and_the_rest_holds() {
    let any = [0, 1, 2, 3, 4, 5];
    let rows: [Row<'_>; 8] = [
        (&[], "0-2047", &any, &["policy ScalingExclude leaves no CPU: none is excluded"]),
        (
            &[],
            "0,4-2",
            &any,
            &["policy ScalingExclude: part 2 is no CPU and no range of CPUs: no CPU is excluded"],
        ),
        (
            &[],
            "0;1",
            &any,
            &["policy ScalingExclude: part 1 is no CPU and no range of CPUs: no CPU is excluded"],
        ),
        (
            &[],
            "ä",
            &any,
            &["policy ScalingExclude: part 1 is no CPU and no range of CPUs: no CPU is excluded"],
        ),
        (
            &[(Policy::ScalingNode, 2)],
            "1",
            &[0, 2, 3, 4, 5],
            &["policy ScalingNode is 2, which has no CPU that may be used: any node applies"],
        ),
        (
            &[(Policy::ScalingNode, 0)],
            "0-2",
            &[3, 4, 5],
            &["policy ScalingNode is 0, which has no CPU that may be used: any node applies"],
        ),
        (
            &[(Policy::ScalingBase, 2_000), (Policy::ScalingMax, 2)],
            "",
            &[0, 1],
            &["policy ScalingBase is 2000, and no CPU from there on may be used: 0 applies"],
        ),
        (
            &[(Policy::ScalingClass, 3), (Policy::ScalingNode, 65_536)],
            "",
            &any,
            &[
                "policy ScalingNode is 65536, and may be 0 to 65535: 65535 applies",
                "policy ScalingClass is 3, and may be 0 to 2: 0 applies",
            ],
        ),
    ];
    for (values, list, expected, told) in rows {
        with_pair_of(8, &machines(two_groups(), values, list), |pair| {
            machines::ping(&pair.alpha, &pair.beta);
            assert_eq!(set_of(&pair.alpha), expected, "{values:?} {list:?}");
            assert_eq!(said(pair), told, "{values:?} {list:?}");
        });
    }
}

#[test]
fn a_list_that_is_no_text_or_too_long_excludes_none() {
    let long = vec!["0"; 129].join(",");
    let mut wrong = machines(two_groups(), &[], &long);
    for name in ["too long", "a number"] {
        with_pair_of(9, &wrong, |pair| {
            machines::ping(&pair.alpha, &pair.beta);
            assert_eq!(set_of(&pair.alpha).len(), 6, "{name}");
            let said = said(pair);
            let told = "policy ScalingExclude cannot be read as a text (";
            assert!(said.len() == 1 && said[0].starts_with(told), "{name}: {said:?}");
        });
        wrong.texts.clear();
        wrong.parameters.insert(SCALING_EXCLUDE.to_owned(), 0);
    }
}
