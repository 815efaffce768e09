//! The AEAD against the libraries that others use, on one core, in one interleaved run.
//!
//! Every contender works on the same 64 packets in turn, round after round, so that whatever else
//! the machine does falls on all of them alike; the figure is the median over the rounds, without the
//! samples during which the core was shared (`quiet`). Where hardly any were left all count, and the
//! line ends with `*`. Packets are sealed in place at 16 bytes from a cache line, where WireGuard's header puts them.
//!
//! ```text
//! scripts/bench.sh aead                               all peers, about a minute
//! scripts/bench.sh aead 1420 Avx2                     only lines that contain these words
//! cargo bench -p crypto --bench aead                  without the peers that are C (peers/)
//! ```
//!
//! Prints a table and writes `target/bench/aead.json`: an array of `{what, size, unit, ours, peer,
//! theirs, ratio}`, times in ns per packet; a ratio above 1 says that ours is faster. Beside it
//! `aead.svg` shows the best tier and its peers.

use std::fmt::Write as _;
use std::hint::black_box;
use std::time::{Duration, Instant};

use chacha20poly1305::aead::{AeadInOut, KeyInit};
use crypto::aead::{self, ExtendedState, Job, Key, Piece, Source, TAG_LEN, Tier, Verdict, detect};
use ring::aead as ring_aead;

mod mac1;
#[cfg(feature = "peers")]
#[path = "peers/peers.rs"]
mod peers;
mod plot;
mod quiet;

/// Packets in a sample.
const PACKETS: usize = 64;
/// Where a packet's text begins in its slot: behind the 16-byte header of Transport Data.
const HEADER: usize = 16;
/// Time spent on one line of the table; up to ten times as much for as many quiet samples as are enough.
const PER_LINE: Duration = Duration::from_millis(350);
/// Fewest samples of a contender.
const ENOUGH: usize = 12;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let best = best_tier();
    println!("cpu {}, best tier {best:?}, {PACKETS} packets a sample, ns per packet", cpu_name());
    let mut rows = Vec::new();
    let mut watch = quiet::Watch::new();
    for line in lines(best) {
        let name = line.name();
        if words.iter().all(|word| name.contains(word.as_str())) {
            rows.extend(line.measure(&mut watch));
        }
    }
    if words.is_empty() || words == ["mac1"] {
        rows.extend([mac1::measure(best), mac1::measure_copied(best)]);
    }
    if words.is_empty() {
        write("aead.json", &json(&rows));
        write("aead.svg", &plot::draw(&rows));
    }
}

/// One measurement: ours in one configuration against every peer.
struct Line {
    opens: bool,
    sizes: Sizes,
    tier: Tier,
    /// Jobs given to one call.
    batch: usize,
    shape: Shape,
}

/// Lengths of the 64 packets.
#[derive(Clone, Copy)]
enum Sizes {
    All(usize),
    /// Seven of 64, four of 576 and one of 1420 bytes, mixed.
    Imix,
}

/// What differs from one key and packets in place.
#[derive(Clone, Copy, PartialEq)]
enum Shape {
    InPlace,
    /// Every packet has a key of its own.
    Keys,
    /// From another buffer.
    OutOfPlace,
    /// From two pieces of another buffer.
    TwoPieces,
    /// From another buffer, given as memory that may change.
    Raw,
}

/// The right to use the registers of `tier`, which this machine has.
fn state(tier: Tier) -> ExtendedState {
    // SAFETY: not above the tier that was detected, and the registers belong to this process.
    unsafe { ExtendedState::assume(tier) }
}

fn lines(best: Tier) -> Vec<Line> {
    let mut lines = Vec::new();
    let sizes = [64, 256, 512, 1420, 8192].map(Sizes::All);
    for opens in [false, true] {
        for tier in Tier::ALL.into_iter().rev().filter(|tier| *tier <= best) {
            for sizes in sizes.into_iter().chain([Sizes::Imix]) {
                lines.push(Line { opens, sizes, tier, batch: 64, shape: Shape::InPlace });
            }
        }
        for batch in [1, 4, 16] {
            for sizes in sizes {
                lines.push(Line { opens, sizes, tier: best, batch, shape: Shape::InPlace });
            }
        }
        for shape in [Shape::Keys, Shape::OutOfPlace, Shape::TwoPieces, Shape::Raw] {
            for size in [64, 1420] {
                lines.push(Line { opens, sizes: Sizes::All(size), tier: best, batch: 64, shape });
            }
        }
    }
    lines
}

