//! Tunnels that are watched, in a time that the tests make: names that lead elsewhere, peers that do not answer, networks that change.

use std::net::SocketAddr;
use std::sync::mpsc;
use std::time::Duration;

use ctl::config::read::{Purpose, read};
use ctl::config::{Config, Endpoint};
use ctl::tunnel::up;
use ctl::tunnel::watch::{self, Signal, Watch};

use crate::executed::plan;
use crate::fake::Fake;

const KEY: &str = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=";
const BOB: &str = "IiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiI=";

const HERE: &str = "192.0.2.7:7";
const THERE: &str = "[2001:db8::7]:7";
const ELSEWHERE: &str = "198.51.100.7:7";

fn config(interface: &str) -> Config {
    let text = format!(
        "[Interface]\nPrivateKey = {KEY}\n{interface}[Peer]\nPublicKey = {BOB}\nEndpoint = vpn.example.com:7\n"
    );
    read(text.as_bytes(), Purpose::Tunnel { scripts: false }).ok().unwrap().config
}

/// A tunnel that is up, the watch over it, and what the watch said.
struct Watched {
    system: Fake,
    watch: Watch,
    told: Vec<String>,
}

impl Watched {
    fn of(interface: &str, addresses: &[&str]) -> Self {
        let config = config(interface);
        let mut system = Fake { default_mtu: Some(1500), ..Fake::default() };
        system.leads_to(addresses);
        let watch = Watch::of(&config);
        let _ = up(&plan(&config), config, &mut system).ok().unwrap();
        system.calls.clear();
        Self { system, watch, told: Vec::new() }
    }

    /// The step at this second; gives back the seconds until the next.
    fn at(&mut self, second: u64) -> u64 {
        let told = &mut self.told;
        let now = Duration::from_secs(second);
        self.watch
            .step(now, &mut self.system, &mut |what: &str| told.push(what.to_owned()))
            .as_secs()
    }

    /// Every step from one second to another, each when the watch wants it; the seconds in which a name was looked up.
    fn between(&mut self, mut second: u64, end: u64) -> Vec<u64> {
        let mut looked_up = Vec::new();
        while second < end {
            self.system.calls.clear();
            let wait = self.at(second);
            if self.system.calls.iter().any(|call| call.starts_with("resolve")) {
                looked_up.push(second);
            }
            second += wait.max(1);
        }
        looked_up
    }

    fn changed(&mut self, second: u64) {
        self.watch.changed(Duration::from_secs(second));
    }

    fn endpoint(&self) -> Option<SocketAddr> {
        match self.system.state.adapter.as_ref().unwrap().config.peers[0].endpoint {
            Some(Endpoint::Address(address)) => Some(address),
            _ => None,
        }
    }

    fn is_at(&self, address: &str) -> bool {
        self.endpoint() == Some(address.parse().unwrap())
    }
}

impl Fake {
    fn leads_to(&mut self, addresses: &[&str]) {
        self.addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
    }
}

#[test]
fn a_peer_that_answers_or_is_sent_nothing_is_left_alone() {
    let mut watched = Watched::of("", &[HERE]);
    watched.system.leads_to(&[ELSEWHERE]);
    // Nothing is sent for an hour.
    assert_eq!(watched.between(0, 3600), [0; 0]);
    // Something is, and there is a handshake every two minutes.
    for minute in (60..120).step_by(2) {
        watched.system.handshake += 1;
        watched.system.sent += 1000;
        assert_eq!(watched.between(minute * 60, (minute + 2) * 60), [0; 0]);
    }
    // Of what was sent with the last handshake nothing follows.
    assert_eq!(watched.between(7200, 10_800), [0; 0]);
    assert!(watched.is_at(HERE) && watched.told.is_empty());
}

#[test]
fn the_name_of_a_silent_peer_is_looked_up_less_and_less_often() {
    let mut watched = Watched::of("", &[HERE]);
    let mut looked_up = Vec::new();
    for second in (0..1800).step_by(15) {
        watched.system.sent += 148;
        looked_up.extend(watched.between(second, second + 15));
    }
    assert_eq!(looked_up, [150, 165, 195, 255, 375, 615, 915, 1215, 1515]);
    assert!(watched.told.is_empty(), "it led to where the peer was");
    watched.system.leads_to(&[ELSEWHERE]);
    watched.system.sent += 148;
    watched.between(1800, 2115);
    assert!(watched.is_at(ELSEWHERE));
    assert_eq!(watched.told, [format!("peer {BOB}: vpn.example.com is {ELSEWHERE} now")]);
    // It answers: the next silence is looked at as the first.
    watched.system.handshake += 1;
    let mut looked_up = Vec::new();
    for second in (2115..2400).step_by(15) {
        watched.system.sent += 148;
        looked_up.extend(watched.between(second, second + 15));
    }
    assert_eq!(looked_up, [2265, 2280, 2310, 2370]);
}

