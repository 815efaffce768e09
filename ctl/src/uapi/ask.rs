//! The other end: what a served interface answers `get=1` with becomes what the driver would have said, without its secrets.
//!
//! Who answers is believed no more than anybody: what is wrong ends it, and so does more than an answer can be. Lines of a kind that is not
//! known say nothing here. Secrets are not kept, whoever tells them.

use std::io::{self, Read, Write};
use std::net::SocketAddr;

use abi::ioctl::writer::{InterfaceFields, PeerFields};
use abi::ioctl::{AllowedIp, UNIX_EPOCH_FILETIME, Writer, interface_flag, peer_flag};

use super::get::{NANOSECONDS_A_UNIT, UNITS_A_SECOND};
use super::{EACCES, Lines, set};
use crate::config::value::{self, number};

/// The longest answer: some hundred thousand peers with all that they have.
const ANSWER_MAX: u64 = 256 << 20;

/// Asks how an interface does. [`abi::ioctl::Set::parse`] takes what this gives, as it takes what the driver answers a GET with.
///
/// # Errors
///
/// What the stream says, that the answer is none, or that it is a refusal.
pub fn ask(stream: impl Read + Write) -> io::Result<Vec<u8>> {
    ask_within(ANSWER_MAX, stream)
}

fn ask_within(max: u64, mut stream: impl Read + Write) -> io::Result<Vec<u8>> {
    stream.write_all(b"get=1\n\n")?;
    stream.flush()?;
    let mut stream = stream.take(max);
    let (mut lines, mut told, mut errno) = (Lines::default(), Told::default(), None);
    loop {
        let line = lines.next(&mut stream)?.and_then(Result::ok).ok_or_else(none)?;
        if line.is_empty() {
            break;
        }
        match line.split_once('=') {
            Some(("errno", value)) => errno = Some(read::<i32>(value)?),
            Some((key, value)) => told.line(key, value)?,
            None => return Err(none()),
        }
    }
    match errno {
        Some(0) => Ok(told.encoded()),
        Some(EACCES) => Err(io::ErrorKind::PermissionDenied.into()),
        Some(errno) => Err(io::Error::other(format!("the service answered errno={errno}"))),
        None => Err(none()),
    }
}

/// What is no answer.
fn none() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the service's answer is not understood")
}

fn read<N: std::str::FromStr>(value: &str) -> io::Result<N> {
    value.parse().map_err(|_| none())
}

/// What was told so far.
#[derive(Default)]
struct Told {
    listen_port: u16,
    peers: Vec<Peer>,
}

#[derive(Default)]
struct Peer {
    public_key: [u8; 32],
    endpoint: Option<SocketAddr>,
    handshake_s: u64,
    handshake_ns: u64,
    tx_bytes: u64,
    rx_bytes: u64,
    persistent_keepalive_s: u16,
    allowed_ips: Vec<AllowedIp>,
}

impl Told {
    fn line(&mut self, key: &str, value: &str) -> io::Result<()> {
        if key == "public_key" {
            let public_key = *set::bytes(value).map_err(|_| none())?;
            self.peers.push(Peer { public_key, ..Peer::default() });
            return Ok(());
        }
        let Some(peer) = self.peers.last_mut() else {
            if key == "listen_port" {
                self.listen_port = number(value).ok_or_else(none)?;
            }
            return Ok(());
        };
        match key {
            "endpoint" => peer.endpoint = Some(read(value)?),
            "last_handshake_time_sec" => peer.handshake_s = read(value)?,
            "last_handshake_time_nsec" => peer.handshake_ns = read(value)?,
            "tx_bytes" => peer.tx_bytes = read(value)?,
            "rx_bytes" => peer.rx_bytes = read(value)?,
            "persistent_keepalive_interval" => peer.persistent_keepalive_s = read(value)?,
            "allowed_ip" => {
                let prefix = value::prefix(value).map_err(|_| none())?;
                let (address, cidr) = (prefix.address, prefix.length);
                peer.allowed_ips.push(AllowedIp { address, cidr, remove: false });
            }
            _ => {}
        }
        Ok(())
    }

    fn encoded(&self) -> Vec<u8> {
        let mut buffer = vec![0; self.write(&mut [])];
        self.write(&mut buffer);
        buffer
    }

    fn write(&self, buffer: &mut [u8]) -> usize {
        let interface = InterfaceFields {
            flags: interface_flag::HAS_LISTEN_PORT,
            listen_port: self.listen_port,
            private_key: &[0; 32],
            public_key: &[0; 32],
        };
        let mut writer = Writer::new(buffer, &interface);
        for peer in &self.peers {
            let mut fields = PeerFields {
                endpoint: peer.endpoint,
                tx_bytes: peer.tx_bytes,
                rx_bytes: peer.rx_bytes,
                last_handshake_filetime: peer.last_handshake(),
                persistent_keepalive_s: peer.persistent_keepalive_s,
                ..PeerFields::of(&peer.public_key)
            };
            fields.flags |= peer_flag::HAS_PERSISTENT_KEEPALIVE;
            fields.flags |= peer.endpoint.map_or(0, |_| peer_flag::HAS_ENDPOINT);
            writer.peer(&fields);
            peer.allowed_ips.iter().for_each(|ip| writer.allowed_ip(ip));
        }
        writer.len_bytes()
    }
}

impl Peer {
    /// The last handshake as the driver has it: units since 1601, and 0 for never.
    fn last_handshake(&self) -> u64 {
        let units = self.handshake_s.saturating_mul(UNITS_A_SECOND);
        let units = units.saturating_add(self.handshake_ns / NANOSECONDS_A_UNIT);
        if units == 0 { 0 } else { units.saturating_add(UNIX_EPOCH_FILETIME) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Says the same for ever.
    struct Endless(&'static [u8], usize);

    impl Read for Endless {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            for byte in buffer.iter_mut() {
                *byte = self.0[self.1 % self.0.len()];
                self.1 += 1;
            }
            Ok(buffer.len())
        }
    }

    impl Write for Endless {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_does_not_end_is_no_answer() {
        for endless in [&b"x"[..], b"listen_port=1\n"] {
            let why = ask_within(1 << 20, Endless(endless, 0)).unwrap_err();
            assert_eq!(why.kind(), io::ErrorKind::InvalidData, "{why}");
        }
    }
}
