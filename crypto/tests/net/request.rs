//! Configuration requests, built as a tool builds them: into the bytes of the IOCTL.

use std::net::{IpAddr, SocketAddr};

use abi::ioctl::{
    AllowedIp, Set, Writer, interface_flag, peer_flag,
    writer::{InterfaceFields, PeerFields},
};
use crypto::protocol::noise::Identity;

/// The public key of a private one.
pub(crate) fn public(private: &[u8; 32]) -> [u8; 32] {
    *Identity::new(private).unwrap().public()
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Request {
    pub(crate) private_key: Option<[u8; 32]>,
    pub(crate) listen_port: Option<u16>,
    pub(crate) replace_peers: bool,
    pub(crate) peers: Vec<PeerRequest>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct PeerRequest {
    pub(crate) public_key: [u8; 32],
    pub(crate) remove: bool,
    pub(crate) update_only: bool,
    pub(crate) preshared_key: Option<[u8; 32]>,
    pub(crate) endpoint: Option<SocketAddr>,
    pub(crate) keepalive: Option<u16>,
    pub(crate) replace_allowed_ips: bool,
    pub(crate) allowed_ips: Vec<(IpAddr, u8, bool)>,
}

impl PeerRequest {
    pub(crate) fn new(public_key: [u8; 32]) -> Self {
        Self { public_key, ..Self::default() }
    }

    pub(crate) fn endpoint(mut self, endpoint: SocketAddr) -> Self {
        self.endpoint = Some(endpoint);
        self
    }

    pub(crate) fn keepalive(mut self, seconds: u16) -> Self {
        self.keepalive = Some(seconds);
        self
    }

    pub(crate) fn preshared_key(mut self, key: [u8; 32]) -> Self {
        self.preshared_key = Some(key);
        self
    }

    pub(crate) fn remove(mut self) -> Self {
        self.remove = true;
        self
    }

    pub(crate) fn allow(mut self, prefix: &str) -> Self {
        let (address, cidr) = prefix.split_once('/').unwrap();
        self.allowed_ips.push((address.parse().unwrap(), cidr.parse().unwrap(), false));
        self
    }
}

impl Request {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn private_key(mut self, key: [u8; 32]) -> Self {
        self.private_key = Some(key);
        self
    }

    pub(crate) fn peer(mut self, peer: PeerRequest) -> Self {
        self.peers.push(peer);
        self
    }

    pub(crate) fn replace_peers(mut self) -> Self {
        self.replace_peers = true;
        self
    }

    /// The request that is written in a buffer.
    pub(crate) fn of(set: &Set<'_>) -> Self {
        let peer = |peer: abi::ioctl::Peer<'_>| PeerRequest {
            public_key: *peer.public_key(),
            remove: peer.removes(),
            update_only: peer.updates_only(),
            preshared_key: peer.preshared_key().copied(),
            endpoint: peer.endpoint(),
            keepalive: peer.persistent_keepalive_s(),
            replace_allowed_ips: peer.replaces_allowed_ips(),
            allowed_ips: peer.allowed_ips().map(|ip| (ip.address, ip.cidr, ip.remove)).collect(),
        };
        Self {
            private_key: set.private_key().copied(),
            listen_port: set.listen_port(),
            replace_peers: set.replaces_peers(),
            peers: set.peers().map(peer).collect(),
        }
    }

    /// The bytes of the request.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut buffer = Vec::new();
        let len = self.write(&mut buffer);
        buffer.resize(len, 0);
        self.write(&mut buffer);
        buffer
    }

    fn write(&self, buffer: &mut [u8]) -> usize {
        let flag = |set: bool, flag: u32| if set { flag } else { 0 };
        let flags = flag(self.private_key.is_some(), interface_flag::HAS_PRIVATE_KEY)
            | flag(self.listen_port.is_some(), interface_flag::HAS_LISTEN_PORT)
            | flag(self.replace_peers, interface_flag::REPLACE_PEERS);
        let fields = InterfaceFields {
            flags,
            listen_port: self.listen_port.unwrap_or_default(),
            private_key: &self.private_key.unwrap_or_default(),
            public_key: &[0; 32],
        };
        let mut writer = Writer::new(buffer, &fields);
        for peer in &self.peers {
            let flags = peer_flag::HAS_PUBLIC_KEY
                | flag(peer.remove, peer_flag::REMOVE)
                | flag(peer.update_only, peer_flag::UPDATE_ONLY)
                | flag(peer.preshared_key.is_some(), peer_flag::HAS_PRESHARED_KEY)
                | flag(peer.endpoint.is_some(), peer_flag::HAS_ENDPOINT)
                | flag(peer.keepalive.is_some(), peer_flag::HAS_PERSISTENT_KEEPALIVE)
                | flag(peer.replace_allowed_ips, peer_flag::REPLACE_ALLOWED_IPS);
            writer.peer(&PeerFields {
                flags,
                preshared_key: &peer.preshared_key.unwrap_or_default(),
                persistent_keepalive_s: peer.keepalive.unwrap_or_default(),
                endpoint: peer.endpoint,
                ..PeerFields::of(&peer.public_key)
            });
            for (address, cidr, remove) in &peer.allowed_ips {
                writer.allowed_ip(&AllowedIp { address: *address, cidr: *cidr, remove: *remove });
            }
        }
        writer.len_bytes()
    }
}
