//! The twenty rounds with sixteen registers, as assembly, for XMM and for YMM.
//!
//! Sixteen state words leave no register for the half of a rotation, and a compiler then spills
//! what the next instruction waits for. Here row 0 lives in memory: it is used only as the first
//! operand of an addition and is stored again long before it is needed. Rows 1 to 3 are in
//! registers 4 to 15; registers 0 to 3 are free for rotations and their constants.

/// A column round, then a diagonal round: `$step!(first, second, a, b, c, d)` for each quarter.
macro_rules! double_round_by {
    ($half:ident) => {
        concat!(
            $half!(16, 12: 0 4 8 12, 1 5 9 13, 2 6 10 14, 3 7 11 15),
            $half!(8, 7: 0 4 8 12, 1 5 9 13, 2 6 10 14, 3 7 11 15),
            $half!(16, 12: 0 5 10 15, 1 6 11 12, 2 7 8 13, 3 4 9 14),
            $half!(8, 7: 0 5 10 15, 1 6 11 12, 2 7 8 13, 3 4 9 14)
        )
    };
}

/// `d <<<= count` in XMM registers; 0 to 3 are free.
macro_rules! turn_xmm {
    (16, $d:literal, $free:literal) => {
        concat!(
            "pshuflw xmm", $d, ", xmm", $d, ", 0xb1\n",
            "pshufhw xmm", $d, ", xmm", $d, ", 0xb1\n"
        )
    };
    (12, $d:literal, $free:literal) => { turn_xmm!(@ $d, $free, 12, 20) };
    (8, $d:literal, $free:literal) => { turn_xmm!(@ $d, $free, 8, 24) };
    (7, $d:literal, $free:literal) => { turn_xmm!(@ $d, $free, 7, 25) };
    (@ $d:literal, $free:literal, $left:literal, $right:literal) => {
        concat!(
            "movdqa xmm", $free, ", xmm", $d, "\n",
            "pslld xmm", $d, ", ", $left, "\n",
            "psrld xmm", $free, ", ", $right, "\n",
            "por xmm", $d, ", xmm", $free, "\n"
        )
    };
}

/// Half of four quarter rounds in XMM registers.
macro_rules! half_xmm {
    ($first:tt, $second:tt: $($a:literal $b:literal $c:literal $d:literal),+) => {
        concat!(
            $(
                "movdqa xmm", $a, ", [{row} + 16 * ", $a, "]\n",
                "paddd xmm", $a, ", xmm", $b, "\n",
                "movdqa [{row} + 16 * ", $a, "], xmm", $a, "\n",
                "pxor xmm", $d, ", xmm", $a, "\n",
                turn_xmm!($first, $d, $a),
            )+
            $(
                "paddd xmm", $c, ", xmm", $d, "\n",
                "pxor xmm", $b, ", xmm", $c, "\n",
                turn_xmm!($second, $b, $a),
            )+
        )
    };
}

/// `d <<<= count` in YMM registers; 0 and 1 are free, 2 and 3 are the orders for 16 and 8.
macro_rules! turn_ymm {
    (16, $d:literal) => { concat!("vpshufb ymm", $d, ", ymm", $d, ", ymm2\n") };
    (8, $d:literal) => { concat!("vpshufb ymm", $d, ", ymm", $d, ", ymm3\n") };
    (12, $d:literal) => { turn_ymm!(@ $d, 12, 20) };
    (7, $d:literal) => { turn_ymm!(@ $d, 7, 25) };
    (@ $d:literal, $left:literal, $right:literal) => {
        concat!(
            "vpslld ymm0, ymm", $d, ", ", $left, "\n",
            "vpsrld ymm", $d, ", ymm", $d, ", ", $right, "\n",
            "vpor ymm", $d, ", ymm", $d, ", ymm0\n"
        )
    };
}

/// Half of four quarter rounds in YMM registers.
macro_rules! half_ymm {
    ($first:tt, $second:tt: $($a:literal $b:literal $c:literal $d:literal),+) => {
        concat!(
            $(
                "vpaddd ymm1, ymm", $b, ", [{row} + 32 * ", $a, "]\n",
                "vmovdqa [{row} + 32 * ", $a, "], ymm1\n",
                "vpxor ymm", $d, ", ymm", $d, ", ymm1\n",
                turn_ymm!($first, $d),
            )+
            $(
                "vpaddd ymm", $c, ", ymm", $c, ", ymm", $d, "\n",
                "vpxor ymm", $b, ", ymm", $b, ", ymm", $c, "\n",
                turn_ymm!($second, $b),
            )+
        )
    };
}

/// Ten double rounds on an array of sixteen `V128`.
macro_rules! rounds_xmm {
    ($state:ident) => {
        core::arch::asm!(
            "2:",
            double_round_by!(half_xmm),
            "dec {count:e}",
            "jnz 2b",
            count = inout(reg) $crate::aead::chacha::DOUBLE_ROUNDS => _,
            row = in(reg) $state.as_mut_ptr(),
            out("xmm0") _,
            out("xmm1") _,
            out("xmm2") _,
            out("xmm3") _,
            inout("xmm4") $state[4].0,
            inout("xmm5") $state[5].0,
            inout("xmm6") $state[6].0,
            inout("xmm7") $state[7].0,
            inout("xmm8") $state[8].0,
            inout("xmm9") $state[9].0,
            inout("xmm10") $state[10].0,
            inout("xmm11") $state[11].0,
            inout("xmm12") $state[12].0,
            inout("xmm13") $state[13].0,
            inout("xmm14") $state[14].0,
            inout("xmm15") $state[15].0,
            options(nostack),
        )
    };
}

/// Ten double rounds on an array of sixteen `V256`; `$turn16` and `$turn8` are byte orders.
///
/// Only in a function with the feature `avx2`.
macro_rules! rounds_ymm {
    ($state:ident, $turn16:expr, $turn8:expr) => {
        core::arch::asm!(
            "2:",
            double_round_by!(half_ymm),
            "dec {count:e}",
            "jnz 2b",
            count = inout(reg) $crate::aead::chacha::DOUBLE_ROUNDS => _,
            row = in(reg) $state.as_mut_ptr(),
            out("ymm0") _,
            out("ymm1") _,
            in("ymm2") $turn16,
            in("ymm3") $turn8,
            inout("ymm4") $state[4].0,
            inout("ymm5") $state[5].0,
            inout("ymm6") $state[6].0,
            inout("ymm7") $state[7].0,
            inout("ymm8") $state[8].0,
            inout("ymm9") $state[9].0,
            inout("ymm10") $state[10].0,
            inout("ymm11") $state[11].0,
            inout("ymm12") $state[12].0,
            inout("ymm13") $state[13].0,
            inout("ymm14") $state[14].0,
            inout("ymm15") $state[15].0,
            options(nostack),
        )
    };
}
