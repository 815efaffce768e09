//! Timestamps of initiations: TAI64N, always growing.
//!
//! A peer refuses a timestamp that is not greater than the last it accepted. Ours therefore never
//! go back, even when the wall clock does: what is sent is the clock, or the last timestamp and one
//! step, whichever is greater. Like Linux and wireguard-go we blank the low 24 bits of the
//! nanoseconds, so that the clock cannot be measured through us. [WG §5.1]

use core::time::Duration;

use super::messages::TIMESTAMP_LEN;

/// 2^62 and the ten seconds between TAI and UTC in 1970; there is no table of leap seconds. [WG
/// §5.4]
const EPOCH: u64 = 0x4000_0000_0000_000A;
/// What is blanked of the nanoseconds.
const STEP: u32 = 1 << 24;

/// A timestamp, ordered as its bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Tai64n(pub(super) [u8; TIMESTAMP_LEN]);

impl Tai64n {
    /// Below every timestamp that is accepted.
    pub(super) const ZERO: Self = Self([0; TIMESTAMP_LEN]);

    /// The timestamp of a wall time.
    // spec: WG 5.1-a, WG 5.1-e
    pub(super) fn of(wall: Duration) -> Self {
        Self::join(EPOCH.wrapping_add(wall.as_secs()), wall.subsec_nanos() & !(STEP - 1))
    }

    /// The timestamp of `wall`, or one step after `floor` if that is not greater than `floor`.
    // spec: WG 5.1-d
    pub(super) fn after(floor: Self, wall: Duration) -> Self {
        Self::of(wall).max(floor.next())
    }

    /// One step later.
    fn next(self) -> Self {
        let (seconds, nanoseconds) = self.split();
        match nanoseconds.saturating_add(STEP) {
            nanoseconds @ ..1_000_000_000 => Self::join(seconds, nanoseconds & !(STEP - 1)),
            _ => Self::join(seconds.saturating_add(1), 0),
        }
    }

    fn split(self) -> (u64, u32) {
        let [s0, s1, s2, s3, s4, s5, s6, s7, nanoseconds @ ..] = self.0;
        let seconds = u64::from_be_bytes([s0, s1, s2, s3, s4, s5, s6, s7]);
        (seconds, u32::from_be_bytes(nanoseconds))
    }

    fn join(seconds: u64, nanoseconds: u32) -> Self {
        let [s0, s1, s2, s3, s4, s5, s6, s7] = seconds.to_be_bytes();
        let [n0, n1, n2, n3] = nanoseconds.to_be_bytes();
        Self([s0, s1, s2, s3, s4, s5, s6, s7, n0, n1, n2, n3])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // spec-test: WG 5.1-d
    #[test]
    fn a_clock_that_goes_back_does_not_take_timestamps_with_it() {
        let noon = Duration::new(1_700_000_000, 990_000_000);
        let mut floor = Tai64n::of(noon);
        for wall in [noon, noon - Duration::from_secs(3600), Duration::ZERO, noon] {
            let next = Tai64n::after(floor, wall);
            assert!(next > floor);
            floor = next;
        }
        let later = noon + Duration::from_secs(5);
        assert_eq!(Tai64n::after(floor, later), Tai64n::of(later));
    }

    #[test]
    fn a_step_carries_into_the_seconds() {
        let last = Tai64n::of(Duration::new(7, 999_999_999));
        assert_eq!(Tai64n::after(last, Duration::ZERO), Tai64n::of(Duration::new(8, 0)));
    }
}
