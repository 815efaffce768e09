//! What a link does to a datagram: nothing, delay, loss, duplication, reordering, too small a path.
//!
//! A pure function of its settings and one random number per datagram, so that a run in Virtual
//! mode repeats. Delays are drawn per datagram; whoever is delivered is who falls due first, which
//! is how reordering comes about.

use std::time::Duration;

/// The weather on a link, one way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Time every datagram takes.
    pub delay: Duration,
    /// Up to this much more, drawn per datagram: reorders when it exceeds the distance of two.
    pub jitter: Duration,
    /// How many of 1,000 are lost.
    pub loss_per_mille: u16,
    /// How many of 1,000 arrive twice.
    pub duplicate_per_mille: u16,
    /// How many of 1,000 are held back for another `delay`.
    pub reorder_per_mille: u16,
    /// IP packets larger than this vanish, as on a path whose ICMP is filtered.
    pub mtu: usize,
    /// What the ECN bits of datagrams become that can carry a mark; none leaves them alone.
    pub mark: Option<u8>,
}

impl Default for Link {
    fn default() -> Self {
        Self {
            delay: Duration::from_micros(500),
            jitter: Duration::ZERO,
            loss_per_mille: 0,
            duplicate_per_mille: 0,
            reorder_per_mille: 0,
            mtu: 65_535,
            mark: None,
        }
    }
}

/// When the copies of a datagram arrive, counted from its departure: none, one or two times.
pub type Arrivals = [Option<Duration>; 2];

impl Link {
    /// The TOS or traffic class as it arrives. [RFC 3168]
    #[must_use]
    pub fn mark(&self, traffic_class: u8) -> u8 {
        match self.mark {
            Some(mark) if traffic_class & 3 != 0 => traffic_class & !3 | mark & 3,
            _ => traffic_class,
        }
    }

    /// Decides what happens to an IP packet of `length` bytes.
    #[must_use]
    pub fn carry(&self, length: usize, random: u64) -> Arrivals {
        let roll = |shift: u32| (random >> shift & 0x3FFF) as u16 % 1000;
        if length > self.mtu || roll(0) < self.loss_per_mille {
            return [None, None];
        }
        let jitter = self.jitter.mul_f64((random >> 42 & 0xFFFF) as f64 / 65536.0);
        let held = if roll(14) < self.reorder_per_mille { self.delay } else { Duration::ZERO };
        let arrival = self.delay + jitter + held;
        let again = (roll(28) < self.duplicate_per_mille).then_some(arrival + jitter);
        [Some(arrival), again]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A generator good enough to count with.
    fn numbers() -> impl Iterator<Item = u64> {
        (1..=100_000_u64).map(|n| {
            let z = n.wrapping_mul(0x9E37_79B9_7F4A_7C15);
            let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB)
        })
    }

    #[test]
    fn rates_are_what_was_asked_for() {
        let link = Link { loss_per_mille: 100, duplicate_per_mille: 50, ..Link::default() };
        let (mut lost, mut twice) = (0, 0);
        for random in numbers() {
            match link.carry(1000, random) {
                [None, _] => lost += 1,
                [Some(_), Some(_)] => twice += 1,
                _ => {}
            }
        }
        assert!((9_000..11_000).contains(&lost), "{lost} of 100,000 lost");
        assert!((4_000..5_000).contains(&twice), "{twice} of 90,000 doubled");
    }

    #[test]
    fn a_perfect_link_delays_and_nothing_else() {
        let link = Link::default();
        for random in numbers().take(1000) {
            assert_eq!(link.carry(1500, random), [Some(link.delay), None]);
        }
        assert_eq!(Link { mtu: 1500, ..link }.carry(1501, 0), [None, None]);
        assert!(Link { mtu: 1500, ..link }.carry(1500, 0)[0].is_some());
    }
}
