//! What becomes of a datagram at the inbound transport layer: taken, or let pass and why.
//!
//! The socket path is always right, so whatever is in doubt is let pass; only transport data of a
//! flow that the firewall has authorised is taken. The whole of it is one table, read from the top:
//! the first row that applies decides, and each has a counter of its own. The reasons are those of
//! `facts` that the table's rows name; WFP's page on types of callouts asks for the first and the
//! fourth.
//!
//! Pure; any IRQL. Who gathers what is [`Seen`] is `absorb`.

use abi::statistics::Counter;

use crate::coalesced::{HEADER_LEN, TRANSPORT_DATA, TRANSPORT_MAX, TRANSPORT_MIN, is_plausible};

/// A datagram that was put together out of several by the network adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Coalesced {
    /// Bytes of each but the last; 0 when that is not known.
    pub size: u16,
}

/// Everything that is known of a datagram when its fate is decided.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a row of the table")]
pub struct Seen {
    /// No other callout has decided before.
    pub may_decide: bool,
    /// It was injected by this driver, or made of something that was.
    pub injected: bool,
    /// It never leaves this machine.
    pub loopback: bool,
    /// The firewall is to authorise its flow.
    pub authorisation_required: bool,
    /// The adapter takes the fast path.
    pub fast: bool,
    /// The adapter is going down.
    pub draining: bool,
    /// Both addresses, interface and header lengths are known.
    pub whole: bool,
    /// Bytes of it.
    pub length: usize,
    /// Bytes of it as its UDP header says; `None` if that makes no sense.
    pub said: Option<usize>,
    /// Its first bytes; `None` when there are fewer, or they could not be read.
    pub header: Option<[u8; HEADER_LEN]>,
    /// How it was put together, if it was.
    pub coalesced: Option<Coalesced>,
    /// Datagrams of this CPU that are held, and how many may be.
    pub held_of_cpu: (u32, u32),
    /// Datagrams of this remote address that are held, and how many may be.
    pub held_of_peer: (u32, u32),
    /// The firewall has not seen its flow for too long.
    pub refresh_due: bool,
}

/// Why a datagram is let pass to the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Another callout had decided already.
    NoRight,
    /// We injected it: taking it could go round in circles.
    Injected,
    /// It never leaves this machine.
    Loopback,
    /// The firewall is to authorise its flow, further up.
    Authorisation,
    /// The fast path is switched off.
    Off,
    /// The adapter is going down.
    Draining,
    /// The stack did not say everything that is needed.
    NoMetadata,
    /// It is shorter than transport data, or cannot be read.
    TooShort,
    /// It is a handshake message, or nothing of ours.
    NotTransport,
    /// It was put together, and where each part ends is not known or makes no sense.
    Coalesced,
    /// As many are held of this CPU as may be.
    CpuFull,
    /// As many are held of this remote address as may be.
    PeerFull,
    /// The firewall would forget its flow.
    Refresh,
    /// The CPU's ring is full.
    RingFull,
}

impl Reason {
    /// What counts it.
    #[must_use]
    pub const fn counter(self) -> Counter {
        match self {
            Self::NoRight => Counter::PermittedNoRight,
            Self::Injected => Counter::PermittedInjected,
            Self::Loopback => Counter::PermittedLoopback,
            Self::Authorisation => Counter::PermittedAuthorisation,
            Self::Off => Counter::PermittedOff,
            Self::Draining => Counter::PermittedDraining,
            Self::NoMetadata => Counter::PermittedNoMetadata,
            Self::TooShort => Counter::PermittedTooShort,
            Self::NotTransport => Counter::PermittedNotTransport,
            Self::Coalesced => Counter::PermittedCoalesced,
            Self::CpuFull => Counter::PermittedCpuFull,
            Self::PeerFull => Counter::PermittedPeerFull,
            Self::Refresh => Counter::PermittedRefresh,
            Self::RingFull => Counter::PermittedRingFull,
        }
    }
}

