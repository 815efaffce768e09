//! The twenty rounds with sixteen registers, as assembly, for XMM and for YMM.
//!
//! Sixteen state words leave no register for the half of a rotation, and a compiler then spills
//! what the next instruction waits for. Here word 3 lives in memory: it is used only as the operand
//! of an addition and is stored again long before it is needed. Its register, 3, is free otherwise.
//!
//! The rounds leave the general registers and their multiplier idle. A block of Poly1305 may come
//! behind each half of a round, four in a double round, and then costs little: the CPU executes both
//! at the same time.

/// A column round, then a diagonal round: `$half!(first, second: a b c d, ...)` for each half, and
/// a block of Poly1305 by `$mac!(offset)` behind it.
macro_rules! double_round_by {
    ($half:ident, $mac:ident) => {
        concat!(
            $half!(16, 12: 3 7 11 15, 0 4 8 12, 1 5 9 13, 2 6 10 14),
            $mac!(0, "{h0}" "{h1}" "{t0}" "{t1}"),
            $half!(8, 7: 3 7 11 15, 0 4 8 12, 1 5 9 13, 2 6 10 14),
            $mac!(16, "{t0}" "{t1}" "{h0}" "{h1}"),
            $half!(16, 12: 3 4 9 14, 0 5 10 15, 1 6 11 12, 2 7 8 13),
            $mac!(32, "{h0}" "{h1}" "{t0}" "{t1}"),
            $half!(8, 7: 3 4 9 14, 0 5 10 15, 1 6 11 12, 2 7 8 13),
            $mac!(48, "{t0}" "{t1}" "{h0}" "{h1}")
        )
    };
}

/// A block of Poly1305, as `poly64::Chain::take` does it, but for its last additions, which the next
/// block does: there they are off the way from one product to the next.
///
/// In `o0`, `o1` and `{h2}` is the sum; still to be added to it are `n0` times 2^64, and `rax`, which is
/// what was above 2^130. With that and the block at `offset` of the text it is multiplied by `r`. The
/// product is left in `n0`, `n1` and `{h2}` in the same way: `o0` times 2^64 and `rax` are still to be
/// added. So at most 6 are in `{h2}` before the multiplication: 3 of the product, the bit above the
/// block, and two carries; and at most 7 in the first of several blocks.
macro_rules! mac_block {
    ($offset:literal, $o0:literal $o1:literal $n0:literal $n1:literal) => {
        concat!(
            "add ",
            $o0,
            ", [{text} + ",
            $offset,
            "]\n",
            "adc ",
            $o1,
            ", ",
            $n0,
            "\n",
            "adc {h2}, 1\n",
            "add ",
            $o0,
            ", rax\n",
            "adc ",
            $o1,
            ", [{text} + ",
            $offset,
            " + 8]\n",
            "adc {h2}, 0\n",
            "mov rax, ",
            $o0,
            "\n",
            "mul qword ptr [{chain} + {r0}]\n",
            "mov ",
            $n0,
            ", rax\n",
            "mov ",
            $n1,
            ", rdx\n",
            "mov rax, ",
            $o0,
            "\n",
            "mul qword ptr [{chain} + {r1}]\n",
            "mov ",
            $o0,
            ", rax\n",
            "mov {d}, rdx\n",
            "mov rax, ",
            $o1,
            "\n",
            "mul qword ptr [{chain} + {r0}]\n",
            "add ",
            $o0,
            ", rax\n",
            "adc {d}, rdx\n",
            "mov rax, ",
            $o1,
            "\n",
            "mul qword ptr [{chain} + {s1}]\n",
            "add ",
            $n0,
            ", rax\n",
            "adc ",
            $n1,
            ", rdx\n",
            "mov rax, {h2}\n",
            "imul rax, [{chain} + {s1}]\n",
            "imul {h2}, [{chain} + {r0}]\n",
            "add ",
            $o0,
            ", rax\n",
            "adc {h2}, {d}\n",
            // What is above 2^130 comes back times 5.
            "mov rax, {h2}\n",
            "shr rax, 2\n",
            "and {h2:e}, 3\n",
            "lea rax, [rax + 4 * rax]\n",
        )
    };
}

