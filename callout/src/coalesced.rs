//! Datagrams that came several as one, put together by a network adapter or the stack (URO).
//!
//! Whoever put them together says how long each is, the last perhaps being shorter; that has been wrong, and missing, on
//! machines in the field. So nothing is cut apart before its parts were looked at: each must be as long as a
//! message of its type. What is cut wrongly never passes: a tag is behind every part.
//!
//! Pure; any IRQL. Who looks is `classify` for the callouts and `parts` for the sockets.

/// Bytes of a transport data message without data: its header and a tag.
pub const TRANSPORT_MIN: usize = 32;
/// Bytes of the longest one that is opened: a receive buffer, its header and a tag.
pub const TRANSPORT_MAX: usize = 2048 + 32;
/// Bytes of its header.
pub const HEADER_LEN: usize = 16;
/// The first four bytes of transport data: its type, and three zeros.
pub const TRANSPORT_DATA: [u8; 4] = [4, 0, 0, 0];
/// Bytes of the handshake's messages and of a cookie reply, which are types 1 to 3.
const MESSAGES: [usize; 3] = [148, 92, 64];

/// What a datagram of a socket is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whole {
    /// One datagram.
    One,
    /// Several, of so many bytes each but for the last.
    Several(usize),
    /// Several, and where each ends is not said, or makes no sense.
    Unknown,
}

impl Whole {
    /// Judges a datagram of `length` bytes, made of such of `said` bytes as the system says.
    #[must_use]
    pub fn of(length: usize, said: Option<usize>) -> Self {
        match said {
            Some(size) if is_plausible(size, length) => Self::Several(size),
            Some(size) if size != length => Self::Unknown,
            _ if length > TRANSPORT_MAX => Self::Unknown,
            _ => Self::One,
        }
    }
}

/// Whether `length` bytes can be messages of `size` bytes, the last perhaps shorter, and at least two.
#[must_use]
pub fn is_plausible(size: usize, length: usize) -> bool {
    let last = length.checked_rem(size).unwrap_or(0);
    let fits = (TRANSPORT_MIN..=TRANSPORT_MAX).contains(&size);
    fits && size < length && (last == 0 || last >= TRANSPORT_MIN)
}

/// Whether a part of `length` bytes that begins so can be a message.
#[must_use]
pub fn is_message(header: &[u8; HEADER_LEN], length: usize) -> bool {
    match *header {
        [4, 0, 0, 0, ..] => (TRANSPORT_MIN..=TRANSPORT_MAX).contains(&length),
        [kind, 0, 0, 0, ..] => {
            (1..).zip(MESSAGES).any(|message: (u8, usize)| message == (kind, length))
        }
        _ => false,
    }
}

/// Whose session transport data that begins so is for; `None` for anything else.
#[must_use]
pub fn receiver(header: &[u8; HEADER_LEN]) -> Option<u32> {
    let [4, 0, 0, 0, a, b, c, d, ..] = *header else { return None };
    Some(u32::from_le_bytes([a, b, c, d]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_must_make_sense() {
        for (length, said, whole, why) in [
            (96, None, Whole::One, "nothing is said, and nothing need be"),
            (TRANSPORT_MAX, None, Whole::One, "the longest of ours"),
            (TRANSPORT_MAX + 1, None, Whole::Unknown, "longer than any of ours"),
            (96, Some(96), Whole::One, "it says what it is"),
            (3000, Some(3000), Whole::Unknown, "longer than any of ours, all the same"),
            (2904, Some(1452), Whole::Several(1452), "two"),
            (1452 + 32, Some(1452), Whole::Several(1452), "and a keepalive"),
            (1452 + 31, Some(1452), Whole::Unknown, "and too little"),
            (96, Some(0), Whole::Unknown, "no size"),
            (96, Some(31), Whole::Unknown, "parts that hold nothing"),
            (96, Some(97), Whole::Unknown, "more than there is"),
            (6000, Some(3000), Whole::Unknown, "parts longer than any of ours"),
            (0, None, Whole::One, "nothing at all"),
            (0, Some(0), Whole::One, "nothing at all, as it says"),
        ] {
            assert_eq!(Whole::of(length, said), whole, "{length} of {said:?}: {why}");
        }
    }

    #[test]
    fn parts_are_known_by_type_and_length() {
        let begins = |first: [u8; 8]| {
            let mut header = [7; HEADER_LEN];
            header.iter_mut().zip(first).for_each(|(place, byte)| *place = byte);
            header
        };
        for (first, length, good) in [
            ([4, 0, 0, 0, 1, 2, 3, 4], 32, true),
            ([4, 0, 0, 0, 1, 2, 3, 4], 1452, true),
            ([4, 0, 0, 0, 1, 2, 3, 4], 31, false),
            ([4, 0, 0, 0, 1, 2, 3, 4], TRANSPORT_MAX + 1, false),
            ([4, 0, 1, 0, 1, 2, 3, 4], 96, false),
            ([1, 0, 0, 0, 1, 2, 3, 4], 148, true),
            ([1, 0, 0, 0, 1, 2, 3, 4], 92, false),
            ([2, 0, 0, 0, 1, 2, 3, 4], 92, true),
            ([3, 0, 0, 0, 1, 2, 3, 4], 64, true),
            ([0, 0, 0, 0, 1, 2, 3, 4], 148, false),
            ([5, 0, 0, 0, 1, 2, 3, 4], 96, false),
        ] {
            assert_eq!(is_message(&begins(first), length), good, "{first:?}, {length}");
            let known = (first[..4] == [4, 0, 0, 0]).then_some(0x0403_0201);
            assert_eq!(receiver(&begins(first)), known);
        }
    }
}
