//! Keys, and how they are written: 32 bytes, in base64 of 44 characters.
//!
//! Reading and writing takes the same time whatever the key is (`base64ct`).

use std::fmt;

use base64ct::{Base64, Encoding};
use subtle::ConstantTimeEq;
use x25519_dalek::StaticSecret;
use zeroize::{Zeroize, Zeroizing};

/// Characters of a key.
pub const TEXT_LEN: usize = 44;
/// What a text has to be that is to be a key.
pub const FORM: &str = "44 characters of base64";

/// A public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey(pub [u8; 32]);

impl PublicKey {
    /// Reads a key; `None` if the text is none.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; 32];
        decode(text, &mut bytes).then_some(Self(bytes))
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        encode(&self.0, |text| f.write_str(text))
    }
}

/// A private or preshared key. Wiped when it is dropped; it has neither `Debug` nor `Display`.
#[derive(Clone)]
pub struct SecretKey(Zeroizing<[u8; 32]>);

impl SecretKey {
    /// Reads a key; `None` if the text is none.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut key = Self::none();
        decode(text, &mut key.0).then_some(key)
    }

    /// The key of these bytes.
    #[must_use]
    pub fn of(bytes: &[u8; 32]) -> Self {
        let mut key = Self::none();
        key.0.copy_from_slice(bytes);
        key
    }

    /// All zeros: what stands for no key.
    #[must_use]
    pub fn none() -> Self {
        Self(Zeroizing::new([0; 32]))
    }

    /// A new preshared key.
    ///
    /// # Errors
    ///
    /// The system has no random bytes.
    pub fn random() -> Result<Self, getrandom::Error> {
        let mut key = Self::none();
        getrandom::fill(&mut *key.0)?;
        Ok(key)
    }

    /// A new private key: the bits that RFC 7748 fixes are already as they will be used.
    ///
    /// # Errors
    ///
    /// The system has no random bytes.
    pub fn random_private() -> Result<Self, getrandom::Error> {
        let mut key = Self::random()?;
        key.0[0] &= 248;
        key.0[31] = key.0[31] & 127 | 64;
        Ok(key)
    }

    /// The public key of this private one.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        let secret = StaticSecret::from(*self.0);
        PublicKey(x25519_dalek::PublicKey::from(&secret).to_bytes())
    }

    /// Its bytes.
    #[must_use]
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    /// Whether it stands for no key.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::none()
    }

    /// Appends the key to `text`.
    pub fn write(&self, text: &mut Zeroizing<String>) {
        // A push to a String cannot fail.
        let _ = encode(&self.0, |key| {
            text.push_str(key);
            Ok(())
        });
    }
}

impl PartialEq for SecretKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&*other.0).into()
    }
}

impl Eq for SecretKey {}

fn decode(text: &str, bytes: &mut [u8; 32]) -> bool {
    text.len() == TEXT_LEN && Base64::decode(text, bytes).is_ok_and(|read| read.len() == 32)
}

fn encode(bytes: &[u8; 32], write: impl FnOnce(&str) -> fmt::Result) -> fmt::Result {
    let mut buffer = [0; TEXT_LEN];
    let written = Base64::encode(bytes, &mut buffer).map_err(|_| fmt::Error).and_then(write);
    buffer.zeroize();
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7748, section 6.1: Alice's keys.
    const PRIVATE: &str = "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=";
    const PUBLIC: &str = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=";

    #[test]
    fn a_private_key_has_the_public_one_of_the_rfc() {
        let private = SecretKey::parse(PRIVATE).unwrap();
        assert_eq!(private.public().to_string(), PUBLIC);
        let mut text = Zeroizing::new(String::new());
        private.write(&mut text);
        assert_eq!(*text, PRIVATE);
    }

    #[test]
    fn what_is_no_key_is_refused() {
        for (text, why) in [
            ("", "empty"),
            (&PUBLIC[..43], "one short"),
            (&format!("{PUBLIC}="), "one long"),
            (&format!(" {}", &PUBLIC[1..]), "a space"),
            (&PUBLIC.replace('/', "_"), "another alphabet"),
            (&PUBLIC.replace("mo=", "mp="), "bits behind the last byte"),
            (&"A".repeat(44), "33 bytes"),
            (&format!("{}==", &PUBLIC[..42]), "31 bytes"),
        ] {
            assert!(PublicKey::parse(text).is_none() && SecretKey::parse(text).is_none(), "{why}");
        }
    }

    #[test]
    fn new_keys_differ_and_private_ones_are_clamped() {
        let (one, other) = (SecretKey::random_private().unwrap(), SecretKey::random().unwrap());
        assert!(one != other && !one.is_none() && SecretKey::none().is_none());
        let bytes = one.expose();
        assert_eq!((bytes[0] & 7, bytes[31] & 192), (0, 64));
    }
}
