//! NetAdapterCx's own checks of what a driver did to its rings during one Advance or Cancel.
//!
//! Both rings are copied before the callback and compared after it. On receive the elements the
//! driver must fill are poisoned first, so that "not written" can be told from "written with the
//! old value". A rule is named as NetAdapterCx names its failure code; the first one broken is
//! reported, as there.
//!
//! The rules run only when the driver is being verified, as on Windows.
//!
//! Source: `facts/netcx-os.md` §9 (`adapter/verifier.cpp`, read in Microsoft's source). The names of
//! the two overlap rules and of the fragment length rule are inferred from their neighbours.

use super::ring::{Fragment, Indices, Layout, MAX_LENGTH, MAX_OFFSET, PACKET_SIZE, Packet, Ring};
use crate::verifier::rules::{self, Rule};

/// A broken rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// NetAdapterCx's name for it, without `FailureCode_`.
    pub rule: &'static Rule,
    /// Which ring, element and values.
    pub detail: String,
}

type Verdict = Result<(), Violation>;

fn broken(rule: &'static Rule, detail: impl FnOnce() -> String) -> Verdict {
    Err(Violation { rule, detail: detail() })
}

/// Which way the packets of a queue go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// A transmit queue: the driver reads and returns.
    Transmit,
    /// A receive queue with driver-managed buffers: the driver fills packets, fragments and capacity.
    Receive,
}

const POISON_INDEX: u32 = u32::MAX;
const POISON_COUNT: u16 = u16::MAX;
const POISON_TYPE: u8 = 0xF;

/// The verifier of one queue.
pub struct RingVerifier {
    direction: Direction,
    packets: Vec<u8>,
    fragments: Vec<u8>,
    poisoned_packets: u32,
    poisoned_fragments: u32,
}

impl RingVerifier {
    /// Makes the verifier of a queue that has not been started.
    #[must_use]
    pub fn new(direction: Direction) -> Self {
        Self {
            direction,
            packets: Vec::new(),
            fragments: Vec::new(),
            poisoned_packets: 0,
            poisoned_fragments: 0,
        }
    }

    /// Forgets what was poisoned; for `EvtPacketQueueStart`, when all indices are 0 again.
    pub fn restart(&mut self) {
        (self.poisoned_packets, self.poisoned_fragments) = (0, 0);
    }

    /// Poisons what the driver got since the last call, and remembers both rings.
    pub fn before(&mut self, packets: &Ring, fragments: &Ring) {
        if self.direction == Direction::Receive {
            while self.poisoned_packets != packets.end() {
                let mut packet = packets.packet(self.poisoned_packets);
                packet.fragment_index = POISON_INDEX;
                packet.fragment_count = POISON_COUNT;
                packet.layout.layer2_type = POISON_TYPE;
                packet.layout.layer3_type = POISON_TYPE;
                packet.layout.layer4_type = POISON_TYPE;
                packets.set_packet(self.poisoned_packets, packet);
                self.poisoned_packets = packets.increment(self.poisoned_packets);
            }
            while self.poisoned_fragments != fragments.end() {
                let mut fragment = fragments.fragment(self.poisoned_fragments);
                fragment.valid_length = MAX_LENGTH;
                fragment.capacity = MAX_LENGTH;
                fragment.offset = MAX_OFFSET;
                fragments.set_fragment(self.poisoned_fragments, fragment);
                self.poisoned_fragments = fragments.increment(self.poisoned_fragments);
            }
        }
        packets.snapshot(&mut self.packets);
        fragments.snapshot(&mut self.fragments);
    }

    /// Compares both rings with what [`RingVerifier::before`] remembered.
    ///
    /// # Errors
    ///
    /// The first rule broken.
    pub fn after(&self, packets: &Ring, fragments: &Ring) -> Verdict {
        let packets = Comparison::new("packet", packets, &self.packets);
        let fragments = Comparison::new("fragment", fragments, &self.fragments);
        for ring in [&packets, &fragments] {
            ring.header_untouched()?;
            ring.begin_moved_forward()?;
            ring.framework_elements_untouched()?;
        }
        match self.direction {
            Direction::Transmit => {
                transmit_packets_untouched(&packets)?;
                transmit_fragments_untouched(&fragments)
            }
            Direction::Receive => received_packets(&packets, &fragments),
        }
    }
}

/// One ring before and after the callback.
struct Comparison<'b> {
    name: &'static str,
    before: &'b [u8],
    after: Vec<u8>,
    was: Indices,
    is: Indices,
}

