//! Random bytes for the protocol core.
//!
//! The core's source of randomness must not fail, the system's may. So a worker has a generator of
//! its own that is seeded from the system when it starts, without which the driver does not load,
//! and stirred again every time the worker wakes. It erases its key with every use, so what a later
//! dump holds says nothing about keys made before. `PASSIVE_LEVEL`.

use crypto::{
    aead::{self, Job, Key, Source, TAG_LEN, Verdict},
    protocol::Random,
};
use nt::{irql::Passive, status::NtError};
use zeroize::{Zeroize, Zeroizing};

/// Bytes made at a time, besides the next key.
const OUTPUT_LEN: usize = 64;
const KEY_LEN: usize = 32;

/// A generator with fast key erasure: ChaCha20's output is first the next key, then the answer.
pub(crate) struct Generator {
    key: Zeroizing<[u8; KEY_LEN]>,
}

impl Generator {
    /// Seeds a generator from the system.
    ///
    /// # Errors
    ///
    /// What the system answers when it has no randomness.
    pub(crate) fn try_new(passive: &Passive) -> Result<Self, NtError> {
        let mut key = Zeroizing::new([0; KEY_LEN]);
        nt::random::fill(passive, &mut *key)?;
        Ok(Self { key })
    }

    /// Mixes in fresh bytes, if the system has some.
    pub(crate) fn stir(&mut self, passive: &Passive) {
        let mut fresh = Zeroizing::new([0; KEY_LEN]);
        if nt::random::fill(passive, &mut *fresh).is_ok() {
            for (byte, fresh) in self.key.iter_mut().zip(&*fresh) {
                *byte ^= fresh;
            }
        }
    }
}

impl Generator {
    /// Makes a secret of `N` bytes.
    pub(crate) fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.fill(&mut bytes);
        bytes
    }
}

impl Random for Generator {
    fn fill(&mut self, bytes: &mut [u8]) {
        for part in bytes.chunks_mut(OUTPUT_LEN) {
            let mut stream = [0; KEY_LEN + OUTPUT_LEN + TAG_LEN];
            let key = Key::new(*self.key);
            // A key is used once, so its counter is always 0.
            let mut job = [Job {
                key: &key,
                counter: 0,
                source: Source::InPlace { len: KEY_LEN + OUTPUT_LEN },
                destination: &mut stream,
                verdict: Verdict::Pending,
            }];
            aead::seal(None, &mut job);
            let (next, output) = stream.split_at(KEY_LEN);
            self.key.copy_from_slice(next);
            for (byte, random) in part.iter_mut().zip(output) {
                *byte = *random;
            }
            stream.zeroize();
        }
    }
}
