//! Colours, if they are wanted, and the words for times and sizes.

use std::fmt::{self, Display};

/// Whether text is coloured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    /// It is.
    pub colours: bool,
}

const RESET: &str = "\x1b[0m";
const BOLD: &str = "\x1b[1m";
const GREEN: &str = "\x1b[32m";
const YELLOW: &str = "\x1b[33m";
const CYAN: &str = "\x1b[36m";
const RED: &str = "\x1b[31m";

impl Style {
    /// What undoes whatever was before.
    #[must_use]
    pub fn reset(self) -> &'static str {
        if self.colours { RESET } else { "" }
    }

    /// The name of a value.
    pub fn label(self, text: &str) -> impl Display {
        self.with(BOLD, text)
    }

    /// `interface: NAME`.
    pub fn interface(self, name: impl Display) -> impl Display {
        self.heading(GREEN, "interface", name)
    }

    /// `peer: KEY`.
    pub fn peer(self, key: impl Display) -> impl Display {
        self.heading(YELLOW, "peer", key)
    }

    /// A unit.
    pub fn unit(self, text: impl Display) -> impl Display {
        self.with(CYAN, text)
    }

    /// A warning.
    pub fn warning(self, text: impl Display) -> impl Display {
        self.with(RED, text)
    }

    fn heading(self, colour: &str, what: &str, name: impl Display) -> impl Display {
        fmt::from_fn(move |f| {
            if self.colours {
                write!(f, "{colour}{BOLD}{what}{RESET}: {colour}{name}{RESET}")
            } else {
                write!(f, "{what}: {name}")
            }
        })
    }

    fn with(self, colour: &str, text: impl Display) -> impl Display {
        fmt::from_fn(move |f| {
            if self.colours { write!(f, "{colour}{text}{RESET}") } else { write!(f, "{text}") }
        })
    }

    /// A number of bytes, with two decimals from KiB on.
    pub fn bytes(self, bytes: u64) -> impl Display {
        const UNITS: [(u64, &str); 4] = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
        fmt::from_fn(move |f| {
            match UNITS.into_iter().find(|(bits, _)| bytes >> bits != 0) {
                // Digits behind the second are of no interest.
                Some((bits, unit)) => {
                    write!(f, "{:.2} {}", bytes as f64 / (1_u64 << bits) as f64, self.unit(unit))
                }
                None => write!(f, "{bytes} {}", self.unit("B")),
            }
        })
    }

    /// A time, in every unit that it has some of.
    pub fn seconds(self, seconds: u64) -> impl Display {
        const UNITS: [(u64, &str); 5] = [
            (365 * 86_400, "year"),
            (86_400, "day"),
            (3_600, "hour"),
            (60, "minute"),
            (1, "second"),
        ];
        fmt::from_fn(move |f| {
            let (mut left, mut before) = (seconds, "");
            for (length, unit) in UNITS {
                let count = left / length;
                left %= length;
                if count > 0 {
                    let plural = if count == 1 { "" } else { "s" };
                    write!(f, "{before}{count} {}", self.unit(format_args!("{unit}{plural}")))?;
                    before = ", ";
                }
            }
            Ok(())
        })
    }

    /// How long before `now_s` something was.
    pub fn ago(self, then_s: u64, now_s: u64) -> impl Display {
        fmt::from_fn(move |f| match now_s.checked_sub(then_s) {
            None => {
                let warning = "System clock wound backward; connection problems may ensue.";
                write!(f, "({})", self.warning(warning))
            }
            Some(0) => f.write_str("Now"),
            Some(seconds) => write!(f, "{} ago", self.seconds(seconds)),
        })
    }
}
