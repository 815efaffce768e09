//! What happens in one run: two machines send to each other while one of them goes through something.
//!
//! A handshake; then datagrams both ways, a few at a time or so many that several CPUs share them; and meanwhile
//!
//! * *changes* of alpha: down and up, another port, beta removed and told of again, other ways to send and to receive;
//! * or the *renewal* of the session, which is as old as that takes, or too old to be used at all;
//! * or the *end* of alpha's adapter, its driver or its power, and another beginning.
//!
//! At last a ping each way; every packet is accounted for; both drivers are unloaded.

use std::net::IpAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use abi::policy::Policy;
use abi::statistics::Statistics;

use super::Failure;
use crate::host::memory::Network;
use crate::host::memory::pair::{Pair, Station};
use crate::nt::machine::Options;
use crate::verifier::report::Leak;
use crate::verifier::schedule::{JoinHandle, World, lock, mix};

/// How long anything may take that is to happen at all.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long everything may take that is under way when programs are done.
const REST: Duration = Duration::from_secs(1);
/// Programs that send in each direction, and their bursts.
const SENDERS: usize = 2;
const BURSTS: usize = 4;
/// The most datagrams of a burst: so many are more than one chunk, and are shared.
const SHARED: u64 = 48;
const FEW: u64 = 4;
/// Changes of alpha's configuration.
const CHANGES: usize = 4;
/// When a session is renewed, and when it is no use any more. Source: WireGuard's paper, §6.1.
const RENEWED_AFTER: Duration = Duration::from_secs(120);
const DEAD_AFTER: Duration = Duration::from_secs(180);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Course {
    Changes,
    Renewal { after: Duration },
    End,
}

/// What of a run is drawn from its seed before it begins.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scenario {
    course: Course,
    cpus: u32,
    /// Programs send at most so many datagrams at first.
    burst: u64,
    fast_path: bool,
    injects: bool,
}

impl Scenario {
    /// That of a seed.
    pub(super) fn of(seed: u64) -> Self {
        let drawn = mix(seed ^ 0x636F_7572_7365);
        let bit = |at: u32| drawn >> at & 1 != 0;
        let course = match drawn % 4 {
            0 | 1 => Course::Changes,
            2 => Course::Renewal { after: if bit(8) { RENEWED_AFTER } else { DEAD_AFTER } },
            _ => Course::End,
        };
        Self {
            course,
            cpus: 2 + (drawn >> 16) as u32 % 3,
            burst: if bit(24) { SHARED } else { FEW },
            fast_path: bit(32),
            injects: bit(33),
        }
    }

    /// Runs it.
    pub(super) fn run(self, world: &Arc<World>, driver: &Path) -> Result<(), Failure> {
        let policies = [(Policy::FastPath, self.fast_path), (Policy::SendEngine, self.injects)];
        let parameters = policies.map(|(policy, on)| (policy.name().to_owned(), u32::from(on)));
        let options = Options {
            cpus: self.cpus,
            verified: true,
            parameters: parameters.into(),
            ..Options::default()
        };
        let pair = Pair::boot(world, &options, driver)?;
        let machines = [&pair.alpha, &pair.beta].map(|it| it.computer().machine().clone());
        let wire = Arc::new(Wire::default());
        if self.course != Course::Changes {
            wire.watch(&pair.network);
        }
        let lived = self.live(pair, driver);
        for machine in &machines {
            if machine.is_dead() {
                return Err(Failure::stopped(machine));
            }
        }
        nothing_left(&lived?)?;
        wire.in_order()
    }

    /// From the handshake to the unloading; what is left behind.
    fn live(self, pair: Pair, driver: &Path) -> Result<Vec<Leak>, Failure> {
        let world = pair.world.clone();
        ping(&pair.alpha, pair.beta.inner()[0])?;
        if let Course::Renewal { after } = self.course {
            world.sleep(after - Duration::from_micros(world.random() % 400));
        }
        world.preempt();
        let ends = [(&pair.alpha, &pair.beta), (&pair.beta, &pair.alpha)];
        let traffic: Vec<_> = (0..SENDERS)
            .flat_map(|_| ends)
            .map(|(from, to)| self.send(&world, from, to.inner()[0]))
            .collect();
        let pair = match self.course {
            Course::Changes => change(pair)?,
            Course::Renewal { .. } => pair,
            Course::End => end(pair, driver)?,
        };
        for thread in traffic {
            if !thread.join(Some(world.now() + PATIENCE)) {
                return Err(Failure::plain("a program that sends does not end".to_owned()));
            }
        }
        ping(&pair.alpha, pair.beta.inner()[1])?;
        ping(&pair.beta, pair.alpha.inner()[0])?;
        for station in [&pair.alpha, &pair.beta] {
            station.set_up(false).map_err(|status| Failure::of("down", status))?;
        }
        world.sleep(REST);
        for station in [&pair.alpha, &pair.beta] {
            adds_up(station)?;
        }
        Ok(pair.shut_down()?)
    }

