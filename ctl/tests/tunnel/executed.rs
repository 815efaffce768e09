//! Plans that are done on a system of plain values: every call of it fails in turn, and nothing is left, whatever the file says.

use ctl::config::Config;
use ctl::config::read::{Purpose, read};
use ctl::policy::KillSwitch;
use ctl::tunnel::system::Interface;
use ctl::tunnel::{Failure, Plan, Running, Undone, up};
use proptest::prelude::*;
use proptest::sample::subsequence;

use crate::fake::{Adapter, Fake, LARGEST, State};

const KEY: &str = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=";
const BOB: &str = "IiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiI=";
const CAROL: &str = "ERERERERERERERERERERERERERERERERERERERERERE=";

/// Every kind of step.
const EVERYTHING: &str = "Address = 10.9.0.2/24, fd09::2/64\nDNS = 10.9.0.1, example.com\nPreUp = first %i\nPostUp = last\n\
                          PreDown = undo last %i\nPostDown = undo first\n";

fn config(interface: &str, allowed_ips: &str) -> Config {
    let text = format!(
        "[Interface]\nPrivateKey = {KEY}\n{interface}[Peer]\nPublicKey = {BOB}\nAllowedIPs = {allowed_ips}\n\
         Endpoint = vpn.example.com:7\n"
    );
    let reading = read(text.as_bytes(), Purpose::Tunnel { scripts: true });
    reading.map_err(|problems| panic!("{problems:?}")).unwrap().config
}

fn everything() -> Config {
    config(EVERYTHING, "0.0.0.0/0, 10.1.0.0/16")
}

/// A system without an adapter, or with one that somebody uses.
fn systems() -> [State; 2] {
    let text = format!(
        "[Interface]\nPrivateKey = {CAROL}\nListenPort = 9\n[Peer]\nPublicKey = {CAROL}\nAllowedIPs = 10.0.0.0/8\n\
         [Peer]\nPublicKey = {BOB}\nPresharedKey = {CAROL}\nEndpoint = 192.0.2.1:1\nPersistentKeepalive = 9\n"
    );
    let reading = read(text.as_bytes(), Purpose::Interface).ok().unwrap();
    let used = Adapter {
        config: reading.config,
        interface: Some(Interface { mtu: 1300, first: false }),
        up: false,
        addresses: vec!["10.9.0.2/24".to_owned()],
        dns: ctl::tunnel::system::Dns { servers: vec![], search: vec!["before".to_owned()] },
    };
    [State::default(), State { adapter: Some(used), ..State::default() }]
}

fn fake(state: State) -> Fake {
    let addresses = vec!["192.0.2.7:7".parse().unwrap()];
    Fake { state, default_mtu: Some(1500), addresses, ..Fake::default() }
}

/// The plan of a configuration, as policy has it by default.
pub(crate) fn plan(config: &Config) -> Plan {
    Plan::of("office", config, KillSwitch::DefaultRoute)
}

/// Brings it up as `name`.
fn up_as(config: &Config, system: &mut Fake) -> Result<Running, Failure> {
    up(&plan(config), config.clone(), system)
}

/// Peers in the order of their keys: a driver keeps them in none.
fn sorted(mut state: State) -> State {
    let adapter = state.adapter.iter_mut();
    adapter.for_each(|adapter| adapter.config.peers.sort_by_key(|peer| peer.public_key));
    state
}

fn said(left: &[Undone]) -> Vec<String> {
    left.iter().map(ToString::to_string).collect()
}

