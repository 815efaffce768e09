//! What is shown of an interface: as `wg show` does, to the byte where scripts read it, as JSON, and
//! as Prometheus has numbers.

use std::time::{SystemTime, UNIX_EPOCH};

use abi::ioctl::{Peer, Set, UNIX_EPOCH_FILETIME};
use abi::statistics::{Kind, OF_CPU, Part, QueueCounter, Statistics};
use zeroize::Zeroizing;

pub mod fields;
pub mod json;
pub mod person;
pub mod prometheus;
pub mod style;

/// An interface as it was read.
#[derive(Clone, Copy)]
pub struct Shown<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its configuration, and what its peers did.
    pub set: Set<'a>,
    /// What it counted, if that is to be shown.
    pub statistics: Option<Statistics<'a>>,
}

impl Shown<'_> {
    /// A text with room for whatever is shown, so that no copy of a key is left behind when it grows.
    #[must_use]
    pub fn room(&self) -> Zeroizing<String> {
        let statistics = self.statistics.as_ref();
        let statistics = statistics.map_or(0, |all| (32 << 10) + 512 * all.parts().count());
        Zeroizing::new(String::with_capacity(
            1024 + self.name.len() + 6 * self.set.len_bytes() + statistics,
        ))
    }
}

/// Seconds of 1970 at which a peer's last handshake was complete; 0 is never.
#[must_use]
pub fn handshake_s(peer: &Peer<'_>) -> u64 {
    peer.last_handshake_filetime().saturating_sub(UNIX_EPOCH_FILETIME) / 10_000_000
}

/// Seconds of 1970 now.
#[must_use]
pub fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Of what a part is, and what it counted; `None` of a kind that a newer driver has.
fn of_part(part: &Part<'_>) -> Option<(String, Vec<(&'static str, u64)>)> {
    let number = part.number;
    if part.is(Kind::Cpu) {
        let values = OF_CPU.iter().map(|counter| (counter.name(), part.of_cpu(*counter)));
        return Some((format!("CPU {number}"), values.collect()));
    }
    let queue = if part.is(Kind::ReceiveQueue) {
        "receive queue"
    } else if part.is(Kind::TransmitQueue) {
        "transmit queue"
    } else {
        return None;
    };
    let values = QueueCounter::ALL.iter();
    let values = values.map(|counter| (counter.name(), part.of_queue(*counter)));
    Some((format!("{queue} {number}"), values.collect()))
}
