//! A peer that the tests write themselves, from the paper, to be able to get everything right but one thing.
//!
//! It shares no code with the driver but the primitives' crates, computes in the open, and keeps every secret it comes by,
//! so that memory can be searched for them.

use blake2::{
    Blake2s256, Blake2sMac, Digest,
    digest::{Mac, consts::U16},
};
use chacha20poly1305::aead::{AeadInOut, KeyInit};
use chacha20poly1305::{ChaCha20Poly1305, XChaCha20Poly1305};
use x25519_dalek::x25519;

pub(crate) type Key = [u8; 32];

/// A public key of low order: every shared secret with it is zero.
pub(crate) const LOW_ORDER: Key = [0; 32];
/// The base point.
const BASE: Key = {
    let mut base = [0; 32];
    base[0] = 9;
    base
};

pub(crate) fn public(private: &Key) -> Key {
    x25519(*private, BASE)
}

fn hash(parts: &[&[u8]]) -> Key {
    parts.iter().fold(Blake2s256::new(), |hash, part| hash.chain_update(part)).finalize().into()
}

pub(crate) fn mac(key: &[u8], data: &[u8]) -> [u8; 16] {
    let mac = <Blake2sMac<U16> as KeyInit>::new_from_slice(key).unwrap();
    mac.chain_update(data).finalize().into_bytes().into()
}

fn hmac(key: &Key, parts: &[&[u8]]) -> Key {
    let pad = |with: u8| -> [u8; 64] {
        std::array::from_fn(|at| key.get(at).copied().unwrap_or(0) ^ with)
    };
    let inner = hash(&[&pad(0x36), &parts.concat()]);
    hash(&[&pad(0x5C), &inner])
}

/// The first `N` of a key derivation.
fn kdf<const N: usize>(chaining: &Key, input: &[u8]) -> [Key; N] {
    let first = hmac(chaining, &[input]);
    let mut last: Vec<u8> = Vec::new();
    std::array::from_fn(|at| {
        let next = hmac(&first, &[&last, &[at as u8 + 1]]);
        last = next.to_vec();
        next
    })
}

fn nonce(counter: u64) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&counter.to_le_bytes());
    nonce
}

pub(crate) fn seal(key: &Key, counter: u64, text: &[u8], ad: &[u8]) -> Vec<u8> {
    let mut sealed = text.to_vec();
    let cipher = ChaCha20Poly1305::new(&(*key).into());
    let nonce = nonce(counter).into();
    let tag = cipher.encrypt_inout_detached(&nonce, ad, sealed.as_mut_slice().into()).unwrap();
    sealed.extend_from_slice(&tag);
    sealed
}

pub(crate) fn open(key: &Key, counter: u64, sealed: &[u8], ad: &[u8]) -> Option<Vec<u8>> {
    let (text, tag) = sealed.split_last_chunk::<16>()?;
    let mut text = text.to_vec();
    let cipher = ChaCha20Poly1305::new(&(*key).into());
    let (nonce, tag) = (nonce(counter).into(), (*tag).into());
    cipher.decrypt_inout_detached(&nonce, ad, text.as_mut_slice().into(), &tag).ok()?;
    Some(text)
}

/// Writes the mac1 that the owner of `public` wants to see, in front of the last 16 bytes.
pub(crate) fn sign(message: &mut [u8], public: &Key) {
    if let Some(at) = message.len().checked_sub(32) {
        let mac1 = mac(&hash(&[b"mac1----", public]), &message[..at]);
        message[at..at + 16].copy_from_slice(&mac1);
    }
}

/// What a handshake comes to, whoever began it.
#[derive(Clone)]
pub(crate) struct Session {
    pub(crate) send: Key,
    pub(crate) receive: Key,
    /// How the other wants to be addressed.
    pub(crate) theirs: u32,
    pub(crate) counter: u64,
}

impl Session {
    /// The next message, of an inner packet that is padded.
    pub(crate) fn seal(&mut self, packet: &[u8]) -> Vec<u8> {
        let counter = self.counter;
        self.counter += 1;
        self.seal_at(counter, packet)
    }

    pub(crate) fn seal_at(&self, counter: u64, packet: &[u8]) -> Vec<u8> {
        let mut padded = packet.to_vec();
        padded.resize(packet.len().next_multiple_of(16), 0);
        let mut message = [4_u32.to_le_bytes(), self.theirs.to_le_bytes()].concat();
        message.extend_from_slice(&counter.to_le_bytes());
        message.extend_from_slice(&seal(&self.send, counter, &padded, &[]));
        message
    }

    pub(crate) fn open(&self, message: &[u8]) -> Option<Vec<u8>> {
        let counter = u64::from_le_bytes(*message.get(8..)?.first_chunk()?);
        open(&self.receive, counter, &message[16..], &[])
    }
}

