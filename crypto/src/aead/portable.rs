//! Packet by packet with the `chacha20poly1305` crate: the tier for any CPU, and the oracle.
//!
//! The source is copied into the destination first and worked on there. That is one more pass than
//! needed, and in exchange every byte of a source that may change is read exactly once.

use chacha20poly1305::aead::{AeadInOut, KeyInit};
use chacha20poly1305::{ChaCha20Poly1305, Nonce, Tag};
use zeroize::Zeroize;

use super::{Job, TAG_LEN, Verdict};

/// Seals one job whose lengths agree; returns how many bytes of the destination were written.
#[inline(never)] // Its frame would add to that of the other tiers.
pub(super) fn seal(job: &mut Job<'_>) -> usize {
    let gathered = job.source.gather(job.destination);
    let Some((text, tag)) = job.destination.split_last_chunk_mut::<TAG_LEN>() else { return 0 };
    let cipher = cipher(job.key.words());
    let written = gathered + text.len() + TAG_LEN;
    if let Ok(computed) = cipher.encrypt_inout_detached(&nonce(job.counter), &[], text.into()) {
        tag.copy_from_slice(&computed);
        job.verdict = Verdict::Done;
    }
    written
}

/// Opens one job whose lengths agree; returns how many bytes of the destination were written.
#[inline(never)] // As above.
pub(super) fn open(job: &mut Job<'_>) -> usize {
    let Some(text_len) = job.source.len().checked_sub(TAG_LEN) else { return 0 };
    let mut tag = Tag::default();
    let gathered = job.source.gather_split(&mut job.destination[..], text_len, &mut tag);
    let Some(text) = job.destination.get_mut(..text_len) else { return gathered };
    let cipher = cipher(job.key.words());
    let opened = cipher.decrypt_inout_detached(&nonce(job.counter), &[], text.into(), &tag);
    job.verdict = match opened {
        Ok(()) => Verdict::Done,
        Err(_) => {
            if let Some(text) = job.destination.get_mut(..text_len) {
                text.zeroize();
            }
            Verdict::Forged
        }
    };
    gathered + text_len
}

/// The crate's cipher for a key of ours. The crate wipes it on drop.
fn cipher(words: &[u32; 8]) -> ChaCha20Poly1305 {
    let mut bytes = [0; 32];
    for (chunk, word) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(words) {
        *chunk = word.to_le_bytes();
    }
    let cipher = ChaCha20Poly1305::new(&bytes.into());
    bytes.zeroize();
    cipher
}

/// Four zero bytes, then the counter. [WG §5.4.6]
fn nonce(counter: u64) -> Nonce {
    let mut nonce = Nonce::default();
    if let Some(low) = nonce.last_chunk_mut::<8>() {
        *low = counter.to_le_bytes();
    }
    nonce
}
