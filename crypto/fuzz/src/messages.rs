//! A datagram, and what may come out of one: parsed, and put together again from the parts.

use crypto::protocol::{
    checksum::Sum,
    messages::{Message, Transport},
    receive::InnerPacket,
    segment::SuperPacket,
    verify::{Checksums, Finding, Worth},
};

use super::Input;

const ALL: Worth = Worth { ipv4: true, tcp: true, udp: true };

/// Parses `input` as a datagram, as an opened packet, and as a packet to be cut.
///
/// # Panics
///
/// If a parser says otherwise than the paper.
pub fn run(input: &[u8]) {
    datagram(input);
    opened(input);
    super_packet(input);
}

fn datagram(bytes: &[u8]) {
    let kind = match (bytes.get(..4), bytes.len()) {
        (Some([1, 0, 0, 0]), 148) => 1,
        (Some([2, 0, 0, 0]), 92) => 2,
        (Some([3, 0, 0, 0]), 64) => 3,
        (Some([4, 0, 0, 0]), 32..) => 4,
        _ => 0,
    };
    let head = |kind: u32, index: u32| [kind.to_le_bytes(), index.to_le_bytes()].concat();
    let (found, again) = match Message::parse(bytes) {
        Err(_) => (0, bytes.to_vec()),
        Ok(Message::Initiation(m)) => {
            assert_eq!((m.macs.before_mac1.len(), m.macs.before_mac2.len()), (116, 132));
            let head = head(1, m.sender);
            let parts =
                [&head, &m.ephemeral[..], m.static_key, m.timestamp, m.macs.mac1, m.macs.mac2];
            (1, parts.concat())
        }
        Ok(Message::Response(m)) => {
            assert_eq!((m.macs.before_mac1.len(), m.macs.before_mac2.len()), (60, 76));
            let (head, receiver) = (head(2, m.sender), m.receiver.to_le_bytes());
            let parts = [&head, &receiver[..], m.ephemeral, m.empty, m.macs.mac1, m.macs.mac2];
            (2, parts.concat())
        }
        Ok(Message::CookieReply(m)) => (3, [&head(3, m.receiver), &m.nonce[..], m.cookie].concat()),
        Ok(Message::Transport(m)) => {
            (4, [&Transport::header(m.receiver, m.counter)[..], m.packet].concat())
        }
    };
    assert_eq!(found, kind, "another type");
    assert!(again == bytes, "another message");
}

/// What the header of an inner packet says: length of the header, and of the packet.
fn lengths(bytes: &[u8]) -> Option<(usize, usize)> {
    let word = |at: usize| usize::from(u16::from_be_bytes([bytes[at], bytes[at + 1]]));
    match bytes.first()? >> 4 {
        4 if bytes.len() >= 20 => Some((20, word(2))),
        6 if bytes.len() >= 40 => Some((40, 40 + word(4))),
        _ => None,
    }
}

fn opened(bytes: &[u8]) {
    let expected = lengths(bytes).filter(|(header, len)| (*header..=bytes.len()).contains(len));
    let parsed = InnerPacket::parse(bytes, bytes.len());
    assert_eq!(parsed.ok().map(|packet| packet.len), expected.map(|(_, len)| len));
    let found = Checksums::of(bytes, ALL);
    if found.ip != Finding::NotChecked {
        let header = &bytes[..4 * usize::from(bytes[0] & 15)];
        assert_eq!(found.ip == Finding::Valid, Sum::default().and(header).checksum() == [0, 0]);
    }
}

fn super_packet(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let (mss, mtu) = (input.below(2000), input.below(3000));
    let packet = input.take(usize::MAX);
    let Ok(cut) = SuperPacket::parse(packet, packet.len(), mss, mtu) else { return };
    let mut payload = Vec::new();
    for number in 0..cut.segments() {
        let segment = cut.segment(number).unwrap();
        let range = segment.payload();
        assert!(mtu == 0 || segment.byte_count() <= mtu);
        assert!(range.len() <= mss && (range.len() == mss || number + 1 == cut.segments()));
        payload.extend_from_slice(&packet[range]);
        let mut written = vec![0; segment.byte_count()];
        segment.write(&mut written, |from, to| {
            to.copy_from_slice(&packet[from..][..to.len()]);
            to.len()
        });
        let inner = InnerPacket::parse(&written, written.len()).unwrap();
        assert_eq!(inner.len, written.len());
        let found = Checksums::of(&written, ALL);
        // UDP may do without a checksum, and then its segments do.
        let at = if packet[0] >> 4 == 4 { 4 * usize::from(packet[0] & 15) } else { 40 };
        let protocol = packet[if packet[0] >> 4 == 6 { 6 } else { 9 }];
        let without = protocol == 17 && packet[at + 6..at + 8] == [0, 0];
        let expected = if without { Finding::NotChecked } else { Finding::Valid };
        assert_eq!(found.transport, expected, "segment {number}");
        assert_ne!(found.ip, Finding::Invalid, "segment {number}");
    }
    assert!(packet.ends_with(&payload), "payload is cut and nothing else");
    assert!(cut.segment(cut.segments()).is_none());
}
