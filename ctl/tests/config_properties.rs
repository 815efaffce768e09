//! Configurations that are drawn read back as they were; bytes that are drawn, and those that fuzzing found worth keeping
//! (`ctl/fuzz` finds more), are taken or refused, and no more.

#![allow(clippy::unwrap_used)] // A test stops where something is not as it should be.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use ctl::config::print::print;
use ctl::config::read::{Purpose, read};
use ctl::config::{Config, Endpoint, Interface, Peer, Prefix, Table, Tunnel};
use ctl::key::{PublicKey, SecretKey};
use ctl::policy::tunnel::tunnel_of;
use proptest::collection::{hash_map, vec};
use proptest::option;
use proptest::prelude::*;

#[path = "../fuzz/src/config_file.rs"]
mod config_file;
#[path = "../fuzz/src/text_protocol.rs"]
mod text_protocol;

#[test]
fn requests_of_the_corpus() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/text_protocol");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).expect("it is in the repository") {
        let path = entry.expect("a readable folder").path();
        println!("{}", path.display());
        text_protocol::run(&std::fs::read(&path).expect("a readable file"));
        count += 1;
    }
    assert!(count >= 100, "only {count} requests");
}

#[test]
fn files_of_the_corpus() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut count = 0;
    for part in ["fuzz/corpus/config_file", "tests/files/good", "tests/files/bad"] {
        for entry in std::fs::read_dir(folder.join(part)).expect("it is in the repository") {
            let path = entry.expect("a readable folder").path();
            println!("{}", path.display());
            config_file::run(&std::fs::read(&path).expect("a readable file"));
            count += 1;
        }
    }
    assert!(count >= 80, "only {count} files");
}

fn prefix() -> impl Strategy<Value = Prefix> {
    let address = prop_oneof![
        (any::<[u8; 4]>().prop_map(IpAddr::from), 0..=32_u8),
        (any::<[u8; 16]>().prop_map(IpAddr::from), 0..=128_u8),
    ];
    address.prop_map(|(address, length)| Prefix { address, length })
}

fn endpoint() -> impl Strategy<Value = Endpoint> {
    let address = (any::<IpAddr>(), 1..=u16::MAX);
    prop_oneof![
        address.prop_map(|(ip, port)| Endpoint::Address(SocketAddr::new(ip, port))),
        ("[a-z]([a-zA-Z0-9_-]{0,20}[.]){0,3}[a-z][a-z0-9]{0,9}[.]?", 1..=u16::MAX)
            .prop_filter("no empty part", |(name, _)| !name.contains(".."))
            .prop_map(|(name, port)| Endpoint::Host(name, port)),
    ]
}

fn tunnel() -> impl Strategy<Value = Tunnel> {
    let table =
        prop_oneof![Just(Table::Off), Just(Table::Auto), any::<u32>().prop_map(Table::Number)];
    let command = "[^#\\p{C}\\s]([^#\\p{C}]{0,20}[^#\\p{C}\\s])?";
    (
        (vec(prefix(), 0..4), vec(any::<IpAddr>(), 0..3), vec("[a-z]{1,9}[.][a-z]{1,9}", 0..3)),
        option::of(576..=u16::MAX),
        option::of(table),
        [vec(command, 0..2), vec(command, 0..2), vec(command, 0..2), vec(command, 0..3)],
    )
        .prop_map(|((addresses, dns, search), mtu, table, scripts)| Tunnel {
            addresses,
            dns,
            search,
            mtu,
            table,
            scripts,
        })
}

/// A configuration, shown by what it prints: secrets have no `Debug`.
#[derive(Clone)]
struct Printed(Config);

impl std::fmt::Debug for Printed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&print(&self.0))
    }
}

fn secret() -> impl Strategy<Value = Option<[u8; 32]>> {
    option::of(any::<[u8; 32]>())
}

fn config() -> impl Strategy<Value = Printed> {
    let interface = (secret(), option::of(any::<u16>()), option::of(any::<u32>()), tunnel());
    let peer = (secret(), vec(prefix(), 0..5), option::of(endpoint()), option::of(any::<u16>()));
    (interface, hash_map(any::<[u8; 32]>(), peer, 0..5)).prop_map(|(interface, peers)| {
        let (private_key, listen_port, fw_mark, tunnel) = interface;
        let peers = peers.into_iter().map(|(key, peer)| {
            let (preshared_key, allowed_ips, endpoint, persistent_keepalive) = peer;
            let public_key = PublicKey(key);
            let preshared_key = preshared_key.map(|key| SecretKey::of(&key));
            Peer { public_key, preshared_key, allowed_ips, endpoint, persistent_keepalive }
        });
        let private_key = private_key.map(|key| SecretKey::of(&key));
        let interface = Interface { private_key, listen_port, fw_mark, tunnel };
        Printed(Config { interface, peers: peers.collect() })
    })
}

proptest! {
    #[test]
    fn what_is_printed_reads_back(config in config()) {
        let text = print(&config.0);
        let reading = read(text.as_bytes(), Purpose::Tunnel { scripts: true });
        let reading = reading.map_err(|problems| TestCaseError::fail(format!("{problems:?}")))?;
        prop_assert!(reading.config == config.0);
    }

    /// A tunnel by policy is what a file would give, without its secrets and commands, whatever else it says.
    #[test]
    fn a_tunnel_by_policy_is_what_a_file_would_give(config in config()) {
        let mut config = config.0;
        config.interface.private_key = None;
        config.interface.tunnel.scripts = Default::default();
        config.peers.iter_mut().for_each(|peer| peer.preshared_key = None);
        let file = print(&config);
        let settings: Vec<_> = file.lines().filter(|line| !line.starts_with('[')).collect();
        match tunnel_of("office", &settings.join(";")) {
            Ok(read) => prop_assert!(read == config),
            Err(why) => prop_assert!(config.peers.is_empty(), "{why}"),
        }
    }

    /// Whatever a policy says, no secret comes of it.
    #[test]
    fn no_policy_gives_a_secret(
        settings in vec(
            prop_oneof![
                4 => "(PublicKey|PrivateKey|presharedkey| PrivateKey ) ?= ?A{43}=",
                2 => "(\\[Peer\\]|MTU = 1400|Address = 10.0.0.1)?(\n|\r|\u{2028}|#)?PrivateKey = A{43}=",
                1 => "[ =;#\n\r\u{2028}A-Za-z]{0,9}",
            ],
            0..4,
        ),
    ) {
        if let Ok(config) = tunnel_of("office", &settings.join(";")) {
            prop_assert!(config.interface.private_key.is_none());
            prop_assert!(config.peers.iter().all(|peer| peer.preshared_key.is_none()));
        }
    }

    #[test]
    fn any_bytes_are_taken_or_refused(bytes in vec(any::<u8>(), 0..300)) {
        config_file::run(&bytes);
    }

    #[test]
    fn near_misses_are_taken_or_refused(
        lines in vec((
            "(\\[Interface\\]|\\[peer\\]|PrivateKey|PublicKey|AllowedIPs|Address|DNS|Endpoint|MTU|FwMark|PostUp|SaveConfig|x)",
            " ?=? ?",
            "[ =#,.:/\\[\\]%a-f0-9+é-]{0,50}",
        ), 0..12),
    ) {
        let lines = lines.iter().map(|(key, equals, value)| format!("{key}{equals}{value}\n"));
        config_file::run(lines.collect::<String>().as_bytes());
    }
}
