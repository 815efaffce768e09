//! A peer that has its cryptography from snow, and of WireGuard only the layouts, the two MACs, and no rules.
//!
//! It does what a peer should not: it sends any timestamp and counter, and any bytes inside. `Noise_IKpsk2` with the identifier
//! as its prologue is the whole of the handshake. [WG §5.4]

use chacha20poly1305::{XChaCha20Poly1305, aead::AeadInOut, aead::KeyInit};
use snow::{Builder, HandshakeState, StatelessTransportState};

use crate::net::{labelled, mac, request::public, sign};

const NOISE: &str = "Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s";
const IDENTIFIER: &[u8] = b"WireGuard v1 zx2c4 Jason@zx2c4.com";
/// Bytes of what snow makes: ephemeral key, static key, timestamp; ephemeral key, nothing.
const NOISE_INITIATION: usize = 32 + 48 + 28;
const NOISE_RESPONSE: usize = 32 + 16;
pub(crate) const INITIATION: usize = 4 + 4 + NOISE_INITIATION + 32;
pub(crate) const RESPONSE: usize = 4 + 4 + 4 + NOISE_RESPONSE + 32;
const COOKIE_REPLY: usize = 64;

/// The peer's keys, and whom it talks to.
pub(crate) struct Peer {
    pub(crate) private: [u8; 32],
    pub(crate) other: [u8; 32],
    pub(crate) preshared: [u8; 32],
}

/// An initiation that waits for its response.
pub(crate) struct Begun {
    noise: HandshakeState,
    pub(crate) index: u32,
    pub(crate) datagram: Vec<u8>,
}

/// A session's keys, our index and the other's.
pub(crate) struct Session {
    noise: StatelessTransportState,
    pub(crate) remote: u32,
}

