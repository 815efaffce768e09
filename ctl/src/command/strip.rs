//! `strip`: a tunnel's file, checked, and without what is not `wg`'s.

use std::io;
use std::path::{Path, PathBuf};

use clap::Args;
use ctl::config::read::{Purpose, Reading, read};
use ctl::config::{file, print};
use ctl::words::said;

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
    match read(&bytes, purpose) {
        Ok(reading) => {
            reading.warnings.iter().for_each(|warning| note(warning.warning_of(&name)));
            Ok(reading)
        }
        Err(problems) => {
            let told = problems.iter().take(TOLD).map(|problem| problem.of(&name).to_string());
            let mut lines: Vec<_> = told.collect();
            if problems.len() > TOLD {
                lines.push(format!("{name}: and {} more", problems.len() - TOLD));
            }
            Err(Failure::Told(lines.join("\n")))
        }
    }
}
