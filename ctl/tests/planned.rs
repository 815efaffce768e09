//! What `up --dry-run` says of each kind of file: the order of steps, and how they are undone.

#![allow(clippy::unwrap_used)] // A test stops where something is not as it should be.

use ctl::config::read::{Purpose, read};
use ctl::policy::KillSwitch;
use ctl::tunnel::{Plan, Step};

mod expected;

const KEY: &str = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=";
const BOB: &str = "IiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiI=";
const CAROL: &str = "ERERERERERERERERERERERERERERERERERERERERERE=";

fn plan(text: &str) -> Plan {
    plan_by(text, KillSwitch::DefaultRoute)
}

fn plan_by(text: &str, kill_switch: KillSwitch) -> Plan {
    let reading = read(text.as_bytes(), Purpose::Tunnel { scripts: true });
    let config = reading.map_err(|problems| panic!("{problems:?}")).unwrap().config;
    Plan::of("office", &config, kill_switch)
}

#[test]
fn plans_of_files() {
    let interface = format!("[Interface]\nPrivateKey = {KEY}\nAddress = 10.9.0.2/24, fd09::2/64\n");
    let peer = |ips: &str| format!("[Peer]\nPublicKey = {BOB}\nAllowedIPs = {ips}\n");
    for (name, text) in [
        ("split", interface.clone() + &peer("10.0.0.1/8, 10.0.0.0/8, fd00::/8")),
        (
            "everything-through",
            format!(
                "{interface}DNS = 10.9.0.1, fd09::1, example.com\nMTU = 1280\n{}Endpoint = vpn.example.com:51820\n",
                peer("0.0.0.0/0")
            ),
        ),
        ("halves", interface.clone() + &peer("0.0.0.0/1, 128.0.0.0/1")),
        ("no-routes", format!("{interface}Table = off\n{}", peer("0.0.0.0/0, ::/0"))),
        (
            "scripts",
            format!(
                "{interface}PreUp = a\nPreUp = b\nPostUp = c\nPreDown = d\nPostDown = e\n{}[Peer]\nPublicKey = {CAROL}\n",
                peer("10.0.0.0/8")
            ),
        ),
    ] {
        expected::expect(&format!("planned/{name}.txt"), &plan(&text).to_string());
    }
}

/// Whatever a file says: the filters are there before the sockets and every route, and go after them.
#[test]
fn nothing_leaves_beside_a_tunnel_that_takes_everything() {
    let text = format!(
        "[Interface]\nPrivateKey = {KEY}\nAddress = 10.9.0.2/24\n[Peer]\nPublicKey = {BOB}\nAllowedIPs = ::/0, 10.0.0.0/8\n"
    );
    let steps = plan(&text).steps;
    let at = |is: &dyn Fn(&Step) -> bool| steps.iter().position(is).unwrap();
    let filters = at(&|step| matches!(step, Step::KillSwitch(_)));
    assert!(filters < at(&|step| matches!(step, Step::Up)));
    assert!(filters < at(&|step| matches!(step, Step::Route(_))));
    assert!(at(&|step| matches!(step, Step::Adapter(_))) < filters);
}

/// Policy may want filters for every tunnel, or for none; which interface comes first is the routes' to say.
#[test]
fn policy_says_when_there_is_a_kill_switch() {
    let text = |ips: &str| {
        format!("[Interface]\nPrivateKey = {KEY}\n[Peer]\nPublicKey = {BOB}\nAllowedIPs = {ips}\n")
    };
    for (ips, is_first) in [("10.0.0.0/8", false), ("0.0.0.0/0", true)] {
        for (kill_switch, filters) in [
            (KillSwitch::Never, false),
            (KillSwitch::DefaultRoute, is_first),
            (KillSwitch::Always, true),
        ] {
            let steps = plan_by(&text(ips), kill_switch).steps;
            assert_eq!(steps.iter().any(|step| matches!(step, Step::KillSwitch(_))), filters);
            let interface = Step::Interface { mtu: None, first: is_first };
            assert!(steps.contains(&interface), "{ips} {kill_switch:?}");
        }
    }
}
