//! Which CPUs share the work: a function of the machine and of policy, and of nothing else.

use abi::cpu_list::CpuList;
use heapless::Vec;

/// The most CPUs of a set.
pub const MOST_CPUS: usize = 64;

/// A CPU that is active.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cpu {
    /// Through all groups.
    pub index: u32,
    /// Its processor group.
    pub group: u16,
    /// Its number within the group.
    pub number: u8,
    /// Its NUMA node, if that is known.
    pub node: Option<u32>,
    /// Its efficiency class: the greater, the faster. 0 on machines whose CPUs are alike.
    pub class: u8,
}

/// What is made of efficiency classes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Classes {
    /// The fastest CPUs, and slower ones only where there are not enough of them.
    FastestFirst,
    /// The fastest only.
    FastestOnly,
    /// All are alike.
    Alike,
}

/// What policy wants.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// The first index.
    pub base: u32,
    /// How many CPUs, up to [`MOST_CPUS`]; 0 is 1.
    pub most: usize,
    /// The NUMA node, if not any.
    pub node: Option<u32>,
    /// Efficiency classes.
    pub classes: Classes,
    /// CPUs that are not to be in it.
    pub excluded: CpuList,
}

/// What policy wants and this machine cannot do; the set is as if it did not want that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unmet {
    /// The list of exceptions leaves no CPU.
    AllExcluded,
    /// No CPU that is left is of that node.
    NoneOfNode,
    /// No CPU that is left has that index or a greater one.
    NoneFromBase,
}

/// The CPUs that share the work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScalingSet {
    /// Their indices, ascending; at least one, if there is a CPU at all.
    pub indices: Vec<u32, MOST_CPUS>,
    /// What was not met.
    pub unmet: Vec<Unmet, 3>,
}

/// Chooses among `cpus`, which ascend by index.
///
/// A wish that would leave no CPU is dropped, and told. The list of exceptions comes first, then the
/// node, then the base: a CPU that is excluded is in the set only if all are.
#[must_use]
pub fn choose(cpus: &[Cpu], wanted: &Wanted) -> ScalingSet {
    let mut unmet = Vec::new();
    let mut holds = |what: Unmet, some: bool| {
        if !some {
            // There are as many places as wishes.
            let _full = unmet.push(what);
        }
        some
    };
    let not_excluded = |cpu: &&Cpu| !wanted.excluded.contains(cpu.index, cpu.group, cpu.number);
    let obeyed = holds(Unmet::AllExcluded, cpus.iter().any(|cpu| not_excluded(&cpu)));
    let left = || cpus.iter().filter(move |cpu| !obeyed || not_excluded(cpu));
    let of_node = |cpu: &&Cpu| wanted.node.is_none() || cpu.node == wanted.node;
    let one_node = holds(Unmet::NoneOfNode, left().any(|cpu| of_node(&cpu)));
    let left = || left().filter(move |cpu| !one_node || of_node(cpu));
    let behind = holds(Unmet::NoneFromBase, left().any(|cpu| cpu.index >= wanted.base));
    let left = || left().filter(move |cpu| !behind || cpu.index >= wanted.base);
    ScalingSet { indices: take(left, wanted), unmet }
}

