//! A configuration as it lies in a buffer, checked whole before any of it is looked at.
//!
//! [`Set::parse`] walks every structure once; what it returns cannot fail any more, so applying it
//! has no half-way. The same type reads the answer of a GET. What needs a table to be found (the
//! same peer twice in one buffer) is left to whoever has the peers: the driver refuses it as
//! STATUS_INVALID_PARAMETER.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

use super::{
    AF_INET, AF_INET6, ALLOWED_IP_LEN, INTERFACE_LEN, PEER_LEN, allowed_ip_flag, interface_flag,
    offset, peer_flag,
};

/// Why a buffer is no configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParseError {
    /// The buffer ends inside a structure, or before the last one its counts promise.
    Truncated,
    /// A flag nobody knows.
    UnknownFlag,
    /// A peer without a public key.
    NoPublicKey,
    /// A protocol version other than 0 or 1.
    ProtocolVersion,
    /// An endpoint or allowed IP that is neither IPv4 nor IPv6.
    AddressFamily,
    /// A prefix longer than its address.
    PrefixLength,
}

/// A configuration to apply, or one that was read.
#[derive(Clone, Copy)]
pub struct Set<'a> {
    interface: &'a [u8; INTERFACE_LEN],
    peers: &'a [u8],
}

impl<'a> Set<'a> {
    /// Checks `buffer` from its first byte to the last its counts promise; what follows is ignored.
    ///
    /// # Errors
    ///
    /// The first [`ParseError`], in the order of the buffer.
    pub fn parse(buffer: &'a [u8]) -> Result<Self, ParseError> {
        let (interface, rest) =
            buffer.split_first_chunk::<INTERFACE_LEN>().ok_or(ParseError::Truncated)?;
        if u32_at(interface, offset::INTERFACE_FLAGS) & !interface_flag::ALL != 0 {
            return Err(ParseError::UnknownFlag);
        }
        let mut unread = rest;
        for _ in 0..u32_at(interface, offset::INTERFACE_PEERS_COUNT) {
            unread = Peer::parse(unread)?;
        }
        let peers = rest.len().saturating_sub(unread.len());
        Ok(Self { interface, peers: rest.get(..peers).unwrap_or_default() })
    }

    /// Bytes the configuration takes.
    #[must_use]
    pub fn len_bytes(&self) -> usize {
        INTERFACE_LEN.saturating_add(self.peers.len())
    }

    /// The UDP port to listen on; 0 is any. Absent: unchanged.
    #[must_use]
    pub fn listen_port(&self) -> Option<u16> {
        self.has(interface_flag::HAS_LISTEN_PORT)
            .then(|| u16_at(self.interface, offset::INTERFACE_LISTEN_PORT))
    }

    /// The private key, not yet clamped; all zeros is none. Absent: unchanged.
    #[must_use]
    pub fn private_key(&self) -> Option<&'a [u8; 32]> {
        self.has(interface_flag::HAS_PRIVATE_KEY)
            .then(|| key_at(self.interface, offset::INTERFACE_PRIVATE_KEY))
    }

    /// The public key, in an answer.
    #[must_use]
    pub fn public_key(&self) -> Option<&'a [u8; 32]> {
        self.has(interface_flag::HAS_PUBLIC_KEY)
            .then(|| key_at(self.interface, offset::INTERFACE_PUBLIC_KEY))
    }

    /// Whether all peers go first.
    #[must_use]
    pub fn replaces_peers(&self) -> bool {
        self.has(interface_flag::REPLACE_PEERS)
    }

    /// How many peers follow.
    #[must_use]
    pub fn peer_count(&self) -> u32 {
        u32_at(self.interface, offset::INTERFACE_PEERS_COUNT)
    }

    /// The peers, in order.
    pub fn peers(&self) -> impl Iterator<Item = Peer<'a>> + use<'a> {
        let mut rest = self.peers;
        core::iter::from_fn(move || {
            let (header, after) = rest.split_first_chunk::<PEER_LEN>()?;
            let peer = Peer { header, allowed_ips: after };
            let (allowed_ips, next) = after.split_at_checked(peer.allowed_ips_len()?)?;
            rest = next;
            Some(Peer { header, allowed_ips })
        })
    }

    fn has(&self, flag: u32) -> bool {
        u32_at(self.interface, offset::INTERFACE_FLAGS) & flag != 0
    }
}

