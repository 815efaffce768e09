//! What `doctor` says of interfaces that have every trouble it knows, and of one that has none.

#![allow(clippy::unwrap_used)] // A test stops where something is not as it should be.

use abi::discard::Discard;
use abi::ioctl::writer::{InterfaceFields, PeerFields};
use abi::ioctl::{Set, UNIX_EPOCH_FILETIME, Writer, interface_flag, peer_flag};
use abi::statistics::{self, Statistics};

use ctl::doctor::interface::{Facts, findings};
use ctl::doctor::machine::{self, Service};

mod expected;

const NOW_S: u64 = 1_800_000_000;

/// A configuration with a peer for each of these: seconds since its handshake, whether it keeps alive, and bytes sent.
fn configuration(key: &[u8; 32], peers: &[(Option<i64>, bool, u64)]) -> Vec<u8> {
    let mut buffer = vec![0; 4096];
    let interface = InterfaceFields {
        flags: interface_flag::HAS_PRIVATE_KEY | interface_flag::HAS_LISTEN_PORT,
        listen_port: 51820,
        private_key: key,
        public_key: &[0; 32],
    };
    let mut writer = Writer::new(&mut buffer, &interface);
    for (number, (ago, keeps_alive, tx_bytes)) in (1..).zip(peers) {
        let then_s = ago.map(|ago| NOW_S.checked_add_signed(-ago).unwrap());
        let flags = peer_flag::HAS_PUBLIC_KEY
            | peer_flag::HAS_ENDPOINT
            | if *keeps_alive { peer_flag::HAS_PERSISTENT_KEEPALIVE } else { 0 };
        writer.peer(&PeerFields {
            flags,
            persistent_keepalive_s: 25,
            endpoint: Some("192.0.2.1:9".parse().unwrap()),
            tx_bytes: *tx_bytes,
            last_handshake_filetime: then_s
                .map_or(0, |then_s| UNIX_EPOCH_FILETIME + then_s * 10_000_000),
            ..PeerFields::of(&[number; 32])
        });
    }
    let len = writer.len_bytes();
    buffer.truncate(len);
    buffer
}

fn said(up: bool, configuration: &[u8], now_s: u64, discarded: impl Fn(Discard) -> u64) -> String {
    let mut block = vec![0; statistics::LEN];
    statistics::write(&mut block, |_| 9000, discarded);
    let facts = Facts {
        name: "wg0",
        up,
        set: Set::parse(configuration).unwrap(),
        statistics: Statistics::parse(&block).unwrap(),
        firewall: None,
        now_s,
    };
    findings(&facts).iter().map(ToString::to_string).collect()
}

#[test]
fn nothing_is_said_of_what_is_well() {
    // One that talked, one that nobody asked, one that may be silent.
    let peers = [(Some(30), true, 9), (None, false, 0), (Some(4000), false, 9)];
    let text = said(true, &configuration(&[1; 32], &peers), NOW_S, |reason| {
        if reason == Discard::TooBig { 99 } else { 0 }
    });
    expected::expect("doctored/well.txt", &text);
    assert!(!text.contains("BAD"), "{text}");
}

#[test]
fn every_trouble_is_told_with_what_to_do() {
    let peers = [(None, true, 0), (None, false, 9), (Some(500), true, 9), (Some(-60), true, 9)];
    let mut text = said(false, &configuration(&[0; 32], &peers), NOW_S, |reason| {
        if reason == Discard::TooBig { 100 } else { 7 }
    });
    text += &said(true, &configuration(&[1; 32], &[]), 9, |_| 0);
    expected::expect("doctored/troubled.txt", &text);
}

#[test]
fn windows_is_looked_at() {
    let text = |driver, filtering, start_options: &str| -> String {
        let signature = match driver {
            Service::Running => Some(Ok(())),
            Service::Stopped => Some(Err("nobody signed it\n".to_owned())),
            Service::Absent => None,
        };
        let start_options = start_options.to_owned();
        let facts = machine::Facts { driver, signature, filtering, start_options };
        machine::findings(&facts).iter().map(ToString::to_string).collect()
    };
    let all = [
        text(Service::Running, Service::Running, " NOEXECUTE=OPTIN  FVEBOOT=1 NOVGA"),
        text(Service::Stopped, Service::Stopped, " TESTSIGNING NOEXECUTE=OPTIN"),
        text(Service::Absent, Service::Absent, "NOTESTSIGNING"),
        format!("{}{}{}", machine::simulated(0), machine::simulated(1), machine::simulated(2)),
    ];
    expected::expect("doctored/machine.txt", &all.join("--\n"));
}
