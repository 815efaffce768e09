//! How an interface does, asked through the text protocol: what was served is what is read, and whoever answers what he likes does no harm.

#![allow(clippy::unwrap_used)] // A test stops where something is not as it should be.

use std::io::{self, Read, Write};

use abi::ioctl::writer::{InterfaceFields, PeerFields};
use abi::ioctl::{AllowedIp, Set, UNIX_EPOCH_FILETIME, Writer, interface_flag, peer_flag};
use ctl::driver::{Answer, Device, Status};
use ctl::uapi::{Rights, ask, serve};
use proptest::prelude::*;

/// Answers with this, a few bytes at a time.
struct Answering<'a>(&'a [u8], usize);

impl Read for Answering<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = buffer.len().min(self.1);
        self.0.read(&mut buffer[..len])
    }
}

impl Write for Answering<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Answers a GET with this.
struct Known(Vec<u8>);

impl Device for Known {
    fn control(&self, _: u32, _: &[u8], output: &mut [u8]) -> io::Result<Answer> {
        let room = output.len().min(self.0.len());
        output[..room].copy_from_slice(&self.0[..room]);
        let status = if room < self.0.len() { Status::BUFFER_OVERFLOW } else { Status::SUCCESS };
        Ok(Answer { status, information: self.0.len() })
    }
}

/// What is written, and what was asked.
struct Asking<'a>(&'a [u8], Vec<u8>);

impl Read for Asking<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for Asking<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.1.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What an interface is served as.
fn served(configuration: Vec<u8>, rights: Rights) -> Vec<u8> {
    let mut stream = Asking(b"get=1\n\n", Vec::new());
    serve(&mut stream, &Known(configuration), || rights).unwrap();
    stream.1
}

#[derive(Clone, Debug)]
struct Peer {
    key: u8,
    endpoint: Option<std::net::SocketAddr>,
    bytes: (u64, u64),
    handshake: u64,
    keepalive: u16,
    ips: Vec<(std::net::IpAddr, u8)>,
}

fn configuration(port: u16, peers: &[Peer], secret: &[u8; 32]) -> Vec<u8> {
    let flags = interface_flag::HAS_LISTEN_PORT;
    let flags = flags | if secret == &[0; 32] { 0 } else { interface_flag::HAS_PRIVATE_KEY };
    let interface =
        InterfaceFields { flags, listen_port: port, private_key: secret, public_key: &[0; 32] };
    let write = |buffer: &mut [u8]| {
        let mut writer = Writer::new(buffer, &interface);
        for peer in peers {
            let key = [peer.key; 32];
            let mut fields = PeerFields {
                endpoint: peer.endpoint,
                tx_bytes: peer.bytes.0,
                rx_bytes: peer.bytes.1,
                persistent_keepalive_s: peer.keepalive,
                last_handshake_filetime: peer.handshake,
                preshared_key: secret,
                ..PeerFields::of(&key)
            };
            fields.flags |= peer_flag::HAS_PERSISTENT_KEEPALIVE;
            fields.flags |= peer.endpoint.map_or(0, |_| peer_flag::HAS_ENDPOINT);
            fields.flags |= if secret == &[0; 32] { 0 } else { peer_flag::HAS_PRESHARED_KEY };
            writer.peer(&fields);
            for (address, cidr) in &peer.ips {
                writer.allowed_ip(&AllowedIp { address: *address, cidr: *cidr, remove: false });
            }
        }
        writer.len_bytes()
    };
    let mut buffer = vec![0; write(&mut [])];
    write(&mut buffer);
    buffer
}

fn peer() -> impl Strategy<Value = Peer> {
    let address = prop_oneof![
        any::<std::net::Ipv4Addr>().prop_map(std::net::IpAddr::from),
        // Without what a text does not have: a flow, and a scope.
        any::<std::net::Ipv6Addr>().prop_map(std::net::IpAddr::from),
    ];
    let endpoint = (address.clone(), 1_u16..);
    let endpoint = proptest::option::of(endpoint.prop_map(std::net::SocketAddr::from));
    let ips = (address, 0_u8..=32);
    let handshake = prop_oneof![Just(0), UNIX_EPOCH_FILETIME + 1..u64::MAX];
    let rest = (any::<u8>(), any::<u16>(), any::<(u64, u64)>(), handshake);
    (rest, endpoint, proptest::collection::vec(ips, 0..4)).prop_map(
        |((key, keepalive, bytes, handshake), endpoint, ips)| Peer {
            key,
            endpoint,
            bytes,
            handshake,
            keepalive,
            ips,
        },
    )
}

proptest! {
    #[test]
    fn what_is_served_is_what_is_read_without_secrets(
        port in any::<u16>(),
        peers in proptest::collection::vec(peer(), 0..5),
        rights in prop_oneof![Just(Rights::All), Just(Rights::Status)],
        at_once in 1_usize..100,
    ) {
        let text = served(configuration(port, &peers, &[7; 32]), rights);
        let read = ask(Answering(&text, at_once)).unwrap();
        prop_assert!(read == configuration(port, &peers, &[0; 32]));
    }

    /// Lines that are cut, changed, or anything at all.
    #[test]
    fn whoever_answers_what_he_likes_is_read_or_not(
        peers in proptest::collection::vec(peer(), 0..3),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        end in any::<prop::sample::Index>(),
        noise in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        let mut text = served(configuration(7, &peers, &[0; 32]), Rights::Status);
        for (at, byte) in changes {
            let at = at.index(text.len());
            text[at] = byte;
        }
        let cut = end.index(text.len() + 1);
        for text in [&text, &text[..cut], &noise] {
            if let Ok(read) = ask(Answering(text, 9)) {
                prop_assert!(Set::parse(&read).is_ok());
            }
        }
    }
}

#[test]
fn what_is_no_answer_is_told_and_a_refusal_is_one() {
    for (answer, told) in [
        (&b""[..], io::ErrorKind::InvalidData),
        (b"\n", io::ErrorKind::InvalidData),
        (b"listen_port=7\n\n", io::ErrorKind::InvalidData),
        (b"listen_port=7\nerrno=0\n", io::ErrorKind::InvalidData),
        (b"listen_port=65536\nerrno=0\n\n", io::ErrorKind::InvalidData),
        (b"nonsense\nerrno=0\n\n", io::ErrorKind::InvalidData),
        (b"public_key=00\nerrno=0\n\n", io::ErrorKind::InvalidData),
        (b"errno=-13\n\n", io::ErrorKind::PermissionDenied),
        (b"errno=-5\n\n", io::ErrorKind::Other),
    ] {
        let kind = ask(Answering(answer, 99)).unwrap_err().kind();
        assert_eq!(kind, told, "{}", String::from_utf8_lossy(answer));
    }
    assert!(ask(Answering(b"newer=1\nlisten_port=7\nerrno=0\n\n", 99)).is_ok());
}
