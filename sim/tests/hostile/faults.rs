//! Windows is out of something, once: each call that may fail fails, one per run.
//!
//! ```text
//!   load ─ add device ─ configure ─ up ─ first traffic ─ down ─ remove ─ unload
//!    n=0 … every call on this way that NT, KMDF, NetAdapterCx, WSK or netio may refuse … n=last
//! ```
//!
//! Whatever fails is a status to whoever asked, or packets that are counted; asked again it works, and after the unload
//! nothing is left. The machine never stops and nothing waits for ever (virtual time would come to rest).

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use abi::discard::Direction;
use abi::ioctl::{AdapterState, interface_flag, peer_flag};
use sim::host::computer::{Computer, Tunnel};
use sim::host::memory::endpoint::Endpoint;
use sim::host::memory::pair::{PORT, Station};
use sim::host::memory::{Host, Network};
use sim::host::routes::Prefix;
use sim::verifier::schedule::World;

use crate::control_requests::{PRIVATE_KEY, PeerPart, set_buffer};
use crate::{Counted, assert_clean, driver, on_virtual_time, options};

/// Real time the test may take; past it, faults are tried further and further apart.
const BUDGET: Duration = Duration::from_secs(15);
/// First and last calls of the load, each of which fails; between them one in [`STRIDE`].
const EDGE: u64 = 60;
const STRIDE: usize = 31;
const OWN: [u8; 4] = [10, 9, 0, 1];
/// How often a ping is tried.
const PINGS: usize = 6;
/// Longer than a handshake takes to be repeated: a packet that waited for it is late, not lost.
const PATIENCE: Duration = Duration::from_secs(9);

/// What a run with a fault needs.
struct Scene<'s> {
    world: &'s Arc<World>,
    computer: &'s Computer,
    host: &'s Arc<Host>,
    beta: &'s Station,
    configuration: &'s [u8],
}

impl Scene<'_> {
    /// How many calls of a load may fail.
    fn calls_of_load(&self) -> u64 {
        let machine = self.computer.machine();
        machine.faults().fail_at(u64::MAX);
        self.computer.load(&driver()).unwrap_or_else(|error| panic!("{error}"));
        let calls = machine.faults().counted();
        assert_clean(&self.computer.unload().unwrap_or_else(|error| panic!("{error}")));
        calls
    }

    /// Loads, uses and unloads the driver while the `n`th call fails; false if there were fewer.
    fn run(&self, n: u64) -> bool {
        let machine = self.computer.machine();
        machine.faults().fail_at(n);
        machine.load(&driver()).unwrap_or_else(|error| panic!("call {n}: {error}"));
        let entered = self.alive(n, machine.start());
        let leaks = if entered < 0 {
            self.alive(n, machine.unmap())
        } else {
            self.use_driver(n);
            self.alive(n, machine.unload())
        };
        let struck = machine.faults().counted() > n;
        assert!(struck || entered >= 0, "call {n}: DriverEntry failed without a fault");
        machine.faults().never();
        assert!(leaks.is_empty(), "call {n} left behind: {leaks:?}");
        struck
    }

    fn alive<T, E>(&self, n: u64, outcome: Result<T, E>) -> T {
        let report = || sim::host::computer::report(self.computer.machine());
        outcome.unwrap_or_else(|_| panic!("call {n} stopped the machine:\n{}", report()))
    }

    fn use_driver(&self, n: u64) {
        // One call fails: the second time the same works.
        let Ok(tunnel) = self.computer.add_tunnel().or_else(|error| {
            assert!(!self.computer.machine().is_dead(), "call {n}: {error}");
            self.computer.add_tunnel()
        }) else {
            panic!("call {n}: no device the second time either")
        };
        let twice = |what: &str, act: &dyn Fn() -> Result<(), i32>| {
            if let Err(status) = act() {
                assert!(status < 0, "call {n}: {what}: {status:#x}");
                act().unwrap_or_else(|status| panic!("call {n}: {what} again: {status:#x}"));
            }
        };
        let adapter = self.plug_in(&tunnel);
        twice("SET", &|| tunnel.set(self.configuration));
        twice("up", &|| tunnel.set_state(AdapterState::Up));
        let works = self.first_traffic(n, &tunnel);
        self.host.unplug(adapter);
        twice("down", &|| tunnel.set_state(AdapterState::Down));
        // A removal cannot be refused.
        tunnel.remove().unwrap_or_else(|error| panic!("call {n}: {error}"));
        if !works {
            // Windows removes a failed device; the next one works.
            self.use_driver(n);
        }
    }

    /// Joins the adapter to the host's tables; returns its index there.
    fn plug_in(&self, tunnel: &Tunnel) -> u32 {
        let (own, net) = (IpAddr::from(OWN), Prefix::new(OWN.into(), 24));
        self.host.plug_in_adapter(tunnel.adapter().luid(), &[(own, 24)], &[net])
    }

    /// Pings until there is an answer; false if Windows has given the device up, for it had no queue for its packets.
    fn first_traffic(&self, n: u64, tunnel: &Tunnel) -> bool {
        let (adapter, machine) = (tunnel.adapter().clone(), self.computer.machine().clone());
        let transmit = Box::new(move |packet: &[u8], _| adapter.send(&machine, packet).is_ok());
        let endpoint = Endpoint::new(self.world, &[OWN.into()], transmit);
        let inbox = endpoint.clone();
        tunnel.adapter().on_receive(move |packets| {
            for packet in packets.iter() {
                inbox.deliver(packet.pieces().flatten().copied().collect());
            }
        });
        let [to, _] = self.beta.inner();
        let ping = || endpoint.ping(to, 100, PATIENCE).is_some();
        let device = tunnel.handle().device();
        let lost = (0..PINGS).position(|_| ping());
        if lost.is_none() && device.failed().is_some() {
            endpoint.stop();
            return false;
        }
        let lost = lost.unwrap_or_else(|| {
            let said = self.statistics(tunnel).discards();
            let struck = self.computer.machine().faults().struck();
            panic!("call {n} ({struck:?}): no answer to {PINGS} pings; discarded: {said}")
        });
        // The last callback adds its sums when it ends.
        self.world.sleep(Duration::from_millis(50));
        let after = self.statistics(tunnel);
        let counted = [Direction::Outbound, Direction::Inbound].map(|way| after.all_discarded(way));
        let struck = self.computer.machine().faults().counted() > n;
        assert!(lost == 0 || struck, "call {n}: {lost} pings lost without a fault");
        if lost > 0 {
            let name = self.computer.machine().faults().struck();
            assert!(counted != [0, 0], "call {n} ({name:?}): {lost} pings lost, nothing counted");
        }
        after.assert_inbound_identity();
        endpoint.stop();
        true
    }

    /// The counters; the request for them may be what fails.
    fn statistics(&self, tunnel: &Tunnel) -> Counted {
        tunnel.statistics().map_or_else(|_| Counted::of(tunnel), Counted)
    }
}

