//! `policy=1`: values of the driver's `Parameters` key, changed while it runs.
//!
//! An addition of ours to the protocol, for `penstock-sim policy`: a line `NAME=VALUE` for each value, or `NAME=` to remove
//! it; then the driver reads its policy anew. Bounds are the driver's to look at.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use abi::policy::Policy;

/// The first line of such a request.
pub const FIRST_LINE: &str = "policy=1";

/// A policy, and the value it gets; none if it is removed.
pub type Setting = (Policy, Option<u32>);

/// Reads `NAME=VALUE` or `NAME=`; `None` if it is neither, or nobody's name.
#[must_use]
pub fn parse(line: &str) -> Option<Setting> {
    let (name, value) = line.split_once('=')?;
    let policy = Policy::ALL.iter().find(|policy| policy.name().eq_ignore_ascii_case(name))?;
    if value.is_empty() {
        return Some((*policy, None));
    }
    // One spelling for each number, as everywhere in the protocol.
    let number = value.parse::<u32>().ok().filter(|number| number.to_string() == value)?;
    Some((*policy, Some(number)))
}

/// Has the driver behind the interface `name` in `directory` follow `settings`; the answer's errno, 0 for success.
///
/// # Errors
///
/// Nobody answers there, or not in the protocol.
pub fn change(directory: &Path, name: &str, settings: &[Setting]) -> io::Result<i32> {
    let mut request = format!("{FIRST_LINE}\n");
    for (policy, value) in settings {
        let value = value.map_or_else(String::new, |value| value.to_string());
        request += &format!("{}={value}\n", policy.name());
    }
    let mut socket = UnixStream::connect(directory.join(format!("{name}.sock")))?;
    socket.write_all((request + "\n").as_bytes())?;
    socket.shutdown(std::net::Shutdown::Write)?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer)?;
    let errno =
        answer.trim_end().strip_prefix("errno=").and_then(|errno| errno.parse::<i32>().ok());
    errno.map(i32::wrapping_neg).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_has_one_spelling() {
        for (line, setting) in [
            ("SendEngine=2", Some((Policy::SendEngine, Some(2)))),
            ("sendengine=4294967295", Some((Policy::SendEngine, Some(u32::MAX)))),
            ("FastPath=", Some((Policy::FastPath, None))),
            ("FastPath", None),
            ("FastPath=1 ", None),
            ("FastPath=01", None),
            ("FastPath=+1", None),
            ("FastPath=4294967296", None),
            ("Fast=1", None),
            ("=1", None),
            ("", None),
        ] {
            assert_eq!(parse(line), setting, "{line}");
        }
    }
}
