//! SET with buffers that are no configuration, or stop being one while the driver looks at them.
//!
//! ```text
//!   ┌ interface 80 ┐┌ peer 136 ┐┌ allowed IP 24 ┐┌ allowed IP 24 ┐┌ peer 136 ┐ …
//!     flags, peers    flags, family, count  family, cidr, flags      ▲
//!     └─ count ───────────────────────┴── count ─────────────────────┘  what the lies are about
//! ```
//!
//! A refusal changes nothing: GET says byte for byte what it said before.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use abi::ioctl::{self, Set, interface_flag, peer_flag};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestError, TestRng, TestRunner};
use sim::host::Outer;
use sim::host::computer::Tunnel;
use sim::host::memory::Network;
use sim::nt::wdf::user_buffer::UserBuffer;
use sim::verifier::schedule::{Mode, World};

use crate::control_requests::{NO_KEY, PRIVATE_KEY, PeerPart, set_buffer, whole_configuration};
use crate::{status, with_computer, with_tunnel};

const INTERFACE: usize = 80;
const PEER: usize = 136;
const ALLOWED_IP: usize = 24;
/// Buffers tried in each property.
const CASES: u32 = 400;
/// STATUS_NOT_IMPLEMENTED: a protocol version that nobody speaks.
const NOT_IMPLEMENTED: i32 = 0xC000_0002_u32.cast_signed();

/// Sends `buffer` as a SET: status and Information.
fn set(tunnel: &Tunnel, buffer: &[u8]) -> (i32, u64) {
    let mut copy = buffer.to_vec();
    tunnel.handle().device_io_control(ioctl::SET, &[], &mut copy)
}

fn put(buffer: &mut [u8], at: usize, bytes: &[u8]) {
    buffer[at..at + bytes.len()].copy_from_slice(bytes);
}

/// Sends `buffer`, which must be refused with `expected` and change nothing.
fn assert_refused(tunnel: &Tunnel, what: &str, buffer: &[u8], expected: i32) {
    let before = tunnel.get().unwrap();
    assert_eq!(set(tunnel, buffer), (expected, 0), "{what}");
    assert_eq!(tunnel.get().unwrap(), before, "{what}: something was applied");
}

#[test]
fn each_lie_is_refused_by_name() {
    with_tunnel(1, |tunnel| {
        tunnel.set(&whole_configuration(51820)).unwrap();
        // What would be seen if the beginning were applied before the end is read.
        let mut base = whole_configuration(4444);
        put(&mut base, 6, &[0x31; 32]);
        put(&mut base, INTERFACE + 8, &[0x44; 32]);
        let allowed_ip = INTERFACE + PEER;
        let second_peer = INTERFACE + PEER + 3 * ALLOWED_IP;
        let last_prefix = second_peer + PEER;
        let count_at = |peer: usize| peer + 128;
        let long = u32::MAX.to_le_bytes();
        // ceil(2^32 / 24) prefixes are 2^32 + 8 bytes: 8, to who counts in 32 bits.
        let wraps = (u32::MAX / ALLOWED_IP as u32 + 1).to_le_bytes();
        let lies: [(&str, usize, &[u8]); 21] = [
            ("unknown interface flag", 0, &[0x1E, 0]),
            ("high interface flag", 3, &[0x80]),
            ("a peer more than there is", 72, &[3]),
            ("4,294,967,295 peers", 72, &long),
            ("peers that take 2^32 bytes", 72, &31_580_642_u32.to_le_bytes()),
            ("unknown peer flag", INTERFACE + 1, &[1]),
            ("a peer without a key", INTERFACE, &[0x1E]),
            ("protocol version 2", INTERFACE + 4, &[2]),
            ("endpoint of no family", INTERFACE + 76, &[0, 0]),
            ("endpoint of family 10", INTERFACE + 76, &[10, 0]),
            ("a prefix more than there is", count_at(second_peer), &[2]),
            ("4,294,967,295 prefixes", count_at(INTERFACE), &long),
            ("prefixes that take 2^32 bytes", count_at(INTERFACE), &wraps),
            ("the last peer's 4,294,967,295 prefixes", count_at(second_peer), &long),
            ("IPv4 of 33 bits", allowed_ip + 18, &[33]),
            ("IPv4 of 255 bits", last_prefix + 18, &[255]),
            ("IPv6 of 129 bits", allowed_ip + ALLOWED_IP + 18, &[129]),
            ("prefix of family 0", last_prefix + 16, &[0, 0]),
            ("prefix of family 0x102", allowed_ip + 16, &[2, 1]),
            ("unknown prefix flag", last_prefix + 20, &[2]),
            ("the same peer twice", second_peer + 8, &[0x44; 32]),
        ];
        for (what, at, bytes) in lies {
            let mut buffer = base.clone();
            put(&mut buffer, at, bytes);
            let version = what.starts_with("protocol version");
            let expected = if version { NOT_IMPLEMENTED } else { status::INVALID_PARAMETER };
            assert_refused(tunnel, what, &buffer, expected);
        }
        assert_eq!(set(tunnel, &base), (status::SUCCESS, base.len() as u64), "without a lie");
    });
}

