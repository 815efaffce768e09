//! `penstock up` and `down` before `penstock.sys`: two simulated drivers, each in a network namespace that the test makes, and a cable.
//!
//! ```text
//!   penstock up FILE ── ip, IOCTLs ── penstock-sim up NAME ──cable── penstock-sim up NAME ── penstock up FILE
//! ```
//!
//! Needs, with what [`sides`] does: `wg` and `ping`.

#![allow(clippy::unwrap_used)] // A test stops where something is not as it should be.

use std::fs;

mod sides;
mod simulated;

use sides::{Side, Sides, errors};
use simulated::PENSTOCK;

impl Side<'_> {
    /// Addresses, routes, state, keys and peers. What the kernel gives every interface that is up is not among them.
    fn state(&self) -> String {
        let name = &self.tunnel.name;
        let addresses = self.says(&format!("ip -oneline addr show dev {name} scope global"));
        let routes = self.says("ip -4 route") + &self.says("ip -6 route");
        let routes: Vec<_> = routes.lines().filter(|line| !line.contains("fe80::")).collect();
        let is_up = self.says(&format!("ip -oneline link show dev {name}")).contains(",UP,");
        let dump = self.says(&format!("wg show {name} dump"));
        format!("{addresses}{}\nup: {is_up}\n{dump}", routes.join("\n"))
    }

    fn mtu(&self) -> String {
        let link = self.says(&format!("ip -oneline link show dev {}", self.tunnel.name));
        link.split(" mtu ").nth(1).unwrap().split(' ').next().unwrap().to_owned()
    }
}

#[test]
fn a_tunnel_comes_up_carries_packets_and_leaves_nothing() {
    let sides = Sides::new();
    let (a, b) = (sides.tunnel(0), sides.tunnel(1));
    let before = [a.state(), b.state()];
    let log = sides.folder.join("log");
    let scripts = format!(
        "PostUp = echo up %i >> {0}\nPostDown = echo down $WIREGUARD_TUNNEL_NAME >> {0}\n",
        log.display()
    );
    let of_a = a.file(
        1,
        &format!("Address = 10.78.0.1/24, fd78::1/64\n{scripts}"),
        "10.78.0.0/24, 10.80.0.0/16, fd78::/64, fd80::/64",
    );
    let of_b =
        b.file(2, "Address = 10.78.0.2/24, fd78::2/64\nMTU = 1300\n", "10.78.0.1/32, fd78::1/128");
    a.penstock(&["up", "--scripts", &of_a]);
    b.penstock(&["up", &of_b]);
    assert_eq!((&*a.mtu(), &*b.mtu()), ("1320", "1300"));
    for address in ["10.78.0.2", "fd78::2"] {
        a.says(&format!("ping -c 3 -i 0.2 -W 5 -w 20 {address}"));
    }
    // Twice is as once, and whoever is connected stays so.
    let up = a.state();
    assert!(up.contains("10.80.0.0/16 dev") && up.contains("fd80::/64 dev"), "{up}");
    a.penstock(&["up", "--scripts", &of_a]);
    let handshake = |state: &str| state.split('\t').nth(8).map(str::to_owned);
    assert_eq!(handshake(&a.state()), handshake(&up));
    a.says("ping -c 1 -W 5 10.78.0.2");
    // By the file, and by what is there.
    a.penstock(&["down", "--scripts", &of_a]);
    b.penstock(&["down", &b.tunnel.name]);
    assert_eq!([a.state(), b.state()], before);
    a.penstock(&["down", &a.tunnel.name]);
    let name = &a.tunnel.name;
    let log = fs::read_to_string(log).unwrap();
    assert_eq!(log, format!("up {name}\nup {name}\ndown {name}\n"));
    a.fails_without_a_trace();
}

impl Side<'_> {
    /// Steps that fail in the middle: an address that is none of a host's, and a route that goes elsewhere.
    fn fails_without_a_trace(&self) {
        let before = (self.state(), self.mtu());
        for (addresses, ips, said) in [
            ("10.78.0.1/24, ff02::1/64", "10.80.0.0/16", "address ff02::1/64: "),
            (
                "10.78.0.1/24, fd78::1/64",
                "10.80.0.0/16, 10.77.0.0/24, fd80::/64",
                "route 10.77.0.0/24: ",
            ),
        ] {
            let file = self.file(1, &format!("Address = {addresses}\n"), ips);
            let ended = self.inside(PENSTOCK, &["up", &file]);
            let told = errors(&ended);
            assert!(!ended.status.success() && told.contains(said), "{told}");
            assert!(!told.contains("not taken back"), "{told}");
            assert_eq!((self.state(), self.mtu()), before);
        }
    }
}