impl Peer {
    fn builder(&self) -> Builder<'_> {
        Builder::new(NOISE.parse().unwrap())
            .prologue(IDENTIFIER)
            .and_then(|builder| builder.local_private_key(&self.private))
            .and_then(|builder| builder.psk(2, &self.preshared))
            .unwrap()
    }

    /// An initiation.
    pub(crate) fn begin(&self, index: u32, ephemeral: &[u8; 32], timestamp: &[u8; 12]) -> Begun {
        let mut noise = self
            .builder()
            .remote_public_key(&self.other)
            .unwrap()
            .fixed_ephemeral_key_for_testing_only(ephemeral)
            .build_initiator()
            .unwrap();
        let mut datagram = vec![1, 0, 0, 0];
        datagram.extend(index.to_le_bytes());
        datagram.resize(INITIATION, 0);
        let written = noise.write_message(timestamp, &mut datagram[8..]).unwrap();
        assert_eq!(written, NOISE_INITIATION);
        sign(&mut datagram, &self.other);
        Begun { noise, index, datagram }
    }

    /// Ends a handshake with the response to it; `None` if snow does not take what is in it.
    pub(crate) fn end(&self, begun: Begun, response: &[u8]) -> Option<Session> {
        let Begun { mut noise, index, .. } = begun;
        assert_eq!((response.len(), &response[..4]), (RESPONSE, &[2, 0, 0, 0][..]), "a response");
        assert_eq!(number(response, 8), index, "it names the initiation");
        self.check_mac1(response);
        noise.read_message(&response[12..][..NOISE_RESPONSE], &mut []).ok()?;
        let noise = noise.into_stateless_transport_mode().unwrap();
        Some(Session { noise, remote: number(response, 4) })
    }

    /// What snow makes of an initiation: the response, the session, and the timestamp that was in it.
    pub(crate) fn answer(
        &self,
        initiation: &[u8],
        index: u32,
        ephemeral: &[u8; 32],
    ) -> (Vec<u8>, Session, [u8; 12]) {
        assert_eq!((initiation.len(), &initiation[..4]), (INITIATION, &[1, 0, 0, 0][..]));
        self.check_mac1(initiation);
        let mut noise = self
            .builder()
            .fixed_ephemeral_key_for_testing_only(ephemeral)
            .build_responder()
            .unwrap();
        let mut timestamp = [0; 12];
        let read = noise.read_message(&initiation[8..][..NOISE_INITIATION], &mut timestamp);
        assert_eq!(read.expect("snow takes it"), 12);
        assert_eq!(noise.get_remote_static(), Some(&self.other[..]), "who began");
        let mut datagram = vec![2, 0, 0, 0];
        datagram.extend(index.to_le_bytes());
        datagram.extend_from_slice(&initiation[4..8]);
        datagram.resize(RESPONSE, 0);
        assert_eq!(noise.write_message(&[], &mut datagram[12..]).unwrap(), NOISE_RESPONSE);
        sign(&mut datagram, &self.other);
        let remote = number(initiation, 4);
        let noise = noise.into_stateless_transport_mode().unwrap();
        (datagram, Session { noise, remote }, timestamp)
    }

    fn check_mac1(&self, message: &[u8]) {
        let mut signed = message.to_vec();
        sign(&mut signed, &public(&self.private));
        assert!(signed == message, "mac1 is not ours");
    }

    /// A cookie reply to a message with a mac1. [WG §5.4.7]
    pub(crate) fn cookie_reply(&self, to: &[u8], cookie: [u8; 16]) -> Vec<u8> {
        let mut sealed = cookie;
        let key = labelled(b"cookie--", &public(&self.private));
        let nonce = [7; 24];
        let mac1 = &to[to.len() - 32..][..16];
        let tag = XChaCha20Poly1305::new(&key.into())
            .encrypt_inout_detached(&nonce.into(), mac1, sealed.as_mut_slice().into())
            .unwrap();
        [&[3, 0, 0, 0], &to[4..8], &nonce, &sealed, &tag[..]].concat()
    }

    /// The cookie in a reply to `to`.
    pub(crate) fn cookie(&self, reply: &[u8], to: &[u8]) -> [u8; 16] {
        assert_eq!((reply.len(), &reply[..4]), (COOKIE_REPLY, &[3, 0, 0, 0][..]));
        assert_eq!(reply[4..8], to[4..8], "it names what it answers");
        let mut cookie: [u8; 16] = reply[32..48].try_into().unwrap();
        let nonce: [u8; 24] = reply[8..32].try_into().unwrap();
        let tag: [u8; 16] = reply[48..].try_into().unwrap();
        let key = labelled(b"cookie--", &self.other);
        XChaCha20Poly1305::new(&key.into())
            .decrypt_inout_detached(
                &nonce.into(),
                &to[to.len() - 32..][..16],
                cookie.as_mut_slice().into(),
                &tag.into(),
            )
            .expect("a cookie for this message");
        cookie
    }
}

/// The mac2 of a message that has its mac1.
pub(crate) fn mac2(message: &[u8], cookie: &[u8; 16]) -> [u8; 16] {
    mac(cookie, &message[..message.len() - 16])
}

impl Session {
    /// Transport data with any counter and any contents.
    pub(crate) fn seal(&self, counter: u64, inner: &[u8]) -> Vec<u8> {
        let mut datagram = vec![4, 0, 0, 0];
        datagram.extend(self.remote.to_le_bytes());
        datagram.extend(counter.to_le_bytes());
        datagram.resize(16 + inner.len() + 16, 0);
        self.noise.write_message(counter, inner, &mut datagram[16..]).unwrap();
        datagram
    }

    /// What is in transport data for `index`; `None` if it is not of this session.
    pub(crate) fn open(&self, datagram: &[u8]) -> Option<(u64, Vec<u8>)> {
        let counter = u64::from_le_bytes(datagram.get(8..16)?.try_into().unwrap());
        let mut inner = vec![0; datagram.len()];
        let len = self.noise.read_message(counter, &datagram[16..], &mut inner).ok()?;
        inner.truncate(len);
        Some((counter, inner))
    }
}

pub(crate) fn number(message: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(message[at..at + 4].try_into().unwrap())
}