impl<'b> Comparison<'b> {
    fn new(name: &'static str, ring: &Ring, before: &'b [u8]) -> Self {
        let mut after = Vec::new();
        ring.snapshot(&mut after);
        let (was, is) = (Indices::of(ring, before), Indices::of(ring, &after));
        Self { name, before, after, was, is }
    }

    fn header_untouched(&self) -> Verdict {
        let header = ..super::ring::FRAMEWORK_HEADER;
        if self.before[header] == self.after[header] {
            return Ok(());
        }
        broken(&rules::INVALID_RING_IMMUTABLE, || {
            format!(
                "the {} ring's header was written: {:?} became {:?}",
                self.name, self.was, self.is
            )
        })
    }

    fn begin_moved_forward(&self) -> Verdict {
        let owned = |indices: &Indices| indices.distance(indices.begin, indices.end);
        if self.is.begin < self.is.count && owned(&self.is) <= owned(&self.was) {
            return Ok(());
        }
        broken(&rules::INVALID_RING_BEGIN_INDEX, || {
            format!(
                "{} ring: BeginIndex {} became {} with EndIndex {}",
                self.name, self.was.begin, self.is.begin, self.was.end
            )
        })
    }

    fn framework_elements_untouched(&self) -> Verdict {
        for index in (0..self.was.count).filter(|index| !self.was.owns(*index)) {
            if self.was.element(self.before, index) != self.was.element(&self.after, index) {
                return broken(&rules::INVALID_RING_IMMUTABLE_FRAMEWORK_ELEMENT, || {
                    format!(
                        "{} {index} is outside [{}, {})",
                        self.name, self.was.begin, self.was.end
                    )
                });
            }
        }
        Ok(())
    }

    /// The elements the driver had, in ring order, up to `to`.
    fn owned_up_to(&self, to: u32) -> impl Iterator<Item = u32> + '_ {
        let count = self.was.distance(self.was.begin, to);
        (0..count).map(|offset| self.was.begin.wrapping_add(offset) & (self.was.count - 1))
    }

    fn packets(&self, index: u32) -> (Packet, Packet) {
        let (before, after) = self.elements(index);
        (Packet::decode(before), Packet::decode(after))
    }

    fn fragments(&self, index: u32) -> (Fragment, Fragment) {
        let (before, after) = self.elements(index);
        (Fragment::decode(before), Fragment::decode(after))
    }

    fn elements(&self, index: u32) -> (&[u8], &[u8]) {
        (self.was.element(self.before, index), self.was.element(&self.after, index))
    }
}

fn transmit_packets_untouched(packets: &Comparison<'_>) -> Verdict {
    for index in packets.owned_up_to(packets.was.end) {
        let (before, after) = packets.packets(index);
        if (Packet { scratch: false, ..before }) != (Packet { scratch: false, ..after }) {
            return broken(&rules::INVALID_RING_IMMUTABLE_DRIVER_TX_PACKET, || {
                format!("packet {index}: {before:?} became {after:?}; only Scratch is the driver's")
            });
        }
        let (before, after) = packets.elements(index);
        if before[PACKET_SIZE..] != after[PACKET_SIZE..] {
            return broken(&rules::INVALID_RING_IMMUTABLE_DRIVER_TX_PACKET, || {
                format!("packet {index}: its extensions were written")
            });
        }
    }
    Ok(())
}

fn transmit_fragments_untouched(fragments: &Comparison<'_>) -> Verdict {
    for index in fragments.owned_up_to(fragments.was.end) {
        let (before, after) = fragments.fragments(index);
        if (Fragment { scratch: false, ..before }) != (Fragment { scratch: false, ..after }) {
            return broken(&rules::INVALID_RING_IMMUTABLE_DRIVER_TX_FRAGMENT, || {
                format!(
                    "fragment {index}: {before:?} became {after:?}; only Scratch is the driver's"
                )
            });
        }
    }
    Ok(())
}

fn received_packets(packets: &Comparison<'_>, fragments: &Comparison<'_>) -> Verdict {
    let mut last_fragment = None;
    for index in packets.owned_up_to(packets.is.begin) {
        let (before, packet) = packets.packets(index);
        if packet.ignore {
            ignored_packet_untouched(index, packet)?;
            continue;
        }
        if (before.reserved, before.layout.reserved) != (packet.reserved, packet.layout.reserved) {
            return broken(&rules::INVALID_RING_MODIFIED_RX_PACKET, || {
                format!("packet {index}: {packet:?}")
            });
        }
        packet_filled(index, packet)?;
        last_fragment = Some(fragment_range(index, packet, fragments, last_fragment)?);
        for offset in 0..u32::from(packet.fragment_count) {
            let at = packet.fragment_index.wrapping_add(offset) & (fragments.was.count - 1);
            fragment_filled(at, fragments)?;
        }
        layout_valid(index, packet.layout)?;
    }
    Ok(())
}

