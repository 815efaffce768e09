//! Which code seals and opens on this machine, and the proof that it may run now.
//!
//! The tier is chosen once, when the driver starts, from what the CPU has (CPUID), what the
//! operating system has switched on (XGETBV) and what it says it saves (its mask of enabled
//! features). It is never chosen by `core`'s or a crate's own detection: in a kernel the CPU having
//! a register does not mean that the register is ours.
//!
//! [`ExtendedState`] is the outer proof, made where the registers are saved. The vector code takes
//! an inner one ([`Avx2`], [`Avx512`], [`Ifma`]) that only a state of that tier gives out.

use core::marker::PhantomData;

/// One implementation of the batch, slowest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    /// Packet by packet with the `chacha20poly1305` crate, in general registers.
    Portable,
    /// Four ChaCha20 lanes in XMM registers, which a Windows driver may use at any time.
    Sse2,
    /// Eight ChaCha20 lanes in YMM registers.
    Avx2,
    /// Sixteen ChaCha20 lanes in ZMM registers, Poly1305 by 32-bit products.
    Avx512,
    /// Sixteen ChaCha20 lanes in ZMM registers, Poly1305 by 52-bit products.
    Avx512Ifma,
}

impl Tier {
    /// All tiers, slowest first.
    pub const ALL: [Self; 5] =
        [Self::Portable, Self::Sse2, Self::Avx2, Self::Avx512, Self::Avx512Ifma];

    /// The lower of the two: what the machine can do under a policy that says at most `limit`.
    #[must_use]
    pub fn at_most(self, limit: Self) -> Self {
        self.min(limit)
    }

    /// Whether the tier uses registers that the kernel does not save for a driver by itself.
    #[must_use]
    pub const fn needs_state(self) -> bool {
        self.features_to_save() != 0
    }

    /// The state to save before the tier runs, as bits of XCR0 and of
    /// `KeSaveExtendedProcessorState`'s mask; 0 if there is nothing to save.
    #[must_use]
    pub const fn features_to_save(self) -> u64 {
        match self {
            Self::Portable | Self::Sse2 => 0,
            Self::Avx2 => XSTATE_AVX,
            Self::Avx512 | Self::Avx512Ifma => XSTATE_AVX | XSTATE_AVX512,
        }
    }

    /// What may run when there is no [`ExtendedState`]: the best tier that needs none.
    #[must_use]
    pub const fn baseline() -> Self {
        if cfg!(target_arch = "x86_64") { Self::Sse2 } else { Self::Portable }
    }
}

/// `XSTATE_MASK_AVX`: the upper halves of YMM0 to YMM15. [SDM 1, §13.1]
const XSTATE_AVX: u64 = 1 << 2;
/// `XSTATE_MASK_AVX512`: opmasks, upper halves of ZMM0 to ZMM15, and ZMM16 to ZMM31. [SDM 1, §13.1]
const XSTATE_AVX512: u64 = 0b111 << 5;

/// Chooses the fastest tier of this machine.
///
/// `enabled_features` is the operating system's mask of the extended state that it manages, as
/// `RtlGetEnabledExtendedFeatures` returns it (bit numbers are those of XCR0).
#[must_use]
pub fn detect(enabled_features: u64) -> Tier {
    #[cfg(target_arch = "x86_64")]
    let tier = cpu::detect(enabled_features);
    #[cfg(not(target_arch = "x86_64"))]
    let tier = {
        let _ = enabled_features;
        Tier::Portable
    };
    tier
}

/// Proof that this CPU's extended registers may be used, and up to which tier.
///
/// Not `Send`: the registers belong to the CPU and the moment they were saved at.
#[derive(Debug)]
pub struct ExtendedState {
    tier: Tier,
    here: PhantomData<*const ()>,
}

impl ExtendedState {
    /// States that `tier` may run here until the value is dropped.
    ///
    /// # Safety
    ///
    /// `tier` is not above what [`detect`] returned on this machine. If it
    /// [needs the state](Tier::needs_state), then until the value is dropped the code stays on this
    /// thread, and the extended state of the code it interrupted has been saved and will be
    /// restored (or, outside a kernel, belongs to this thread anyway).
    #[must_use]
    #[allow(unsafe_code)] // The constructor of a proof.
    pub const unsafe fn assume(tier: Tier) -> Self {
        Self { tier, here: PhantomData }
    }

    /// The tier that will run.
    #[must_use]
    pub const fn tier(&self) -> Tier {
        self.tier
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) use cpu::{Avx2, Avx512, Ifma};

#[cfg(target_arch = "x86_64")]
mod cpu {
    //! What an x86-64 CPU says about itself.
    #![allow(unsafe_code)] // XGETBV.

    use core::arch::x86_64::{__cpuid, __cpuid_count};
    use core::marker::PhantomData;

    use super::{ExtendedState, Tier, XSTATE_AVX, XSTATE_AVX512};

