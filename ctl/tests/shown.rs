//! What is shown of an interface that has something of everything. The texts of `wg` are compared with itself in
//! `beside_wg.rs`; here stand those that a running driver does not have at will: times, sizes, secrets.

#![allow(clippy::unwrap_used)] // A test stops where something is not as it should be.

use abi::discard::Discard;
use abi::ioctl::writer::{InterfaceFields, PeerFields};
use abi::ioctl::{AllowedIp, Set, UNIX_EPOCH_FILETIME, Writer, interface_flag, peer_flag};
use abi::statistics::{self, Counter, Kind, Statistics};

use ctl::key::PublicKey;
use ctl::show::fields::{self, Field};
use ctl::show::person::{self, Manner};
use ctl::show::style::Style;
use ctl::show::{Shown, json, prometheus};

mod expected;

use expected::expect;

const PLAIN: Style = Style { colours: false };
const NOW_S: u64 = 2_000_000;

fn everything() -> Vec<u8> {
    let mut buffer = vec![0; 4096];
    let interface = InterfaceFields {
        flags: interface_flag::HAS_PRIVATE_KEY
            | interface_flag::HAS_PUBLIC_KEY
            | interface_flag::HAS_LISTEN_PORT,
        listen_port: 51820,
        private_key: &[0x11; 32],
        public_key: &[0x22; 32],
    };
    let mut writer = Writer::new(&mut buffer, &interface);
    writer.peer(&PeerFields::of(&[0x33; 32]));
    let flags = peer_flag::HAS_PUBLIC_KEY
        | peer_flag::HAS_PRESHARED_KEY
        | peer_flag::HAS_ENDPOINT
        | peer_flag::HAS_PERSISTENT_KEEPALIVE;
    writer.peer(&PeerFields {
        flags,
        preshared_key: &[0x55; 32],
        persistent_keepalive_s: 65,
        endpoint: Some("[2001:db8::1]:9".parse().unwrap()),
        tx_bytes: 1536,
        rx_bytes: 1000 << 20,
        last_handshake_filetime: UNIX_EPOCH_FILETIME + (NOW_S - 3701) * 10_000_000 + 5,
        ..PeerFields::of(&[0x44; 32])
    });
    for (address, cidr) in [("10.0.0.0", 8), ("fd00::", 8)] {
        writer.allowed_ip(&AllowedIp { address: address.parse().unwrap(), cidr, remove: false });
    }
    let len = writer.len_bytes();
    buffer.truncate(len);
    buffer
}

fn counted() -> Vec<u8> {
    let mut block = vec![0; statistics::LEN];
    let counter = |row| match row {
        Counter::PacketsOut => 12,
        Counter::DatagramsOut => 7,
        _ => 0,
    };
    statistics::write(&mut block, counter, |row| if row == Discard::NoPeer { 3 } else { 0 });
    block
}

fn shown(answer: &[u8]) -> Shown<'_> {
    Shown { name: "wg0", set: Set::parse(answer).unwrap(), statistics: None }
}

fn for_a_person(shown: &Shown<'_>, style: Style, shows_secrets: bool) -> String {
    let mut text = shown.room();
    let room = text.capacity();
    person::write(&mut text, shown, &Manner { style, shows_secrets, now_s: NOW_S });
    assert_eq!(text.capacity(), room, "no copy is left behind");
    text.to_string()
}

#[test]
fn a_person_reads_what_wg_prints() {
    let answer = everything();
    let text = for_a_person(&shown(&answer), PLAIN, false);
    expect("shown/person.txt", &text);
    let text = for_a_person(&shown(&answer), PLAIN, true);
    assert!(
        text.contains("  private key: ERERER") && text.contains("  preshared key: VVVV"),
        "{text}"
    );
    let text = for_a_person(&shown(&answer), Style { colours: true }, false);
    expect("shown/colours.txt", &text);
}

#[test]
fn a_script_reads_fields() {
    let answer = everything();
    let mut all = String::new();
    for (field, several) in [
        (Field::PublicKey, false),
        (Field::PrivateKey, true),
        (Field::ListenPort, false),
        (Field::Fwmark, true),
        (Field::Peers, false),
        (Field::PresharedKeys, false),
        (Field::Endpoints, true),
        (Field::AllowedIps, false),
        (Field::LatestHandshakes, false),
        (Field::Transfer, false),
        (Field::PersistentKeepalive, false),
        (Field::Dump, false),
        (Field::Dump, true),
    ] {
        let shown = shown(&answer);
        let mut text = shown.room();
        fields::write(&mut text, &shown, field, several);
        all += &format!("{field:?}\n{}", *text);
    }
    expect("shown/fields.txt", &all);
}

#[test]
fn what_was_counted_follows() {
    let (answer, block) = (everything(), counted());
    let shown = Shown { statistics: Statistics::parse(&block), ..shown(&answer) };
    let text = for_a_person(&shown, PLAIN, false);
    let (_, text) = text.split_once("\n\nstatistics\n").unwrap();
    expect("shown/statistics.txt", text);
}

