//! What keeps a tunnel from working: what was looked at, what is wrong with it, and what to do.
//!
//! Looking is elsewhere: here facts become findings, the same for every system, so that each can be shown by a test.

use std::fmt;

pub mod firewall;
pub mod interface;
pub mod machine;

/// Something that was looked at.
#[derive(Debug, PartialEq, Eq)]
pub struct Finding {
    /// What it is about: `driver`, or an interface and a part of it.
    pub about: String,
    /// What was found.
    pub said: String,
    /// What to do, if it is not as it should be.
    pub advice: Option<String>,
}

impl Finding {
    /// As it should be.
    pub fn good(about: impl Into<String>, said: impl Into<String>) -> Self {
        Self { about: about.into(), said: said.into(), advice: None }
    }

    /// Not as it should be.
    pub fn bad(
        about: impl Into<String>,
        said: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self { about: about.into(), said: said.into(), advice: Some(advice.into()) }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = if self.advice.is_none() { "ok " } else { "BAD" };
        writeln!(f, "{mark} {}: {}", self.about, self.said)?;
        self.advice.iter().try_for_each(|advice| writeln!(f, "    {advice}"))
    }
}
