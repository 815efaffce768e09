//! How datagrams lie in a run buffer: apart, with room for headers before each, or back to back.
//!
//! A datagram begins 48 bytes behind a cache line: that is the room an IPv6 and a UDP header take
//! when the run is injected instead of sent by a socket, and with the 16 bytes of a Transport Data
//! header it puts every ciphertext on a cache line of its own. Back to back they can be handed over as
//! one, for the stack to cut apart; then only the first has the room. Which it is must be known before
//! they are sealed, since a byte is written once. Pure; any IRQL.

/// Datagrams begin this far behind a multiple of [`STRIDE`].
pub const HEAD_ROOM: usize = 48;
/// The distance between datagrams is a multiple of this.
pub const STRIDE: usize = 64;

/// How the datagrams of a run lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Each with head room, at its stride: for whoever sends it.
    Apart,
    /// Back to back: for sockets, whose stack may cut them apart.
    Joined,
}

/// The three sizes of run buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// One datagram of an Ethernet's size: handshakes, keepalives, lone packets.
    Single,
    /// About four of them.
    Few,
    /// Thirty-two of them, or one of the largest there is.
    Full,
}

impl Class {
    /// From the smallest to the largest.
    pub const ALL: [Self; 3] = [Self::Single, Self::Few, Self::Full];

    /// Bytes of the buffer.
    #[must_use]
    pub const fn capacity(self) -> usize {
        match self {
            Self::Single => 2 << 10,
            Self::Few => 8 << 10,
            Self::Full => 64 << 10,
        }
    }

    /// Datagrams it is made for.
    #[must_use]
    pub const fn packets(self) -> usize {
        match self {
            Self::Single => 1,
            Self::Few => 4,
            Self::Full => 32,
        }
    }

    /// The smallest class that has room for `packets` datagrams of `bytes` in all, however these
    /// are shared out among them; the largest when none has.
    #[must_use]
    pub fn for_datagrams(packets: usize, bytes: usize) -> Self {
        // The first is rounded up; each behind it may lose most of a stride, and its head room.
        let apart = packets.saturating_sub(1).saturating_mul(STRIDE.saturating_mul(2));
        let needed = bytes.saturating_add(HEAD_ROOM).saturating_add(apart);
        Self::ALL
            .into_iter()
            .find(|class| packets <= class.packets() && needed <= class.capacity())
            .unwrap_or(Self::Full)
    }
}

/// Where a datagram of `length` bytes goes in a buffer filled up to `end`, and where it ends.
///
/// `None` when the buffer's `capacity` does not reach that far.
#[must_use]
pub fn place(end: usize, length: usize, capacity: usize, layout: Layout) -> Option<(usize, usize)> {
    let offset = match (layout, end) {
        (Layout::Joined, 1..) => end,
        _ => end.checked_next_multiple_of(STRIDE)?.checked_add(HEAD_ROOM)?,
    };
    let end = offset.checked_add(length)?;
    (end <= capacity).then_some((offset, end))
}

// However many are joined, it is no more than an IPv4 datagram may have.
const _: () = assert!(Class::Full.capacity() - HEAD_ROOM <= 65_535 - 20 - 8);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn edges() {
        assert_eq!(place(0, 148, 2048, Layout::Apart), Some((48, 196)));
        assert_eq!(place(196, 100, 2048, Layout::Apart), Some((304, 404)));
        assert_eq!(place(256, 0, 2048, Layout::Apart), Some((304, 304)), "an end on the stride");
        assert_eq!(place(0, 2000, 2048, Layout::Apart), Some((48, 2048)), "to the last byte");
        assert_eq!(place(0, 2001, 2048, Layout::Apart), None, "one more");
        assert_eq!(place(usize::MAX, 1, 2048, Layout::Apart), None, "no such end");
        // The largest inner packet there can be: 65535 less IPv6, UDP, header and tag, padded.
        let largest = 65535 - 40 - 8;
        assert!(place(0, largest, Class::Full.capacity(), Layout::Apart).is_some());
        for (packets, bytes, class) in [
            (1, 148, Class::Single),
            (1, 1452, Class::Single),
            (1, 2000, Class::Single),
            (1, 2001, Class::Few),
            (2, 296, Class::Few),
            (4, 4 * 1452, Class::Few),
            (5, 500, Class::Full),
            (32, 32 * 1452, Class::Full),
            (1, largest, Class::Full),
            (usize::MAX, usize::MAX, Class::Full),
        ] {
            assert_eq!(Class::for_datagrams(packets, bytes), class, "{packets} of {bytes}");
        }
    }

    proptest! {
        #[test]
        fn datagrams_keep_their_distance(lengths in prop::collection::vec(0_usize..3000, 1..40)) {
            let mut end = 0;
            for length in lengths {
                let Some((offset, next)) = place(end, length, Class::Full.capacity(), Layout::Apart) else { break };
                prop_assert!(offset >= end + HEAD_ROOM);
                prop_assert_eq!((offset + 16) % STRIDE, 0);
                prop_assert_eq!(next, offset + length);
                end = next;
            }
        }

        #[test]
        fn joined_they_lie_back_to_back(lengths in prop::collection::vec(1_usize..3000, 1..40)) {
            let mut end = 0;
            for length in lengths {
                let capacity = Class::Full.capacity();
                let Some((offset, next)) = place(end, length, capacity, Layout::Joined) else { break };
                prop_assert_eq!(offset, end.max(HEAD_ROOM));
                prop_assert_eq!(next, offset + length);
                end = next;
            }
        }

        /// Whatever the class was chosen for does fit.
        #[test]
        fn a_class_holds_what_it_is_chosen_for(
            lengths in prop::collection::vec(0_usize..9000, 1..33),
        ) {
            let class = Class::for_datagrams(lengths.len(), lengths.iter().sum());
            for layout in [Layout::Apart, Layout::Joined] {
                let mut end = 0;
                for length in &lengths {
                    match place(end, *length, class.capacity(), layout) {
                        Some((_, next)) => end = next,
                        None => {
                            prop_assert_eq!(class, Class::Full);
                            prop_assert!(lengths.iter().sum::<usize>() > 48 << 10);
                            break;
                        }
                    }
                }
            }
        }
    }
}
