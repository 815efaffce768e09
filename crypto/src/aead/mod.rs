//! ChaCha20-Poly1305 for batches of WireGuard packets.
//!
//! A batch of packets is sealed or opened side by side: `(packet, block)` pairs are the lanes of
//! ChaCha20, and each packet is a lane of Poly1305. Keys, counters and lengths may all differ. The
//! nonce is WireGuard's (four zero bytes and the counter) and there is no associated data, which is
//! all that Transport Data needs; the handshake has its own use of the `chacha20poly1305` crate.
//!
//! ```text
//!   seal / open (here)     which tier runs
//!     tier                 what may run: CPUID, XGETBV, the OS's mask, policy, the token
//!     batch                lengths checked, sorted, dealt in groups of sixteen; or one by one
//!       group              where the packets of a group are, their one-time keys and tags
//!       engines            which ChaCha20 and which Poly1305 are a tier
//!         deal             blocks of packets to lanes
//!         chacha512 lanes  lanes of words: 32 in ZMM, 8 in YMM, 4 in XMM registers
//!         rows             one packet alone
//!         poly52 poly64    Poly1305 by IFMA, a packet to a lane; and in general registers
//!         beside edge512   Poly1305 beside the rounds in ZMM; blocks that are not 64 bytes together
//!         stitch           ChaCha20 by lanes and Poly1305 in general registers at the same time
//!         rounds… vector…  the rounds as assembly; registers as values
//!       wipe               registers and stack, when all is done
//!     portable             one by one, with the crate; also the oracle of every test
//!   key piece              a key; source bytes that may change while they are read
//!   blake2s                mac1 of eight handshake messages, in the same registers
//! ```
//!
//! **Forged packets.** The tag is computed over the ciphertext first, and the text of a packet whose
//! tag is wrong is never computed: its place is zeroed. **Sources that change.** What is sealed is
//! authenticated where it was written. What is opened from memory that may change is copied to the
//! destination, and the copy is authenticated and decrypted. **Sources in pieces** are read where they
//! are; where a piece ends inside a block, its bytes come together in a register.
//!
//! Nothing here allocates, blocks or panics; a call uses at most 4 KiB of stack. It runs at any IRQL
//! up to `DISPATCH_LEVEL`; on Windows every tier above the baseline takes an [`ExtendedState`].

// The group, its lanes and rows are for any CPU; the engines that use them are for x86-64 so far.
#![cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]

#[cfg(target_arch = "x86_64")]
#[macro_use]
mod rounds256;
#[cfg(target_arch = "x86_64")]
#[macro_use]
mod rounds512;

mod batch;
#[cfg(target_arch = "x86_64")]
mod beside;
pub(crate) mod blake2s;
mod chacha;
#[cfg(target_arch = "x86_64")]
mod chacha512;
mod deal;
#[cfg(target_arch = "x86_64")]
mod edge512;
#[cfg(target_arch = "x86_64")]
mod engines;
mod group;
mod key;
mod lanes;
mod piece;
mod poly;
#[cfg(target_arch = "x86_64")]
mod poly52;
mod poly64;
mod portable;
mod rows;
mod stitch;
mod tier;
#[cfg(target_arch = "x86_64")]
mod vector128;
#[cfg(target_arch = "x86_64")]
mod vector256;
#[cfg(target_arch = "x86_64")]
mod vector512;
mod wipe;

pub use key::Key;
pub use piece::Piece;
#[cfg(target_arch = "x86_64")]
use tier::{Avx2, Avx512, Ifma};
pub use tier::{ExtendedState, Tier, detect};
pub use wipe::stack as wipe_stack;

/// Length of the Poly1305 tag at the end of a sealed packet. [RFC 8439 §2.8]
pub const TAG_LEN: usize = 16;

/// Where a job's input bytes are.
pub enum Source<'a> {
    /// The first `len` bytes of the destination.
    InPlace {
        /// Length of the plaintext (seal), or of ciphertext and tag (open).
        len: usize,
    },
    /// These pieces, one after the other; none overlaps the destination.
    ///
    /// They may have any lengths, also zero, and may change while they are read: whatever was read
    /// is what is authenticated. Padding is one more piece, of zeroes.
    Pieces(&'a [Piece<'a>]),
}

impl Source<'_> {
    /// Length of the plaintext (seal), or of ciphertext and tag (open).
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::InPlace { len } => *len,
            Self::Pieces(pieces) => {
                pieces.iter().fold(0, |sum, piece| usize::saturating_add(sum, piece.len()))
            }
        }
    }

    /// Whether there are no input bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads all source bytes once, into the front of `into`. Those in place are there already.
    ///
    /// Returns how many bytes of `into` were written.
    fn gather(&self, into: &mut [u8]) -> usize {
        self.gather_split(into, usize::MAX, &mut [])
    }

    /// As [`Source::gather`], but what lies past `split` goes into `tail`.
    fn gather_split(&self, into: &mut [u8], split: usize, tail: &mut [u8]) -> usize {
        let mut written = 0;
        match self {
            Self::InPlace { .. } => {
                if let Some(found) = into.get(split..) {
                    let count = found.len().min(tail.len());
                    tail[..count].copy_from_slice(&found[..count]);
                }
            }
            Self::Pieces(pieces) => {
                let head = split.min(into.len());
                let (mut into, mut tail) = (&mut into[..head], tail);
                for piece in *pieces {
                    let (first, second) = piece.split_at(into.len());
                    let count = first.copy_to(into);
                    written += count;
                    into = into.split_at_mut(count).1;
                    let count = second.copy_to(tail);
                    tail = tail.split_at_mut(count).1;
                }
            }
        }
        written
    }
}

