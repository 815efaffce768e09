//! What a dump of the machine's memory tells of keys: nothing, once they are done with.
//!
//! The insider knows every secret of its handshakes, so a scan of all memory that is or was the driver's
//! ([`Machine::memory`]) can look for each: as it is, by halves, word by word side by side as vectors have them, and what is
//! derived of it for each packet. That it would find them is shown while they are alive. Ephemeral private keys the insider does
//! not know; each stretch of memory that could be one is tried, by making its public key.
//!
//! Not looked at: general registers, and memory that is not the driver's (a program's buffers, the network's).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use abi::policy::Policy;
use sim::nt::machine::{Machine, Options};
use sim::nt::memory::Region;
use sim::verifier::dump::Dump;
use sim::verifier::rules;
use x25519_dalek::{PublicKey, StaticSecret};

use crate::insider::{Key, Session};
use crate::silence::{PRESHARED, Scene};
use crate::{assert_clean, on_virtual_time, options};

/// Alpha's private key, as [`Station::boot`](sim::host::memory::pair::Station::boot) sets it, clamped.
fn private() -> Key {
    let mut key: Key = std::array::from_fn(|at| (at as u8).wrapping_mul(29) ^ 83);
    key[0] &= 0xF8;
    key[31] = key[31] & 0x7F | 0x40;
    key
}

/// Bytes to look for, and what they would be.
#[derive(Default)]
struct Search {
    /// By their first eight bytes.
    patterns: HashMap<[u8; 8], Vec<(Vec<u8>, String)>>,
    /// Which pairs of bytes any of them begins with.
    begins: BTreeSet<[u8; 2]>,
}

impl Search {
    fn pattern(&mut self, bytes: &[u8], name: String) {
        let first: [u8; 8] = *bytes.first_chunk().unwrap();
        self.begins.insert([first[0], first[1]]);
        self.patterns.entry(first).or_default().push((bytes.to_vec(), name));
    }

    /// A secret of 32 bytes: either half, and each word of a key as vectors of several packets have it.
    fn secret(&mut self, name: &str, secret: &Key) {
        for (half, bytes) in secret.chunks(16).enumerate() {
            self.pattern(bytes, format!("{name}: half {half}"));
        }
        for (word, bytes) in secret.chunks(4).enumerate() {
            self.pattern(&bytes.repeat(4), format!("{name}: word {word} side by side"));
        }
    }

    /// A session: both keys, and the one-time keys of its first `count` packets each way.
    fn session(&mut self, name: &str, session: &Session, count: u64) {
        for (way, key) in [("from alpha", &session.receive), ("to alpha", &session.send)] {
            self.secret(&format!("{name} {way}"), key);
            for counter in 0..count {
                self.one_time(
                    &format!("{name} {way}, packet {counter}"),
                    &one_time_key(key, counter),
                );
            }
        }
    }

    /// A key of Poly1305: r, clamped and not, s, and r in the limbs that implementations have.
    fn one_time(&mut self, name: &str, key: &Key) {
        let (r, s) = key.split_at(16);
        let mut clamped: [u8; 16] = *r.first_chunk().unwrap();
        for (at, byte) in clamped.iter_mut().enumerate() {
            *byte &= match at {
                3 | 7 | 11 | 15 => 0x0F,
                4 | 8 | 12 => 0xFC,
                _ => 0xFF,
            };
        }
        self.pattern(r, format!("{name}: r"));
        self.pattern(s, format!("{name}: s"));
        self.pattern(&clamped, format!("{name}: r, clamped"));
        let r = u128::from_le_bytes(clamped);
        for limb in 0..3 {
            let bytes = ((r >> (44 * limb)) as u64 & ((1 << 44) - 1)).to_le_bytes();
            self.pattern(&bytes, format!("{name}: r, limb {limb} of 44 bits"));
        }
        let limbs = |words: std::ops::Range<u32>| -> Vec<u8> {
            words
                .flat_map(|limb| ((r >> (26 * limb)) as u32 & ((1 << 26) - 1)).to_le_bytes())
                .collect()
        };
        self.pattern(&limbs(0..4), format!("{name}: r, limbs of 26 bits"));
        for limb in 0..4 {
            self.pattern(
                &limbs(limb..limb + 1).repeat(2),
                format!("{name}: r, limb {limb} of 26 bits"),
            );
        }
    }

    /// What is found, and where.
    fn found(&self, memory: &[Region]) -> BTreeMap<String, BTreeSet<String>> {
        let mut begins = vec![false; 1 << 16];
        for pair in &self.begins {
            begins[usize::from(u16::from_le_bytes(*pair))] = true;
        }
        let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for Region { what, bytes } in memory {
            for at in 0..bytes.len().saturating_sub(7) {
                if !begins[usize::from(u16::from_le_bytes([bytes[at], bytes[at + 1]]))] {
                    continue;
                }
                let candidates = self.patterns.get(bytes[at..].first_chunk::<8>().unwrap());
                for (pattern, name) in candidates.into_iter().flatten() {
                    if bytes[at..].starts_with(pattern) {
                        found.entry(name.clone()).or_default().insert(what.clone());
                    }
                }
            }
        }
        found
    }
}