#[test]
fn a_name_with_several_addresses_is_tried_one_after_the_other() {
    let mut watched = Watched::of("", &[HERE, THERE]);
    let mut places = Vec::new();
    for second in (0..400).step_by(15) {
        watched.system.sent += 148;
        watched.between(second, second + 15);
        places.extend(watched.endpoint());
    }
    places.dedup();
    let expected: Vec<SocketAddr> =
        [HERE, THERE, HERE, THERE, HERE, THERE].map(|address| address.parse().unwrap()).into();
    assert_eq!(places, expected);
}

#[test]
fn a_name_that_was_not_known_is_found_later() {
    let mut watched = Watched::of("", &[]);
    assert_eq!(watched.between(0, 100), [0, 15, 45]);
    watched.system.leads_to(&[HERE]);
    watched.between(100, 120);
    assert!(watched.is_at(HERE));
}

#[test]
fn a_changed_network_has_names_looked_up_once() {
    let mut watched = Watched::of("", &[HERE]);
    watched.at(0);
    watched.system.leads_to(&[ELSEWHERE]);
    (100..102).for_each(|second| watched.changed(second));
    assert_eq!(watched.between(101, 160), [102]);
    assert!(watched.is_at(ELSEWHERE));
    // It roams, and its name says what it did.
    let peer = &mut watched.system.state.adapter.as_mut().unwrap().config.peers[0];
    peer.endpoint = Some(Endpoint::Address(THERE.parse().unwrap()));
    watched.changed(200);
    assert_eq!(watched.between(200, 260), [202]);
    assert!(watched.is_at(THERE));
    // Its name says something new.
    watched.system.leads_to(&[HERE]);
    watched.changed(300);
    watched.between(300, 360);
    assert!(watched.is_at(HERE));
}

#[test]
fn the_mtu_follows_the_default_route_unless_the_file_gives_one() {
    for (given, wanted) in [("", 1320), ("MTU = 1300\n", 1300)] {
        let mut watched = Watched::of(given, &[HERE]);
        watched.at(0);
        watched.system.default_mtu = Some(1400);
        watched.at(15);
        let mtu = |watched: &Watched| {
            watched.system.state.adapter.as_ref().unwrap().interface.unwrap().mtu
        };
        assert_ne!(mtu(&watched), 1320, "nothing was said to have changed");
        watched.changed(20);
        watched.between(20, 60);
        assert_eq!(mtu(&watched), wanted);
        watched.changed(60);
        watched.between(60, 100);
        let told: Vec<_> = watched.told.iter().map(String::as_str).collect();
        let expected = ["the MTU is 1320 now, and was 1420"];
        assert_eq!(told, expected[..usize::from(given.is_empty())]);
    }
}

/// Whatever the system says, the watch goes on, and tells it once.
#[test]
fn trouble_is_told_once_and_is_no_end() {
    let mut watched = Watched::of("", &[HERE]);
    watched.at(0);
    watched.system.leads_to(&[ELSEWHERE]);
    watched.system.failing = (1..=100).collect();
    for second in 1..10 {
        watched.system.calls.clear();
        watched.changed(second * 100);
        watched.at(second * 100 + 2);
    }
    assert_eq!(watched.told, ["call 1 fails", "call 2 fails"]);
    assert!(watched.is_at(HERE));
    watched.told.clear();
    watched.system.failing.clear();
    watched.changed(2000);
    watched.at(2002);
    assert!(watched.is_at(ELSEWHERE));
    assert_eq!(watched.told.len(), 1);
}

#[test]
fn a_watch_ends_when_it_is_told() {
    for last in [Some(Signal::Stop), None] {
        let Watched { mut system, watch, .. } = Watched::of("", &[HERE]);
        let (sender, receiver) = mpsc::channel();
        sender.send(Signal::Changed).unwrap();
        last.into_iter().for_each(|signal| sender.send(signal).unwrap());
        drop(sender);
        watch::run(watch, &mut system, &receiver, |_| ());
        assert_eq!(system.calls, ["configuration"]);
    }
}
