//! The table against a list of known cases and against a linear scan.

use std::{collections::HashMap, vec, vec::Vec};

use proptest::prelude::*;

use super::*;

fn prefix(text: &str) -> Prefix {
    let (address, cidr) = text.split_once('/').unwrap();
    Prefix::new(address.parse().unwrap(), cidr.parse().unwrap()).unwrap()
}

fn owner(letter: char) -> Owner {
    letter as Owner - 'a' as Owner
}

fn add(table: &mut AllowedIps, text: &str, letter: char) {
    table.reserve(1, 26).unwrap();
    assert!(table.insert(prefix(text), owner(letter)));
}

fn list(table: &AllowedIps, letter: char) -> Vec<Prefix> {
    all_of(table, owner(letter))
}

fn remove_all(table: &mut AllowedIps, letter: char) {
    while table.remove_some(owner(letter), 1) {}
}

fn found(table: &AllowedIps, address: &str) -> Option<char> {
    table.lookup(address.parse().unwrap()).map(|owner| char::from(b'a' + owner as u8))
}

/// The case list of the kernel implementations.
// spec-test: WG 2-a, WG 2-d
#[test]
fn the_kernel_self_test_list() {
    let mut table = AllowedIps::new();
    #[rustfmt::skip]
    let inserts = [
        ("192.168.4.0/24", 'a'), ("192.168.4.4/32", 'b'), ("192.168.0.0/16", 'c'), ("192.95.5.64/27", 'd'),
        ("192.95.5.65/27", 'c'), ("2607:5300:6000:6b00::c05f:543/128", 'd'), ("2607:5300:6000:6b00::/64", 'c'),
        ("0.0.0.0/0", 'e'), ("::/0", 'e'), ("::/0", 'f'), ("2404:6800::/32", 'g'),
        ("2404:6800:4004:800:dead:beef:dead:beef/64", 'h'), ("2404:6800:4004:800:dead:beef:dead:beef/128", 'a'),
        ("2444:6800:40e4:800:deae:beef:def:beef/128", 'c'), ("2444:6800:f0e4:800:eeae:beef::/98", 'b'),
        ("64.15.112.0/20", 'g'), ("64.15.123.211/25", 'h'), ("10.0.0.0/25", 'a'), ("10.0.0.128/25", 'b'),
        ("10.1.0.0/30", 'a'), ("10.1.0.4/30", 'b'), ("10.1.0.8/29", 'c'), ("10.1.0.16/29", 'd'),
    ];
    for (text, letter) in inserts {
        add(&mut table, text, letter);
    }
    #[rustfmt::skip]
    let queries = [
        ("192.168.4.20", 'a'), ("192.168.4.0", 'a'), ("192.168.4.4", 'b'), ("192.168.200.182", 'c'),
        ("192.95.5.68", 'c'), ("192.95.5.96", 'e'), ("2607:5300:6000:6b00::c05f:543", 'd'),
        ("2607:5300:6000:6b00::c02e:1ee", 'c'), ("2607:5300:6000:6b01::", 'f'), ("2404:6800:4004:806::1006", 'g'),
        ("2404:6800:4004:806:0:1234:0:5678", 'g'), ("2404:67ff:4004:806:0:1234:0:5678", 'f'),
        ("2404:6801:4004:806:0:1234:0:5678", 'f'), ("2404:6800:4004:800:0:1234:0:5678", 'h'),
        ("2404:6800:4004:800::", 'h'), ("2404:6800:4004:800:1010:1010:1010:1010", 'h'),
        ("2404:6800:4004:800:dead:beef:dead:beef", 'a'), ("64.15.116.26", 'g'), ("64.15.127.3", 'g'),
        ("64.15.123.1", 'g'), ("64.15.123.128", 'h'), ("64.15.123.129", 'h'), ("10.0.0.52", 'a'),
        ("10.0.0.220", 'b'), ("10.1.0.2", 'a'), ("10.1.0.6", 'b'), ("10.1.0.10", 'c'), ("10.1.0.20", 'd'),
    ];
    for (address, letter) in queries {
        assert_eq!(found(&table, address), Some(letter), "{address}");
    }

    // spec-test: WG 2-f
    assert_eq!(found(&table, "224.0.0.1"), Some('e'));
    assert_eq!(found(&table, "ff02::1"), Some('f'));

    // spec-test: WG 2-e
    let addresses = ["1.0.0.0", "64.0.0.0", "128.0.0.0", "192.0.0.0", "255.0.0.0"];
    for address in addresses {
        add(&mut table, &std::format!("{address}/32"), 'a');
        assert_eq!(found(&table, address), Some('a'));
    }
    remove_all(&mut table, 'a');
    for address in addresses {
        assert_eq!(found(&table, address), Some('e'), "{address}: uncovered");
    }
    assert_eq!(found(&table, "192.168.4.20"), Some('c'));
}

