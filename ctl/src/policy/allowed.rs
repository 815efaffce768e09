//! Which tunnels may come up, and where their peers may be (`AllowedInterfaces`, `AllowedEndpoints`).
//!
//! Lists restrict, so what is wrong with one allows nothing: a part that is none, a value that is no text or cannot be read.

use std::net::IpAddr;

use abi::policy::TextPolicy;

use super::{Effective, From, GROUP, LOCAL, Registry, Value};
use crate::config::value::{network, prefix};
use crate::config::{Config, Endpoint, Prefix};
use crate::tunnel::is_name;

/// Why policy does not allow the tunnel `name` of this configuration, if it does not.
pub fn refusal(name: &str, config: &Config, registry: &impl Registry) -> Option<String> {
    let refused = |policy: TextPolicy, from: From, what: &str| {
        Some(format!("{} does not allow {what} (from {from})", policy.name()))
    };
    if let Some((parts, from)) = list(TextPolicy::AllowedInterfaces, registry)
        && !parts.iter().any(|part| is_called(part, name))
    {
        return refused(TextPolicy::AllowedInterfaces, from, &format!("the tunnel {name}"));
    }
    let (parts, from) = list(TextPolicy::AllowedEndpoints, registry)?;
    let endpoints = config.peers.iter().filter_map(|peer| peer.endpoint.as_ref());
    let is_allowed = |endpoint: &&Endpoint| match endpoint {
        Endpoint::Host(host, _) => parts.iter().any(|part| is_host(part, host)),
        Endpoint::Address(at) => parts.iter().any(|part| is_address(part, at.ip())),
    };
    let other = endpoints.into_iter().find(|endpoint| !is_allowed(endpoint))?;
    refused(TextPolicy::AllowedEndpoints, from, &format!("the endpoint {other}"))
}

/// The parts of a list that is set, and who set it.
fn list(policy: TextPolicy, registry: &impl Registry) -> Option<(Vec<String>, From)> {
    let (text, from) = text(policy, registry)?;
    Some((text.map_or_else(|_| Vec::new(), |text| parts(&text)), from))
}

/// The text of a list that is set, or why it is none, and who set it.
fn text(policy: TextPolicy, registry: &impl Registry) -> Option<(Result<String, String>, From)> {
    [(From::Group, GROUP), (From::Local, LOCAL)].into_iter().find_map(|(from, key)| {
        let text = match registry.value(key, policy.name()) {
            Ok(None) => return None,
            Ok(Some(Value::Text(text))) => Ok(text),
            Ok(Some(_)) => Err("it is no REG_SZ, and allows nothing".to_owned()),
            Err(error) => Err(format!("{}: it allows nothing", crate::words::said(&error))),
        };
        Some((text, from))
    })
}

/// What a list comes to, and what is wrong with it.
pub fn shown(policy: TextPolicy, registry: &impl Registry) -> Effective<String> {
    let Some((text, from)) = text(policy, registry) else {
        return Effective {
            value: policy.default().to_owned(),
            from: From::Default,
            refused: Vec::new(),
        };
    };
    let wrong =
        text.as_ref().map_or_else(|why| Some(why.clone()), |text| check(policy, text).err());
    let refused = wrong.map(|why| (from, why)).into_iter().collect();
    Effective { value: text.unwrap_or_else(|_| "nothing".to_owned()), from, refused }
}

fn parts(text: &str) -> Vec<String> {
    text.split(',').map(|part| part.trim().to_owned()).collect()
}

/// Whether each part of a list is one.
///
/// # Errors
///
/// Which is not, from 1 on.
pub fn check(policy: TextPolicy, text: &str) -> Result<(), String> {
    let is_part = |part: &str| match policy {
        TextPolicy::AllowedInterfaces => {
            is_name(part.strip_suffix('*').unwrap_or(part)) || part == "*"
        }
        _ => prefix(part).is_ok() || is_host_name(part.strip_prefix("*.").unwrap_or(part)),
    };
    match parts(text).iter().position(|part| !is_part(part)) {
        None => Ok(()),
        Some(at) => Err(format!("part {} of it is none, and allows nothing", at + 1)),
    }
}

/// Names of tunnels differ in more than case.
fn is_called(part: &str, name: &str) -> bool {
    match part.strip_suffix('*') {
        Some(front) => {
            name.get(..front.len()).is_some_and(|begins| begins.eq_ignore_ascii_case(front))
        }
        None => part.eq_ignore_ascii_case(name),
    }
}

fn is_host(part: &str, host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    match part.strip_prefix("*.") {
        // Below it, and not it itself.
        Some(domain) if is_host_name(domain) => {
            let front =
                host.len().checked_sub(domain.len()).and_then(|at| host.split_at_checked(at));
            front.is_some_and(|(front, end)| {
                front.len() > 1 && front.ends_with('.') && end.eq_ignore_ascii_case(domain)
            })
        }
        _ => is_host_name(part) && part.eq_ignore_ascii_case(host),
    }
}

