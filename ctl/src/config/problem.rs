//! What is wrong with a file, or strange in it: where, and what; never a value that could be a secret.

use std::fmt;

/// A place in a file; lines and characters are counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The line.
    pub line: usize,
    /// The character of it.
    pub column: usize,
}

/// Something wrong, or strange, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where.
    pub place: Place,
    /// What, for a person.
    pub what: String,
}

impl Problem {
    /// The problem as it is printed, with the file's name.
    #[must_use]
    pub fn of<'p>(&'p self, file: &'p str) -> impl fmt::Display + use<'p> {
        fmt::from_fn(move |f| {
            write!(f, "{file}:{}:{}: {}", self.place.line, self.place.column, self.what)
        })
    }

    /// The same for what is only strange.
    #[must_use]
    pub fn warning_of<'p>(&'p self, file: &'p str) -> impl fmt::Display + use<'p> {
        fmt::from_fn(move |f| {
            write!(f, "{file}:{}:{}: warning: {}", self.place.line, self.place.column, self.what)
        })
    }
}
