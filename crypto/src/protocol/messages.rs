//! The four messages, byte for byte. No other file knows an offset.
//!
//! Parsing proves type and length once: a parsed message is a value whose accessors cannot fail,
//! and it borrows the datagram. The first four bytes are one little-endian word, so a non-zero
//! reserved byte makes the type unknown. [WG §5.4.2, 5.4.3, 5.4.6, 5.4.7]

use abi::discard::Discard;

/// Bytes of a handshake initiation.
pub const INITIATION_LEN: usize = 148;
/// Bytes of a handshake response.
pub const RESPONSE_LEN: usize = 92;
/// Bytes of a cookie reply.
pub const COOKIE_REPLY_LEN: usize = 64;
/// Bytes of a transport data message before the ciphertext.
pub const TRANSPORT_HEADER_LEN: usize = 16;
/// Bytes of an authentication tag.
pub const TAG_LEN: usize = 16;
/// Bytes of the shortest transport data message, a keepalive.
pub const KEEPALIVE_LEN: usize = TRANSPORT_HEADER_LEN + TAG_LEN;
/// Bytes of a TAI64N timestamp.
pub const TIMESTAMP_LEN: usize = 12;

// spec: WG 5.4.3-a, WG 5.4.7-a; spec-test: WG 5.4.3-a, WG 5.4.7-a — no answer is longer than what provoked it.
const _: () = assert!(RESPONSE_LEN < INITIATION_LEN && COOKIE_REPLY_LEN < RESPONSE_LEN);

/// A datagram of known type and length.
pub enum Message<'d> {
    /// Type 1.
    Initiation(Initiation<'d>),
    /// Type 2.
    Response(Response<'d>),
    /// Type 3.
    CookieReply(CookieReply<'d>),
    /// Type 4.
    Transport(Transport<'d>),
}

impl<'d> Message<'d> {
    /// Parses a UDP payload.
    ///
    /// # Errors
    ///
    /// [`Discard::MalformedMessage`] for an unknown type word or a length that is not its type's.
    // spec: WG 5.4-j, WG 5.4-m, WG 5.4-n
    pub fn parse(datagram: &'d [u8]) -> Result<Self, Discard> {
        let malformed = Discard::MalformedMessage;
        match datagram.first_chunk().copied().map(u32::from_le_bytes) {
            Some(1) => Initiation::parse(datagram).map(Self::Initiation),
            Some(2) => Response::parse(datagram).map(Self::Response),
            Some(3) => CookieReply::parse(datagram).map(Self::CookieReply),
            Some(4) => Transport::parse(datagram).map(Self::Transport),
            _ => None,
        }
        .ok_or(malformed)
    }
}

/// What the two messages that carry MACs have in common.
#[derive(Clone, Copy)]
pub struct Macs<'d> {
    /// Everything before mac1.
    pub before_mac1: &'d [u8],
    /// MAC that proves knowledge of the receiver's public key.
    pub mac1: &'d [u8; 16],
    /// Everything before mac2: with mac1.
    pub before_mac2: &'d [u8],
    /// MAC that proves ownership of the source address, or zeros.
    pub mac2: &'d [u8; 16],
}

impl<'d> Macs<'d> {
    fn split(datagram: &'d [u8]) -> Option<Self> {
        let (before_mac2, mac2) = datagram.split_last_chunk()?;
        let (before_mac1, mac1) = before_mac2.split_last_chunk()?;
        Some(Self { before_mac1, mac1, before_mac2, mac2 })
    }
}

/// A handshake initiation.
pub struct Initiation<'d> {
    /// How the response must address the initiator.
    pub sender: u32,
    /// The initiator's ephemeral public key.
    pub ephemeral: &'d [u8; 32],
    /// The initiator's static public key, sealed.
    pub static_key: &'d [u8; 32 + TAG_LEN],
    /// TAI64N, sealed.
    pub timestamp: &'d [u8; TIMESTAMP_LEN + TAG_LEN],
    /// Both MACs.
    pub macs: Macs<'d>,
}

impl<'d> Initiation<'d> {
    /// Parses an initiation; `None` unless it is [`INITIATION_LEN`] bytes of type 1.
    #[must_use]
    pub fn parse(datagram: &'d [u8]) -> Option<Self> {
        let whole: &[u8; INITIATION_LEN] = datagram.try_into().ok()?;
        let rest = after_type(whole, 1)?;
        let (sender, rest) = rest.split_first_chunk()?;
        let (ephemeral, rest) = rest.split_first_chunk()?;
        let (static_key, rest) = rest.split_first_chunk()?;
        let timestamp = rest.first_chunk()?;
        let sender = u32::from_le_bytes(*sender);
        Some(Self { sender, ephemeral, static_key, timestamp, macs: Macs::split(whole)? })
    }

    /// Lays out an initiation with both MACs zero.
    pub(super) fn write(
        sender: u32,
        ephemeral: &[u8; 32],
        static_key: &[u8; 48],
        timestamp: &[u8; 28],
    ) -> [u8; INITIATION_LEN] {
        lay_out(&[&1_u32.to_le_bytes(), &sender.to_le_bytes(), ephemeral, static_key, timestamp])
    }
}

/// A handshake response.
pub struct Response<'d> {
    /// How the initiator must address the responder.
    pub sender: u32,
    /// The initiation's `sender`.
    pub receiver: u32,
    /// The responder's ephemeral public key.
    pub ephemeral: &'d [u8; 32],
    /// Nothing, sealed.
    pub empty: &'d [u8; TAG_LEN],
    /// Both MACs.
    pub macs: Macs<'d>,
}

