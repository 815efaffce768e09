//! The twenty rounds on two registers of each state word, as assembly.
//!
//! Beside the double rounds may go blocks of Poly1305 in general registers, see `beside`.
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

/// A half of a quarter round on both sets, and two blocks of Poly1305 from `$offset` of the text by
/// `$mac` behind it.
macro_rules! half_by {
    ($mac:ident, $offset:literal $next:literal, $($half:tt)*) => {
        concat!(
            half_round!($($half)*),
            $mac!($offset, "{h0}" "{h1}" "{t0}" "{t1}"),
            $mac!($next, "{t0}" "{t1}" "{h0}" "{h1}")
        )
    };
}

/// A double round on both sets, with eight blocks of Poly1305 by `$mac` in it.
macro_rules! wide_double_round {
    ($mac:ident) => {
        concat!(
            half_by!($mac, 0 16, 16, 12: [0 1 2 3] [4 5 6 7] [8 9 10 11] [12 13 14 15];
                [16 17 18 19] [20 21 22 23] [24 25 26 27] [28 29 30 31]),
            half_by!($mac, 32 48, 8, 7: [0 1 2 3] [4 5 6 7] [8 9 10 11] [12 13 14 15];
                [16 17 18 19] [20 21 22 23] [24 25 26 27] [28 29 30 31]),
            half_by!($mac, 64 80, 16, 12: [0 1 2 3] [5 6 7 4] [10 11 8 9] [15 12 13 14];
                [16 17 18 19] [21 22 23 20] [26 27 24 25] [31 28 29 30]),
            half_by!($mac, 96 112, 8, 7: [0 1 2 3] [5 6 7 4] [10 11 8 9] [15 12 13 14];
                [16 17 18 19] [21 22 23 20] [26 27 24 25] [31 28 29 30])
        )
    };
}

/// The double rounds beside which the packet goes that `{chain}` points to.
macro_rules! beside_link {
    () => {
        concat!(
            "mov {count:e}, [{chain} + {steps}]\n",
            "test {count:e}, {count:e}\n",
            "jz 3f\n",
            "mov {h0}, [{chain}]\n",
            "mov {h1}, [{chain} + 8]\n",
            "mov {h2}, [{chain} + 16]\n",
            "mov {text}, [{chain} + {next}]\n",
            begin_blocks!(),
            "2:\n",
            wide_double_round!(mac_block),
            "sub {text}, -128\n",
            "dec {count:e}\n",
            "jnz 2b\n",
            end_blocks!(),
            "mov [{chain}], {h0}\n",
            "mov [{chain} + 8], {h1}\n",
            "mov [{chain} + 16], {h2}\n",
            "mov [{chain} + {next}], {text}\n",
            "3:\n",
            "add {chain}, {link}\n"
        )
    };
}

/// Ten double rounds on two arrays of sixteen `V512`, and what `$beside` has planned beside them.
///
/// Only in a function with the feature `avx512f`.
macro_rules! wide_rounds {
    ($a:ident, $b:ident, $beside:ident) => {
        core::arch::asm!(
            set_b!(load: 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31),
            beside_link!(),
            beside_link!(),
            "mov {count:e}, [{chain} + {alone} - 2 * {link}]",
            "test {count:e}, {count:e}",
            "jz 5f",
            "4:",
            wide_double_round!(no_block),
            "dec {count:e}",
            "jnz 4b",
            "5:",
            set_b!(store: 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31),
            b = in(reg) $b.as_mut_ptr(),
            chain = inout(reg) &raw mut *$beside => _,
            count = out(reg) _, text = out(reg) _,
            h0 = out(reg) _, h1 = out(reg) _, h2 = out(reg) _,
            t0 = out(reg) _, t1 = out(reg) _, d = out(reg) _, out("rax") _, out("rdx") _,
            r0 = const core::mem::offset_of!(Chain, r0),
            r1 = const core::mem::offset_of!(Chain, r1),
            s1 = const core::mem::offset_of!(Chain, s1),
            next = const core::mem::offset_of!(Link, text),
            steps = const core::mem::offset_of!(Link, steps),
            link = const core::mem::size_of::<Link>(),
            alone = const core::mem::offset_of!(Beside, alone),
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
