//! The tier for CPUs with AVX-512 and IFMA: Ice Lake, Sapphire Rapids, Zen 4 and later.
#![allow(unsafe_code)] // Calls into `#[target_feature]` functions.

use super::batch::Engine;
use super::deal::Blocks;
use super::group::Group;
use super::tier::{ExtendedState, Ifma};
use super::{chacha512, poly52, wipe};

/// The tier, where it may run.
pub(super) struct Avx512Ifma<'s>(Ifma<'s>);

impl<'s> Avx512Ifma<'s> {
    /// `None` if `state` is of a lower tier.
    pub(super) fn of(state: &'s ExtendedState) -> Option<Self> {
        Ifma::of(state).map(Self)
    }
}

impl Engine for Avx512Ifma<'_> {
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
