//! The handshake, Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s: pure functions of keys and bytes.
//!
//! Nothing here knows peers, locks or time. Each state is a value that holds exactly its own
//! secrets and is consumed by the step that leaves it, so a message that makes no sense has nowhere
//! to go, and what a failed step held is wiped when it drops. Callers work on such values outside
//! their locks and commit the result only if nothing has changed meanwhile. A step costs one or two
//! curve multiplications: `PASSIVE_LEVEL` only. [WG §5.4]

use blake2::{
    Blake2s256, Blake2sMac, Digest,
    digest::{FixedOutput, Update, consts::U16},
};
use chacha20poly1305::{
    ChaCha20Poly1305, XChaCha20Poly1305,
    aead::{AeadInOut, KeyInit},
};
use subtle::ConstantTimeEq;
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::{Zeroize, Zeroizing};

use super::{
    curve25519::x25519,
    limits::{CONSTRUCTION, IDENTIFIER},
    messages::{INITIATION_LEN, Initiation, RESPONSE_LEN, Response, TAG_LEN, TIMESTAMP_LEN},
};

/// 32 secret bytes, wiped when dropped; deliberately without `Debug`.
// spec: WG 7.4-a
#[derive(Clone)]
pub struct Secret([u8; 32]);

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl Secret {
    /// Takes 32 bytes as a secret.
    #[must_use]
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Whether it is all zeros, which stands for none. Takes constant time.
    #[must_use]
    // spec: WG 5.4-k
    pub fn is_zero(&self) -> bool {
        is_zero(&self.0)
    }

    /// The bytes, to be used at once and not kept.
    #[must_use]
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

fn is_zero(secret: &[u8; 32]) -> bool {
    secret.ct_eq(&[0; 32]).into()
}

crate::never_printed!(
    Secret,
    Identity,
    Symmetric,
    CreatedInitiation,
    OpenedInitiation,
    ConsumedInitiation,
    SessionKeys
);

/// A clamped X25519 private key and its public key.
#[derive(Clone)]
pub struct Identity {
    private: StaticSecret,
    public: [u8; 32],
}

impl Identity {
    /// Makes an identity of a private key as configured; `None` for the all-zero key, which means
    /// "no identity".
    #[must_use]
    // spec: WG 5.4-b, WG 5.4-d
    pub fn new(private: &[u8; 32]) -> Option<Self> {
        (!is_zero(private)).then(|| {
            let private = clamped(*private);
            let public = PublicKey::from(&private).to_bytes();
            Self { private, public }
        })
    }

    /// The clamped private key.
    #[must_use]
    pub fn private(&self) -> &[u8; 32] {
        self.private.as_bytes()
    }

    /// The public key.
    #[must_use]
    pub fn public(&self) -> &[u8; 32] {
        &self.public
    }

    /// The shared secret of the two static keys; `None` if it is zero.
    #[must_use]
    pub fn static_static(&self, remote: &[u8; 32]) -> Option<Secret> {
        shared_secret(&self.private, remote)
    }
}

/// The AEAD field, message or shared secret that stopped a handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoiseError {
    /// A shared secret came out as zero: the other side sent a point of low order.
    ZeroSharedSecret,
    /// The sealed static key does not open.
    StaticKey,
    /// The sealed timestamp does not open.
    Timestamp,
    /// The response's empty field does not open.
    Empty,
}

/// Chaining key and hash, the running state of both roles.
#[derive(Clone)]
pub(super) struct Symmetric {
    pub(super) chaining_key: [u8; 32],
    pub(super) hash: [u8; 32],
}

impl Drop for Symmetric {
    fn drop(&mut self) {
        self.chaining_key.zeroize();
        self.hash.zeroize();
    }
}

impl Symmetric {
    /// The state before the first message to `responder`.
    fn new(responder: &[u8; 32]) -> Self {
        let chaining_key = hash(&[CONSTRUCTION]);
        let mut state = Self { chaining_key, hash: hash(&[&chaining_key, IDENTIFIER]) };
        state.mix_hash(responder);
        state
    }

    fn mix_hash(&mut self, bytes: &[u8]) {
        self.hash = hash(&[&self.hash, bytes]);
    }

    /// An ephemeral public key goes into both halves.
    fn mix_ephemeral(&mut self, ephemeral: &[u8; 32]) {
        self.mix_key(ephemeral);
        self.mix_hash(ephemeral);
    }

    /// Mixes `input` into the chaining key.
    fn mix_key(&mut self, input: &[u8; 32]) {
        let [chaining_key] = kdf(&self.chaining_key, input);
        self.chaining_key = *chaining_key.expose();
    }