#[test]
fn removing_an_owner_leaves_nothing_behind() {
    let mut table = AllowedIps::new();
    add(&mut table, "192.168.0.0/16", 'a');
    add(&mut table, "192.168.0.0/24", 'a');
    remove_all(&mut table, 'a');
    assert_eq!(found(&table, "192.168.0.1"), None);
    assert_eq!(table.len, 0);
    table.assert_sound();
}

// spec-test: WG 2-d
#[test]
fn prefixes_are_read_back_masked_and_in_order() {
    let mut table = AllowedIps::new();
    let given = [
        "192.95.5.93/27",
        "2607:5300:6000:6b00::c05f:543/128",
        "10.1.0.20/29",
        "2607:5300:6d8a:6bf8:dab1:f1df:c05f:1523/83",
        "2607:5300:6d8a:6bf8:dab1:f1df:c05f:1523/21",
    ];
    for text in given {
        add(&mut table, text, 'a');
    }
    let listed: Vec<_> =
        list(&table, 'a').iter().map(|p| std::format!("{}/{}", p.address(), p.cidr())).collect();
    let expected = [
        "192.95.5.64/27",
        "2607:5300:6000:6b00::c05f:543/128",
        "10.1.0.16/29",
        "2607:5300:6d8a:6bf8:dab1:e000::/83",
        "2607:5000::/21",
    ];
    assert_eq!(listed, expected);
}

#[test]
fn a_prefix_moves_and_only_its_owner_can_take_it_away() {
    let mut table = AllowedIps::new();
    add(&mut table, "10.0.0.0/8", 'a');
    add(&mut table, "10.0.0.0/8", 'b');
    assert_eq!(found(&table, "10.1.1.1"), Some('b'));
    assert!(list(&table, 'a').is_empty());
    table.remove(prefix("10.0.0.0/8"), owner('a'));
    table.remove(prefix("10.0.0.0/9"), owner('b'));
    assert_eq!(found(&table, "10.1.1.1"), Some('b'));
    table.remove(prefix("10.0.0.0/8"), owner('b'));
    assert_eq!(found(&table, "10.1.1.1"), None);
}

#[test]
fn all_129_nested_prefixes() {
    let mut table = AllowedIps::new();
    let address: IpAddr = "2001:db8:ffff:aaaa:5555:1234:8421:7e81".parse().unwrap();
    table.reserve(129, 129).unwrap();
    for cidr in (0..=128).rev() {
        assert!(table.insert(Prefix::new(address, cidr).unwrap(), cidr.into()));
    }
    for cidr in (0..=128).rev() {
        assert_eq!(table.lookup(address), Some(cidr.into()));
        table.remove(Prefix::new(address, cidr).unwrap(), cidr.into());
    }
    assert_eq!(table.lookup(address), None);
    assert!(Prefix::new(address, 129).is_none());
    assert!(Prefix::new("10.0.0.1".parse().unwrap(), 33).is_none());
}

#[test]
fn without_room_nothing_changes() {
    let mut table = AllowedIps::new();
    assert!(!table.insert(prefix("10.0.0.0/8"), 0));
    table.reserve(1, 1).unwrap();
    assert!(!table.insert(prefix("10.0.0.0/8"), 1), "an owner nobody made room for");
    assert!(table.insert(prefix("10.0.0.0/8"), 0));
}

#[derive(Clone, Debug)]
enum Step {
    Insert(Prefix, Owner),
    Remove(Prefix, Owner),
    RemoveOwner(Owner),
    Grow(usize),
}

/// Few distinct bits, so that prefixes nest, touch and repeat.
fn addresses() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        prop::sample::select(vec![
            0_u32,
            0x0A00_0000,
            0x0A00_0001,
            0x0A01_0000,
            0x0A80_0000,
            u32::MAX
        ])
        .prop_map(|bits| IpAddr::V4(bits.into())),
        any::<u32>().prop_map(|bits| IpAddr::V4((bits & 0x8181_0003).into())),
        any::<u32>().prop_map(|bits| IpAddr::V4((bits & 0x000F_F303 | 0x0A00_0000).into())),
        any::<u128>().prop_map(|bits| IpAddr::V6((bits & (0x8000_0003 << 96 | 0xFF)).into())),
    ]
}

fn prefixes() -> impl Strategy<Value = Prefix> {
    (addresses(), any::<u8>()).prop_map(|(address, cidr)| {
        let bits = if address.is_ipv4() { 32 } else { 128 };
        Prefix::new(address, cidr % (bits + 1)).unwrap()
    })
}

fn steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (prefixes(), 0_u32..5).prop_map(|(prefix, owner)| Step::Insert(prefix, owner)),
        3 => (prefixes(), 0_u32..5).prop_map(|(prefix, owner)| Step::Remove(prefix, owner)),
        1 => (0_u32..5).prop_map(Step::RemoveOwner),
        1 => (0_usize..20).prop_map(Step::Grow),
    ]
}