/// One row of the result.
struct Row {
    what: String,
    size: String,
    unit: &'static str,
    ours: f64,
    peer: &'static str,
    theirs: f64,
}

impl Line {
    fn size(&self) -> String {
        match self.sizes {
            Sizes::All(len) => len.to_string(),
            Sizes::Imix => "IMIX".into(),
        }
    }

    fn what(&self) -> String {
        let mut what = String::from(if self.opens { "open" } else { "seal" });
        let best = best_tier();
        if self.tier != best {
            write!(what, ", {:?}", self.tier).expect("a string takes all");
        }
        if self.batch != 64 {
            write!(what, ", batch {}", self.batch).expect("a string takes all");
        }
        what.push_str(match self.shape {
            Shape::InPlace => "",
            Shape::Keys => ", 64 keys",
            Shape::OutOfPlace => ", out of place",
            Shape::TwoPieces => ", two pieces",
            Shape::Raw => ", raw source",
        });
        what
    }

    fn name(&self) -> String {
        format!("{} {} {:?}", self.what(), self.size(), self.tier)
    }

    fn lens(&self) -> [usize; PACKETS] {
        match self.sizes {
            Sizes::All(len) => [len; PACKETS],
            Sizes::Imix => {
                let cycle = [64, 576, 64, 64, 576, 64, 1420, 64, 576, 64, 64, 576];
                core::array::from_fn(|index| cycle[index * 5 % 12])
            }
        }
    }

    /// Interleaved rounds of everybody, then the medians.
    fn measure(&self, watch: &mut quiet::Watch) -> Vec<Row> {
        let mut arena = Arena::new(self.lens());
        let mut contenders = contenders(self);
        let mut all: Vec<Vec<f64>> = contenders.iter().map(|_| Vec::new()).collect();
        let mut quiet = all.clone();
        let has_enough = |quiet: &[Vec<f64>]| quiet.iter().all(|times| times.len() >= ENOUGH);
        let begun = Instant::now();
        let mut counter = 0;
        while begun.elapsed() < PER_LINE
            || all[0].len() < ENOUGH
            || (!has_enough(&quiet) && begun.elapsed() < 10 * PER_LINE)
        {
            counter += PACKETS as u64;
            for (at, contender) in contenders.iter_mut().enumerate() {
                // Sealed packets to open, or a warm cache.
                contenders_seal(&mut arena, counter, &self.keys_of_packets());
                let was_quiet = watch.is_quiet();
                let taken = (contender.run)(&mut arena, counter).as_nanos() as f64 / PACKETS as f64;
                all[at].push(taken);
                if was_quiet && watch.is_quiet() {
                    quiet[at].push(taken);
                }
            }
        }
        let is_quiet = has_enough(&quiet);
        let times = if is_quiet { &mut quiet } else { &mut all };
        let medians: Vec<f64> = times.iter_mut().map(|times| median(times)).collect();
        let mut text = format!("{:34} {:>5}  ours {:8.1}", self.what(), self.size(), medians[0]);
        let mut rows = Vec::new();
        for (contender, theirs) in contenders.iter().zip(&medians).skip(1) {
            write!(text, "  {} {theirs:8.1} ({:.2}x)", contender.name, theirs / medians[0])
                .expect("a string takes all");
            rows.push(Row {
                what: self.what(),
                size: self.size(),
                unit: "ns/packet",
                ours: medians[0],
                peer: contender.name,
                theirs: *theirs,
            });
        }
        println!("{text}{}", if is_quiet { "" } else { " *" });
        rows
    }

    fn keys_of_packets(&self) -> [[u8; 32]; PACKETS] {
        core::array::from_fn(|index| {
            let mut key: [u8; 32] = core::array::from_fn(|at| at as u8 * 7 + 3);
            if self.shape == Shape::Keys {
                key[5] = index as u8;
            }
            key
        })
    }
}

/// Seals or opens the 64 packets of the arena from this counter on; returns the time it took.
type Run = dyn FnMut(&mut Arena, u64) -> Duration;

/// One implementation, ready to do its 64 packets; says how long that took.
struct Contender {
    name: &'static str,
    run: Box<Run>,
}