    /// Mixes `input` into the chaining key and returns an AEAD key.
    fn mix_key_for_aead(&mut self, input: &[u8; 32]) -> Secret {
        let [chaining_key, key] = kdf(&self.chaining_key, input);
        self.chaining_key = *chaining_key.expose();
        key
    }

    /// Mixes the preshared key and returns an AEAD key.
    // spec: WG 5.2-a — zeros when there is none, and the same steps.
    fn mix_preshared_key(&mut self, preshared_key: &Secret) -> Secret {
        let [chaining_key, tau, key] = kdf(&self.chaining_key, preshared_key.expose());
        self.chaining_key = *chaining_key.expose();
        self.mix_hash(tau.expose());
        key
    }

    /// Seals `N` bytes into `M = N + 16` and mixes the result.
    fn seal<const N: usize, const M: usize>(&mut self, key: &Secret, plain: &[u8; N]) -> [u8; M] {
        const { assert!(M == N + TAG_LEN) };
        let mut sealed = [0; M];
        if let Some((body, tag)) = sealed.split_last_chunk_mut::<TAG_LEN>() {
            body.copy_from_slice(plain);
            *tag = seal_detached(key, &self.hash, body);
        }
        self.mix_hash(&sealed);
        sealed
    }

    /// Opens `M = N + 16` bytes into `N` and mixes the sealed bytes; `None` if the tag is wrong.
    fn open<const N: usize, const M: usize>(
        &mut self,
        key: &Secret,
        sealed: &[u8; M],
    ) -> Option<[u8; N]> {
        const { assert!(M == N + TAG_LEN) };
        let (body, tag) = sealed.split_last_chunk::<TAG_LEN>()?;
        let mut plain = [0; N];
        plain.copy_from_slice(body);
        open_detached(key, &self.hash, &mut plain, tag)?;
        self.mix_hash(sealed);
        Some(plain)
    }
}

/// An initiation we sent: what is needed to consume the response.
pub(super) struct CreatedInitiation {
    symmetric: Symmetric,
    ephemeral: StaticSecret,
}

impl Clone for CreatedInitiation {
    fn clone(&self) -> Self {
        Self { symmetric: self.symmetric.clone(), ephemeral: self.ephemeral.clone() }
    }
}

/// Creates an initiation to `responder`, its MACs still zero.
///
/// `ephemeral` is 32 fresh random bytes. Fails only if a shared secret is zero, that is, if
/// `responder` is no proper public key.
// spec: WG 5.4.2-a
pub(super) fn create_initiation(
    identity: &Identity,
    responder: &[u8; 32],
    static_static: &Secret,
    ephemeral: Zeroizing<[u8; 32]>,
    sender: u32,
    timestamp: &[u8; TIMESTAMP_LEN],
) -> Result<([u8; INITIATION_LEN], CreatedInitiation), NoiseError> {
    let ephemeral = clamped(*ephemeral);
    let ephemeral_public = PublicKey::from(&ephemeral).to_bytes();
    let mut symmetric = Symmetric::new(responder);
    symmetric.mix_ephemeral(&ephemeral_public);
    let es = shared_secret(&ephemeral, responder).ok_or(NoiseError::ZeroSharedSecret)?;
    let key = symmetric.mix_key_for_aead(es.expose());
    let static_key = symmetric.seal(&key, &identity.public);
    let key = symmetric.mix_key_for_aead(static_static.expose());
    let timestamp = symmetric.seal(&key, timestamp);
    let message = Initiation::write(sender, &ephemeral_public, &static_key, &timestamp);
    Ok((message, CreatedInitiation { symmetric, ephemeral }))
}

/// An initiation whose static key has been opened: the peer is known, its timestamp is not.
pub(super) struct OpenedInitiation {
    symmetric: Symmetric,
    /// The initiator's static public key.
    pub(super) initiator: [u8; 32],
    ephemeral: [u8; 32],
}

/// Opens the static key of an initiation: one curve multiplication, before the peer is known.
// spec: WG 5.4.2-b
pub(super) fn consume_initiation(
    identity: &Identity,
    message: &Initiation<'_>,
) -> Result<OpenedInitiation, NoiseError> {
    let mut symmetric = Symmetric::new(&identity.public);
    symmetric.mix_ephemeral(message.ephemeral);
    let es =
        shared_secret(&identity.private, message.ephemeral).ok_or(NoiseError::ZeroSharedSecret)?;
    let key = symmetric.mix_key_for_aead(es.expose());
    let initiator = symmetric.open(&key, message.static_key).ok_or(NoiseError::StaticKey)?;
    Ok(OpenedInitiation { symmetric, initiator, ephemeral: *message.ephemeral })
}

/// An authentic initiation: what is needed to create the response.
pub(super) struct ConsumedInitiation {
    symmetric: Symmetric,
    initiator: [u8; 32],
    ephemeral: [u8; 32],
}

