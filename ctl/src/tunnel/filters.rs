//! The kill switch: what may leave or come while a default route goes through a tunnel, and that nothing else may.
//!
//! The filters are of a session that ends with the process that made them, so that they cannot outlive it. They are in a sublayer of our
//! own, where the heaviest that matches decides, on both families whether the tunnel has both or not.
//!
//! Source: <https://learn.microsoft.com/windows/win32/fwp/filter-arbitration>; ALE layers, `FWPM_LAYER_ALE_AUTH_CONNECT_V4` and so on.

use std::fmt;
use std::net::IpAddr;

/// One filter on the layers that authorise connecting, and accepting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// Whether what matches passes.
    pub permit: bool,
    /// What matches.
    pub matches: Match,
    /// The heavier is asked first.
    pub weight: u8,
}

/// What a filter matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Match {
    /// What the tunnel's own service sends and receives; the driver's sockets are its, too.
    OwnService,
    /// What stays on this machine.
    Loopback,
    /// What goes through the tunnel's adapter.
    Tunnel,
    /// DNS to one of these.
    DnsTo(Vec<IpAddr>),
    /// DNS.
    Dns,
    /// DHCP, of both families.
    Dhcp,
    /// Neighbour discovery of IPv6. [RFC 4861]
    NeighbourDiscovery,
    /// Everything.
    All,
}

/// The filters of a tunnel with these servers of DNS, heaviest first.
#[must_use]
pub fn kill_switch(dns: &[IpAddr]) -> Vec<Filter> {
    let mut filters = Vec::new();
    let mut filter = |permit, matches| filters.push((permit, matches));
    filter(true, Match::OwnService);
    filter(true, Match::Loopback);
    if !dns.is_empty() {
        // Before the tunnel's: a server that is not named is not asked through it, either.
        filter(true, Match::DnsTo(dns.to_vec()));
        filter(false, Match::Dns);
    }
    filter(true, Match::Tunnel);
    filter(true, Match::Dhcp);
    filter(true, Match::NeighbourDiscovery);
    filter(false, Match::All);
    let filters = filters.into_iter().rev().zip(0..);
    let mut filters: Vec<_> =
        filters.map(|((permit, matches), weight)| Filter { permit, matches, weight }).collect();
    filters.reverse();
    filters
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", if self.permit { "permit" } else { "block" }, self.matches)
    }
}

impl fmt::Display for Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OwnService => "the tunnel's own service and the driver's sockets",
            Self::Loopback => "loopback",
            Self::Tunnel => "what goes through the tunnel",
            Self::DnsTo(servers) => {
                let servers: Vec<_> = servers.iter().map(ToString::to_string).collect();
                return write!(f, "DNS to {}", servers.join(", "));
            }
            Self::Dns => "DNS to any other",
            Self::Dhcp => "DHCP (UDP 68 to 67, and 546 to 547)",
            Self::NeighbourDiscovery => "neighbour discovery (ICMPv6 133 to 137)",
            Self::All => "everything else, IPv4 and IPv6",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_permitted_is_blocked_and_asked_last() {
        for dns in [&[][..], &["192.0.2.53".parse().unwrap()]] {
            let filters = kill_switch(dns);
            assert!(filters.is_sorted_by(|first, second| first.weight > second.weight));
            let last = filters.last().unwrap();
            assert_eq!((last.permit, &last.matches), (false, &Match::All));
            let at = |wanted: &Match| filters.iter().position(|filter| filter.matches == *wanted);
            if let (Some(named), Some(other)) = (at(&Match::DnsTo(dns.to_vec())), at(&Match::Dns)) {
                assert!(named < other && Some(other) < at(&Match::Tunnel));
            } else {
                assert!(dns.is_empty());
            }
        }
    }
}