#[test]
fn a_configuration_that_is_cut_anywhere_is_refused() {
    with_tunnel(2, |tunnel| {
        tunnel.set(&whole_configuration(51820)).unwrap();
        let other = whole_configuration(4444);
        for len in 1..other.len() {
            assert_refused(
                tunnel,
                &format!("{len} bytes"),
                &other[..len],
                status::INVALID_PARAMETER,
            );
        }
    });
}

#[test]
fn more_than_256_mib_is_not_looked_at() {
    with_tunnel(3, |tunnel| {
        tunnel.set(&whole_configuration(51820)).unwrap();
        let before = tunnel.get().unwrap();
        // A program's pages that it never touched cost nothing; the driver would have to copy them.
        let buffer = UserBuffer::new(ioctl::SET_MAX_LEN + 1, 0).unwrap();
        buffer.write(0, &whole_configuration(4444));
        let refused = tunnel.handle().device_io_control_shared(ioctl::SET, &[], &buffer);
        assert_eq!(refused, (status::INVALID_PARAMETER, 0));
        assert_eq!(tunnel.get().unwrap(), before);
    });
}

/// One change of a valid buffer.
#[derive(Clone, Debug)]
enum Mutation {
    Byte { at: usize, value: u8 },
    Word { at: usize, value: u32 },
    Cut { len: usize },
    Grow { by: usize },
    Repeat { from: usize, len: usize },
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let word = prop_oneof![
        any::<u32>(),
        prop::sample::select(vec![
            0,
            1,
            2,
            3,
            0x8000_0000,
            u32::MAX,
            u32::MAX / 24 + 1,
            31_580_642
        ]),
    ];
    let field = prop_oneof![
        any::<prop::sample::Index>().prop_map(|index| index.index(1 << 10)),
        prop::sample::select(vec![0, 72, 80, 84, 156, 208, 232, 234, 236, 288, 416]),
    ];
    prop_oneof![
        4 => (field.clone(), any::<u8>()).prop_map(|(at, value)| Mutation::Byte { at, value }),
        4 => (field, word).prop_map(|(at, value)| Mutation::Word { at, value }),
        1 => (0..600_usize).prop_map(|len| Mutation::Cut { len }),
        1 => (0..600_usize).prop_map(|by| Mutation::Grow { by }),
        2 => (0..600_usize, 0..400_usize).prop_map(|(from, len)| Mutation::Repeat { from, len }),
    ]
}

fn mutated(mut buffer: Vec<u8>, mutations: &[Mutation]) -> Vec<u8> {
    for mutation in mutations {
        let len = buffer.len();
        match *mutation {
            Mutation::Byte { at, value } if len > 0 => buffer[at % len] = value,
            Mutation::Word { at, value } if len >= 4 => {
                put(&mut buffer, at % (len - 3), &value.to_le_bytes());
            }
            Mutation::Byte { .. } | Mutation::Word { .. } => {}
            Mutation::Cut { len } => buffer.truncate(len),
            Mutation::Grow { by } => buffer.resize(len + by, 0),
            Mutation::Repeat { from, len: count } => {
                let from = from.min(len);
                buffer.extend_from_within(from..(from + count).min(len));
            }
        }
    }
    buffer
}

