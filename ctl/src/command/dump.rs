//! `dump`: what a report of a fault needs, as one text, and no secret.

use std::env::consts;
use std::fs;
use std::path::PathBuf;

use clap::Args;
use ctl::words::said;

use super::{Failure, Outcome, doctor, policy, print, show};

/// Arguments of `dump`.
///
/// Addresses, names of hosts and public keys are in it; private and preshared keys are not.
#[derive(Args)]
pub(crate) struct Dump {
    /// The file; the standard output if there is none.
    #[arg(short, long)]
    output: Option<PathBuf>,
}

impl Dump {
    /// Writes it. What cannot be read is said in its place.
    pub(crate) fn run(self) -> Outcome {
        let text = text();
        let Some(file) = self.output else { return print(&text) };
        fs::write(&file, text).map_err(|error| Failure::new(file.display(), said(&error)))
    }
}

fn text() -> String {
    let (version, system) = (env!("CARGO_PKG_VERSION"), consts::OS);
    let mut text = format!("penstock {version}, {system} {}\n", consts::ARCH);
    let mut part = |name: &str, said: Result<String, Failure>| {
        let said = match said {
            Ok(said) => said,
            Err(Failure::Told(why)) => format!("cannot be read: {why}\n"),
            Err(Failure::Unread) => String::new(),
        };
        text += &format!("\n# {name}\n\n{said}");
    };
    part("doctor", Ok(doctor::text(&doctor::found())));
    #[cfg(windows)]
    part("driver", super::driver::installed());
    part("interfaces", show::without_secrets());
    part("policy", policy::shown(None));
    text
}
