//! Files of tunnels that the system alone reads; a readable one becomes one, and nothing readable is left.

use std::io::{self, Read, Seek, Write};
use std::path::Path;

use super::{dpapi, files};

/// What is written at a time over what was readable.
const ZEROS: [u8; 4096] = [0; 4096];

/// [`write`]s what the readable file `plain` says, which is `bytes`; then overwrites and removes it.
///
/// # Errors
///
/// What Windows says; the readable file is still there then.
pub fn seal(mut plain: std::fs::File, bytes: &[u8], sealed: &Path, name: &str) -> io::Result<()> {
    write(bytes, sealed, name)?;
    plain.rewind()?;
    let mut left = plain.metadata()?.len();
    while left > 0 {
        let len = ZEROS.len().min(usize::try_from(left).unwrap_or(ZEROS.len()));
        plain.write_all(ZEROS.get(..len).unwrap_or_default())?;
        left -= len as u64;
    }
    plain.sync_all()?;
    files::remove(plain)
}

/// Encrypts `bytes` into `sealed`, as the tunnel `name`. It is the old one or the new one, whenever this ends.
///
/// # Errors
///
/// What Windows says.
pub fn write(bytes: &[u8], sealed: &Path, name: &str) -> io::Result<()> {
    let fresh = sealed.with_extension("dpapi.new");
    match std::fs::remove_file(&fresh) {
        // Left by one that was interrupted.
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = files::create(&fresh)?;
    file.write_all(&dpapi::protect(bytes, name)?)?;
    file.sync_all()?;
    // As it lies on the disk, before anything goes.
    file.rewind()?;
    let mut written = Vec::new();
    file.read_to_end(&mut written)?;
    drop(file);
    if *dpapi::unprotect(&written, name)? != bytes {
        return Err(io::ErrorKind::InvalidData.into());
    }
    files::replace(&fresh, sealed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_readable_file_is_gone_when_the_encrypted_one_can_be_read() {
        let folder = std::env::temp_dir().join(format!("penstock-seal-{}", std::process::id()));
        files::create_folder(&folder).unwrap();
        let (plain, sealed) = (folder.join("office.conf"), folder.join("office.conf.dpapi"));
        let text = "[Interface]\n".repeat(1000);
        // What was interrupted, and what is replaced.
        files::create(&folder.join("office.conf.dpapi.new")).unwrap();
        files::create(&sealed).unwrap();
        std::fs::write(&plain, &text).unwrap();
        let file = files::open_to_remove(&plain).unwrap().file;
        seal(file, text.as_bytes(), &sealed, "office").unwrap();
        assert!(!plain.exists());
        let bytes = std::fs::read(&sealed).unwrap();
        assert_eq!(*dpapi::unprotect(&bytes, "office").unwrap(), text.as_bytes());
        assert_eq!(files::open(&sealed).unwrap().reader, None);
        std::fs::remove_file(&sealed).unwrap();
        // Nothing else is left.
        std::fs::remove_dir(&folder).unwrap();
    }
}
