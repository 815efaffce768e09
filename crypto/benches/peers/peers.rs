//! The peers that are C: aws-lc, OpenSSL, and ipsec-mb where it is installed; a packet at a time in place, each
//! with its own choice of code.

use std::hint::black_box;
use std::time::Instant;

use aws_lc_rs::aead as aws;
use crypto::aead::TAG_LEN;
use openssl::cipher::Cipher;
use openssl::cipher_ctx::CipherCtx;

use super::{Arena, Contender, Line, nonce};

/// `aws-lc-rs`.
pub(super) fn aws_lc(line: &Line) -> Contender {
    let (opens, lens) = (line.opens, line.lens());
    let keys = line.keys_of_packets().map(|key| {
        let key = aws::UnboundKey::new(&aws::CHACHA20_POLY1305, &key);
        aws::LessSafeKey::new(key.expect("32 bytes"))
    });
    let run = move |arena: &mut Arena, counter: u64| {
        let begun = Instant::now();
        for (index, key) in keys.iter().enumerate() {
            let nonce = aws::Nonce::assume_unique_for_key(nonce(counter + index as u64));
            let packet = arena.packet(index);
            if opens {
                black_box(key.open_in_place(nonce, aws::Aad::empty(), packet).expect("authentic"));
            } else {
                let (text, tag) = packet.split_at_mut(lens[index]);
                let sealed = key.seal_in_place_separate_tag(nonce, aws::Aad::empty(), text);
                tag.copy_from_slice(sealed.expect("short").as_ref());
            }
        }
        begun.elapsed()
    };
    Contender { name: "aws-lc-rs", run: Box::new(run) }
}

/// OpenSSL's EVP, with a context for each key.
pub(super) fn openssl(line: &Line) -> Contender {
    let (opens, lens) = (line.opens, line.lens());
    let mut contexts = line.keys_of_packets().map(|key| {
        let mut context = CipherCtx::new().expect("memory");
        let cipher = Some(Cipher::chacha20_poly1305());
        if opens {
            context.decrypt_init(cipher, Some(&key), None).expect("a key of 32 bytes");
        } else {
            context.encrypt_init(cipher, Some(&key), None).expect("a key of 32 bytes");
        }
        context
    });
    let run = move |arena: &mut Arena, counter: u64| {
        let begun = Instant::now();
        for (index, context) in contexts.iter_mut().enumerate() {
            let nonce = nonce(counter + index as u64);
            let len = lens[index];
            let (text, tag) = arena.packet(index).split_at_mut(len);
            if opens {
                context.decrypt_init(None, None, Some(&nonce)).expect("a nonce of 12 bytes");
                context.set_tag(&tag[..TAG_LEN]).expect("a tag");
                context.cipher_update_inplace(text, len).expect("short");
                context.cipher_final(&mut []).expect("authentic");
            } else {
                context.encrypt_init(None, None, Some(&nonce)).expect("a nonce of 12 bytes");
                context.cipher_update_inplace(text, len).expect("short");
                context.cipher_final(&mut []).expect("sealed");
                context.tag(&mut tag[..TAG_LEN]).expect("room for a tag");
            }
        }
        begun.elapsed()
    };
    Contender { name: "OpenSSL", run: Box::new(run) }
}

#[cfg(ipsec_mb)]
mod ipsec_mb {
    use std::ffi::c_void;

    unsafe extern "C" {
        pub(super) fn ipsec_mb_new() -> *mut c_void;
        pub(super) fn ipsec_mb_crypt(
            manager: *mut c_void,
            opens: i32,
            key: *const u8,
            nonce: *const u8,
            text: *mut u8,
            len: u64,
            tag: *mut u8,
        );
    }
}

/// Intel's `ipsec-mb`, by its direct calls.
#[cfg(ipsec_mb)]
pub(super) fn ipsec_mb(line: &Line) -> Contender {
    let (opens, lens) = (line.opens, line.lens());
    let keys = line.keys_of_packets();
    // SAFETY: no precondition.
    let manager = unsafe { ipsec_mb::ipsec_mb_new() };
    assert!(!manager.is_null(), "memory");
    let run = move |arena: &mut Arena, counter: u64| {
        let begun = Instant::now();
        for (index, key) in keys.iter().enumerate() {
            let nonce = nonce(counter + index as u64);
            let (text, found) = arena.packet(index).split_at_mut(lens[index]);
            let (mut tag, len) = ([0; TAG_LEN], text.len() as u64);
            let (key, nonce, text) = (key.as_ptr(), nonce.as_ptr(), text.as_mut_ptr());
            // SAFETY: a manager, a key of 32 bytes, a nonce of 12, a text, and room for a tag.
            unsafe {
                let tag = tag.as_mut_ptr();
                ipsec_mb::ipsec_mb_crypt(manager, opens.into(), key, nonce, text, len, tag);
            }
            if opens {
                assert_eq!(found[..TAG_LEN], tag, "authentic");
            } else {
                found.copy_from_slice(&tag);
            }
        }
        begun.elapsed()
    };
    Contender { name: "ipsec-mb", run: Box::new(run) }
}