/// Before the first of such blocks.
macro_rules! begin_blocks {
    () => {
        "xor eax, eax\n xor {t0:e}, {t0:e}\n"
    };
}

/// What is left of the last of an even number of blocks. At most 5 are in `{h2}` then.
macro_rules! end_blocks {
    () => {
        concat!(
            "add {h1}, {t0}\n",
            "adc {h2}, 0\n",
            "add {h0}, rax\n",
            "adc {h1}, 0\n",
            "adc {h2}, 0\n"
        )
    };
}

/// Instructions with blocks of Poly1305 among them, and the operands of these; more operands follow.
macro_rules! with_blocks {
    ($chain:ident, $text:ident, [$($instructions:expr),+ $(,)?] $($operands:tt)*) => {
        core::arch::asm!(
            $($instructions,)+
            chain = in(reg) &raw const *$chain,
            text = inout(reg) $text => _,
            h0 = inout(reg) $chain.sum[0], h1 = inout(reg) $chain.sum[1], h2 = inout(reg) $chain.sum[2],
            t0 = out(reg) _, t1 = out(reg) _, d = out(reg) _, out("rax") _, out("rdx") _,
            r0 = const core::mem::offset_of!(Chain, r0),
            r1 = const core::mem::offset_of!(Chain, r1),
            s1 = const core::mem::offset_of!(Chain, s1),
            $($operands)*
            options(nostack),
        )
    };
}

/// So many times two blocks of Poly1305, at least two, of `$text` with nothing beside them.
macro_rules! block_pairs {
    ($chain:ident, $text:ident, $pairs:ident) => {
        with_blocks!($chain, $text, [
            begin_blocks!(),
            "2:",
            mac_block!(0, "{h0}" "{h1}" "{t0}" "{t1}"),
            mac_block!(16, "{t0}" "{t1}" "{h0}" "{h1}"),
            "add {text}, 32",
            "dec {pairs}",
            "jnz 2b",
            end_blocks!(),
        ] pairs = inout(reg) $pairs => _,)
    };
}

/// No block of Poly1305.
macro_rules! no_block {
    ($($ignored:tt)*) => {
        ""
    };
}

/// `d <<<= count` in XMM registers; 3 is free.
macro_rules! turn_xmm {
    (16, $d:literal) => {
        concat!(
            "pshuflw xmm", $d, ", xmm", $d, ", 0xb1\n",
            "pshufhw xmm", $d, ", xmm", $d, ", 0xb1\n"
        )
    };
    (12, $d:literal) => { turn_xmm!(@ $d, 12, 20) };
    (8, $d:literal) => { turn_xmm!(@ $d, 8, 24) };
    (7, $d:literal) => { turn_xmm!(@ $d, 7, 25) };
    (@ $d:literal, $left:literal, $right:literal) => {
        concat!(
            "movdqa xmm3, xmm", $d, "\n",
            "pslld xmm", $d, ", ", $left, "\n",
            "psrld xmm3, ", $right, "\n",
            "por xmm", $d, ", xmm3\n"
        )
    };
}

/// Half of four quarter rounds in XMM registers.
macro_rules! half_xmm {
    ($first:tt, $second:tt: 3 $b3:literal $c3:literal $d3:literal,
     $($a:literal $b:literal $c:literal $d:literal),+) => {
        concat!(
            "movdqa xmm3, [{word3}]\n",
            "paddd xmm3, xmm", $b3, "\n",
            "movdqa [{word3}], xmm3\n",
            "pxor xmm", $d3, ", xmm3\n",
            $(
                "paddd xmm", $a, ", xmm", $b, "\n",
                "pxor xmm", $d, ", xmm", $a, "\n",
            )+
            turn_xmm!($first, $d3),
            $( turn_xmm!($first, $d), )+
            "paddd xmm", $c3, ", xmm", $d3, "\n",
            "pxor xmm", $b3, ", xmm", $c3, "\n",
            $(
                "paddd xmm", $c, ", xmm", $d, "\n",
                "pxor xmm", $b, ", xmm", $c, "\n",
            )+
            turn_xmm!($second, $b3),
            $( turn_xmm!($second, $b), )+
        )
    };
}

