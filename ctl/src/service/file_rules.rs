//! Whether a tunnel's file is one that a service may run: of this machine, where it says it is, and nobody's to change but
//! administrators'.
//!
//! A service runs as the system; whoever can change its file decides what it does. So what is judged is what was opened, by its handle:
//! nothing can be put in its place afterwards.

use std::fmt;

use super::descriptor::{Descriptor, Sid};

/// FILE_ATTRIBUTE_DIRECTORY.
const DIRECTORY: u32 = 0x10;
/// FILE_ATTRIBUTE_REPARSE_POINT.
const REPARSE_POINT: u32 = 0x400;
/// Rights that let someone change a file or whom it belongs to: to write data, attributes or extended attributes, to append, to delete
/// (it or, of a folder, what is in it), to write the list or the owner, and the generic ones.
const CHANGES: u32 =
    0x02 | 0x04 | 0x10 | 0x40 | 0x100 | 0x1_0000 | 0x4_0000 | 0x8_0000 | GENERIC_CHANGES;
/// GENERIC_ALL and GENERIC_WRITE.
const GENERIC_CHANGES: u32 = 0x1000_0000 | 0x4000_0000;
/// Rights to read: FILE_READ_DATA, GENERIC_ALL and GENERIC_READ.
const READS: u32 = 1 | 0x1000_0000 | 0x8000_0000;

/// What Windows says of the drive that a file is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drive {
    /// It belongs to this machine.
    Fixed,
    /// It is another machine's.
    Remote,
    /// It can be taken out, or Windows does not know.
    Other,
}

/// What is known of a file that is open.
#[derive(Clone, Debug)]
pub struct Facts<'a> {
    /// Its absolute path, as it was asked for.
    pub asked: &'a str,
    /// The path that Windows has for the handle (GetFinalPathNameByHandle).
    pub found: &'a str,
    /// Its attributes.
    pub attributes: u32,
    /// The drive.
    pub drive: Drive,
    /// Its security descriptor: owner and list.
    pub descriptor: &'a [u8],
}

/// Why a file is not read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Its path is of another machine or a device.
    NotLocal,
    /// Its drive is no fixed one of this machine.
    Drive(Drive),
    /// It is a folder, a link, or whatever else is no plain file.
    NoFile,
    /// Its path goes through a link, or is written otherwise than Windows has it: the path it really has.
    Elsewhere(String),
    /// What Windows says of who may do what is not understood.
    Descriptor,
    /// It belongs to somebody who is no administrator.
    Owner(Sid),
    /// It has no list: everybody may change it.
    NoList,
    /// Somebody else may change it.
    Changed(Sid),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotLocal => f.write_str(
                "what a service runs is on a drive of this machine: copy it there, and name it by its drive, as C:\\folder\\NAME.conf",
            ),
            Self::Drive(Drive::Remote) => {
                f.write_str("this drive is another machine's: copy the file to one of this machine's")
            }
            Self::Drive(_) => f.write_str(
                "this drive may not be there when the service starts: copy the file to a fixed one",
            ),
            Self::NoFile => f.write_str("this is no plain file: name the file itself, not a folder or a link"),
            Self::Elsewhere(found) => write!(f, "the way to this file has a link or a short name in it: name it by its own path, {found}"),
            Self::Descriptor => f.write_str(
                "who may change this file is not understood: make its permissions those of a plain file (icacls FILE /reset)",
            ),
            Self::Owner(owner) => write!(
                f,
                "this file belongs to {owner}, who could change it: have administrators own it (icacls FILE /setowner *S-1-5-32-544)"
            ),
            Self::NoList => f.write_str(
                "everybody may change this file: let System and administrators alone (icacls FILE /inheritance:r /grant *S-1-5-18:F *S-1-5-32-544:F)",
            ),
            Self::Changed(who) => write!(
                f,
                "{who} may change this file: let System and administrators alone (icacls FILE /inheritance:r /grant *S-1-5-18:F *S-1-5-32-544:F)"
            ),
        }
    }
}

impl std::error::Error for Refusal {}

/// Whether a path is of a drive of this machine: `X:\...`, with no stream behind the name. It is looked at before anything is opened, so that
/// no other machine is asked.
///
/// # Errors
///
/// [`Refusal::NotLocal`].
pub fn check_path(path: &str) -> Result<(), Refusal> {
    let rest = match path.as_bytes() {
        [drive, b':', b'\\' | b'/', rest @ ..] if drive.is_ascii_alphabetic() => rest,
        _ => return Err(Refusal::NotLocal),
    };
    if rest.is_empty() || rest.contains(&b':') { Err(Refusal::NotLocal) } else { Ok(()) }
}

