//! Writes a configuration into a buffer: what a GET answers and what a SET asks.
//!
//! The writer never fails: it counts what it could not write, so one pass tells the length needed,
//! as a GET with too small a buffer must.

use core::net::{IpAddr, SocketAddr};

use super::{
    AF_INET, AF_INET6, ALLOWED_IP_LEN, AllowedIp, INTERFACE_LEN, PEER_LEN, allowed_ip_flag,
    interface_flag, offset, peer_flag,
};

/// The interface part, all but the count of peers, which the writer keeps.
#[derive(Clone, Copy)]
pub struct InterfaceFields<'a> {
    /// [`super::interface_flag`]s.
    pub flags: u32,
    /// UDP port.
    pub listen_port: u16,
    /// Private key; zeros if absent.
    pub private_key: &'a [u8; 32],
    /// Public key; zeros if absent.
    pub public_key: &'a [u8; 32],
}

/// One peer, all but the count of allowed IPs, which the writer keeps.
#[derive(Clone, Copy)]
pub struct PeerFields<'a> {
    /// [`super::peer_flag`]s.
    pub flags: u32,
    /// Static public key.
    pub public_key: &'a [u8; 32],
    /// Preshared key; zeros if absent.
    pub preshared_key: &'a [u8; 32],
    /// Seconds between persistent keepalives.
    pub persistent_keepalive_s: u16,
    /// Endpoint, if any.
    pub endpoint: Option<SocketAddr>,
    /// Payload bytes sent.
    pub tx_bytes: u64,
    /// Payload bytes received.
    pub rx_bytes: u64,
    /// Last handshake, 100 ns since 1601.
    pub last_handshake_filetime: u64,
}

impl<'a> PeerFields<'a> {
    /// A peer of which nothing but this key is said.
    #[must_use]
    pub const fn of(public_key: &'a [u8; 32]) -> Self {
        Self {
            flags: peer_flag::HAS_PUBLIC_KEY,
            public_key,
            preshared_key: NO_KEY,
            persistent_keepalive_s: 0,
            endpoint: None,
            tx_bytes: 0,
            rx_bytes: 0,
            last_handshake_filetime: 0,
        }
    }
}

/// What a SET asks of the interface. What is absent stays as it is.
#[derive(Clone, Copy, Default)]
pub struct InterfaceChange<'a> {
    /// The private key; all zeros removes it.
    pub private_key: Option<&'a [u8; 32]>,
    /// The UDP port; 0 is any.
    pub listen_port: Option<u16>,
    /// Whether all peers go first.
    pub replace_peers: bool,
}

impl<'a> From<InterfaceChange<'a>> for InterfaceFields<'a> {
    fn from(change: InterfaceChange<'a>) -> Self {
        Self {
            flags: flags(&[
                (change.private_key.is_some(), interface_flag::HAS_PRIVATE_KEY),
                (change.listen_port.is_some(), interface_flag::HAS_LISTEN_PORT),
                (change.replace_peers, interface_flag::REPLACE_PEERS),
            ]),
            listen_port: change.listen_port.unwrap_or(0),
            private_key: change.private_key.unwrap_or(NO_KEY),
            public_key: NO_KEY,
        }
    }
}

/// What a SET asks of a peer. What is absent stays as it is.
#[derive(Clone, Copy)]
pub struct PeerChange<'a> {
    /// Static public key.
    pub public_key: &'a [u8; 32],
    /// Whether the peer goes.
    pub remove: bool,
    /// Whether an unknown peer stays unknown.
    pub update_only: bool,
    /// The preshared key; all zeros removes it.
    pub preshared_key: Option<&'a [u8; 32]>,
    /// Where the peer is.
    pub endpoint: Option<SocketAddr>,
    /// Seconds between persistent keepalives; 0 is off.
    pub persistent_keepalive_s: Option<u16>,
    /// Whether the peer's allowed IPs go first.
    pub replace_allowed_ips: bool,
}

impl<'a> From<PeerChange<'a>> for PeerFields<'a> {
    fn from(change: PeerChange<'a>) -> Self {
        Self {
            flags: flags(&[
                (true, peer_flag::HAS_PUBLIC_KEY),
                (change.preshared_key.is_some(), peer_flag::HAS_PRESHARED_KEY),
                (change.persistent_keepalive_s.is_some(), peer_flag::HAS_PERSISTENT_KEEPALIVE),
                (change.endpoint.is_some(), peer_flag::HAS_ENDPOINT),
                (change.replace_allowed_ips, peer_flag::REPLACE_ALLOWED_IPS),
                (change.remove, peer_flag::REMOVE),
                (change.update_only, peer_flag::UPDATE_ONLY),
            ]),
            preshared_key: change.preshared_key.unwrap_or(NO_KEY),
            persistent_keepalive_s: change.persistent_keepalive_s.unwrap_or(0),
            endpoint: change.endpoint,
            ..Self::of(change.public_key)
        }
    }
}

/// Those of the flags that are on.
fn flags(rows: &[(bool, u32)]) -> u32 {
    rows.iter().filter(|(on, _)| *on).fold(0, |all, (_, flag)| all | flag)
}

const NO_KEY: &[u8; 32] = &[0; 32];

