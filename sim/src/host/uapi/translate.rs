//! The text protocol's requests as IOCTL buffers, and the driver's answers as text.
//!
//! Nothing is decided here: a key of the text is a field of `abi::ioctl`, and a status is an errno.

use std::fmt::Write as _;

use abi::ioctl::writer::PeerFields;
use abi::ioctl::{
    AllowedIp, InterfaceChange, PeerChange, Set, UNIX_EPOCH_FILETIME, Writer, peer_flag,
};

use super::request::{Key, SetPeer, SetRequest};

const NO_KEY: &Key = &[0; 32];

/// The buffer of the one SET that does what `request` asks; none if it asks the driver nothing.
#[must_use]
pub fn set_buffer(request: &SetRequest) -> Option<Vec<u8>> {
    let asks = request.private_key.is_some()
        || request.listen_port.is_some()
        || request.replace_peers
        || !request.peers.is_empty();
    asks.then(|| {
        let mut buffer = vec![0; write_set(&mut [], request)];
        write_set(&mut buffer, request);
        buffer
    })
}

fn write_set(buffer: &mut [u8], request: &SetRequest) -> usize {
    let interface = InterfaceChange {
        private_key: request.private_key.as_deref(),
        listen_port: request.listen_port,
        replace_peers: request.replace_peers,
    };
    let mut writer = Writer::new(buffer, &interface.into());
    for peer in &request.peers {
        writer.peer(&peer_fields(peer));
        for allowed_ip in &peer.allowed_ips {
            let &super::request::SetAllowedIp { address, cidr, remove } = allowed_ip;
            writer.allowed_ip(&AllowedIp { address, cidr, remove });
        }
    }
    writer.len_bytes()
}

fn peer_fields(peer: &SetPeer) -> PeerFields<'_> {
    let change = PeerChange {
        public_key: &peer.public_key,
        remove: peer.remove,
        update_only: peer.update_only,
        preshared_key: peer.preshared_key.as_deref(),
        endpoint: peer.endpoint,
        persistent_keepalive_s: peer.persistent_keepalive,
        replace_allowed_ips: peer.replace_allowed_ips,
    };
    let mut fields = PeerFields::from(change);
    // Said though the driver knows but one.
    if peer.protocol_version.is_some() {
        fields.flags |= peer_flag::HAS_PROTOCOL_VERSION;
    }
    fields
}

/// The answer to `get=1`, without its `errno` line; `None` if the driver's answer is no configuration.
#[must_use]
pub fn configuration_text(answer: &[u8], fwmark: u32) -> Option<String> {
    let set = Set::parse(answer).ok()?;
    let mut text = String::new();
    // Writing to a String cannot fail.
    let mut line = |key: &str, value: &dyn std::fmt::Display| {
        let _ = writeln!(text, "{key}={value}");
    };
    if let Some(key) = set.private_key().filter(|key| *key != NO_KEY) {
        line("private_key", &Hex(key));
    }
    if let Some(port) = set.listen_port().filter(|port| *port != 0) {
        line("listen_port", &port);
    }
    if fwmark != 0 {
        line("fwmark", &fwmark);
    }
    for peer in set.peers() {
        line("public_key", &Hex(peer.public_key()));
        line("preshared_key", &Hex(peer.preshared_key().unwrap_or(NO_KEY)));
        line("protocol_version", &1);
        if let Some(endpoint) = peer.endpoint() {
            line("endpoint", &endpoint);
        }
        let handshake = peer.last_handshake_filetime().saturating_sub(UNIX_EPOCH_FILETIME);
        line("last_handshake_time_sec", &(handshake / 10_000_000));
        line("last_handshake_time_nsec", &(handshake % 10_000_000 * 100));
        line("tx_bytes", &peer.tx_bytes());
        line("rx_bytes", &peer.rx_bytes());
        line("persistent_keepalive_interval", &peer.persistent_keepalive_s().unwrap_or(0));
        for AllowedIp { address, cidr, .. } in peer.allowed_ips() {
            line("allowed_ip", &format_args!("{address}/{cidr}"));
        }
    }
    Some(text)
}

/// The positive errno that says what a failed status says.
#[must_use]
pub fn errno_of(status: i32) -> i32 {
    match status as u32 {
        0xC000_0022 => libc::EACCES,
        0xC000_000D | 0xC000_0206 | 0xC000_0023 => libc::EINVAL,
        0xC000_020A => libc::EADDRINUSE,
        0xC000_0141 | 0xC000_0207 => libc::EADDRNOTAVAIL,
        0xC000_009A | 0xC000_0017 => libc::ENOMEM,
        0xC000_0002 | 0xC000_00BB => libc::EOPNOTSUPP,
        0xC000_000E | 0xC000_0056 | 0xC001_0018 | 0xC000_02B6 => libc::ENODEV,
        _ => libc::EIO,
    }
}

