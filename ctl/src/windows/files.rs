//! Files that a service runs or makes: opened once and judged by that handle, and nobody's but the system's.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::windows::fs::{MetadataExt, OpenOptionsExt};
use std::os::windows::io::AsRawHandle;
use std::path::{self, Path};
use std::ptr::null_mut;

use windows_sys::Win32::Foundation::ERROR_ALREADY_EXISTS;
use windows_sys::Win32::Security::{
    DACL_SECURITY_INFORMATION, GROUP_SECURITY_INFORMATION, GetKernelObjectSecurity,
    OWNER_SECURITY_INFORMATION, PROTECTED_DACL_SECURITY_INFORMATION, SetFileSecurityW,
};
use windows_sys::Win32::Storage::FileSystem::{
    CREATE_NEW, CreateDirectoryW, CreateFileW, DELETE, FILE_ATTRIBUTE_NORMAL,
    FILE_DISPOSITION_INFO, FILE_FLAG_BACKUP_SEMANTICS, FILE_FLAG_OPEN_REPARSE_POINT,
    FILE_FLAG_WRITE_THROUGH, FILE_GENERIC_READ, FILE_GENERIC_WRITE, FILE_NAME_NORMALIZED,
    FILE_READ_ATTRIBUTES, FILE_SHARE_READ, FileDispositionInfo, GetDriveTypeW,
    GetFinalPathNameByHandleW, MOVEFILE_REPLACE_EXISTING, MOVEFILE_WRITE_THROUGH, MoveFileExW,
    READ_CONTROL, SetFileInformationByHandle,
};
use windows_sys::Win32::System::WindowsProgramming::{DRIVE_FIXED, DRIVE_REMOTE};

use super::access::Access;
use super::token::Token;
use super::wide::{text, wide};
use crate::service::descriptor::Sid;
use crate::service::file_rules::{Drive, Facts, Refusal, check_path, judge, judge_folder};

/// The system's own; administrators may take it away, and nobody else may do anything.
const FILE_ACCESS: &str = "O:SYG:SYD:PAI(A;;FA;;;SY)(A;;SD;;;BA)";
/// The system's own; it and administrators may do everything in it, and nobody else anything.
const FOLDER_ACCESS: &str = "O:SYG:SYD:PAI(A;OICI;FA;;;SY)(A;OICI;FA;;;BA)";
/// The longest path, in units.
const PATH_MAX: usize = 32_768;

/// A file that was judged.
pub struct Judged {
    /// It is open.
    pub file: File,
    /// Who else may read it.
    pub reader: Option<Sid>,
}

/// Opens a file that a service may run, to read it.
///
/// # Errors
///
/// What Windows says, or a [`Refusal`].
pub fn open(path: &Path) -> io::Result<Judged> {
    opened(path, FILE_GENERIC_READ, FILE_SHARE_READ)
}

/// The same of a file that goes afterwards: nobody else may have it open.
///
/// # Errors
///
/// As [`open`].
pub fn open_to_remove(path: &Path) -> io::Result<Judged> {
    opened(path, FILE_GENERIC_READ | FILE_GENERIC_WRITE | DELETE, 0)
}

fn opened(path: &Path, rights: u32, share: u32) -> io::Result<Judged> {
    let asked = path::absolute(path)?;
    let asked = asked.to_str().ok_or(io::ErrorKind::InvalidFilename)?;
    check_path(asked).map_err(refused)?;
    let mut options = OpenOptions::new();
    options.access_mode(rights).share_mode(share).custom_flags(FILE_FLAG_OPEN_REPARSE_POINT);
    let file = options.open(asked)?;
    let own = Token::of_process()?.user()?;
    let reader = with_facts(&file, asked, |facts| judge(facts, &own))?;
    // The root first: who may change nothing there cannot put another folder below it meanwhile.
    let folders: Vec<_> = Path::new(asked).ancestors().skip(1).filter_map(Path::to_str).collect();
    for folder in folders.iter().rev() {
        let mut options = OpenOptions::new();
        options.access_mode(FILE_READ_ATTRIBUTES | READ_CONTROL);
        options.custom_flags(FILE_FLAG_BACKUP_SEMANTICS | FILE_FLAG_OPEN_REPARSE_POINT);
        with_facts(&options.open(folder)?, folder, |facts| judge_folder(facts, &own))?;
    }
    // It was not below others when it was opened: those that were judged are the ones above it.
    with_facts(&file, asked, |facts| judge(facts, &own))?;
    Ok(Judged { file, reader })
}

