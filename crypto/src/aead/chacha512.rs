//! ChaCha20 in ZMM registers: sixteen or thirty-two lanes at a time.
//!
//! Two registers of each state word fill all 32 registers of the machine, so the rounds of the wide
//! pass are assembly: the compiler would spill. With one register per word the rounds wait for
//! their own results most of the time; the wide pass takes little longer and does twice the work.
#![allow(unsafe_code)] // Lanes are read and written through raw places; rounds in assembly.

use super::beside::{Beside, Link};
use super::chacha::{CONSTANTS, DOUBLE_ROUNDS, Words, double_round};
use super::deal::{Blocks, Dealer, Lanes, Position};
use super::group::{GROUP, Group};
use super::lanes::Text;
use super::poly64::Chain;
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

/// Lanes of a wide pass; the other does the first sixteen.
const LANES: usize = 32;

/// Puts block 0 of each packet into the group's table of one-time keys.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,bmi2,avx2")]
pub(super) fn derive(proof: Avx512<'_>, group: &mut Group<'_, '_>) {
    let lanes = Lanes::of_blocks_zero(group.packets().len());
    let mut keys = Keys::NONE;
    if keys.take(proof, group) {
        pass::<true>(proof, group, &keys, &lanes);
    } else {
        pass::<false>(proof, group, &keys, &lanes);
    }
}

/// Derives one-time keys, adds the key stream to each packet's text, and authenticates packets before
/// `end` beside it; returns the first that is not authenticated.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,bmi2,avx2")]
#[inline(never)] // Its frame would add to that of who authenticates the others.
pub(super) fn seal(proof: Avx512<'_>, group: &mut Group<'_, '_>, end: usize) -> usize {
    let mut beside = Beside::new(0, end);
    crypt(proof, group, Blocks::All, &mut beside);
    beside.done()
}

