//! Who may configure the driver: the system and administrators, at high integrity.
//!
//! Judged by NT itself, against a security descriptor that is a constant of ours, so that neither
//! the INF nor anyone's tools can widen it. The subject is the current thread, so the check means
//! something only where the caller's own thread calls us: at CREATE and in the in-caller-context
//! callback. `PASSIVE_LEVEL`.

use core::{mem::MaybeUninit, ptr};

use wdk_sys::{
    _MODE, ACCESS_MASK, KPROCESSOR_MODE, NTSTATUS, SECURITY_SUBJECT_CONTEXT,
    ntddk::{
        IoGetFileObjectGenericMapping, SeAccessCheck, SeCaptureSubjectContext,
        SeReleaseSubjectContext,
    },
};

use crate::{
    irql::Passive,
    status::{NtError, check},
    sys::ke::{FILE_READ_DATA, FILE_WRITE_DATA},
};

/// Whether the thread that calls us may read and change the driver's configuration.
///
/// # Errors
///
/// [`NtError::ACCESS_DENIED`], or what NT says, when it may not.
///
/// # IRQL
///
/// `PASSIVE_LEVEL`, in the thread to be judged.
///
/// Source: <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-seaccesscheck>
pub fn check_administrators(_passive: &Passive) -> Result<(), NtError> {
    let mut subject = MaybeUninit::<SECURITY_SUBJECT_CONTEXT>::uninit();
    // SAFETY: fills the whole structure; at PASSIVE_LEVEL, as the token says.
    unsafe { SeCaptureSubjectContext(subject.as_mut_ptr()) };
    let mut privileges = ptr::null_mut();
    let mut granted: ACCESS_MASK = 0;
    let mut status: NTSTATUS = NtError::ACCESS_DENIED.status();
    // SAFETY: no preconditions; the mapping is a constant of the kernel's.
    let mapping = unsafe { IoGetFileObjectGenericMapping() };
    // SAFETY: the descriptor is valid, self-relative and constant (it is only read); the subject
    // was captured above and is not locked; the rest are ours for the call. With `UserMode` nobody
    // is waved through. Reading and writing use no privilege, so none is returned to be freed.
    let allowed = unsafe {
        SeAccessCheck(
            ptr::from_ref(&ADMINISTRATORS).cast_mut().cast(),
            subject.as_mut_ptr(),
            0,
            FILE_READ_DATA | FILE_WRITE_DATA,
            0,
            &raw mut privileges,
            mapping,
            _MODE::UserMode as KPROCESSOR_MODE,
            &raw mut granted,
            &raw mut status,
        )
    } != 0;
    // SAFETY: captured above, released once.
    unsafe { SeReleaseSubjectContext(subject.as_mut_ptr()) };
    debug_assert!(privileges.is_null());
    if allowed { Ok(()) } else { Err(check(status).err().unwrap_or(NtError::ACCESS_DENIED)) }
}

/// `O:SYG:SYD:P(A;;FA;;;SY)(A;;FA;;;BA)S:(ML;;NWNRNX;;;HI)`, self-relative. [MS-DTYP 2.4.6]
///
/// The label refuses reading and executing upwards too, which the default does not.
static ADMINISTRATORS: Descriptor = Descriptor(descriptor());

/// A self-relative descriptor holds 32-bit words, and is aligned to them.
#[repr(C, align(8))]
struct Descriptor([u8; LEN]);

/// S-1-5-18.
const LOCAL_SYSTEM: [u8; 12] = [1, 1, 0, 0, 0, 0, 0, 5, 18, 0, 0, 0];
/// S-1-5-32-544.
const ADMINISTRATORS_GROUP: [u8; 16] = [1, 2, 0, 0, 0, 0, 0, 5, 32, 0, 0, 0, 0x20, 2, 0, 0];
/// S-1-16-12288.
const HIGH_INTEGRITY: [u8; 12] = [1, 1, 0, 0, 0, 0, 0, 16, 0, 0x30, 0, 0];