#[test]
fn a_tunnel_comes_up_and_goes_in_reverse() {
    let mut system = fake(State::default());
    let running = up_as(&everything(), &mut system).ok().unwrap();
    let State { adapter: Some(adapter), routes, filters } = system.state.clone() else {
        panic!("no adapter")
    };
    assert_eq!(adapter.addresses, ["10.9.0.2/24", "fd09::2/64"]);
    assert_eq!(routes.iter().collect::<Vec<_>>(), ["0.0.0.0/0", "10.1.0.0/16"]);
    assert!(adapter.up && filters.len() == 8 && adapter.dns.search == ["example.com"]);
    assert_eq!(adapter.interface, Some(Interface { mtu: LARGEST, first: true }));
    let mut wanted = everything().peers;
    wanted[0].endpoint = Some(ctl::config::Endpoint::Address("192.0.2.7:7".parse().unwrap()));
    assert!(adapter.config.peers == wanted);
    system.calls.clear();
    assert!(running.down(&mut system).is_ok());
    assert_eq!(
        system.calls,
        [
            "run undo last office",
            "no route 10.1.0.0/16",
            "no route 0.0.0.0/0",
            "down",
            "unfilter",
            "remove",
            "run undo first"
        ]
    );
    assert!(system.state == State::default());
}

/// Nothing leaves beside a tunnel whose machine goes down.
#[test]
fn filters_outlive_the_tunnel_where_the_machine_goes_down() {
    let mut system = fake(State::default());
    let running = up_as(&everything(), &mut system).ok().unwrap();
    let filters = system.state.filters.clone();
    assert!(running.down_with_the_machine(&mut system).is_ok());
    assert!(!filters.is_empty());
    assert!(system.state == State { filters, ..State::default() });
}

/// What one call fails of is told, and the rest is as if nobody had tried.
#[test]
fn whatever_fails_leaves_nothing() {
    for before in systems() {
        let mut system = fake(before.clone());
        up_as(&everything(), &mut system).ok().unwrap().down(&mut system).ok().unwrap();
        let calls = system.calls.len();
        let mut came_up = 0;
        for failing in 1..=calls {
            let mut system = fake(before.clone());
            system.failing = vec![failing];
            match up_as(&everything(), &mut system) {
                Err(failure) => {
                    let why = format!("call {failing} fails");
                    assert!(failure.to_string().contains(&why), "{failure}");
                    assert!(failure.left.is_empty(), "{failure}");
                    assert!(sorted(system.state) == sorted(before.clone()), "{failure}");
                }
                Ok(running) => {
                    came_up += 1;
                    let left = running.down(&mut system).err().unwrap();
                    assert_eq!(left.len(), 1, "{:?}", said(&left));
                    assert!(said(&left)[0].ends_with(&format!("call {failing} fails")));
                    // All the others were tried.
                    assert_eq!(system.calls.last().unwrap(), "run undo first");
                }
            }
        }
        assert!(came_up > 5 && came_up < calls / 2, "{came_up} of {calls}");
    }
}

/// A step that fails, and one of those that take the others back: both are told, and everything else is taken back.
#[test]
fn what_cannot_be_taken_back_is_told() {
    let mut system = fake(State::default());
    let mut calls = |failing: Vec<usize>| {
        system = fake(State::default());
        system.failing = failing;
        let failure = up_as(&everything(), &mut system).err().unwrap();
        (failure, system.calls.clone(), system.state.clone())
    };
    let last = fake(State::default());
    let mut counted = last;
    let _ = up_as(&everything(), &mut counted).ok().unwrap();
    let last = counted.calls.len();
    assert_eq!(counted.calls[last - 1], "run last");
    // The last step fails, and then the first thing that is taken back, which is a route.
    let (failure, made, state) = calls(vec![last, last + 1]);
    let told = failure.to_string();
    let lines: Vec<_> = told.lines().collect();
    assert_eq!(
        lines,
        [
            format!("run last: call {last} fails"),
            format!("not taken back: remove route 10.1.0.0/16: call {} fails", last + 1)
        ]
    );
    assert_eq!(
        made[last + 1..],
        ["no route 0.0.0.0/0", "down", "unfilter", "remove", "run undo first"]
    );
    assert!(state == State::default());
}

/// What is up already stays so, and what fails then leaves it.
#[test]
fn twice_is_as_once() {
    let mut system = fake(State::default());
    let first = up_as(&everything(), &mut system).ok().unwrap();
    let once = system.state.clone();
    let split = config("Address = 10.9.0.2/24\n", "10.1.0.0/16");
    let second = up_as(&split, &mut system).ok().unwrap();
    assert!(second.down(&mut system).is_ok());
    assert!(system.state == once, "what the first has is left");
    assert!(first.down(&mut system).is_ok());
    assert!(system.state == State::default());
}

