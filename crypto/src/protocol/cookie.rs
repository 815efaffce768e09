//! MACs and cookies: how a handshake message is judged before it costs a curve multiplication.
//!
//! mac1 proves that the sender knows our public key and is always checked. Under load we also want
//! mac2, a MAC under a cookie that only somebody who receives at the source address can have; who
//! has none gets one in a cookie reply, which costs two hashes and is shorter than what it answers.
//! [WG §5.3, 5.4.4, 5.4.7]

use core::net::{IpAddr, SocketAddr};

use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

use super::{
    Instant, Random,
    hash_table::HashKey,
    limits::{
        COOKIE_SECRET_LIFE, COOKIE_USE_LIFE, LABEL_COOKIE, LABEL_MAC1, UNDER_LOAD_AT,
        UNDER_LOAD_MEMORY,
    },
    messages::{COOKIE_REPLY_LEN, CookieReply, Macs, write_macs},
    noise::{hash, mac, open_cookie, seal_cookie},
    ratelimiter::RateLimiter,
};
use crate::mac1::Mac1Key;
use crate::sync::{
    Ground, SpinLock,
    atomic::{AtomicU64, Ordering},
};

crate::never_printed!(MacKeys, CookieSecret, CookieJar);

/// The two keys that follow from a public key: whoever knows it can compute them.
#[derive(Clone)]
pub(super) struct MacKeys {
    mac1: Mac1Key,
    cookie: [u8; 32],
}

impl MacKeys {
    /// The keys for messages to the owner of `public_key`, and for cookie replies from him.
    pub(super) fn of(public_key: &[u8; 32]) -> Self {
        let mac1 = Mac1Key::new(&hash(&[LABEL_MAC1, public_key]));
        Self { mac1, cookie: hash(&[LABEL_COOKIE, public_key]) }
    }

    pub(super) fn mac1_key(&self) -> &Mac1Key {
        &self.mac1
    }
}

/// What one of our cookies is a MAC of: the source's address and port, in network order.
// spec: WG 5.4.7-b
fn cookie_for(secret: &[u8; 32], source: SocketAddr) -> Zeroizing<[u8; 16]> {
    let port = source.port().to_be_bytes();
    Zeroizing::new(match source.ip() {
        IpAddr::V4(address) => mac(secret, &[&address.octets(), &port]),
        IpAddr::V6(address) => mac(secret, &[&address.octets(), &port]),
    })
}

/// The secret behind the cookies we give out, replaced every two minutes.
pub(super) struct CookieSecret {
    secret: [u8; 32],
    made_at: Option<Instant>,
}

impl Drop for CookieSecret {
    fn drop(&mut self) {
        self.secret.zeroize();
    }
}

impl CookieSecret {
    pub(super) const fn new() -> Self {
        Self { secret: [0; 32], made_at: None }
    }

    /// Whether the secret is too old to be used.
    // spec: WG 5.4.7-c — lazily, and no previous secret is kept.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.made_at.is_none_or(|made| now.since(made) >= COOKIE_SECRET_LIFE)
    }

    /// Replaces the secret if it is still due.
    pub(super) fn replace(&mut self, secret: &[u8; 32], now: Instant) {
        if self.is_due(now) {
            self.secret = *secret;
            self.made_at = Some(now);
        }
    }

    /// The cookie of a source address, under this secret.
    pub(super) fn cookie(&self, source: SocketAddr) -> Zeroizing<[u8; 16]> {
        cookie_for(&self.secret, source)
    }
}

/// Whether mac2 was made with `cookie`.
// spec: WG 5.4-k
pub(super) fn mac2_is_valid(cookie: &[u8; 16], macs: &Macs<'_>) -> bool {
    mac(cookie, &[macs.before_mac2]).ct_eq(macs.mac2).into()
}

/// Makes the reply to a message with these MACs whose sender index is `receiver`.
// spec: WG 5.4.7-d
pub(super) fn create_reply(
    keys: &MacKeys,
    cookie: &[u8; 16],
    receiver: u32,
    macs: &Macs<'_>,
    random: &mut dyn Random,
) -> [u8; COOKIE_REPLY_LEN] {
    let mut nonce = [0; 24];
    random.fill(&mut nonce);
    let sealed = seal_cookie(&keys.cookie, &nonce, cookie, macs.mac1);
    CookieReply::write(receiver, &nonce, &sealed)
}

/// Opens a cookie reply to a message whose mac1 was `mac1`; `None` if it is none.
pub(super) fn open_reply(
    keys: &MacKeys,
    message: &CookieReply<'_>,
    mac1: &[u8; 16],
) -> Option<Zeroizing<[u8; 16]>> {
    open_cookie(&keys.cookie, message.nonce, message.cookie, mac1).map(Zeroizing::new)
}

