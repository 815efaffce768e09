//! The values of keys, as files and the words of `set` have them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{Endpoint, Prefix, Table};
use crate::key::{FORM, PublicKey, SecretKey};

/// Longest name of a host, and longest part between its dots. [RFC 1035 §2.3.4]
const HOST_MAX: usize = 253;
const LABEL_MAX: usize = 63;
/// Least MTU of IPv4. [RFC 791]
const MTU_MIN: u16 = 576;

/// Why a text is no such value, and from which of its characters on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// Characters of the text before it.
    pub at: usize,
    /// What is wrong, without the value if it could be a secret.
    pub why: String,
}

impl Wrong {
    fn new(why: impl Into<String>) -> Self {
        Self { at: 0, why: why.into() }
    }
}

/// A public key.
///
/// # Errors
///
/// [`Wrong`].
pub fn public_key(text: &str) -> Result<PublicKey, Wrong> {
    PublicKey::parse(text).ok_or_else(no_key)
}

/// A private or preshared key.
///
/// # Errors
///
/// [`Wrong`], which does not tell the text.
pub fn secret_key(text: &str) -> Result<SecretKey, Wrong> {
    SecretKey::parse(text).ok_or_else(no_key)
}

fn no_key() -> Wrong {
    Wrong::new(format!("this is no key, which is {FORM}"))
}

/// The port to listen on; 0 is any.
///
/// # Errors
///
/// [`Wrong`].
pub fn listen_port(text: &str) -> Result<u16, Wrong> {
    number(text).ok_or_else(|| Wrong::new("a port is a number from 0 to 65535"))
}

/// `off`, or a mark of 32 bits, `0x` and hex digits or decimal.
///
/// # Errors
///
/// [`Wrong`].
pub fn fw_mark(text: &str) -> Result<u32, Wrong> {
    if text.eq_ignore_ascii_case("off") {
        return Ok(0);
    }
    let hex = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
    let mark = match hex {
        Some(digits) if digits.bytes().all(|digit| digit.is_ascii_hexdigit()) => {
            u32::from_str_radix(digits, 16).ok()
        }
        Some(_) => None,
        None => number(text),
    };
    mark.ok_or_else(|| Wrong::new("a mark is `off`, or a number from 0 to 0xffffffff"))
}

/// `off`, or seconds.
///
/// # Errors
///
/// [`Wrong`].
pub fn persistent_keepalive(text: &str) -> Result<u16, Wrong> {
    if text.eq_ignore_ascii_case("off") {
        return Ok(0);
    }
    number(text).ok_or_else(|| Wrong::new("this is `off`, or seconds from 0 to 65535"))
}

/// An MTU.
///
/// # Errors
///
/// [`Wrong`].
pub fn mtu(text: &str) -> Result<u16, Wrong> {
    let mtu = number(text).filter(|mtu| *mtu >= MTU_MIN);
    mtu.ok_or_else(|| Wrong::new("an MTU is a number from 576 to 65535"))
}

/// `off`, `auto` (`main` is the same), or the number of a table.
///
/// # Errors
///
/// [`Wrong`].
pub fn table(text: &str) -> Result<Table, Wrong> {
    if text.eq_ignore_ascii_case("off") {
        return Ok(Table::Off);
    }
    if text.eq_ignore_ascii_case("auto") || text.eq_ignore_ascii_case("main") {
        return Ok(Table::Auto);
    }
    let table = number(text).map(Table::Number);
    table.ok_or_else(|| Wrong::new("this is `off`, `auto`, or the number of a table"))
}

/// `true` or `false`.
///
/// # Errors
///
/// [`Wrong`].
pub fn truth(text: &str) -> Result<bool, Wrong> {
    text.parse().map_err(|_| Wrong::new("this is `true` or `false`"))
}

/// An address, with or without a prefix length.
///
/// # Errors
///
/// [`Wrong`].
pub fn prefix(text: &str) -> Result<Prefix, Wrong> {
    let (address, length) = match text.split_once('/') {
        Some((address, length)) => (address, Some(length)),
        None => (text, None),
    };
    let no_address = || Wrong::new(format!("`{text}` is no address, nor ADDRESS/LENGTH"));
    let address: IpAddr = address.parse().map_err(|_| no_address())?;
    let bits = if address.is_ipv4() { 32 } else { 128 };
    let length = match length {
        None => Some(bits),
        Some(length) => number(length).filter(|length| *length <= bits),
    };
    let at = text.find('/').map_or(0, |at| at + 1);
    let length = length.ok_or_else(|| Wrong {
        at,
        why: format!("the length of this prefix is from 0 to {bits}"),
    })?;
    Ok(Prefix { address, length })
}