fn ignored_packet_untouched(index: u32, packet: Packet) -> Verdict {
    let layout = packet.layout;
    let types = [layout.layer2_type, layout.layer3_type, layout.layer4_type];
    if packet.fragment_index == POISON_INDEX
        && packet.fragment_count == POISON_COUNT
        && types == [POISON_TYPE; 3]
    {
        return Ok(());
    }
    broken(&rules::INVALID_RING_IMMUTABLE_DRIVER_RX_PACKET_IGNORE, || {
        format!("packet {index} has Ignore set and was filled as well: {packet:?}")
    })
}

fn packet_filled(index: u32, packet: Packet) -> Verdict {
    let layout = packet.layout;
    if packet.fragment_index != POISON_INDEX
        && packet.fragment_count != POISON_COUNT
        && layout.layer2_type != POISON_TYPE
        && layout.layer3_type != POISON_TYPE
        && layout.layer4_type != POISON_TYPE
    {
        return Ok(());
    }
    broken(&rules::INVALID_RING_UNMODIFIED_RX_PACKET, || {
        format!(
            "packet {index} was returned without all of FragmentIndex, FragmentCount, Layout: {packet:?}"
        )
    })
}

/// The distance of the packet's last fragment from the old `BeginIndex`.
fn fragment_range(
    index: u32,
    packet: Packet,
    fragments: &Comparison<'_>,
    previous: Option<u32>,
) -> Result<u32, Violation> {
    let (was, is) = (&fragments.was, &fragments.is);
    let count = u32::from(packet.fragment_count);
    let first = packet.fragment_index;
    let last = first.wrapping_add(count.wrapping_sub(1)) & (was.count - 1);
    let from_begin = |index: u32| was.distance(was.begin, index);
    let rule = if count == 0 {
        &rules::INVALID_RING_RX_PACKET_FRAGMENT_COUNT_ZERO
    } else if count > was.distance(was.begin, was.end) {
        &rules::INVALID_RING_RX_PACKET_FRAGMENT_COUNT_OUT_OF_RANGE
    } else if !was.owns(first) {
        &rules::INVALID_RING_RX_PACKET_FRAGMENT_INDEX_OUT_OF_PRE_RANGE
    } else if !was.owns(last) {
        &rules::INVALID_RING_RX_PACKET_FRAGMENT_COUNT_OUT_OF_PRE_RANGE
    } else if is.owns(first) {
        &rules::INVALID_RING_RX_PACKET_FRAGMENT_INDEX_OUT_OF_POST_RANGE
    } else if is.owns(last) {
        &rules::INVALID_RING_RX_PACKET_FRAGMENT_COUNT_OUT_OF_POST_RANGE
    } else if previous.is_some_and(|previous| from_begin(first) <= previous) {
        &rules::INVALID_RING_RX_PACKET_FRAGMENT_INDEX_OVERLAP
    } else if from_begin(last) < from_begin(first) {
        &rules::INVALID_RING_RX_PACKET_FRAGMENT_COUNT_OVERLAP
    } else {
        return Ok(from_begin(last));
    };
    Err(Violation {
        rule,
        detail: format!(
            "packet {index}: fragments {first}..={last} ({count}); the driver had [{}, {}) and keeps [{}, {})",
            was.begin, was.end, is.begin, is.end
        ),
    })
}

fn fragment_filled(index: u32, fragments: &Comparison<'_>) -> Verdict {
    let (before, fragment) = fragments.fragments(index);
    let detail = || format!("fragment {index}: {fragment:?}");
    if before.bounced != fragment.bounced {
        return broken(&rules::INVALID_RING_UNMODIFIED_RX_FRAGMENT, detail);
    }
    let poisoned = fragment.valid_length == MAX_LENGTH
        || fragment.offset == MAX_OFFSET
        || fragment.capacity == MAX_LENGTH;
    if poisoned {
        return broken(&rules::INVALID_RING_MODIFIED_RX_FRAGMENT, detail);
    }
    if u32::from(fragment.offset) + fragment.valid_length > fragment.capacity {
        return broken(&rules::INVALID_RING_RX_FRAGMENT_LENGTH_INVALID, detail);
    }
    Ok(())
}

