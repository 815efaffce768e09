//! `trace start` and `trace stop`: a session of event tracing that wants the driver's events.

use std::path::{self, PathBuf};

use abi::events::Keyword;
use clap::{Args, ValueEnum, builder::PossibleValue, value_parser};
use ctl::etl::session::{self, Session};

use super::{Failure, Outcome};
use crate::command::note;

/// The session, unless another name is given.
const NAME: &str = "Penstock";

/// Arguments of `trace start`.
#[derive(Args)]
pub(crate) struct Start {
    /// The session's name.
    #[arg(long, value_name = "NAME", default_value = NAME)]
    name: String,
    /// The file (.etl), which `penstock trace decode`, Windows Performance Analyzer and others read.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// How much is recorded: info is what happens to adapters and handshakes, verbose also each discard.
    #[arg(long, default_value = "info")]
    level: Level,
    /// Only what is about these; all if there are none.
    #[arg(long, value_name = "WORD", value_delimiter = ',')]
    keywords: Vec<About>,
    /// MiB the file may have; from then on the newest events take the place of the oldest.
    #[arg(long, value_name = "MIB", default_value_t = 64, value_parser = value_parser!(u32).range(1..=4096))]
    max_size: u32,
    /// An interface of the simulated machine that is meant; may be left out if there is one alone.
    #[cfg(not(windows))]
    #[arg(long)]
    interface: Option<String>,
}

/// Arguments of `trace stop`.
#[derive(Args)]
pub(crate) struct Stop {
    /// The session's name.
    #[arg(long, value_name = "NAME", default_value = NAME)]
    name: String,
    /// An interface of the simulated machine that is meant; may be left out if there is one alone.
    #[cfg(not(windows))]
    #[arg(long)]
    interface: Option<String>,
}

/// `WINEVENT_LEVEL_INFO` and `WINEVENT_LEVEL_VERBOSE`.
#[derive(Clone, Copy, ValueEnum)]
enum Level {
    Info = 4,
    Verbose = 5,
}

/// A keyword.
#[derive(Clone, Copy)]
struct About(Keyword);

impl ValueEnum for About {
    fn value_variants<'a>() -> &'a [Self] {
        const ALL: &[About] = &[
            About(Keyword::Driver),
            About(Keyword::Adapter),
            About(Keyword::Handshake),
            About(Keyword::Discard),
            About(Keyword::Time),
        ];
        ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(match self.0 {
            Keyword::Driver => "driver",
            Keyword::Adapter => "adapters",
            Keyword::Handshake => "handshakes",
            Keyword::Discard => "discards",
            Keyword::Time => "times",
            Keyword::Everything => return None,
        }))
    }
}

impl Start {
    /// Starts the session.
    pub(crate) fn run(self) -> Outcome {
        let file = path::absolute(&self.output)
            .map_err(|error| Failure::new(self.output.display(), error))?;
        let chosen = self.keywords.iter().fold(0, |sum, about| sum | about.0 as u64);
        let session = Session {
            name: self.name,
            file,
            level: self.level as u8,
            keywords: if chosen == 0 { Keyword::ALL.into() } else { chosen },
            max_mib: self.max_size,
        };
        #[cfg(windows)]
        let started = session::start(&session);
        #[cfg(not(windows))]
        let started = session::start(&session, self.interface.as_deref());
        started.map_err(|why| Failure::new(format!("Unable to start `{}'", session.name), why))
    }
}

impl Stop {
    /// Stops the session, and says where its file is.
    pub(crate) fn run(self) -> Outcome {
        #[cfg(windows)]
        let stopped = session::stop(&self.name);
        #[cfg(not(windows))]
        let stopped = session::stop(&self.name, self.interface.as_deref());
        let ended =
            stopped.map_err(|why| Failure::new(format!("Unable to stop `{}'", self.name), why))?;
        let lost = match ended.lost {
            0 => String::new(),
            lost => format!("; events that were lost: {lost}"),
        };
        note(format_args!("{} is written{lost}", ended.file));
        Ok(())
    }
}
