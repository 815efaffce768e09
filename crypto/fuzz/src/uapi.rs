//! The text of `set=1`: read, written again as it says, and as the buffer of the IOCTL.

use std::fmt::Write as _;

use abi::ioctl::Set;
use sim::host::uapi::{
    request::{Key, SetParser, SetRequest},
    translate::{configuration_text, set_buffer},
};

/// Reads `input` as a request.
///
/// # Panics
///
/// If a request, its text and its buffer do not say the same, or if a refusal tells a key.
pub(crate) fn run(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let Some(request) = parse(&text) else { return };
    let again = written(&request);
    assert_eq!(parse(&again).as_ref(), Some(&request), "written and read:\n{again}");
    let Some(buffer) = set_buffer(&request) else { return };
    let set = Set::parse(&buffer).expect("what a request says is a configuration");
    assert_eq!(set.len_bytes(), buffer.len());
    assert_eq!(
        (set.private_key(), set.listen_port()),
        (request.private_key.as_deref(), request.listen_port)
    );
    assert_eq!(set.replaces_peers(), request.replace_peers);
    assert_eq!(set.peer_count() as usize, request.peers.len());
    for (peer, asked) in set.peers().zip(&request.peers) {
        assert_eq!(*peer.public_key(), asked.public_key);
        assert_eq!((peer.removes(), peer.updates_only()), (asked.remove, asked.update_only));
        assert_eq!(peer.preshared_key(), asked.preshared_key.as_deref());
        assert_eq!(peer.endpoint(), asked.endpoint);
        assert_eq!(peer.persistent_keepalive_s(), asked.persistent_keepalive);
        assert_eq!(peer.replaces_allowed_ips(), asked.replace_allowed_ips);
        let got = peer.allowed_ips().map(|ip| (ip.address, ip.cidr, ip.remove));
        assert!(got.eq(asked.allowed_ips.iter().map(|ip| (ip.address, ip.cidr, ip.remove))));
    }
    assert!(configuration_text(&buffer, 0).is_some());
}

fn parse(text: &str) -> Option<SetRequest> {
    let mut parser = SetParser::default();
    for line in text.lines() {
        if let Err(refusal) = parser.line(line) {
            let value = line.split_once('=').map_or("", |(_, value)| value);
            let is_key = value.len() > 40 && value.bytes().all(|byte| byte.is_ascii_hexdigit());
            assert!(!is_key || !refusal.reason.contains(value), "a refusal tells a key");
            return None;
        }
    }
    Some(parser.finish())
}

/// The request as `wg` would write it.
fn written(request: &SetRequest) -> String {
    let mut text = String::new();
    let hex = |key: &Key| key.iter().fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"));
    let mut line = |key: &str, value: &dyn std::fmt::Display| {
        let _ = writeln!(text, "{key}={value}");
    };
    request.private_key.iter().for_each(|key| line("private_key", &hex(key)));
    request.listen_port.iter().for_each(|port| line("listen_port", port));
    request.fwmark.iter().for_each(|mark| line("fwmark", mark));
    if request.replace_peers {
        line("replace_peers", &true);
    }
    for peer in &request.peers {
        line("public_key", &hex(&peer.public_key));
        for (key, _) in [
            ("remove", peer.remove),
            ("update_only", peer.update_only),
            ("replace_allowed_ips", peer.replace_allowed_ips),
        ]
        .iter()
        .filter(|(_, given)| *given)
        {
            line(key, &true);
        }
        peer.preshared_key.iter().for_each(|key| line("preshared_key", &hex(key)));
        peer.endpoint.iter().for_each(|endpoint| line("endpoint", endpoint));
        peer.persistent_keepalive.iter().for_each(|s| line("persistent_keepalive_interval", s));
        peer.protocol_version.iter().for_each(|version| line("protocol_version", version));
        for ip in &peer.allowed_ips {
            let sign = if ip.remove { "-" } else { "" };
            line("allowed_ip", &format_args!("{sign}{}/{}", ip.address, ip.cidr));
        }
    }
    text
}