/// The first 32 bytes of block 0 of ChaCha20, of which a packet's key for Poly1305 is. [RFC 8439 §2.3, 2.6]
fn one_time_key(key: &Key, counter: u64) -> Key {
    let word = |at: usize| u32::from_le_bytes(*key[4 * at..].first_chunk().unwrap());
    let mut state = [0_u32; 16];
    state[..4].copy_from_slice(&[0x6170_7865, 0x3320_646E, 0x7962_2D32, 0x6B20_6574]);
    (0..8).for_each(|at| state[4 + at] = word(at));
    (state[14], state[15]) = (counter as u32, (counter >> 32) as u32);
    let begun = state;
    let mut quarter = |[a, b, c, d]: [usize; 4]| {
        for (x, y, z, by) in [(a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)] {
            state[x] = state[x].wrapping_add(state[y]);
            state[z] = (state[z] ^ state[x]).rotate_left(by);
        }
    };
    for _ in 0..10 {
        (0..4).for_each(|at| quarter([at, at + 4, at + 8, at + 12]));
        (0..4).for_each(|at| quarter([at, 4 + (at + 1) % 4, 8 + (at + 2) % 4, 12 + (at + 3) % 4]));
    }
    let mut key = [0; 32];
    for (at, bytes) in key.chunks_mut(4).enumerate() {
        bytes.copy_from_slice(&state[at].wrapping_add(begun[at]).to_le_bytes());
    }
    key
}

/// Where there are private keys of these public ones.
fn private_keys(memory: &[Region], of: &[Key]) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for Region { what, bytes } in memory.iter().filter(|region| !region.what.contains("image")) {
        for window in bytes.windows(32).step_by(4) {
            let mut seen = [0_u64; 4];
            window.iter().for_each(|byte| seen[usize::from(byte >> 6)] |= 1 << (byte & 63));
            if seen.iter().map(|bits| bits.count_ones()).sum::<u32>() < 22 {
                continue;
            }
            let secret = StaticSecret::from(*window.first_chunk::<32>().unwrap());
            if of.contains(PublicKey::from(&secret).as_bytes()) {
                found.insert(what.clone());
            }
        }
    }
    found
}

fn machine(scene: &Scene) -> &Machine {
    scene.alpha.computer().machine()
}

fn assert_silent(found: &BTreeMap<String, BTreeSet<String>>, when: &str) {
    let lines: Vec<String> =
        found.iter().map(|(what, places)| format!("{what}: {places:?}")).collect();
    assert!(lines.is_empty(), "{when}:\n{}", lines.join("\n"));
}

/// Every secret of a pending handshake, of two sessions and of the interface, alive and afterwards.
fn search(kind: &Options) {
    on_virtual_time(1, |world| {
        let scene = Scene::new(world, &Options { remembers: true, ..kind.clone() });
        let (mut first, secrets) = scene.answer(|responder, _| {
            let memory = machine(&scene).memory();
            let mut live = Search::default();
            responder.secrets().iter().for_each(|(name, secret)| live.secret(name, secret));
            let found = live.found(&memory);
            for name in ["ss: half 0", "the handshake's hash: half 1", "a chaining key: half 0"] {
                assert!(found.contains_key(name), "{name} is not found where it is: {found:?}");
            }
            for name in ["es: half 0", "es: half 1"] {
                assert!(!found.contains_key(name), "{name}: {found:?}");
            }
            let ephemerals = scene.ephemerals.lock().unwrap();
            assert!(
                !private_keys(&memory, &ephemerals).is_empty(),
                "the ephemeral key is not found"
            );
        });
        (0..5).for_each(|_| scene.talk(&mut first));
        let (mut second, more) = scene.connect();
        (0..5).for_each(|_| scene.talk(&mut second));
        scene.world.sleep(Duration::from_millis(100));

        let (mut alive, mut gone) = (Search::default(), Search::default());
        alive.secret("the private key", &private());
        alive.secret("the preshared key", &PRESHARED);
        for (name, session) in [("the first session", &first), ("the second session", &second)] {
            alive.session(name, session, 0);
            gone.session(name, session, 40);
        }
        gone.secret("the preshared key", &PRESHARED);
        secrets.iter().chain(&more).for_each(|(name, secret)| gone.secret(name, secret));
        let memory = machine(&scene).memory();
        let found = alive.found(&memory);
        let sessions = ["the first session", "the second session"];
        let ways = sessions
            .iter()
            .flat_map(|name| ["from", "to"].map(|way| format!("{name} {way} alpha")));
        for name in ways.chain(["the private key".to_owned(), "the preshared key".to_owned()]) {
            for half in [0, 1] {
                let name = format!("{name}: half {half}");
                assert!(found.contains_key(&name), "{name} is not found where it is: {found:?}");
            }
        }
        // What only the handshake needed is gone already, and what a packet needed.
        let early: BTreeMap<_, _> = gone.found(&memory).into_iter().collect();
        let lasting = |name: &str| {
            ["ss", "the preshared key", "a session's"]
                .iter()
                .any(|lasting| name.starts_with(lasting))
                || sessions
                    .iter()
                    .any(|session| name.starts_with(session) && !name.contains("packet"))
        };
        let early = early.into_iter().filter(|(name, _)| !lasting(name)).collect();
        assert_silent(&early, "alive");
        let ephemerals = scene.ephemerals.lock().unwrap().clone();
        assert_eq!(private_keys(&memory, &ephemerals), BTreeSet::new(), "ephemeral keys");

        scene.forget();
        scene.world.sleep(Duration::from_millis(100));
        assert_silent(&gone.found(&machine(&scene).memory()), "the peer is removed");

        let dump_of = scene.alpha.computer().machine().clone();
        assert_clean(&scene.shut_down());
        gone.secret("the private key", &private());
        let memory = dump_of.memory();
        assert!(memory.len() > 100, "{} regions", memory.len());
        assert_silent(&gone.found(&memory), "the driver is unloaded");
        assert_eq!(private_keys(&memory, &ephemerals), BTreeSet::new(), "ephemeral keys");
    });
}

