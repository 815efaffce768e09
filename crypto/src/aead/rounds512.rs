//! The twenty rounds on two registers of each state word, as assembly.
//!
//! Set A is in ZMM0 to ZMM15, set B in ZMM16 to ZMM31. B comes from memory and goes back there: what
//! is done next with A needs the registers, and a compiler would spill both. Each step does four quarter rounds of A and
//! then of B, so that two independent chains of eight instructions keep the ports busy.

/// `operation target, target, source` for each pair of registers.
macro_rules! each {
    ($operation:literal: $($target:literal $source:literal),+) => {
        concat!($($operation, " zmm", $target, ", zmm", $target, ", zmm", $source, "\n"),+)
    };
}

/// `vprold target, target, count` for each register.
macro_rules! turn {
    ($count:literal: $($target:literal),+) => {
        concat!($("vprold zmm", $target, ", zmm", $target, ", ", $count, "\n"),+)
    };
}

/// `into += from; turned = (turned ^ into) <<< count`, four times abreast.
macro_rules! quarter_step {
    ($count:literal: $i0:literal $i1:literal $i2:literal $i3:literal,
     $f0:literal $f1:literal $f2:literal $f3:literal,
     $t0:literal $t1:literal $t2:literal $t3:literal) => {
        concat!(
            each!("vpaddd": $i0 $f0, $i1 $f1, $i2 $f2, $i3 $f3),
            each!("vpxord": $t0 $i0, $t1 $i1, $t2 $i2, $t3 $i3),
            turn!($count: $t0, $t1, $t2, $t3)
        )
    };
}

/// Two steps of both sets: the first or the second half of a quarter round.
macro_rules! half_round {
    ($first:literal, $second:literal:
     $a:tt $b:tt $c:tt $d:tt; $e:tt $f:tt $g:tt $h:tt) => {
        concat!(
            half_round!(@ $first, $second: $a $b $c $d),
            half_round!(@ $first, $second: $e $f $g $h)
        )
    };
    (@ $first:literal, $second:literal:
     [$($a:literal)+] [$($b:literal)+] [$($c:literal)+] [$($d:literal)+]) => {
        concat!(
            quarter_step!($first: $($a)+, $($b)+, $($d)+),
            quarter_step!($second: $($c)+, $($d)+, $($b)+)
        )
    };
}

/// Loads set B from its place, or stores it.
macro_rules! set_b {
    (load: $($register:literal)+) => {
        concat!($("vmovdqa64 zmm", $register, ", [{b} + 64 * (", $register, " - 16)]\n"),+)
    };
    (store: $($register:literal)+) => {
        concat!($("vmovdqa64 [{b} + 64 * (", $register, " - 16)], zmm", $register, "\n"),+)
    };
}

/// Ten double rounds on two arrays of sixteen `V512`.
///
/// Only in a function with the feature `avx512f`.
macro_rules! wide_rounds {
    ($a:ident, $b:ident) => {
        core::arch::asm!(
            set_b!(load: 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31),
            "2:",
            half_round!(16, 12: [0 1 2 3] [4 5 6 7] [8 9 10 11] [12 13 14 15];
                [16 17 18 19] [20 21 22 23] [24 25 26 27] [28 29 30 31]),
            half_round!(8, 7: [0 1 2 3] [4 5 6 7] [8 9 10 11] [12 13 14 15];
                [16 17 18 19] [20 21 22 23] [24 25 26 27] [28 29 30 31]),
            half_round!(16, 12: [0 1 2 3] [5 6 7 4] [10 11 8 9] [15 12 13 14];
                [16 17 18 19] [21 22 23 20] [26 27 24 25] [31 28 29 30]),
            half_round!(8, 7: [0 1 2 3] [5 6 7 4] [10 11 8 9] [15 12 13 14];
                [16 17 18 19] [21 22 23 20] [26 27 24 25] [31 28 29 30]),
            "dec {count:e}",
            "jnz 2b",
            set_b!(store: 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31),
            count = inout(reg) $crate::aead::chacha::DOUBLE_ROUNDS => _,
            b = in(reg) $b.as_mut_ptr(),
            inout("zmm0") $a[0].0,
            inout("zmm1") $a[1].0,
            inout("zmm2") $a[2].0,
            inout("zmm3") $a[3].0,
            inout("zmm4") $a[4].0,
            inout("zmm5") $a[5].0,
            inout("zmm6") $a[6].0,
            inout("zmm7") $a[7].0,
            inout("zmm8") $a[8].0,
            inout("zmm9") $a[9].0,
            inout("zmm10") $a[10].0,
            inout("zmm11") $a[11].0,
            inout("zmm12") $a[12].0,
            inout("zmm13") $a[13].0,
            inout("zmm14") $a[14].0,
            inout("zmm15") $a[15].0,
            out("zmm16") _,
            out("zmm17") _,
            out("zmm18") _,
            out("zmm19") _,
            out("zmm20") _,
            out("zmm21") _,
            out("zmm22") _,
            out("zmm23") _,
            out("zmm24") _,
            out("zmm25") _,
            out("zmm26") _,
            out("zmm27") _,
            out("zmm28") _,
            out("zmm29") _,
            out("zmm30") _,
            out("zmm31") _,
            options(nostack),
        )
    };
}
