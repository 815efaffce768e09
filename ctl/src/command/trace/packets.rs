//! `trace packets`: a capture of the driver's, written as it comes.

use std::fs::OpenOptions;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use abi::capture::{BUFFER_MAX, BUFFER_MIN, Counts, INNER, OUTER, RATE_MAX, SNAP_MAX, Start};
use clap::{Args, value_parser};
use ctl::driver::{self, Driver, Status};
use ctl::packets::capture::Capture;
use ctl::packets::pcapng::File;
use ctl::words::said;

use super::{Failure, Outcome};
use crate::command::note;
use crate::command::reach::{driver, names, no_access};

/// How often it is asked what was seen.
const READ_EVERY: Duration = Duration::from_millis(20);

/// Arguments of `trace packets`.
#[derive(Args)]
pub(crate) struct Packets {
    /// The interface; may be left out if there is one alone.
    name: Option<String>,
    /// The file; the standard output if there is none.
    #[arg(short, long)]
    output: Option<PathBuf>,
    /// The packets inside, too: if policy allows it (TraceInner).
    #[arg(long)]
    inner: bool,
    /// End after so many packets.
    #[arg(long, value_name = "N", value_parser = value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// End after so many seconds.
    #[arg(long, value_name = "SECONDS")]
    duration: Option<u64>,
    /// Bytes of each packet.
    #[arg(long, value_name = "BYTES", default_value_t = SNAP_MAX, value_parser = value_parser!(u32).range(1..=i64::from(SNAP_MAX)))]
    snaplen: u32,
    /// What the driver keeps until it is asked, in KiB: it has twice as much memory while this runs. What has no room is missed.
    #[arg(long, value_name = "KIB", default_value_t = 1024, value_parser = value_parser!(u32).range(i64::from(BUFFER_MIN >> 10)..=i64::from(BUFFER_MAX >> 10)))]
    buffer: u32,
    /// The most packets in a second. What is more is missed.
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = value_parser!(u32).range(1..=i64::from(RATE_MAX)))]
    rate: u32,
}

impl Packets {
    /// Writes packets until there are enough, or it is stopped.
    pub(crate) fn run(self) -> Outcome {
        if self.output.is_none() && io::stdout().is_terminal() {
            let what = "this is no text for a terminal: name a file (-o FILE), or read it: penstock trace packets | tshark -r -";
            return Err(Failure::Told(what.to_owned()));
        }
        let name = self.interface()?;
        let what = if self.inner { OUTER | INNER } else { OUTER };
        let (snap, buffer, per_second) = (self.snaplen, self.buffer << 10, self.rate);
        let device = driver().open(&name).map_err(no_access)?;
        let started = Capture::start(device, &Start { what, snap, buffer, per_second });
        let capture = started.map_err(|failure| not_started(&name, failure))?;
        let (mut written, mut counts) = (0, Counts::default());
        let ended = self.write(&name, capture, &mut written, &mut counts);
        let missed = counts.outer.missed.saturating_add(counts.inner.missed);
        note(format_args!("{written} packets written, {missed} missed"));
        ended
    }

    /// The interface that is meant.
    fn interface(&self) -> Result<String, Failure> {
        if let Some(name) = &self.name {
            return Ok(name.clone());
        }
        match &*names(&driver())? {
            [name] => Ok(name.clone()),
            [] => Err(Failure::Told("there is no interface".to_owned())),
            several => Err(Failure::new("say which interface is meant", several.join(", "))),
        }
    }

    fn write(
        &self,
        name: &str,
        mut capture: Capture,
        written: &mut u64,
        counts: &mut Counts,
    ) -> Outcome {
        let begin = Instant::now();
        let lasts = self.duration.map(Duration::from_secs);
        let mut file = File::begin(self.open()?, name, self.snaplen).map_err(unwritten)?;
        loop {
            // What was seen until then is in the answer.
            let is_over = lasts.is_some_and(|lasts| begin.elapsed() >= lasts);
            let answer = match capture.read() {
                Ok(answer) => answer,
                Err(failure) => {
                    // What there is stays readable.
                    file.end(counts).map_err(unwritten)?;
                    return Err(no_access(failure));
                }
            };
            *counts = answer.counts;
            let left = self.count.map_or(u64::MAX, |count| count.saturating_sub(*written));
            for record in answer.records().take(usize::try_from(left).unwrap_or(usize::MAX)) {
                file.packet(&record).map_err(unwritten)?;
                *written = written.saturating_add(1);
            }
            if is_over || self.count.is_some_and(|count| *written >= count) {
                return file.end(counts).map_err(unwritten);
            }
            file.flush(counts).map_err(unwritten)?;
            std::thread::sleep(READ_EVERY);
        }
    }

    /// Where it is written; a file is its owner's alone.
    fn open(&self) -> Result<Box<dyn Write>, Failure> {
        let Some(path) = &self.output else { return Ok(Box::new(BufWriter::new(io::stdout()))) };
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let opened = options.open(path);
        let file = opened.map_err(|error| Failure::new(path.display(), said(&error)))?;
        Ok(Box::new(BufWriter::new(file)))
    }
}

/// Why there is no capture, and what to do.
fn not_started(name: &str, failure: driver::Failure) -> Failure {
    let what = format!("Unable to trace `{name}'");
    match failure {
        driver::Failure::Refused(Status::NOT_BY_POLICY) => Failure::new(
            what,
            "packets inside are traced only if policy allows it: have an administrator set TraceInner to 1 (see \
             `penstock policy show TraceInner'), or leave --inner out",
        ),
        driver::Failure::Refused(Status::BUSY) => {
            Failure::new(what, "somebody traces it already, and there is one at a time")
        }
        failure => Failure::new(what, failure),
    }
}

/// What is told when the file cannot be written.
fn unwritten(error: io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::BrokenPipe => Failure::Unread,
        _ => Failure::new("Unable to write packets", said(&error)),
    }
}
