//! What scenarios share: where the driver is, machines to begin with, and the end that every one of them comes to.
//!
//! A scenario runs the driver that `scripts/build.sh` makes, on virtual time, under the verifier. `PENSTOCK_DRIVER` names
//! another file. However it went, it ends the same way ([`finish`]): what the drivers counted must add up, packet by packet
//! ([`accounting`]), and nothing may be left behind.

#![allow(dead_code, reason = "each scenario uses its part")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use abi::ioctl::writer::{InterfaceFields, PeerFields};
use abi::ioctl::{Writer, peer_flag};
use abi::policy::Policy;
use sim::host::memory::pair::{Pair, Station};
use sim::host::memory::{Carried, Network};
use sim::nt::machine::Options;
use sim::nt::wsk;
use sim::verifier::report::Leak;
use sim::verifier::schedule::{JoinHandle, Mode, World};

pub(crate) mod accounting;
pub(crate) mod flow;
pub(crate) mod stranger;

/// How long anything may take that is to happen at all.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The driver file.
///
/// # Panics
///
/// If there is none.
#[must_use]
pub(crate) fn driver() -> PathBuf {
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/driver/penstock.sys");
    let path = std::env::var_os("PENSTOCK_DRIVER").map_or(built, PathBuf::from);
    assert!(path.is_file(), "no driver at {}: run scripts/build.sh first", path.display());
    path
}

/// A machine under the verifier, whose stack does offloads right, with the policy that `PENSTOCK_POLICY` sets (`NAME=VALUE`, with commas between).
#[must_use]
pub(crate) fn verified(name: &str) -> Options {
    let set = std::env::var("PENSTOCK_POLICY").unwrap_or_default();
    let parameters = set.split_terminator(',').map(|one| {
        let (name, value) = one.split_once('=').unwrap();
        (name.to_owned(), value.parse().unwrap())
    });
    let parameters = parameters.collect();
    // A run that is refused and sent again comes behind later ones; who wants to see that says so.
    let choices = wsk::good_offloads().collect();
    let (name, verified) = (name.to_owned(), true);
    Options { name, cpus: 2, verified, parameters, choices, ..Options::default() }
}

/// The same, with one policy value more.
#[must_use]
pub(crate) fn with_policy(policy: Policy, value: u32) -> Options {
    with_policies(&[(policy, value)])
}

/// The same, with several.
#[must_use]
pub(crate) fn with_policies(values: &[(Policy, u32)]) -> Options {
    let mut options = verified("machine");
    let values = values.iter().map(|(policy, value)| (policy.name().to_owned(), *value));
    options.parameters.extend(values);
    options
}

/// Runs `scenario` on virtual time from `seed`.
pub(crate) fn on_virtual_time(seed: u64, scenario: impl FnOnce(&Arc<World>, &Path)) {
    let driver = driver();
    let world = World::new(Mode::Virtual { seed });
    let _main = world.enter("main");
    scenario(&world, &driver);
}

/// Runs `scenario` with two machines whose tunnels are up and know each other, and [`finish`]es them.
pub(crate) fn with_pair(seed: u64, scenario: impl FnOnce(&Pair)) {
    with_pair_of(seed, &verified("machine"), scenario);
}

/// The same, with machines like `options`.
pub(crate) fn with_pair_of(seed: u64, options: &Options, scenario: impl FnOnce(&Pair)) {
    on_virtual_time(seed, |world, driver| {
        let pair = Pair::boot(world, options, driver)
            .unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        scenario(&pair);
        let Pair { alpha, beta, network, .. } = pair;
        finish(vec![alpha, beta], &network);
    });
}

/// Takes the stations down, the last first: none may have stopped, their counters must add up, and nothing may be left.
///
/// # Panics
///
/// With the stop report, the sum that is wrong, or the list of what was left behind.
pub(crate) fn finish(stations: Vec<Station>, network: &Network) {
    finish_beside(stations, network, Carried::default());
}

/// The same, where somebody else sent `others`.
pub(crate) fn finish_beside(mut stations: Vec<Station>, network: &Network, others: Carried) {
    accounting::check(&stations.iter().collect::<Vec<_>>(), network, others);
    while let Some(station) = stations.pop() {
        nothing_left(&station.shut_down().unwrap_or_else(|error| panic!("{error}")));
    }
}

/// Fails with the list of what was left behind, if there is anything on it.
pub(crate) fn nothing_left(leaks: &[Leak]) {
    let left: Vec<String> =
        leaks.iter().map(|leak| format!("{}: {}", leak.kind, leak.detail)).collect();
    assert!(left.is_empty(), "left behind:\n{}", left.join("\n"));
}

/// Makes the stations peers of each other, and brings them up.
pub(crate) fn join(one: &Station, other: &Station) {
    for (one, other) in [(one, other), (other, one)] {
        one.set_peers(&[other.as_peer().unwrap()]).unwrap();
        one.set_up(true).unwrap();
    }
}

/// Pings `other` from `one` over both families; each must be answered.
pub(crate) fn ping(one: &Station, other: &Station) {
    for to in other.inner() {
        let answered = one.endpoint().ping(to, 56, PATIENCE);
        assert!(answered.is_some(), "{to} does not answer {:?}", one.inner()[0]);
    }
}

/// Sends a file from `one` to `other`, where it must arrive as it is.
pub(crate) fn send_file(one: &Station, other: &Station, file: &[u8], why: &str) {
    let sent = one.endpoint().send_file(other.inner()[0], file, PATIENCE);
    assert!(sent.is_some(), "{why}");
    let got = other.endpoint().take_file(one.inner()[0]);
    assert!(got.as_deref() == Some(file), "{why}: another file");
}

/// Changes the port `station` listens on, and nothing else.
pub(crate) fn set_port(station: &Station, port: u16) {
    station.set_port(port).unwrap();
}

/// Removes the peer with this key.
pub(crate) fn remove_peer(station: &Station, public_key: &[u8; 32]) {
    let flags = peer_flag::HAS_PUBLIC_KEY | peer_flag::REMOVE;
    let fields = PeerFields { flags, ..PeerFields::of(public_key) };
    set(station, |buffer| {
        let mut writer = Writer::new(buffer, &interface(0, 0));
        writer.peer(&fields);
        writer
    })
    .unwrap();
}

fn interface(flags: u32, listen_port: u16) -> InterfaceFields<'static> {
    InterfaceFields { flags, listen_port, private_key: &[0; 32], public_key: &[0; 32] }
}

fn set(station: &Station, write: impl for<'b> Fn(&'b mut [u8]) -> Writer<'b>) -> Result<(), i32> {
    let mut buffer = vec![0; write(&mut []).len_bytes()];
    write(&mut buffer);
    station.tunnel().set(&buffer)
}

/// Datagrams from one station to an inner address, one after the other, for as long as this lives.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    actor: Option<JoinHandle>,
}

impl Load {
    /// Begins to send datagrams of `size` bytes of data, one every `every`.
    #[must_use]
    pub(crate) fn start(
        world: &Arc<World>,
        from: &Station,
        to: IpAddr,
        size: usize,
        every: Duration,
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (endpoint, ended, clock) = (from.endpoint().clone(), stop.clone(), world.clone());
        let actor = world.spawn("load", move || {
            while !ended.load(Ordering::Acquire) {
                endpoint.send_datagram(to, vec![0x5A; size]);
                clock.sleep(every);
            }
        });
        Self { stop, actor: Some(actor) }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(actor) = self.actor.take() {
            actor.join(None);
        }
    }
}
