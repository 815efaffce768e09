//! ChaCha20 in ZMM registers: sixteen or thirty-two lanes at a time.
//!
//! Two registers of each state word fill all 32 registers of the machine, so the rounds of the wide
//! pass are assembly: the compiler would spill. With one register per word the rounds wait for
//! their own results most of the time; the wide pass takes little longer and does twice the work.
#![allow(unsafe_code)] // Lanes are read and written through raw places; rounds in assembly.

use super::chacha::{CONSTANTS, DOUBLE_ROUNDS, Words, double_round};
use super::deal::{Blocks, Dealer, Lanes};
use super::group::{GROUP, Group};
use super::lanes::Text;
use super::tier::Avx512;
use super::vector512::V512;

impl Words for V512 {
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        self.add32(other)
    }
    #[inline(always)]
    fn xor(self, other: Self) -> Self {
        V512::xor(self, other)
    }
    #[inline(always)]
    fn rotate<const N: i32>(self) -> Self {
        self.rotate32::<N>()
    }
}

/// Puts block 0 of each packet into the group's table of one-time keys.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,bmi2,avx2")]
pub(super) fn derive(proof: Avx512<'_>, group: &mut Group<'_, '_>) {
    let mut lanes = Lanes::<16>::IDLE;
    Dealer::new(Blocks::Zero).deal(group, &mut lanes);
    let keys = Keys::of(proof, group);
    match keys.only {
        Some(_) => pass::<true, 16>(proof, group, &keys, &lanes),
        None => pass::<false, 16>(proof, group, &keys, &lanes),
    }
}

