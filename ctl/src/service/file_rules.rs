//! Whether a tunnel's file is one that a service may run: of this machine, where it says it is, and nobody's to change but
//! administrators'.
//!
//! A service runs as the system; whoever can change its file decides what it does. So what is judged is what was opened, by its handle, and
//! every folder above it up to the drive, by theirs: nobody else can put another file in its place, now or when the service starts again.

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
/// Rights on a folder that let someone put something else in the place of what is in it: to delete what is there, to delete or rename the folder
/// itself, and to give himself either. Adding is not among them (`C:\` and ProgramData let everybody): what others add belongs to them, and
/// a folder that is not empty becomes no link.
const SWAPS: u32 = 0x40 | 0x1_0000 | 0x4_0000 | 0x8_0000 | 0x1000_0000;
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
    /// A folder above it, by its path, lets somebody else put another file in its place.
    Above(String, Above),
}

/// Why a folder is none for a file that a service runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Above {
    /// It is a link, or whatever else is no folder.
    NoFolder,
    /// What Windows says of who may do what is not understood.
    Descriptor,
    /// It belongs to somebody who is no administrator.
    Owner(Sid),
    /// It has no list: everybody may do everything.
    NoList,
    /// Somebody else may delete or rename it or what is in it.
    Swapped(Sid),
}