/// What a SET must answer, by the published layout: a refusal or the bytes it takes.
fn verdict(buffer: &[u8]) -> Result<u64, i32> {
    let set = match Set::parse(buffer) {
        Ok(set) => set,
        Err(ioctl::ParseError::ProtocolVersion) => return Err(NOT_IMPLEMENTED),
        Err(_) => return Err(status::INVALID_PARAMETER),
    };
    let mut keys: Vec<_> = set.peers().map(|peer| *peer.public_key()).collect();
    keys.sort_unstable();
    if keys.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(status::INVALID_PARAMETER);
    }
    Ok(set.len_bytes() as u64)
}

/// Tries buffers against one tunnel; what is accepted is taken back by a SET of the beginning.
fn try_buffers(tunnel: &Tunnel, buffers: impl Strategy<Value = Vec<u8>>) -> [u32; 2] {
    let begin = whole_configuration(51820);
    tunnel.set(&begin).unwrap();
    let before = tunnel.get().unwrap();
    // Refused and accepted, so that a property that only ever refuses is seen.
    let counts = [Cell::new(0), Cell::new(0)];
    let config = Config { cases: CASES, failure_persistence: None, ..Config::default() };
    let random = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let outcome = TestRunner::new_with_rng(config, random).run(&buffers, |buffer| {
        let (status, consumed) = set(tunnel, &buffer);
        let after = tunnel.get().unwrap();
        let verdict = verdict(&buffer);
        counts[usize::from(verdict.is_ok())].update(|count| count + 1);
        match verdict {
            Err(expected) => {
                prop_assert_eq!((status, consumed), (expected, 0));
                prop_assert_eq!(&after, &before, "a refused SET was applied");
            }
            Ok(len) => {
                prop_assert_eq!((status, consumed), (status::SUCCESS, len));
                tunnel.set(&begin).unwrap();
                prop_assert_eq!(&tunnel.get().unwrap(), &before, "REPLACE_PEERS puts all back");
            }
        }
        Ok(())
    });
    match outcome {
        Ok(()) => {}
        Err(TestError::Fail(why, buffer)) => panic!("{why}\nbuffer: {buffer:02x?}"),
        Err(TestError::Abort(why)) => panic!("{why}"),
    }
    counts.map(Cell::into_inner)
}

#[test]
fn mutated_configurations_are_applied_whole_or_not_at_all() {
    with_tunnel(4, |tunnel| {
        let buffers = prop::collection::vec(mutation(), 1..4)
            .prop_map(|mutations| mutated(whole_configuration(51820), &mutations));
        let [refused, accepted] = try_buffers(tunnel, buffers);
        assert!(refused > CASES / 10 && accepted > CASES / 10, "{refused} and {accepted}");
    });
}

#[test]
fn random_buffers_change_nothing() {
    with_tunnel(5, |tunnel| {
        // Random bytes with small counts and flags that pass, so that the depths are reached.
        let bytes = prop::collection::vec(any::<u8>(), 0..700);
        let buffers = (bytes, any::<bool>()).prop_map(|(mut bytes, plausible)| {
            if plausible && bytes.len() >= INTERFACE {
                put(&mut bytes, 0, &[8, 0, 0, 0]);
                put(&mut bytes, 72, &[1, 0, 0, 0]);
            }
            if plausible && bytes.len() >= INTERFACE + PEER {
                put(&mut bytes, INTERFACE, &[peer_flag::HAS_PUBLIC_KEY as u8, 0, 0, 0]);
                let prefixes = [bytes[INTERFACE + 128] & 3, 0, 0, 0];
                put(&mut bytes, INTERFACE + 128, &prefixes);
            }
            bytes
        });
        let [refused, _] = try_buffers(tunnel, buffers);
        assert!(refused > CASES / 2, "{refused}");
    });
}

