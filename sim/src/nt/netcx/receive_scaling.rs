//! Receive scaling (RSS): what the stack programs, and which queue it expects a packet from.
//!
//! Source: `facts/netcx-os.md` §7 (`translator/rxscaling.cpp`, read in Microsoft's source): key, then what is hashed, then the
//! table; "RSS hashing functions" of the driver documentation for the hash. This file knows nothing of the driver's.

use super::packet_layout::{self, TCP, UDP, is_ipv4};
use crate::nt::wdf::driver_memory::Address;
use crate::verifier::rules::{self, Rule};

/// `sizeof(NET_ADAPTER_RECEIVE_SCALING_CAPABILITIES)`.
pub(crate) const CAPABILITIES_SIZE: u32 = 88;
/// Bytes of the key.
pub(crate) const KEY: usize = 40;
/// IPv4, IPv6, TCP and UDP: `NET_ADAPTER_RECEIVE_SCALING_PROTOCOL_TYPE`.
const PROTOCOLS: u32 = 1 | 4 | 16 | 32;

/// What a driver declares.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scaling {
    pub(crate) queues: usize,
    pub(crate) entries: usize,
    protocols: u32,
    /// Enable, Disable, SetHashSecretKey, SetIndirectionEntries.
    pub(crate) callbacks: [u64; 4],
}

impl Scaling {
    /// Reads it.
    ///
    /// # Errors
    ///
    /// NetAdapterCx's failure code.
    pub(crate) fn read(at: Address) -> Result<Self, (&'static Rule, String)> {
        let [queues, entries] = at.words(8);
        let (hash, protocols): (u32, u32) = (at.read(36), at.read(40));
        let callbacks: [u64; 4] = at.words(56);
        if !queues.is_power_of_two() || !entries.is_power_of_two() || entries < 128 {
            return Err((&rules::NOT_POWER_OF_TWO, format!("{queues} queues, {entries} entries")));
        }
        if hash != 1 || callbacks.contains(&0) {
            return Err((
                &rules::PARAMETER_CANT_BE_NULL,
                format!("hash {hash}, callbacks {callbacks:x?}"),
            ));
        }
        let (queues, entries) = (queues as usize, entries as usize);
        Ok(Self { queues, entries, protocols, callbacks })
    }

    /// What it is asked to hash.
    pub(crate) fn protocols(&self) -> u32 {
        self.protocols & PROTOCOLS
    }
}

/// What the stack has programmed.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    pub(crate) key: [u8; KEY],
    /// Numbers of queues.
    pub(crate) table: Vec<usize>,
}

impl Program {
    /// The number of the queue that `packet` is to come by.
    pub(crate) fn queue_of(&self, packet: &[u8]) -> usize {
        let hash = input(packet).map_or(0, |input| toeplitz(&self.key, &input));
        self.table[hash as usize % self.table.len()]
    }
}

/// What of a packet is hashed.
fn input(packet: &[u8]) -> Option<Vec<u8>> {
    let layout = packet_layout::parse(packet);
    let (addresses, ip) = match packet.first()? >> 4 {
        4 => (packet.get(12..20)?, is_ipv4(layout.layer3_type)),
        6 => (packet.get(8..40)?, true),
        _ => return None,
    };
    let mut input = addresses.to_vec();
    if ip && matches!(layout.layer4_type, TCP | UDP) {
        let at = usize::from(layout.layer3_length);
        input.extend(packet.get(at..at + 4)?);
    }
    Some(input)
}

/// Bit by bit, as it is defined.
fn toeplitz(key: &[u8; KEY], input: &[u8]) -> u32 {
    let bit = |bytes: &[u8], at: usize| bytes[at / 8] >> (7 - at % 8) & 1;
    let window = |at: usize| (0..32).fold(0, |word, n| word << 1 | u32::from(bit(key, at + n)));
    (0..input.len() * 8).filter(|at| bit(input, *at) != 0).fold(0, |hash, at| hash ^ window(at))
}
