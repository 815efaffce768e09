//! Commands of a tunnel's file, run by the system's own interpreter.
//!
//! Its full path is the system's, whatever PATH says; it has no window, and of the environment nothing but where Windows is, without
//! which Winsock and PowerShell do not start, and the tunnel's name.

use std::io;
use std::os::windows::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use windows_sys::Win32::System::SystemInformation::{
    GetSystemDirectoryW, GetSystemWindowsDirectoryW,
};
use windows_sys::Win32::System::Threading::CREATE_NO_WINDOW;

use super::job::Job;
use super::wide::text;
use crate::tunnel::system::too_long;

/// The tunnel's name, as WireGuard for Windows gives it to commands.
const NAME: &str = "WIREGUARD_TUNNEL_NAME";
/// MAX_PATH.
const PATH_MAX: usize = 260;

/// Runs a command to its end, which may take so long.
///
/// # Errors
///
/// It could not be run, took too long, or ended with a failure.
pub(super) fn run(command: &str, tunnel: &str, limit: Duration) -> io::Result<()> {
    // SAFETY: a buffer of this length.
    let system = folder(|units, len| unsafe { GetSystemDirectoryW(units, len) })?;
    // SAFETY: as above.
    let windows = folder(|units, len| unsafe { GetSystemWindowsDirectoryW(units, len) })?;
    let mut interpreter = Command::new(system.join("cmd.exe"));
    // /d: nothing of the registry runs first. /s: what stands between the first and the last quote is the command.
    interpreter.raw_arg(format!("/d /s /c \"{command}\""));
    interpreter.env_clear().env("SystemRoot", &windows).env(NAME, tunnel);
    interpreter.current_dir(&system).stdin(Stdio::null());
    match Job::start(&mut interpreter, CREATE_NO_WINDOW)?.wait(limit)? {
        None => Err(too_long(limit)),
        Some(ended) if ended.success() => Ok(()),
        Some(ended) => Err(io::Error::other(ended.to_string())),
    }
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
    use std::fs::OpenOptions;
    use std::os::windows::fs::OpenOptionsExt;
    use std::time::Instant;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    fn run(command: &str) -> io::Result<()> {
        super::run(command, "office", PATIENCE)
    }

    #[test]
    fn a_command_has_the_tunnels_name_and_nothing_of_ours() {
        run("if not %WIREGUARD_TUNNEL_NAME%==office exit 7").unwrap();
        run("if not defined SystemRoot exit 7").unwrap();
        // SAFETY: Windows' own environment, which may be changed by any thread.
        unsafe { std::env::set_var("PENSTOCK_MARK", "1") };
        run("if defined PENSTOCK_MARK exit 7").unwrap();
        assert_eq!(run("exit 3").unwrap_err().to_string(), "exit code: 3");
        assert!(run("no-such-program").is_err());
    }

    /// What a command starts: it holds the file that the tunnel is named for, so that nobody can remove it meanwhile.
    #[test]
    #[ignore = "a program, which the next test runs"]
    fn hold() {
        let name = std::env::var(NAME).unwrap();
        let mut options = OpenOptions::new();
        let _held = options.write(true).create(true).share_mode(0).open(name).unwrap();
        std::thread::sleep(Duration::from_secs(1000));
    }

    #[test]
    fn a_command_that_takes_too_long_is_ended_with_what_it_started() {
        let held = std::env::temp_dir().join(format!("penstock-held-{}", std::process::id()));
        let program = std::env::current_exe().unwrap();
        let command = format!("\"{}\" --ignored interpreter::tests::hold", program.display());
        let why = super::run(&command, held.to_str().unwrap(), Duration::from_secs(5)).unwrap_err();
        assert_eq!(why.kind(), io::ErrorKind::TimedOut, "{why}");
        let deadline = Instant::now() + PATIENCE;
        loop {
            match std::fs::remove_file(&held) {
                Ok(()) => break,
                Err(why) => assert_ne!(why.kind(), io::ErrorKind::NotFound, "it was not started"),
            }
            assert!(Instant::now() < deadline, "what it started goes on");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}
