//! Findings of one interface: of its configuration, of what its peers did, and of what was counted.

use abi::discard::Discard;
use abi::ioctl::{Peer, Set};
use abi::statistics::{Counter, Statistics};

use super::Finding;
use super::firewall::{self, Firewall};
use crate::key::PublicKey;
use crate::show::handshake_s;

/// A session is not used longer, so that who talks has made a newer one. [whitepaper §6.1, Reject-After-Time]
const SESSION_S: u64 = 180;
/// What clocks may differ by between a handshake and the look at it.
const CLOCK_S: u64 = 5;
/// The first day of 2026: this program is not older.
const EARLIEST_S: u64 = 1_767_225_600;

/// So many of a hundred packets too big for the way, and so many in all, are more than it takes senders to learn what fits.
const TOO_BIG_PERCENT: u64 = 1;
const TOO_BIG_LEAST: u64 = 100;

/// What discards of a reason say of the surroundings, and what to do. Not here is NoPeer: what hosts send to everybody around them
/// has no peer.
const TELLING: [(Discard, &str, &str); 8] = [
    (
        Discard::RoutingLoop,
        "route loop",
        "the only way to a peer's endpoint leads into a tunnel: give it a route by another interface",
    ),
    (
        Discard::NoRoute,
        "route",
        "there is no way to a peer's endpoint: see whether the network is up, and has a route of the endpoint's family",
    ),
    (
        Discard::NoSocket,
        "port",
        "the UDP port could not be opened: another program may have it; `penstock set NAME listen-port PORT` takes another",
    ),
    (
        Discard::SendFailed,
        "firewall",
        "the network stack refused datagrams: see whether a firewall lets UDP out",
    ),
    (
        Discard::NoEndpoint,
        "endpoint",
        "a peer's endpoint is not known: set one, or wait until that peer begins",
    ),
    (
        Discard::WrongSource,
        "allowed IPs",
        "a peer sends from addresses that are not its own: compare both sides' allowed IPs",
    ),
    (
        Discard::UnknownPeer,
        "keys",
        "somebody who knows this public key is no peer here: compare the public keys of both sides",
    ),
    (
        Discard::BadMac1,
        "keys",
        "handshakes come for another public key: see whether the peers have this interface's",
    ),
];

/// What was read of an interface.
pub struct Facts<'a> {
    /// Its name.
    pub name: &'a str,
    /// Whether it is up.
    pub up: bool,
    /// Its configuration, and what its peers did.
    pub set: Set<'a>,
    /// What it counted.
    pub statistics: Statistics<'a>,
    /// The firewall, where there is Windows'.
    pub firewall: Option<&'a Firewall>,
    /// Seconds of 1970 now.
    pub now_s: u64,
}

/// Findings, the interface's own first.
#[must_use]
pub fn findings(facts: &Facts<'_>) -> Vec<Finding> {
    let about = |what: &str| format!("{}: {what}", facts.name);
    let mut findings = vec![state(facts, about("state")), clock(facts, about("clock"))];
    if facts.set.private_key().is_none_or(|key| crate::key::SecretKey::of(key).is_none()) {
        findings.push(Finding::bad(
            about("keys"),
            "there is no private key",
            format!(
                "`penstock set {} private-key FILE`, or `setconf` with a file that has one",
                facts.name
            ),
        ));
    }
    if facts.set.peer_count() == 0 {
        findings.push(Finding::bad(
            about("peers"),
            "there are none",
            "add one by `set` or `addconf`",
        ));
    }
    let port = facts.set.listen_port().unwrap_or(0);
    if let Some(firewall) = facts.firewall.filter(|_| facts.up && port != 0) {
        let waited_for = facts.set.peers().filter(|peer| peer.endpoint().is_none()).count();
        findings.push(firewall::finding(about("firewall"), firewall, port, waited_for));
    }
    for peer in facts.set.peers() {
        let about = about(&format!("peer {}", PublicKey(*peer.public_key())));
        findings.extend(handshake(&peer, facts.now_s, about));
    }
    findings.extend(mtu(&facts.statistics, about("MTU")));
    for (reason, what, advice) in TELLING {
        let count = facts.statistics.discarded(reason);
        if count > 0 {
            let said = format!("{count} discarded. {}", reason.description());
            findings.push(Finding::bad(about(what), said, advice));
        }
    }
    findings
}

fn state(facts: &Facts<'_>, about: String) -> Finding {
    let port = facts.set.listen_port().unwrap_or(0);
    if facts.up {
        return Finding::good(about, format!("up, on UDP port {port}"));
    }
    Finding::bad(about, "down", "nothing is sent or received until it is brought up")
}

/// A handshake's timestamps only ever grow: a clock that goes back makes peers refuse this machine until it has caught up.
fn clock(facts: &Facts<'_>, about: String) -> Finding {
    let newest = facts.set.peers().map(|peer| handshake_s(&peer)).max().unwrap_or(0);
    let advice = "set it right: peers refuse handshakes that are older than those they saw";
    if facts.now_s < EARLIEST_S {
        return Finding::bad(about, "the clock is before 2026", advice);
    }
    if newest > facts.now_s + CLOCK_S {
        return Finding::bad(
            about,
            "a handshake was later than now: the clock was set back",
            advice,
        );
    }
    Finding::good(about, "after every handshake")
}

/// Who is told what fits sends no more that does not: many say that somebody is not told.
fn mtu(statistics: &Statistics<'_>, about: String) -> Option<Finding> {
    let (too_big, all) =
        (statistics.discarded(Discard::TooBig), statistics.counter(Counter::PacketsOut));
    if too_big < TOO_BIG_LEAST || too_big < all / 100 * TOO_BIG_PERCENT {
        return None;
    }
    let said = format!("{too_big} of {all} packets were too big for the way to their peer");
    let advice = "lower the adapter's MTU, leave `MssClamp` on, and see that firewalls let ICMP `too big` through";
    Some(Finding::bad(about, said, advice))
}

/// Whether a peer that should talk does. One without an endpoint, that never did, waits for the other side.
fn handshake(peer: &Peer<'_>, now_s: u64, about: String) -> Option<Finding> {
    let keeps_alive = peer.persistent_keepalive_s().is_some_and(|seconds| seconds != 0);
    let advice = "see whether its endpoint and port are right, both have each other's public keys, and firewalls let UDP through";
    match handshake_s(peer) {
        0 if peer.endpoint().is_none() => None,
        0 if keeps_alive || peer.tx_bytes() > 0 => {
            Some(Finding::bad(about, "it has never answered", advice))
        }
        0 => None,
        then_s if keeps_alive && now_s.saturating_sub(then_s) > SESSION_S => {
            let said = format!("it has not answered for {} s", now_s.saturating_sub(then_s));
            Some(Finding::bad(about, said, advice))
        }
        then_s => {
            Some(Finding::good(about, format!("answered {} s ago", now_s.saturating_sub(then_s))))
        }
    }
}