/// Letters, digits, hyphens and dots, and not what is meant as an address.
fn is_host_name(text: &str) -> bool {
    let is_label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    text.split('.').all(is_label) && text.bytes().any(|byte| byte.is_ascii_alphabetic())
}

fn is_address(part: &str, address: IpAddr) -> bool {
    prefix(part).is_ok_and(|prefix| {
        address.is_ipv4() == prefix.address.is_ipv4()
            && network(Prefix { address, ..prefix }) == network(prefix)
    })
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::config::read::{Purpose, read};

    struct Set<'a>(&'a str, TextPolicy, Option<Value>);

    impl Registry for Set<'_> {
        fn value(&self, key: &str, name: &str) -> io::Result<Option<Value>> {
            Ok(self.2.clone().filter(|_| (key, name) == (self.0, self.1.name())))
        }
    }

    fn config(endpoints: &[&str]) -> Config {
        let mut file = "[Interface]\n".to_owned();
        for (number, endpoint) in endpoints.iter().enumerate() {
            let key = crate::key::PublicKey([number as u8 + 1; 32]);
            file += &format!("[Peer]\nPublicKey = {key}\nEndpoint = {endpoint}:51820\n");
        }
        read(file.as_bytes(), Purpose::Tunnel { scripts: false }).unwrap_or_default().config
    }

    fn refused(policy: TextPolicy, list: &str, name: &str, endpoints: &[&str]) -> Option<String> {
        let set = Set(GROUP, policy, Some(Value::Text(list.to_owned())));
        refusal(name, &config(endpoints), &set)
    }

    #[test]
    fn tunnels_are_allowed_by_their_names() {
        let allowed =
            |list, name| refused(TextPolicy::AllowedInterfaces, list, name, &[]).is_none();
        for name in ["office", "Office", "branch-1", "BRANCH-"] {
            assert!(allowed("office, branch-*", name), "{name}");
        }
        for name in ["office2", "branch", "offic"] {
            assert!(!allowed("office, branch-*", name), "{name}");
        }
        assert!(allowed("*", "any") && !allowed("", "any") && !allowed("a b", "a"));
        let why = refused(TextPolicy::AllowedInterfaces, "office", "home", &[]);
        assert_eq!(
            why.as_deref(),
            Some(
                r"AllowedInterfaces does not allow the tunnel home (from Group Policy, HKLM\SOFTWARE\Policies\Penstock)"
            )
        );
    }

    #[test]
    fn every_peer_is_where_peers_may_be() {
        const LIST: &str =
            "vpn.example.org, *.example.net, 203.0.113.0/24, 2001:db8::/32, x y, 10.0.0.300";
        let refused =
            |endpoints: &[&str]| refused(TextPolicy::AllowedEndpoints, LIST, "t", endpoints);
        for endpoint in [
            "vpn.example.org",
            "VPN.example.ORG",
            "a.example.net",
            "a.b.example.net",
            "203.0.113.255",
            "[2001:db8:1::1]",
        ] {
            assert_eq!(refused(&[endpoint]), None, "{endpoint}");
        }
        for endpoint in [
            "example.net",
            "evilexample.net",
            "vpn.example.org.evil.test",
            "203.0.114.1",
            "[2001:db9::1]",
            "10.0.0.30",
        ] {
            let why = refused(&["vpn.example.org", endpoint]).unwrap_or_default();
            assert!(why.contains(&format!("the endpoint {endpoint}:51820")), "{why}");
        }
        // Whoever has no endpoint is where it comes from.
        assert_eq!(refused(&[]), None);
    }

    #[test]
    fn nothing_set_allows_all_and_what_is_no_text_allows_nothing() {
        let config = config(&["203.0.113.1"]);
        for policy in [TextPolicy::AllowedInterfaces, TextPolicy::AllowedEndpoints] {
            assert_eq!(refusal("t", &config, &Set(GROUP, policy, None)), None);
            for key in [GROUP, LOCAL] {
                let set = Set(key, policy, Some(Value::Dword(1)));
                assert!(refusal("t", &config, &set).is_some());
            }
        }
    }

    #[test]
    fn what_is_no_part_is_told() {
        use TextPolicy::{AllowedEndpoints, AllowedInterfaces};
        for (policy, list) in [
            (AllowedInterfaces, "office, branch-*, *"),
            (AllowedEndpoints, "a, *.b.example, 10.0.0.0/8, ::/0, 10.0.0.1"),
        ] {
            assert_eq!(check(policy, list), Ok(()));
        }
        for (policy, list, part) in [
            (AllowedInterfaces, "", 1),
            (AllowedInterfaces, "office, a b", 2),
            (AllowedInterfaces, "a*b", 1),
            (AllowedEndpoints, "a, 10.0.0.0/33", 2),
            (AllowedEndpoints, "a:51820", 1),
            (AllowedEndpoints, "a, b, *", 3),
            (AllowedEndpoints, "10.0.0.300", 1),
        ] {
            assert!(
                check(policy, list).is_err_and(|why| why.contains(&format!("part {part} "))),
                "{list}"
            );
        }
    }
}
