//! Tokens and access checks (`Se*`).
//!
//! A token has SIDs and an integrity level; an access check walks the descriptor's DACL in order, after the mandatory label.
//! Not modelled: restricted SIDs, conditional and callback ACEs, object ACEs, privileges, impersonation (a thread's token is its
//! process's). Source: DDI wdm/nf-wdm-seaccesscheck; MS-DTYP 2.5.3.2 (the algorithm).

use std::sync::atomic::Ordering;

use crate::loader::probe::{self, Fault};
use crate::nt::status::{STATUS_ACCESS_DENIED, STATUS_SUCCESS};
use crate::nt::thread::Thread;
use crate::verifier::rules;

/// A security identifier in its binary form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sid(Vec<u8>);

impl Sid {
    /// `S-1-authority-sub-sub...`.
    pub fn new(authority: u8, parts: &[u32]) -> Self {
        let mut bytes = vec![1, parts.len() as u8, 0, 0, 0, 0, 0, authority];
        bytes.extend(parts.iter().flat_map(|part| part.to_le_bytes()));
        Self(bytes)
    }

    /// Reads a SID at `address`.
    fn read(address: usize) -> Result<Self, Fault> {
        let parts = usize::from(probe::read::<u8>(address + 1)?);
        probe::bytes(address, 8 + 4 * parts).map(Self)
    }

    /// The last part: of a mandatory label, its level.
    fn last_part(&self) -> u32 {
        self.0.last_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes))
    }
}

/// A SID in a token.
#[derive(Clone, Debug)]
struct Group {
    sid: Sid,
    /// Looked at in denying entries only (an administrator's filtered token).
    deny_only: bool,
}

/// Who a process runs as.
#[derive(Clone, Debug)]
pub struct Token {
    name: &'static str,
    groups: Vec<Group>,
    integrity: u32,
}

/// `SECURITY_MANDATORY_LOW_RID` and its like.
const LOW: u32 = 0x1000;
const MEDIUM: u32 = 0x2000;
const HIGH: u32 = 0x3000;
const SYSTEM: u32 = 0x4000;

impl Token {
    fn new(name: &'static str, user: Sid, more: &[(Sid, bool)], integrity: u32) -> Self {
        let everyone = Sid::new(1, &[0]);
        let authenticated = Sid::new(5, &[11]);
        let own = [(user, false), (everyone, false), (authenticated, false)];
        let groups = own
            .iter()
            .chain(more)
            .map(|(sid, deny_only)| Group { sid: sid.clone(), deny_only: *deny_only });
        Self { name, groups: groups.collect(), integrity }
    }

    fn someone() -> Sid {
        Sid::new(5, &[21, 1_000_000, 2_000_000, 3_000_000, 1001])
    }

    fn administrators() -> Sid {
        Sid::new(5, &[32, 544])
    }

    fn users() -> Sid {
        Sid::new(5, &[32, 545])
    }

    /// LocalSystem.
    pub fn system() -> Self {
        Self::new("SYSTEM", Sid::new(5, &[18]), &[(Self::administrators(), false)], SYSTEM)
    }

    /// An elevated administrator.
    pub fn administrator() -> Self {
        Self::new(
            "administrator",
            Self::someone(),
            &[(Self::administrators(), false), (Self::users(), false)],
            HIGH,
        )
    }

    /// An administrator who has not elevated: the group only denies.
    pub fn filtered_administrator() -> Self {
        Self::new(
            "filtered administrator",
            Self::someone(),
            &[(Self::administrators(), true), (Self::users(), false)],
            MEDIUM,
        )
    }

    /// An ordinary user.
    pub fn user() -> Self {
        Self::new("user", Self::someone(), &[(Self::users(), false)], MEDIUM)
    }

    /// An administrator's process at low integrity.
    pub fn low_integrity() -> Self {
        Self::new(
            "low integrity",
            Self::someone(),
            &[(Self::administrators(), false), (Self::users(), false)],
            LOW,
        )
    }

    /// What it is, for reports.
    pub fn name(&self) -> &'static str {
        self.name
    }

    fn has(&self, sid: &Sid, denying: bool) -> bool {
        self.groups.iter().any(|group| group.sid == *sid && (denying || !group.deny_only))
    }

    fn is_user(&self, sid: &Sid) -> bool {
        self.groups.first().is_some_and(|group| group.sid == *sid)
    }
}

/// An entry of an access control list.
#[derive(Clone, Debug)]
struct Entry {
    kind: u8,
    flags: u8,
    mask: u32,
    sid: Sid,
}