/// One row: a reason, and whether it applies.
type Row = (Reason, fn(&Seen) -> bool);

/// Why a datagram is let pass, the first reason that applies; a datagram of no row is taken.
///
/// [`Reason::RingFull`] is found out only when it is put into the ring.
const TABLE: [Row; 13] = [
    (Reason::NoRight, |seen| !seen.may_decide),
    (Reason::Injected, |seen| seen.injected),
    (Reason::Loopback, |seen| seen.loopback),
    (Reason::Authorisation, |seen| seen.authorisation_required),
    (Reason::Off, |seen| !seen.fast),
    (Reason::Draining, |seen| seen.draining),
    (Reason::NoMetadata, |seen| !seen.whole),
    (Reason::TooShort, |seen| seen.length < TRANSPORT_MIN || seen.header.is_none()),
    (Reason::NotTransport, |seen| !is_transport(seen)),
    (Reason::Coalesced, |seen| {
        // Nobody says of what it was made, and it is longer than any of ours or than its header says:
        // the socket gets the parts.
        let is_one = seen.length <= TRANSPORT_MAX && seen.said == Some(seen.length);
        seen.coalesced.map_or(!is_one, |how| !is_plausible(how.size.into(), seen.length))
    }),
    (Reason::CpuFull, |seen| seen.held_of_cpu.0 >= seen.held_of_cpu.1),
    (Reason::PeerFull, |seen| seen.held_of_peer.0 >= seen.held_of_peer.1),
    (Reason::Refresh, |seen| seen.refresh_due),
];

/// Why the datagram is let pass; `None` when it is to be taken.
#[must_use]
pub fn judge(seen: &Seen) -> Option<Reason> {
    TABLE.iter().find(|(_, applies)| applies(seen)).map(|(reason, _)| *reason)
}

