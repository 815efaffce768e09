//! `strip`: a tunnel's file, checked, and without what is not `wg`'s.

use std::io;
use std::path::{Path, PathBuf};

use clap::Args;
use ctl::config::read::{Purpose, Reading, read};
use ctl::config::{file, print};
use ctl::words::said;
use zeroize::Zeroizing;

use super::{Failure, Outcome, note};

/// Problems of a file that are told.
const TOLD: usize = 20;

/// Arguments of `strip`.
#[derive(Args)]
pub(crate) struct Strip {
    /// The file; `-` is the standard input.
    file: PathBuf,
}

impl Strip {
    /// Prints what is left.
    pub(crate) fn run(self) -> Outcome {
        // Nothing is run, so commands may stand there.
        let reading = read_file(&self.file, Purpose::Tunnel { scripts: true })?;
        super::print(&print::strip(&reading.config))
    }
}

/// Reads a file; what is strange in it is printed.
pub(crate) fn read_file(path: &Path, purpose: Purpose) -> Result<Reading, Failure> {
    let is_input = path.as_os_str() == "-";
    let name = if is_input { "standard input".into() } else { path.display().to_string() };
    let bytes = if is_input { file::read_all(io::stdin().lock(), 0) } else { file::read(path) };
    let bytes = bytes.map_err(|error| Failure::new(&name, said(&error)))?;
    let bytes = if is_sealed(path) { unsealed(path, &bytes)? } else { bytes };
    let reading = parsed(&name, &bytes, purpose)?;
    reading.warnings.iter().for_each(|warning| note(warning.warning_of(&name)));
    Ok(reading)
}

/// Parses what the file `name` says.
pub(crate) fn parsed(name: &str, bytes: &[u8], purpose: Purpose) -> Result<Reading, Failure> {
    read(bytes, purpose).map_err(|problems| {
        let told = problems.iter().take(TOLD).map(|problem| problem.of(name).to_string());
        let mut lines: Vec<_> = told.collect();
        if problems.len() > TOLD {
            lines.push(format!("{name}: and {} more", problems.len() - TOLD));
        }
        Failure::Told(lines.join("\n"))
    })
}

/// Whether a file is encrypted, as the tunnel's service keeps it.
pub(crate) fn is_sealed(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("dpapi"))
}

/// What was encrypted as the tunnel that the file is named for.
#[cfg(windows)]
pub(crate) fn unsealed(path: &Path, bytes: &[u8]) -> Result<Zeroizing<Vec<u8>>, Failure> {
    ctl::windows::dpapi::unprotect(bytes, tunnel_of(path)).map_err(|error| {
        let why = match error.kind() {
            io::ErrorKind::InvalidData => {
                "this was encrypted for a tunnel of another name".to_owned()
            }
            _ => format!(
                "only the account that encrypted this reads it, on the same machine ({})",
                said(&error)
            ),
        };
        Failure::new(path.display(), why)
    })
}

#[cfg(not(windows))]
fn unsealed(path: &Path, _: &[u8]) -> Result<Zeroizing<Vec<u8>>, Failure> {
    Err(Failure::new(
        path.display(),
        "this is encrypted, and only the Windows that did so reads it",
    ))
}

/// The tunnel that a file is named for: `NAME.conf`, or `NAME.conf.dpapi`.
pub(crate) fn tunnel_of(path: &Path) -> &str {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let name = name.strip_suffix(".dpapi").unwrap_or(name);
    name.strip_suffix(".conf").unwrap_or(name)
}
