//! Which receive queue a packet goes to: by the hash of its flow and the table that the stack gave.
//!
//! The stack programs a secret key, which packets are hashed by what, and for each of 128 values of the
//! hash a queue; it may change any of these at any time. Until it has, and for whatever it does not want
//! hashed, it is the queue of the table's first entry. All atomics are relaxed: a packet that is on its
//! way while something changes may go by the old value or the new one.
//!
//! Source: <https://learn.microsoft.com/windows-hardware/drivers/network/rss-hashing-functions>

use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

use nt::netcx::{HASH_KEY_BYTES, Hashed, INDIRECTION_ENTRIES};

/// Bytes of the longest flow: two IPv6 addresses and two ports.
const FLOW_BYTES: usize = 36;
const IPV4_HEADER_LEN: usize = 20;
const IPV6_HEADER_LEN: usize = 40;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// What the stack has programmed.
pub(crate) struct Steering {
    enabled: AtomicBool,
    ipv4: AtomicBool,
    ipv6: AtomicBool,
    tcp: AtomicBool,
    udp: AtomicBool,
    key: [AtomicU64; HASH_KEY_BYTES / 8],
    table: [AtomicU8; INDIRECTION_ENTRIES],
}

/// What of a packet is hashed, padded with zeros, which add nothing to a hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Flow([u8; FLOW_BYTES]);

/// The last flow that was looked up, and its queue: packets of one flow come together.
#[derive(Clone, Copy, Debug, Default)]
pub struct LastFlow(Option<(Flow, u8)>);

impl Steering {
    /// Nothing is hashed, and everything goes to queue 0.
    pub(crate) fn new() -> Self {
        let no = || AtomicBool::new(false);
        Self {
            enabled: no(),
            ipv4: no(),
            ipv6: no(),
            tcp: no(),
            udp: no(),
            key: [const { AtomicU64::new(0) }; HASH_KEY_BYTES / 8],
            table: [const { AtomicU8::new(0) }; INDIRECTION_ENTRIES],
        }
    }

    /// Has packets hashed by that.
    pub(crate) fn enable(&self, hashed: Hashed) {
        self.ipv4.store(hashed.ipv4, Ordering::Relaxed);
        self.ipv6.store(hashed.ipv6, Ordering::Relaxed);
        self.tcp.store(hashed.tcp, Ordering::Relaxed);
        self.udp.store(hashed.udp, Ordering::Relaxed);
        self.enabled.store(true, Ordering::Relaxed);
    }

    /// Has none hashed.
    pub(crate) fn disable(&self) {
        self.enabled.store(false, Ordering::Relaxed);
    }

    /// Changes the key.
    pub(crate) fn set_key(&self, key: &[u8; HASH_KEY_BYTES]) {
        for (word, bytes) in self.key.iter().zip(key.as_chunks().0) {
            word.store(u64::from_be_bytes(*bytes), Ordering::Relaxed);
        }
    }

    /// Changes an entry of the table; false if there is none of that index.
    pub(crate) fn set_entry(&self, index: usize, queue: u8) -> bool {
        let entry = self.table.get(index);
        entry.is_some_and(|entry| {
            entry.store(queue, Ordering::Relaxed);
            true
        })
    }

    /// The number of the queue that `packet` goes to.
    pub(crate) fn queue_of(&self, packet: &[u8], last: &mut LastFlow) -> u8 {
        let flow = if self.enabled.load(Ordering::Relaxed) { self.flow(packet) } else { None };
        let Some(flow) = flow else { return self.entry(0) };
        if let Some((_, queue)) = last.0.filter(|(known, _)| *known == flow) {
            return queue;
        }
        let queue = self.entry(toeplitz(&self.key(), &flow.0) as usize % INDIRECTION_ENTRIES);
        last.0 = Some((flow, queue));
        queue
    }

    fn entry(&self, index: usize) -> u8 {
        self.table.get(index).map_or(0, |entry| entry.load(Ordering::Relaxed))
    }

    fn key(&self) -> [u64; HASH_KEY_BYTES / 8] {
        self.key.each_ref().map(|word| word.load(Ordering::Relaxed))
    }

    /// What of it is hashed; `None` if nothing is.
    fn flow(&self, packet: &[u8]) -> Option<Flow> {
        let (addresses, protocol, above) = match packet.first()? >> 4 {
            4 if self.ipv4.load(Ordering::Relaxed) => {
                let header = packet.first_chunk::<IPV4_HEADER_LEN>()?;
                let whole = u16::from_be_bytes([header[6], header[7]]) & 0x3FFF == 0;
                let above = packet.get(usize::from(header[0] & 0x0F) * 4..)?;
                (packet.get(12..20)?, Some(header[9]).filter(|_| whole), above)
            }
            6 if self.ipv6.load(Ordering::Relaxed) => {
                let (header, above) = packet.split_at_checked(IPV6_HEADER_LEN)?;
                (header.get(8..)?, header.get(6).copied(), above)
            }
            _ => return None,
        };
        let mut flow = [0; FLOW_BYTES];
        flow.get_mut(..addresses.len())?.copy_from_slice(addresses);
        let by_ports = match protocol {
            Some(TCP) => self.tcp.load(Ordering::Relaxed),
            Some(UDP) => self.udp.load(Ordering::Relaxed),
            _ => false,
        };
        if let Some(ports) = above.first_chunk::<4>().filter(|_| by_ports) {
            flow.get_mut(addresses.len()..)?.first_chunk_mut::<4>()?.copy_from_slice(ports);
        }
        Some(Flow(flow))
    }
}