/// A handshake as far as it has come: chaining key and hash, and each secret on the way.
#[derive(Clone)]
struct Transcript {
    chaining: Key,
    hash: Key,
    secrets: Vec<(&'static str, Key)>,
}

impl Transcript {
    fn new(responder: &Key) -> Self {
        let chaining = hash(&[b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s"]);
        let begun = hash(&[&chaining, b"WireGuard v1 zx2c4 Jason@zx2c4.com"]);
        Self { chaining, hash: hash(&[&begun, responder]), secrets: Vec::new() }
    }

    fn mix_hash(&mut self, data: &[u8]) {
        self.hash = hash(&[&self.hash, data]);
    }

    fn mix_public(&mut self, key: &Key) {
        [self.chaining] = kdf(&self.chaining, key);
    }

    fn keep(&mut self, name: &'static str, secret: Key) {
        self.secrets.push((name, secret));
    }

    /// Mixes in a shared secret; the key to seal with.
    fn mix_key(&mut self, name: &'static str, shared: Key) -> Key {
        self.keep(name, shared);
        let [chaining, key] = kdf(&self.chaining, &shared);
        self.chaining = chaining;
        self.keep("a chaining key", chaining);
        self.keep("a key of the handshake", key);
        key
    }

    fn mix_shared(&mut self, name: &'static str, shared: Key) {
        self.keep(name, shared);
        [self.chaining] = kdf(&self.chaining, &shared);
        self.keep("a chaining key", self.chaining);
    }

    fn mix_preshared(&mut self, key: &Key) -> Key {
        let [chaining, temp, key] = kdf(&self.chaining, key);
        self.chaining = chaining;
        self.keep("a chaining key", chaining);
        self.keep("a key of the handshake", key);
        self.mix_hash(&temp);
        key
    }

    fn finish(mut self, initiator: bool, theirs: u32) -> (Session, Vec<(&'static str, Key)>) {
        self.keep("the handshake's hash", self.hash);
        let [first, second] = kdf(&self.chaining, &[]);
        self.keep("a session's key", first);
        self.keep("a session's other key", second);
        let (send, receive) = if initiator { (first, second) } else { (second, first) };
        (Session { send, receive, theirs, counter: 0 }, self.secrets)
    }
}

/// Everything an initiation is made of: right by default, and wrong where a test says so.
#[derive(Clone)]
pub(crate) struct Initiation {
    /// The initiator's static private key, and what is said to be its public key.
    pub(crate) private: Key,
    pub(crate) claimed: Key,
    /// The responder's public key: in the hash, in the exchange with the ephemeral key, in that of the static keys.
    pub(crate) responder: [Key; 3],
    /// The ephemeral private key, and what is said to be its public key.
    pub(crate) ephemeral: Key,
    pub(crate) ephemeral_public: Key,
    pub(crate) sender: u32,
    pub(crate) timestamp: [u8; 12],
}

/// An initiation that waits for its response.
#[derive(Clone)]
pub(crate) struct Pending {
    made: Initiation,
    transcript: Transcript,
}

impl Initiation {
    pub(crate) fn new(private: Key, responder: Key, sender: u32, seconds: u64) -> Self {
        let ephemeral =
            std::array::from_fn(|at| (seconds as u8).wrapping_mul(31) ^ (at as u8) << 2 ^ 0x40);
        let mut timestamp = [0; 12];
        timestamp[..8].copy_from_slice(&(0x4000_0000_0000_000A + seconds).to_be_bytes());
        Self {
            private,
            claimed: public(&private),
            responder: [responder; 3],
            ephemeral,
            ephemeral_public: public(&ephemeral),
            sender,
            timestamp,
        }
    }

    pub(crate) fn write(&self) -> (Vec<u8>, Pending) {
        let mut t = Transcript::new(&self.responder[0]);
        t.mix_public(&self.ephemeral_public);
        t.mix_hash(&self.ephemeral_public);
        let key = t.mix_key("es", x25519(self.ephemeral, self.responder[1]));
        let sealed_static = seal(&key, 0, &self.claimed, &t.hash);
        t.mix_hash(&sealed_static);
        let key = t.mix_key("ss", x25519(self.private, self.responder[2]));
        let sealed_time = seal(&key, 0, &self.timestamp, &t.hash);
        t.mix_hash(&sealed_time);
        let mut message = [1_u32.to_le_bytes(), self.sender.to_le_bytes()].concat();
        for part in [&self.ephemeral_public[..], &sealed_static, &sealed_time, &[0; 32]] {
            message.extend_from_slice(part);
        }
        sign(&mut message, &self.responder[0]);
        (message, Pending { made: self.clone(), transcript: t })
    }
}

impl Pending {
    /// Takes the response.
    pub(crate) fn consume(
        &self,
        preshared: &Key,
        message: &[u8],
    ) -> Option<(Session, Vec<(&'static str, Key)>)> {
        let mut t = self.transcript.clone();
        let theirs = u32::from_le_bytes(*message.get(4..)?.first_chunk()?);
        let ephemeral: &Key = message.get(12..)?.first_chunk()?;
        t.mix_public(ephemeral);
        t.mix_hash(ephemeral);
        t.mix_shared("ee", x25519(self.made.ephemeral, *ephemeral));
        t.mix_shared("se", x25519(self.made.private, *ephemeral));
        let key = t.mix_preshared(preshared);
        let sealed = message.get(44..60)?;
        open(&key, 0, sealed, &t.hash)?;
        t.mix_hash(sealed);
        Some(t.finish(true, theirs))
    }
}

/// The initiation of another, read with one's own private key, and what its response is to be made of.
#[derive(Clone)]
pub(crate) struct Responder {
    transcript: Transcript,
    initiator: Key,
    ephemeral_of_initiator: Key,
    pub(crate) receiver: u32,
    pub(crate) sender: u32,
    pub(crate) ephemeral: Key,
    pub(crate) ephemeral_public: Key,
    pub(crate) preshared: Key,
    /// The initiator's static key in the exchange with our ephemeral one.
    pub(crate) exchanged_with: Key,
}

impl Responder {
    pub(crate) fn read(private: &Key, preshared: &Key, message: &[u8]) -> Option<Self> {
        let ephemeral: Key = *message.get(8..)?.first_chunk()?;
        let mut t = Transcript::new(&public(private));
        t.mix_public(&ephemeral);
        t.mix_hash(&ephemeral);
        let key = t.mix_key("es", x25519(*private, ephemeral));
        let sealed = message.get(40..88)?;
        let initiator: Key = open(&key, 0, sealed, &t.hash)?.try_into().ok()?;
        t.mix_hash(sealed);
        let key = t.mix_key("ss", x25519(*private, initiator));
        let sealed = message.get(88..116)?;
        open(&key, 0, sealed, &t.hash)?;
        t.mix_hash(sealed);
        let own: Key = std::array::from_fn(|at| message[8 + at] ^ 0x5A);
        Some(Self {
            transcript: t,
            initiator,
            ephemeral_of_initiator: ephemeral,
            receiver: u32::from_le_bytes(*message.get(4..)?.first_chunk()?),
            sender: 0x0051_DE00,
            ephemeral: own,
            ephemeral_public: public(&own),
            preshared: *preshared,
            exchanged_with: initiator,
        })
    }

    /// What it has read with, so far.
    pub(crate) fn secrets(&self) -> Vec<(&'static str, Key)> {
        let mut transcript = self.transcript.clone();
        transcript.keep("the handshake's hash", transcript.hash);
        transcript.secrets
    }

    pub(crate) fn write(&self) -> (Vec<u8>, Session, Vec<(&'static str, Key)>) {
        let mut t = self.transcript.clone();
        t.mix_public(&self.ephemeral_public);
        t.mix_hash(&self.ephemeral_public);
        t.mix_shared("ee", x25519(self.ephemeral, self.ephemeral_of_initiator));
        t.mix_shared("se", x25519(self.ephemeral, self.exchanged_with));
        let key = t.mix_preshared(&self.preshared);
        let empty = seal(&key, 0, &[], &t.hash);
        t.mix_hash(&empty);
        let head = [2_u32, self.sender, self.receiver].map(u32::to_le_bytes).concat();
        let mut message = [&head, &self.ephemeral_public[..], &empty, &[0; 32]].concat();
        sign(&mut message, &self.initiator);
        let (session, secrets) = t.finish(false, self.receiver);
        (message, session, secrets)
    }
}

/// Seals a cookie to the mac1 of the message it answers.
pub(crate) fn cookie_reply(replying: &Key, answered: &[u8], cookie: &[u8; 16]) -> Vec<u8> {
    let mac1 = &answered[answered.len() - 32..answered.len() - 16];
    let nonce = [0x77; 24];
    let cipher = XChaCha20Poly1305::new(&hash(&[b"cookie--", replying]).into());
    let mut sealed = cookie.to_vec();
    let tag =
        cipher.encrypt_inout_detached(&nonce.into(), mac1, sealed.as_mut_slice().into()).unwrap();
    let mut message = [&3_u32.to_le_bytes(), &answered[4..8], &nonce[..], &sealed].concat();
    message.extend_from_slice(&tag);
    message
}

/// The cookie in a reply to `answered`.
pub(crate) fn open_cookie(replying: &Key, answered: &[u8], reply: &[u8]) -> Option<[u8; 16]> {
    if reply.len() != 64 || reply[..8] != [&3_u32.to_le_bytes(), &answered[4..8]].concat()[..] {
        return None;
    }
    let mac1 = &answered[answered.len() - 32..answered.len() - 16];
    let cipher = XChaCha20Poly1305::new(&hash(&[b"cookie--", replying]).into());
    let nonce: [u8; 24] = *reply[8..].first_chunk()?;
    let mut cookie: [u8; 16] = *reply[32..].first_chunk()?;
    let tag: [u8; 16] = *reply[48..].first_chunk()?;
    cipher
        .decrypt_inout_detached(&nonce.into(), mac1, cookie.as_mut_slice().into(), &tag.into())
        .ok()?;
    Some(cookie)
}
