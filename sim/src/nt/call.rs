//! What a call into the driver is, and how it can end. `Thread::call` and `Machine::call` make it.

/// The machine has stopped: nothing in it runs any more. Its report is `Machine::stop_report`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dead;

impl std::fmt::Display for Dead {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the simulated machine has stopped")
    }
}

impl std::error::Error for Dead {}

/// The IRQL of a call into the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// `PASSIVE_LEVEL`; the calling thread must be there.
    Passive,
    /// `DISPATCH_LEVEL`: raised for the call, and the CPU taken.
    Dispatch,
    /// Whatever the calling thread is at.
    Current,
}

/// A call into the driver.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    pub(crate) name: &'static str,
    pub(crate) function: usize,
    pub(crate) level: Level,
    pub(crate) stack: Option<usize>,
}

impl Call {
    /// A call of the callback `name` at `function`.
    pub fn new(name: &'static str, function: usize, level: Level) -> Self {
        Self { name, function, level, stack: None }
    }

    /// The callback may use at most `bytes` of stack (checked in verified mode): what is left to it deep in a real chain.
    pub fn stack(self, bytes: usize) -> Self {
        Self { stack: Some(bytes), ..self }
    }
}

/// How a call into the driver ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Returned(u64),
    /// The driver ended this thread (`PsTerminateSystemThread`).
    ThreadEnded,
    Stopped,
}
