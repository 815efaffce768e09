//! Commands of a tunnel's file, run by the system's own interpreter.
//!
//! Its full path is the system's, whatever PATH says; it has no window, and of the environment nothing but where Windows is, without
//! which Winsock and PowerShell do not start, and the tunnel's name.

use std::io;
use std::os::windows::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use windows_sys::Win32::System::SystemInformation::{
    GetSystemDirectoryW, GetSystemWindowsDirectoryW,
};
use windows_sys::Win32::System::Threading::CREATE_NO_WINDOW;

use super::wide::text;

/// The tunnel's name, as WireGuard for Windows gives it to commands.
const NAME: &str = "WIREGUARD_TUNNEL_NAME";
/// MAX_PATH.
const PATH_MAX: usize = 260;

/// Runs a command to its end.
///
/// # Errors
///
/// It could not be run, or ended with a failure.
pub(super) fn run(command: &str, tunnel: &str) -> io::Result<()> {
    // SAFETY: a buffer of this length.
    let system = folder(|units, len| unsafe { GetSystemDirectoryW(units, len) })?;
    // SAFETY: as above.
    let windows = folder(|units, len| unsafe { GetSystemWindowsDirectoryW(units, len) })?;
    let mut interpreter = Command::new(system.join("cmd.exe"));
    // /d: nothing of the registry runs first. /s: what stands between the first and the last quote is the command.
    interpreter.raw_arg(format!("/d /s /c \"{command}\""));
    interpreter.env_clear().env("SystemRoot", &windows).env(NAME, tunnel);
    interpreter.current_dir(&system).stdin(Stdio::null()).creation_flags(CREATE_NO_WINDOW);
    let ended = interpreter.status()?;
    if ended.success() { Ok(()) } else { Err(io::Error::other(ended.to_string())) }
}

/// A folder that a function writes into a buffer, whose length it gives back.
fn folder(write: impl FnOnce(*mut u16, u32) -> u32) -> io::Result<PathBuf> {
    let mut units = [0; PATH_MAX];
    match write(units.as_mut_ptr(), PATH_MAX as u32) as usize {
        0 => Err(io::Error::last_os_error()),
        PATH_MAX.. => Err(io::ErrorKind::InvalidFilename.into()),
        _ => Ok(PathBuf::from(text(&units))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_has_the_tunnels_name_and_nothing_of_ours() {
        run("if not %WIREGUARD_TUNNEL_NAME%==office exit 7", "office").unwrap();
        run("if not defined SystemRoot exit 7", "office").unwrap();
        // SAFETY: Windows' own environment, which may be changed by any thread.
        unsafe { std::env::set_var("PENSTOCK_MARK", "1") };
        run("if defined PENSTOCK_MARK exit 7", "office").unwrap();
        assert_eq!(run("exit 3", "office").unwrap_err().to_string(), "exit code: 3");
        assert!(run("no-such-program", "office").is_err());
    }
}
