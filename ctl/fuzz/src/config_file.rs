//! A configuration file: what is taken is printed and read again, and becomes the buffer it says; what is refused tells no key.

use abi::ioctl::Set;
use ctl::change::Change;
use ctl::config::print::{print, strip};
use ctl::config::read::{Purpose, read};
use ctl::config::{Config, Endpoint};

/// Characters in a row that may be a key.
const KEY_LIKE: usize = 40;

/// Reads `input` for every purpose.
///
/// # Panics
///
/// If a file, its text and its buffer do not say the same, or if a problem tells a key or stands nowhere.
pub(crate) fn run(input: &[u8]) {
    for purpose in
        [Purpose::Interface, Purpose::Tunnel { scripts: false }, Purpose::Tunnel { scripts: true }]
    {
        match read(input, purpose) {
            Ok(reading) => taken(&reading.config, purpose),
            Err(problems) => {
                let lines = input.split(|byte| *byte == b'\n').count();
                assert!(!problems.is_empty(), "refused for nothing");
                assert!(problems.is_sorted_by_key(|problem| problem.place));
                for problem in problems {
                    let place = problem.place;
                    assert!((1..=lines).contains(&place.line) && place.column > 0, "{problem:?}");
                    let longest = problem.what.split(|c: char| !is_base64(c)).map(str::len).max();
                    let is_key =
                        longest.is_some_and(|len| (KEY_LIKE..=KEY_LIKE + 10).contains(&len));
                    assert!(
                        !is_key || is_host(&problem.what),
                        "{problem:?} tells what may be a key"
                    );
                }
            }
        }
    }
}

fn is_base64(c: char) -> bool {
    c.is_ascii_alphanumeric() || "+/=".contains(c)
}

/// An address that is none is told as it was written, and is no key.
fn is_host(what: &str) -> bool {
    what.contains("is no IPv4 address") || what.contains("is no address")
}

fn taken(config: &Config, purpose: Purpose) {
    let text = print(config);
    let Ok(again) = read(text.as_bytes(), purpose) else { panic!("is not read again:\n{}", *text) };
    assert!(again.config == *config, "reads back otherwise:\n{}", *text);
    let stripped = strip(config);
    assert!(read(stripped.as_bytes(), Purpose::Interface).is_ok(), "{}", *stripped);

    let buffer = Change::adding(config.clone()).encode();
    let set = Set::parse(&buffer).expect("what a file says is a configuration");
    assert_eq!(set.len_bytes(), buffer.len());
    assert_eq!(set.peer_count() as usize, config.peers.len());
    assert_eq!(set.listen_port(), config.interface.listen_port);
    let key = config.interface.private_key.as_ref().map(|key| key.expose());
    assert_eq!(set.private_key(), key);
    for (written, peer) in set.peers().zip(&config.peers) {
        assert_eq!(*written.public_key(), peer.public_key.0);
        assert_eq!(written.preshared_key(), peer.preshared_key.as_ref().map(|key| key.expose()));
        assert_eq!(written.persistent_keepalive_s(), peer.persistent_keepalive);
        assert_eq!(written.allowed_ip_count() as usize, peer.allowed_ips.len());
        for (ip, prefix) in written.allowed_ips().zip(&peer.allowed_ips) {
            assert_eq!((ip.address, ip.cidr, ip.remove), (prefix.address, prefix.length, false));
        }
        match &peer.endpoint {
            Some(Endpoint::Address(address)) => assert_eq!(written.endpoint(), Some(*address)),
            _ => assert_eq!(written.endpoint(), None),
        }
    }
}