impl OpenedInitiation {
    /// Opens the timestamp, which authenticates the initiator.
    pub(super) fn authenticate(
        mut self,
        static_static: &Secret,
        message: &Initiation<'_>,
    ) -> Result<(ConsumedInitiation, [u8; TIMESTAMP_LEN]), NoiseError> {
        let key = self.symmetric.mix_key_for_aead(static_static.expose());
        let timestamp =
            self.symmetric.open(&key, message.timestamp).ok_or(NoiseError::Timestamp)?;
        let Self { symmetric, initiator, ephemeral } = self;
        Ok((ConsumedInitiation { symmetric, initiator, ephemeral }, timestamp))
    }
}

/// The two keys of a session, as one side sees them.
pub(super) struct SessionKeys {
    pub(super) sending: Secret,
    pub(super) receiving: Secret,
}

impl ConsumedInitiation {
    /// Creates the response, its MACs still zero, and the responder's session keys.
    ///
    /// `ephemeral` is 32 fresh random bytes; `sender` is our index, `receiver` the initiation's.
    // spec: WG 5.4.3-b
    pub(super) fn create_response(
        mut self,
        preshared_key: &Secret,
        ephemeral: Zeroizing<[u8; 32]>,
        sender: u32,
        receiver: u32,
    ) -> Result<([u8; RESPONSE_LEN], SessionKeys), NoiseError> {
        let ephemeral = clamped(*ephemeral);
        let ephemeral_public = PublicKey::from(&ephemeral).to_bytes();
        self.symmetric.mix_ephemeral(&ephemeral_public);
        let ee = shared_secret(&ephemeral, &self.ephemeral).ok_or(NoiseError::ZeroSharedSecret)?;
        self.symmetric.mix_key(ee.expose());
        let se = shared_secret(&ephemeral, &self.initiator).ok_or(NoiseError::ZeroSharedSecret)?;
        self.symmetric.mix_key(se.expose());
        let key = self.symmetric.mix_preshared_key(preshared_key);
        let empty = self.symmetric.seal(&key, &[]);
        let message = Response::write(sender, receiver, &ephemeral_public, &empty);
        let [receiving, sending] = kdf(&self.symmetric.chaining_key, &[]);
        // spec: WG 5.4.5-b — `self` and the ephemeral key are wiped here, as they drop.
        Ok((message, SessionKeys { sending, receiving }))
    }
}

impl CreatedInitiation {
    /// Consumes the response and returns the initiator's session keys.
    // spec: WG 5.4.3-c
    pub(super) fn consume_response(
        mut self,
        identity: &Identity,
        preshared_key: &Secret,
        message: &Response<'_>,
    ) -> Result<SessionKeys, NoiseError> {
        self.symmetric.mix_ephemeral(message.ephemeral);
        let ee = shared_secret(&self.ephemeral, message.ephemeral)
            .ok_or(NoiseError::ZeroSharedSecret)?;
        self.symmetric.mix_key(ee.expose());
        let se = shared_secret(&identity.private, message.ephemeral)
            .ok_or(NoiseError::ZeroSharedSecret)?;
        self.symmetric.mix_key(se.expose());
        let key = self.symmetric.mix_preshared_key(preshared_key);
        let []: [u8; 0] = self.symmetric.open(&key, message.empty).ok_or(NoiseError::Empty)?;
        // spec: WG 5.4.5-a
        let [sending, receiving] = kdf(&self.symmetric.chaining_key, &[]);
        Ok(SessionKeys { sending, receiving })
    }
}

/// X25519; `None` if the result is zero. The comparison takes constant time.
// spec: WG 5.4-a, WG 5.4-c
fn shared_secret(private: &StaticSecret, public: &[u8; 32]) -> Option<Secret> {
    #[cfg(test)]
    MULTIPLICATIONS.set(MULTIPLICATIONS.get() + 1);
    let shared = x25519(private.as_bytes(), public);
    (!is_zero(&shared)).then(|| Secret(*shared))
}

/// A private key with the three bits of byte 0 and the two of byte 31 set as the curve wants them.
// spec: WG 5.4-b
fn clamped(mut private: [u8; 32]) -> StaticSecret {
    let [first, .., last] = &mut private;
    *first &= 0xF8;
    *last = (*last & 0x7F) | 0x40;
    let secret = StaticSecret::from(private);
    private.zeroize();
    secret
}

/// BLAKE2s with 32 bytes of output over the parts one after the other.
// spec: WG 5.4-g
pub(super) fn hash(parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Blake2s256::new();
    for part in parts {
        Digest::update(&mut hash, part);
    }
    hash.finalize().into()
}

