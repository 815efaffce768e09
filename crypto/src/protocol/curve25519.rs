//! X25519 with any point: Montgomery's ladder over numbers of four 64-bit words. [RFC 7748 §5]
//!
//! `x25519-dalek`, which makes public keys with its tables, has the same ladder over five words of 51 bits: 25 products for a
//! multiplication where these are 16, which is 1.6 times the time. Nothing here needs vector registers or a look at
//! the CPU. `docs/design.md` says which libraries were looked at.
//!
//! An element of the field of 2^255 - 19 is any number below 2^256 that is congruent to it; only [`Element::to_bytes`] reduces
//! it to the least. What a product leaves is below 2^255 + 2^23, which makes adding and subtracting two such numbers cheap:
//! *small* below. No branch and no address depends on a number: carries become masks, and the ladder's swaps are `subtle`'s.

use subtle::{Choice, ConditionallySelectable};
use zeroize::{Zeroize, Zeroizing};

/// The shared secret of a private key and a public one; zero if the point is of low order, which is for the caller to refuse.
///
/// The key is clamped here and the point's bit 255 ignored. Constant time. What registers and stack are left with is the
/// caller's to wipe.
// spec: WG 5.4-a
pub(super) fn x25519(private: &[u8; 32], public: &[u8; 32]) -> Zeroizing<[u8; 32]> {
    let mut scalar = Zeroizing::new(*private);
    scalar[0] &= !7;
    scalar[31] = scalar[31] & 0x7F | 0x40;
    let point = Element::from_bytes(public);
    let mut pair = Zeroizing::new([Projective::INFINITY, Projective { x: point, z: Element::ONE }]);
    let mut swapped = Choice::from(0);
    for byte in scalar.iter().rev() {
        for at in (0..8).rev() {
            let bit = Choice::from(byte >> at & 1);
            swap(&mut pair, swapped ^ bit);
            swapped = bit;
            step(&mut pair, &point);
        }
    }
    swap(&mut pair, swapped);
    let [Projective { x, z }, _] = &*pair;
    Zeroizing::new(x.times(&z.inverted()).to_bytes())
}

/// x/z, a coordinate of a point.
#[derive(Clone, Copy)]
struct Projective {
    x: Element,
    z: Element,
}

impl Projective {
    const INFINITY: Self = Self { x: Element::ONE, z: Element([0; 4]) };
}

impl Zeroize for Projective {
    fn zeroize(&mut self) {
        self.x.0.zeroize();
        self.z.0.zeroize();
    }
}

fn swap([one, other]: &mut [Projective; 2], choice: Choice) {
    <[u64; 4]>::conditional_swap(&mut one.x.0, &mut other.x.0, choice);
    <[u64; 4]>::conditional_swap(&mut one.z.0, &mut other.z.0, choice);
}

/// From multiples n and n + 1 of `point` to 2n and 2n + 1; all are small, before and after.
///
/// A function of its own, so that `sim/tests/image` finds that it has no branch; that costs a twentieth.
#[inline(never)]
fn step([one, other]: &mut [Projective; 2], point: &Element) {
    let (sum, difference) = (one.x.plus(&one.z), one.x.minus(&one.z));
    let across = other.x.minus(&other.z).times(&sum);
    let back = other.x.plus(&other.z).times(&difference);
    other.x = across.plus(&back).squared();
    other.z = across.minus(&back).squared().times(point);
    let (sum, difference) = (sum.squared(), difference.squared());
    let rest = sum.minus(&difference);
    one.x = sum.times(&difference);
    // (486662 + 2) / 4.
    one.z = rest.times(&difference.plus(&rest.times_small(121_666)));
}

/// An element of the field, as a number below 2^256, its least word first.
#[derive(Clone, Copy)]
struct Element([u64; 4]);

crate::never_printed!(Element, Projective);

impl Element {
    const ONE: Self = Self([1, 0, 0, 0]);

    fn from_bytes(bytes: &[u8; 32]) -> Self {
        let (words, _) = bytes.as_chunks::<8>();
        let mut number = [0; 4];
        for (word, bytes) in number.iter_mut().zip(words) {
            *word = u64::from_le_bytes(*bytes);
        }
        number[3] &= u64::MAX >> 1;
        Self(number)
    }

    /// The least number that is congruent.
    fn to_bytes(self) -> [u8; 32] {
        // Below 2^255 + 19, so that one subtraction is enough: adding 19 reaches 2^255 if it is due.
        let Self(least) = fold(self.0, 0);
        let (mut reduced, _) = sum(least, [19, 0, 0, 0]);
        let due = Choice::from((reduced[3] >> 63) as u8);
        reduced[3] &= u64::MAX >> 1;
        let mut bytes = [0; 32];
        for ((to, least), reduced) in
            bytes.as_chunks_mut::<8>().0.iter_mut().zip(least).zip(reduced)
        {
            *to = u64::conditional_select(&least, &reduced, due).to_le_bytes();
        }
        bytes
    }

    /// The sum of two that are small.
    #[inline(always)]
    fn plus(&self, other: &Self) -> Self {
        let (mut words, carry) = sum(self.0, other.0);
        // 2^256 is 38; with a carry the rest is below 2^24.
        words[0] = words[0].wrapping_add(38 & mask(carry));
        Self(words)
    }