struct Hex<'k>(&'k Key);

impl std::fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use abi::ioctl::{interface_flag, writer::InterfaceFields};

    use super::super::request::SetParser;
    use super::*;

    const KEY: &str = "0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20";

    fn request(text: &str) -> SetRequest {
        let mut parser = SetParser::default();
        text.lines().for_each(|line| parser.line(line).unwrap());
        parser.finish()
    }

    #[test]
    fn a_request_becomes_the_buffer_it_says() {
        let text = format!(
            "private_key={KEY}\nlisten_port=7\nreplace_peers=true\npublic_key={KEY}\nupdate_only=true\n\
             endpoint=[2001:db8::1]:9\npersistent_keepalive_interval=25\nreplace_allowed_ips=true\n\
             allowed_ip=10.0.0.0/8\nallowed_ip=-fd00::/8\npublic_key={KEY}\nremove=true\n"
        );
        let buffer = set_buffer(&request(&text)).unwrap();
        let set = Set::parse(&buffer).unwrap();
        assert_eq!(set.len_bytes(), buffer.len());
        assert_eq!((set.listen_port(), set.private_key().unwrap()[31]), (Some(7), 0x20));
        assert!(set.replaces_peers());
        let peers: Vec<_> = set.peers().collect();
        assert_eq!(peers.len(), 2);
        assert!(peers[0].updates_only() && !peers[0].removes() && peers[0].replaces_allowed_ips());
        assert_eq!(peers[0].endpoint(), Some("[2001:db8::1]:9".parse().unwrap()));
        assert_eq!((peers[0].persistent_keepalive_s(), peers[0].preshared_key()), (Some(25), None));
        let removed: Vec<_> = peers[0].allowed_ips().map(|a| (a.cidr, a.remove)).collect();
        assert_eq!(removed, [(8, false), (8, true)]);
        assert!(peers[1].removes() && !peers[1].updates_only());
    }

    #[test]
    fn a_request_for_the_host_alone_has_no_buffer() {
        assert_eq!(set_buffer(&request("fwmark=7\n")), None);
        assert_eq!(set_buffer(&request("")), None);
        assert!(set_buffer(&request("listen_port=0\n")).is_some());
    }

    #[test]
    fn an_answer_reads_as_wg_wants_it() {
        let key: &Key = &std::array::from_fn(|at| at as u8 + 1);
        let interface = InterfaceFields {
            flags: interface_flag::HAS_PRIVATE_KEY
                | interface_flag::HAS_LISTEN_PORT
                | interface_flag::HAS_PUBLIC_KEY,
            listen_port: 51820,
            private_key: key,
            public_key: key,
        };
        let peer = PeerFields {
            flags: peer_flag::HAS_PUBLIC_KEY
                | peer_flag::HAS_ENDPOINT
                | peer_flag::HAS_PERSISTENT_KEEPALIVE,
            public_key: key,
            preshared_key: NO_KEY,
            persistent_keepalive_s: 25,
            endpoint: Some("192.0.2.1:7".parse().unwrap()),
            tx_bytes: 10,
            rx_bytes: 20,
            last_handshake_filetime: UNIX_EPOCH_FILETIME + 10_000_000 + 3,
        };
        let mut buffer = vec![0; 4096];
        let mut writer = Writer::new(&mut buffer, &interface);
        writer.peer(&peer);
        writer.allowed_ip(&AllowedIp {
            address: "10.0.0.0".parse().unwrap(),
            cidr: 8,
            remove: false,
        });
        let text = configuration_text(&buffer, 9).unwrap();
        let expected = format!(
            "private_key={KEY}\nlisten_port=51820\nfwmark=9\npublic_key={KEY}\npreshared_key={}\n\
             protocol_version=1\nendpoint=192.0.2.1:7\nlast_handshake_time_sec=1\n\
             last_handshake_time_nsec=300\ntx_bytes=10\nrx_bytes=20\n\
             persistent_keepalive_interval=25\nallowed_ip=10.0.0.0/8\n",
            "0".repeat(64)
        );
        assert_eq!(text, expected);
        assert_eq!(configuration_text(&buffer[..100], 0), None);
    }
}