/// One peer's cookie, and the mac1 it would answer.
#[derive(Default)]
pub(super) struct CookieJar {
    /// mac1 of the last message we sent, until a cookie reply has answered it.
    unanswered_mac1: Option<[u8; 16]>,
    cookie: Option<[u8; 16]>,
    received_at: Option<Instant>,
}

impl Drop for CookieJar {
    fn drop(&mut self) {
        self.cookie.zeroize();
    }
}

impl CookieJar {
    /// Writes both MACs of a message to the peer.
    // spec: WG 5.4.4-a, WG 5.4.4-b — initiations and responses alike.
    pub(super) fn seal(&mut self, keys: &MacKeys, message: &mut [u8], now: Instant) {
        let cookie = self.usable(now);
        let mut mac1 = [0; 16];
        write_macs(
            message,
            |before| {
                mac1 = keys.mac1.mac(before);
                mac1
            },
            |before| cookie.map_or([0; 16], |cookie| mac(&cookie, &[before])),
        );
        self.unanswered_mac1 = Some(mac1);
    }

    /// The mac1 a cookie reply must be bound to, if one can come at all.
    pub(super) fn unanswered(&self) -> Option<[u8; 16]> {
        self.unanswered_mac1
    }

    /// Keeps the cookie of a reply to `mac1`, unless another message was sent meanwhile.
    // spec: WG 5.4.7-f — one cookie per message.
    pub(super) fn keep(&mut self, mac1: &[u8; 16], cookie: &[u8; 16], now: Instant) -> bool {
        if !self.unanswered_mac1.is_some_and(|own| own.ct_eq(mac1).into()) {
            return false;
        }
        self.unanswered_mac1 = None;
        self.cookie = Some(*cookie);
        self.received_at = Some(now);
        true
    }

    fn usable(&self, now: Instant) -> Option<[u8; 16]> {
        let age = now.since(self.received_at?);
        self.cookie.filter(|_| age < COOKIE_USE_LIFE)
    }
}

/// Whether the driver is flooded with handshakes, and who floods it. One for all adapters.
pub struct HandshakeLoad {
    /// When the queue was last seen long, in nanoseconds; `u64::MAX` is never.
    loaded_at: AtomicU64,
    limiter: SpinLock<RateLimiter>,
}

impl HandshakeLoad {
    /// No load yet; `key` is secret and keys the table of sources.
    #[must_use]
    pub fn new(key: HashKey) -> Self {
        let limiter = SpinLock::new(RateLimiter::new(key));
        Self { loaded_at: AtomicU64::new(u64::MAX), limiter }
    }

    /// Tells how many handshake messages wait, the one about to be consumed included.
    ///
    /// Called before each [`super::Tunnel::consume`].
    // spec: WG 7.4-c
    pub fn observe(&self, queued: usize, now: Instant) {
        if queued >= UNDER_LOAD_AT {
            // Relaxed: a hint that publishes nothing.
            self.loaded_at.store(now.nanoseconds(), Ordering::Relaxed);
        }
    }

    /// Whether messages need a valid mac2 now.
    #[must_use]
    pub fn is_under_load(&self, now: Instant) -> bool {
        let loaded_at = self.loaded_at.load(Ordering::Relaxed);
        let memory = UNDER_LOAD_MEMORY.as_nanos() as u64;
        loaded_at != u64::MAX && now.nanoseconds().saturating_sub(loaded_at) < memory
    }

    /// Whether a source has credit for one message; nothing is charged.
    pub(super) fn has_credit(&self, ground: &impl Ground, source: IpAddr, now: Instant) -> bool {
        self.limiter.with(ground, |limiter| limiter.has_credit(source, now))
    }

    /// Charges a source for one message; false if it sent too many.
    pub(super) fn allow(&self, ground: &impl Ground, source: IpAddr, now: Instant) -> bool {
        let (allowed, _forgotten) = self.limiter.with(ground, |limiter| limiter.allow(source, now));
        allowed
    }
}

#[cfg(test)]
mod tests {
    use core::time::Duration;

    use super::*;

    fn at(milliseconds: u64) -> Instant {
        Instant(Duration::from_millis(milliseconds))
    }

    // spec-test: WG 7.4-c
    #[test]
    fn under_load_from_512_and_a_second_longer() {
        let load = HandshakeLoad::new(HashKey::new([1; 16]));
        assert!(!load.is_under_load(at(0)));
        load.observe(511, at(1000));
        assert!(!load.is_under_load(at(1000)));
        load.observe(512, at(1000));
        assert!(load.is_under_load(at(1000)));
        load.observe(0, at(1500));
        assert!(load.is_under_load(at(1900)));
        assert!(load.is_under_load(at(1999)));
        assert!(!load.is_under_load(at(2000)));
        assert!(!load.is_under_load(at(2100)));
    }

