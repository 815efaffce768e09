//! Whether somebody else has half of the core.
//!
//! Where two virtual CPUs are threads of one core, what the other does slows code by a half, and code that keeps the
//! core's units busy the most: then ratios are those of another machine. A loop that can do no better than all units
//! at once tells, by its time.

use std::time::Instant;

/// Knows how long the loop takes at best.
pub(super) struct Watch {
    best: f64,
}

impl Watch {
    /// Finds out in a few milliseconds; a quiet moment that comes later is noticed as well.
    pub(super) fn new() -> Self {
        let mut watch = Self { best: f64::MAX };
        for _ in 0..20_000 {
            watch.is_quiet();
        }
        watch
    }

    /// Whether the core seems to be ours alone.
    pub(super) fn is_quiet(&mut self) -> bool {
        let begun = Instant::now();
        fill_units();
        let taken = begun.elapsed().as_nanos() as f64;
        self.best = self.best.min(taken);
        taken < self.best * 1.12
    }
}

/// Six thousand additions, in general and in vector registers by turns: some 350 ns.
#[cfg(target_arch = "x86_64")]
fn fill_units() {
    // SAFETY: the registers are declared as overwritten; nothing else is touched. SSE2 is the baseline.
    unsafe {
        core::arch::asm!(
            "2:",
            "add {a}, 1", "add {b}, 1", "add {c}, 1", "add {d}, 1",
            "add {a}, 1", "add {b}, 1", "add {c}, 1", "add {d}, 1",
            "paddd xmm0, xmm0", "paddd xmm1, xmm1", "paddd xmm2, xmm2", "paddd xmm3, xmm3",
            "dec {count}",
            "jnz 2b",
            a = out(reg) _, b = out(reg) _, c = out(reg) _, d = out(reg) _,
            count = inout(reg) 500_u64 => _,
            out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _,
            options(nomem, nostack),
        );
    }
}

/// Nothing that would tell is known here.
#[cfg(not(target_arch = "x86_64"))]
fn fill_units() {}