const ACCESS_ALLOWED: u8 = 0;
const ACCESS_DENIED: u8 = 1;
const MANDATORY_LABEL: u8 = 0x11;
const INHERIT_ONLY: u8 = 0x8;
const SE_DACL_PRESENT: u16 = 0x4;
const SE_SACL_PRESENT: u16 = 0x10;
const SE_SELF_RELATIVE: u16 = 0x8000;
const READ_CONTROL: u32 = 0x2_0000;
const WRITE_DAC: u32 = 0x4_0000;
const MAXIMUM_ALLOWED: u32 = 0x0200_0000;
const GENERIC: [u32; 4] = [0x8000_0000, 0x4000_0000, 0x2000_0000, 0x1000_0000];
const NO_WRITE_UP: u32 = 1;
const NO_READ_UP: u32 = 2;
const NO_EXECUTE_UP: u32 = 4;

/// A security descriptor, read.
#[derive(Debug)]
struct Descriptor {
    owner: Option<Sid>,
    /// `None`: no DACL, everything is allowed.
    dacl: Option<Vec<Entry>>,
    label: Option<Entry>,
}

fn entries(acl: usize) -> Result<Vec<Entry>, Fault> {
    let count = probe::read::<u16>(acl + 4)?;
    let mut at = acl + 8;
    let mut all = Vec::new();
    for _ in 0..count {
        let (kind, flags) = (probe::read::<u8>(at)?, probe::read::<u8>(at + 1)?);
        all.push(Entry { kind, flags, mask: probe::read(at + 4)?, sid: Sid::read(at + 8)? });
        at += usize::from(probe::read::<u16>(at + 2)?);
    }
    Ok(all)
}

impl Descriptor {
    fn read(address: usize) -> Result<Self, Fault> {
        let control = probe::read::<u16>(address + 2)?;
        let part = |number: usize| -> Result<usize, Fault> {
            if control & SE_SELF_RELATIVE == 0 {
                return probe::read::<usize>(address + 8 + 8 * number);
            }
            let offset = probe::read::<u32>(address + 4 + 4 * number)?;
            Ok(if offset == 0 { 0 } else { address + offset as usize })
        };
        let (owner, sacl, dacl) = (part(0)?, part(2)?, part(3)?);
        let owner = if owner == 0 { None } else { Some(Sid::read(owner)?) };
        let has_dacl = control & SE_DACL_PRESENT != 0 && dacl != 0;
        let dacl = if has_dacl { Some(entries(dacl)?) } else { None };
        let has_sacl = control & SE_SACL_PRESENT != 0 && sacl != 0;
        let labels = if has_sacl { entries(sacl)? } else { Vec::new() };
        let label = labels
            .into_iter()
            .find(|entry| entry.kind == MANDATORY_LABEL && entry.flags & INHERIT_ONLY == 0);
        Ok(Self { owner, dacl, label })
    }

    /// The rights `token` has among `wanted` (specific rights); `mapping` says what the generic rights are.
    fn grant(&self, token: &Token, wanted: u32, mapping: [u32; 4]) -> u32 {
        let (level, policy) = self
            .label
            .as_ref()
            .map_or((MEDIUM, NO_WRITE_UP), |label| (label.sid.last_part(), label.mask));
        let mut open = wanted;
        if token.integrity < level {
            let barred =
                [(NO_READ_UP, mapping[0]), (NO_WRITE_UP, mapping[1]), (NO_EXECUTE_UP, mapping[2])];
            // Rights that reading or executing also needs stay, unless reading up is barred too.
            let kept = barred
                .iter()
                .filter(|(bit, _)| policy & bit == 0)
                .fold(0, |all, (_, rights)| all | rights);
            let lost = barred
                .iter()
                .filter(|(bit, _)| policy & bit != 0)
                .fold(0, |all, (_, rights)| all | rights);
            open &= !(lost & !kept);
        }
        let Some(dacl) = &self.dacl else { return open };
        let mut granted = 0;
        if self.owner.as_ref().is_some_and(|owner| token.is_user(owner) || token.has(owner, false))
        {
            granted |= open & (READ_CONTROL | WRITE_DAC);
        }
        let mut denied = 0;
        for entry in dacl.iter().filter(|entry| entry.flags & INHERIT_ONLY == 0) {
            let mask = specific(entry.mask, mapping);
            match entry.kind {
                ACCESS_ALLOWED if token.has(&entry.sid, false) => granted |= mask & open & !denied,
                ACCESS_DENIED if token.has(&entry.sid, true) => denied |= mask & open & !granted,
                _ => {}
            }
        }
        granted
    }
}

/// Generic rights replaced by what they map to.
fn specific(mask: u32, mapping: [u32; 4]) -> u32 {
    let plain = mask & !GENERIC.iter().fold(0, |all, bit| all | bit);
    GENERIC
        .iter()
        .zip(mapping)
        .filter(|(bit, _)| mask & **bit != 0)
        .fold(plain, |all, (_, rights)| all | rights)
}

