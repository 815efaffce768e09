//! The ladder against `x25519-dalek`, its arithmetic against sums that are reduced bit by bit, and its constant time.

use std::{vec, vec::Vec};

use super::*;

/// 2^255 - 19.
const P: [u64; 4] = [0u64.wrapping_sub(19), u64::MAX, u64::MAX, u64::MAX >> 1];

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn number(&mut self) -> [u64; 4] {
        core::array::from_fn(|_| self.next())
    }
}

fn bytes(number: [u64; 4]) -> [u8; 32] {
    let mut bytes = [0; 32];
    for (to, word) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(number) {
        *to = word.to_le_bytes();
    }
    bytes
}

/// Numbers whose neighbours overflow something: around 0, p, 2p, powers of two, and ones and zeros by words.
fn edges() -> Vec<[u64; 4]> {
    let mut edges = vec![];
    for base in [[0; 4], P, sum(P, P).0, [0, 0, 0, 1 << 63], [0, 1, 0, 0], [1 << 23, 0, 0, 1 << 63]]
    {
        for near in [0, 1, 19, 38] {
            edges.push(sum(base, [near, 0, 0, 0]).0);
            edges.push(difference(base, [near, 0, 0, 0]).0);
        }
    }
    for words in 0..16_u64 {
        edges.push(core::array::from_fn(|at| mask(words >> at & 1 != 0)));
    }
    edges
}

/// `number` less `P` as often as it takes.
fn least(mut number: [u64; 4]) -> [u64; 4] {
    loop {
        let (less, borrow) = difference(number, P);
        if borrow {
            return number;
        }
        number = less;
    }
}

fn added(one: [u64; 4], other: [u64; 4]) -> [u64; 4] {
    // Both are below 2^255.
    least(sum(least(one), least(other)).0)
}

/// Bit by bit, by doubling.
fn multiplied(one: [u64; 4], other: [u64; 4]) -> [u64; 4] {
    let mut product = [0; 4];
    for bit in (0..256).rev() {
        product = added(product, product);
        if other[bit / 64] >> (bit % 64) & 1 != 0 {
            product = added(product, one);
        }
    }
    product
}

fn is_small(element: Element) -> bool {
    difference(element.0, [1 << 23, 0, 0, 1 << 63]).1
}

#[test]
fn arithmetic_is_that_of_the_field() {
    let mut random = Random(0x5eed);
    let mut numbers = edges();
    numbers.extend((0..20).map(|_| random.number()));
    for (at, &one) in numbers.iter().enumerate() {
        let a = Element(one);
        assert_eq!(a.to_bytes(), bytes(least(one)), "{one:x?}");
        assert_eq!(a.squared().to_bytes(), bytes(multiplied(one, one)), "{one:x?}");
        assert!(is_small(a.squared()), "{one:x?}");
        for factor in [0, 1, 121_666, (1 << 17) - 1] {
            let product = a.times_small(factor);
            assert_eq!(product.to_bytes(), bytes(multiplied(one, [factor, 0, 0, 0])), "{one:x?}");
            assert!(is_small(product), "{one:x?}");
        }
        for &other in &numbers[at..] {
            let b = Element(other);
            let product = a.times(&b);
            assert_eq!(product.to_bytes(), bytes(multiplied(one, other)), "{one:x?} {other:x?}");
            assert!(is_small(product), "{one:x?} {other:x?}");
            if !is_small(a) || !is_small(b) {
                continue;
            }
            assert_eq!(a.plus(&b).to_bytes(), bytes(added(one, other)), "{one:x?} {other:x?}");
            for (a, b) in [(a, b), (b, a)] {
                let back = added(b.0, a.minus(&b).0);
                assert_eq!(back, least(a.0), "{one:x?} {other:x?}");
            }
        }
        let expected = bytes([u64::from(least(one) != [0; 4]), 0, 0, 0]);
        assert_eq!(a.inverted().times(&a).to_bytes(), expected, "{one:x?}");
    }
}

// spec-test: WG 5.4-a, WG 5.4-b
#[test]
fn it_is_what_dalek_computes() {
    let mut random = Random(0xda1e);
    let mut pairs: Vec<_> = (0..200).map(|_| (random.number(), random.number())).collect();
    for point in edges() {
        pairs.push((random.number(), point));
        pairs.push((point, random.number()));
    }
    // The points of low order, [RFC 7748 §7], which only the caller refuses.
    for point in [
        "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
        "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    ] {
        let digit = |at| u8::from_str_radix(&point[at..at + 2], 16).unwrap();
        let point = core::array::from_fn(|at| digit(2 * at));
        assert_eq!(*x25519(&bytes(random.number()), &point), [0; 32]);
        pairs.push((random.number(), Element::from_bytes(&point).0));
    }
    for (scalar, point) in pairs {
        let (scalar, point) = (bytes(scalar), bytes(point));
        let expected = x25519_dalek::x25519(scalar, point);
        assert_eq!(*x25519(&scalar, &point), expected, "{scalar:x?} {point:x?}");
    }
}

/// Two steps with a swap between them, and what ends a multiplication.
// spec-test: WG 5.4-k
#[test]
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn multiplying_takes_constant_time() {
    use crate::aead::tests::trace::{child, hash};
    #[inline(never)]
    fn trace(pair: &mut [Projective; 2], point: &mut Element, secret: [[u64; 4]; 3]) -> (u64, u64) {
        let [one, other, third] = secret.map(|number| Element::from_bytes(&bytes(number)));
        *pair = [Projective { x: one, z: other }, Projective { x: other, z: third }];
        *point = third;
        let choice = Choice::from(secret[0][0] as u8 & 1);
        hash(child(|| {
            step(pair, point);
            swap(pair, choice);
            step(pair, point);
            usize::from(pair[0].x.times(&pair[0].z.inverted()).to_bytes()[0])
        }))
    }
    let mut random = Random(0x7ace);
    let secrets = [core::array::from_fn(|_| random.number()), [[1, 0, 0, 0], [0; 4], P]];
    let (mut pair, mut point) = ([Projective::INFINITY; 2], Element::ONE);
    let traces = secrets.map(|secret| trace(&mut pair, &mut point, secret));
    assert!(traces[0].1 > 10_000, "nothing was traced");
    assert_eq!(traces[0], traces[1]);
}
