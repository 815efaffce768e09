//! Reads a file that may hold keys: what is read is wiped, and so is every smaller buffer it outgrew.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use zeroize::Zeroizing;

/// The longest file: room for a million peers.
const MAX_LEN: usize = 512 << 20;
/// What is read at first of what has no length, such as a pipe.
const FIRST: usize = 16 << 10;

/// Reads all of `path`.
///
/// # Errors
///
/// Whatever reading says; `FileTooLarge` beyond 512 MiB.
pub fn read(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    let file = File::open(path)?;
    let len = file.metadata()?.len();
    read_all(file, usize::try_from(len).unwrap_or(MAX_LEN))
}

/// Reads to the end of `source`, which is perhaps `len` bytes long.
///
/// # Errors
///
/// As [`read`].
pub fn read_all(mut source: impl Read, len: usize) -> io::Result<Zeroizing<Vec<u8>>> {
    // One more: the end is seen without growing.
    let mut room = len.saturating_add(1).clamp(FIRST, MAX_LEN);
    let mut buffer = Zeroizing::new(vec![0; room]);
    let mut filled = 0;
    loop {
        match source.read(buffer.get_mut(filled..).unwrap_or_default()) {
            Ok(0) if filled < room => break,
            Ok(0) => {
                if room >= MAX_LEN {
                    return Err(io::ErrorKind::FileTooLarge.into());
                }
                room = room.saturating_mul(2).min(MAX_LEN);
                let mut larger = Zeroizing::new(vec![0; room]);
                if let Some(front) = larger.get_mut(..filled) {
                    front.copy_from_slice(&buffer);
                }
                buffer = larger;
            }
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    buffer.truncate(filled);
    Ok(buffer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_is_read_whatever_was_said_of_its_length() {
        for len in [0, 1, FIRST - 1, FIRST, FIRST + 1, 5 * FIRST] {
            let bytes: Vec<_> = (0..len).map(|at| at as u8).collect();
            for said in [0, len, 10 * FIRST] {
                assert_eq!(*read_all(&bytes[..], said).unwrap(), bytes, "{len}, said to be {said}");
            }
        }
        assert!(read(Path::new("/nonexistent")).is_err());
    }
}
