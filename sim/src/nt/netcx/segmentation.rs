//! Super-packets: what tcpip gives an adapter that declared to cut them, and how it cuts them itself
//! where none did.
//!
//! Source: "Offloading the segmentation of large TCP packets" and "UDP segmentation offload (USO)" of the
//! driver documentation (documented); capabilities and their rules `adapter/verifier.cpp` and
//! `nxnbltranslation.cpp` (read in Microsoft's source). This file knows nothing of the driver's.

use super::packet_layout::{self, TCP, UDP, is_ipv4};
use super::ring::Layout;
use crate::checksum;
use crate::nt::wdf::driver_memory::Address;
use crate::verifier::rules::{self, Rule};

/// `sizeof(NET_ADAPTER_OFFLOAD_GSO_CAPABILITIES)`.
pub(crate) const CAPABILITIES_SIZE: u32 = 40;
/// The longest IP and the longest TCP header, which NetAdapterCx allows for.
const MOST_HEADERS: usize = 60 + 60;

const FIN_PSH: u8 = 0x09;
const CWR: u8 = 0x80;

/// `NET_ADAPTER_OFFLOAD_GSO_CAPABILITIES`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gso {
    layer3: u32,
    layer4: u32,
    offset_limit: usize,
    most: usize,
    fewest: usize,
}

impl Gso {
    /// Reads what the driver declares.
    ///
    /// # Errors
    ///
    /// NetAdapterCx's failure code.
    pub(crate) fn read(at: Address) -> Result<Self, (&'static Rule, String)> {
        let [layer3, layer4]: [u32; 2] = [at.read(4), at.read(8)];
        let offset_limit: u16 = at.read(12);
        let [most, fewest, callback] = at.words(16);
        let refuse = |code, why: &str| Err((code, why.to_owned()));
        if layer3 & 15 == 0 && layer4 & 7 == 0 {
            return refuse(&rules::INVALID_GSO_HARDWARE_CAPABILITIES, "no flags at all");
        }
        if most == 0 || fewest == 0 {
            return refuse(&rules::INVALID_GSO_CAPABILITIES, "sizes and segments are at least 1");
        }
        if layer4 & 2 != 0 && layer4 & 1 == 0 {
            return refuse(&rules::INVALID_GSO_CAPABILITIES, "TCP with options alone");
        }
        if callback == 0 {
            return refuse(&rules::PARAMETER_CANT_BE_NULL, "EvtAdapterOffloadSetGso");
        }
        let (most, fewest) = (most as usize, fewest as usize);
        Ok(Self { layer3, layer4, offset_limit: offset_limit.into(), most, fewest })
    }

    /// `MaximumTxFragmentSize` of an adapter with this.
    pub(crate) fn most_bytes(&self) -> usize {
        self.most + MOST_HEADERS
    }

    /// Whether the adapter may be given `packet`, to be cut by `mss`.
    pub(crate) fn covers(&self, packet: &[u8], mss: usize) -> bool {
        let layout = packet_layout::parse(packet);
        let layer3 = match layout.layer3_type {
            packet_layout::IPV4_WITH_OPTIONS => 2,
            packet_layout::IPV4_NO_OPTIONS => 1,
            packet_layout::IPV6_WITH_EXTENSIONS => 8,
            packet_layout::IPV6_NO_EXTENSIONS => 4,
            _ => 0,
        };
        let layer4 = match (layout.layer4_type, layout.layer4_length) {
            (TCP, 20) => 1,
            (TCP, _) => 2,
            (UDP, _) => 4,
            _ => 0,
        };
        let payload = packet.len().saturating_sub(headers_len(layout));
        self.layer3 & layer3 != 0
            && self.layer4 & layer4 != 0
            && usize::from(layout.layer3_length) <= self.offset_limit
            && payload <= self.most
            && payload > mss * (self.fewest - 1)
    }
}