/// What another process brought up is taken down by its file.
#[test]
fn a_plan_alone_takes_it_down() {
    let adapter =
        Adapter { interface: Some(Interface { mtu: LARGEST, first: false }), ..Adapter::default() };
    let before = State { adapter: Some(adapter), ..State::default() };
    let mut system = fake(before.clone());
    let plain = config(EVERYTHING, "10.1.0.0/16");
    let _ = up_as(&plain, &mut system).ok().unwrap();
    system.calls.clear();
    assert!(Running::of(&plan(&plain)).down(&mut system).is_ok());
    assert!(system.state == before);
    assert_eq!(
        (&*system.calls[0], &**system.calls.last().unwrap()),
        ("run undo last office", "run undo first")
    );
    // Once more: all of it has gone.
    assert!(Running::of(&plan(&plain)).down(&mut system).is_ok());
    assert!(system.state == before);
}

#[test]
fn the_mtu_is_what_fits_around_or_what_the_file_says() {
    for (given, around, wanted) in [
        ("", Some(1500), Ok(1420)),
        ("", Some(1400), Ok(1320)),
        ("", Some(9000), Ok(LARGEST)),
        ("", Some(100), Ok(576)),
        ("", None, Ok(LARGEST)),
        ("MTU = 1280\n", Some(1000), Ok(1280)),
        ("MTU = 1421\n", Some(1500), Err("MTU 1421: the adapter takes 1420 at most")),
    ] {
        let mut system = fake(State::default());
        system.default_mtu = around;
        let came = up_as(&config(given, "10.0.0.0/8"), &mut system);
        match (came, wanted) {
            (Ok(_), Ok(wanted)) => {
                let interface = system.state.adapter.unwrap().interface.unwrap();
                assert_eq!(interface.mtu, wanted, "{given}{around:?}");
            }
            (Err(failure), Err(said)) => {
                assert!(failure.to_string().starts_with(said), "{failure}")
            }
            _ => panic!("{given}{around:?}"),
        }
    }
}

/// A name that leads nowhere is told before anything is set; one that nothing is known of yet is left for later.
#[test]
fn a_name_that_leads_nowhere() {
    let mut system = fake(State::default());
    system.addresses = Vec::new();
    let _ = up_as(&everything(), &mut system).ok().unwrap();
    assert!(system.state.adapter.unwrap().config.peers[0].endpoint.is_none());
    let mut system = fake(State::default());
    system.failing = vec![4];
    let failure = up_as(&everything(), &mut system).err().unwrap();
    assert_eq!(
        failure.to_string(),
        "look up vpn.example.com; set keys, port and 1 peer: call 4 fails: `vpn.example.com:7'"
    );
    assert!(!system.calls.contains(&"configure".to_owned()));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever the file says, up and down together do nothing; on an adapter that is there, too.
    #[test]
    fn up_and_down_is_nothing(
        lines in subsequence(
            vec![
                "Address = 10.9.0.2/24\n", "Address = fd09::2/64\n", "DNS = 10.9.0.1\n", "MTU = 1280\n", "Table = off\n",
                "PreUp = a\n", "PostUp = b\n", "PreDown = c\n", "PostDown = d\n", "ListenPort = 7\n",
            ],
            0..=10,
        ),
        ips in subsequence(vec!["0.0.0.0/0", "::/0", "10.0.0.1/8", "10.0.0.0/8", "fd00::/8"], 1..=5),
        there in any::<bool>(),
    ) {
        let before = systems()[usize::from(there)].clone();
        let mut system = fake(before.clone());
        let config = config(&lines.concat(), &ips.join(", "));
        let running = up_as(&config, &mut system).map_err(|failure| TestCaseError::fail(failure.to_string()))?;
        prop_assert!(system.state != before);
        prop_assert!(running.down(&mut system).is_ok());
        prop_assert!(sorted(system.state) == sorted(before));
    }
}