    /// The difference of two that are small.
    #[inline(always)]
    fn minus(&self, other: &Self) -> Self {
        let (words, borrow) = difference(self.0, other.0);
        // If it borrowed it is above 2^254, so this does not.
        Self(difference(words, [38 & mask(borrow), 0, 0, 0]).0)
    }

    /// The product, small.
    #[inline(always)]
    fn times(&self, other: &Self) -> Self {
        let [a, b, c, d] = self.0;
        let [p0, r1, r2, r3, r4] = row(a, other.0);
        let ([p1, r2, r3, r4, r5], _) = sum([r1, r2, r3, r4, 0], row(b, other.0));
        let ([p2, r3, r4, r5, r6], _) = sum([r2, r3, r4, r5, 0], row(c, other.0));
        let ([p3, p4, p5, p6, p7], _) = sum([r3, r4, r5, r6, 0], row(d, other.0));
        reduced([p0, p1, p2, p3], [p4, p5, p6, p7])
    }

    /// The square, small.
    #[inline(always)]
    fn squared(&self) -> Self {
        let [a, b, c, d] = self.0;
        // Products of different words once, then twice, then those of each with itself.
        let [(ab, ab2), (ac, ac2), (ad, ad2)] = [b, c, d].map(|word| a.carrying_mul(word, 0));
        let [(bc, bc2), (bd, bd2), (cd, cd2)] =
            [(b, c), (b, d), (c, d)].map(|(x, y)| x.carrying_mul(y, 0));
        let ([p2, p3, p4, p5, p6], _) = sum([ac, ad, bd, cd, cd2], [ab2, ac2, ad2, 0, 0]);
        let ([p3, p4, p5, p6], _) = sum([p3, p4, p5, p6], [bc, bc2, bd2, 0]);
        let once = [0, ab, p2, p3, p4, p5, p6, 0];
        let [(aa, aa2), (bb, bb2), (cc, cc2), (dd, dd2)] =
            [a, b, c, d].map(|word| word.carrying_mul(word, 0));
        let (twice, _) = sum(once, once);
        let ([p0, p1, p2, p3, p4, p5, p6, p7], _) =
            sum(twice, [aa, aa2, bb, bb2, cc, cc2, dd, dd2]);
        reduced([p0, p1, p2, p3], [p4, p5, p6, p7])
    }

    /// The product with a number below 2^17, small.
    #[inline(always)]
    fn times_small(&self, number: u64) -> Self {
        let [a, b, c, d, top] = row(number, self.0);
        fold([a, b, c, d], top)
    }

    fn squared_times(self, count: usize) -> Self {
        (0..count).fold(self, |power, _| power.squared())
    }

    /// The inverse, and zero of zero: the power of 2^255 - 21. `ones_n` has n bits, all ones, in its exponent.
    fn inverted(&self) -> Self {
        let two = self.squared();
        let nine = two.squared_times(2).times(self);
        let eleven = nine.times(&two);
        let ones_5 = eleven.squared().times(&nine);
        let ones_10 = ones_5.squared_times(5).times(&ones_5);
        let ones_20 = ones_10.squared_times(10).times(&ones_10);
        let ones_40 = ones_20.squared_times(20).times(&ones_20);
        let ones_50 = ones_40.squared_times(10).times(&ones_10);
        let ones_100 = ones_50.squared_times(50).times(&ones_50);
        let ones_200 = ones_100.squared_times(100).times(&ones_100);
        let ones_250 = ones_200.squared_times(50).times(&ones_50);
        ones_250.squared_times(5).times(&eleven)
    }
}

/// A product of eight words, its upper half as 38 times as much of the lower.
#[inline(always)]
fn reduced(low: [u64; 4], high: [u64; 4]) -> Element {
    let [a, b, c, d] = low;
    let ([a, b, c, d, top], _) = sum([a, b, c, d, 0], row(38, high));
    fold([a, b, c, d], top)
}

/// What is congruent to `words` and `top` 2^256 and small; `top` is below 2^17.
#[inline(always)]
fn fold(mut words: [u64; 4], top: u64) -> Element {
    // In units of 2^255, which is 19: below 2^18, so what is added is below 2^23.
    let above = top << 1 | words[3] >> 63;
    words[3] &= u64::MAX >> 1;
    Element(sum(words, [above * 19, 0, 0, 0]).0)
}

/// One word times four.
#[inline(always)]
fn row(word: u64, words: [u64; 4]) -> [u64; 5] {
    let [(a, a2), (b, b2), (c, c2), (d, d2)] = words.map(|other| word.carrying_mul(other, 0));
    sum([a, b, c, d, 0], [0, a2, b2, c2, d2]).0
}

/// The sum, and whether it carried.
#[inline(always)]
fn sum<const N: usize>(mut words: [u64; N], others: [u64; N]) -> ([u64; N], bool) {
    let mut carry = false;
    for (word, other) in words.iter_mut().zip(others) {
        (*word, carry) = word.carrying_add(other, carry);
    }
    (words, carry)
}

/// The difference, and whether it borrowed.
#[inline(always)]
fn difference<const N: usize>(mut words: [u64; N], others: [u64; N]) -> ([u64; N], bool) {
    let mut borrow = false;
    for (word, other) in words.iter_mut().zip(others) {
        (*word, borrow) = word.borrowing_sub(other, borrow);
    }
    (words, borrow)
}

/// All ones, or none.
#[inline(always)]
fn mask(carry: bool) -> u64 {
    u64::from(carry).wrapping_neg()
}

#[cfg(test)]
mod tests;
