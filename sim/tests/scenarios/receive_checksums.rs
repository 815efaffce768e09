//! What the driver says of the checksums of packets that it hands over: what is so, if anybody wants to know.
//!
//! ```text
//!   alpha ── right, wrong, in fragments, without ──► beta: valid, invalid, not checked; and all of it arrives as it was
//! ```
//!
//! Under the verifier every other scenario looks as well: who says that a checksum is right, or wrong, has added it up.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use abi::policy::Policy;
use sim::host::memory::pair::{Pair, Station};
use sim::nt::machine::Options;
use sim::nt::netcx::segmentation::cut;

use crate::machines::{self, PATIENCE, with_pair_of};

const NOT_CHECKED: u8 = 0;
const VALID: u8 = 1;
const INVALID: u8 = 2;

/// A machine whose adapter may tell, or may not.
fn granted(granted: bool, policy: &[(Policy, u32)]) -> Options {
    let mut options = machines::with_policies(policy);
    options.choices.insert("RX_CHECKSUM_IS_GRANTED".to_owned(), granted);
    options
}

/// A packet, and what is to be said of its IPv4 header and of its transport.
struct Case {
    what: &'static str,
    packet: Vec<u8>,
    found: [u8; 2],
}

/// TCP or UDP with checksums that are right.
fn right(from: IpAddr, to: IpAddr, tcp: bool) -> Vec<u8> {
    let (transport, protocol) = if tcp { (20, 6) } else { (8, 17) };
    let mut packet = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let ip = vec![0x45, 0, 0, 0, 0, 9, 0, 0, 64, protocol, 0, 0];
            [ip, from.octets().into(), to.octets().into()].concat()
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let ip = vec![0x60, 0, 0, 0, 0, 0, protocol, 64];
            [ip, from.octets().into(), to.octets().into()].concat()
        }
        _ => unreachable!("of one family"),
    };
    packet.extend([0x30, 0x39, 0, 80, 0, 0, 0, 1]);
    packet.resize(packet.len() + transport - 8, 0);
    if tcp {
        let at = packet.len() - 8;
        packet[at] = 0x50;
    }
    packet.extend((0..301).map(|n| ((n * 31) >> 4) as u8));
    let whole = cut(&packet, 1000).unwrap();
    assert_eq!(whole.len(), 1);
    whole.into_iter().next().unwrap()
}

/// The same with a change, and the IPv4 header's checksum made right again.
fn changed(packet: &[u8], change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut packet = packet.to_vec();
    change(&mut packet);
    if packet[0] == 0x45 {
        packet[10..12].fill(0);
        let words = packet[..20].chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]));
        let sum: u32 = words.sum();
        let sum = (sum & 0xFFFF) + (sum >> 16);
        let sum = (sum & 0xFFFF) + (sum >> 16);
        packet[10..12].copy_from_slice(&(!sum as u16).to_be_bytes());
    }
    packet
}

fn cases(pair: &Pair) -> Vec<Case> {
    let mut cases = Vec::new();
    for (from, to) in pair.alpha.inner().into_iter().zip(pair.beta.inner()) {
        let (ip, header) = if from.is_ipv4() { (VALID, 20) } else { (NOT_CHECKED, 40) };
        for tcp in [true, false] {
            let packet = right(from, to, tcp);
            let mut case = |what, packet, found| cases.push(Case { what, packet, found });
            case("right", packet.clone(), [ip, VALID]);
            let wrong = changed(&packet, |packet| *packet.last_mut().unwrap() ^= 0x40);
            case("wrong payload", wrong, [ip, INVALID]);
            let wrong = changed(&packet, |packet| packet[header + 1] ^= 1);
            case("wrong port", wrong, [ip, INVALID]);
            if !tcp {
                let none = changed(&packet, |packet| packet[header + 6..header + 8].fill(0));
                case("without", none, [ip, NOT_CHECKED]);
            }
            if from.is_ipv4() {
                let part = changed(&packet, |packet| packet[6] = 0x20);
                case("a fragment", part, [VALID, NOT_CHECKED]);
                let mut wrong = packet.clone();
                wrong[10] ^= 1;
                case("wrong header", wrong, [INVALID, NOT_CHECKED]);
            }
        }
    }
    cases
}

