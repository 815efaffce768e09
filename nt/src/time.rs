//! Two clocks: one that never goes back, one that says what day it is.
//!
//! The first is the interrupt time, which counts sleep: a session whose keys have expired while
//! the machine slept must be seen to have expired. Any IRQL, any thread.

use core::time::Duration;

use wdk_sys::{
    LARGE_INTEGER,
    ntddk::{KeQueryInterruptTimePrecise, KeQuerySystemTimePrecise},
};

/// 100-nanosecond units in a second.
const UNITS_PER_SECOND: u64 = 10_000_000;
/// From 1601, where NT begins to count, to 1970, where Unix does. [MS-DTYP 2.3.3]
const UNIX_EPOCH: Duration = Duration::from_secs(11_644_473_600);

/// Time since boot, sleep included, never going back.
///
/// # IRQL
///
/// Any.
///
/// Source: <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-kequeryinterrupttimeprecise>
#[must_use]
pub fn monotonic() -> Duration {
    let mut counter = 0;
    // SAFETY: `counter` is ours for the call; allowed at any level.
    from_100ns(unsafe { KeQueryInterruptTimePrecise(&raw mut counter) })
}

/// Time since 1970, as the system clock has it; zero if that stands before 1970.
///
/// # IRQL
///
/// Any.
///
/// Source: <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-kequerysystemtimeprecise>
#[must_use]
pub fn wall() -> Duration {
    let mut now = LARGE_INTEGER::default();
    // SAFETY: `now` is ours for the call; allowed at any level.
    unsafe { KeQuerySystemTimePrecise(&raw mut now) };
    // SAFETY: the call filled in the whole eight bytes, which any member may be read from.
    let since_1601 = unsafe { now.QuadPart };
    from_100ns(u64::try_from(since_1601).unwrap_or(0)).saturating_sub(UNIX_EPOCH)
}

/// `duration` in NT's unit of 100 nanoseconds, rounded down; the most there is if it is longer.
#[must_use]
pub const fn to_100ns(duration: Duration) -> u64 {
    let rest = duration.subsec_nanos() as u64 / 100;
    duration.as_secs().saturating_mul(UNITS_PER_SECOND).saturating_add(rest)
}

/// `units` of 100 nanoseconds.
const fn from_100ns(units: u64) -> Duration {
    #[expect(clippy::cast_possible_truncation, reason = "less than a second in nanoseconds")]
    let nanoseconds = (units % UNITS_PER_SECOND * 100) as u32;
    Duration::new(units / UNITS_PER_SECOND, nanoseconds)
}

/// `delay` from now, as NT's timers and waits take it: negative, at least one unit, rounded up.
pub(crate) fn relative_100ns(delay: Duration) -> i64 {
    let units = delay.as_nanos().div_ceil(100).max(1);
    -i64::try_from(units).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_in_units_is_rounded_down_and_never_wraps() {
        for (duration, units) in [
            (Duration::ZERO, 0),
            (Duration::from_nanos(99), 0),
            (Duration::from_nanos(199), 1),
            (Duration::new(3, 999_999_999), 39_999_999),
            (Duration::MAX, u64::MAX),
        ] {
            assert_eq!(to_100ns(duration), units, "{duration:?}");
        }
    }

    #[test]
    fn a_delay_is_negative_never_zero_and_never_short() {
        for (delay, units) in [
            (Duration::ZERO, -1),
            (Duration::from_nanos(1), -1),
            (Duration::from_nanos(100), -1),
            (Duration::from_nanos(101), -2),
            (Duration::from_secs(5), -50_000_000),
            (Duration::MAX, -i64::MAX),
        ] {
            assert_eq!(relative_100ns(delay), units, "{delay:?}");
        }
    }

    #[test]
    fn units_become_durations_exactly() {
        assert_eq!(from_100ns(0), Duration::ZERO);
        assert_eq!(from_100ns(9_999_999), Duration::from_nanos(999_999_900));
        assert_eq!(from_100ns(10_000_001), Duration::new(1, 100));
        assert_eq!(from_100ns(u64::MAX).as_secs(), u64::MAX / UNITS_PER_SECOND);
    }
}
