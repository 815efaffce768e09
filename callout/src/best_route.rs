//! Which route a datagram takes, when the tunnel's own interfaces may not be among them.
//!
//! NT's own look-up cannot leave an interface out, and a tunnel whose routes cover its own peer
//! (0.0.0.0/0, the commonest configuration there is) would send its datagrams into itself. So the
//! rows of the forwarding table are looked through here: longest prefix, then the smallest sum of
//! the route's metric and its interface's, then the earlier row, as NT decides. A row whose
//! interface is disconnected or gone is not there.
//!
//! Pure functions over rows, so that any host can test them against every table. Any IRQL.

use core::net::IpAddr;

/// One row of the forwarding table, as much as matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// LUID of the interface it leaves by.
    pub luid: u64,
    /// Index of that interface.
    pub interface: u32,
    /// The destinations it is for; bits behind the prefix mean nothing.
    pub prefix: IpAddr,
    /// Bits of `prefix` that count. More than the address has matches nothing.
    pub prefix_length: u8,
    /// The route's own part of the metric.
    pub metric: u32,
}

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// Where the datagram goes.
    pub destination: IpAddr,
    /// Only routes of the interface with this index; `None` when any will do.
    pub interface: Option<u32>,
}

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// The route to take.
    Row(Row),
    /// Routes there are, but all of them lead back into a tunnel of ours.
    OnlyExcluded,
    /// No route.
    Nothing,
}

/// Chooses among `rows`, which may be of both families.
///
/// `excluded` says whether a LUID is one of our own adapters; `metric` gives the metric of an
/// interface that is connected, `None` for any other, and is asked only about rows that match no
/// worse than the best before them.
pub fn choose(
    rows: impl Iterator<Item = Row>,
    wanted: Wanted,
    excluded: impl Fn(u64) -> bool,
    mut metric: impl FnMut(u64) -> Option<u32>,
) -> Found {
    let mut best: Option<(Row, u64)> = None;
    let mut nothing = Found::Nothing;
    for row in rows.filter(|row| covers(row, wanted.destination)) {
        if wanted.interface.is_some_and(|interface| interface != row.interface) {
            continue;
        }
        if excluded(row.luid) {
            nothing = Found::OnlyExcluded;
            continue;
        }
        if best.is_some_and(|(best, _)| row.prefix_length < best.prefix_length) {
            continue;
        }
        let Some(metric) = metric(row.luid) else { continue };
        // Two u32 in a u64: NT's automatic metrics leave no room for a sum that wraps.
        let sum = u64::from(row.metric).saturating_add(u64::from(metric));
        let better =
            best.is_none_or(|(best, least)| row.prefix_length > best.prefix_length || sum < least);
        if better {
            best = Some((row, sum));
        }
    }
    best.map_or(nothing, |(row, _)| Found::Row(row))
}

/// Whether the row is for this destination.
fn covers(row: &Row, destination: IpAddr) -> bool {
    let (prefix, destination, bits) = match (row.prefix, destination) {
        // Both shifted to the top of the word, so that one comparison serves both families.
        (IpAddr::V4(prefix), IpAddr::V4(destination)) => {
            (u128::from(prefix.to_bits()) << 96, u128::from(destination.to_bits()) << 96, 32)
        }
        (IpAddr::V6(prefix), IpAddr::V6(destination)) => {
            (prefix.to_bits(), destination.to_bits(), 128)
        }
        _ => return false,
    };
    let length = u32::from(row.prefix_length);
    length <= bits && (prefix ^ destination).leading_zeros() >= length
}

#[cfg(test)]
mod tests;