fn headers_len(layout: Layout) -> usize {
    usize::from(layout.layer3_length) + usize::from(layout.layer4_length)
}

/// Makes of a packet what tcpip hands over to be cut: in the checksum's field the sum over the addresses and the
/// protocol, and the length in the IP header 0 if `without_length`.
pub(crate) fn offload(packet: &mut [u8], without_length: bool) {
    let layout = packet_layout::parse(packet);
    let length_at = if is_ipv4(layout.layer3_type) { 2 } else { 4 };
    if without_length {
        packet[length_at..length_at + 2].fill(0);
    }
    if let Some(at) = checksum_at(packet, layout) {
        let sum = checksum::fold(pseudo(packet, layout, 0));
        packet[at..at + 2].copy_from_slice(&sum.to_ne_bytes());
    }
}

/// What is left to cut of a packet, which stays with the caller.
///
/// What tcpip sends itself where nobody cuts for it: packets of at most so many bytes of payload, each finished: length,
/// IP identification counting on, sequence number, FIN and PSH on the last only, CWR on the first only, both checksums.
#[derive(Clone, Copy, Debug)]
pub struct Cut {
    layout: Layout,
    headers: usize,
    mss: usize,
    len: usize,
    at: usize,
    number: u16,
}

impl Cut {
    /// Begins to cut `packet`; `None` if it is neither TCP nor UDP, or in pieces already.
    #[must_use]
    pub fn new(packet: &[u8], mss: usize) -> Option<Self> {
        let layout = packet_layout::parse(packet);
        let headers = headers_len(layout);
        let sane = matches!(layout.layer4_type, TCP | UDP)
            && mss > 0
            && headers <= packet.len()
            && headers + mss <= usize::from(u16::MAX);
        sane.then_some(Self { layout, headers, mss, len: packet.len(), at: headers, number: 0 })
    }

    /// Writes the next segment of `packet` to the front of `into`; its length, or that of `into` if it does not fit: such a
    /// segment is cut off, as a packet is that is longer than its reader's buffer.
    pub fn next(&mut self, packet: &[u8], into: &mut [u8]) -> Option<usize> {
        if self.at >= self.len && self.number > 0 {
            return None;
        }
        let payload = self.mss.min(self.len - self.at);
        let (from, number, len) = (self.at, self.number, self.headers + payload);
        (self.at, self.number) = (from + payload, number.wrapping_add(1));
        let Some(segment) = into.get_mut(..len) else { return Some(into.len()) };
        segment[..self.headers].copy_from_slice(&packet[..self.headers]);
        segment[self.headers..].copy_from_slice(&packet[from..from + payload]);
        let l4 = usize::from(self.layout.layer3_length);
        if is_ipv4(self.layout.layer3_type) {
            let id = u16::from_be_bytes([segment[4], segment[5]]).wrapping_add(number);
            segment[4..6].copy_from_slice(&id.to_be_bytes());
        }
        checksum::finish_ip(segment, l4, len);
        let transport = &mut segment[l4..];
        if self.layout.layer4_type == TCP {
            let sequence = transport[4..].first_chunk().copied().map_or(0, u32::from_be_bytes);
            let sequence = sequence.wrapping_add((from - self.headers) as u32);
            transport[4..8].copy_from_slice(&sequence.to_be_bytes());
            transport[13] &= if from + payload < self.len { !FIN_PSH } else { !0 };
            transport[13] &= if number > 0 { !CWR } else { !0 };
        } else {
            transport[4..6].copy_from_slice(&((8 + payload) as u16).to_be_bytes());
        }
        if let Some(at) = checksum_at(segment, self.layout) {
            segment[at..at + 2].fill(0);
            let sum = pseudo(segment, self.layout, len - l4) + checksum::sum(&segment[l4..]);
            let checksum = checksum::finish(protocol(self.layout), sum);
            segment[at..at + 2].copy_from_slice(&checksum.to_ne_bytes());
        }
        Some(len)
    }
}