    /// A program that sends from one to the other.
    fn send(self, world: &Arc<World>, from: &Station, to: IpAddr) -> JoinHandle {
        let (endpoint, clock) = (from.endpoint().clone(), world.clone());
        world.spawn("traffic", move || {
            for burst in 0..BURSTS {
                let most = if burst == 0 { self.burst } else { FEW };
                for _ in 0..clock.random() % most {
                    endpoint.send_datagram(to, vec![0x5A; (clock.random() % 1300) as usize]);
                }
                clock.sleep(Duration::from_micros(clock.random() % 400));
            }
        })
    }
}

/// Alpha's configuration changes.
fn change(pair: Pair) -> Result<Pair, Failure> {
    let (alpha, beta) = (&pair.alpha, pair.beta.as_peer());
    let beta = beta.map_err(|status| Failure::of("GET", status))?;
    for _ in 0..CHANGES {
        pair.world.sleep(Duration::from_micros(pair.world.random() % 300));
        let number = pair.world.random();
        let value = Some((number >> 32) as u32 % 2);
        match number % 5 {
            0 => alpha.set_up(false).and_then(|()| alpha.set_up(true)),
            1 => alpha
                .remove_peer(&beta.public_key)
                .and_then(|()| alpha.set_peers(std::slice::from_ref(&beta))),
            2 => alpha.tunnel().set_policy(&[(Policy::SendEngine, value)]),
            3 => alpha.set_port(alpha.port() + (number >> 40) as u16 % 3),
            _ => alpha.tunnel().set_policy(&[(Policy::FastPath, value)]),
        }
        .map_err(|status| Failure::of("a change", status))?;
    }
    Ok(pair)
}

/// Alpha ends, and begins again.
fn end(pair: Pair, driver: &Path) -> Result<Pair, Failure> {
    let Pair { alpha, beta, network, world } = pair;
    world.sleep(Duration::from_micros(world.random() % 600));
    let mut leaks = Vec::new();
    let alpha = match world.random() % 4 {
        0 => {
            alpha.tunnel().sleep()?;
            world.sleep(Duration::from_micros(world.random() % 400));
            alpha.tunnel().wake()?;
            return Ok(Pair { alpha, beta, network, world });
        }
        1 => {
            alpha.tunnel().rebalance()?;
            return Ok(Pair { alpha, beta, network, world });
        }
        2 => alpha.replace()?,
        _ => {
            let (next, left) = alpha.restart(driver)?;
            leaks = left;
            next
        }
    };
    nothing_left(&leaks)?;
    let joined = beta.as_peer().and_then(|beta| alpha.set_peers(&[beta]));
    joined.and_then(|()| alpha.set_up(true)).map_err(|status| Failure::of("joining", status))?;
    // Beta may send to the old alpha's session until that is too old: it is alpha who asks for another.
    ping(&alpha, beta.inner()[0])?;
    Ok(Pair { alpha, beta, network, world })
}

fn ping(from: &Station, to: IpAddr) -> Result<(), Failure> {
    let answered = (0..3).any(|_| from.endpoint().ping(to, 56, PATIENCE).is_some());
    if answered {
        return Ok(());
    }
    let waiting = from.computer().machine().world().waiting().join("\n  ");
    let kind = format!("{to} does not answer");
    Err(Failure { detail: format!("{kind}; who waits:\n  {waiting}"), kind })
}

/// Every packet of a station that is down and at rest came, and went somewhere.
fn adds_up(station: &Station) -> Result<(), Failure> {
    let counted = station.tunnel().statistics();
    let counted = counted.map_err(|status| Failure::of("STATISTICS", status))?;
    let sums = Statistics::parse(&counted).map(|counted| (counted.waiting(), counted.lost()));
    match sums {
        Some((0, 0)) => Ok(()),
        other => {
            let kind = "packets are not accounted for".to_owned();
            let detail = format!("{kind}: {}, out and in: {other:?}", station.inner()[0]);
            Err(Failure { kind, detail })
        }
    }
}

fn nothing_left(leaks: &[Leak]) -> Result<(), Failure> {
    if leaks.is_empty() {
        return Ok(());
    }
    let lines: Vec<String> = leaks.iter().map(ToString::to_string).collect();
    Err(Failure { kind: "something is left behind".to_owned(), detail: lines.join("\n") })
}

/// The counters of transport data on the wire, which has them in the order they were taken.
#[derive(Default)]
struct Wire {
    last: Mutex<std::collections::HashMap<u32, u64>>,
    disorder: AtomicU32,
}

impl Wire {
    fn watch(self: &Arc<Self>, network: &Network) {
        let wire = self.clone();
        network.tap(move |seen| {
            let [4, 0, 0, 0, r0, r1, r2, r3, rest @ ..] = seen.payload else { return };
            let Some(counter) = rest.first_chunk() else { return };
            let receiver = u32::from_le_bytes([*r0, *r1, *r2, *r3]);
            let counter = u64::from_le_bytes(*counter);
            let last = lock(&wire.last).insert(receiver, counter);
            if last.is_some_and(|last| last >= counter) {
                wire.disorder.fetch_add(1, Ordering::Relaxed);
            }
        });
    }

    fn in_order(&self) -> Result<(), Failure> {
        match self.disorder.load(Ordering::Relaxed) {
            0 => Ok(()),
            count => {
                let kind = "datagrams leave out of order".to_owned();
                Err(Failure { detail: format!("{kind}: {count}"), kind })
            }
        }
    }
}