/// One peer of a configuration.
#[derive(Clone, Copy)]
pub struct Peer<'a> {
    header: &'a [u8; PEER_LEN],
    allowed_ips: &'a [u8],
}

impl<'a> Peer<'a> {
    /// The peer's static public key.
    #[must_use]
    pub fn public_key(&self) -> &'a [u8; 32] {
        key_at(self.header, offset::PEER_PUBLIC_KEY)
    }

    /// The preshared key; all zeros is none. Absent: unchanged.
    #[must_use]
    pub fn preshared_key(&self) -> Option<&'a [u8; 32]> {
        self.has(peer_flag::HAS_PRESHARED_KEY)
            .then(|| key_at(self.header, offset::PEER_PRESHARED_KEY))
    }

    /// Seconds between persistent keepalives; 0 is off. Absent: unchanged.
    #[must_use]
    pub fn persistent_keepalive_s(&self) -> Option<u16> {
        self.has(peer_flag::HAS_PERSISTENT_KEEPALIVE)
            .then(|| u16_at(self.header, offset::PEER_PERSISTENT_KEEPALIVE))
    }

    /// Where the peer is. Absent: unchanged.
    #[must_use]
    pub fn endpoint(&self) -> Option<SocketAddr> {
        self.has(peer_flag::HAS_ENDPOINT)
            .then(|| socket_address(bytes_at(self.header, offset::PEER_ENDPOINT)))
            .flatten()
    }

    /// Whether the peer's allowed IPs go first.
    #[must_use]
    pub fn replaces_allowed_ips(&self) -> bool {
        self.has(peer_flag::REPLACE_ALLOWED_IPS)
    }

    /// Whether the peer is to be removed.
    #[must_use]
    pub fn removes(&self) -> bool {
        self.has(peer_flag::REMOVE)
    }

    /// Whether an unknown peer is to be left unknown.
    #[must_use]
    pub fn updates_only(&self) -> bool {
        self.has(peer_flag::UPDATE_ONLY)
    }

    /// Payload bytes sent, in an answer.
    #[must_use]
    pub fn tx_bytes(&self) -> u64 {
        u64_at(self.header, offset::PEER_TX_BYTES)
    }

    /// Payload bytes received, in an answer.
    #[must_use]
    pub fn rx_bytes(&self) -> u64 {
        u64_at(self.header, offset::PEER_RX_BYTES)
    }

    /// When the last handshake completed, in an answer: 100 ns since 1601, 0 is never.
    #[must_use]
    pub fn last_handshake_filetime(&self) -> u64 {
        u64_at(self.header, offset::PEER_LAST_HANDSHAKE)
    }

    /// How many allowed IPs follow.
    #[must_use]
    pub fn allowed_ip_count(&self) -> u32 {
        u32_at(self.header, offset::PEER_ALLOWED_IPS_COUNT)
    }

    /// The allowed IPs, in order.
    pub fn allowed_ips(&self) -> impl Iterator<Item = AllowedIp> + use<'a> {
        self.allowed_ips
            .as_chunks::<ALLOWED_IP_LEN>()
            .0
            .iter()
            .filter_map(|b| AllowedIp::parse(b).ok())
    }

    /// Checks the peer at the start of `bytes` and returns what follows it.
    fn parse(bytes: &'a [u8]) -> Result<&'a [u8], ParseError> {
        let (header, rest) = bytes.split_first_chunk::<PEER_LEN>().ok_or(ParseError::Truncated)?;
        let peer = Self { header, allowed_ips: rest };
        if u32_at(header, offset::PEER_FLAGS) & !peer_flag::ALL != 0 {
            return Err(ParseError::UnknownFlag);
        }
        if !peer.has(peer_flag::HAS_PUBLIC_KEY) {
            return Err(ParseError::NoPublicKey);
        }
        if peer.has(peer_flag::HAS_PROTOCOL_VERSION)
            && u32_at(header, offset::PEER_PROTOCOL_VERSION) > 1
        {
            return Err(ParseError::ProtocolVersion);
        }
        if peer.has(peer_flag::HAS_ENDPOINT) && peer.endpoint().is_none() {
            return Err(ParseError::AddressFamily);
        }
        let len = peer.allowed_ips_len().ok_or(ParseError::Truncated)?;
        let (allowed_ips, rest) = rest.split_at_checked(len).ok_or(ParseError::Truncated)?;
        for allowed_ip in allowed_ips.as_chunks::<ALLOWED_IP_LEN>().0 {
            AllowedIp::parse(allowed_ip)?;
        }
        Ok(rest)
    }

    fn allowed_ips_len(&self) -> Option<usize> {
        usize::try_from(self.allowed_ip_count()).ok()?.checked_mul(ALLOWED_IP_LEN)
    }

    fn has(&self, flag: u32) -> bool {
        u32_at(self.header, offset::PEER_FLAGS) & flag != 0
    }
}