/// What became of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Not done. After a call it means that the job's lengths did not agree: nothing was written.
    Pending,
    /// Sealed, or authentic and opened.
    Done,
    /// Not authentic. No byte of the plaintext is left: the bytes it would have taken are zero.
    Forged,
}

/// One packet to seal or open.
pub struct Job<'a> {
    /// The key; jobs of one call may have different ones.
    pub key: &'a Key,
    /// The packet's counter, used once per key. [WG §5.4.6]
    pub counter: u64,
    /// The plaintext to seal, or the ciphertext and tag to open.
    pub source: Source<'a>,
    /// Seal: exactly the plaintext's length plus [`TAG_LEN`]. Open: at least the plaintext's
    /// length; in place, at least the source's. What lies past those bytes is left alone.
    pub destination: &'a mut [u8],
    /// [`Verdict::Pending`] before the call.
    pub verdict: Verdict,
}

/// Seals each job: ciphertext, then tag, into its destination.
///
/// `state` is the proof that the extended registers may be used, and says which tier runs. Without
/// it the code uses only what every x86-64 kernel thread may use.
///
/// A job is [`Verdict::Done`] afterwards, or [`Verdict::Pending`] if its lengths do not agree.
///
/// Returns how many bytes were written to destinations: text and tag, each byte once. (The portable
/// tier copies the text there first, and counts it twice.)
///
/// Source: [WG §5.4.6], [RFC 8439 §2.8].
pub fn seal(state: Option<&ExtendedState>, jobs: &mut [Job<'_>]) -> usize {
    #[cfg(target_arch = "x86_64")]
    if state.is_none_or(|state| state.tier() != Tier::Portable) {
        return match state {
            Some(state) if let Some(proof) = Ifma::of(state) => {
                batch::seal(&engines::IfmaTier(proof), jobs)
            }
            Some(state) if let Some(proof) = Avx512::of(state) => {
                batch::seal(&engines::Avx512Tier(proof), jobs)
            }
            Some(state) if let Some(proof) = Avx2::of(state) => {
                batch::seal(&engines::Avx2Tier(proof), jobs)
            }
            _ => batch::seal(&engines::Sse2Tier, jobs),
        };
    }
    let _ = state;
    let mut written = 0;
    for job in jobs {
        if batch::to_seal(job).is_some() {
            written += portable::seal(job);
        }
    }
    wipe::after_portable();
    written
}

/// Opens each job: the plaintext into its destination, if the tag is right.
///
/// A job is [`Verdict::Done`] or [`Verdict::Forged`] afterwards (also when the source is too short
/// to hold a tag), or [`Verdict::Pending`] if its lengths do not agree. The plaintext of a forged
/// packet is never computed, and its place in the destination is zeroed.
///
/// Returns how many bytes were written to destinations: the text, or the zeroes in its place, each byte
/// once; the text twice where it was copied there first, because it may change. (The portable tier
/// always does so.)
///
/// Source: [WG §5.4.6], [RFC 8439 §2.8].
pub fn open(state: Option<&ExtendedState>, jobs: &mut [Job<'_>]) -> usize {
    #[cfg(target_arch = "x86_64")]
    if state.is_none_or(|state| state.tier() != Tier::Portable) {
        return match state {
            Some(state) if let Some(proof) = Ifma::of(state) => {
                batch::open(&engines::IfmaTier(proof), jobs)
            }
            Some(state) if let Some(proof) = Avx512::of(state) => {
                batch::open(&engines::Avx512Tier(proof), jobs)
            }
            Some(state) if let Some(proof) = Avx2::of(state) => {
                batch::open(&engines::Avx2Tier(proof), jobs)
            }
            _ => batch::open(&engines::Sse2Tier, jobs),
        };
    }
    let _ = state;
    let mut written = 0;
    for job in jobs {
        if batch::to_open(job).is_some() {
            written += portable::open(job);
        }
    }
    wipe::after_portable();
    written
}

/// Whether saving the extended state pays for a batch of so many bytes of text in all.
///
/// Below, the time that a wide tier gains over the one without a state is less than what saving and
/// restoring costs (130 to 300 ns): call with no state then. Measured on two CPUs with AVX-512; two
/// packets of 64 bytes do not pay, one of 512 does.
#[must_use]
pub const fn is_worth_saving_state(text_len: usize) -> bool {
    text_len >= 256
}

/// Longest plaintext of a job: far above any packet, and its blocks are numbered in 16 bits.
const MAX_LEN: usize = 1 << 20;

#[cfg(test)]
pub(crate) mod tests;