fn layout_valid(index: u32, layout: Layout) -> Verdict {
    let Layout { layer2_length, layer3_length, layer4_length, .. } = layout;
    let shorter = |length: u16, least: u16| length != 0 && length < least;
    let tcp = layer4_length != 0
        && (!(20..=60).contains(&layer4_length) || !layer4_length.is_multiple_of(4));
    let rule = match layout {
        Layout { layer2_type: 4.., .. } => &rules::INVALID_RING_RX_PACKET_LAYER2_TYPE,
        Layout { layer2_type: 1, .. } if layer2_length != 0 => {
            &rules::INVALID_RING_RX_PACKET_LAYER2_TYPE_NULL_LENGTH_NON_ZERO
        }
        Layout { layer2_type: 2, .. } if shorter(layer2_length.into(), 14) => {
            &rules::INVALID_RING_RX_PACKET_LAYER2_TYPE_ETHERNET_LENGTH_INVALID
        }
        Layout { layer3_type: 7.., .. } => &rules::INVALID_RING_RX_PACKET_LAYER3_TYPE,
        Layout { layer3_type: 1..=3, .. } if shorter(layer3_length, 20) => {
            &rules::INVALID_RING_RX_PACKET_LAYER3_TYPE_IPV4_LENGTH_INVALID
        }
        Layout { layer3_type: 4..=6, .. } if shorter(layer3_length, 40) => {
            &rules::INVALID_RING_RX_PACKET_LAYER3_TYPE_IPV6_LENGTH_INVALID
        }
        Layout { layer4_type: 5.., .. } => &rules::INVALID_RING_RX_PACKET_LAYER4_TYPE,
        Layout { layer4_type: 1, .. } if tcp => {
            &rules::INVALID_RING_RX_PACKET_LAYER4_TYPE_TCP_LENGTH_INVALID
        }
        Layout { layer4_type: 2, .. } if shorter(layer4_length.into(), 8) => {
            &rules::INVALID_RING_RX_PACKET_LAYER4_TYPE_UDP_LENGTH_INVALID
        }
        _ => return Ok(()),
    };
    broken(rule, || format!("packet {index}: {layout:?}"))
}

#[cfg(test)]
mod tests {
    use super::super::ring::{CHECKSUM, FRAGMENT_SIZE, VIRTUAL_ADDRESS};
    use super::*;

    /// Two rings of 8 whose driver range is `[6, 3)`: five elements, across the wrap.
    struct Rings {
        packets: Ring,
        fragments: Ring,
        verifier: RingVerifier,
    }

    const BEGIN: usize = 48;

    impl Rings {
        fn new(direction: Direction) -> Self {
            let rings = Self {
                packets: Ring::new(8, PACKET_SIZE, &[CHECKSUM]),
                fragments: Ring::new(8, FRAGMENT_SIZE, &[VIRTUAL_ADDRESS]),
                verifier: RingVerifier::new(direction),
            };
            for ring in [&rings.packets, &rings.fragments] {
                ring.set_end(3);
                ring.set_drained(6);
                poke(ring, BEGIN, 6);
            }
            let mut rings = rings;
            (rings.verifier.poisoned_packets, rings.verifier.poisoned_fragments) = (6, 6);
            rings.verifier.before(&rings.packets, &rings.fragments);
            rings
        }

        fn verdict(&self) -> &'static str {
            match self.verifier.after(&self.packets, &self.fragments) {
                Ok(()) => "",
                Err(violation) => violation.rule.name,
            }
        }