/// BLAKE2s in keyed mode with 16 bytes of output.
// spec: WG 5.4-g — the output length is a parameter of the hash, not a truncation.
pub(super) fn mac<const KEY_LEN: usize>(key: &[u8; KEY_LEN], parts: &[&[u8]]) -> [u8; 16] {
    const { assert!(KEY_LEN > 0 && KEY_LEN <= 32) };
    let mut mac = Blake2sMac::<U16>::new_with_salt_and_personal(Some(key), &[], &[])
        .expect("a BLAKE2s key of 1 to 32 bytes, as the line above asserts");
    for part in parts {
        Update::update(&mut mac, part);
    }
    mac.finalize_fixed().into()
}

/// HMAC over BLAKE2s, whose block is 64 bytes. [RFC 2104]
// spec: WG 5.4-h
pub(super) fn hmac(key: &[u8; 32], parts: &[&[u8]]) -> Secret {
    let mut pad = Zeroizing::new([0x36; 64]);
    for (slot, byte) in pad.iter_mut().zip(key) {
        *slot ^= byte;
    }
    let mut inner = Blake2s256::new();
    Digest::update(&mut inner, pad.as_slice());
    for part in parts {
        Digest::update(&mut inner, part);
    }
    let inner = Zeroizing::new(<[u8; 32]>::from(inner.finalize()));
    for slot in pad.iter_mut() {
        *slot ^= 0x36 ^ 0x5C;
    }
    Secret(hash(&[pad.as_slice(), inner.as_slice()]))
}

/// The first `N` outputs of the key derivation; `N` is at most 255, and 3 in this protocol.
// spec: WG 5.4-i
pub(super) fn kdf<const N: usize>(key: &[u8; 32], input: &[u8]) -> [Secret; N] {
    let secret = hmac(key, &[input]);
    let mut previous: Option<Secret> = None;
    let mut number = 0_u8;
    core::array::from_fn(|_| {
        number = number.wrapping_add(1);
        let output = match &previous {
            None => hmac(secret.expose(), &[&[number]]),
            Some(previous) => hmac(secret.expose(), &[previous.expose(), &[number]]),
        };
        previous = Some(output.clone());
        output
    })
}

/// ChaCha20-Poly1305 with counter 0, in place; returns the tag.
// spec: WG 5.4-e
fn seal_detached(key: &Secret, associated: &[u8], body: &mut [u8]) -> [u8; TAG_LEN] {
    let cipher = ChaCha20Poly1305::new(key.expose().into());
    cipher
        .encrypt_inout_detached(&[0; 12].into(), associated, body.into())
        .expect("handshake fields are shorter than the cipher's limit of 256 GiB")
        .into()
}

/// Opens what [`seal_detached`] sealed; `None` if the tag is wrong, compared in constant time.
fn open_detached(
    key: &Secret,
    associated: &[u8],
    body: &mut [u8],
    tag: &[u8; TAG_LEN],
) -> Option<()> {
    let cipher = ChaCha20Poly1305::new(key.expose().into());
    cipher.decrypt_inout_detached(&[0; 12].into(), associated, body.into(), tag.into()).ok()
}

/// XChaCha20-Poly1305 over a cookie.
// spec: WG 5.4-f
pub(super) fn seal_cookie(
    key: &[u8; 32],
    nonce: &[u8; 24],
    cookie: &[u8; 16],
    associated: &[u8; 16],
) -> [u8; 32] {
    let mut sealed = [0; 32];
    if let Some((body, tag)) = sealed.split_first_chunk_mut::<16>() {
        *body = *cookie;
        let sealed_tag: [u8; 16] = XChaCha20Poly1305::new(key.into())
            .encrypt_inout_detached(nonce.into(), associated, body.as_mut_slice().into())
            .expect("16 bytes are below the cipher's limit")
            .into();
        tag.copy_from_slice(&sealed_tag);
    }
    sealed
}

/// Opens what [`seal_cookie`] sealed; `None` if the tag is wrong.
pub(super) fn open_cookie(
    key: &[u8; 32],
    nonce: &[u8; 24],
    sealed: &[u8; 32],
    associated: &[u8; 16],
) -> Option<[u8; 16]> {
    let (body, tag) = sealed.split_first_chunk::<16>()?;
    let tag: &[u8; 16] = tag.try_into().ok()?;
    let mut cookie = *body;
    XChaCha20Poly1305::new(key.into())
        .decrypt_inout_detached(nonce.into(), associated, cookie.as_mut_slice().into(), tag.into())
        .ok()?;
    Some(cookie)
}

#[cfg(test)]
std::thread_local! {
    /// How many shared secrets this thread has computed.
    pub(super) static MULTIPLICATIONS: core::cell::Cell<usize> = const { core::cell::Cell::new(0) };
}

#[cfg(test)]
mod tests;
