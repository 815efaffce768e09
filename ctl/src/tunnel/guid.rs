//! The adapter's GUID: the same for the same tunnel, so that Windows knows the network again and one adapter is not made twice.

use std::fmt;

use blake2::{Blake2s256, Digest};

use crate::key::PublicKey;

/// What is hashed first, so that nothing else hashed so is a GUID of ours.
const LABEL: &[u8] = b"Penstock adapter 1";

/// A GUID, its first eight bytes in the order in which they are written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Guid(pub u128);

impl Guid {
    /// The GUID of a tunnel's adapter: of its name, in any case, and of its key.
    ///
    /// Its version is 8: made by a rule of one's own. [RFC 9562 §5.8]
    #[must_use]
    pub fn of_tunnel(name: &str, public_key: Option<PublicKey>) -> Self {
        let name = name.to_ascii_lowercase();
        let mut hash = Blake2s256::new();
        hash.update(LABEL);
        hash.update((name.len() as u64).to_le_bytes());
        hash.update(name.as_bytes());
        hash.update(public_key.map_or([0; 32], |key| key.0));
        let hash: [u8; 32] = hash.finalize().into();
        let mut bytes = [0; 16];
        for (byte, hashed) in bytes.iter_mut().zip(hash) {
            *byte = hashed;
        }
        bytes[6] = bytes[6] & 0x0F | 0x80;
        bytes[8] = bytes[8] & 0x3F | 0x80;
        Self(u128::from_be_bytes(bytes))
    }
}

impl fmt::Display for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = format!("{:032x}", self.0);
        let part = |from, to| digits.get(from..to).unwrap_or_default();
        let (a, b, c, d, e) = (part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32));
        write!(f, "{{{a}-{b}-{c}-{d}-{e}}}")
    }
}

impl fmt::Debug for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tunnel_has_one_guid() {
        let of = |name, key: u8| Guid::of_tunnel(name, Some(PublicKey([key; 32])));
        assert_eq!(of("Office", 1), of("office", 1));
        assert_ne!(of("office", 1), of("office", 2));
        assert_ne!(of("office", 1), of("home", 1));
        assert_ne!(of("office", 0), of("offic", 0));
        let text = of("office", 1).to_string();
        assert_eq!(text.len(), 38);
        assert_eq!(text.get(15..16), Some("8"), "{text}");
        assert!(matches!(text.get(20..21), Some("8" | "9" | "a" | "b")), "{text}");
    }
}
