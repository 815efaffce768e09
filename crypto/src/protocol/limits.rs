//! Every number of the protocol, once, with the section that gives it.
//!
//! Where the paper and the implementations differ, both are written down and the choice is
//! explained. What must hold between two numbers is asserted at compile time.

use core::time::Duration;

/// The Noise construction's name. [WG §5.4]
pub const CONSTRUCTION: &[u8; 37] = b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s";
/// The prologue. [WG §5.4]
pub const IDENTIFIER: &[u8; 34] = b"WireGuard v1 zx2c4 Jason@zx2c4.com";
/// Label of the mac1 keys. [WG §5.4]
pub const LABEL_MAC1: &[u8; 8] = b"mac1----";
/// Label of the cookie keys. [WG §5.4]
pub const LABEL_COOKIE: &[u8; 8] = b"cookie--";

/// A new handshake is wanted after this many messages under one key. [WG §6.1]
pub const REKEY_AFTER_MESSAGES: u64 = 1 << 60;
/// Counters at or past this are neither sent nor accepted. [WG §6.1]
///
/// The paper says 2^64 − 2^13 − 1. Linux and WireGuardNT take the usable window instead of 2^13 and
/// come to 2^64 − 8130 on 64-bit machines. We follow the paper, the smaller of the two.
pub const REJECT_AFTER_MESSAGES: u64 = u64::MAX - (1 << 13);
/// The initiator of a session starts a new handshake when it sends at this age. [WG §6.1]
pub const REKEY_AFTER_TIME: Duration = Duration::from_secs(120);
/// No packet is sent or accepted at this age. [WG §6.1]
pub const REJECT_AFTER_TIME: Duration = Duration::from_secs(180);
/// Time between two initiations to one peer, at least. [WG §6.1]
pub const REKEY_TIMEOUT: Duration = Duration::from_secs(5);
/// Silence after which received data is answered with a keepalive. [WG §6.1]
pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// The initiator starts a new handshake when it receives at this age. [WG §6.2]
pub const REKEY_AFTER_TIME_RECEIVING: Duration = Duration::from_secs(180 - 10 - 5);
/// Silence after sent data that means the session is dead. [WG §6.5]
pub const NEW_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10 + 5);
/// Sessions are erased this long after the last one was made. [WG §6.3]
pub const ERASE_AFTER_TIME: Duration = Duration::from_secs(3 * 180);
/// Retries after the first initiation before a handshake is given up.
///
/// The paper says 90 s (Rekey-Attempt-Time, §6.4). Linux, WireGuardNT and wireguard-go count
/// instead: the first try and 19 more, each 5 s and some jitter apart. We count as they do.
pub const MAX_HANDSHAKE_RETRIES: u32 = 19;
/// Greatest jitter added to a timer that ends in an initiation; the paper says "some". [WG §6.1]
pub const JITTER_MAX: Duration = Duration::from_millis(333);

/// Age at which the secret behind our cookies is replaced. [WG §5.4.7]
pub const COOKIE_SECRET_LIFE: Duration = Duration::from_secs(120);
/// Age at which a received cookie is no longer used.
///
/// The paper says 120 s (§5.4.4). Linux and WireGuardNT stop at 115 s, so that a cookie does not
/// lapse under way; so do we.
pub const COOKIE_USE_LIFE: Duration = Duration::from_secs(120 - 5);
/// Accepted initiations of one peer are at least this far apart. (Linux: 50 per second.)
pub const INITIATION_INTERVAL: Duration = Duration::from_millis(20);
/// Handshake messages a driver may hold unprocessed. (Linux: `MAX_QUEUED_INCOMING_HANDSHAKES`.)
pub const MAX_QUEUED_HANDSHAKES: usize = 4096;
/// Queued handshake messages at which we are under load. (Linux: an eighth of the queue.)
pub const UNDER_LOAD_AT: usize = MAX_QUEUED_HANDSHAKES / 8;
/// We stay under load this long after we last were.
pub const UNDER_LOAD_MEMORY: Duration = Duration::from_secs(1);
/// Credit one handshake message costs its source: 20 per second. (Linux: `ratelimiter.c`.)
pub const RATE_PACKET_COST: Duration = Duration::from_millis(50);
/// Credit a source can save up: a burst of five.
pub const RATE_CREDIT_MAX: Duration = Duration::from_millis(250);
/// Sources remembered at most.
pub const RATE_SOURCES_MAX: usize = 65_536;
/// A source idle for longer than this may be forgotten.
pub const RATE_SOURCE_LIFE: Duration = Duration::from_secs(1);

/// Counters behind the newest that are still judged one by one. [RFC 6479], 8192 bits less one
/// word.
pub const WINDOW: u64 = 8128;
/// Packets of one peer that wait for a session. (Linux: `MAX_STAGED_PACKETS`.)
pub const MAX_STAGED_PACKETS: usize = 128;
/// Bytes of those packets.
pub const MAX_STAGED_BYTES: usize = 256 * 1024;
/// Peers of one adapter. (Linux: `MAX_PEERS_PER_DEVICE`.)
pub const MAX_PEERS: usize = 1 << 20;
/// Inner packets are padded with zeros to a multiple of this. [WG §5.4.6]
pub const PADDING_MULTIPLE: usize = 16;
/// A jump of the clock by more than this means that the machine slept.
pub const CLOCK_JUMP: Duration = Duration::from_secs(10);
/// After a sleep, handshakes are spread over this time.
pub const RESUME_SPREAD: Duration = Duration::from_secs(5);

// spec: WG 13-e
/// Type-of-service byte of initiations and responses: AF41. (Linux: `HANDSHAKE_DSCP`.)
pub const HANDSHAKE_TOS: u8 = 0x88;

const _: () = {
    assert!(REJECT_AFTER_MESSAGES == u64::MAX - 8192);
    assert!(REKEY_AFTER_MESSAGES < REJECT_AFTER_MESSAGES);
    assert!(REKEY_AFTER_TIME.as_secs() < REKEY_AFTER_TIME_RECEIVING.as_secs());
    assert!(REKEY_AFTER_TIME_RECEIVING.as_secs() < REJECT_AFTER_TIME.as_secs());
    assert!(WINDOW.is_multiple_of(64) && WINDOW + 64 == 8192);
    assert!(RATE_CREDIT_MAX.as_millis() == 5 * RATE_PACKET_COST.as_millis());
    // A session that can still send can still be answered.
    assert!(REJECT_AFTER_TIME.as_secs() < ERASE_AFTER_TIME.as_secs());
};