    macro_rules! proof {
        ($(#[$doc:meta])* $name:ident, $least:expr) => {
            $(#[$doc])*
            ///
            /// # Invariants
            ///
            /// One exists only while the state it was taken from does.
            #[derive(Clone, Copy)]
            pub(in crate::aead) struct $name<'s>(PhantomData<&'s ExtendedState>);

            impl<'s> $name<'s> {
                /// The proof that `state` holds; `None` if its tier is below.
                pub(in crate::aead) fn of(state: &'s ExtendedState) -> Option<Self> {
                    // INVARIANT: `assume` promised the features of every tier up to its own.
                    (state.tier >= $least).then_some(Self(PhantomData))
                }
            }
        };
    }

    proof!(
        /// AVX2 and BMI2 may be used.
        Avx2, Tier::Avx2
    );
    proof!(
        /// AVX-512 F, BW, VL and DQ may be used, and what [`Avx2`] allows.
        Avx512, Tier::Avx512
    );
    proof!(
        /// AVX-512 IFMA and VBMI2 may be used, and what [`Avx512`] allows.
        Ifma, Tier::Avx512Ifma
    );

    impl<'s> Avx512<'s> {
        /// What this proof includes.
        pub(in crate::aead) fn narrow(self) -> Avx2<'s> {
            // INVARIANT: the tiers are ordered.
            Avx2(self.0)
        }
    }

    impl<'s> Ifma<'s> {
        /// What this proof includes.
        pub(in crate::aead) fn wide(self) -> Avx512<'s> {
            // INVARIANT: the tiers are ordered.
            Avx512(self.0)
        }
    }

    /// The bits of CPUID leaf 7 that a tier needs. [SDM 2A, CPUID]
    mod leaf7 {
        /// EBX: AVX2, BMI2.
        pub(super) const EBX_AVX2: u32 = 1 << 5 | 1 << 8;
        /// EBX: AVX-512 F, DQ, BW, VL.
        pub(super) const EBX_AVX512: u32 = 1 << 16 | 1 << 17 | 1 << 30 | 1 << 31;
        /// EBX: AVX-512 IFMA.
        pub(super) const EBX_IFMA: u32 = 1 << 21;
        /// ECX: AVX-512 VBMI2.
        pub(super) const ECX_VBMI2: u32 = 1 << 6;
    }

    /// As the outer [`detect`](super::detect).
    pub(super) fn detect(enabled_features: u64) -> Tier {
        let leaf1 = __cpuid(1);
        let (osxsave, avx) = (1 << 27, 1 << 28);
        if __cpuid(0).eax < 7 || leaf1.ecx & (osxsave | avx) != osxsave | avx {
            return Tier::Sse2;
        }
        let xcr0 = xgetbv() & enabled_features;
        let leaf7 = __cpuid_count(7, 0);
        choose(xcr0, leaf7.ebx, leaf7.ecx)
    }

    /// The tier for the state that is switched on and saved, and what leaf 7 says.
    pub(super) fn choose(xcr0: u64, ebx: u32, ecx: u32) -> Tier {
        let has = |word: u32, bits: u32| word & bits == bits;
        if xcr0 & XSTATE_AVX == 0 || !has(ebx, leaf7::EBX_AVX2) {
            return Tier::Sse2;
        }
        if xcr0 & XSTATE_AVX512 != XSTATE_AVX512 || !has(ebx, leaf7::EBX_AVX512) {
            return Tier::Avx2;
        }
        if has(ebx, leaf7::EBX_IFMA) && has(ecx, leaf7::ECX_VBMI2) {
            Tier::Avx512Ifma
        } else {
            Tier::Avx512
        }
    }

    /// XCR0: what the operating system has switched on.
    fn xgetbv() -> u64 {
        let (low, high): (u32, u32);
        // SAFETY: `detect` has seen OSXSAVE, so the instruction exists and is allowed at any level.
        unsafe {
            core::arch::asm!(
                "xgetbv", in("ecx") 0, out("eax") low, out("edx") high,
                options(nomem, nostack, preserves_flags),
            );
        }
        u64::from(high) << 32 | u64::from(low)
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn a_tier_needs_the_cpu_and_the_system() {
            let avx = leaf7::EBX_AVX2;
            let wide = avx | leaf7::EBX_AVX512;
            let ifma = wide | leaf7::EBX_IFMA;
            let vbmi2 = leaf7::ECX_VBMI2;
            for (xcr0, ebx, ecx, tier, why) in [
                (0x3, ifma, vbmi2, Tier::Sse2, "no YMM state"),
                (0x7, ifma, vbmi2, Tier::Avx2, "no ZMM state"),
                (0x67, ifma, vbmi2, Tier::Avx2, "no ZMM16 to ZMM31"),
                (0xe7, ifma, vbmi2, Tier::Avx512Ifma, "everything"),
                (0xe7, ifma, 0, Tier::Avx512, "no VBMI2"),
                (0xe7, wide, vbmi2, Tier::Avx512, "no IFMA"),
                (0xe7, wide & !(1 << 31), vbmi2, Tier::Avx2, "no VL"),
                (0xe7, avx & !(1 << 8), vbmi2, Tier::Sse2, "no BMI2"),
                (0xe7, avx, vbmi2, Tier::Avx2, "AVX2"),
            ] {
                assert_eq!(choose(xcr0, ebx, ecx), tier, "{why}");
            }
            assert_eq!(detect(0), Tier::Sse2, "the system saves nothing");
        }
    }
}