#[test]
fn json_has_secrets_only_if_they_are_asked_for() {
    let (answer, block) = (everything(), counted());
    let text = serde_json::to_string_pretty(&json::interface(&shown(&answer), false)).unwrap();
    expect("shown/json.txt", &(text + "\n"));
    let shown = Shown { statistics: Statistics::parse(&block), ..shown(&answer) };
    let value = json::interface(&shown, true);
    assert_eq!(value["privateKey"], "ERERERERERERERERERERERERERERERERERERERERERE=");
    assert_eq!(value["statistics"]["discards"]["NoPeer"], 3);
    assert_eq!(value["statistics"]["waiting"], 2);
}

#[test]
fn prometheus_has_numbers_and_no_secrets() {
    let (answer, mut block) = (everything(), counted());
    let counter = |row| if row == Counter::LongestAtDispatch100ns { 15 } else { 12 };
    statistics::write(&mut block, counter, |row| if row == Discard::NoPeer { 3 } else { 0 });
    let with = Shown { statistics: Statistics::parse(&block), ..shown(&answer) };
    let text = prometheus::write(&[with, Shown { name: "other", ..shown(&answer) }]);
    let key = PublicKey([0x44; 32]);
    for line in [
        "# TYPE penstock_packets_out_total counter",
        "penstock_packets_out_total{interface=\"wg0\"} 12",
        "# TYPE penstock_longest_at_dispatch_seconds gauge",
        "penstock_longest_at_dispatch_seconds{interface=\"wg0\"} 0.0000015",
        "penstock_discarded_packets_total{interface=\"wg0\",direction=\"outbound\",reason=\"NoPeer\"} 3",
        &format!("penstock_peer_sent_bytes_total{{interface=\"wg0\",public_key=\"{key}\"}} 1536"),
        &format!(
            "penstock_peer_latest_handshake_seconds{{interface=\"other\",public_key=\"{key}\"}} 1996299"
        ),
    ] {
        assert!(text.lines().any(|other| other == line), "no {line} in\n{text}");
    }
    let headings: Vec<&str> = text.lines().filter(|line| line.starts_with("# TYPE")).collect();
    let names: std::collections::BTreeSet<&&str> = headings.iter().collect();
    assert_eq!(names.len(), headings.len(), "a heading comes twice");
    // Neither the private key nor the preshared one.
    for secret in [[0x11; 32], [0x55; 32]] {
        let secret = PublicKey(secret).to_string();
        assert!(!text.contains(&secret), "{text}");
    }
}

#[test]
fn what_cpus_and_queues_counted_is_shown_in_each_way() {
    let answer = everything();
    let mut block = vec![0; statistics::LEN + 1000];
    let mut len = statistics::write(&mut block, |_| 0, |_| 0).unwrap();
    for (kind, number, words) in [
        (Kind::Cpu, 9, &[1, 2, 3, 4, 5, 60, 70, 8][..]),
        (Kind::ReceiveQueue, 1, &[10, 20, 0, 30]),
        (Kind::TransmitQueue, 0, &[0; 4]),
    ] {
        len = statistics::write_part(&mut block, len, kind, number, words);
    }
    let shown = Shown { statistics: Statistics::parse(&block[..len]), ..shown(&answer) };
    let text = for_a_person(&shown, PLAIN, false);
    let cpu = "CPU 9: Chunks 1, PacketsSealed 2, PacketsOpened 3, PacketsIn 4, BytesIn 5, LongestAtDispatch100ns 60, LongestDpc100ns 70";
    for line in [cpu, "receive queue 1: Packets 10, Bytes 20, MostWaiting 30"] {
        assert!(text.lines().any(|other| other == line), "no {line} in\n{text}");
    }
    assert!(!text.contains("transmit queue 0"), "it counted nothing\n{text}");
    let value = json::interface(&shown, false);
    let parts = &value["statistics"]["parts"];
    assert_eq!(
        (&parts["CPU 9"]["BytesIn"], &parts["receive queue 1"]["MostWaiting"]),
        (&5.into(), &30.into())
    );
    let text = prometheus::write(&[shown]);
    for line in [
        "penstock_cpu_packets_sealed_total{interface=\"wg0\",cpu=\"9\"} 2",
        "penstock_cpu_longest_dpc_seconds{interface=\"wg0\",cpu=\"9\"} 0.000007",
        "penstock_queue_packets_total{interface=\"wg0\",direction=\"receive\",queue=\"1\"} 10",
        "penstock_queue_most_waiting{interface=\"wg0\",direction=\"transmit\",queue=\"0\"} 0",
    ] {
        assert!(text.lines().any(|other| other == line), "no {line} in\n{text}");
    }
}

#[test]
fn times_and_sizes() {
    for (seconds, said) in [
        (1, "1 second ago"),
        (0, "Now"),
        (59, "59 seconds ago"),
        (60, "1 minute ago"),
        (3_661, "1 hour, 1 minute, 1 second ago"),
        (2 * 86_400, "2 days ago"),
        (366 * 86_400 + 1, "1 year, 1 day, 1 second ago"),
    ] {
        assert_eq!(PLAIN.ago(7, 7 + seconds).to_string(), said);
    }
    let later = PLAIN.ago(8, 7).to_string();
    assert_eq!(later, "(System clock wound backward; connection problems may ensue.)");
    for (bytes, said) in [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.00 KiB"),
        ((1 << 20) - 1, "1024.00 KiB"),
        (1 << 30, "1.00 GiB"),
        (3 << 39, "1.50 TiB"),
        (u64::MAX, "16777216.00 TiB"),
    ] {
        assert_eq!(PLAIN.bytes(bytes).to_string(), said);
    }
}