/// All that [`Cut`] gives.
#[must_use]
pub fn cut(packet: &[u8], mss: usize) -> Option<Vec<Vec<u8>>> {
    let mut cut = Cut::new(packet, mss)?;
    let mut room = vec![0; cut.headers + mss.min(packet.len())];
    let next = || cut.next(packet, &mut room).map(|len| room[..len].to_vec());
    Some(std::iter::from_fn(next).collect())
}

/// Where the transport's checksum is; `None` for UDP without one.
fn checksum_at(packet: &[u8], layout: Layout) -> Option<usize> {
    let ip = usize::from(layout.layer3_length);
    match layout.layer4_type {
        TCP => Some(ip + 16),
        _ => (packet[ip + 6..ip + 8] != [0, 0]).then_some(ip + 6),
    }
}

/// The sum of the pseudo header.
fn pseudo(packet: &[u8], layout: Layout, len: usize) -> u64 {
    checksum::pseudo(checksum::addresses(packet), protocol(layout), len)
}

/// IP's number of the transport.
fn protocol(layout: Layout) -> u8 {
    if layout.layer4_type == TCP { checksum::TCP } else { checksum::UDP }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A UDP packet over IPv4 with `payload`; all its checksums are right.
    fn udp(payload: usize) -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 0, 0, 7, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        packet.extend([0, 1, 0, 2, 0, 0, 1, 1]);
        packet.extend((0..payload).map(|n| n as u8));
        let len = packet.len() as u16;
        packet[2..4].copy_from_slice(&len.to_be_bytes());
        cut(&packet, payload.max(1)).unwrap().remove(0)
    }

    #[test]
    fn what_is_cut_is_intact() {
        use crate::host::memory::packet::{Packet, Payload};
        for (payload, lens) in [(99, vec![99]), (100, vec![100]), (201, vec![100, 100, 1])] {
            let parts = cut(&udp(payload), 100).unwrap();
            let data = parts.iter().map(|part| match Packet::parse(part).unwrap().payload {
                Payload::Datagram { data, .. } => data,
                other @ Payload::Echo { .. } => panic!("{other:?}"),
            });
            let data: Vec<Vec<u8>> = data.collect();
            assert!(data.iter().map(Vec::len).eq(lens), "{payload}");
            assert!(data.concat().into_iter().eq((0..payload).map(|n| n as u8)));
        }
        assert_eq!(cut(&[0x45; 20], 100), None);
        assert_eq!(cut(&udp(10), 0), None);
    }

    #[test]
    fn what_is_offloaded_can_be_completed() {
        let whole = udp(50);
        let mut given = whole.clone();
        offload(&mut given, true);
        assert_eq!((&given[2..4], &whole[2..4]), (&[0, 0][..], &[0, 78][..]));
        // The sum that is there, with the length and the rest, is the sum of all.
        let sum =
            checksum::fold(checksum::sum(&given[20..]) + checksum::sum(&58_u16.to_be_bytes()));
        let mut complete = whole.clone();
        complete[26..28].copy_from_slice(&(!sum).to_ne_bytes());
        assert_eq!(complete, whole);
    }

    #[test]
    fn capabilities_say_what_may_come() {
        let gso = Gso { layer3: 5, layer4: 4, offset_limit: 60, most: 1000, fewest: 2 };
        for (payload, mss, covered) in
            [(1000, 100, true), (1001, 100, false), (100, 100, false), (101, 100, true)]
        {
            assert_eq!(gso.covers(&udp(payload), mss), covered, "{payload} by {mss}");
        }
        assert!(!Gso { layer3: 4, ..gso }.covers(&udp(1000), 100), "IPv6 alone");
        assert!(!Gso { layer4: 3, ..gso }.covers(&udp(1000), 100), "TCP alone");
        assert!(!Gso { offset_limit: 19, ..gso }.covers(&udp(1000), 100));
    }
}
