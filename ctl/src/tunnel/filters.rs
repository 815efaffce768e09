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

/// One condition of a filter. Those of one kind are alternatives, and one of each kind has to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// The program is this process's.
    OwnProgram,
    /// It is the service's by its SID, or the account's where no service is.
    OwnAccount,
    /// It stays on this machine.
    Loopback,
    /// It goes through the tunnel's adapter.
    Adapter,
    /// Its protocol is this.
    Protocol(u8),
    /// Its port at this end is this; of ICMP, its type.
    LocalPort(u16),
    /// Its port at the other end is this; of ICMP, its code.
    RemotePort(u16),
    /// Its other end is this.
    Remote(IpAddr),
}

/// Numbers of protocols. [IANA, Assigned Internet Protocol Numbers]
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;
/// The port of DNS.
const DNS: u16 = 53;

impl Filter {
    /// The filter's conditions on IPv4 or IPv6; none where it has nothing to match there.
    #[must_use]
    pub fn conditions(&self, is_ipv4: bool) -> Option<Vec<Condition>> {
        use Condition::{LocalPort, Protocol, Remote, RemotePort};
        let dns = [Protocol(TCP), Protocol(UDP), RemotePort(DNS)];
        Some(match &self.matches {
            Match::OwnService => vec![Condition::OwnProgram, Condition::OwnAccount],
            Match::Loopback => vec![Condition::Loopback],
            Match::Tunnel => vec![Condition::Adapter],
            Match::DnsTo(servers) => {
                let servers = servers.iter().filter(|server| server.is_ipv4() == is_ipv4);
                let servers: Vec<_> = servers.map(|server| Remote(*server)).collect();
                // A filter without a server would match all of them.
                if servers.is_empty() {
                    return None;
                }
                [servers, dns.to_vec()].concat()
            }
            Match::Dns => dns.to_vec(),
            Match::Dhcp if is_ipv4 => vec![Protocol(UDP), LocalPort(68), RemotePort(67)],
            Match::Dhcp => vec![Protocol(UDP), LocalPort(546), RemotePort(547)],
            Match::NeighbourDiscovery if is_ipv4 => return None,
            Match::NeighbourDiscovery => {
                let types = (133..=137).map(LocalPort);
                [Protocol(ICMPV6), RemotePort(0)].into_iter().chain(types).collect()
            }
            Match::All => Vec::new(),
        })
    }
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
    use std::mem::discriminant;

    use super::*;

    /// What a connection is, as the conditions that hold for it.
    fn passes(filters: &[Filter], to: &str, holding: &[Condition]) -> bool {
        let to: IpAddr = to.parse().unwrap();
        let holds = |condition: &Condition| {
            holding.contains(condition) || *condition == Condition::Remote(to)
        };
        let matches = |filter: &&Filter| {
            let conditions = filter.conditions(to.is_ipv4());
            conditions.is_some_and(|conditions| {
                let of_kind = |kind: &Condition| {
                    let kind = discriminant(kind);
                    conditions.iter().filter(move |other| discriminant(*other) == kind)
                };
                conditions.iter().all(|condition| of_kind(condition).any(holds))
            })
        };
        filters.iter().find(matches).expect("the last matches all").permit
    }

    #[test]
    fn nothing_leaves_beside_the_tunnel_but_what_has_to() {
        use Condition::{
            Adapter, LocalPort, Loopback, OwnAccount, OwnProgram, Protocol, RemotePort,
        };
        let named = kill_switch(&["10.0.0.53".parse().unwrap()]);
        let any = kill_switch(&[]);
        let dns = [Protocol(UDP), RemotePort(53), LocalPort(50_000)];
        let dns_inside = [Protocol(TCP), RemotePort(53), Adapter];
        let web = [Protocol(TCP), RemotePort(443)];
        let dhcp = [Protocol(UDP), LocalPort(68), RemotePort(67)];
        let dhcp6 = [Protocol(UDP), LocalPort(546), RemotePort(547)];
        for (to, holding, with_dns, without) in [
            ("192.0.2.1", &web[..], false, false),
            ("2001:db8::1", &web, false, false),
            ("192.0.2.1", &[Adapter, Protocol(TCP), RemotePort(443)], true, true),
            ("2001:db8::1", &[Adapter], true, true),
            ("192.0.2.1", &[OwnProgram, OwnAccount, Protocol(UDP)], true, true),
            ("2001:db8::1", &[OwnProgram, OwnAccount, Protocol(UDP)], true, true),
            // Another process of this program, or another program of this account.
            ("192.0.2.1", &[OwnProgram, Protocol(UDP), RemotePort(51820)], false, false),
            ("2001:db8::1", &[OwnAccount, Protocol(UDP), RemotePort(51820)], false, false),
            ("127.0.0.1", &[Loopback, Protocol(UDP), RemotePort(53)], true, true),
            ("10.0.0.53", &dns, true, false),
            ("10.0.0.53", &web, false, false),
            ("192.0.2.53", &dns, false, false),
            ("192.0.2.53", &dns_inside, false, true),
            // No server of this family is named.
            ("2001:db8::53", &dns, false, false),
            ("2001:db8::53", &dns_inside, false, true),
            ("255.255.255.255", &dhcp, true, true),
            ("ff02::1:2", &dhcp6, true, true),
            ("ff02::1:2", &dhcp, false, false),
            ("ff02::2", &[Protocol(ICMPV6), LocalPort(133), RemotePort(0)], true, true),
            ("ff02::2", &[Protocol(ICMPV6), LocalPort(128), RemotePort(0)], false, false),
            ("ff02::2", &[Protocol(UDP), LocalPort(133), RemotePort(0)], false, false),
        ] {
            assert_eq!(passes(&named, to, holding), with_dns, "{to} {holding:?}");
            assert_eq!(passes(&any, to, holding), without, "{to} {holding:?}, no server");
        }
    }

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
