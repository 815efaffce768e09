//! IP fragments: a datagram that a link is too small for, cut by its sender and put together by its receiver.
//!
//! As of IPv4 without DF and of IPv6, where only the sender cuts: parts of a multiple of eight bytes but the last, the
//! UDP header in the first. They meet loss and reordering each by itself, and one that is lost takes all with it.

use std::ops::Range;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::UnderWay;

/// Which part of which datagram a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part {
    /// The datagram, as an identification that never repeats.
    pub(super) datagram: u64,
    /// Which part, counted from 0.
    pub(super) number: usize,
    /// How many there are.
    pub(super) count: usize,
}

/// Cuts a UDP datagram of `payload` bytes for a link of `mtu`: of each packet the bytes of payload, and its length.
pub(super) fn cut(payload: usize, ipv4: bool, mtu: usize) -> Vec<(Range<usize>, usize)> {
    const UDP: usize = 8;
    let header = if ipv4 { 20 } else { 40 };
    let whole = UDP + payload;
    if header + whole <= mtu {
        return vec![(0..payload, header + whole)];
    }
    let header = if ipv4 { header } else { header + 8 };
    let each = (mtu.saturating_sub(header) & !7).max(8);
    (0..whole)
        .step_by(each)
        .map(|at| {
            let end = whole.min(at + each);
            (at.saturating_sub(UDP)..end.saturating_sub(UDP), header + end - at)
        })
        .collect()
}

/// Parts that wait for others.
#[derive(Default)]
pub(super) struct Reassembly(FxHashMap<u64, Vec<Option<Arc<[u8]>>>>);

impl Reassembly {
    /// The datagram, if this packet is the last of its parts to come.
    pub(super) fn whole(&mut self, packet: UnderWay) -> Option<UnderWay> {
        let Part { datagram, number, count } = packet.part;
        if count == 1 {
            return Some(packet);
        }
        let parts = self.0.entry(datagram).or_insert_with(|| vec![None; count]);
        parts[number] = Some(packet.payload.clone());
        let bytes: Option<Vec<&[u8]>> = parts.iter().map(Option::as_deref).collect();
        let payload = bytes?.concat().into();
        self.0.remove(&datagram);
        Some(UnderWay { payload, ..packet })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_as_long_as_the_link_takes() {
        assert_eq!(cut(1472, true, 1500), [(0..1472, 1500)]);
        assert_eq!(cut(1473, true, 1500), [(0..1472, 1500), (1472..1473, 21)]);
        assert_eq!(cut(1452, false, 1500), [(0..1452, 1500)]);
        assert_eq!(cut(1453, false, 1500), [(0..1440, 1496), (1440..1453, 61)]);
        for (payload, ipv4, mtu) in [(65_507, true, 68), (3000, false, 1280), (0, true, 20)] {
            let parts = cut(payload, ipv4, mtu);
            let ends = parts.iter().fold(0, |at, (bytes, _)| {
                assert_eq!(bytes.start, at);
                bytes.end
            });
            assert_eq!(ends, payload);
            assert!(parts.iter().all(|(_, length)| *length <= mtu.max(28)));
        }
    }
}