/// `d <<<= count` in YMM registers; 3 is free.
macro_rules! turn_ymm {
    (16, $d:literal) => { concat!("vpshufb ymm", $d, ", ymm", $d, ", [rip + {turn16}]\n") };
    (8, $d:literal) => { concat!("vpshufb ymm", $d, ", ymm", $d, ", [rip + {turn8}]\n") };
    (12, $d:literal) => { turn_ymm!(@ $d, 12, 20) };
    (7, $d:literal) => { turn_ymm!(@ $d, 7, 25) };
    (@ $d:literal, $left:literal, $right:literal) => {
        concat!(
            "vpslld ymm3, ymm", $d, ", ", $left, "\n",
            "vpsrld ymm", $d, ", ymm", $d, ", ", $right, "\n",
            "vpor ymm", $d, ", ymm", $d, ", ymm3\n"
        )
    };
}

/// Half of four quarter rounds in YMM registers.
macro_rules! half_ymm {
    ($first:tt, $second:tt: 3 $b3:literal $c3:literal $d3:literal,
     $($a:literal $b:literal $c:literal $d:literal),+) => {
        concat!(
            "vpaddd ymm3, ymm", $b3, ", [{word3}]\n",
            "vmovdqa [{word3}], ymm3\n",
            "vpxor ymm", $d3, ", ymm", $d3, ", ymm3\n",
            turn_ymm!($first, $d3),
            $(
                "vpaddd ymm", $a, ", ymm", $a, ", ymm", $b, "\n",
                "vpxor ymm", $d, ", ymm", $d, ", ymm", $a, "\n",
                turn_ymm!($first, $d),
            )+
            "vpaddd ymm", $c3, ", ymm", $c3, ", ymm", $d3, "\n",
            "vpxor ymm", $b3, ", ymm", $b3, ", ymm", $c3, "\n",
            turn_ymm!($second, $b3),
            $(
                "vpaddd ymm", $c, ", ymm", $c, ", ymm", $d, "\n",
                "vpxor ymm", $b, ", ymm", $b, ", ymm", $c, "\n",
                turn_ymm!($second, $b),
            )+
        )
    };
}

/// Double rounds on sixteen registers: `$beside` with blocks of Poly1305, then `$alone` without.
///
/// `$half` works on registers named `$register`, which are the words of `$state` numbered `$word`;
/// word 3 stays in its place, aligned to a register. What comes last goes to `asm!` as it is.
macro_rules! rounds_by {
    ($half:ident, $state:ident, $beside:ident, $alone:ident, $chain:ident, $text:ident,
     [$($word:literal $register:tt),+] $temporary:tt; $($operands:tt)*) => {
        with_blocks!($chain, $text, [
            "test {beside:e}, {beside:e}",
            "jz 3f",
            begin_blocks!(),
            "2:",
            double_round_by!($half, mac_block),
            "add {text}, 64",
            "dec {beside:e}",
            "jnz 2b",
            end_blocks!(),
            "3:",
            "test {alone:e}, {alone:e}",
            "jz 5f",
            "4:",
            double_round_by!($half, no_block),
            "dec {alone:e}",
            "jnz 4b",
            "5:",
        ]
            beside = inout(reg) $beside => _,
            alone = inout(reg) $alone => _,
            word3 = in(reg) &raw mut $state[3],
            $($operands)*
            out($temporary) _,
            $(inout($register) $state[$word].0,)+
        )
    };
}