/// Asks what is known of a file or folder that is open, and judges it by that.
fn with_facts<T>(
    file: &File,
    asked: &str,
    judge: impl FnOnce(&Facts<'_>) -> Result<T, Refusal>,
) -> io::Result<T> {
    let facts = Facts {
        asked,
        found: &path_of(file)?,
        attributes: file.metadata()?.file_attributes(),
        drive: drive_of(asked),
        descriptor: &descriptor_of(file)?,
    };
    judge(&facts).map_err(refused)
}

fn refused(refusal: Refusal) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, refusal)
}

/// The path that a handle really has.
fn path_of(file: &File) -> io::Result<String> {
    let mut units = vec![0; PATH_MAX];
    let room = units.len() as u32;
    // SAFETY: the file is open; the buffer has this many units.
    let len = unsafe {
        GetFinalPathNameByHandleW(
            file.as_raw_handle(),
            units.as_mut_ptr(),
            room,
            FILE_NAME_NORMALIZED,
        )
    };
    match len {
        0 => Err(io::Error::last_os_error()),
        len if len >= room => Err(io::ErrorKind::InvalidFilename.into()),
        _ => Ok(text(&units)),
    }
}

fn drive_of(path: &str) -> Drive {
    let root: String = path.chars().take(2).chain(['\\']).collect();
    let root = wide(root);
    // SAFETY: the root of a drive, which ends with a NUL.
    match unsafe { GetDriveTypeW(root.as_ptr()) } {
        DRIVE_FIXED => Drive::Fixed,
        DRIVE_REMOTE => Drive::Remote,
        _ => Drive::Other,
    }
}

/// Owner and list of what a handle is of, self-relative.
pub(super) fn descriptor_of(file: &File) -> io::Result<Vec<u8>> {
    let asked = OWNER_SECURITY_INFORMATION | DACL_SECURITY_INFORMATION;
    // The longest list has 64 KiB.
    let mut bytes = vec![0_u8; 1 << 17];
    let mut len = 0;
    // SAFETY: the file is open for it; the buffer has this many bytes.
    super::done(unsafe {
        GetKernelObjectSecurity(
            file.as_raw_handle(),
            asked,
            bytes.as_mut_ptr().cast(),
            bytes.len() as u32,
            &raw mut len,
        )
    })?;
    bytes.truncate(len as usize);
    Ok(bytes)
}

/// Makes a file that only the system reads, and writes through to the disk. There must be none.
///
/// # Errors
///
/// What Windows says.
pub fn create(path: &Path) -> io::Result<File> {
    let access = Access::of(FILE_ACCESS)?;
    let (path, attributes) = (wide(path), access.attributes());
    // SAFETY: the path ends with a NUL, the attributes live as long as the call, and there is no template.
    let handle = unsafe {
        CreateFileW(
            path.as_ptr(),
            FILE_GENERIC_READ | FILE_GENERIC_WRITE,
            0,
            &raw const attributes,
            CREATE_NEW,
            FILE_ATTRIBUTE_NORMAL | FILE_FLAG_WRITE_THROUGH,
            null_mut(),
        )
    };
    // SAFETY: it was just made, and nobody else has it.
    unsafe { super::owned(handle) }.map(File::from)
}