fn contenders(line: &Line) -> Vec<Contender> {
    #[allow(unused_mut, reason = "not without the other peers")]
    let mut all = vec![ours(line), ring(line), rustcrypto(line)];
    #[cfg(feature = "peers")]
    all.extend([peers::aws_lc(line), peers::openssl(line)]);
    #[cfg(ipsec_mb)]
    all.push(peers::ipsec_mb(line));
    all
}

/// This crate, in the line's configuration.
fn ours(line: &Line) -> Contender {
    let state = state(line.tier);
    let (opens, batch, shape, lens) = (line.opens, line.batch, line.shape, line.lens());
    let keys: Vec<Key> = match shape {
        Shape::Keys => line.keys_of_packets().map(Key::new).into(),
        _ => vec![Key::new(line.keys_of_packets()[0])],
    };
    let run = move |arena: &mut Arena, counter: u64| {
        let (sources, slots) = arena.split();
        let inputs: [(&[u8], &[u8]); PACKETS] = core::array::from_fn(|index| {
            let len = lens[index] + if opens { TAG_LEN } else { 0 };
            sources[index * SLOT + HEADER..][..len].split_at(match shape {
                Shape::TwoPieces => len / 2 + 5,
                _ => len,
            })
        });
        let pieces: [[Piece<'_>; 2]; PACKETS] = inputs.map(|(first, second)| match shape {
            // SAFETY: the slices outlive the jobs and are not their destinations.
            Shape::Raw => [unsafe { Piece::from_raw(first.as_ptr(), first.len()) }, second.into()],
            _ => [first.into(), second.into()],
        });
        let mut slots = slots.chunks_mut(SLOT);
        let mut jobs: [Job<'_>; PACKETS] = core::array::from_fn(|index| Job {
            key: &keys[index % keys.len()],
            counter: counter + index as u64,
            source: match shape {
                Shape::InPlace | Shape::Keys => {
                    Source::InPlace { len: lens[index] + if opens { TAG_LEN } else { 0 } }
                }
                _ => Source::Pieces(&pieces[index]),
            },
            destination: &mut slots.next().expect("a slot each")[HEADER..][..lens[index] + TAG_LEN],
            verdict: Verdict::Pending,
        });
        let begun = Instant::now();
        for jobs in jobs.chunks_mut(batch) {
            if opens {
                aead::open(Some(&state), jobs)
            } else {
                aead::seal(Some(&state), jobs)
            };
        }
        let taken = begun.elapsed();
        assert!(jobs.iter().all(|job| job.verdict == Verdict::Done), "ours");
        black_box(&mut jobs);
        taken
    };
    Contender { name: "ours", run: Box::new(run) }
}

/// `ring`, a packet at a time in place.
fn ring(line: &Line) -> Contender {
    let (opens, lens) = (line.opens, line.lens());
    let keys = line.keys_of_packets().map(|key| {
        let key = ring_aead::UnboundKey::new(&ring_aead::CHACHA20_POLY1305, &key);
        ring_aead::LessSafeKey::new(key.expect("32 bytes"))
    });
    let run = move |arena: &mut Arena, counter: u64| {
        let begun = Instant::now();
        for (index, key) in keys.iter().enumerate() {
            let nonce = ring_aead::Nonce::assume_unique_for_key(nonce(counter + index as u64));
            let packet = arena.packet(index);
            let aad = ring_aead::Aad::empty();
            if opens {
                black_box(key.open_in_place(nonce, aad, packet).expect("authentic"));
            } else {
                let (text, tag) = packet.split_at_mut(lens[index]);
                let sealed = key.seal_in_place_separate_tag(nonce, aad, text).expect("short");
                tag.copy_from_slice(sealed.as_ref());
            }
        }
        begun.elapsed()
    };
    Contender { name: "ring", run: Box::new(run) }
}

