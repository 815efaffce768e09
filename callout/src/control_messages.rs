//! Control messages (`WSACMSGHDR`): what a datagram says besides its bytes, read and written.
//!
//! A received datagram carries the local address and interface it came to and, where Windows knows
//! the option, its ECN bits; a sent one says which source and interface to take. The bytes of a
//! received list come from WSK and are well formed, yet nothing here depends on it: the walk ends at
//! the first header that does not fit. Any message may be missing, in any order, among unknown ones.
//!
//! A message is `{ length: usize, level: i32, kind: i32 }`, its data right behind, and the next
//! header at the next multiple of eight. `length` counts header and data but no padding.
//!
//! Pure; any IRQL. Source: `shared/ws2def.h`, `shared/ws2ipdef.h`, WDK 10.0.26100.

use core::net::IpAddr;

use crate::endpoint::Local;

/// Size of a header: a `SIZE_T` and two `INT`s.
const HEADER_LEN: usize = 16;
/// Where headers may begin (`WSA_CMSGHDR_ALIGN`).
const ALIGNMENT: usize = 8;
/// Room for everything [`write`] writes: IPv6 packet information, empty options, ECN or all of its byte; and behind it for
/// what [`write_segment`] does.
pub const DEPARTURE_LEN: usize = space(20) + space(0) + space(4) + space(4);

/// `IPPROTO_IP`: options of IPv4.
const IPPROTO_IP: i32 = 0;
/// `IPPROTO_IPV6`: options of IPv6.
const IPPROTO_IPV6: i32 = 41;
/// `IP_PKTINFO`, and `IPV6_PKTINFO`: address and interface.
const PKTINFO: i32 = 19;
/// `IP_ECN`, and `IPV6_ECN`: the two bits of congestion notification, as an `INT`.
const ECN: i32 = 50;
/// `IP_TOS`: the whole byte, as an `INT`.
const IP_TOS: i32 = 3;
/// `IPV6_TCLASS`: the same.
const IPV6_TCLASS: i32 = 39;
/// `IPPROTO_UDP`: options of UDP.
const IPPROTO_UDP: i32 = 17;
/// `UDP_SEND_MSG_SIZE`: bytes of each datagram that what is sent is to be cut into, as a `DWORD`.
const UDP_SEND_MSG_SIZE: i32 = 2;
/// `UDP_COALESCED_INFO`: bytes of each datagram of those that came as one, but for the last; a `DWORD`.
const UDP_COALESCED_INFO: i32 = 3;
/// `IP_OPTIONS`.
const IP_OPTIONS: i32 = 1;
/// `IPV6_RTHDR`.
const IPV6_RTHDR: i32 = 32;

/// What a message of `data` bytes occupies, with the padding up to the next (`WSA_CMSG_SPACE`).
const fn space(data: usize) -> usize {
    HEADER_LEN.saturating_add(data.next_multiple_of(ALIGNMENT))
}

const _: () = assert!(space(8) == 24, "IN_PKTINFO");
const _: () = assert!(space(20) == 40, "IN6_PKTINFO");
const _: () = assert!(DEPARTURE_LEN == 104);

/// One control message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ControlMessage<'c> {
    /// Whose option it is: `IPPROTO_IP`, `IPPROTO_IPV6`, `IPPROTO_UDP`.
    pub level: i32,
    /// The option.
    pub kind: i32,
    /// Its value, without padding.
    pub data: &'c [u8],
}

/// The control messages of a list, first to last.
#[derive(Clone, Debug)]
pub struct ControlMessages<'c> {
    rest: &'c [u8],
}

impl<'c> ControlMessages<'c> {
    /// Walks `list`, which begins with a header or is empty.
    #[must_use]
    pub const fn new(list: &'c [u8]) -> Self {
        Self { rest: list }
    }
}

impl<'c> Iterator for ControlMessages<'c> {
    type Item = ControlMessage<'c>;

    fn next(&mut self) -> Option<Self::Item> {
        // Taken first: after a header that does not fit there is nothing more to walk.
        let list = core::mem::take(&mut self.rest);
        let (length, rest) = list.split_first_chunk()?;
        let (level, rest) = rest.split_first_chunk()?;
        let (kind, _) = rest.split_first_chunk()?;
        let length = usize::from_ne_bytes(*length);
        let data = list.get(HEADER_LEN..length)?;
        // The last message may lack its padding; one that claims more than there is was refused.
        self.rest = list.get(length.next_multiple_of(ALIGNMENT)..).unwrap_or_default();
        Some(ControlMessage {
            level: i32::from_ne_bytes(*level),
            kind: i32::from_ne_bytes(*kind),
            data,
        })
    }
}

/// What a received datagram's control messages say that is of use here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Arrival {
    /// Where it came to (`IP_PKTINFO`, `IPV6_PKTINFO`).
    pub local: Option<Local>,
    /// Its ECN bits; 0 (not capable) when the system does not tell.
    pub ecn: u8,
    /// Bytes of each of the datagrams that came as one, but for the last (`UDP_COALESCED_INFO`).
    pub segment: Option<u32>,
}