/// Adds the key stream to the text of authentic packets, and zeroes the output of the others. Those from
/// `first` on are authenticated beside it.
///
/// Returns which packets are authentic, as bits.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,bmi2,avx2")]
#[inline(never)] // As above.
pub(super) fn open(proof: Avx512<'_>, group: &mut Group<'_, '_>, first: usize) -> u16 {
    let mut beside = Beside::new(first, GROUP);
    crypt(proof, group, Blocks::Text, &mut beside);
    beside.authentic
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,bmi2,avx2")]
#[inline]
fn crypt(proof: Avx512<'_>, group: &mut Group<'_, '_>, blocks: Blocks, beside: &mut Beside) {
    let mut keys = Keys::NONE;
    if keys.take(proof, group) {
        crypt_with::<true>(proof, group, &keys, blocks, beside);
    } else {
        crypt_with::<false>(proof, group, &keys, blocks, beside);
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,bmi2,avx2")]
fn crypt_with<const ONE_KEY: bool>(
    proof: Avx512<'_>,
    group: &mut Group<'_, '_>,
    keys: &Keys,
    blocks: Blocks,
    beside: &mut Beside,
) {
    let mut lanes = Lanes::IDLE;
    let mut dealer = Dealer::new(blocks);
    loop {
        let written = match blocks {
            Blocks::Text => Position::END,
            _ => dealer.position(),
        };
        let limit = match blocks {
            Blocks::Text if !beside.has_judged(group) => beside.judge(group, &dealer, LANES),
            _ => GROUP,
        };
        match deal(proof, &mut dealer, group, &mut lanes, limit) {
            0 => return beside.finish_begun(group, written),
            1..=16 => pass::<ONE_KEY>(proof, group, keys, &lanes),
            _ => {
                if !beside.is_done() {
                    beside.plan(group, written);
                }
                wide_pass::<ONE_KEY>(proof, group, keys, &lanes, beside);
            }
        }
    }
}

/// As [`Dealer::deal`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,bmi2,avx2")]
#[inline(never)] // The registers that it keeps for its callers would be kept in their frames.
fn deal(
    proof: Avx512<'_>,
    dealer: &mut Dealer,
    group: &Group<'_, '_>,
    lanes: &mut Lanes<LANES>,
    limit: usize,
) -> usize {
    dealer.deal(proof, group, lanes, limit)
}

/// The key and nonce words of a group, by word and then by packet.
#[repr(C, align(64))]
struct Keys {
    /// Of one key for all packets, only the first lane of each word is filled.
    words: [[u32; GROUP]; 8],
    counter_low: [u32; GROUP],
    counter_high: [u32; GROUP],
}

impl Keys {
    /// Of no packets.
    const NONE: Self =
        Self { words: [[0; GROUP]; 8], counter_low: [0; GROUP], counter_high: [0; GROUP] };

    /// Takes the keys of a group; returns whether they are all the same.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,bmi2,avx2")]
    #[inline(never)] // What it needs of the stack is then free again when they are used.
    fn take(&mut self, proof: Avx512<'_>, group: &Group<'_, '_>) -> bool {
        let mut found: [&[u32; 8]; GROUP] = [&[0; 8]; GROUP];
        for (index, packet) in group.packets().iter().enumerate() {
            let Some((key, counter)) = group.key(packet) else { break };
            found[index % GROUP] = key;
            self.counter_low[index % GROUP] = counter as u32;
            self.counter_high[index % GROUP] = (counter >> 32) as u32;
        }
        if group.one_key {
            for (lanes, word) in self.words.iter_mut().zip(found[0]) {
                lanes[0] = *word;
            }
            return true;
        }
        for (word, lanes) in self.words.iter_mut().zip(transpose_keys(proof, &found)) {
            lanes.store32(word);
        }
        false
    }

    /// Rows 1 to 3 of the state of sixteen lanes.
    #[inline(always)]
    fn rows<const ONE_KEY: bool>(
        &self,
        proof: Avx512<'_>,
        lanes: &Lanes<LANES>,
        set: usize,
    ) -> [V512; 12] {
        let mut rows = [V512::zero(proof); 12];
        let at = 16 * set;
        let packet = match lanes.packet[at..].first_chunk() {
            Some(packet) => V512::widen8(proof, packet),
            None => rows[0],
        };
        for (row, words) in rows.iter_mut().zip(&self.words) {
            *row = if ONE_KEY {
                V512::splat32(proof, words[0])
            } else {
                V512::load32(proof, words).pick32(packet)
            };
        }
        if let Some(block) = lanes.block[at..].first_chunk() {
            rows[8] = V512::widen16(proof, block);
        }
        rows[10] = V512::load32(proof, &self.counter_low).pick32(packet);
        rows[11] = V512::load32(proof, &self.counter_high).pick32(packet);
        rows
    }
}

/// One pass of sixteen lanes.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,bmi2,avx2")]
#[inline(never)]
fn pass<const ONE_KEY: bool>(
    proof: Avx512<'_>,
    group: &mut Group<'_, '_>,
    keys: &Keys,
    lanes: &Lanes<LANES>,
) {
    let mut state = start::<ONE_KEY>(proof, keys, lanes, 0);
    for _ in 0..DOUBLE_ROUNDS {
        double_round(&mut state);
    }
    finish::<ONE_KEY>(proof, group, (keys, lanes, 0), state);
}

/// One pass of thirty-two lanes.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,bmi2,avx2")]
#[inline(never)]
fn wide_pass<const ONE_KEY: bool>(
    proof: Avx512<'_>,
    group: &mut Group<'_, '_>,
    keys: &Keys,
    lanes: &Lanes<LANES>,
    beside: &mut Beside,
) {
    let mut b = start::<ONE_KEY>(proof, keys, lanes, 1);
    let mut a = start::<ONE_KEY>(proof, keys, lanes, 0);
    // SAFETY: registers, `b` in its place, aligned to 64, and of the texts as many bytes as by the
    // invariant of `Link` there are; the features are those of this function.
    unsafe { wide_rounds!(a, b, beside) };
    // What the rounds started from is made again: kept, it would take 2 KiB of stack.
    let (keys, lanes) = core::hint::black_box((keys, lanes));
    finish::<ONE_KEY>(proof, group, (keys, lanes, 0), a);
    finish::<ONE_KEY>(proof, group, (keys, lanes, 1), b);
}

/// The state of sixteen lanes before the rounds.
#[inline(always)]
fn start<const ONE_KEY: bool>(
    proof: Avx512<'_>,
    keys: &Keys,
    lanes: &Lanes<LANES>,
    set: usize,
) -> [V512; 16] {
    let mut state = [V512::zero(proof); 16];
    for word in 0..4 {
        state[word] = V512::splat32(proof, CONSTANTS[word]);
    }
    state[4..].copy_from_slice(&keys.rows::<ONE_KEY>(proof, lanes, set));
    state
}

/// What follows the rounds: adds the start, turns words into blocks, adds them to the text.
#[inline(always)]
fn finish<const ONE_KEY: bool>(
    proof: Avx512<'_>,
    group: &mut Group<'_, '_>,
    (keys, lanes, set): (&Keys, &Lanes<LANES>, usize),
    mut state: [V512; 16],
) {
    let start = start::<ONE_KEY>(proof, keys, lanes, set);
    for (word, start) in state.iter_mut().zip(start) {
        *word = word.add32(start);
    }
    // `fours[4 * i + j]`: its 128-bit lane `k` has words `4 * i` to `4 * i + 3` of block `4 * k + j`.
    let fours = by_fours(proof, &state);
    // One by one and not in a loop, so that they are never in memory: that would take 1 KiB of stack.
    finish_four::<0>(group, lanes, set, &fours);
    finish_four::<1>(group, lanes, set, &fours);
    finish_four::<2>(group, lanes, set, &fours);
    finish_four::<3>(group, lanes, set, &fours);
}

/// The last step of transposing: blocks `J`, `4 + J`, `8 + J` and `12 + J`, each added to its text.
#[inline(always)]
fn finish_four<const J: usize>(
    group: &mut Group<'_, '_>,
    lanes: &Lanes<LANES>,
    set: usize,
    fours: &[V512; 16],
) {
    let a = fours[J].quarters::<0x88>(fours[4 + J]);
    let b = fours[J].quarters::<0xdd>(fours[4 + J]);
    let c = fours[8 + J].quarters::<0x88>(fours[12 + J]);
    let d = fours[8 + J].quarters::<0xdd>(fours[12 + J]);
    finish_lane(group, lanes, 16 * set + J, a.quarters::<0x88>(c));
    finish_lane(group, lanes, 16 * set + 4 + J, b.quarters::<0x88>(d));
    finish_lane(group, lanes, 16 * set + 8 + J, a.quarters::<0xdd>(c));
    finish_lane(group, lanes, 16 * set + 12 + J, b.quarters::<0xdd>(d));
}

/// Adds a block of key stream to the lane's text, or keeps the one-time key if it is block 0.
#[inline(always)]
fn finish_lane(group: &mut Group<'_, '_>, lanes: &Lanes<LANES>, lane: usize, block: V512) {
    let rest = lanes.rest[lane % LANES];
    let (index, start) = lanes.place(lane);
    if rest == 64
        && let Some(start) = start
    {
        let packet = group.packet(index);
        // SAFETY: by the invariants of `Lanes` and `Packet` the source has 64 bytes here.
        let text = unsafe { block.xor_once(lanes.text[lane % LANES].wrapping_add(start)) };
        // SAFETY: by the same the destination has 64 bytes here.
        unsafe { text.store(packet.destination.wrapping_add(start)) };
    } else if rest > 0 {
        match start {
            // SAFETY: by the invariants of `Lanes` the packet has these bytes.
            Some(start) => unsafe {
                block.add_to_edge(group.packet(index), start, lanes.len(lane));
            },
            None => group.put_one_time_key(index, |key| block.store_low_half(key)),
        }
    }
    // Nothing is touched for an idle lane: even with an empty mask an address that is not mapped
    // costs the CPU hundreds of cycles.
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
