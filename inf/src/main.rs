//! `penstock-package`: makes the files of the driver package that are no code, and judges them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{SystemTime, UNIX_EPOCH},
};

use clap::{Parser, Subcommand};
use inf::{rules, stamp};

/// Makes the files of Penstock's driver package that are no code, and judges them.
#[derive(Parser)]
#[command(name = "penstock-package", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Write penstock.inf of this version, dated by SOURCE_DATE_EPOCH.
    Inf {
        /// The file to write.
        out: PathBuf,
        /// Seconds since 1970: the day of the package.
        #[arg(long, env = "SOURCE_DATE_EPOCH")]
        date: u64,
    },
    /// Say what is wrong with an INF file.
    Check {
        /// The file.
        file: PathBuf,
    },
}

fn main() -> ExitCode {
    match Arguments::parse().command.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("penstock-package: {error}");
            ExitCode::FAILURE
        }
    }
}

impl Command {
    fn run(self) -> Result<(), String> {
        match self {
            Self::Inf { out, date } => {
                let text = stamp::stamped(env!("CARGO_PKG_VERSION"), stamp::Date::of(date));
                judge(&out, text.as_bytes())?;
                fs::write(&out, text).map_err(|error| told(&out, &error))
            }
            Self::Check { file } => {
                let bytes = fs::read(&file).map_err(|error| told(&file, &error))?;
                judge(&file, &bytes)
            }
        }
    }
}

fn judge(file: &Path, bytes: &[u8]) -> Result<(), String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_err(|error| error.to_string())?;
    let problems = rules::check(bytes, stamp::Date::of(now.as_secs()));
    if problems.is_empty() {
        return Ok(());
    }
    let lines: String = problems.iter().map(|problem| format!("\n  {problem}")).collect();
    Err(format!("{} is not right:{lines}", file.display()))
}

fn told(file: &Path, error: &std::io::Error) -> String {
    format!("{}: {error}", file.display())
}
