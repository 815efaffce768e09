//! `genkey`, `genpsk` and `pubkey`.

use std::io;

use ctl::config::file;
use ctl::key::{FORM, SecretKey};
use ctl::words::said;
use zeroize::Zeroizing;

use super::{Failure, Outcome, print};

/// A new private key.
pub(crate) fn genkey() -> Outcome {
    print_secret(SecretKey::random_private())
}

/// A new preshared key.
pub(crate) fn genpsk() -> Outcome {
    print_secret(SecretKey::random())
}

fn print_secret(key: Result<SecretKey, getrandom::Error>) -> Outcome {
    warn_if_others_read();
    let key = key.map_err(|error| Failure::new("random bytes", error))?;
    let mut line = Zeroizing::new(String::with_capacity(64));
    key.write(&mut line);
    line.push('\n');
    print(&line)
}

/// The public key of the private one that is read.
pub(crate) fn pubkey() -> Outcome {
    let read = file::read_all(io::stdin().lock(), 0);
    let text = read.map_err(|error| Failure::new("standard input", said(&error)))?;
    let text = str::from_utf8(&text).unwrap_or_default().trim();
    let Some(key) = SecretKey::parse(text) else {
        return Err(Failure::Told(format!("penstock: this is no key, which is {FORM}")));
    };
    print(&format!("{}\n", key.public()))
}

/// Warns if the output is a file that everybody may read.
#[cfg(unix)]
fn warn_if_others_read() {
    use std::os::fd::AsFd;
    use std::os::unix::fs::PermissionsExt;

    let output = io::stdout().as_fd().try_clone_to_owned().map(std::fs::File::from);
    let is_read = output
        .and_then(|output| output.metadata())
        .is_ok_and(|about| about.is_file() && about.permissions().mode() & 0o007 != 0);
    if is_read {
        super::note("Warning: writing to world accessible file.");
        super::note("Consider setting the umask to 077 and trying again.");
    }
}

/// Who may read a file is inherited from its folder.
#[cfg(not(unix))]
fn warn_if_others_read() {}
