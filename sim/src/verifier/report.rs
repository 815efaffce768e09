//! What the user reads when something is wrong: a stop as WinDbg would show it, and what a driver left behind.

use std::fmt;

use super::rules::Rule;

/// One line of a driver's call stack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame(pub String);

/// Why a machine stopped.
#[derive(Clone, Debug)]
pub struct Stop {
    /// The machine.
    pub machine: String,
    /// The bugcheck code: the rule's, or the one that the driver asked for.
    pub code: u32,
    /// The rule that was broken.
    pub rule: &'static Rule,
    /// The bugcheck's parameters.
    pub parameters: [u64; 4],
    /// What happened, in words.
    pub detail: String,
    /// The thread it happened in.
    pub thread: String,
    /// The CPU.
    pub cpu: u32,
    /// The IRQL.
    pub irql: u8,
    /// The import that noticed.
    pub import: Option<String>,
    /// The driver's stack, innermost first.
    pub stack: Vec<Frame>,
    /// The instructions around the one that the stack begins at.
    pub around: Vec<String>,
    /// What the driver noted last, oldest first.
    pub recorder: Vec<String>,
    /// How to have it again: the seed, and the preemptions of a world that explores schedules.
    pub schedule: Vec<String>,
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d] = self.parameters;
        writeln!(f, "*** STOP {:#x} {} ({a:#x}, {b:#x}, {c:#x}, {d:#x})", self.code, self.rule)?;
        writeln!(f, "    {}", self.detail)?;
        writeln!(f, "    rule: {} {}", self.rule.forbids, self.rule.origin())?;
        write!(
            f,
            "    machine {}, thread {}, CPU {}, IRQL {}",
            self.machine, self.thread, self.cpu, self.irql
        )?;
        match &self.import {
            Some(import) => writeln!(f, ", in nt!{import}")?,
            None => writeln!(f)?,
        }
        for (number, frame) in self.stack.iter().enumerate() {
            writeln!(f, "  {number:02} {}", frame.0)?;
        }
        for line in &self.around {
            writeln!(f, "    {line}")?;
        }
        if !self.recorder.is_empty() {
            writeln!(f, "    flight recorder:")?;
        }
        for line in self.recorder.iter().chain(&self.schedule) {
            writeln!(f, "    {line}")?;
        }
        Ok(())
    }
}

/// Something a driver left behind at unload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leak {
    /// What kind of thing.
    pub kind: &'static str,
    /// Which one, and where it came from.
    pub detail: String,
}

impl Leak {
    /// Makes one.
    pub fn new(kind: &'static str, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into() }
    }
}

impl fmt::Display for Leak {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "leaked {}: {}", self.kind, self.detail)
    }
}