/// Judges a file; somebody who may read it besides is told, for there are keys in it.
///
/// `own` is the account that reads it to run it, which is the system in a service.
///
/// # Errors
///
/// [`Refusal`].
pub fn judge(facts: &Facts<'_>, own: &Sid) -> Result<Option<Sid>, Refusal> {
    check_path(facts.asked)?;
    let found = facts.found.strip_prefix(r"\\?\").unwrap_or(facts.found);
    check_path(found)?;
    if facts.drive != Drive::Fixed {
        return Err(Refusal::Drive(facts.drive));
    }
    if facts.attributes & (DIRECTORY | REPARSE_POINT) != 0 {
        return Err(Refusal::NoFile);
    }
    if facts.asked.replace('/', r"\").to_lowercase() != found.to_lowercase() {
        return Err(Refusal::Elsewhere(found.to_owned()));
    }
    let Descriptor { owner, grants } =
        Descriptor::parse(facts.descriptor).ok_or(Refusal::Descriptor)?;
    if !is_trusted(&owner, own) {
        return Err(Refusal::Owner(owner));
    }
    let grants = grants.ok_or(Refusal::NoList)?;
    let mut others =
        grants.into_iter().filter(|grant| !is_trusted(&grant.to, own) && !is_owner(&grant.to));
    let mut reader = None;
    others.try_for_each(|grant| {
        if grant.rights & CHANGES != 0 {
            return Err(Refusal::Changed(grant.to));
        }
        if grant.rights & READS != 0 {
            reader = Some(grant.to);
        }
        Ok(())
    })?;
    Ok(reader)
}

/// System, administrators, Windows' installer, and who reads the file.
fn is_trusted(sid: &Sid, own: &Sid) -> bool {
    let installer = [80, 956_008_885, 3_418_522_649, 1_831_038_044, 1_853_292_631, 2_271_478_464];
    [Sid::nt(&[18]), Sid::nt(&[32, 544]), Sid::nt(&installer)].contains(sid) || sid == own
}

/// OWNER RIGHTS: whoever owns the file, which was looked at.
fn is_owner(sid: &Sid) -> bool {
    sid.to_string() == "S-1-3-4"
}

#[cfg(test)]
mod tests {
    use super::super::descriptor::tests::{Entry, descriptor};
    use super::*;

    const SYSTEM: &[u32] = &[18];
    const ADMINISTRATORS: &[u32] = &[32, 544];
    const USERS: &[u32] = &[32, 545];
    const ALL: u32 = 0x1F_01FF;

    fn judged(
        change: impl FnOnce(&mut Facts<'_>),
        owner: &[u32],
        entries: Option<&[Entry<'_>]>,
    ) -> Result<Option<String>, Refusal> {
        let descriptor = descriptor(owner, entries);
        let mut facts = Facts {
            asked: r"C:\Tunnels\office.conf",
            found: r"\\?\C:\Tunnels\Office.conf",
            attributes: 0x20,
            drive: Drive::Fixed,
            descriptor: &descriptor,
        };
        change(&mut facts);
        Ok(judge(&facts, &Sid::nt(SYSTEM))?.map(|reader| reader.to_string()))
    }

    #[test]
    fn a_file_of_administrators_alone_is_taken_and_readers_are_told() {
        let alone: &[Entry<'_>] = &[(0, 0, ALL, SYSTEM), (0, 0, ALL, ADMINISTRATORS)];
        for owner in [
            SYSTEM,
            ADMINISTRATORS,
            &[80, 956_008_885, 3_418_522_649, 1_831_038_044, 1_853_292_631, 2_271_478_464],
        ] {
            assert_eq!(judged(|_| (), owner, Some(alone)), Ok(None));
        }
        let read: &[Entry<'_>] = &[(0, 0, ALL, SYSTEM), (0, 0, 0x12_0089, USERS)];
        assert_eq!(judged(|_| (), SYSTEM, Some(read)), Ok(Some("S-1-5-32-545".to_owned())));
    }

    /// Each right by which somebody changes a file, alone.
    #[test]
    fn whoever_else_may_change_it_is_found() {
        let users = || Err(Refusal::Changed(Sid::nt(USERS)));
        for bit in [1, 2, 4, 6, 8, 16, 18, 19, 28, 30] {
            let entries: &[Entry<'_>] = &[(0, 0, ALL, SYSTEM), (0, 0, 1 << bit, USERS)];
            assert_eq!(judged(|_| (), SYSTEM, Some(entries)), users(), "bit {bit}");
        }
        // Denied as well is given all the same.
        let denied: &[Entry<'_>] = &[(1, 0, ALL, USERS), (0, 0, 2, USERS)];
        assert_eq!(judged(|_| (), SYSTEM, Some(denied)), users());
        assert_eq!(judged(|_| (), SYSTEM, None), Err(Refusal::NoList));
        assert_eq!(judged(|_| (), USERS, Some(&[])), Err(Refusal::Owner(Sid::nt(USERS))));
        assert_eq!(judged(|facts| facts.descriptor = &[], SYSTEM, None), Err(Refusal::Descriptor));
    }

    #[test]
    fn only_a_plain_file_of_a_drive_of_this_machine_is_taken() {
        for path in [
            r"\\server\share\office.conf",
            r"\\?\C:\office.conf",
            r"\\.\pipe\x",
            r"\\?\UNC\server\share\office.conf",
            r"//server/share/office.conf",
            "office.conf",
            r"C:office.conf",
            r"\office.conf",
            r"C:\office.conf:stream",
            r"C:\",
            "",
        ] {
            assert_eq!(check_path(path), Err(Refusal::NotLocal), "{path}");
        }
        assert_eq!(check_path(r"C:\office.conf"), Ok(()));
        let none = Some(&[][..]);
        let unc = |facts: &mut Facts<'_>| facts.found = r"\\?\UNC\server\share\office.conf";
        assert_eq!(judged(unc, SYSTEM, none), Err(Refusal::NotLocal));
        for attributes in [DIRECTORY, REPARSE_POINT] {
            let judged = judged(|facts| facts.attributes = attributes, SYSTEM, none);
            assert_eq!(judged, Err(Refusal::NoFile));
        }
        for drive in [Drive::Remote, Drive::Other] {
            assert_eq!(
                judged(|facts| facts.drive = drive, SYSTEM, none),
                Err(Refusal::Drive(drive))
            );
        }
        let linked = |facts: &mut Facts<'_>| facts.found = r"\\?\C:\Users\eve\office.conf";
        let elsewhere = Refusal::Elsewhere(r"C:\Users\eve\office.conf".to_owned());
        assert_eq!(judged(linked, SYSTEM, none), Err(elsewhere));
    }
}