/// One allowed IP of a peer. Host bits are as given, not yet masked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AllowedIp {
    /// The network's address.
    pub address: IpAddr,
    /// The prefix length in bits, at most the address's.
    pub cidr: u8,
    /// Whether the prefix is taken from the peer instead of given to it.
    pub remove: bool,
}

impl AllowedIp {
    fn parse(bytes: &[u8; ALLOWED_IP_LEN]) -> Result<Self, ParseError> {
        let flags = u32_at(bytes, offset::ALLOWED_IP_FLAGS);
        if flags & !allowed_ip_flag::ALL != 0 {
            return Err(ParseError::UnknownFlag);
        }
        let (address, bits) = match u16_at(bytes, offset::ALLOWED_IP_FAMILY) {
            AF_INET => {
                let octets: [u8; 4] = bytes_at(bytes, offset::ALLOWED_IP_ADDRESS);
                (IpAddr::V4(Ipv4Addr::from(octets)), 32)
            }
            AF_INET6 => {
                let octets: [u8; 16] = bytes_at(bytes, offset::ALLOWED_IP_ADDRESS);
                (IpAddr::V6(Ipv6Addr::from(octets)), 128)
            }
            _ => return Err(ParseError::AddressFamily),
        };
        let [cidr] = bytes_at(bytes, offset::ALLOWED_IP_CIDR);
        if cidr > bits {
            return Err(ParseError::PrefixLength);
        }
        Ok(Self { address, cidr, remove: flags & allowed_ip_flag::REMOVE != 0 })
    }
}

/// Reads a `SOCKADDR_INET`: family, port and flow label in their wire order, address, scope.
fn socket_address(bytes: [u8; 28]) -> Option<SocketAddr> {
    let [f0, f1, p0, p1, rest @ ..] = bytes;
    let port = u16::from_be_bytes([p0, p1]);
    match u16::from_le_bytes([f0, f1]) {
        AF_INET => {
            let [a, b, c, d, ..] = rest;
            Some(SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::new(a, b, c, d), port)))
        }
        AF_INET6 => {
            let flow: [u8; 4] = bytes_at(&rest, 0);
            let address: [u8; 16] = bytes_at(&rest, 4);
            let scope = u32_at(&rest, 20);
            let address = Ipv6Addr::from(address);
            Some(SocketAddr::V6(SocketAddrV6::new(address, port, u32::from_be_bytes(flow), scope)))
        }
        _ => None,
    }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes_at(bytes, at))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes_at(bytes, at))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes_at(bytes, at))
}

fn key_at(bytes: &[u8], at: usize) -> &[u8; 32] {
    const ZERO: &[u8; 32] = &[0; 32];
    bytes.get(at..).and_then(|b| b.first_chunk()).unwrap_or(ZERO)
}

/// The `N` bytes at `at`; every caller names an offset inside a structure of checked length.
fn bytes_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes.get(at..).and_then(|b| b.first_chunk()).copied().unwrap_or([0; N])
}