/// Where `SECURITY_SUBJECT_CONTEXT` has the primary token.
const PRIMARY_TOKEN: usize = 16;
/// Bytes of a `SECURITY_SUBJECT_CONTEXT`.
const SUBJECT: usize = 32;
/// A token's address is this much after its process's.
const TOKEN_OFFSET: usize = 8;

/// The arguments of an access check.
struct Check {
    descriptor: usize,
    subject: usize,
    desired: u32,
    granted_before: u32,
    mapping: usize,
    user_mode: bool,
}

/// The granted rights, or `None` for denied.
fn check(thread: &Thread, check: &Check) -> Result<Option<u32>, Fault> {
    let mut mapping = [0; 4];
    for (number, rights) in mapping.iter_mut().enumerate() {
        *rights = probe::read(check.mapping + 4 * number)?;
    }
    if !check.user_mode {
        let all = if check.desired & MAXIMUM_ALLOWED != 0 { mapping[3] } else { 0 };
        return Ok(Some(
            check.granted_before | all | specific(check.desired & !MAXIMUM_ALLOWED, mapping),
        ));
    }
    let token = probe::read::<usize>(check.subject + PRIMARY_TOKEN)?;
    let Some(process) = thread.machine().process(token.wrapping_sub(TOKEN_OFFSET)) else {
        thread.stop(&rules::SUBJECT_CONTEXT, format!("{:#x} was not captured", check.subject));
        return Ok(None);
    };
    let descriptor = Descriptor::read(check.descriptor)?;
    if check.desired & MAXIMUM_ALLOWED != 0 {
        let granted = descriptor.grant(process.token(), mapping[3], mapping);
        let needed = specific(check.desired & !MAXIMUM_ALLOWED, mapping);
        let all = granted | check.granted_before;
        return Ok((all != 0 && needed & !all == 0).then_some(all));
    }
    let wanted = specific(check.desired, mapping) & !check.granted_before;
    let granted = descriptor.grant(process.token(), wanted, mapping);
    Ok((granted == wanted).then_some(granted | check.granted_before))
}

crate::nt::imports! {
    pub(crate) static IMPORTS: "ntoskrnl.exe";

    /// Captures who the calling thread is.
    [max: PASSIVE, mark: Documented, source: "DDI ntifs/nf-ntifs-secapturesubjectcontext"]
    fn SeCaptureSubjectContext(thread, subject: usize) {
        let objects = thread.machine().objects();
        let token = objects.show_process(&thread.process()) + TOKEN_OFFSET;
        if probe::fill(subject, 0, SUBJECT).and_then(|()| probe::write(subject + PRIMARY_TOKEN, token)).is_err() {
            thread.bad_pointer("SubjectContext", subject);
            return;
        }
        objects.captures.fetch_add(1, Ordering::Relaxed);
    }

    /// Gives a captured context back.
    [max: PASSIVE, mark: Documented, source: "DDI ntifs/nf-ntifs-sereleasesubjectcontext"]
    fn SeReleaseSubjectContext(thread, subject: usize) {
        match probe::read::<usize>(subject + PRIMARY_TOKEN) {
            Ok(0) => thread.stop(&rules::SUBJECT_CONTEXT, "released without a capture, or twice"),
            Ok(_) => {
                thread.machine().objects().captures.fetch_sub(1, Ordering::Relaxed);
                if probe::fill(subject, 0, SUBJECT).is_err() {
                    thread.bad_pointer("SubjectContext", subject);
                }
            }
            Err(_) => {
                thread.bad_pointer("SubjectContext", subject);
            }
        }
    }

    /// Whether the subject may have the desired rights.
    [max: PASSIVE, mark: Documented, source: "DDI wdm/nf-wdm-seaccesscheck"]
    fn SeAccessCheck(thread, descriptor: usize, subject: usize, locked: u8, desired: u32, before: u32, privileges: usize, mapping: usize, mode: u8, granted: usize, status: usize) -> u8 {
        let arguments = Check { descriptor, subject, desired, granted_before: before, mapping, user_mode: mode != 0 };
        let answer = check(thread, &arguments).and_then(|rights| {
            probe::write(granted, rights.unwrap_or(0))?;
            probe::write(status, if rights.is_some() { STATUS_SUCCESS } else { STATUS_ACCESS_DENIED })?;
            if privileges != 0 {
                probe::write(privileges, 0_usize)?;
            }
            Ok(u8::from(rights.is_some()))
        });
        answer.unwrap_or_else(|Fault(address)| thread.bad_pointer("an argument", address) as u8)
    }
}

#[cfg(test)]
mod tests;