/// A program thread that changes the buffer as fast as it can while the driver has it.
///
/// What it writes into three fields is in turn right and wrong, or right and otherwise right: a driver that looks twice
/// sees both.
fn scribble(buffer: &UserBuffer, stop: &AtomicBool, rounds: &AtomicU64) {
    let prefix = INTERFACE + PEER;
    while !stop.load(Ordering::Relaxed) {
        let round = rounds.fetch_add(1, Ordering::Relaxed);
        buffer.write(72, &[1 + (round & 1) as u8]);
        buffer.write(prefix + 18, &[if round & 2 == 0 { 8 } else { 200 }]);
        buffer.write(INTERFACE + 128, &[if round & 4 == 0 { 1 } else { 2 }]);
        buffer.write(INTERFACE + 8, &[0x11 + (round >> 3 & 1) as u8; 32]);
    }
}

#[test]
fn a_buffer_that_changes_meanwhile_is_one_configuration_or_none() {
    let world = World::new(Mode::Parallel);
    let _main = world.enter("main");
    let alone =
        |network: &Network| -> Arc<dyn Outer> { network.plug_in(&["192.0.2.1".parse().unwrap()]) };
    with_computer(&world, alone, |computer| {
        let tunnel = computer.add_tunnel().unwrap_or_else(|error| panic!("{error}"));
        // One prefix, then a peer: with a count of two prefixes the second is the peer's beginning, which is none.
        let peers = [
            PeerPart { key: [0x11; 32], flags: 0, endpoint: None, allowed_ips: &[("10.0.0.0", 8)] },
            PeerPart { key: [0x99; 32], flags: 0, endpoint: None, allowed_ips: &[] },
        ];
        let flags = interface_flag::REPLACE_PEERS | interface_flag::HAS_PRIVATE_KEY;
        let valid = set_buffer(flags, 0, &PRIVATE_KEY, &peers);
        let buffer = Arc::new(UserBuffer::new(valid.len(), 4000).unwrap());
        let (stop, rounds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let thread = {
            let (buffer, stop, rounds) = (buffer.clone(), stop.clone(), rounds.clone());
            buffer.write(0, &valid);
            std::thread::spawn(move || scribble(&buffer, &stop, &rounds))
        };
        let mut seen = [0_u32; 2];
        for _ in 0..800 {
            let before = tunnel.get().unwrap();
            let done = tunnel.handle().device_io_control_shared(ioctl::SET, &[], &buffer);
            let after = tunnel.get().unwrap();
            match done {
                (status::SUCCESS, consumed) => {
                    let applied = Set::parse(&after).unwrap();
                    assert_one_configuration(&applied, consumed);
                    seen[1] += 1;
                }
                (refused, consumed) => {
                    assert_eq!((refused, consumed), (status::INVALID_PARAMETER, 0));
                    assert_eq!(after, before, "a refused SET was applied");
                    seen[0] += 1;
                }
            }
        }
        stop.store(true, Ordering::Relaxed);
        thread.join().unwrap();
        let rounds = rounds.load(Ordering::Relaxed);
        assert!(seen[0] > 20 && seen[1] > 20 && rounds > 800, "{seen:?} in {rounds} rounds");
        tunnel.set(&set_buffer(interface_flag::REPLACE_PEERS, 0, &NO_KEY, &[])).unwrap();
        tunnel.remove().unwrap_or_else(|error| panic!("{error}"));
    });
}

/// Whether what GET says is something the buffer has been, taken at one time, byte by byte.
fn assert_one_configuration(applied: &Set<'_>, consumed: u64) {
    let peers: Vec<_> = applied.peers().collect();
    let all: usize = PEER * peers.len() + ALLOWED_IP;
    assert_eq!(consumed, (INTERFACE + all) as u64, "what was read and what was applied differ");
    let key = peers[0].public_key();
    assert!(key.iter().all(|byte| matches!(byte, 0x11 | 0x12)), "{key:02x?}");
    let prefixes: Vec<_> =
        peers[0].allowed_ips().map(|p| (p.address.to_string(), p.cidr)).collect();
    assert_eq!(prefixes, [("10.0.0.0".to_owned(), 8)]);
    if let Some(second) = peers.get(1) {
        assert_eq!((second.public_key(), second.allowed_ip_count()), (&[0x99; 32], 0));
    }
}
