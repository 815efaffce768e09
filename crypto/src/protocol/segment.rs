//! Super-packets: one packet of the stack's that is to leave as several, each of at most so many
//! bytes of payload.
//!
//! The stack gives headers, payload and a maximum segment size; [`SuperPacket::parse`] looks at the
//! headers once, and [`SuperPacket::segment`] makes those of each segment. Their transport checksum
//! needs the payload ([`Segment::finish`]), and is computed over all there is: what the stack left in
//! its field, a sum over part of the pseudo-header, is not used. Pure functions over bytes that may be
//! anything; any level.
//!
//! What the stack promises is in "Offloading the segmentation of large TCP packets" and "UDP
//! segmentation offload (USO)" of the driver documentation. Of that the headers are held to: no
//! fragments; no SYN, RST or URG; a length in the IP header that is the packet's, or 0.

use core::ops::Range;

use abi::discard::Discard;

use super::{
    checksum::Sum,
    ip::{
        IPV4_HEADER_LEN, IPV6_HEADER_LEN, TCP, TCP_HEADER_LEN, UDP, UDP_HEADER_LEN, flag,
        is_fragment,
    },
    receive::InnerPacket,
    send::{Outgoing, encapsulated},
};

/// The longest headers: IP with options and TCP with options.
pub const MOST_HEADER_BYTES: usize = 60 + 60;
/// The most segments of a packet: a longer list is nothing a stack would send, and too much work at
/// once.
pub const MOST_SEGMENTS: usize = 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Network {
    Ipv4,
    Ipv6,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Transport {
    Tcp,
    /// With a checksum, or without one: then its field is 0.
    Udp {
        checksum: bool,
    },
}

/// Headers of a packet or segment, and where the transport's begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Headers {
    bytes: [u8; MOST_HEADER_BYTES],
    len: usize,
    transport_at: usize,
    network: Network,
    transport: Transport,
}

/// A packet to be cut, as its headers describe it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SuperPacket {
    headers: Headers,
    /// Bytes of all payload.
    payload: usize,
    /// Bytes of payload of each segment but the last.
    mss: usize,
    outgoing: Outgoing,
}

/// One of the packets a super-packet is cut into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    headers: Headers,
    /// Where its payload begins in the super-packet, and how long it is.
    payload_at: usize,
    payload: usize,
}

impl SuperPacket {
    /// Looks at the headers of a packet of `len` bytes that begins with `head`, to be cut into
    /// segments of `mss` bytes of payload.
    ///
    /// `head` holds at least all headers ([`MOST_HEADER_BYTES`] suffice); longer is fine. `mtu` is
    /// what no segment may be longer than; 0 is not known. Those of TCP are then shorter than `mss`.
    ///
    /// # Errors
    ///
    /// [`Discard::Unsegmentable`] for anything that cannot be cut: another protocol, fragments, IPv6
    /// extension headers, lengths that are wrong, too many segments; [`Discard::Oversize`] if the
    /// segments would be too long.
    pub fn parse(head: &[u8], len: usize, mss: usize, mtu: usize) -> Result<Self, Discard> {
        let head = head.get(..head.len().min(len)).unwrap_or_default();
        let (network, transport_at, protocol) = network(head, len).ok_or(Discard::Unsegmentable)?;
        let above = head.get(transport_at..).unwrap_or_default();
        let (transport, transport_len) =
            transport(protocol, above).ok_or(Discard::Unsegmentable)?;
        let headers_len = transport_at.saturating_add(transport_len);
        let found = head.get(..headers_len).ok_or(Discard::Unsegmentable)?;
        let mut bytes = [0; MOST_HEADER_BYTES];
        bytes.get_mut(..headers_len).ok_or(Discard::Unsegmentable)?.copy_from_slice(found);
        let payload = len.saturating_sub(headers_len);
        if payload.checked_div(mss).ok_or(Discard::Unsegmentable)? >= MOST_SEGMENTS {
            return Err(Discard::Unsegmentable);
        }
        let InnerPacket { destination, traffic_class, .. } =
            InnerPacket::header(found).ok_or(Discard::Unsegmentable)?;
        let outgoing = Outgoing { destination, outer_tos: encapsulated(traffic_class) };
        let headers = Headers { bytes, len: headers_len, transport_at, network, transport };
        let mut whole = Self { headers, payload, mss, outgoing };
        let most = if mtu == 0 { usize::from(u16::MAX) } else { mtu.min(u16::MAX.into()) };
        if whole.fit(most) { Ok(whole) } else { Err(Discard::Oversize) }
    }