/// The prefix without its host bits.
#[must_use]
pub fn network(prefix: Prefix) -> Prefix {
    let host = |bits: u32| bits - u32::from(prefix.length).min(bits);
    let address = match prefix.address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(host(32)).unwrap_or(0);
            IpAddr::V4((address.to_bits() & mask).into())
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(host(128)).unwrap_or(0);
            IpAddr::V6((address.to_bits() & mask).into())
        }
    };
    Prefix { address, ..prefix }
}

/// `ADDRESS:PORT`, an IPv6 address in brackets, or `NAME:PORT`.
///
/// # Errors
///
/// [`Wrong`].
pub fn endpoint(text: &str) -> Result<Endpoint, Wrong> {
    match text.parse::<SocketAddr>() {
        Ok(address) if address.port() != 0 => return Ok(Endpoint::Address(address)),
        _ if text.starts_with('[') => return Err(bracketed(text)),
        _ => {}
    }
    let Some((host, port)) = text.rsplit_once(':') else { return Err(no_port(text)) };
    if host.contains(':') {
        let is_address = text.parse::<Ipv6Addr>().is_ok() || host.parse::<Ipv6Addr>().is_ok();
        let what = if is_address {
            "an IPv6 address stands in brackets"
        } else {
            "this is no IPv6 address"
        };
        return Err(Wrong::new(format!("{what}: [ADDRESS]:PORT")));
    }
    if host.parse::<Ipv4Addr>().is_ok() {
        return Err(port_of(host));
    }
    host_name(host)?;
    let port = number(port).filter(|port| *port != 0).ok_or_else(|| port_of(host))?;
    Ok(Endpoint::Host(host.to_owned(), port))
}

/// What is wrong with an endpoint that begins with a bracket.
fn bracketed(text: &str) -> Wrong {
    let Some((before, behind)) = text.rsplit_once(']') else {
        return Wrong::new("the bracket is not closed: [ADDRESS]:PORT");
    };
    let (address, scope) = match before.split_once('%') {
        Some((address, scope)) => (address, Some(scope)),
        None => (before, None),
    };
    if address.trim_start_matches('[').parse::<Ipv6Addr>().is_err() {
        return Wrong::new("this is no IPv6 address: [ADDRESS]:PORT");
    }
    if scope.is_some_and(|scope| number::<u32>(scope).is_none()) {
        let at = address.chars().count() + 1;
        return Wrong { at, why: "a scope is the number of an interface".to_owned() };
    }
    if behind.is_empty() { no_port(text) } else { port_of(&format!("{before}]")) }
}

fn no_port(text: &str) -> Wrong {
    let why = "the port is missing: an endpoint is HOST:PORT".to_owned();
    Wrong { at: text.chars().count(), why }
}

fn port_of(host: &str) -> Wrong {
    let at = host.chars().count() + 1;
    Wrong { at, why: "the port of an endpoint is a number from 1 to 65535".to_owned() }
}

/// Whether `name` can be that of a host: labels of ASCII letters, digits, hyphens and underscores.
///
/// # Errors
///
/// [`Wrong`].
pub fn host_name(name: &str) -> Result<(), Wrong> {
    let labels = || name.strip_suffix('.').unwrap_or(name).split('.');
    let stranger = name.chars().position(|c| !(c.is_ascii_alphanumeric() || "-_.".contains(c)));
    if let Some(at) = stranger {
        let why = if name.is_ascii() {
            "this character is in no name of a host"
        } else {
            "a name of a host is written in ASCII (`xn--...`)"
        };
        return Err(Wrong { at, why: why.to_owned() });
    }
    if name.is_empty()
        || name.len() > HOST_MAX
        || labels().any(|label| label.is_empty() || label.len() > LABEL_MAX)
    {
        return Err(Wrong::new("this is no name of a host"));
    }
    // Resolvers read 1.2.3 and 0x7f.1 as addresses of IPv4.
    let last = labels().next_back().unwrap_or_default();
    if last.bytes().all(|digit| digit.is_ascii_digit()) || last.starts_with("0x") {
        return Err(Wrong::new(format!("`{name}` is no IPv4 address")));
    }
    Ok(())
}