    // spec-test: WG 5.4.7-c
    #[test]
    fn the_secret_lives_two_minutes() {
        let mut secret = CookieSecret::new();
        let source = "192.0.2.1:1".parse().unwrap();
        assert!(secret.is_due(at(0)));
        secret.replace(&[1; 32], at(0));
        let first = secret.cookie(source);
        assert!(!secret.is_due(at(119_999)));
        secret.replace(&[2; 32], at(119_999));
        assert_eq!(*secret.cookie(source), *first, "not due: kept");
        assert!(secret.is_due(at(120_000)));
        secret.replace(&[2; 32], at(120_000));
        assert_ne!(*secret.cookie(source), *first);
    }

    // spec-test: WG 5.4.4-b, WG 5.4.7-f
    #[test]
    fn a_cookie_is_used_for_115_seconds() {
        let keys = MacKeys::of(&[3; 32]);
        let mut jar = CookieJar::default();
        let mut message = [0; 148];
        jar.seal(&keys, &mut message, at(0));
        assert_eq!(message[132..], [0; 16], "no cookie, no mac2");
        let mac1: [u8; 16] = message[116..132].try_into().unwrap();
        assert_eq!(jar.unanswered(), Some(mac1));
        assert!(!jar.keep(&[0; 16], &[9; 16], at(0)), "another message's");
        assert!(jar.keep(&mac1, &[9; 16], at(0)));
        assert!(!jar.keep(&mac1, &[8; 16], at(0)), "one cookie per message");
        for (age, used) in [(114_000, true), (114_999, true), (115_000, false), (120_000, false)] {
            jar.seal(&keys, &mut message, at(age));
            assert_eq!(message[132..] != [0; 16], used, "age {age} ms");
        }
    }

    /// Where a MAC or a tag is wrong is told by no instruction and no address.
    // spec-test: WG 5.4-k
    #[test]
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    fn macs_are_compared_in_constant_time() {
        use crate::aead::tests::trace::{child, hash};
        use crate::{
            mac1::Claim,
            protocol::messages::{RESPONSE_LEN, Response},
        };

        let keys = MacKeys::of(&[3; 32]);
        let (batch, cookie) = (keys.mac1_key(), [9; 16]);
        let mut message = [7; RESPONSE_LEN];
        message[..4].copy_from_slice(&[2, 0, 0, 0]);
        fn macs(message: &[u8; RESPONSE_LEN]) -> Macs<'_> {
            Response::parse(message).unwrap().macs
        }
        // What is compared, where it lies in the message, and the check; all in the same memory.
        type Check<'c> = (&'c str, usize, &'c dyn Fn(&[u8; RESPONSE_LEN]) -> bool);
        let checks: [Check<'_>; 4] = [
            ("mac1", 60, &|message| keys.mac1.is_valid(&macs(message))),
            ("mac2", 76, &|message| mac2_is_valid(&cookie, &macs(message))),
            ("mac1 of a batch", 60, &|message| {
                let Macs { before_mac1: covered, mac1, .. } = macs(message);
                let mut valid = [true];
                batch.check(None, &[Claim { covered, mac1 }], &mut valid);
                valid[0]
            }),
            // Of a cookie reply the message lends only its last bytes, which are the tag.
            ("cookie", 76, &|message| {
                let mut sealed = seal_cookie(&keys.cookie, &[1; 24], &cookie, &[2; 16]);
                let mac2 = mac(&cookie, &[macs(message).before_mac2]);
                for ((tag, right), given) in
                    sealed[16..].iter_mut().zip(mac2).zip(macs(message).mac2)
                {
                    *tag ^= right ^ given;
                }
                open_cookie(&keys.cookie, &[1; 24], &sealed, &[2; 16]).is_some()
            }),
        ];
        // A debug build takes many times the steps.
        let checks = if cfg!(debug_assertions) { &checks[..1] } else { &checks[..] };
        for &(what, place, check) in checks {
            let mut trace = |wrong: Option<usize>| {
                let mut jar = CookieJar { cookie: Some(cookie), ..CookieJar::default() };
                jar.received_at = Some(at(0));
                jar.seal(&keys, &mut message, at(0));
                if let Some(byte) = wrong {
                    message[place + byte] ^= 1;
                }
                assert_eq!(check(&message), wrong.is_none(), "{what}");
                hash(child(|| check(&message).into()))
            };
            let _right = trace(None);
            let traces = [0, 7, 15].map(|byte| trace(Some(byte)));
            assert!(traces[0].1 > 500, "{what}: nothing was traced");
            assert!(traces.iter().all(|trace| *trace == traces[0]), "{what}: {traces:x?}");
        }
    }
}