        /// Returns packet 6 with fragments 6 and 7 as a correct driver does.
        fn receive(&self, change: impl FnOnce(&mut Packet, &mut Fragment)) {
            let mut packet = Packet {
                fragment_index: 6,
                fragment_count: 2,
                layout: Layout {
                    layer2_type: 1,
                    layer3_type: 3,
                    layer3_length: 20,
                    ..Layout::default()
                },
                ..Packet::default()
            };
            let mut fragment =
                Fragment { valid_length: 100, capacity: 2048, ..Fragment::default() };
            self.fragments.set_fragment(7, fragment);
            change(&mut packet, &mut fragment);
            self.fragments.set_fragment(6, fragment);
            self.packets.set_packet(6, packet);
            poke(&self.packets, BEGIN, 7);
            poke(&self.fragments, BEGIN, 0);
        }
    }

    fn poke(ring: &Ring, at: usize, value: u32) {
        let to = (ring.address() + at) as *mut u32;
        // SAFETY: a driver may write any word of the header; `at` is one of its offsets.
        unsafe { to.write(value) }
    }

    #[test]
    fn both_directions_have_their_header_and_foreign_elements_watched() {
        for direction in [Direction::Transmit, Direction::Receive] {
            type Wrong = (&'static str, fn(&Rings));
            let wrong: [Wrong; 7] = [
                ("", |_| ()),
                ("InvalidRingImmutable", |rings| rings.packets.set_end(4)),
                ("InvalidRingImmutable", |rings| rings.fragments.set_drained(1)),
                ("InvalidRingBeginIndex", |rings| poke(&rings.packets, BEGIN, 5)),
                ("InvalidRingBeginIndex", |rings| poke(&rings.fragments, BEGIN, 4)),
                ("InvalidRingBeginIndex", |rings| poke(&rings.packets, BEGIN, 8 + 7)),
                ("InvalidRingImmutableFrameworkElement", |rings| {
                    rings.packets.write_extension(4, &CHECKSUM, 1);
                }),
            ];
            for (rule, act) in wrong {
                let rings = Rings::new(direction);
                act(&rings);
                assert_eq!(rings.verdict(), rule, "{direction:?}");
            }
        }
    }

    #[test]
    fn of_a_transmit_packet_only_scratch_is_the_drivers() {
        type Wrong = (&'static str, fn(&mut Packet, &mut Fragment));
        let wrong: [Wrong; 8] = [
            ("", |packet, fragment| (packet.scratch, fragment.scratch) = (true, true)),
            ("InvalidRingImmutableDriverTxPacket", |packet, _| packet.ignore = true),
            ("InvalidRingImmutableDriverTxPacket", |packet, _| packet.fragment_index = 1),
            ("InvalidRingImmutableDriverTxPacket", |packet, _| packet.layout.layer4_type = 1),
            ("InvalidRingImmutableDriverTxFragment", |_, fragment| fragment.valid_length = 1),
            ("InvalidRingImmutableDriverTxFragment", |_, fragment| fragment.offset = 1),
            ("InvalidRingImmutableDriverTxFragment", |_, fragment| fragment.capacity = 1),
            ("InvalidRingImmutableDriverTxFragment", |_, fragment| fragment.bounced = true),
        ];
        for (rule, act) in wrong {
            let rings = Rings::new(Direction::Transmit);
            let (mut packet, mut fragment) = (rings.packets.packet(1), rings.fragments.fragment(1));
            act(&mut packet, &mut fragment);
            rings.packets.set_packet(1, packet);
            rings.fragments.set_fragment(1, fragment);
            assert_eq!(rings.verdict(), rule);
        }
    }

    #[test]
    fn a_received_packet_is_filled_within_its_limits() {
        type Change = fn(&mut Packet, &mut Fragment);
        let wrong: [(&str, Change); 29] = [
            ("", |_, _| ()),
            ("", |packet, _| packet.layout.layer3_length = 0),
            ("InvalidRingImmutableDriverRxPacketIgnore", |packet, _| packet.ignore = true),
            ("InvalidRingModifiedRxPacket", |packet, _| packet.reserved = 1),
            ("InvalidRingModifiedRxPacket", |packet, _| packet.layout.reserved = 1),
            ("InvalidRingUnmodifiedRxPacket", |packet, _| packet.fragment_index = u32::MAX),
            ("InvalidRingUnmodifiedRxPacket", |packet, _| packet.fragment_count = u16::MAX),
            ("InvalidRingUnmodifiedRxPacket", |packet, _| packet.layout.layer4_type = 0xF),
            ("InvalidRingRxPacketFragmentCountZero", |packet, _| packet.fragment_count = 0),
            ("InvalidRingRxPacketFragmentCountOutOfRange", |packet, _| packet.fragment_count = 6),
            ("InvalidRingRxPacketFragmentIndexOutOfPreRange", |packet, _| {
                packet.fragment_index = 3
            }),
            ("InvalidRingRxPacketFragmentIndexOutOfPreRange", |packet, _| {
                packet.fragment_index = 14
            }),
            ("InvalidRingRxPacketFragmentCountOutOfPreRange", |packet, _| {
                (packet.fragment_index, packet.fragment_count) = (7, 5);
            }),
            ("InvalidRingRxPacketFragmentIndexOutOfPostRange", |packet, _| {
                packet.fragment_index = 0
            }),
            ("InvalidRingRxPacketFragmentCountOutOfPostRange", |packet, _| {
                packet.fragment_index = 7
            }),
            ("InvalidRingUnmodifiedRxFragment", |_, fragment| fragment.bounced = true),
            ("InvalidRingModifiedRxFragment", |_, fragment| fragment.valid_length = MAX_LENGTH),
            ("InvalidRingModifiedRxFragment", |_, fragment| fragment.offset = MAX_OFFSET),
            ("InvalidRingModifiedRxFragment", |_, fragment| fragment.capacity = MAX_LENGTH),
            ("InvalidRingRxFragmentLengthInvalid", |_, fragment| fragment.valid_length = 2049),
            ("InvalidRingRxPacketLayer2Type", |packet, _| packet.layout.layer2_type = 4),
            ("InvalidRingRxPacketLayer2TypeNullLengthNonZero", |packet, _| {
                packet.layout.layer2_length = 14
            }),
            ("InvalidRingRxPacketLayer2TypeEthernetLengthInvalid", |packet, _| {
                (packet.layout.layer2_type, packet.layout.layer2_length) = (2, 13);
            }),
            ("InvalidRingRxPacketLayer3TypeIPv6LengthInvalid", |packet, _| {
                (packet.layout.layer3_type, packet.layout.layer3_length) = (6, 39);
            }),
            ("InvalidRingRxPacketLayer3Type", |packet, _| packet.layout.layer3_type = 7),
            ("InvalidRingRxPacketLayer3TypeIPv4LengthInvalid", |packet, _| {
                packet.layout.layer3_length = 19
            }),
            ("InvalidRingRxPacketLayer4Type", |packet, _| packet.layout.layer4_type = 5),
            ("InvalidRingRxPacketLayer4TypeTcpLengthInvalid", |packet, _| {
                (packet.layout.layer4_type, packet.layout.layer4_length) = (1, 22);
            }),
            ("InvalidRingRxPacketLayer4TypeUdpLengthInvalid", |packet, _| {
                (packet.layout.layer4_type, packet.layout.layer4_length) = (2, 7);
            }),
        ];
        for (number, (rule, change)) in wrong.into_iter().enumerate() {
            let rings = Rings::new(Direction::Receive);
            rings.receive(change);
            assert_eq!(rings.verdict(), rule, "row {number}");
        }
    }

    #[test]
    fn two_received_packets_may_not_share_a_fragment() {
        let rings = Rings::new(Direction::Receive);
        rings.receive(|_, _| ());
        let second = Packet { fragment_index: 7, fragment_count: 1, ..rings.packets.packet(6) };
        rings.packets.set_packet(7, second);
        poke(&rings.packets, BEGIN, 0);
        assert_eq!(rings.verdict(), "InvalidRingRxPacketFragmentIndexOverlap");
        // Nor does one go round the ring into its own.
        let rings = Rings::new(Direction::Receive);
        rings.receive(|packet, _| (packet.fragment_index, packet.fragment_count) = (2, 5));
        poke(&rings.fragments, BEGIN, 3);
        assert_eq!(rings.verdict(), "InvalidRingRxPacketFragmentCountOverlap");
    }

    /// What the driver filled in one Advance and returns in the next keeps its values.
    #[test]
    fn only_new_elements_are_poisoned() {
        let mut rings = Rings::new(Direction::Receive);
        rings.receive(|_, _| ());
        poke(&rings.packets, BEGIN, 6);
        poke(&rings.fragments, BEGIN, 6);
        assert_eq!(rings.verdict(), "");
        rings.packets.set_end(4);
        rings.verifier.before(&rings.packets, &rings.fragments);
        assert_eq!(rings.packets.packet(6).fragment_count, 2);
        assert_eq!(rings.packets.packet(3).fragment_count, u16::MAX);
        poke(&rings.packets, BEGIN, 7);
        poke(&rings.fragments, BEGIN, 0);
        assert_eq!(rings.verdict(), "");
    }

    #[test]
    fn an_ignored_packet_is_returned_as_it_came() {
        let rings = Rings::new(Direction::Receive);
        for index in [6, 7, 0, 1, 2] {
            let packet = Packet { ignore: true, ..rings.packets.packet(index) };
            rings.packets.set_packet(index, packet);
        }
        poke(&rings.packets, BEGIN, 3);
        poke(&rings.fragments, BEGIN, 3);
        assert_eq!(rings.verdict(), "");
    }
}