/// Adds the key stream to each packet's text; with [`Blocks::All`] also derives one-time keys.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,bmi2,avx2")]
pub(super) fn crypt(proof: Avx512<'_>, group: &mut Group<'_, '_>, blocks: Blocks) {
    let keys = Keys::of(proof, group);
    match keys.only {
        Some(_) => crypt_with::<true>(proof, group, &keys, blocks),
        None => crypt_with::<false>(proof, group, &keys, blocks),
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,bmi2,avx2")]
fn crypt_with<const ONE_KEY: bool>(
    proof: Avx512<'_>,
    group: &mut Group<'_, '_>,
    keys: &Keys,
    blocks: Blocks,
) {
    // Two sets, filled in turn: a set is then not read right after it was written in small pieces,
    // which no store buffer could forward.
    let (mut even, mut odd) = (Lanes::<32>::IDLE, Lanes::<32>::IDLE);
    let (mut now, mut next) = (&mut even, &mut odd);
    let mut dealer = Dealer::new(blocks);
    let mut filled = dealer.deal(group, now);
    while filled > 0 {
        let following = dealer.deal(group, next);
        if filled > 16 {
            wide_pass::<ONE_KEY>(proof, group, keys, now);
        } else {
            pass::<ONE_KEY, 32>(proof, group, keys, now);
        }
        (now, next) = (next, now);
        filled = following;
    }
}

/// The key and nonce words of a group, by word and then by packet.
#[repr(C, align(64))]
struct Keys {
    words: [[u32; GROUP]; 8],
    counter_low: [u32; GROUP],
    counter_high: [u32; GROUP],
    /// The key of all packets, if it is the same; `words` is then not filled.
    only: Option<[u32; 8]>,
}

impl Keys {
    #[inline(always)]
    fn of(proof: Avx512<'_>, group: &Group<'_, '_>) -> Self {
        let (mut counter_low, mut counter_high) = ([0; GROUP], [0; GROUP]);
        let mut found: [&[u32; 8]; GROUP] = [&[0; 8]; GROUP];
        for (index, packet) in group.packets().iter().enumerate() {
            let Some((key, counter)) = group.key(packet) else { break };
            found[index % GROUP] = key;
            counter_low[index % GROUP] = counter as u32;
            counter_high[index % GROUP] = (counter >> 32) as u32;
        }
        let only = group.one_key().then_some(*found[0]);
        let mut words = [[0; GROUP]; 8];
        if only.is_none() {
            for (word, lanes) in words.iter_mut().zip(transpose_keys(proof, &found)) {
                lanes.store32(word);
            }
        }
        Self { words, counter_low, counter_high, only }
    }

    /// Rows 1 to 3 of the state of sixteen lanes.
    #[inline(always)]
    fn rows<const ONE_KEY: bool, const N: usize>(
        &self,
        proof: Avx512<'_>,
        lanes: &Lanes<N>,
        set: usize,
    ) -> [V512; 12] {
        let mut rows = [V512::zero(proof); 12];
        let at = 16 * set;
        let packet = match lanes.packet[at..].first_chunk() {
            Some(packet) => V512::widen8(proof, packet),
            None => rows[0],
        };
        for word in 0..8 {
            rows[word] = match self.only {
                Some(ref only) if ONE_KEY => V512::splat32(proof, only[word]),
                _ => V512::load32(proof, &self.words[word]).pick32(packet),
            };
        }
        if let Some(block) = lanes.block[at..].first_chunk() {
            rows[8] = V512::load32(proof, block);
        }
        rows[10] = V512::load32(proof, &self.counter_low).pick32(packet);
        rows[11] = V512::load32(proof, &self.counter_high).pick32(packet);
        rows
    }
}

/// One pass of sixteen lanes.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,bmi2,avx2")]
#[inline(never)]
fn pass<const ONE_KEY: bool, const N: usize>(
    proof: Avx512<'_>,
    group: &mut Group<'_, '_>,
    keys: &Keys,
    lanes: &Lanes<N>,
) {
    let mut state = start::<ONE_KEY, N>(proof, keys, lanes, 0);
    for _ in 0..DOUBLE_ROUNDS {
        double_round(&mut state);
    }
    finish::<ONE_KEY, N>(proof, group, (keys, lanes, 0), state);
}

/// One pass of thirty-two lanes.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,bmi2,avx2")]
#[inline(never)]
fn wide_pass<const ONE_KEY: bool>(
    proof: Avx512<'_>,
    group: &mut Group<'_, '_>,
    keys: &Keys,
    lanes: &Lanes<32>,
) {
    let mut a = start::<ONE_KEY, 32>(proof, keys, lanes, 0);
    let mut b = start::<ONE_KEY, 32>(proof, keys, lanes, 1);
    // SAFETY: registers only; the features are those of this function.
    unsafe { wide_rounds!(a, b) };
    finish::<ONE_KEY, 32>(proof, group, (keys, lanes, 0), a);
    finish::<ONE_KEY, 32>(proof, group, (keys, lanes, 1), b);
}

/// The state of sixteen lanes before the rounds.
#[inline(always)]
fn start<const ONE_KEY: bool, const N: usize>(
    proof: Avx512<'_>,
    keys: &Keys,
    lanes: &Lanes<N>,
    set: usize,
) -> [V512; 16] {
    let mut state = [V512::zero(proof); 16];
    for word in 0..4 {
        state[word] = V512::splat32(proof, CONSTANTS[word]);
    }
    state[4..].copy_from_slice(&keys.rows::<ONE_KEY, N>(proof, lanes, set));
    state
}

/// What follows the rounds: adds the start, turns words into blocks, adds them to the text.
#[inline(always)]
fn finish<const ONE_KEY: bool, const N: usize>(
    proof: Avx512<'_>,
    group: &mut Group<'_, '_>,
    (keys, lanes, set): (&Keys, &Lanes<N>, usize),
    mut state: [V512; 16],
) {
    let start = start::<ONE_KEY, N>(proof, keys, lanes, set);
    for (word, start) in state.iter_mut().zip(start) {
        *word = word.add32(start);
    }
    for (at, block) in transpose(proof, &state).into_iter().enumerate() {
        let lane = 16 * set + at;
        // Nothing is touched for an idle lane: even with an empty mask an address that is not
        // mapped costs the CPU hundreds of cycles.
        let rest = lanes.rest[lane];
        if rest == 0 {
            continue;
        }
        let (index, Some(start)) = lanes.place(lane) else {
            block.store_low_half(&mut group.one_time.0[usize::from(lanes.packet[lane]) % GROUP]);
            continue;
        };
        let packet = group.packet(index);
        let source = packet.source.wrapping_add(start);
        let destination = packet.destination.wrapping_add(start);
        if rest == 64 {
            // SAFETY: by the invariants of `Lanes` and `Packet` the source has 64 bytes here.
            let text = unsafe { block.xor_once(source) };
            // SAFETY: by the same the destination has 64 bytes here.
            unsafe { text.store(destination) };
        } else {
            let mask = u64::MAX >> (64 - u32::from(rest));
            // SAFETY: by the invariants of `Lanes` and `Packet` the source has these bytes.
            let text = unsafe { block.xor_part_once(source, mask) };
            // SAFETY: by the same the destination has these bytes.
            unsafe { text.store_part(destination, mask) };
        }
    }
}

/// Sixteen words of sixteen blocks become sixteen blocks.
#[inline(always)]
fn transpose(proof: Avx512<'_>, x: &[V512; 16]) -> [V512; 16] {
    let zero = V512::zero(proof);
    // `fours[4 * i + j]`: its 128-bit lane `k` has words `4 * i` to `4 * i + 3` of block `4 * k + j`.
    let fours = by_fours(proof, x);
    let mut out = [zero; 16];
    for j in 0..4 {
        let a = fours[j].quarters::<0x88>(fours[4 + j]);
        let b = fours[j].quarters::<0xdd>(fours[4 + j]);
        let c = fours[8 + j].quarters::<0x88>(fours[12 + j]);
        let d = fours[8 + j].quarters::<0xdd>(fours[12 + j]);
        out[j] = a.quarters::<0x88>(c);
        out[8 + j] = a.quarters::<0xdd>(c);
        out[4 + j] = b.quarters::<0x88>(d);
        out[12 + j] = b.quarters::<0xdd>(d);
    }
    out
}

/// In each 128-bit lane, groups of four registers of one word become four registers of four words.
#[inline(always)]
fn by_fours<const N: usize>(proof: Avx512<'_>, x: &[V512; N]) -> [V512; N] {
    let zero = V512::zero(proof);
    let mut pairs = [zero; N];
    for i in 0..N / 2 {
        pairs[2 * i] = x[2 * i].low32(x[2 * i + 1]);
        pairs[2 * i + 1] = x[2 * i].high32(x[2 * i + 1]);
    }
    let mut fours = [zero; N];
    for i in 0..N / 4 {
        fours[4 * i] = pairs[4 * i].low64(pairs[4 * i + 2]);
        fours[4 * i + 1] = pairs[4 * i].high64(pairs[4 * i + 2]);
        fours[4 * i + 2] = pairs[4 * i + 1].low64(pairs[4 * i + 3]);
        fours[4 * i + 3] = pairs[4 * i + 1].high64(pairs[4 * i + 3]);
    }
    fours
}

/// Sixteen keys become eight words of sixteen keys.
#[inline(always)]
fn transpose_keys(proof: Avx512<'_>, keys: &[&[u32; 8]; GROUP]) -> [V512; 8] {
    let zero = V512::zero(proof);
    let mut x = [zero; 8];
    for i in 0..8 {
        x[i] = V512::halves(proof, keys[i], keys[i + 8]);
    }
    // `fours[j]`: words `j` and `4 + j` of keys 0 to 3, then of keys 8 to 11; `fours[4 + j]` those
    // of keys 4 to 7 and 12 to 15.
    let fours = by_fours(proof, &x);
    let lower = V512::load64(proof, &[0, 1, 8, 9, 4, 5, 12, 13]);
    let upper = V512::load64(proof, &[2, 3, 10, 11, 6, 7, 14, 15]);
    let mut out = [zero; 8];
    for j in 0..4 {
        out[j] = fours[j].pick64(lower, fours[4 + j]);
        out[4 + j] = fours[j].pick64(upper, fours[4 + j]);
    }
    out
}
