//! The choice of a route: a table of edges, and random tables against a slow search.

use std::{collections::HashMap, vec, vec::Vec};

use proptest::prelude::*;

use super::*;

fn row(luid: u64, prefix: &str, prefix_length: u8, metric: u32) -> Row {
    let interface = u32::try_from(luid).unwrap();
    Row { luid, interface, prefix: prefix.parse().unwrap(), prefix_length, metric }
}

/// Interfaces 1 (metric 25) and 2 (metric 50) are connected, 3 is not, 9 is our own tunnel.
fn metric(luid: u64) -> Option<u32> {
    [(1, 25), (2, 50), (9, 0)].iter().find(|(known, _)| *known == luid).map(|(_, metric)| *metric)
}

fn chosen(rows: &[Row], destination: &str) -> Found {
    let wanted = Wanted { destination: destination.parse().unwrap(), interface: None };
    choose(rows.iter().copied(), wanted, |luid| luid == 9, metric)
}

#[test]
fn edges() {
    let default = row(1, "0.0.0.0", 0, 0);
    let tunnel = row(9, "0.0.0.0", 0, 0);
    let site = row(2, "10.0.0.0", 8, 500);
    for (rows, destination, found, why) in [
        (vec![], "10.1.1.1", Found::Nothing, "an empty table"),
        (vec![default], "10.1.1.1", Found::Row(default), "a default route"),
        (
            vec![default, site],
            "10.1.1.1",
            Found::Row(site),
            "the longer prefix, whatever its metric",
        ),
        (vec![site, default], "10.1.1.1", Found::Row(site), "in either order"),
        (vec![default, site], "11.1.1.1", Found::Row(default), "outside the prefix"),
        (vec![site], "11.1.1.1", Found::Nothing, "no default route"),
        (vec![tunnel, default], "10.1.1.1", Found::Row(default), "never our own tunnel"),
        (vec![tunnel], "10.1.1.1", Found::OnlyExcluded, "nothing but our own tunnel"),
        (
            vec![row(9, "10.0.0.0", 8, 0), default],
            "10.1.1.1",
            Found::Row(default),
            "not even where its prefix is the longer",
        ),
        (
            vec![row(3, "10.0.0.0", 8, 0), default],
            "10.1.1.1",
            Found::Row(default),
            "a disconnected interface is not there",
        ),
        (vec![row(3, "0.0.0.0", 0, 0)], "10.1.1.1", Found::Nothing, "and alone it is nothing"),
        (
            vec![row(2, "0.0.0.0", 0, 0), row(1, "0.0.0.0", 0, 24)],
            "10.1.1.1",
            Found::Row(row(1, "0.0.0.0", 0, 24)),
            "the smaller sum of both metrics",
        ),
        (
            vec![row(2, "0.0.0.0", 0, 0), row(1, "0.0.0.0", 0, 25)],
            "10.1.1.1",
            Found::Row(row(2, "0.0.0.0", 0, 0)),
            "a tie goes to the earlier row",
        ),
        (
            vec![row(1, "0.0.0.0", 0, u32::MAX), row(2, "0.0.0.0", 0, 0)],
            "10.1.1.1",
            Found::Row(row(2, "0.0.0.0", 0, 0)),
            "a sum that would wrap",
        ),
        (vec![row(1, "10.1.1.1", 32, 0)], "10.1.1.1", Found::Row(row(1, "10.1.1.1", 32, 0)), "/32"),
        (vec![row(1, "10.1.1.1", 32, 0)], "10.1.1.0", Found::Nothing, "beside the /32"),
        (vec![row(1, "10.1.1.1", 33, 0)], "10.1.1.1", Found::Nothing, "no such prefix length"),
        (vec![row(1, "::", 0, 0)], "10.1.1.1", Found::Nothing, "the other family"),
        (vec![default], "2001:db8::1", Found::Nothing, "the other family"),
        (
            vec![row(1, "::", 0, 0), row(2, "2001:db8::", 32, 0)],
            "2001:db8::1",
            Found::Row(row(2, "2001:db8::", 32, 0)),
            "IPv6",
        ),
    ] {
        assert_eq!(chosen(&rows, destination), found, "{why}");
    }
}

#[test]
fn an_interface_can_be_asked_for() {
    let rows = [row(1, "0.0.0.0", 0, 0), row(2, "0.0.0.0", 0, 0), row(9, "0.0.0.0", 0, 0)];
    for (interface, found) in
        [(2, Found::Row(rows[1])), (9, Found::OnlyExcluded), (4, Found::Nothing)]
    {
        let destination = "192.0.2.1".parse().unwrap();
        let wanted = Wanted { destination, interface: Some(interface) };
        assert_eq!(choose(rows.iter().copied(), wanted, |luid| luid == 9, metric), found);
    }
}

/// Addresses from a small space, so that prefixes cover them.
fn address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        any::<u8>().prop_map(|bits| IpAddr::from([10, 0, 0, bits])),
        any::<u8>().prop_map(|bits| {
            let mut octets = [0; 16];
            octets[15] = bits;
            IpAddr::from(octets)
        }),
    ]
}

fn any_row() -> impl Strategy<Value = Row> {
    let length = prop_oneof![Just(0_u8), 24_u8..=33, 120_u8..=129];
    (0_u64..6, address(), length, 0_u32..4).prop_map(|(luid, prefix, prefix_length, metric)| Row {
        luid,
        interface: u32::try_from(luid).unwrap(),
        prefix,
        prefix_length,
        metric,
    })
}

/// Whether a prefix covers an address, bit by bit.
fn slow_covers(row: &Row, destination: IpAddr) -> bool {
    let bits = |address: IpAddr| -> Vec<bool> {
        let octets = match address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        octets.iter().flat_map(|octet| (0..8).rev().map(move |bit| octet >> bit & 1 == 1)).collect()
    };
    let (prefix, destination) = (bits(row.prefix), bits(destination));
    let length = usize::from(row.prefix_length);
    prefix.len() == destination.len()
        && length <= prefix.len()
        && prefix[..length] == destination[..length]
}

proptest! {
    /// Against a sort of everything usable.
    #[test]
    fn the_choice_is_that_of_a_slow_search(
        rows in prop::collection::vec(any_row(), 0..24),
        destination in address(),
        interface in prop::option::of(0_u32..6),
        excluded in prop::collection::hash_set(0_u64..6, 0..3),
        metrics in prop::collection::hash_map(0_u64..6, 0_u32..4, 0..6),
    ) {
        let metrics: HashMap<u64, u32> = metrics;
        let matching = || {
            rows.iter().filter(|row| {
                slow_covers(row, destination) && interface.is_none_or(|index| index == row.interface)
            })
        };
        let usable = matching()
            .filter(|row| !excluded.contains(&row.luid))
            .filter_map(|row| Some((row, row.metric + metrics.get(&row.luid)?)))
            .min_by_key(|(row, sum)| (255 - row.prefix_length, *sum));
        let expected = match usable {
            Some((row, _)) => Found::Row(*row),
            None if matching().any(|row| excluded.contains(&row.luid)) => Found::OnlyExcluded,
            None => Found::Nothing,
        };
        let found = choose(
            rows.iter().copied(),
            Wanted { destination, interface },
            |luid| excluded.contains(&luid),
            |luid| metrics.get(&luid).copied(),
        );
        prop_assert_eq!(found, expected);
    }
}