impl<'d> Response<'d> {
    /// Parses a response; `None` unless it is [`RESPONSE_LEN`] bytes of type 2.
    #[must_use]
    pub fn parse(datagram: &'d [u8]) -> Option<Self> {
        let whole: &[u8; RESPONSE_LEN] = datagram.try_into().ok()?;
        let rest = after_type(whole, 2)?;
        let (sender, rest) = rest.split_first_chunk()?;
        let (receiver, rest) = rest.split_first_chunk()?;
        let (ephemeral, rest) = rest.split_first_chunk()?;
        let empty = rest.first_chunk()?;
        let (sender, receiver) = (u32::from_le_bytes(*sender), u32::from_le_bytes(*receiver));
        Some(Self { sender, receiver, ephemeral, empty, macs: Macs::split(whole)? })
    }

    /// Lays out a response with both MACs zero.
    pub(super) fn write(
        sender: u32,
        receiver: u32,
        ephemeral: &[u8; 32],
        empty: &[u8; 16],
    ) -> [u8; RESPONSE_LEN] {
        let (sender, receiver) = (sender.to_le_bytes(), receiver.to_le_bytes());
        lay_out(&[&2_u32.to_le_bytes(), &sender, &receiver, ephemeral, empty])
    }
}

/// Writes mac1 and mac2, the last 32 bytes of an initiation or a response.
pub(super) fn write_macs(
    message: &mut [u8],
    mac1: impl FnOnce(&[u8]) -> [u8; 16],
    mac2: impl FnOnce(&[u8]) -> [u8; 16],
) {
    let Some((before_mac2, slot2)) = message.split_last_chunk_mut::<16>() else { return };
    if let Some((before_mac1, slot1)) = before_mac2.split_last_chunk_mut::<16>() {
        *slot1 = mac1(before_mac1);
    }
    *slot2 = mac2(before_mac2);
}

/// A cookie reply.
pub struct CookieReply<'d> {
    /// The `sender` of the message it answers.
    pub receiver: u32,
    /// Nonce of the sealed cookie.
    pub nonce: &'d [u8; 24],
    /// The cookie, sealed.
    pub cookie: &'d [u8; 16 + TAG_LEN],
}

impl<'d> CookieReply<'d> {
    /// Parses a cookie reply; `None` unless it is [`COOKIE_REPLY_LEN`] bytes of type 3.
    #[must_use]
    pub fn parse(datagram: &'d [u8]) -> Option<Self> {
        let whole: &[u8; COOKIE_REPLY_LEN] = datagram.try_into().ok()?;
        let rest = after_type(whole, 3)?;
        let (receiver, rest) = rest.split_first_chunk()?;
        let (nonce, rest) = rest.split_first_chunk()?;
        let cookie = rest.first_chunk()?;
        Some(Self { receiver: u32::from_le_bytes(*receiver), nonce, cookie })
    }

    /// Lays out a cookie reply.
    pub(super) fn write(
        receiver: u32,
        nonce: &[u8; 24],
        cookie: &[u8; 32],
    ) -> [u8; COOKIE_REPLY_LEN] {
        lay_out(&[&3_u32.to_le_bytes(), &receiver.to_le_bytes(), nonce, cookie])
    }
}

/// A transport data message.
pub struct Transport<'d> {
    /// Which session.
    pub receiver: u32,
    /// Which message of the session.
    pub counter: u64,
    /// Ciphertext and tag.
    pub packet: &'d [u8],
}

impl<'d> Transport<'d> {
    /// Parses a transport data message; `None` unless it is at least [`KEEPALIVE_LEN`] bytes of
    /// type 4.
    #[must_use]
    // spec: WG 5.4-o — any length of payload is taken, padded or not.
    pub fn parse(datagram: &'d [u8]) -> Option<Self> {
        let (header, packet) = datagram.split_first_chunk()?;
        let (receiver, counter) = Self::parse_header(header)?;
        (packet.len() >= TAG_LEN).then_some(Self { receiver, counter, packet })
    }

