//! Files that only this account of this machine reads: `NAME.conf.dpapi`, which is bound to the tunnel's name.

use std::io;
use std::ptr::null;

use windows_sys::Win32::Foundation::LocalFree;
use windows_sys::Win32::Security::Cryptography::{
    CRYPT_INTEGER_BLOB, CRYPTPROTECT_UI_FORBIDDEN, CryptProtectData, CryptUnprotectData,
};
use zeroize::{Zeroize, Zeroizing};

use super::wide::{pointed, wide};

/// Encrypts `bytes` as those of the tunnel `name`.
///
/// # Errors
///
/// What Windows says.
pub fn protect(bytes: &[u8], name: &str) -> io::Result<Vec<u8>> {
    let (input, name) = (blob(bytes)?, wide(name));
    let mut output = Memory::none();
    // SAFETY: the blob is `bytes`, the name ends with a NUL, and the output is a blob of ours.
    super::done(unsafe {
        CryptProtectData(
            &raw const input,
            name.as_ptr(),
            null(),
            null(),
            null(),
            CRYPTPROTECT_UI_FORBIDDEN,
            &raw mut output.0,
        )
    })?;
    Ok(output.copied().to_vec())
}

/// What [`protect`] encrypted.
///
/// # Errors
///
/// What Windows says; `InvalidData` if it was encrypted under another name.
pub fn unprotect(bytes: &[u8], name: &str) -> io::Result<Zeroizing<Vec<u8>>> {
    let input = blob(bytes)?;
    let mut output = Memory::none();
    let mut description = std::ptr::null_mut();
    // SAFETY: the blob is `bytes`; the others are places of ours.
    super::done(unsafe {
        CryptUnprotectData(
            &raw const input,
            &raw mut description,
            null(),
            null(),
            null(),
            CRYPTPROTECT_UI_FORBIDDEN,
            &raw mut output.0,
        )
    })?;
    if description_of(description) != name {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok(output.copied())
}

/// The text, which is freed.
fn description_of(description: *mut u16) -> String {
    // SAFETY: null, or the text that Windows has put there, with its NUL.
    let text = unsafe { pointed(description) };
    // SAFETY: CryptUnprotectData's, which the caller is to free, and nothing looks at it any more.
    unsafe { LocalFree(description.cast()) };
    text
}

fn blob(bytes: &[u8]) -> io::Result<CRYPT_INTEGER_BLOB> {
    let len = u32::try_from(bytes.len()).map_err(|_| io::ErrorKind::FileTooLarge)?;
    Ok(CRYPT_INTEGER_BLOB { cbData: len, pbData: bytes.as_ptr().cast_mut() })
}

/// Memory that a function of DPAPI made; wiped and freed.
struct Memory(CRYPT_INTEGER_BLOB);

impl Memory {
    fn none() -> Self {
        Self(CRYPT_INTEGER_BLOB { cbData: 0, pbData: std::ptr::null_mut() })
    }

    fn bytes(&mut self) -> &mut [u8] {
        if self.0.pbData.is_null() {
            return &mut [];
        }
        // SAFETY: DPAPI's, of this length, and ours until it is freed.
        unsafe { std::slice::from_raw_parts_mut(self.0.pbData, self.0.cbData as usize) }
    }

    fn copied(&mut self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(self.bytes().to_vec())
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.bytes().zeroize();
        // SAFETY: DPAPI's, which the caller is to free; nothing is, too.
        unsafe { LocalFree(self.0.pbData.cast()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_encrypted_is_read_under_its_name_alone() {
        let text = b"[Interface]\n";
        let sealed = protect(text, "office").unwrap();
        assert!(!sealed.windows(text.len()).any(|part| part == text));
        assert_eq!(*unprotect(&sealed, "office").unwrap(), text);
        assert_eq!(unprotect(&sealed, "home").err().unwrap().kind(), io::ErrorKind::InvalidData);
        let mut changed = sealed;
        let last = changed.len() - 1;
        changed[last] ^= 1;
        assert!(unprotect(&changed, "office").is_err());
        assert!(unprotect(b"", "office").is_err());
    }
}
