//! `set=1` as text: parsed whole, applied as one, or refused with the line that is wrong.
//!
//! The parser takes a line at a time and has no way to act; what it returns at the end becomes one
//! SET IOCTL. So a request whose last line is bad changes nothing, which is stricter than other
//! implementations (they apply what came before it) and never surprises. Every key may appear once
//! per section, and values have exactly one spelling: no signs, no spaces, no leading zeros in
//! numbers.
//!
//! Source: wireguard.com/xplatform, "Configuration Protocol"; what `wg` sends.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::Deref;

/// A key, private or public or shared: 32 bytes.
pub type Key = [u8; 32];

/// A key that nobody else may know. Printing it shows that it is there.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub Key);

impl Deref for Secret {
    type Target = Key;

    fn deref(&self) -> &Key {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// The whole of one `set=1`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SetRequest {
    /// The interface's private key; all zeros removes it.
    pub private_key: Option<Secret>,
    /// The UDP port; 0 picks one.
    pub listen_port: Option<u16>,
    /// The mark of outgoing datagrams; 0 removes it.
    pub fwmark: Option<u32>,
    /// Whether all peers go first.
    pub replace_peers: bool,
    /// The peers, in the order of the text.
    pub peers: Vec<SetPeer>,
}

/// One `public_key=` section.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SetPeer {
    /// Who.
    pub public_key: Key,
    /// Whether the peer shall go.
    pub remove: bool,
    /// Whether the peer is only changed, never made.
    pub update_only: bool,
    /// The preshared key; all zeros removes it.
    pub preshared_key: Option<Secret>,
    /// Where the peer is.
    pub endpoint: Option<SocketAddr>,
    /// Seconds between keepalives; 0 stops them.
    pub persistent_keepalive: Option<u16>,
    /// Whether the peer's allowed IPs go first.
    pub replace_allowed_ips: bool,
    /// The protocol's version; only 1 exists.
    pub protocol_version: Option<u32>,
    /// Allowed IPs to add or remove, in the order of the text.
    pub allowed_ips: Vec<SetAllowedIp>,
}

/// One `allowed_ip=`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SetAllowedIp {
    /// The network's address, as given.
    pub address: IpAddr,
    /// Its prefix length, checked against the family.
    pub cidr: u8,
    /// Whether it shall go (`allowed_ip=-…`).
    pub remove: bool,
}

/// Why a request is refused: the errno for the client, the line for the person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// A positive errno.
    pub errno: i32,
    /// What is wrong, without secrets: never a value.
    pub reason: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.reason)
    }
}

impl std::error::Error for Refusal {}

/// Takes the lines after `set=1`, one at a time.
#[derive(Debug, Default)]
pub struct SetParser {
    request: SetRequest,
    /// Keys seen in the current section, for "once per section".
    seen: Vec<&'static str>,
    line: usize,
}

/// Every key that may appear once per section, by section.
const INTERFACE_KEYS: [&str; 4] = ["private_key", "listen_port", "fwmark", "replace_peers"];
const PEER_KEYS: [&str; 7] = [
    "remove",
    "update_only",
    "preshared_key",
    "endpoint",
    "persistent_keepalive_interval",
    "replace_allowed_ips",
    "protocol_version",
];