    /// Receiver and counter of a message of which only the header is at hand; `None` unless it is
    /// of type 4.
    ///
    /// For datagrams in several pieces; that at least [`KEEPALIVE_LEN`] bytes exist is then the
    /// caller's to check.
    #[must_use]
    pub fn parse_header(header: &[u8; TRANSPORT_HEADER_LEN]) -> Option<(u32, u64)> {
        let rest = after_type(header, 4)?;
        let (receiver, rest) = rest.split_first_chunk()?;
        let counter = rest.first_chunk()?;
        Some((u32::from_le_bytes(*receiver), u64::from_le_bytes(*counter)))
    }

    /// The header of a message to send.
    #[must_use]
    // spec: WG 5.4.6-a
    pub fn header(receiver: u32, counter: u64) -> [u8; TRANSPORT_HEADER_LEN] {
        lay_out(&[&4_u32.to_le_bytes(), &receiver.to_le_bytes(), &counter.to_le_bytes()])
    }
}

/// What follows the type word, if it is `kind`.
fn after_type(datagram: &[u8], kind: u32) -> Option<&[u8]> {
    let (word, rest) = datagram.split_first_chunk()?;
    (u32::from_le_bytes(*word) == kind).then_some(rest)
}

/// Fields one after the other, then zeros.
fn lay_out<const LEN: usize>(fields: &[&[u8]]) -> [u8; LEN] {
    let mut message = [0; LEN];
    let bytes = fields.iter().flat_map(|field| field.iter());
    for (slot, byte) in message.iter_mut().zip(bytes) {
        *slot = *byte;
    }
    message
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The type of the message `datagram` parses as, or 0.
    fn kind(datagram: &[u8]) -> u8 {
        match Message::parse(datagram) {
            Ok(Message::Initiation(_)) => 1,
            Ok(Message::Response(_)) => 2,
            Ok(Message::CookieReply(_)) => 3,
            Ok(Message::Transport(_)) => 4,
            Err(reason) => {
                assert_eq!(reason, Discard::MalformedMessage);
                0
            }
        }
    }

    // spec-test: WG 5.4-n, WG 5.4-o
    #[test]
    fn every_length_of_every_type() {
        for (of, fits) in [
            (0, (|_| false) as fn(usize) -> bool),
            (1, |len| len == 148),
            (2, |len| len == 92),
            (3, |len| len == 64),
            (4, |len| len >= 32),
            (5, |_| false),
        ] {
            for len in 0..=200 {
                let mut datagram = std::vec![0; len];
                if let Some(first) = datagram.first_mut() {
                    *first = of;
                }
                let expected = if fits(len) { of } else { 0 };
                assert_eq!(kind(&datagram), expected, "type {of}, {len} bytes");
            }
        }
    }

    // spec-test: WG 5.4-m
    #[test]
    fn a_reserved_byte_makes_the_type_unknown() {
        for (of, len) in [(1, 148), (2, 92), (3, 64), (4, 32)] {
            for reserved in 1..4 {
                let mut datagram = std::vec![0; len];
                datagram[0] = of;
                assert_eq!(kind(&datagram), of);
                datagram[reserved] = 1;
                assert_eq!(kind(&datagram), 0, "type {of}, byte {reserved}");
            }
        }
    }

    // spec-test: WG 5.4-j
    #[test]
    fn what_is_written_is_what_is_parsed() {
        let mut bytes = Initiation::write(7, &[1; 32], &[2; 48], &[3; 28]);
        write_macs(&mut bytes, |_| [4; 16], |_| [5; 16]);
        let parsed = Initiation::parse(&bytes).unwrap();
        assert_eq!((parsed.sender, parsed.ephemeral), (7, &[1; 32]));
        assert_eq!((parsed.static_key, parsed.timestamp), (&[2; 48], &[3; 28]));
        assert_eq!((parsed.macs.mac1, parsed.macs.mac2), (&[4; 16], &[5; 16]));
        assert_eq!((parsed.macs.before_mac1.len(), parsed.macs.before_mac2.len()), (116, 132));

        let bytes = Response::write(8, 9, &[1; 32], &[2; 16]);
        let parsed = Response::parse(&bytes).unwrap();
        assert_eq!((parsed.sender, parsed.receiver), (8, 9));
        assert_eq!((parsed.ephemeral, parsed.empty), (&[1; 32], &[2; 16]));
        assert_eq!((parsed.macs.before_mac1.len(), parsed.macs.before_mac2.len()), (60, 76));

        let bytes = CookieReply::write(10, &[1; 24], &[2; 32]);
        let parsed = CookieReply::parse(&bytes).unwrap();
        assert_eq!((parsed.receiver, parsed.nonce, parsed.cookie), (10, &[1; 24], &[2; 32]));

        let header = Transport::header(0x0403_0201, (1 << 32) + 5);
        assert_eq!(header, [4, 0, 0, 0, 1, 2, 3, 4, 5, 0, 0, 0, 1, 0, 0, 0]);
        assert_eq!(Transport::parse_header(&header), Some((0x0403_0201, (1 << 32) + 5)));
    }

    proptest! {
        #[test]
        fn any_bytes_parse_or_do_not(datagram in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = kind(&datagram);
        }
    }
}