/// Longest prefix first: slow, obvious, and right.
fn scan(list: &[(Prefix, Owner)], address: IpAddr) -> Option<Owner> {
    list.iter()
        .filter(|(prefix, _)| Prefix::new(address, prefix.cidr) == Some(*prefix))
        .max_by_key(|(prefix, _)| prefix.cidr)
        .map(|(_, owner)| *owner)
}

/// Prefixes of the usual lengths, in a small part of the address space and everywhere.
fn many(count: usize) -> Vec<Prefix> {
    let mut bits = 1_u128;
    let mut next = || {
        // A generator of Lehmer's, whose upper half is good enough.
        bits = bits.wrapping_mul(0xDA94_2042_E4DD_58B5) % ((1 << 127) - 1);
        bits >> 20
    };
    let mut prefix = |at: usize| {
        let (v4, v6) = (next() as u32, next() << 30);
        let (address, cidr): (IpAddr, u8) = match at % 8 {
            0 | 1 => (IpAddr::V4(v4.into()), 32),
            2 => (IpAddr::V4((v4 >> 8 | 10 << 24).into()), 32),
            3 => (IpAddr::V4(v4.into()), 24),
            4 => (IpAddr::V4(v4.into()), 1 + (v4 % 32) as u8),
            5 => (IpAddr::V6(v6.into()), 128),
            6 => (IpAddr::V6((v6 >> 48 | 0xFD00 << 112).into()), 64),
            _ => (IpAddr::V6((v6 >> 16 | 0xFD00 << 112).into()), (v4 % 129) as u8),
        };
        Prefix::new(address, cidr).unwrap()
    };
    (0..count).map(&mut prefix).collect()
}

/// What a map of prefixes says of an address: all of its prefixes, the longest first.
fn ask(map: &HashMap<Prefix, Owner>, address: IpAddr) -> Option<Owner> {
    (0..=128).rev().find_map(|cidr| map.get(&Prefix::new(address, cidr)?).copied())
}

#[test]
fn thousands_of_prefixes_come_move_and_go() {
    let mut table = AllowedIps::new();
    let prefixes = many(20_000);
    let mut map = HashMap::new();
    let ends = |prefix: &Prefix| {
        let (family, key) = key_of(prefix.address());
        let rest = u128::MAX.checked_shr(prefix.cidr().into()).unwrap_or(0);
        [key, key | rest, key ^ 1 << 100].map(|key| address_of(family, key))
    };
    let check = |table: &AllowedIps, map: &HashMap<Prefix, Owner>, when| {
        table.assert_sound();
        assert_eq!(table.len, map.len(), "{when}");
        for address in prefixes.iter().step_by(3).flat_map(ends) {
            assert_eq!(table.lookup(address), ask(map, address), "{address} {when}");
        }
    };
    for (at, prefix) in prefixes.iter().enumerate() {
        table.reserve(1, 1000).unwrap();
        assert!(table.insert(*prefix, at as Owner % 1000));
        map.insert(*prefix, at as Owner % 1000);
    }
    check(&table, &map, "one by one");
    assert!(table.slots.len() < prefixes.len() * 7 / 4, "{} slots", table.slots.len());

    for prefix in prefixes.iter().step_by(2) {
        table.reserve(1, 1000).unwrap();
        assert!(table.insert(*prefix, 7));
        map.insert(*prefix, 7);
    }
    check(&table, &map, "with half moved");
    while table.remove_some(7, 64) {}
    map.retain(|_, owner| *owner != 7);
    check(&table, &map, "with one owner gone");
    for owner in 0..1000 {
        while table.remove_some(owner, 64) {}
    }
    map.clear();
    check(&table, &map, "empty");
    assert!(table.lengths.iter().all(Vec::is_empty), "nothing is looked for");
}

#[test]
fn neighbours_are_spread() {
    let v4 = |number: u32| Prefix::new(IpAddr::V4((10 << 24 | number).into()), 32).unwrap();
    let v6 = |number: u32, shift: u8| {
        let bits = 0xFD << 120 | u128::from(number) << shift;
        Prefix::new(IpAddr::V6(bits.into()), 128 - shift).unwrap()
    };
    let kinds: [&dyn Fn(u32) -> Prefix; 4] =
        [&v4, &|number| v6(number, 0), &|number| v6(number, 64), &|number| v4(number << 8)];
    for prefix in kinds {
        let mut table = AllowedIps::new();
        table.reserve(50_000, 1).unwrap();
        for number in 0..50_000 {
            assert!(table.insert(prefix(number), 0));
        }
        let past = table.groups.iter().filter(|group| !group.is_last()).count();
        // Two thirds full, chance has one of eight gone past.
        assert!(past * 6 < table.groups.len(), "{past} of {} groups", table.groups.len());
    }
}