impl fmt::Display for Above {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoFolder => f.write_str("is a link, or no folder: name the file by the way it really has"),
            Self::Descriptor => f.write_str(
                "is not understood in who may change it: make its permissions those of a plain folder (icacls FOLDER /reset)",
            ),
            Self::Owner(owner) => write!(
                f,
                "belongs to {owner}, who could put another file there: have administrators own it (icacls FOLDER /setowner *S-1-5-32-544)"
            ),
            Self::NoList => f.write_str("is everybody's to change"),
            Self::Swapped(who) => write!(f, "can be emptied or renamed by {who}, who could put another file there"),
        }?;
        if matches!(self, Self::NoList | Self::Swapped(_)) {
            f.write_str(
                " (icacls FOLDER /inheritance:r /grant \"*S-1-5-18:(OI)(CI)F\" \"*S-1-5-32-544:(OI)(CI)F\", or keep the file in another folder)",
            )?;
        }
        Ok(())
    }
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
            Self::Above(folder, why) => write!(f, "the folder {folder} {why}"),
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
    if !is_same(facts.asked, found) {
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

/// Judges a folder above a file, from what is known of it; `own` as for [`judge`].
///
/// # Errors
///
/// [`Refusal::Above`].
pub fn judge_folder(facts: &Facts<'_>, own: &Sid) -> Result<(), Refusal> {
    let refused = |why| Err(Refusal::Above(facts.asked.to_owned(), why));
    let found = facts.found.strip_prefix(r"\\?\").unwrap_or(facts.found);
    if facts.attributes & (DIRECTORY | REPARSE_POINT) != DIRECTORY || !is_same(facts.asked, found) {
        return refused(Above::NoFolder);
    }
    let Some(Descriptor { owner, grants }) = Descriptor::parse(facts.descriptor) else {
        return refused(Above::Descriptor);
    };
    if !is_trusted(&owner, own) {
        return refused(Above::Owner(owner));
    }
    let Some(grants) = grants else { return refused(Above::NoList) };
    let others =
        grants.into_iter().filter(|grant| !is_trusted(&grant.to, own) && !is_owner(&grant.to));
    match others.into_iter().find(|grant| grant.rights & SWAPS != 0) {
        Some(grant) => refused(Above::Swapped(grant.to)),
        None => Ok(()),
    }
}

/// Whether two paths are written alike, but for the kind of slash and of letters.
fn is_same(asked: &str, found: &str) -> bool {
    asked.replace('/', r"\").to_lowercase() == found.to_lowercase()
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
        for owner in [SYSTEM, ADMINISTRATORS, INSTALLER] {
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

    fn judged_folder(
        change: impl FnOnce(&mut Facts<'_>),
        owner: &[u32],
        entries: Option<&[Entry<'_>]>,
    ) -> Result<(), Above> {
        let descriptor = descriptor(owner, entries);
        let mut facts = Facts {
            asked: r"C:\Tunnels",
            found: r"\\?\C:\tunnels",
            attributes: DIRECTORY,
            drive: Drive::Fixed,
            descriptor: &descriptor,
        };
        change(&mut facts);
        judge_folder(&facts, &Sid::nt(SYSTEM)).map_err(|refusal| match refusal {
            Refusal::Above(folder, why) => {
                assert_eq!(folder, facts.asked);
                why
            }
            other => panic!("{other}"),
        })
    }

    const INSTALLER: &[u32] =
        &[80, 956_008_885, 3_418_522_649, 1_831_038_044, 1_853_292_631, 2_271_478_464];
    /// Users who logged on.
    const AUTHENTICATED: &[u32] = &[11];

    /// As Windows makes them: the root lets whoever logged on make folders, and ProgramData everybody files, too.
    #[test]
    fn folders_of_windows_are_taken() {
        const INHERITED: u8 = 0x0B;
        let root: &[Entry<'_>] = &[
            (0, INHERITED, 0x1301BF, AUTHENTICATED),
            (0, 0, 0x04, AUTHENTICATED),
            (0, 3, ALL, SYSTEM),
            (0, 3, ALL, ADMINISTRATORS),
            (0, 3, 0x12_00A9, USERS),
        ];
        let programs: &[Entry<'_>] = &[
            (0, 0, ALL, INSTALLER),
            (0, 0, 0x1301BF, SYSTEM),
            (0, 0, 0x1301BF, ADMINISTRATORS),
            (0, 0, 0x12_00A9, USERS),
        ];
        let data: &[Entry<'_>] =
            &[(0, 3, ALL, SYSTEM), (0, 3, 0x12_00A9, USERS), (0, 2, 0x116, USERS)];
        for (owner, entries) in [(INSTALLER, root), (INSTALLER, programs), (SYSTEM, data)] {
            assert_eq!(judged_folder(|_| (), owner, Some(entries)), Ok(()));
        }
    }

    /// Each right alone: those that swap what is in the folder are refused, and no other.
    #[test]
    fn whoever_could_put_another_file_there_is_found() {
        let users = Err(Above::Swapped(Sid::nt(USERS)));
        for bit in 0..32 {
            let entries: &[Entry<'_>] = &[(0, 0, ALL, SYSTEM), (0, 0, 1 << bit, USERS)];
            let swaps = [6, 16, 18, 19, 28].contains(&bit);
            let wanted = if swaps { users.clone() } else { Ok(()) };
            assert_eq!(judged_folder(|_| (), SYSTEM, Some(entries)), wanted, "bit {bit}");
        }
        // What the root has made below it: whoever logged on may change it.
        let below: &[Entry<'_>] = &[(0, 0x10, 0x1301BF, AUTHENTICATED)];
        let swapped = Err(Above::Swapped(Sid::nt(AUTHENTICATED)));
        assert_eq!(judged_folder(|_| (), ADMINISTRATORS, Some(below)), swapped);
        assert_eq!(judged_folder(|_| (), SYSTEM, None), Err(Above::NoList));
        let eve = Err(Above::Owner(Sid::nt(USERS)));
        assert_eq!(judged_folder(|_| (), USERS, Some(&[])), eve);
        let none = |facts: &mut Facts<'_>| facts.descriptor = &[];
        assert_eq!(judged_folder(none, SYSTEM, None), Err(Above::Descriptor));
        let linked = |facts: &mut Facts<'_>| facts.found = r"\\?\C:\Users\eve";
        assert_eq!(judged_folder(linked, SYSTEM, Some(&[])), Err(Above::NoFolder));
        for attributes in [0, REPARSE_POINT, DIRECTORY | REPARSE_POINT] {
            let change = |facts: &mut Facts<'_>| facts.attributes = attributes;
            assert_eq!(judged_folder(change, SYSTEM, Some(&[])), Err(Above::NoFolder));
        }
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