    /// Has no segment be longer than `most` bytes; returns whether that could be.
    ///
    /// Of TCP there are then more and shorter ones, which is the same to whoever gets them. Datagrams of UDP
    /// stay as long as they were meant.
    #[must_use]
    pub fn fit(&mut self, most: usize) -> bool {
        let Self { headers, payload, mss, .. } = self;
        if headers.len.saturating_add((*mss).min(*payload)) <= most {
            return true;
        }
        let shorter = most.saturating_sub(headers.len);
        let cut = headers.transport == Transport::Tcp
            && payload.checked_div(shorter).is_some_and(|segments| segments < MOST_SEGMENTS);
        if cut {
            *mss = shorter;
        }
        cut
    }

    /// Where to, and with which congestion mark; the same for all segments.
    #[must_use]
    pub const fn outgoing(&self) -> Outgoing {
        self.outgoing
    }

    /// How many segments there are; at least 1, for a packet without payload is one.
    #[must_use]
    pub fn segments(&self) -> usize {
        self.payload.div_ceil(self.mss.max(1)).max(1)
    }

    /// Segment `number`, counted from 0; `None` past the last.
    #[must_use]
    pub fn segment(&self, number: usize) -> Option<Segment> {
        let last = self.segments().checked_sub(1)?;
        if number > last {
            return None;
        }
        let before = number.checked_mul(self.mss)?;
        let payload = self.payload.checked_sub(before)?.min(self.mss);
        let mut headers = self.headers;
        headers.set_network(number, payload);
        headers.set_transport(before, payload, (number == 0, number == last));
        Some(Segment { headers, payload_at: self.headers.len.saturating_add(before), payload })
    }
}

impl Segment {
    /// Bytes of the whole packet.
    #[must_use]
    pub fn byte_count(&self) -> usize {
        self.headers.len.saturating_add(self.payload)
    }

    /// Which bytes of the super-packet are its payload.
    #[must_use]
    pub fn payload(&self) -> Range<usize> {
        self.payload_at..self.payload_at.saturating_add(self.payload)
    }

    /// Its headers, which are right once it has been finished.
    #[must_use]
    pub fn headers(&self) -> &[u8] {
        self.headers.bytes.get(..self.headers.len).unwrap_or_default()
    }

    /// Writes the transport checksum, `payload` being the sum of the payload's bytes.
    pub fn finish(&mut self, payload: Sum) {
        self.headers.set_checksum(payload, self.payload);
    }

    /// Finishes it, and writes all of it to `to`, which has as many bytes as it; `payload` writes those
    /// of the super-packet from a place on, and says how many. Returns how many were written.
    pub fn write(
        mut self,
        to: &mut [u8],
        payload: impl FnOnce(usize, &mut [u8]) -> usize,
    ) -> usize {
        let Some((front, back)) = to.split_at_mut_checked(self.headers.len) else { return 0 };
        let copied = payload(self.payload_at, back);
        self.finish(Sum::default().and(back));
        let headers = self.headers();
        if front.len() == headers.len() {
            front.copy_from_slice(headers);
        }
        front.len().saturating_add(copied)
    }
}

impl Headers {
    /// Bytes of the transport's header and payload.
    fn transport_bytes(&self, payload: usize) -> usize {
        self.len.saturating_sub(self.transport_at).saturating_add(payload)
    }

    /// What differs in the IP header of segment `number`.
    fn set_network(&mut self, number: usize, payload: usize) {
        match self.network {
            Network::Ipv4 => {
                let total = self.len.saturating_add(payload) as u16;
                self.write(2, total.to_be_bytes());
                let id = identification(self.read(4), number, self.transport);
                self.write(4, id.to_be_bytes());
                self.write(10, [0, 0]);
                let header = self.bytes.get(..self.transport_at).unwrap_or_default();
                let checksum = Sum::default().and(header).checksum();
                self.write(10, checksum);
            }
            Network::Ipv6 => {
                let after = self.len.saturating_sub(IPV6_HEADER_LEN).saturating_add(payload) as u16;
                self.write(4, after.to_be_bytes());
            }
        }
    }

    /// What differs in the transport header of a segment with `before` bytes of payload before it.
    fn set_transport(&mut self, before: usize, payload: usize, (first, last): (bool, bool)) {
        let at = self.transport_at;
        match self.transport {
            Transport::Udp { .. } => {
                let length = self.transport_bytes(payload) as u16;
                self.write(at.saturating_add(4), length.to_be_bytes());
            }
            Transport::Tcp => {
                let sequence_at = at.saturating_add(4);
                let sequence = u32::from_be_bytes(self.read_4(sequence_at));
                self.write(sequence_at, sequence.wrapping_add(before as u32).to_be_bytes());
                if let Some(flags) = self.bytes.get_mut(at.saturating_add(13)) {
                    if !last {
                        *flags &= !(flag::FIN | flag::PSH);
                    }
                    if !first {
                        *flags &= !flag::CWR;
                    }
                }
            }
        }
    }

