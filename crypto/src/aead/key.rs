//! One direction's key of a session.

use zeroize::Zeroize;

crate::never_printed!(Key);

/// The ChaCha20-Poly1305 key of one direction of a keypair.
///
/// Holds the key as the cipher's eight words and nothing derived from it, so it may be shared by
/// every CPU that seals or opens for the peer. The words are wiped when it is dropped.
///
/// Neither `Clone` nor `Debug`: a key has one place and is never printed.
#[repr(align(32))]
pub struct Key {
    words: [u32; 8],
}

impl Key {
    /// Takes the key as bytes. The caller wipes its own copy.
    #[must_use]
    pub fn new(bytes: [u8; 32]) -> Self {
        let mut words = [0; 8];
        for (word, chunk) in words.iter_mut().zip(bytes.as_chunks::<4>().0) {
            *word = u32::from_le_bytes(*chunk);
        }
        let mut bytes = bytes;
        bytes.zeroize();
        Self { words }
    }

    /// The key as the words 4 to 11 of the ChaCha20 state. [RFC 8439 §2.3]
    pub(super) fn words(&self) -> &[u32; 8] {
        &self.words
    }
}

// spec: WG 7.4-a
impl Drop for Key {
    fn drop(&mut self) {
        self.words.zeroize();
    }
}

#[cfg(test)]
mod tests {
    use core::mem::ManuallyDrop;

    use super::*;

    // spec-test: WG 7.4-a
    #[test]
    fn a_key_is_wiped_where_it_lay() {
        let mut key = ManuallyDrop::new(Key::new([7; 32]));
        assert_eq!(key.words(), &[0x0707_0707; 8]);
        let at = &raw const key.words;
        // SAFETY: dropped once, here, and not used as a `Key` again.
        unsafe { ManuallyDrop::drop(&mut key) };
        // SAFETY: the stack slot lives to the end of the function, and any bytes are numbers.
        assert_eq!(unsafe { at.read_volatile() }, [0; 8]);
    }
}