/// The Toeplitz hash: of each bit of `input` that is set, the 32 bits of the key from there on.
fn toeplitz(key: &[u64; HASH_KEY_BYTES / 8], input: &[u8; FLOW_BYTES]) -> u32 {
    let byte_of = |at: usize| key.get(at / 8).map_or(0, |word| word.to_be_bytes()[at % 8]);
    let (mut hash, mut window) = (0, key[0]);
    for (at, byte) in input.iter().enumerate() {
        for bit in 0..8 {
            if byte & (0x80 >> bit) != 0 {
                hash ^= (window << bit >> 32) as u32;
            }
        }
        window = window << 8 | u64::from(byte_of(at + 8));
    }
    hash
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;

    /// The key of the published examples.
    const KEY: [u8; HASH_KEY_BYTES] = [
        0x6D, 0x5A, 0x56, 0xDA, 0x25, 0x5B, 0x0E, 0xC2, 0x41, 0x67, 0x25, 0x3D, 0x43, 0xA3, 0x8F,
        0xB0, 0xD0, 0xCA, 0x2B, 0xCB, 0xAE, 0x7B, 0x30, 0xB4, 0x77, 0xCB, 0x2D, 0xA3, 0x80, 0x30,
        0xF2, 0x0C, 0x6A, 0x42, 0xB7, 0x3B, 0xBE, 0xAC, 0x01, 0xFA,
    ];
    const ALL: Hashed = Hashed { ipv4: true, ipv6: true, tcp: true, udp: true };

    fn steering(hashed: Hashed) -> Steering {
        let steering = Steering::new();
        steering.set_key(&KEY);
        steering.enable(hashed);
        steering
    }

    fn v4(protocol: u8, from: ([u8; 4], u16), to: ([u8; 4], u16)) -> Vec<u8> {
        let mut packet = std::vec![0x45, 0, 0, 28, 0, 0, 0, 0, 64, protocol, 0, 0];
        packet.extend([from.0, to.0].concat());
        packet.extend([from.1.to_be_bytes(), to.1.to_be_bytes(), [0; 2], [0; 2]].concat());
        packet
    }

    fn hash(steering: &Steering, packet: &[u8]) -> u32 {
        toeplitz(&steering.key(), &steering.flow(packet).unwrap().0)
    }

    /// "Verifying the RSS hash calculation" of the driver documentation.
    #[test]
    fn the_published_hashes() {
        let rows = [
            (([66, 9, 149, 187], 2794), ([161, 142, 100, 80], 1766), 0x323E_8FC2, 0x51CC_C178),
            (([199, 92, 111, 2], 14_230), ([65, 69, 140, 83], 4739), 0xD718_262A, 0xC626_B0EA),
            (([24, 19, 198, 95], 12_898), ([12, 22, 207, 184], 38_024), 0xD2D0_A5DE, 0x5C2B_394A),
        ];
        for (from, to, addresses, ports) in rows {
            for protocol in [TCP, UDP] {
                let packet = v4(protocol, from, to);
                assert_eq!(hash(&steering(ALL), &packet), ports);
                let without = Hashed { tcp: false, udp: false, ..ALL };
                assert_eq!(hash(&steering(without), &packet), addresses);
                let other = Hashed { tcp: protocol == UDP, udp: protocol == TCP, ..ALL };
                assert_eq!(hash(&steering(other), &packet), addresses);
                // A fragment is hashed by its addresses, whatever part it is.
                let mut part = packet;
                part[6] = 0x20;
                assert_eq!(hash(&steering(ALL), &part), addresses);
            }
        }
        let mut packet = std::vec![0x60, 0, 0, 0, 0, 8, TCP, 64];
        packet.extend([0x3F, 0xFE, 0x25, 0x01, 0x02, 0x00, 0x1F, 0xFF, 0, 0, 0, 0, 0, 0, 0, 7]);
        packet.extend([0x3F, 0xFE, 0x25, 0x01, 0x02, 0x00, 0x00, 0x03, 0, 0, 0, 0, 0, 0, 0, 1]);
        packet.extend([2794_u16.to_be_bytes(), 1766_u16.to_be_bytes(), [0; 2], [0; 2]].concat());
        assert_eq!(hash(&steering(ALL), &packet), 0x4020_7D3D);
        assert_eq!(hash(&steering(Hashed { tcp: false, ..ALL }), &packet), 0x2CC1_8CD5);
    }

    #[test]
    fn a_packet_goes_where_the_table_says() {
        let (packet, last) = (v4(TCP, ([1; 4], 1), ([2; 4], 2)), &mut LastFlow::default());
        let steering = steering(ALL);
        assert!(!steering.set_entry(INDIRECTION_ENTRIES, 1));
        for index in 0..INDIRECTION_ENTRIES {
            assert!(steering.set_entry(index, index as u8));
        }
        for port in 0..64 {
            let packet = v4(TCP, ([1; 4], port), ([2; 4], 2));
            let expected = hash(&steering, &packet) as u8 % INDIRECTION_ENTRIES as u8;
            assert_eq!(steering.queue_of(&packet, last), expected);
            assert_eq!(steering.queue_of(&packet, last), expected, "and again");
        }
        // What is not hashed goes with the first entry.
        steering.set_entry(0, 9);
        for strange in [&[][..], &[0x45; 19], &[0x4F; 40], &[0x60; 39], &[0x10; 60]] {
            assert_eq!(steering.queue_of(strange, last), 9, "{strange:?}");
        }
        steering.disable();
        assert_eq!(steering.queue_of(&packet, last), 9);
    }
}