/// What is said of each packet that `station` gets from now on; the packets are kept.
fn listen(station: &Station) -> Arc<Mutex<Vec<u8>>> {
    station.endpoint().keep_packets(true);
    let (told, endpoint) = (Arc::new(Mutex::new(Vec::new())), station.endpoint().clone());
    let tells = told.clone();
    station.tunnel().adapter().on_receive(move |packets| {
        for packet in packets.iter() {
            tells.lock().unwrap().push(packet.checksum());
            endpoint.deliver(packet.pieces().flatten().copied().collect());
        }
    });
    told
}

/// Sends every case; what is found is as `expected` says of the case. All arrive as they were sent.
fn all_arrive(pair: &Pair, why: &str, expected: impl Fn(&Case) -> [u8; 2]) {
    let told = listen(&pair.beta);
    for case in cases(pair) {
        let what = format!("{why}: {} {:02x?}", case.what, &case.packet[..10]);
        let machine = pair.alpha.computer().machine();
        pair.alpha.tunnel().adapter().send(machine, &case.packet).unwrap();
        let packet = pair.beta.endpoint().take_packet(PATIENCE);
        assert_eq!(packet.as_ref(), Some(&case.packet), "{what}");
        let told = std::mem::take(&mut *told.lock().unwrap());
        let [ip, transport] = expected(&case);
        assert_eq!(told, [ip << 2 | transport << 4], "{what}");
    }
}

#[test]
fn what_is_said_is_what_was_found() {
    for (seed, fast) in [(1, 1), (2, 0)] {
        with_pair_of(seed, &granted(true, &[(Policy::FastPath, fast)]), |pair| {
            machines::ping(&pair.alpha, &pair.beta);
            all_arrive(pair, "granted", |case| case.found);
        });
    }
}

#[test]
fn nothing_is_said_where_it_is_not_granted_or_not_wanted() {
    let silent = [
        ("not granted", granted(false, &[])),
        ("policy", granted(true, &[(Policy::ReceiveChecksum, 0)])),
    ];
    for (why, options) in silent {
        with_pair_of(3, &options, |pair| {
            machines::ping(&pair.alpha, &pair.beta);
            all_arrive(pair, why, |_| [NOT_CHECKED; 2]);
        });
    }
}

#[test]
fn an_administrator_chooses_what_is_looked_at() {
    with_pair_of(4, &granted(true, &[]), |pair| {
        machines::ping(&pair.alpha, &pair.beta);
        for number in 0..8 {
            let [ipv4, tcp, udp] = [1, 2, 4].map(|bit| number & bit != 0);
            let (machine, adapter) = (pair.beta.computer().machine(), pair.beta.tunnel().adapter());
            adapter.set_rx_checksum(machine, [ipv4, tcp, udp]).unwrap();
            all_arrive(pair, &format!("{number:03b}"), |case| {
                let [ip, transport] = case.found;
                let protocol = if case.packet[0] == 0x45 { case.packet[9] } else { case.packet[6] };
                let wanted = if protocol == 6 { tcp } else { udp };
                // Behind a header that nobody found wrong, the transport is looked at.
                let behind = case.what == "wrong header" && !ipv4;
                let transport = if behind { VALID } else { transport };
                let said = |wanted: bool, found| if wanted { found } else { NOT_CHECKED };
                [said(ipv4, ip), said(wanted, transport)]
            });
        }
        // Policy is one for all, and at once.
        pair.beta.tunnel().set_policy(&[(Policy::ReceiveChecksum, Some(0))]).unwrap();
        all_arrive(pair, "policy", |_| [NOT_CHECKED; 2]);
    });
}
