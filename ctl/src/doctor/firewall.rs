//! What Windows' firewall does with the datagrams of a peer that begins.
//!
//! Who was sent something may answer, whatever the rules are. A peer whose endpoint is not known has to begin, and a rule has to let it in.
//!
//! Source: [MS-GPFAS] 2.2.2, for the texts of rules; <https://learn.microsoft.com/windows/security/operating-system-security/network-security/windows-firewall/rules>,
//! for the order in which they count.

use super::Finding;

/// UDP. [IANA, Assigned Internet Protocol Numbers]
const UDP: &str = "17";

/// What was read of the firewall.
pub struct Firewall {
    /// Whether a profile is on that refuses what no rule lets in.
    pub refuses: bool,
    /// The texts of its rules.
    pub rules: Vec<String>,
}

/// A rule for datagrams that come in to a port.
struct Matching<'a> {
    blocks: bool,
    name: &'a str,
    /// It also asks for something else: who sends, by which interface, in which profile.
    is_narrow: bool,
}

/// The finding of an interface that listens on `port`, with peers of which `waited_for` have to begin.
#[must_use]
pub fn finding(about: String, firewall: &Firewall, port: u16, waited_for: usize) -> Finding {
    let said = |text: &str, rule: &Matching<'_>| {
        let some = if rule.is_narrow { ", from some" } else { "" };
        format!("the rule `{}` {text} UDP port {port}{some}", rule.name)
    };
    let rules: Vec<_> = firewall.rules.iter().filter_map(|rule| matching(rule, port)).collect();
    let blocks = |rule: &&Matching<'_>| rule.blocks;
    match (rules.iter().find(blocks), rules.iter().find(|rule| !rule.blocks)) {
        _ if !firewall.refuses => Finding::good(about, "off, or lets everything in"),
        (Some(rule), _) => Finding::bad(
            about,
            said("blocks", rule),
            "a rule that blocks comes before those that allow: `Get-NetFirewallRule -DisplayName NAME`",
        ),
        (None, Some(rule)) => Finding::good(about, said("lets in", rule)),
        (None, None) if waited_for == 0 => Finding::good(
            about,
            "lets peers in that were sent something, and every peer has an endpoint",
        ),
        (None, None) => Finding::bad(
            about,
            format!(
                "no rule lets in UDP port {port}, and {waited_for} of the peers have no endpoint: they have to begin"
            ),
            format!(
                "`New-NetFirewallRule -DisplayName Penstock -Direction Inbound -Protocol UDP -LocalPort {port} -Action Allow`, as an administrator"
            ),
        ),
    }
}

/// What a rule does with datagrams that come in to `port`; nothing, if it is of something else or is not active.
fn matching(rule: &str, port: u16) -> Option<Matching<'_>> {
    let mut found = Matching { blocks: false, name: "", is_narrow: false };
    let (mut is_active, mut is_inbound, mut ports) = (false, false, None);
    // The first part is the version.
    for (key, value) in rule.split('|').skip(1).filter_map(|part| part.split_once('=')) {
        match key {
            "Action" => match value {
                "Allow" | "ByPass" => {}
                "Block" => found.blocks = true,
                _ => return None,
            },
            "Active" => is_active = value.eq_ignore_ascii_case("TRUE"),
            "Dir" => is_inbound = value == "In",
            "Protocol" if value != UDP => return None,
            "LPort" | "LPort2_10" => {
                let has = range(value).is_some_and(|(first, last)| (first..=last).contains(&port));
                ports = Some(ports.unwrap_or(false) || has);
            }
            // Of another program. The driver's sockets are the system's, or the service's that made the adapter.
            "App" if !is_ours(value) => return None,
            "Svc" if value != "*" && !value.starts_with("PenstockTunnel$") => return None,
            "Name" => found.name = value,
            // What is said of the rule.
            "Protocol" | "App" | "Svc" | "Desc" | "EmbedCtxt" | "Edge" | "Defer" => {}
            // Of packages of the store.
            "AppPkgId" | "LUOwn" => return None,
            _ => found.is_narrow = true,
        }
    }
    (is_active && is_inbound && ports != Some(false)).then_some(found)
}

fn range(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    Some((first.parse().ok()?, last.parse().ok()?))
}

fn is_ours(program: &str) -> bool {
    let name = program.rsplit('\\').next().unwrap_or_default();
    name.eq_ignore_ascii_case("System") || name.eq_ignore_ascii_case("penstock.exe")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(rules: &[&str], waited_for: usize) -> String {
        let rules = rules.iter().map(ToString::to_string).collect();
        finding("t: firewall".to_owned(), &Firewall { refuses: true, rules }, 51820, waited_for)
            .to_string()
    }

    #[test]
    fn a_rule_lets_in_what_it_says() {
        const FRONT: &str = "v2.31|Action=Allow|Active=TRUE|Dir=In|";
        for rest in [
            "Protocol=17|LPort=51820|Name=x|",
            "Protocol=17|LPort=7|LPort=51820|Name=x|",
            "Protocol=17|LPort2_10=51000-52000|App=System|Name=x|",
            r"App=C:\Program Files\Penstock\penstock.exe|Name=x|",
            "Name=x|",
        ] {
            assert_eq!(
                found(&[&format!("{FRONT}{rest}")], 1),
                "ok  t: firewall: the rule `x` lets in UDP port 51820\n"
            );
        }
        let narrow =
            format!("{FRONT}Protocol=17|LPort=51820|RA4=10.0.0.0/255.0.0.0|Profile=Domain|Name=x|");
        assert!(found(&[&narrow], 1).ends_with("UDP port 51820, from some\n"));
        for rule in [
            "v2.31|Action=Allow|Active=FALSE|Dir=In|Protocol=17|LPort=51820|Name=x|",
            "v2.31|Action=Allow|Active=TRUE|Dir=Out|Protocol=17|LPort=51820|Name=x|",
            "v2.31|Action=Allow|Active=TRUE|Dir=In|Protocol=6|LPort=51820|Name=x|",
            "v2.31|Action=Allow|Active=TRUE|Dir=In|Protocol=17|LPort=51821|Name=x|",
            "v2.31|Action=Allow|Active=TRUE|Dir=In|Protocol=17|LPort=RPC|Name=x|",
            r"v2.31|Action=Allow|Active=TRUE|Dir=In|App=C:\other.exe|Name=x|",
            "v2.31|Action=Allow|Active=TRUE|Dir=In|Svc=dnscache|Name=x|",
            "v2.31|Action=?|Active=TRUE|Dir=In|Name=x|",
            "",
            "|||=|",
        ] {
            let told = found(&[rule], 2);
            assert!(
                told.starts_with("BAD t: firewall: no rule lets in UDP port 51820, and 2 of"),
                "{rule}: {told}"
            );
            assert!(found(&[rule], 0).starts_with("ok "), "{rule}");
        }
    }

    #[test]
    fn what_blocks_comes_first_and_what_is_off_blocks_nothing() {
        let allow = "v2.31|Action=Allow|Active=TRUE|Dir=In|Protocol=17|LPort=51820|Name=x|";
        let block = "v2.31|Action=Block|Active=TRUE|Dir=In|Protocol=17|Name=y|";
        for rules in [[allow, block], [block, allow]] {
            assert!(
                found(&rules, 0)
                    .starts_with("BAD t: firewall: the rule `y` blocks UDP port 51820\n")
            );
        }
        let off = Firewall { refuses: false, rules: vec![block.to_owned()] };
        assert!(finding(String::new(), &off, 1, 1).advice.is_none());
    }
}