/// `chacha20poly1305`, a packet at a time in place, with its own choice of backend.
fn rustcrypto(line: &Line) -> Contender {
    let (opens, lens) = (line.opens, line.lens());
    let keys =
        line.keys_of_packets().map(|key| chacha20poly1305::ChaCha20Poly1305::new(&key.into()));
    let run = move |arena: &mut Arena, counter: u64| {
        let begun = Instant::now();
        for (index, key) in keys.iter().enumerate() {
            let nonce = nonce(counter + index as u64).into();
            let (text, tag) = arena.packet(index).split_at_mut(lens[index]);
            if opens {
                let tag: &[u8; TAG_LEN] = (&*tag).try_into().expect("a tag");
                key.decrypt_inout_detached(&nonce, &[], text.into(), tag.into())
                    .expect("authentic");
            } else {
                let sealed = key.encrypt_inout_detached(&nonce, &[], text.into()).expect("short");
                tag.copy_from_slice(&sealed);
            }
        }
        begun.elapsed()
    };
    Contender { name: "chacha20poly1305", run: Box::new(run) }
}

/// What this machine can do. CPUID is slow under a hypervisor, so it is asked once.
fn best_tier() -> Tier {
    static BEST: std::sync::OnceLock<Tier> = std::sync::OnceLock::new();
    *BEST.get_or_init(|| detect(u64::MAX))
}

fn nonce(counter: u64) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&counter.to_le_bytes());
    nonce
}

/// Seals everything in both buffers, untimed.
fn contenders_seal(arena: &mut Arena, counter: u64, keys: &[[u8; 32]; PACKETS]) {
    let state = state(best_tier());
    let keys = keys.map(Key::new);
    let lens = arena.lens;
    let (sources, slots) = (&mut arena.sources, &mut arena.slots);
    for buffer in [sources, slots] {
        let mut places = buffer.chunks_mut(SLOT);
        let mut jobs: [Job<'_>; PACKETS] = core::array::from_fn(|index| Job {
            key: &keys[index],
            counter: counter + index as u64,
            source: Source::InPlace { len: lens[index] },
            destination: &mut places.next().expect("a slot each")[HEADER..]
                [..lens[index] + TAG_LEN],
            verdict: Verdict::Pending,
        });
        aead::seal(Some(&state), &mut jobs);
    }
}

/// Bytes from one packet to the next: an odd number of cache lines, so that sets differ.
const SLOT: usize = 64 * 131;

/// Two buffers of 64 packets, aligned to cache lines.
struct Arena {
    lens: [usize; PACKETS],
    sources: Aligned,
    slots: Aligned,
}

impl Arena {
    fn new(lens: [usize; PACKETS]) -> Self {
        Self { lens, sources: Aligned::new(), slots: Aligned::new() }
    }

    fn packet(&mut self, index: usize) -> &mut [u8] {
        &mut self.slots[index * SLOT + HEADER..][..self.lens[index] + TAG_LEN]
    }

    fn split(&mut self) -> (&[u8], &mut [u8]) {
        (&self.sources, &mut self.slots)
    }
}

/// Bytes that start on a cache line.
struct Aligned {
    bytes: Vec<u8>,
    start: usize,
}

impl Aligned {
    fn new() -> Self {
        let bytes = vec![0x5a; PACKETS * SLOT + 64];
        let start = bytes.as_ptr().align_offset(64);
        Self { bytes, start }
    }
}

impl core::ops::Deref for Aligned {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.bytes[self.start..][..PACKETS * SLOT]
    }
}

impl core::ops::DerefMut for Aligned {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..][..PACKETS * SLOT]
    }
}

fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn cpu_name() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let line = info.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split(": ").nth(1)).unwrap_or("?").to_owned()
    };
    format!("{} (family {}, model {})", field("model name"), field("cpu family"), field("model\t"))
}

fn json(rows: &[Row]) -> String {
    let rows: Vec<serde_json::Value> = rows
        .iter()
        .map(|row| {
            serde_json::json!({
                "what": row.what, "size": row.size, "unit": row.unit,
                "ours": (row.ours * 10.0).round() / 10.0, "peer": row.peer,
                "theirs": (row.theirs * 10.0).round() / 10.0,
                "ratio": (row.theirs / row.ours * 100.0).round() / 100.0,
            })
        })
        .collect();
    serde_json::to_string_pretty(&rows).expect("plain values")
}

/// Writes a file of `target/bench`, wherever in the repository this runs.
fn write(name: &str, text: &str) {
    let here = std::env::current_dir().expect("a working directory");
    let root = here.ancestors().find(|folder| folder.join("docs/performance.md").is_file());
    let folder = root.expect("somewhere in the repository").join("target/bench");
    std::fs::create_dir_all(&folder).expect("target/bench can be made");
    std::fs::write(folder.join(name), format!("{text}\n")).expect("target/bench can be written");
}
