//! The table of prefixes against a list of prefixes that is searched from end to end.

use std::net::IpAddr;

use crypto::protocol::allowed_ips::{AllowedIps, Cursor, Owner, Prefix};

use super::Input;

const OWNERS: Owner = 5;
/// Prefixes at most: the list is searched from end to end.
const MOST: usize = 1500;

/// Few distinct bits, so that prefixes nest, touch and repeat, or any at all.
fn address(input: &mut Input<'_>) -> IpAddr {
    let shape = input.byte();
    match shape % 4 {
        0 => IpAddr::V4((u32::from_le_bytes(input.bytes()) & 0x8181_0003).into()),
        1 => IpAddr::V4((0x0A00_0000 | u32::from(u16::from_le_bytes(input.bytes()))).into()),
        2 => IpAddr::V6((u128::from_le_bytes(input.bytes()) & (0x8000_0003 << 96 | 0xFF)).into()),
        _ => IpAddr::V6((0xFD << 120 | u128::from(u32::from_le_bytes(input.bytes())) << 60).into()),
    }
}

fn prefix(input: &mut Input<'_>) -> Prefix {
    let address = address(input);
    let bits = if address.is_ipv4() { 32 } else { 128 };
    Prefix::new(address, input.byte() % (bits + 1)).unwrap()
}

/// Longest prefix first: slow, obvious, and right.
fn scan(list: &[(Prefix, Owner)], address: IpAddr) -> Option<Owner> {
    let covers = |prefix: &Prefix| Prefix::new(address, prefix.cidr()) == Some(*prefix);
    let found = list.iter().filter(|(prefix, _)| covers(prefix));
    found.max_by_key(|(prefix, _)| prefix.cidr()).map(|(_, owner)| *owner)
}

/// Adds, moves and removes prefixes as `input` says, with look-ups in between.
///
/// # Panics
///
/// If table and list disagree.
pub fn run(input: &[u8]) {
    let mut input = Input::new(input);
    let mut table = AllowedIps::new();
    let mut list: Vec<(Prefix, Owner)> = Vec::new();
    let insert = |table: &mut AllowedIps, list: &mut Vec<_>, prefix: Prefix, owner: Owner| {
        if list.len() >= MOST {
            return;
        }
        table.reserve(1, OWNERS as usize).unwrap();
        assert!(table.insert(prefix, owner));
        list.retain(|(other, _)| *other != prefix);
        list.push((prefix, owner));
    };
    while !input.is_empty() {
        let (what, owner) = (input.byte(), Owner::from(input.byte()) % OWNERS);
        match what % 8 {
            0..=2 => insert(&mut table, &mut list, prefix(&mut input), owner),
            3 => {
                let prefix = prefix(&mut input);
                table.remove(prefix, owner);
                list.retain(|entry| *entry != (prefix, owner));
            }
            4 => {
                while table.remove_some(owner, 2) {}
                list.retain(|(_, other)| *other != owner);
            }
            5 => table.reserve(input.byte().into(), OWNERS as usize).unwrap(),
            6 => {
                // Neighbours.
                let (from, cidr) = (u32::from(input.byte()) << 20, 20 + input.byte() % 13);
                for number in 0..256_u32 {
                    let address = IpAddr::V4((from | number << (32 - cidr)).into());
                    insert(&mut table, &mut list, Prefix::new(address, cidr).unwrap(), owner);
                }
            }
            _ => {
                for _ in 0..4 {
                    let address = address(&mut input);
                    assert_eq!(table.lookup(address), scan(&list, address), "{address}");
                }
            }
        }
    }
    for (prefix, _) in &list {
        assert_eq!(table.lookup(prefix.address()), scan(&list, prefix.address()));
    }
    for owner in 0..OWNERS {
        let mut cursor = Cursor::default();
        let listed = core::iter::from_fn(|| table.next_of(owner, &mut cursor));
        let own = list.iter().filter(|(_, other)| *other == owner).map(|(prefix, _)| *prefix);
        assert!(listed.eq(own), "the prefixes of {owner}, in order");
    }
}