    /// Writes the transport checksum.
    // spec: WG 13-g — what is cut here is complete when it is sealed.
    fn set_checksum(&mut self, payload_sum: Sum, payload: usize) {
        let (offset, protocol) = match self.transport {
            Transport::Tcp => (16, TCP),
            Transport::Udp { checksum: true } => (6, UDP),
            Transport::Udp { checksum: false } => return,
        };
        let at = self.transport_at.saturating_add(offset);
        self.write(at, [0, 0]);
        let addresses = match self.network {
            Network::Ipv4 => 12..IPV4_HEADER_LEN,
            Network::Ipv6 => 8..IPV6_HEADER_LEN,
        };
        let addresses = self.bytes.get(addresses).unwrap_or_default();
        let sum = Sum::of_pseudo_header(addresses, protocol, self.transport_bytes(payload))
            .and(self.bytes.get(self.transport_at..self.len).unwrap_or_default())
            .and_sum(payload_sum);
        let checksum = match (sum.checksum(), self.transport) {
            // 0 says that there is none. [RFC 768]
            ([0, 0], Transport::Udp { .. }) => [0xFF, 0xFF],
            (checksum, _) => checksum,
        };
        self.write(at, checksum);
    }

    fn read(&self, at: usize) -> u16 {
        let bytes = self.bytes.get(at..).and_then(<[u8]>::first_chunk);
        bytes.copied().map_or(0, u16::from_be_bytes)
    }

    fn read_4(&self, at: usize) -> [u8; 4] {
        self.bytes.get(at..).and_then(<[u8]>::first_chunk).copied().unwrap_or_default()
    }

    fn write<const N: usize>(&mut self, at: usize, value: [u8; N]) {
        if let Some(place) = self.bytes.get_mut(at..).and_then(<[u8]>::first_chunk_mut) {
            *place = value;
        }
    }
}

/// The network layer, where the transport's header begins, and its protocol; `None` if the header is
/// not one of a packet of `len` bytes that can be cut.
fn network(head: &[u8], len: usize) -> Option<(Network, usize, u8)> {
    let is_whole = |said: usize, whole: usize| said == 0 || said == whole;
    match head.first()? >> 4 {
        4 => {
            let [first, _, l0, l1, _, _, f0, f1, _, protocol, ..] =
                *head.first_chunk::<IPV4_HEADER_LEN>()?;
            let header = usize::from(first & 0x0F).saturating_mul(4);
            let total = u16::from_be_bytes([l0, l1]).into();
            (header >= IPV4_HEADER_LEN && !is_fragment([f0, f1]) && is_whole(total, len))
                .then_some((Network::Ipv4, header, protocol))
        }
        6 => {
            let [_, _, _, _, l0, l1, next, ..] = *head.first_chunk::<IPV6_HEADER_LEN>()?;
            let after = u16::from_be_bytes([l0, l1]).into();
            is_whole(after, len.saturating_sub(IPV6_HEADER_LEN)).then_some((
                Network::Ipv6,
                IPV6_HEADER_LEN,
                next,
            ))
        }
        _ => None,
    }
}

/// The transport of a packet with `above` behind its IP header, and how long its header is.
fn transport(protocol: u8, above: &[u8]) -> Option<(Transport, usize)> {
    match protocol {
        TCP => {
            let header = above.first_chunk::<TCP_HEADER_LEN>()?;
            let len = usize::from(header[12] >> 4).saturating_mul(4);
            let lone = header[13] & (flag::SYN | flag::RST | flag::URG);
            (len >= TCP_HEADER_LEN && lone == 0).then_some((Transport::Tcp, len))
        }
        UDP => {
            let header = above.first_chunk::<UDP_HEADER_LEN>()?;
            let checksum = header[6..] != [0, 0];
            Some((Transport::Udp { checksum }, UDP_HEADER_LEN))
        }
        _ => None,
    }
}

/// The IPv4 identification of segment `number`: one more each. Of TCP's the upper half is left to
/// others, so what begins in the lower stays in it.
fn identification(first: u16, number: usize, transport: Transport) -> u16 {
    let id = first.wrapping_add(number as u16);
    match transport {
        Transport::Tcp => first & 0x8000 | id & 0x7FFF,
        Transport::Udp { .. } => id,
    }
}

#[cfg(test)]
mod tests;