// spec-test: WG 7.4-a, WG 5.4.5-b, WG 11-h
#[test]
fn memory_tells_nothing_of_keys_that_are_done_with() {
    search(&options("special pool"));
}

/// Blocks that are freed are kept by the driver, as without Driver Verifier; and the other tiers of the AEAD.
// spec-test: WG 7.4-a
#[test]
fn nor_does_memory_that_the_driver_keeps() {
    for tier in 0..=4 {
        let mut kind = Options { verified: false, ..options("kept blocks") };
        kind.parameters.insert(Policy::SimdCap.name().to_owned(), tier);
        search(&kind);
    }
}

/// What a dump has: its own memory, and the stacks and registers of a machine at rest.
fn dumped(machine: &Machine, dump: Dump) -> Vec<Region> {
    let told = machine.crash_data().secondary.into_iter();
    let told = told.map(|(_, bytes)| Region { what: "secondary data".to_owned(), bytes });
    let pages =
        dump.stretches.into_iter().map(|it| Region { what: it.what.to_owned(), bytes: it.bytes });
    let other = machine.memory().into_iter().filter(|region| !region.what.starts_with("live pool"));
    pages.chain(other).chain(told).collect()
}

/// Keys of two sessions, of a handshake that waits, and of the interface: alive, and in no dump, of a machine that runs or that
/// has stopped. Without what the driver's callback takes out all of them are found.
// spec-test: WG 7.4-a
#[test]
fn a_dump_tells_nothing_of_keys() {
    for verified in [true, false] {
        on_virtual_time(1, |world| {
            let scene =
                Scene::new(world, &Options { remembers: true, verified, ..options("dumped") });
            let here = machine(&scene);
            let (mut first, mut secrets) = scene.answer(|responder, _| {
                let mut pending = Search::default();
                responder.secrets().iter().for_each(|(name, secret)| pending.secret(name, secret));
                let found = pending.found(&dumped(here, Dump::whole(here)));
                assert!(found.contains_key("a chaining key: half 0"), "{found:?}");
                let memory = dumped(here, Dump::of(here));
                assert_silent(&pending.found(&memory), "a handshake waits");
                let ephemerals = scene.ephemerals.lock().unwrap();
                assert_eq!(private_keys(&memory, &ephemerals), BTreeSet::new(), "ephemeral keys");
            });
            (0..5).for_each(|_| scene.talk(&mut first));
            let (mut second, more) = scene.connect();
            (0..5).for_each(|_| scene.talk(&mut second));
            scene.world.sleep(Duration::from_millis(100));
            secrets.extend(more);

            let mut all = Search::default();
            all.secret("the private key", &private());
            all.secret("the preshared key", &PRESHARED);
            all.session("the first session", &first, 40);
            all.session("the second session", &second, 40);
            secrets.iter().for_each(|(name, secret)| all.secret(name, secret));
            let found = all.found(&dumped(here, Dump::whole(here)));
            for name in [
                "the private key",
                "the preshared key",
                "ss",
                "the first session from alpha",
                "the second session to alpha",
            ] {
                assert!(found.contains_key(&format!("{name}: half 0")), "{name}: {found:?}");
            }
            assert_silent(&all.found(&dumped(here, Dump::of(here))), "running");
            here.die(&rules::SIMULATOR, "on purpose");
            let told = here.crash_data();
            assert_eq!(told.failed, [""; 0]);
            // Of the interface, of the peer, of its sessions.
            assert_eq!(told.removed.len(), 3);
            assert_silent(&all.found(&dumped(here, Dump::of(here))), "stopped");
        });
    }
}
