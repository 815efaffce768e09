//! What a configuration request means, on one page: the model that tunnels are compared with.

use std::net::{IpAddr, SocketAddr};

use crypto::protocol::{InterfaceStatus, PeerStatus, Tunnel, Visitor, allowed_ips::Prefix};

use super::{Attached, G, Request, request::public};

/// What GET tells, and what the model is.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Configuration {
    pub(crate) private_key: Option<[u8; 32]>,
    /// In the order they were added.
    pub(crate) peers: Vec<([u8; 32], ModelPeer)>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct ModelPeer {
    pub(crate) preshared_key: [u8; 32],
    pub(crate) endpoint: Option<SocketAddr>,
    pub(crate) keepalive: u16,
    pub(crate) allowed_ips: Vec<(IpAddr, u8)>,
}

impl Visitor for Configuration {
    fn interface(&mut self, interface: &InterfaceStatus) {
        self.private_key = interface.private_key.as_ref().map(|key| *key.expose());
        assert_eq!(interface.public_key, self.private_key.as_ref().map(public));
    }

    fn peer(&mut self, peer: &PeerStatus) {
        self.peers.push((
            peer.public_key,
            ModelPeer {
                preshared_key: *peer.preshared_key.expose(),
                endpoint: peer.endpoint.map(|endpoint| endpoint.remote),
                keepalive: peer.persistent_keepalive_s,
                allowed_ips: Vec::new(),
            },
        ));
    }

    fn allowed_ip(&mut self, prefix: Prefix) {
        let (_, peer) = self.peers.last_mut().unwrap();
        peer.allowed_ips.push((prefix.address(), prefix.cidr()));
    }
}

pub(crate) fn get(tunnel: &Tunnel<Attached>) -> Configuration {
    let mut configuration = Configuration::default();
    tunnel.get(&G, &mut configuration).unwrap();
    configuration
}

fn masked(address: IpAddr, cidr: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(cidr)).unwrap_or(0);
            IpAddr::V4((u32::from(v4) & mask).into())
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(cidr)).unwrap_or(0);
            IpAddr::V6((u128::from(v6) & mask).into())
        }
    }
}

impl Configuration {
    /// The documented meaning of a request, written as plainly as can be. False if it must be refused.
    pub(crate) fn apply(&mut self, request: &Request) -> bool {
        let mut keys: Vec<_> = request.peers.iter().map(|peer| peer.public_key).collect();
        keys.sort_unstable();
        if keys.windows(2).any(|pair| pair[0] == pair[1]) {
            return false;
        }
        if request.replace_peers {
            self.peers.clear();
        }
        if let Some(mut key) = request.private_key {
            key[0] &= 0xF8;
            key[31] = key[31] & 0x7F | 0x40;
            self.private_key = (request.private_key != Some([0; 32])).then_some(key);
        }
        let own = self.private_key.as_ref().map(public);
        self.peers.retain(|(key, _)| Some(*key) != own);
        for given in &request.peers {
            let exists = self.peers.iter().any(|(key, _)| *key == given.public_key);
            if own == Some(given.public_key) || !exists && (given.remove || given.update_only) {
                continue;
            }
            if given.remove {
                self.peers.retain(|(key, _)| *key != given.public_key);
                continue;
            }
            if !exists {
                self.peers.push((given.public_key, ModelPeer::default()));
            }
            let at = self.peers.iter().position(|(key, _)| *key == given.public_key).unwrap();
            let peer = &mut self.peers[at].1;
            peer.preshared_key = given.preshared_key.unwrap_or(peer.preshared_key);
            peer.endpoint = given.endpoint.or(peer.endpoint);
            peer.keepalive = given.keepalive.unwrap_or(peer.keepalive);
            if given.replace_allowed_ips {
                peer.allowed_ips.clear();
            }
            for (address, cidr, remove) in &given.allowed_ips {
                let prefix = (masked(*address, *cidr), *cidr);
                if *remove {
                    self.peers[at].1.allowed_ips.retain(|own| *own != prefix);
                } else {
                    for (_, peer) in &mut self.peers {
                        peer.allowed_ips.retain(|other| *other != prefix);
                    }
                    self.peers[at].1.allowed_ips.push(prefix);
                }
            }
        }
        true
    }

    pub(crate) fn owner(&self, address: IpAddr) -> Option<[u8; 32]> {
        let prefixes = self
            .peers
            .iter()
            .flat_map(|(key, peer)| peer.allowed_ips.iter().map(move |p| (key, p)));
        prefixes
            .filter(|(_, (network, cidr))| {
                network.is_ipv4() == address.is_ipv4() && masked(address, *cidr) == *network
            })
            .max_by_key(|(_, (_, cidr))| *cidr)
            .map(|(key, _)| *key)
    }
}
