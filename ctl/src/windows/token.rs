//! Who a process runs as, and what it may do besides.

use std::io;
use std::os::windows::io::{AsRawHandle, FromRawHandle, OwnedHandle};
use std::ptr::{null, null_mut};

use windows_sys::Win32::Foundation::{HANDLE, LUID};
use windows_sys::Win32::Security::{
    AdjustTokenPrivileges, CheckTokenMembership, GetTokenInformation, LookupPrivilegeValueW,
    SE_PRIVILEGE_REMOVED, TOKEN_ADJUST_PRIVILEGES, TOKEN_INFORMATION_CLASS, TOKEN_PRIVILEGES,
    TOKEN_QUERY, TokenPrivileges, TokenUser,
};
use windows_sys::Win32::System::Threading::{GetCurrentProcess, OpenProcessToken};

use super::wide::wide;
use crate::service::descriptor::Sid;

/// Bytes of a LUID_AND_ATTRIBUTES, and of the count before the first.
const PRIVILEGE_LEN: usize = 12;
const COUNT_LEN: usize = 4;

/// The token of this process.
pub struct Token(OwnedHandle);

impl Token {
    /// Opens it.
    ///
    /// # Errors
    ///
    /// What Windows says.
    pub fn of_process() -> io::Result<Self> {
        // SAFETY: takes nothing, and what it gives need not be closed.
        let process = unsafe { GetCurrentProcess() };
        let mut token = null_mut();
        // SAFETY: the process is this one; a place for the handle.
        super::done(unsafe {
            OpenProcessToken(process, TOKEN_QUERY | TOKEN_ADJUST_PRIVILEGES, &raw mut token)
        })?;
        // SAFETY: it was just opened, and nobody else has it.
        Ok(Self(unsafe { OwnedHandle::from_raw_handle(token) }))
    }

    /// The account.
    ///
    /// # Errors
    ///
    /// What Windows says.
    pub fn user(&self) -> io::Result<Sid> {
        let words = information(self.0.as_raw_handle(), TokenUser)?;
        let bytes = bytes_of(&words);
        // TOKEN_USER begins with the address of the SID, which lies behind it.
        let address = bytes.first_chunk().map(|word| usize::from_le_bytes(*word));
        let at = address.and_then(|address| address.checked_sub(bytes.as_ptr().addr()));
        let sid = at.and_then(|at| Sid::parse(bytes.get(at..)?));
        sid.ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// Gives up all privileges but those of these names, for good.
    ///
    /// # Errors
    ///
    /// What Windows says; nothing may be done then that needed fewer.
    pub fn keep_only(&self, names: &[&str]) -> io::Result<()> {
        let kept = names.iter().map(|name| luid_of(name)).collect::<io::Result<Vec<_>>>()?;
        for luid in self.privileges()?.into_iter().filter(|luid| !kept.contains(luid)) {
            let (low, high) = (luid as u32, (luid >> 32) as i32);
            let mut removed = TOKEN_PRIVILEGES { PrivilegeCount: 1, ..Default::default() };
            removed.Privileges[0].Luid = LUID { LowPart: low, HighPart: high };
            removed.Privileges[0].Attributes = SE_PRIVILEGE_REMOVED;
            // SAFETY: the token is open for it; one privilege, and no place for what it was.
            super::done(unsafe {
                AdjustTokenPrivileges(
                    self.0.as_raw_handle(),
                    0,
                    &raw const removed,
                    0,
                    null_mut(),
                    null_mut(),
                )
            })?;
        }
        Ok(())
    }

    /// The privileges, as numbers.
    fn privileges(&self) -> io::Result<Vec<u64>> {
        let words = information(self.0.as_raw_handle(), TokenPrivileges)?;
        let bytes = bytes_of(&words);
        let count = bytes.first_chunk().map_or(0, |count| u32::from_le_bytes(*count) as usize);
        let rows = bytes.get(COUNT_LEN..).unwrap_or_default().chunks_exact(PRIVILEGE_LEN);
        let luids = rows.take(count).filter_map(|row| row.first_chunk());
        Ok(luids.map(|luid| u64::from_le_bytes(*luid)).collect())
    }
}

/// Whether this thread is of a group, or a service, and that in force: as the process, or as whom it acts for.
pub(super) fn is_of(group: &Sid) -> io::Result<bool> {
    let mut sid = group.bytes();
    let mut is_one = 0;
    // SAFETY: the token of this thread; a whole SID, and a place for the answer.
    super::done(unsafe {
        CheckTokenMembership(null_mut(), sid.as_mut_ptr().cast(), &raw mut is_one)
    })?;
    Ok(is_one != 0)
}

fn luid_of(name: &str) -> io::Result<u64> {
    let (name, mut luid) = (wide(name), LUID::default());
    // SAFETY: this machine; the name ends with a NUL; a place for the number.
    super::done(unsafe { LookupPrivilegeValueW(null(), name.as_ptr(), &raw mut luid) })?;
    Ok(u64::from(luid.LowPart) | u64::from(luid.HighPart.cast_unsigned()) << 32)
}

/// What a token says of itself, in words, so that structures in it are aligned.
fn information(token: HANDLE, class: TOKEN_INFORMATION_CLASS) -> io::Result<Vec<u64>> {
    let mut words = vec![0_u64; 512];
    let mut len = 0;
    // SAFETY: the token is open for it; the buffer has this many bytes.
    super::done(unsafe {
        GetTokenInformation(
            token,
            class,
            words.as_mut_ptr().cast(),
            size_of_val(&*words) as u32,
            &raw mut len,
        )
    })?;
    words.truncate((len as usize).div_ceil(size_of::<u64>()));
    Ok(words)
}

fn bytes_of(words: &[u64]) -> &[u8] {
    // SAFETY: the same memory, every byte of which was written.
    unsafe { std::slice::from_raw_parts(words.as_ptr().cast(), size_of_val(words)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn privileges_that_are_not_kept_are_gone() {
        let token = Token::of_process().unwrap();
        assert!(token.user().unwrap().to_string().starts_with("S-1-5-"));
        let before = token.privileges().unwrap();
        let kept = luid_of("SeChangeNotifyPrivilege").unwrap();
        assert!(before.len() > 1 && before.contains(&kept), "{before:?}");
        token.keep_only(&["SeChangeNotifyPrivilege"]).unwrap();
        assert_eq!(token.privileges().unwrap(), [kept]);
        assert!(luid_of("SeNonsensePrivilege").is_err());
    }
}
