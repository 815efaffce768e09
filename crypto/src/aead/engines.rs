//! The tiers: which ChaCha20 and which Poly1305 go together, and where the wide code is entered.
//!
//! | tier | ChaCha20 | Poly1305 |
//! |---|---|---|
//! | `Avx512Ifma` | 32 lanes of ZMM | 8 lanes of 52-bit products |
//! | `Avx512` | 32 lanes of ZMM | general registers |
//! | `Avx2` | 8 lanes of YMM | general registers |
//! | `Sse2` | 4 lanes of XMM | general registers |
//!
//! Poly1305 in general registers beats 32-bit products in YMM registers, measured: it leaves the
//! vector units to ChaCha20, and costs no transposing.
#![allow(unsafe_code)] // Calls into `#[target_feature]` functions, which the proofs allow.

use super::batch::Engine;
use super::deal::Blocks;
use super::group::Group;
use super::tier::{Avx2, Avx512, Ifma};
use super::vector128::V128;
use super::vector256::V256;
use super::{chacha512, lanes, poly52, poly64, wipe};

/// Any x86-64 CPU.
pub(super) struct Sse2Tier;

impl Engine for Sse2Tier {
    fn seal(&self, group: &mut Group<'_, '_>) {
        lanes::crypt::<V128, 4>((), group, Blocks::All);
    }

    fn derive(&self, group: &mut Group<'_, '_>) {
        lanes::crypt::<V128, 4>((), group, Blocks::Zero);
    }

    fn authenticate(&self, group: &mut Group<'_, '_>) {
        poly64::authenticate(group);
    }

    fn decrypt(&self, group: &mut Group<'_, '_>) {
        lanes::crypt::<V128, 4>((), group, Blocks::Text);
    }

    fn clear(&self) {
        wipe::xmm();
    }
}

/// AVX2 and BMI2: Haswell, Zen and later.
pub(super) struct Avx2Tier<'s>(pub(super) Avx2<'s>);

impl Engine for Avx2Tier<'_> {
    fn seal(&self, group: &mut Group<'_, '_>) {
        // SAFETY: the proof is of the features that the function enables.
        unsafe { avx2_crypt(self.0, group, Blocks::All) };
    }

    fn derive(&self, group: &mut Group<'_, '_>) {
        // SAFETY: the proof is of the features that the function enables.
        unsafe { avx2_crypt(self.0, group, Blocks::Zero) };
    }

    fn authenticate(&self, group: &mut Group<'_, '_>) {
        // SAFETY: the proof is of the features that the function enables.
        unsafe { bmi2_authenticate(self.0, group) };
    }

    fn decrypt(&self, group: &mut Group<'_, '_>) {
        // SAFETY: the proof is of the features that the function enables.
        unsafe { avx2_crypt(self.0, group, Blocks::Text) };
    }

    fn clear(&self) {
        // SAFETY: the proof is of the features that the function enables.
        unsafe { wipe::ymm(self.0) };
    }
}

/// AVX-512 F, BW, VL and DQ: Skylake and Cascade Lake servers.
pub(super) struct Avx512Tier<'s>(pub(super) Avx512<'s>);

impl Engine for Avx512Tier<'_> {
    fn seal(&self, group: &mut Group<'_, '_>) {
        // SAFETY: the proof is of the features that the function enables.
        unsafe { chacha512::crypt(self.0, group, Blocks::All) };
    }

    fn derive(&self, group: &mut Group<'_, '_>) {
        // SAFETY: the proof is of the features that the function enables.
        unsafe { chacha512::derive(self.0, group) };
    }

    fn authenticate(&self, group: &mut Group<'_, '_>) {
        // SAFETY: the proof is of the features that the function enables.
        unsafe { bmi2_authenticate(self.0.narrow(), group) };
    }

    fn decrypt(&self, group: &mut Group<'_, '_>) {
        // SAFETY: the proof is of the features that the function enables.
        unsafe { chacha512::crypt(self.0, group, Blocks::Text) };
    }

    fn clear(&self) {
        // SAFETY: the proof is of the features that the function enables.
        unsafe { wipe::zmm(self.0) };
    }
}

/// The same and IFMA and VBMI2: Ice Lake, Sapphire Rapids, Zen 4 and later.
pub(super) struct IfmaTier<'s>(pub(super) Ifma<'s>);

impl Engine for IfmaTier<'_> {
    fn seal(&self, group: &mut Group<'_, '_>) {
        // SAFETY: the proof is of the features that the function enables.
        unsafe { chacha512::crypt(self.0.wide(), group, Blocks::All) };
    }

    fn derive(&self, group: &mut Group<'_, '_>) {
        // SAFETY: the proof is of the features that the function enables.
        unsafe { chacha512::derive(self.0.wide(), group) };
    }

    fn authenticate(&self, group: &mut Group<'_, '_>) {
        // SAFETY: the proof is of the features that the function enables.
        unsafe { poly52::authenticate(self.0, group) };
    }

    fn decrypt(&self, group: &mut Group<'_, '_>) {
        // SAFETY: the proof is of the features that the function enables.
        unsafe { chacha512::crypt(self.0.wide(), group, Blocks::Text) };
    }

    fn clear(&self) {
        // SAFETY: the proof is of the features that the function enables.
        unsafe { wipe::zmm(self.0.wide()) };
    }
}

/// Eight lanes in YMM registers.
#[target_feature(enable = "avx2,bmi2")]
fn avx2_crypt(proof: Avx2<'_>, group: &mut Group<'_, '_>, blocks: Blocks) {
    lanes::crypt::<V256<'_>, 8>(proof, group, blocks);
}

/// Poly1305 in general registers, with the multiplication that leaves the flags alone.
#[target_feature(enable = "avx2,bmi2")]
fn bmi2_authenticate(_: Avx2<'_>, group: &mut Group<'_, '_>) {
    poly64::authenticate(group);
}
