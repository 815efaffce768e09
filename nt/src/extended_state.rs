//! The right to use registers wider than SSE2's.
//!
//! The kernel leaves the upper halves of the vector registers as the interrupted thread had them;
//! who wants to use them saves them first and restores them after, once per batch. The proof that
//! this was done is a token, passed down to the code that uses the registers. Saving needs memory
//! and may fail: then the code gets no token, and keeps to SSE2.

use core::{marker::PhantomData, mem::MaybeUninit};

use wdk_sys::{
    XSTATE_SAVE,
    ntddk::{
        KeRestoreExtendedProcessorState, KeSaveExtendedProcessorState,
        RtlGetEnabledExtendedFeatures,
    },
};

use crate::{
    irql::Passive,
    status::check,
    sys::ke::{XSTATE_MASK_AVX, XSTATE_MASK_AVX512},
};

/// Which wide registers this machine has and NT keeps for its threads.
///
/// Asked once, at start; a copy goes wherever batches run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExtendedFeatures {
    mask: u64,
}

/// Proof that the wide registers of this thread are saved and will be restored.
///
/// Made by [`ExtendedFeatures::with`] only. Registers that held keys are cleared by their user
/// before it returns.
#[derive(Debug)]
pub struct Saved<'state> {
    mask: u64,
    _thread: PhantomData<(&'state (), *const ())>,
}

impl ExtendedFeatures {
    /// Asks NT.
    ///
    /// # IRQL
    ///
    /// `PASSIVE_LEVEL`.
    ///
    /// Source: <https://learn.microsoft.com/windows-hardware/drivers/ddi/ntddk/nf-ntddk-rtlgetenabledextendedfeatures>
    #[must_use]
    pub fn detect(_passive: &Passive) -> Self {
        // SAFETY: no preconditions.
        let mask = unsafe { RtlGetEnabledExtendedFeatures(XSTATE_MASK_AVX | XSTATE_MASK_AVX512) };
        // AVX-512 comes as a whole, and on top of AVX.
        let avx512 = mask & XSTATE_MASK_AVX512 == XSTATE_MASK_AVX512;
        let mask = match mask & XSTATE_MASK_AVX {
            0 => 0,
            avx if avx512 => avx | XSTATE_MASK_AVX512,
            avx => avx,
        };
        Self { mask }
    }

    /// What is saved, as bits of XCR0; 0 is nothing.
    ///
    /// # IRQL
    ///
    /// Any.
    #[must_use]
    pub const fn mask(self) -> u64 {
        self.mask
    }

    /// Whether the YMM registers may be used under a token.
    ///
    /// # IRQL
    ///
    /// Any.
    #[must_use]
    pub const fn avx(self) -> bool {
        self.mask & XSTATE_MASK_AVX != 0
    }

    /// Whether the ZMM and mask registers may be used under a token.
    ///
    /// # IRQL
    ///
    /// Any.
    #[must_use]
    pub const fn avx512(self) -> bool {
        self.mask & XSTATE_MASK_AVX512 != 0
    }

    /// Saves the wide registers around `body`, or runs it without a token where that cannot be.
    ///
    /// `body` must come back at the IRQL and on the thread it was called on.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    ///
    /// Source: <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-kesaveextendedprocessorstate>
    pub fn with<R>(self, body: impl FnOnce(Option<&Saved<'_>>) -> R) -> R {
        if self.mask == 0 {
            return body(None);
        }
        // NT links this into the thread until it is restored: it stays in this frame.
        let mut save = MaybeUninit::<XSTATE_SAVE>::uninit();
        // SAFETY: the features are enabled (`detect`); the area is ours until the restore below.
        let status = unsafe { KeSaveExtendedProcessorState(self.mask, save.as_mut_ptr()) };
        if check(status).is_err() {
            return body(None);
        }
        // From here there is one way out: a panic stops the machine, it does not unwind.
        let result = body(Some(&Saved { mask: self.mask, _thread: PhantomData }));
        // SAFETY: saved above on this thread, and not restored yet.
        unsafe { KeRestoreExtendedProcessorState(save.as_mut_ptr()) };
        result
    }
}

impl Saved<'_> {
    /// Whether the ZMM and mask registers are among what was saved.
    ///
    /// # IRQL
    ///
    /// Any.
    #[must_use]
    pub const fn avx512(&self) -> bool {
        self.mask & XSTATE_MASK_AVX512 != 0
    }
}