fn is_transport(seen: &Seen) -> bool {
    let kind = seen.header.as_ref().and_then(|header| header.first_chunk::<4>());
    // Of any length: padding to a multiple of 16 ends at the sender's MTU.
    kind == Some(&TRANSPORT_DATA)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A datagram that is taken.
    const GOOD: Seen = Seen {
        may_decide: true,
        injected: false,
        loopback: false,
        authorisation_required: false,
        fast: true,
        draining: false,
        whole: true,
        length: TRANSPORT_MIN,
        said: Some(TRANSPORT_MIN),
        header: Some([4, 0, 0, 0, 1, 2, 3, 4, 9, 0, 0, 0, 0, 0, 0, 0]),
        coalesced: None,
        held_of_cpu: (7, 8),
        held_of_peer: (3, 4),
        refresh_due: false,
    };

    /// Each row: what makes it apply, and the nearest thing that does not.
    #[test]
    fn every_row_decides_and_only_where_it_should() {
        type Change = fn(&mut Seen);
        let header = |first: [u8; 4]| {
            let mut header = [0; HEADER_LEN];
            header[..4].copy_from_slice(&first);
            Some(header)
        };
        let rows: [(Reason, Change, Change); 13] = [
            (Reason::NoRight, |s| s.may_decide = false, |_| ()),
            (Reason::Injected, |s| s.injected = true, |_| ()),
            (Reason::Loopback, |s| s.loopback = true, |_| ()),
            (Reason::Authorisation, |s| s.authorisation_required = true, |_| ()),
            (Reason::Off, |s| s.fast = false, |_| ()),
            (Reason::Draining, |s| s.draining = true, |_| ()),
            (Reason::NoMetadata, |s| s.whole = false, |_| ()),
            (Reason::TooShort, |s| (s.length, s.said) = (31, Some(31)), |_| ()),
            (Reason::NotTransport, |s| s.header = Some([1; HEADER_LEN]), |_| ()),
            (
                Reason::Coalesced,
                |s| (s.length, s.coalesced) = (96, Some(Coalesced { size: 0 })),
                |s| (s.length, s.coalesced) = (96, Some(Coalesced { size: 48 })),
            ),
            (Reason::CpuFull, |s| s.held_of_cpu.0 = 8, |s| s.held_of_cpu = (0, 1)),
            (Reason::PeerFull, |s| s.held_of_peer.0 = 4, |s| s.held_of_peer = (0, 1)),
            (Reason::Refresh, |s| s.refresh_due = true, |_| ()),
        ];
        for (at, (reason, applies, does_not)) in rows.iter().enumerate() {
            assert_eq!(TABLE[at].0, *reason, "the order of the table");
            let mut seen = GOOD;
            applies(&mut seen);
            assert_eq!(judge(&seen), Some(*reason));
            let mut seen = GOOD;
            does_not(&mut seen);
            assert_eq!(judge(&seen), None, "next to {reason:?}");
            // The first that applies decides, whatever comes behind.
            let mut seen = GOOD;
            rows[at..].iter().rev().for_each(|(_, applies, _)| applies(&mut seen));
            assert_eq!(judge(&seen), Some(*reason), "with everything behind it");
        }
        for first in [[1, 0, 0, 0], [2, 0, 0, 0], [3, 0, 0, 0], [0; 4], [4, 0, 0, 1], [4, 1, 0, 0]]
        {
            let seen = Seen { header: header(first), ..GOOD };
            assert_eq!(judge(&seen), Some(Reason::NotTransport), "{first:?}");
        }
        for length in [33, 47, 48, 1452, TRANSPORT_MAX] {
            let seen = Seen { length, said: Some(length), ..GOOD };
            assert_eq!(judge(&seen), None, "{length} bytes");
            for said in [Some(length - 1), Some(length + 1), Some(0), None] {
                let seen = Seen { said, ..seen };
                assert_eq!(judge(&seen), Some(Reason::Coalesced), "{length}, not {said:?}");
                let seen =
                    Seen { length: 96, said, coalesced: Some(Coalesced { size: 48 }), ..seen };
                assert_eq!(judge(&seen), None, "the list says what it is made of");
            }
        }
        for length in [TRANSPORT_MAX + 1, 2904, 65_507] {
            let seen = Seen { length, said: Some(length), ..GOOD };
            assert_eq!(judge(&seen), Some(Reason::Coalesced), "{length} bytes");
        }
        assert_eq!(judge(&Seen { header: None, ..GOOD }), Some(Reason::TooShort));
        assert_eq!(judge(&Seen { held_of_cpu: (0, 0), ..GOOD }), Some(Reason::CpuFull), "none may");
    }

    #[test]
    fn what_was_put_together_must_come_apart() {
        for (size, length, good, why) in [
            (1440, 2880, true, "two of a size"),
            (1440, 1440 + 32, true, "a keepalive at the end"),
            (1440, 1440 + 16, false, "no room for header and tag at the end"),
            (1452, 1452 + 1452, true, "two of the largest, padded to the MTU"),
            (1440, 1440, false, "only one"),
            (16, 64, false, "parts that hold nothing"),
            (0, 2880, false, "no size"),
        ] {
            let seen = Seen { length, coalesced: Some(Coalesced { size }), ..GOOD };
            let reason = (!good).then_some(Reason::Coalesced);
            assert_eq!(judge(&seen), reason, "{why}");
        }
    }

    #[test]
    fn every_reason_has_a_counter_of_its_own() {
        let reasons = TABLE.iter().map(|(reason, _)| *reason).chain([Reason::RingFull]);
        let mut seen = std::vec::Vec::new();
        for counter in reasons.map(Reason::counter) {
            assert!(!seen.contains(&counter), "{}", counter.name());
            assert!(counter.name().starts_with("Permitted"));
            seen.push(counter);
        }
        let all = Counter::ALL.iter().filter(|counter| counter.name().starts_with("Permitted"));
        assert_eq!(all.count(), seen.len());
    }
}
