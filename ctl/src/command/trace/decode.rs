//! `trace decode`: the driver's events of a log file.

use std::fs::File;
use std::io::BufReader;
use std::path::PathBuf;

use abi::trace::PROVIDER_BYTES;
use clap::Args;
use ctl::etl::{self, shown};
use ctl::words::said;

use super::{Failure, Outcome};
use crate::command::{note, print};

/// Arguments of `trace decode`.
#[derive(Args)]
pub(crate) struct Decode {
    /// The file (.etl).
    file: PathBuf,
    /// Each as a line of JSON.
    #[arg(long)]
    json: bool,
}

impl Decode {
    /// Prints events, and says what is missing.
    pub(crate) fn run(self) -> Outcome {
        let name = self.file.display();
        let file = File::open(&self.file).map_err(|error| Failure::new(&name, said(&error)))?;
        let log = etl::read(BufReader::new(file), &PROVIDER_BYTES)
            .map_err(|failure| Failure::new(&name, failure))?;
        let line = if self.json { shown::json } else { shown::line };
        let mut text = String::new();
        for event in &log.events {
            text += &line(event);
            text.push('\n');
        }
        print(&text)?;
        if log.events.is_empty() {
            note(format_args!("the file has no event of Penstock, and {} of others", log.others));
        }
        if let Some(missing) = shown::missing(&log) {
            note(format_args!("{missing}"));
        }
        Ok(())
    }
}