/// Writes structures one after the other and keeps their counts.
pub struct Writer<'b> {
    buffer: &'b mut [u8],
    len: usize,
    peers: u32,
    peer_at: usize,
    allowed_ips: u32,
}

impl<'b> Writer<'b> {
    /// Starts with the interface.
    pub fn new(buffer: &'b mut [u8], interface: &InterfaceFields<'_>) -> Self {
        let mut writer = Self { buffer, len: 0, peers: 0, peer_at: 0, allowed_ips: 0 };
        let at = writer.reserve(INTERFACE_LEN);
        writer.put(at, offset::INTERFACE_FLAGS, &interface.flags.to_le_bytes());
        writer.put(at, offset::INTERFACE_LISTEN_PORT, &interface.listen_port.to_le_bytes());
        writer.put(at, offset::INTERFACE_PRIVATE_KEY, interface.private_key);
        writer.put(at, offset::INTERFACE_PUBLIC_KEY, interface.public_key);
        writer
    }

    /// Adds a peer; the allowed IPs that follow are its own.
    pub fn peer(&mut self, peer: &PeerFields<'_>) {
        let at = self.reserve(PEER_LEN);
        self.put(at, offset::PEER_FLAGS, &peer.flags.to_le_bytes());
        self.put(at, offset::PEER_PROTOCOL_VERSION, &1_u32.to_le_bytes());
        self.put(at, offset::PEER_PUBLIC_KEY, peer.public_key);
        self.put(at, offset::PEER_PRESHARED_KEY, peer.preshared_key);
        let keepalive = peer.persistent_keepalive_s.to_le_bytes();
        self.put(at, offset::PEER_PERSISTENT_KEEPALIVE, &keepalive);
        if let Some(endpoint) = peer.endpoint {
            self.put(at, offset::PEER_ENDPOINT, &socket_address(endpoint));
        }
        self.put(at, offset::PEER_TX_BYTES, &peer.tx_bytes.to_le_bytes());
        self.put(at, offset::PEER_RX_BYTES, &peer.rx_bytes.to_le_bytes());
        self.put(at, offset::PEER_LAST_HANDSHAKE, &peer.last_handshake_filetime.to_le_bytes());
        self.peer_at = at;
        self.allowed_ips = 0;
        self.peers = self.peers.saturating_add(1);
        self.put(0, offset::INTERFACE_PEERS_COUNT, &self.peers.to_le_bytes());
    }

    /// Adds an allowed IP to the last peer.
    pub fn allowed_ip(&mut self, allowed_ip: &AllowedIp) {
        let at = self.reserve(ALLOWED_IP_LEN);
        let family = match allowed_ip.address {
            IpAddr::V4(address) => {
                self.put(at, offset::ALLOWED_IP_ADDRESS, &address.octets());
                AF_INET
            }
            IpAddr::V6(address) => {
                self.put(at, offset::ALLOWED_IP_ADDRESS, &address.octets());
                AF_INET6
            }
        };
        let flags = if allowed_ip.remove { allowed_ip_flag::REMOVE } else { 0 };
        self.put(at, offset::ALLOWED_IP_FAMILY, &family.to_le_bytes());
        self.put(at, offset::ALLOWED_IP_CIDR, &[allowed_ip.cidr]);
        self.put(at, offset::ALLOWED_IP_FLAGS, &flags.to_le_bytes());
        self.allowed_ips = self.allowed_ips.saturating_add(1);
        self.put(self.peer_at, offset::PEER_ALLOWED_IPS_COUNT, &self.allowed_ips.to_le_bytes());
    }

    /// The length everything takes; more than the buffer's means that it was cut.
    #[must_use]
    pub fn len_bytes(&self) -> usize {
        self.len
    }

    /// Zeroes `len` more bytes if they fit, and returns where they begin.
    fn reserve(&mut self, len: usize) -> usize {
        let at = self.len;
        self.len = at.saturating_add(len);
        if let Some(bytes) = self.buffer.get_mut(at..self.len) {
            bytes.fill(0);
        }
        at
    }

    /// Writes a field of the structure at `at`, unless the structure did not fit.
    fn put(&mut self, at: usize, offset: usize, bytes: &[u8]) {
        let at = at.saturating_add(offset);
        if let Some(slot) = self.buffer.get_mut(at..at.saturating_add(bytes.len())) {
            slot.copy_from_slice(bytes);
        }
    }
}

/// Writes a `SOCKADDR_INET`.
fn socket_address(address: SocketAddr) -> [u8; 28] {
    let mut out = [0; 28];
    let mut put = |at: usize, bytes: &[u8]| {
        for (slot, byte) in out.iter_mut().skip(at).zip(bytes) {
            *slot = *byte;
        }
    };
    put(2, &address.port().to_be_bytes());
    match address {
        SocketAddr::V4(v4) => {
            put(0, &AF_INET.to_le_bytes());
            put(4, &v4.ip().octets());
        }
        SocketAddr::V6(v6) => {
            put(0, &AF_INET6.to_le_bytes());
            put(4, &v6.flowinfo().to_be_bytes());
            put(8, &v6.ip().octets());
            put(24, &v6.scope_id().to_le_bytes());
        }
    }
    out
}