/// A number in its one spelling: no sign, no leading zeros.
pub(crate) fn number<N: std::str::FromStr>(text: &str) -> Option<N> {
    let plain = text.bytes().all(|digit| digit.is_ascii_digit());
    let spelled = plain && (text == "0" || !text.starts_with('0'));
    spelled.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints() {
        for (text, endpoint) in [
            ("192.0.2.1:1", "192.0.2.1:1"),
            ("[2001:db8::1]:65535", "[2001:db8::1]:65535"),
            ("[fe80::1%3]:51820", "[fe80::1%3]:51820"),
            ("vpn.example.com:51820", "vpn.example.com:51820"),
            ("vpn.example.com.:51820", "vpn.example.com.:51820"),
            ("a_b-1:2", "a_b-1:2"),
        ] {
            assert_eq!(super::endpoint(text).unwrap().to_string(), endpoint);
        }
        for (text, at, why) in [
            ("", 0, "the port is missing"),
            ("192.0.2.1", 9, "the port is missing"),
            ("192.0.2.1:0", 10, "from 1 to 65535"),
            ("192.0.2.1:65536", 10, "from 1 to 65535"),
            ("192.0.2.256:1", 0, "`192.0.2.256` is no IPv4 address"),
            ("1.2.3:1", 0, "is no IPv4 address"),
            ("host:", 5, "from 1 to 65535"),
            ("host:http", 5, "from 1 to 65535"),
            ("host:01", 5, "from 1 to 65535"),
            (":1", 0, "no name of a host"),
            ("a..b:1", 0, "no name of a host"),
            ("ho st:1", 2, "in no name of a host"),
            ("höst:1", 1, "xn--"),
            ("2001:db8::1", 0, "in brackets"),
            ("2001:db8::1:51820", 0, "in brackets"),
            ("[2001:db8::1]", 13, "the port is missing"),
            ("[2001:db8::1", 0, "not closed"),
            ("[2001:db8::1]:x", 14, "from 1 to 65535"),
            ("[2001:db8::1]:0", 14, "from 1 to 65535"),
            ("[x]:1", 0, "no IPv6 address"),
            ("[fe80::1%eth0]:1", 9, "number of an interface"),
            ("[::1]1", 6, "from 1 to 65535"),
            ("2001::g:1", 0, "no IPv6 address"),
        ] {
            let wrong = super::endpoint(text).unwrap_err();
            assert!(wrong.at == at && wrong.why.contains(why), "{text}: {wrong:?}");
        }
    }

    #[test]
    fn prefixes() {
        for (text, prefix, network) in [
            ("10.1.2.3", "10.1.2.3/32", "10.1.2.3/32"),
            ("10.1.2.3/8", "10.1.2.3/8", "10.0.0.0/8"),
            ("1.2.3.4/0", "1.2.3.4/0", "0.0.0.0/0"),
            ("fd00::1", "fd00::1/128", "fd00::1/128"),
            ("fd00::1/64", "fd00::1/64", "fd00::/64"),
            ("fd00::1/0", "fd00::1/0", "::/0"),
        ] {
            let read = super::prefix(text).unwrap();
            assert_eq!(read.to_string(), prefix);
            assert_eq!(super::network(read).to_string(), network);
        }
        for (text, at) in [
            ("", 0),
            ("10.0.0", 0),
            ("10.0.0.0/33", 9),
            ("::/129", 3),
            ("::/", 3),
            ("::/+1", 3),
            ("::/01", 3),
            ("::/1/1", 3),
        ] {
            assert_eq!(super::prefix(text).unwrap_err().at, at, "{text}");
        }
    }

    #[test]
    fn numbers_and_words() {
        for (text, mark) in [
            ("off", Some(0)),
            ("OFF", Some(0)),
            ("0", Some(0)),
            ("0x10", Some(16)),
            ("0XfF", Some(255)),
            ("4294967295", Some(u32::MAX)),
            ("4294967296", None),
            ("0x100000000", None),
            ("0x", None),
            ("0x+1", None),
            ("-1", None),
            ("", None),
        ] {
            assert_eq!(fw_mark(text).ok(), mark, "{text}");
        }
        for (text, seconds) in [
            ("off", Some(0)),
            ("0", Some(0)),
            ("65535", Some(65535)),
            ("65536", None),
            ("on", None),
        ] {
            assert_eq!(persistent_keepalive(text).ok(), seconds, "{text}");
        }
        for (text, bytes) in
            [("575", None), ("576", Some(576)), ("65535", Some(65535)), ("65536", None), ("", None)]
        {
            assert_eq!(mtu(text).ok(), bytes, "{text}");
        }
        for (text, port) in
            [("0", Some(0)), ("65535", Some(65535)), ("65536", None), ("", None), (" 1", None)]
        {
            assert_eq!(listen_port(text).ok(), port, "{text}");
        }
        for (text, table) in [
            ("off", Some(Table::Off)),
            ("Auto", Some(Table::Auto)),
            ("main", Some(Table::Auto)),
            ("7", Some(Table::Number(7))),
            ("x", None),
        ] {
            assert_eq!(super::table(text).ok(), table, "{text}");
        }
    }
}