impl Arrival {
    /// Reads a received list; of a message that comes twice the first counts.
    #[must_use]
    pub fn read(list: &[u8]) -> Self {
        let mut local = None;
        let mut ecn = None;
        let mut segment = None;
        for message in ControlMessages::new(list) {
            match (message.level, message.kind) {
                (IPPROTO_IP, PKTINFO) => local = local.or_else(|| pktinfo::<4>(message.data)),
                (IPPROTO_IPV6, PKTINFO) => local = local.or_else(|| pktinfo::<16>(message.data)),
                (IPPROTO_IP | IPPROTO_IPV6, ECN) => {
                    // An INT; only its low bits mean anything.
                    ecn = ecn.or_else(|| {
                        let value = message.data.first_chunk().copied().map(u32::from_ne_bytes)?;
                        Some(value.to_le_bytes()[0] & 3)
                    });
                }
                (IPPROTO_UDP, UDP_COALESCED_INFO) => {
                    let value = message.data.first_chunk().copied();
                    segment = segment.or(value.map(u32::from_ne_bytes));
                }
                _ => {}
            }
        }
        Self { local, ecn: ecn.unwrap_or(0), segment }
    }
}

/// Reads `{ address: [u8; N], interface: u32 }`.
fn pktinfo<const N: usize>(data: &[u8]) -> Option<Local>
where
    [u8; N]: Into<IpAddr>,
{
    let (address, rest) = data.split_first_chunk::<N>()?;
    let interface = u32::from_ne_bytes(*rest.first_chunk()?);
    Some(Local { address: (*address).into(), interface })
}

/// How a datagram is to leave.
#[derive(Clone, Copy, Debug)]
pub struct Departure {
    /// Source address; unspecified leaves it to the stack.
    pub source: IpAddr,
    /// Index of the interface; 0 leaves it to the stack.
    pub interface: u32,
    /// ECN bits; 0 writes no message, since systems without the option refuse it.
    pub ecn: u8,
    /// DSCP, as it lies in the byte with the ECN bits; 0 writes no message, either. One with both says both.
    pub dscp: u8,
}

/// Writes the messages that make a datagram leave as `departure` says; returns their bytes.
///
/// Packet information is followed by empty options, because recent builds of Windows drop packet
/// information that is alone (said by `WireGuardNT`'s authors of their own code).
#[must_use]
pub fn write(departure: &Departure, list: &mut [u8; DEPARTURE_LEN]) -> usize {
    let mut writer = Writer { rest: list, written: 0 };
    let interface = departure.interface.to_ne_bytes();
    let (level, whole_byte) = match departure.source {
        IpAddr::V4(source) => {
            writer.put(IPPROTO_IP, PKTINFO, &[&source.octets(), &interface]);
            writer.put(IPPROTO_IP, IP_OPTIONS, &[]);
            (IPPROTO_IP, IP_TOS)
        }
        IpAddr::V6(source) => {
            writer.put(IPPROTO_IPV6, PKTINFO, &[&source.octets(), &interface]);
            writer.put(IPPROTO_IPV6, IPV6_RTHDR, &[]);
            (IPPROTO_IPV6, IPV6_TCLASS)
        }
    };
    let (ecn, dscp) = (departure.ecn & 3, departure.dscp & !3);
    let value = u32::from(dscp | ecn).to_ne_bytes();
    if dscp != 0 {
        writer.put(level, whole_byte, &[&value]);
    } else if ecn != 0 {
        writer.put(level, ECN, &[&value]);
    }
    writer.written
}

/// Of the messages that [`write`] wrote, the bytes before the one with a DSCP; all of them if there is none.
#[must_use]
pub fn without_dscp(list: &[u8]) -> usize {
    let before = list.len().saturating_sub(space(size_of::<u32>()));
    let kinds = list.get(before..).and_then(|message| message.get(HEADER_LEN - 8..HEADER_LEN));
    let is_dscp =
        [(IPPROTO_IP, IP_TOS), (IPPROTO_IPV6, IPV6_TCLASS)].iter().any(|(level, kind)| {
            kinds.is_some_and(|kinds| {
                kinds.iter().copied().eq(level.to_ne_bytes().into_iter().chain(kind.to_ne_bytes()))
            })
        });
    if is_dscp { before } else { list.len() }
}

/// Writes the message that has what is sent cut into datagrams of `bytes` bytes; returns its own.
#[must_use]
pub fn write_segment(bytes: u32, list: &mut [u8]) -> usize {
    let mut writer = Writer { rest: list, written: 0 };
    writer.put(IPPROTO_UDP, UDP_SEND_MSG_SIZE, &[&bytes.to_ne_bytes()]);
    writer.written
}

/// Puts messages one behind the other, padding zeroed.
struct Writer<'l> {
    rest: &'l mut [u8],
    written: usize,
}

impl Writer<'_> {
    /// Writes one message whose data is `parts` joined. What does not fit is left out whole.
    fn put(&mut self, level: i32, kind: i32, parts: &[&[u8]]) {
        let data = parts.iter().fold(0_usize, |sum, part| sum.saturating_add(part.len()));
        let rest = core::mem::take(&mut self.rest);
        let Some((message, rest)) = rest.split_at_mut_checked(space(data)) else {
            return;
        };
        let length = HEADER_LEN.saturating_add(data).to_ne_bytes();
        let header = length.into_iter().chain(level.to_ne_bytes()).chain(kind.to_ne_bytes());
        let data = parts.iter().copied().flatten().copied();
        let bytes = header.chain(data).chain(core::iter::repeat(0));
        message.iter_mut().zip(bytes).for_each(|(place, byte)| *place = byte);
        self.written = self.written.saturating_add(message.len());
        self.rest = rest;
    }
}

#[cfg(test)]
mod tests;