#[test]
fn every_single_failure_is_survived() {
    on_virtual_time(1, |world| {
        let network = Network::new(world);
        let beta = Station::boot(world, &network, 2, options("beta"), &driver())
            .unwrap_or_else(|error| panic!("{error}"));
        let host = network.plug_in(&["192.0.2.1".parse().unwrap()]);
        let computer = Computer::boot(world, options("alpha"), host.clone(), &driver())
            .unwrap_or_else(|error| panic!("{error}"));
        let configuration = introduce(&computer, &beta);
        let scene = Scene {
            world,
            computer: &computer,
            host: &host,
            beta: &beta,
            configuration: &configuration,
        };
        assert_clean(&computer.unload().unwrap_or_else(|error| panic!("{error}")));
        let began = Instant::now();
        let early = scene.calls_of_load();
        // Most calls of the load make the same thing a thousand times: the send buffers. Of those some are enough.
        let thinned = (0..EDGE).chain((EDGE..early - EDGE).step_by(STRIDE)).chain(early - EDGE..);
        let (mut runs, mut step, mut next) = (0_u32, 1, 0);
        for n in thinned {
            if n < next {
                continue;
            }
            if !scene.run(n) {
                break;
            }
            runs += 1;
            // The budget is for all of them: late ones may get further apart.
            if began.elapsed() > BUDGET * step {
                step *= 2;
            }
            next = n + u64::from(step);
        }
        println!("{runs} failures tried, {early} calls in the load, {:.1?}", began.elapsed());
        assert!(runs > 100 && next > early, "only {runs} calls may fail?");
        assert_clean(&beta.shut_down().unwrap_or_else(|error| panic!("{error}")));
    });
}

/// Makes the two peers of each other: the SET for alpha's side.
fn introduce(computer: &Computer, beta: &Station) -> Vec<u8> {
    let mut alpha = beta.as_peer().unwrap();
    let peer = PeerPart {
        key: alpha.public_key,
        flags: peer_flag::HAS_ENDPOINT,
        endpoint: alpha.endpoint,
        allowed_ips: &[("10.9.0.2", 32)],
    };
    let flags = interface_flag::HAS_PRIVATE_KEY
        | interface_flag::HAS_LISTEN_PORT
        | interface_flag::REPLACE_PEERS;
    let configuration = set_buffer(flags, PORT, &PRIVATE_KEY, &[peer]);
    let tunnel = computer.add_tunnel().unwrap_or_else(|error| panic!("{error}"));
    tunnel.set(&configuration).unwrap();
    let answer = tunnel.get().unwrap();
    alpha.public_key = *abi::ioctl::Set::parse(&answer).unwrap().public_key().unwrap();
    alpha.endpoint = None;
    alpha.allowed_ips = vec![Prefix::new(OWN.into(), 32)];
    beta.set_peers(&[alpha]).unwrap();
    beta.set_up(true).unwrap();
    tunnel.remove().unwrap_or_else(|error| panic!("{error}"));
    configuration
}