impl SetParser {
    /// Takes one line without its newline.
    ///
    /// # Errors
    ///
    /// [`Refusal`] naming the line and the key.
    pub fn line(&mut self, line: &str) -> Result<(), Refusal> {
        self.line += 1;
        let Some((key, value)) = line.split_once('=') else {
            return Err(self.refuse(libc::EINVAL, "has no '='"));
        };
        if key == "public_key" {
            let public_key = self.key(key, value)?;
            self.seen.clear();
            self.request.peers.push(SetPeer { public_key, ..SetPeer::default() });
            return Ok(());
        }
        let keys: &[&'static str] =
            if self.request.peers.is_empty() { &INTERFACE_KEYS } else { &PEER_KEYS };
        if let Some(known) = keys.iter().find(|known| **known == key) {
            if self.seen.contains(known) {
                return Err(self.refuse(libc::EINVAL, &format!("{known} given twice")));
            }
            self.seen.push(known);
        }
        if self.request.peers.is_empty() {
            self.interface(key, value)
        } else {
            self.peer(key, value)
        }
    }

    /// Ends the request.
    #[must_use]
    pub fn finish(self) -> SetRequest {
        self.request
    }

    fn interface(&mut self, key: &str, value: &str) -> Result<(), Refusal> {
        match key {
            "private_key" => self.request.private_key = Some(Secret(self.key(key, value)?)),
            "listen_port" => self.request.listen_port = Some(self.number(key, value)?),
            "fwmark" => self.request.fwmark = Some(self.number(key, value)?),
            "replace_peers" => self.request.replace_peers = self.truth(key, value)?,
            _ => return Err(self.refuse(libc::EINVAL, "has a key no interface has")),
        }
        Ok(())
    }

    fn peer(&mut self, key: &str, value: &str) -> Result<(), Refusal> {
        let mut change = self.request.peers.pop().unwrap_or_default();
        let outcome = self.change(&mut change, key, value);
        self.request.peers.push(change);
        outcome
    }

    fn change(&self, peer: &mut SetPeer, key: &str, value: &str) -> Result<(), Refusal> {
        match key {
            "remove" => peer.remove = self.truth(key, value)?,
            "update_only" => peer.update_only = self.truth(key, value)?,
            "preshared_key" => peer.preshared_key = Some(Secret(self.key(key, value)?)),
            "endpoint" => {
                let endpoint: Result<SocketAddr, _> = value.parse();
                peer.endpoint = match endpoint {
                    Ok(endpoint) if endpoint.port() != 0 => Some(endpoint),
                    _ => return Err(self.refuse(libc::EINVAL, "endpoint is not ADDRESS:PORT")),
                };
            }
            "persistent_keepalive_interval" => {
                peer.persistent_keepalive = Some(self.number(key, value)?);
            }
            "replace_allowed_ips" => peer.replace_allowed_ips = self.truth(key, value)?,
            "allowed_ip" => peer.allowed_ips.push(self.allowed_ip(value)?),
            "protocol_version" => {
                let version = self.number(key, value)?;
                if version != 1 {
                    return Err(self.refuse(libc::EOPNOTSUPP, "protocol_version is not 1"));
                }
                peer.protocol_version = Some(version);
            }
            _ => return Err(self.refuse(libc::EINVAL, "has a key no peer has")),
        }
        Ok(())
    }

    fn allowed_ip(&self, value: &str) -> Result<SetAllowedIp, Refusal> {
        let (remove, prefix) = value.strip_prefix('-').map_or((false, value), |rest| (true, rest));
        let bad = || self.refuse(libc::EINVAL, "allowed_ip is not ADDRESS/LENGTH");
        let (address, cidr) = prefix.split_once('/').ok_or_else(bad)?;
        let address: IpAddr = address.parse().map_err(|_| bad())?;
        let cidr: u8 = self.number("allowed_ip", cidr)?;
        if cidr > if address.is_ipv4() { 32 } else { 128 } {
            return Err(self.refuse(libc::EINVAL, "allowed_ip is longer than an address"));
        }
        Ok(SetAllowedIp { address, cidr, remove })
    }

    fn key(&self, key: &str, value: &str) -> Result<Key, Refusal> {
        parse_key(value)
            .ok_or_else(|| self.refuse(libc::EINVAL, &format!("{key} is not 64 hex digits")))
    }

    fn truth(&self, key: &str, value: &str) -> Result<bool, Refusal> {
        (value == "true")
            .then_some(true)
            .ok_or_else(|| self.refuse(libc::EINVAL, &format!("{key} can only be true")))
    }

    fn number<N: std::str::FromStr>(&self, key: &str, value: &str) -> Result<N, Refusal> {
        let plain = value.bytes().all(|b| b.is_ascii_digit());
        let spelled = plain && (value == "0" || !value.starts_with('0'));
        let number = spelled.then(|| value.parse().ok()).flatten();
        number.ok_or_else(|| self.refuse(libc::EINVAL, &format!("{key} is no number in its range")))
    }

    fn refuse(&self, errno: i32, reason: &str) -> Refusal {
        Refusal { errno, reason: format!("line {}: {reason}", self.line) }
    }
}

fn parse_key(text: &str) -> Option<Key> {
    let digits = text.as_bytes().as_array::<64>()?;
    let nibble = |digit: u8| char::from(digit).to_digit(16).map(|value| value as u8);
    let mut key = Key::default();
    for (byte, pair) in key.iter_mut().zip(digits.chunks_exact(2)) {
        let [high, low] = *pair.as_array::<2>()?;
        *byte = nibble(high)? << 4 | nibble(low)?;
    }
    Some(key)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: &str = "00112233445566778899aabbccddeeff00112233445566778899AABBCCDDEEFF";

    fn parse(text: &str) -> Result<SetRequest, Refusal> {
        let mut parser = SetParser::default();
        for line in text.lines() {
            parser.line(line)?;
        }
        Ok(parser.finish())
    }

    #[test]
    fn what_wg_sends_is_understood() {
        let text = format!(
            "private_key={KEY}\nlisten_port=51820\nfwmark=0\nreplace_peers=true\n\
             public_key={KEY}\npreshared_key={KEY}\nendpoint=[2001:db8::1]:51820\n\
             persistent_keepalive_interval=25\nreplace_allowed_ips=true\nallowed_ip=0.0.0.0/0\n\
             allowed_ip=::/0\nallowed_ip=-10.0.0.0/8\npublic_key={KEY}\nremove=true\n\
             update_only=true\nprotocol_version=1\nendpoint=192.0.2.1:1\n"
        );
        let request = parse(&text).unwrap();
        assert_eq!(request.private_key.as_ref().unwrap()[..3], [0x00, 0x11, 0x22]);
        assert_eq!((request.listen_port, request.fwmark), (Some(51820), Some(0)));
        assert!(request.replace_peers);
        let [first, second] = &request.peers[..] else { panic!("{request:?}") };
        assert_eq!(first.endpoint, Some("[2001:db8::1]:51820".parse().unwrap()));
        assert_eq!(first.persistent_keepalive, Some(25));
        assert_eq!(first.allowed_ips.len(), 3);
        assert!(first.allowed_ips[2].remove && !first.allowed_ips[1].remove);
        assert!(second.remove && second.update_only && second.allowed_ips.is_empty());
    }

    #[test]
    fn what_is_printed_shows_no_secret() {
        let mut parser = SetParser::default();
        for key in ["private_key", "public_key", "preshared_key"] {
            let digits = if key == "public_key" { "55" } else { "a9" };
            parser.line(&format!("{key}={}", digits.repeat(32))).unwrap();
            let printed = format!("{parser:?} {parser:#?}");
            assert!(!printed.contains("169"), "{key} is shown: {printed}");
        }
        let request = parser.finish();
        assert_eq!(*request.private_key.clone().unwrap(), [0xA9; 32]);
        let printed = format!("{request:?}");
        assert!(!printed.contains("169") && printed.contains("85, 85"), "{printed}");
    }

    #[test]
    fn an_empty_request_is_one() {
        assert_eq!(parse(""), Ok(SetRequest::default()));
    }

    #[test]
    fn a_bad_line_is_named() {
        let peer = format!("public_key={KEY}\n");
        for (text, reason) in [
            ("listen_port", "line 1: has no '='"),
            ("listen_port=65536", "line 1: listen_port is no number in its range"),
            ("listen_port=-1", "line 1: listen_port is no number in its range"),
            ("listen_port=+1", "line 1: listen_port is no number in its range"),
            ("listen_port=01", "line 1: listen_port is no number in its range"),
            ("listen_port=", "line 1: listen_port is no number in its range"),
            ("listen_port= 1", "line 1: listen_port is no number in its range"),
            ("listen_port=1\nlisten_port=1", "line 2: listen_port given twice"),
            ("fwmark=4294967296", "line 1: fwmark is no number in its range"),
            ("replace_peers=false", "line 1: replace_peers can only be true"),
            ("private_key=00", "line 1: private_key is not 64 hex digits"),
            ("remove=true", "line 1: has a key no interface has"),
            (&format!("{peer}listen_port=1"), "line 2: has a key no peer has"),
            (&format!("{peer}endpoint=host:1"), "line 2: endpoint is not ADDRESS:PORT"),
            (&format!("{peer}endpoint=192.0.2.1:0"), "line 2: endpoint is not ADDRESS:PORT"),
            (&format!("{peer}allowed_ip=10.0.0.0"), "line 2: allowed_ip is not ADDRESS/LENGTH"),
            (
                &format!("{peer}allowed_ip=10.0.0.0/33"),
                "line 2: allowed_ip is longer than an address",
            ),
            (&format!("{peer}allowed_ip=::/129"), "line 2: allowed_ip is longer than an address"),
            (&format!("{peer}allowed_ip=--::/1"), "line 2: allowed_ip is not ADDRESS/LENGTH"),
            (
                &format!("{peer}endpoint=1.1.1.1:1\nendpoint=1.1.1.1:1"),
                "line 3: endpoint given twice",
            ),
        ] {
            let refusal = parse(text).unwrap_err();
            assert_eq!((refusal.errno, &refusal.reason[..]), (libc::EINVAL, reason), "{text}");
        }
        let refusal = parse(&format!("{peer}protocol_version=2")).unwrap_err();
        assert_eq!(refusal.errno, libc::EOPNOTSUPP);
    }

    proptest! {
        #[test]
        fn any_text_is_taken_or_refused(text in "(?s).{0,300}") {
            let _ = parse(&text);
        }

        #[test]
        fn near_misses_never_panic(
            key in "(private_key|public_key|listen_port|allowed_ip|endpoint|remove|fwmark)",
            value in "[-+0-9a-fA-F.:/\\[\\]é ]{0,70}",
        ) {
            let _ = parse(&format!("{key}={value}"));
            let _ = parse(&format!("public_key={KEY}\n{key}={value}"));
        }

        #[test]
        fn a_refusal_holds_no_key(position in 0_usize..64) {
            let mut text = KEY.to_owned();
            text.replace_range(position..=position, "x");
            let refusal = parse(&format!("private_key={text}")).unwrap_err();
            prop_assert!(!refusal.reason.contains(&text[..8]));
        }
    }
}
