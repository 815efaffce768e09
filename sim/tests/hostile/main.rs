//! What nobody friendly would do to the driver, one file per subject. Each runs the built `penstock.sys`.
//!
//! | file | who is hostile |
//! |---|---|
//! | [`control_requests`] | a program with buffers of every length |
//! | [`set_buffers`] | an administrator's program gone wrong, or one that changes its buffer meanwhile |
//! | [`access`] | everybody who is no administrator |
//! | [`datagrams`] | the network |
//! | [`silence`] | the network, and a peer that gets everything right but one thing ([`insider`]) |
//! | [`secrets`] | whoever reads a dump of the machine's memory |
//! | [`coalescing`] | a network card that puts datagrams together and says so wrongly |
//! | [`faults`] | Windows, out of everything, once, at every place |
//! | [`unknown_behaviours`] | what nobody knows of Windows, either way |
//! | [`races`] | four CPUs at once |
//!
//! Time is virtual except in the two files that look for races. Machines are under the verifier, and after each test
//! nothing may be left behind.
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use abi::discard::{Direction, Discard};
use abi::statistics::{Counter, Statistics};
use sim::host::Outer;
use sim::host::computer::{Computer, Tunnel};
use sim::host::memory::Network;
use sim::nt::machine::Options;
use sim::verifier::report::Leak;
use sim::verifier::schedule::{Mode, World};

mod access;
mod coalescing;
mod control_requests;
mod datagrams;
mod faults;
mod insider;
mod races;
mod secrets;
mod set_buffers;
mod silence;
mod unknown_behaviours;

/// Statuses a caller may see.
mod status {
    pub(crate) const SUCCESS: i32 = 0;
    pub(crate) const BUFFER_OVERFLOW: i32 = 0x8000_0005_u32.cast_signed();
    pub(crate) const INFO_LENGTH_MISMATCH: i32 = 0xC000_0004_u32.cast_signed();
    pub(crate) const INVALID_PARAMETER: i32 = 0xC000_000D_u32.cast_signed();
    pub(crate) const INVALID_DEVICE_REQUEST: i32 = 0xC000_0010_u32.cast_signed();
    pub(crate) const ACCESS_DENIED: i32 = 0xC000_0022_u32.cast_signed();
    pub(crate) const BUFFER_TOO_SMALL: i32 = 0xC000_0023_u32.cast_signed();
    pub(crate) const CANCELLED: i32 = 0xC000_0120_u32.cast_signed();
    pub(crate) const INVALID_DEVICE_STATE: i32 = 0xC000_0184_u32.cast_signed();
    pub(crate) const ADDRESS_ALREADY_EXISTS: i32 = 0xC000_020A_u32.cast_signed();
}

/// The driver that `scripts/build.sh` made, or the one that `PENSTOCK_DRIVER` names.
fn driver() -> PathBuf {
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/driver/penstock.sys");
    let path = std::env::var_os("PENSTOCK_DRIVER").map_or(built, PathBuf::from);
    assert!(path.is_file(), "no driver at {}: run scripts/build.sh first", path.display());
    path
}

/// Two CPUs under the verifier.
fn options(name: &str) -> Options {
    Options { name: name.to_owned(), cpus: 2, verified: true, ..Options::default() }
}

/// Runs `body` on virtual time from `seed`.
fn on_virtual_time<R>(seed: u64, body: impl FnOnce(&Arc<World>) -> R) -> R {
    let world = World::new(Mode::Virtual { seed });
    let _main = world.enter("main");
    body(&world)
}

/// Fails with what was left behind.
fn assert_clean(leaks: &[Leak]) {
    let left: Vec<String> = leaks.iter().map(Leak::to_string).collect();
    assert!(left.is_empty(), "left behind:\n{}", left.join("\n"));
}

/// Runs `body` with a computer on a network, alone there, as `outer` shows it the world; then takes it down.
fn with_computer(
    world: &Arc<World>,
    outer: impl FnOnce(&Network) -> Arc<dyn Outer>,
    body: impl FnOnce(&Computer),
) {
    let network = Network::new(world);
    let computer = Computer::boot(world, options("alone"), outer(&network), &driver());
    let computer = computer.unwrap_or_else(|error| panic!("{error}"));
    body(&computer);
    assert_clean(&computer.unload().unwrap_or_else(|error| panic!("{error}")));
}

/// As [`with_computer`], with one tunnel on it and nothing else in the network.
fn with_tunnel(seed: u64, body: impl FnOnce(&Tunnel)) {
    on_virtual_time(seed, |world| {
        let alone = |network: &Network| -> Arc<dyn Outer> {
            network.plug_in(&["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()])
        };
        with_computer(world, alone, |computer| {
            let tunnel = computer.add_tunnel().unwrap_or_else(|error| panic!("{error}"));
            body(&tunnel);
            tunnel.remove().unwrap_or_else(|error| panic!("{error}"));
        });
    });
}

/// The counters of a tunnel at one moment.
struct Counted(Vec<u8>);

impl Counted {
    fn of(tunnel: &Tunnel) -> Self {
        Self(tunnel.statistics().unwrap())
    }

    fn counter(&self, counter: Counter) -> u64 {
        Statistics::parse(&self.0).unwrap().counter(counter)
    }

    fn discarded(&self, reason: Discard) -> u64 {
        Statistics::parse(&self.0).unwrap().discarded(reason)
    }

    /// All discards of one direction.
    fn all_discarded(&self, direction: Direction) -> u64 {
        Statistics::parse(&self.0).unwrap().discards(direction)
    }

    /// Every discard that is not zero, in words.
    fn discards(&self) -> String {
        let counted = Discard::ALL.iter().map(|reason| (reason.name(), self.discarded(*reason)));
        let words = counted.filter(|(_, count)| *count > 0).map(|(name, n)| format!("{name} {n}"));
        words.collect::<Vec<_>>().join(", ")
    }

    /// Every datagram that came in ended in exactly one way.
    fn assert_inbound_identity(&self) {
        let ends = [Counter::PacketsIn, Counter::KeepalivesIn, Counter::HandshakesIn];
        let accepted: u64 = ends.iter().map(|counter| self.counter(*counter)).sum();
        let discarded = self.all_discarded(Direction::Inbound);
        let arrived = self.counter(Counter::DatagramsIn);
        let detail = format!("{accepted} accepted, discarded: {}", self.discards());
        assert_eq!(arrived, accepted + discarded, "{detail}");
    }
}