#[test]
fn room_grows_while_it_is_read() {
    let mut table = AllowedIps::new();
    let prefixes = many(5_000);
    table.reserve(prefixes.len(), 100).unwrap();
    for (at, prefix) in prefixes.iter().enumerate() {
        assert!(table.insert(*prefix, at as Owner % 100));
    }
    let lists = |table: &AllowedIps| (0..100).map(|owner| all_of(table, owner)).collect::<Vec<_>>();
    let (before, len) = (lists(&table), table.len);
    let room = table.room_wanted(5_000, 200).unwrap();
    let mut growth = Growth::try_new(room).unwrap();
    let mut steps = 0;
    while table.grow(&mut growth) {
        steps += 1;
    }
    assert!(steps >= len / growth::GROWTH_STEP, "a step is short: {steps}");
    let old = table.adopt(growth);
    assert_eq!((lists(&old), old.len), (before.clone(), len), "who still reads reads what was");
    assert_eq!((lists(&table), table.len), (before, len), "in the same order");
    table.assert_sound();
    assert!(table.room_wanted(5_000, 200).is_none());
}

fn all_of(table: &AllowedIps, owner: Owner) -> Vec<Prefix> {
    let mut cursor = Cursor::default();
    core::iter::from_fn(|| table.next_of(owner, &mut cursor)).collect()
}

impl AllowedIps {
    fn held(&self) -> impl Iterator<Item = (Link, &Slot)> {
        (0..).zip(&self.slots).filter(|(_, slot)| slot.owner != NONE)
    }

    /// Every prefix is found, is in its owner's list and is counted, and nothing else is.
    fn assert_sound(&self) {
        assert_eq!(self.held().count(), self.len);
        let mut groups = vec![Group::EMPTY; self.groups.len()];
        for (at, slot) in self.held() {
            assert_eq!(self.find(slot.kind, slot.key), Some(at), "{:?}", slot.prefix());
            let [first, last] = self.owners[slot.owner as usize];
            let before = self.slot(slot.before).map_or(first, |slot| slot.behind);
            let behind = self.slot(slot.behind).map_or(last, |slot| slot.before);
            assert_eq!([before, behind], [at; 2], "neighbours of {:?}", slot.prefix());
            let (at, home) = (at as usize, self.home(slot.kind, slot.key));
            let past = self.groups_from(home).take_while(|group| *group != at / SLOTS);
            past.for_each(|group| groups[group].add_past());
            groups[at / SLOTS].set(at % SLOTS, home.tag);
        }
        assert!(self.groups.iter().map(|group| group.0).eq(groups.iter().map(|group| group.0)));
        let listed: usize = (0..self.owners.len()).map(|of| all_of(self, of as Owner).len()).sum();
        assert_eq!(listed, self.len);
        for lengths in &self.lengths {
            assert!(lengths.is_sorted_by(|a, b| a.kind.cidr() > b.kind.cidr()));
            for length in lengths {
                let count = self.held().filter(|(_, slot)| slot.kind == length.kind).count();
                assert_eq!(count, length.count as usize);
            }
        }
        let counted: u32 = self.lengths.iter().flatten().map(|length| length.count).sum();
        assert_eq!(counted as usize, self.len);
    }
}

proptest! {
    #[test]
    fn agrees_with_a_linear_scan(
        steps in prop::collection::vec(steps(), 0..120),
        queries in prop::collection::vec(addresses(), 20),
    ) {
        let mut table = AllowedIps::new();
        let mut model: Vec<(Prefix, Owner)> = Vec::new();
        for step in steps {
            match step {
                Step::Insert(prefix, owner) => {
                    table.reserve(1, 5).unwrap();
                    prop_assert!(table.insert(prefix, owner));
                    model.retain(|(p, _)| *p != prefix);
                    model.push((prefix, owner));
                }
                Step::Remove(prefix, owner) => {
                    table.remove(prefix, owner);
                    model.retain(|entry| *entry != (prefix, owner));
                }
                Step::RemoveOwner(owner) => {
                    while table.remove_some(owner, 2) {}
                    model.retain(|(_, o)| *o != owner);
                }
                Step::Grow(more) => table.reserve(more, 5).unwrap(),
            }
            table.assert_sound();
            for query in &queries {
                prop_assert_eq!(table.lookup(*query), scan(&model, *query), "{}", query);
            }
        }
        for owner in 0..5 {
            let listed = all_of(&table, owner);
            let expected: Vec<_> = model.iter().filter(|(_, o)| *o == owner).map(|(p, _)| *p).collect();
            prop_assert_eq!(listed, expected);
        }
        prop_assert_eq!(table.len, model.len());
    }
}
