//! The answer of `get=1`: the interface, then each peer.

use std::fmt::Write as _;

use abi::ioctl::{Peer, Set, UNIX_EPOCH_FILETIME};
use zeroize::Zeroizing;

use super::Rights;

/// Units of a FILETIME in a second, and nanoseconds in one.
pub(super) const UNITS_A_SECOND: u64 = 10_000_000;
pub(super) const NANOSECONDS_A_UNIT: u64 = 100;

/// The lines, with room for all of them: no copy of a key is left behind when the text grows.
pub(super) fn text(set: &Set<'_>, rights: Rights) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(1024 + 6 * set.len_bytes()));
    let secrets = rights == Rights::All;
    if let Some(key) = set.private_key().filter(|_| secrets) {
        hex(&mut text, "private_key", key);
    }
    // A push to a String cannot fail.
    let _ = writeln!(text, "listen_port={}", set.listen_port().unwrap_or(0));
    for peer in set.peers() {
        of_peer(&mut text, &peer, secrets);
    }
    text
}

fn of_peer(text: &mut String, peer: &Peer<'_>, secrets: bool) {
    hex(text, "public_key", peer.public_key());
    hex(text, "preshared_key", peer.preshared_key().filter(|_| secrets).unwrap_or(&[0; 32]));
    let mut line = |key: &str, value: &dyn std::fmt::Display| {
        // As above.
        let _ = writeln!(text, "{key}={value}");
    };
    line("protocol_version", &1);
    if let Some(endpoint) = peer.endpoint() {
        line("endpoint", &endpoint);
    }
    let since_1970 = peer.last_handshake_filetime().saturating_sub(UNIX_EPOCH_FILETIME);
    line("last_handshake_time_sec", &(since_1970 / UNITS_A_SECOND));
    line("last_handshake_time_nsec", &(since_1970 % UNITS_A_SECOND * NANOSECONDS_A_UNIT));
    line("tx_bytes", &peer.tx_bytes());
    line("rx_bytes", &peer.rx_bytes());
    line("persistent_keepalive_interval", &peer.persistent_keepalive_s().unwrap_or(0));
    for ip in peer.allowed_ips() {
        line("allowed_ip", &format_args!("{}/{}", ip.address, ip.cidr));
    }
}

/// A key as hex digits, in a time that does not depend on them.
fn hex(text: &mut String, name: &str, key: &[u8; 32]) {
    text.push_str(name);
    text.push('=');
    for byte in key {
        for nibble in [byte >> 4, byte & 15] {
            // 'a' is 39 behind the digit that ten would be.
            let letter = ((9_i8 - nibble.cast_signed()) >> 7).cast_unsigned() & 39;
            text.push(char::from(b'0' + nibble + letter));
        }
    }
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_hex() {
        let mut key = [0; 32];
        for (at, byte) in key.iter_mut().enumerate() {
            *byte = (at * 8 + at / 4) as u8;
        }
        let mut text = String::new();
        hex(&mut text, "k", &key);
        let expected: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(text, format!("k={expected}\n"));
    }
}