/// Makes a folder for such files; one that is there becomes one.
///
/// # Errors
///
/// What Windows says.
pub fn create_folder(path: &Path) -> io::Result<()> {
    let access = Access::of(FOLDER_ACCESS)?;
    let (path, attributes) = (wide(path), access.attributes());
    // SAFETY: the path ends with a NUL, and the attributes live as long as the call.
    let made = super::done(unsafe { CreateDirectoryW(path.as_ptr(), &raw const attributes) });
    match made {
        Err(error) if error.raw_os_error() == Some(ERROR_ALREADY_EXISTS.cast_signed()) => {
            let what = OWNER_SECURITY_INFORMATION
                | GROUP_SECURITY_INFORMATION
                | DACL_SECURITY_INFORMATION
                | PROTECTED_DACL_SECURITY_INFORMATION;
            // SAFETY: the path ends with a NUL, and the descriptor lives as long as the call.
            super::done(unsafe {
                SetFileSecurityW(path.as_ptr(), what, attributes.lpSecurityDescriptor)
            })
        }
        made => made,
    }
}

/// Gives a file the name of another, which goes; on the disk, too, when this comes back.
///
/// # Errors
///
/// What Windows says.
pub fn replace(from: &Path, to: &Path) -> io::Result<()> {
    let (from, to) = (wide(from), wide(to));
    let how = MOVEFILE_REPLACE_EXISTING | MOVEFILE_WRITE_THROUGH;
    // SAFETY: both paths end with a NUL.
    super::done(unsafe { MoveFileExW(from.as_ptr(), to.as_ptr(), how) })
}

/// Removes a file that is open for it: this file, whatever has its name by now.
///
/// # Errors
///
/// What Windows says.
pub fn remove(file: File) -> io::Result<()> {
    let gone = FILE_DISPOSITION_INFO { DeleteFile: true };
    // SAFETY: the file is open for it; the structure is this class's.
    super::done(unsafe {
        SetFileInformationByHandle(
            file.as_raw_handle(),
            FileDispositionInfo,
            (&raw const gone).cast(),
            size_of_val(&gone) as u32,
        )
    })
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    /// A folder of this test's own, where this program and administrators alone may write.
    fn folder(name: &str) -> path::PathBuf {
        let folder = std::env::temp_dir().join(format!("penstock-{name}-{}", std::process::id()));
        create_folder(&folder).unwrap();
        create_folder(&folder).unwrap();
        folder
    }

    #[test]
    fn what_is_made_is_taken_and_made_once() {
        let folder = folder("made");
        let (path, other) = (folder.join("a.conf"), folder.join("b.conf"));
        create(&path).unwrap().write_all(b"one").unwrap();
        assert_eq!(create(&path).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        create(&other).unwrap().write_all(b"two").unwrap();
        replace(&other, &path).unwrap();
        assert!(!other.exists());
        let mut text = String::new();
        let judged = open(&path).unwrap();
        (&judged.file).read_to_string(&mut text).unwrap();
        assert_eq!((&*text, judged.reader), ("two", None));
        assert!(open_to_remove(&path).is_err(), "somebody has it open");
        drop(judged.file);
        remove(open_to_remove(&path).unwrap().file).unwrap();
        assert!(!path.exists());
        std::fs::remove_dir(&folder).unwrap();
    }

    #[test]
    fn what_is_no_plain_file_of_this_machine_is_refused_by_name() {
        let folder = folder("refused");
        for (path, told) in [
            (Path::new(r"\\server\share\a.conf"), Refusal::NotLocal),
            (Path::new(r"\\.\NUL"), Refusal::NotLocal),
            (&folder.join("a.conf:stream"), Refusal::NotLocal),
        ] {
            let error = open(path).err().unwrap();
            assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{error}");
            assert_eq!(error.to_string(), told.to_string());
        }
        assert!(open(&folder).is_err(), "a folder");
        assert_eq!(open(&folder.join("none")).err().unwrap().kind(), io::ErrorKind::NotFound);
        std::fs::remove_dir(&folder).unwrap();
    }
}
