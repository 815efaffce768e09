//! `penstock-package`: makes the files of the driver package that are no code, and judges them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{SystemTime, UNIX_EPOCH},
};

use clap::{Parser, Subcommand};
use inf::{catalog, installer, rules, stamp, text::Inf};

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
    /// Write a catalog of files, to be signed, for the devices that their INF names.
    Catalog {
        /// The file to write.
        out: PathBuf,
        /// The INF, which is listed, too.
        inf: PathBuf,
        /// Other files.
        files: Vec<PathBuf>,
        /// Seconds since 1970: when it was made.
        #[arg(long, env = "SOURCE_DATE_EPOCH")]
        date: u64,
    },
    /// Write the tables of penstock.msi, as `msibuild` imports them, for the files that it installs.
    Installer {
        /// The folder to write to, a file a table.
        out: PathBuf,
        /// The files.
        files: Vec<PathBuf>,
        /// Seconds since 1970: when it was made.
        #[arg(long, env = "SOURCE_DATE_EPOCH")]
        date: u64,
        /// Of another version than this one's, for what is tried with upgrades.
        #[arg(long, default_value = env!("CARGO_PKG_VERSION"))]
        version: String,
    },
    /// Say what is wrong with the tables of an MSI.
    CheckInstaller {
        /// The tables, as `msiinfo export` writes them.
        tables: Vec<PathBuf>,
    },
    /// Write a console program as one for which Windows opens no console.
    WithoutConsole {
        /// The program.
        image: PathBuf,
        /// The file to write.
        out: PathBuf,
    },
    /// Print the SHA-256 that a catalog has of a file.
    Digest {
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
            Self::Check { file } => judge(&file, &read(&file)?),
            Self::Catalog { out, inf, files, date } => {
                let made = make_catalog(&inf, &files, date)?;
                fs::write(&out, made).map_err(|error| told(&out, &error))
            }
            Self::Installer { out, files, date, version } => {
                write_installer(&out, &files, date, &version)
            }
            Self::CheckInstaller { tables } => judge_installer(&tables),
            Self::WithoutConsole { image, out } => {
                let made = installer::without_console(read(&image)?)
                    .map_err(|error| format!("{}: {error}", image.display()))?;
                fs::write(&out, made).map_err(|error| told(&out, &error))
            }
            Self::Digest { file } => {
                println!("{}", catalog::digest(&read(&file)?));
                Ok(())
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

fn write_installer(out: &Path, files: &[PathBuf], date: u64, version: &str) -> Result<(), String> {
    let files: Result<Vec<_>, String> = files
        .iter()
        .map(|file| Ok(installer::File { name: name(file)?.into(), bytes: read(file)? }))
        .collect();
    let tables = installer::fill(installer::TEMPLATE, version, date, &files?)?;
    for (name, table) in &tables {
        let file = out.join(format!("{name}.idt"));
        fs::write(&file, table.exported(name)).map_err(|error| told(&file, &error))?;
    }
    Ok(())
}

fn judge_installer(files: &[PathBuf]) -> Result<(), String> {
    let mut tables = installer::Tables::new();
    for file in files {
        let text = String::from_utf8_lossy(&read(file)?).into_owned();
        let read = installer::exported(&text);
        tables.extend([read.map_err(|error| format!("{}: {error}", file.display()))?]);
    }
    let problems = installer::rules::check(&tables);
    let lines: String = problems.iter().map(|problem| format!("\n  {problem}")).collect();
    if problems.is_empty() { Ok(()) } else { Err(format!("the MSI is not right:{lines}")) }
}

fn make_catalog(inf: &Path, files: &[PathBuf], date: u64) -> Result<Vec<u8>, String> {
    let mut all = vec![(inf, read(inf)?)];
    for file in files {
        all.push((file, read(file)?));
    }
    let (text, _) = Inf::read(&all[0].1);
    let members: Result<Vec<_>, String> =
        all.iter().map(|(file, bytes)| Ok(catalog::Member { name: name(file)?, bytes })).collect();
    Ok(catalog::catalog(&members?, &rules::hardware_ids(&text), date))
}

fn name(file: &Path) -> Result<&str, String> {
    let name = file.file_name().and_then(|name| name.to_str());
    name.ok_or_else(|| format!("{}: it has no name", file.display()))
}

fn read(file: &Path) -> Result<Vec<u8>, String> {
    fs::read(file).map_err(|error| told(file, &error))
}

fn told(file: &Path, error: &std::io::Error) -> String {
    format!("{}: {error}", file.display())
}