/// Where the parts lie, after the 20 bytes of the descriptor's head.
const OWNER: u8 = 20;
const GROUP: u8 = OWNER + LOCAL_SYSTEM.len() as u8;
const SACL: u8 = GROUP + LOCAL_SYSTEM.len() as u8;
/// An ACL's head, an ACE's head and mask.
const HEAD: u8 = 8;
const SACL_LEN: u8 = HEAD + HEAD + HIGH_INTEGRITY.len() as u8;
const DACL: u8 = SACL + SACL_LEN;
const DACL_LEN: u8 =
    HEAD + HEAD + LOCAL_SYSTEM.len() as u8 + HEAD + ADMINISTRATORS_GROUP.len() as u8;
const LEN: usize = (DACL + DACL_LEN) as usize;

/// Writes the descriptor out.
const fn descriptor() -> [u8; LEN] {
    /// Self-relative; DACL present and protected; SACL present.
    const CONTROL: [u8; 2] = 0x9014_u16.to_le_bytes();
    const ACCESS_ALLOWED: u8 = 0;
    const MANDATORY_LABEL: u8 = 0x11;
    const FILE_ALL_ACCESS: [u8; 4] = 0x001F_01FF_u32.to_le_bytes();
    const NO_WRITE_READ_EXECUTE_UP: [u8; 4] = 7_u32.to_le_bytes();

    let mut out = [0; LEN];
    let mut at = 0;
    let head = [1, 0, CONTROL[0], CONTROL[1]];
    put(&mut out, &mut at, &head);
    let mut offset = 0;
    while offset < 4 {
        put(&mut out, &mut at, &[[OWNER, GROUP, SACL, DACL][offset], 0, 0, 0]);
        offset += 1;
    }
    put(&mut out, &mut at, &LOCAL_SYSTEM);
    put(&mut out, &mut at, &LOCAL_SYSTEM);
    put(&mut out, &mut at, &[2, 0, SACL_LEN, 0, 1, 0, 0, 0]);
    put_ace(&mut out, &mut at, MANDATORY_LABEL, NO_WRITE_READ_EXECUTE_UP, &HIGH_INTEGRITY);
    put(&mut out, &mut at, &[2, 0, DACL_LEN, 0, 2, 0, 0, 0]);
    put_ace(&mut out, &mut at, ACCESS_ALLOWED, FILE_ALL_ACCESS, &LOCAL_SYSTEM);
    put_ace(&mut out, &mut at, ACCESS_ALLOWED, FILE_ALL_ACCESS, &ADMINISTRATORS_GROUP);
    assert!(at == LEN);
    out
}

/// Writes one ACE: type, no flags, length, mask, SID.
const fn put_ace(out: &mut [u8; LEN], at: &mut usize, kind: u8, mask: [u8; 4], sid: &[u8]) {
    put(out, at, &[kind, 0, HEAD + sid.len() as u8, 0]);
    put(out, at, &mask);
    put(out, at, sid);
}

/// Writes `bytes` and moves on.
const fn put(out: &mut [u8; LEN], at: &mut usize, bytes: &[u8]) {
    let mut from = 0;
    while from < bytes.len() {
        out[*at] = bytes[from];
        *at += 1;
        from += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_descriptor_is_what_its_text_says() {
        #[rustfmt::skip]
        let expected = [
            1, 0, 0x14, 0x90, 20, 0, 0, 0, 32, 0, 0, 0, 44, 0, 0, 0, 72, 0, 0, 0,
            1, 1, 0, 0, 0, 0, 0, 5, 18, 0, 0, 0, // owner
            1, 1, 0, 0, 0, 0, 0, 5, 18, 0, 0, 0, // group
            2, 0, 28, 0, 1, 0, 0, 0, // SACL of one
            0x11, 0, 20, 0, 7, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 16, 0, 0x30, 0, 0,
            2, 0, 52, 0, 2, 0, 0, 0, // DACL of two
            0, 0, 20, 0, 0xFF, 1, 0x1F, 0, 1, 1, 0, 0, 0, 0, 0, 5, 18, 0, 0, 0,
            0, 0, 24, 0, 0xFF, 1, 0x1F, 0, 1, 2, 0, 0, 0, 0, 0, 5, 32, 0, 0, 0, 0x20, 2, 0, 0,
        ];
        assert_eq!(ADMINISTRATORS.0, expected);
    }
}
