//! Security descriptors that are given to what this program makes, from their text.

use std::io;
use std::ptr::null_mut;

use windows_sys::Win32::Foundation::LocalFree;
use windows_sys::Win32::Security::Authorization::{
    ConvertStringSecurityDescriptorToSecurityDescriptorW, SDDL_REVISION_1,
};
use windows_sys::Win32::Security::{PSECURITY_DESCRIPTOR, SECURITY_ATTRIBUTES};

use super::wide::wide;

/// A security descriptor.
pub(super) struct Access {
    descriptor: PSECURITY_DESCRIPTOR,
    len: u32,
}

impl Access {
    /// What the text says, in SDDL.
    pub(super) fn of(text: &str) -> io::Result<Self> {
        let text = wide(text);
        let (mut descriptor, mut len) = (null_mut(), 0);
        // SAFETY: the text ends with a NUL; places for the descriptor and its length.
        super::done(unsafe {
            ConvertStringSecurityDescriptorToSecurityDescriptorW(
                text.as_ptr(),
                SDDL_REVISION_1,
                &raw mut descriptor,
                &raw mut len,
            )
        })?;
        Ok(Self { descriptor, len })
    }

    /// The attributes of what is made with it, which must not outlive it.
    pub(super) fn attributes(&self) -> SECURITY_ATTRIBUTES {
        SECURITY_ATTRIBUTES {
            nLength: size_of::<SECURITY_ATTRIBUTES>() as u32,
            lpSecurityDescriptor: self.descriptor,
            bInheritHandle: 0,
        }
    }

    /// Its bytes, self-relative.
    pub(super) fn bytes(&self) -> &[u8] {
        // SAFETY: the system made so many, and they stay until this goes.
        unsafe { std::slice::from_raw_parts(self.descriptor.cast(), self.len as usize) }
    }
}

impl Drop for Access {
    fn drop(&mut self) {
        // SAFETY: made by a function whose result the caller is to free, and nothing uses it any more.
        unsafe { LocalFree(self.descriptor) };
    }
}