/// The first of those that are left, class by class.
fn take<'a, I: Iterator<Item = &'a Cpu>>(
    left: impl Fn() -> I,
    wanted: &Wanted,
) -> Vec<u32, MOST_CPUS> {
    let class = |cpu: &Cpu| if wanted.classes == Classes::Alike { 0 } else { cpu.class };
    let most = wanted.most.clamp(1, MOST_CPUS);
    let mut indices = Vec::new();
    let mut next = left().map(class).max();
    while let Some(current) = next {
        let room = most.saturating_sub(indices.len());
        indices.extend(left().filter(|cpu| class(cpu) == current).map(|cpu| cpu.index).take(room));
        let slower = left().map(class).filter(|class| *class < current).max();
        next = slower.filter(|_| wanted.classes == Classes::FastestFirst);
    }
    indices.sort_unstable();
    indices
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ANY: Wanted = Wanted {
        base: 0,
        most: 8,
        node: None,
        classes: Classes::FastestFirst,
        excluded: CpuList::NONE,
    };

    /// Two groups of eight, each a node; in each the last four are slower.
    fn machine() -> std::vec::Vec<Cpu> {
        let cpu = |index: u32| Cpu {
            index,
            group: (index / 8) as u16,
            number: (index % 8) as u8,
            node: Some(index / 8),
            class: u8::from(index % 8 < 4),
        };
        (0..16).map(cpu).collect()
    }

    #[test]
    fn each_wish_is_followed() {
        let list = |text| CpuList::parse(text).unwrap();
        let rows: [(&str, Wanted, &[u32]); 9] = [
            ("fastest first", ANY, &[0, 1, 2, 3, 8, 9, 10, 11]),
            ("and then others", Wanted { most: 10, ..ANY }, &[0, 1, 2, 3, 4, 5, 8, 9, 10, 11]),
            ("alike", Wanted { classes: Classes::Alike, ..ANY }, &[0, 1, 2, 3, 4, 5, 6, 7]),
            (
                "fastest only",
                Wanted { most: 10, classes: Classes::FastestOnly, ..ANY },
                &[0, 1, 2, 3, 8, 9, 10, 11],
            ),
            ("one node", Wanted { node: Some(1), ..ANY }, &[8, 9, 10, 11, 12, 13, 14, 15]),
            ("from a base", Wanted { base: 10, most: 3, ..ANY }, &[10, 11, 12]),
            ("not these", Wanted { most: 3, excluded: list("0-1, 1:0"), ..ANY }, &[2, 3, 9]),
            ("nobody is none", Wanted { most: 0, ..ANY }, &[0]),
            (
                "the fastest of those that are left",
                Wanted {
                    node: Some(0),
                    excluded: list("0-3"),
                    classes: Classes::FastestOnly,
                    ..ANY
                },
                &[4, 5, 6, 7],
            ),
        ];
        for (what, wanted, expected) in rows {
            let set = choose(&machine(), &wanted);
            assert_eq!((&*set.indices, &*set.unmet), (expected, &[][..]), "{what}");
        }
    }

    #[test]
    fn a_wish_that_leaves_nobody_is_dropped_and_told() {
        let list = |text| CpuList::parse(text).unwrap();
        let rows: [(Wanted, &[u32], &[Unmet]); 4] = [
            (Wanted { most: 2, excluded: list("0-15"), ..ANY }, &[0, 1], &[Unmet::AllExcluded]),
            (Wanted { most: 2, node: Some(2), ..ANY }, &[0, 1], &[Unmet::NoneOfNode]),
            (
                Wanted { most: 2, base: 8, node: Some(0), excluded: list("0"), ..ANY },
                &[1, 2],
                &[Unmet::NoneFromBase],
            ),
            (
                Wanted { most: 1, base: 99, node: Some(9), excluded: list("0:0-7,1:0-7"), ..ANY },
                &[0],
                &[Unmet::AllExcluded, Unmet::NoneOfNode, Unmet::NoneFromBase],
            ),
        ];
        for (wanted, expected, unmet) in rows {
            let set = choose(&machine(), &wanted);
            assert_eq!((&*set.indices, &*set.unmet), (expected, unmet), "{wanted:?}");
        }
        assert!(choose(&[], &ANY).indices.is_empty());
    }

    prop_compose! {
        /// CPUs with gaps between their numbers, as where not all of a group run.
        fn cpus()(
            kinds in proptest::collection::vec((0_u8..3, proptest::option::of(0_u32..3), 0_u8..3), 1..200)
        ) -> std::vec::Vec<Cpu> {
            let mut place = 0_u32;
            let cpus = kinds.iter().enumerate().map(|(index, (gap, node, class))| {
                let here = place + u32::from(*gap);
                place = here + 1;
                let (group, number) = ((here / 64) as u16, (here % 64) as u8);
                Cpu { index: index as u32, group, number, node: *node, class: *class }
            });
            cpus.collect()
        }
    }

    prop_compose! {
        fn wishes()(
            base in 0_u32..250,
            most in 0_usize..80,
            node in proptest::option::of(0_u32..4),
            classes in 0_usize..3,
            excluded in proptest::collection::vec((0_u32..8, 0_u32..64, 0_u32..64), 0..8),
        ) -> Wanted {
            let parts = excluded.iter().map(|(group, first, more)| match group {
                0..4 => std::format!("{group}:{first}-{}", (first + more).min(63)),
                _ => std::format!("{first}-{}", first + more * 3),
            });
            let text: std::vec::Vec<_> = parts.collect();
            let classes = [Classes::FastestFirst, Classes::FastestOnly, Classes::Alike][classes];
            let excluded = CpuList::parse(&text.join(",")).unwrap();
            Wanted { base, most, node, classes, excluded }
        }
    }

    proptest! {
        #[test]
        fn a_set_is_right(cpus in cpus(), wanted in wishes()) {
            let set = choose(&cpus, &wanted);
            prop_assert_eq!(&set, &choose(&cpus, &wanted), "the same again");
            prop_assert!((1..=wanted.most.clamp(1, MOST_CPUS)).contains(&set.indices.len()));
            prop_assert!(set.indices.is_sorted_by(|one, next| one < next));
            let excluded =
                |cpu: &Cpu| wanted.excluded.contains(cpu.index, cpu.group, cpu.number);
            let met = |wish| !set.unmet.contains(&wish);
            let may = |cpu: &&Cpu| {
                !(met(Unmet::AllExcluded) && excluded(cpu)
                    || met(Unmet::NoneOfNode) && wanted.node.is_some_and(|node| cpu.node != Some(node))
                    || met(Unmet::NoneFromBase) && cpu.index < wanted.base)
            };
            prop_assert_eq!(met(Unmet::AllExcluded), !cpus.iter().all(excluded));
            let may: std::vec::Vec<_> = cpus.iter().filter(may).collect();
            let chosen = |cpu: &&&Cpu| set.indices.contains(&cpu.index);
            prop_assert_eq!(may.iter().filter(chosen).count(), set.indices.len(), "active, and allowed");
            let fastest = may.iter().map(|cpu| cpu.class).max().unwrap();
            let slowest = may.iter().filter(chosen).map(|cpu| cpu.class).min().unwrap();
            let passed_over = may.iter().filter(|cpu| !chosen(cpu)).map(|cpu| cpu.class).max();
            match wanted.classes {
                Classes::FastestOnly => prop_assert_eq!(slowest, fastest),
                Classes::FastestFirst => prop_assert!(passed_over.is_none_or(|over| over <= slowest)),
                Classes::Alike => {
                    let first = may.iter().take(set.indices.len()).map(|cpu| cpu.index);
                    prop_assert!(first.eq(set.indices.iter().copied()));
                }
            }
        }
    }
}
